// Command demo shows a cluster at work: it starts three nodes on this machine,
// submits the history of a git repository through all of them, kills the leader
// half way, carries on, and verifies the chain on every node. `make demo` runs
// it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

func main() {
	var d demo
	flag.StringVar(&d.binary, "binary", "bin/exonode", "the exonode to run")
	flag.StringVar(&d.repo, "repo", ".", "git repository whose history is submitted")
	flag.StringVar(&d.dir, "dir", "", "directory that keeps the cluster (default: a temporary one)")
	flag.BoolVar(&d.exit, "exit", false, "stop the cluster at the end")
	flag.StringVar(&d.python, "python", "", "verifier in Python that checks an export, a checkpoint and a receipt too (scripts/verify.py)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := d.run(ctx); err != nil {
		if errors.Is(err, context.Canceled) {
			err = errors.New("interrupted")
		}
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// kind is the event kind that the demo registers: one commit.
const kind = "git.commit"

// schema is the JSON Schema of its payload.
const schema = `{
  "type": "object",
  "required": ["commit", "tree", "parents", "author", "authored_at", "message"],
  "properties": {
    "commit": {"type": "string", "pattern": "^[0-9a-f]{40,64}$"},
    "tree": {"type": "string", "pattern": "^[0-9a-f]{40,64}$"},
    "parents": {"type": "array", "items": {"type": "string"}},
    "author": {"type": "string"},
    "authored_at": {"type": "string", "format": "date-time"},
    "message": {"type": "string"}
  }
}`

type demo struct {
	binary, repo, dir string
	python            string
	exit              bool

	lab     *lab.Lab
	commits []commit
	source  string
}

// commit is the payload of one event.
type commit struct {
	Commit     string   `json:"commit"`
	Tree       string   `json:"tree"`
	Parents    []string `json:"parents"`
	Author     string   `json:"author"`
	AuthoredAt string   `json:"authored_at"`
	Message    string   `json:"message"`
}

func step(format string, args ...any) { fmt.Printf("\n▸ "+format+"\n", args...) }
func say(format string, args ...any)  { fmt.Printf("  "+format+"\n", args...) }

func (d *demo) run(ctx context.Context) (err error) {
	binary, err := filepath.Abs(d.binary)
	if err != nil {
		return err
	}
	if d.commits, err = history(ctx, d.repo); err != nil {
		return err
	}
	abs, err := filepath.Abs(d.repo)
	if err != nil {
		return err
	}
	d.source = "git:" + filepath.Base(abs)

	step("Starting three nodes")
	start := time.Now()
	if d.lab, err = lab.New(ctx, lab.Config{Binary: binary, Nodes: 3, Dir: d.dir, BasePort: 7480}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.lab.Close()) }()
	if err := d.start(ctx); err != nil {
		return err
	}
	say("the cluster formed in %v", time.Since(start).Round(10*time.Millisecond))
	for _, n := range d.lab.Nodes() {
		say("%s  API http://%s  log %s", n.Name, n.API, d.lab.LogFile(n.Name))
	}

	if err := d.submitAll(ctx); err != nil {
		return err
	}
	if err := d.check(ctx, binary); err != nil {
		return err
	}
	if d.python != "" {
		if err := d.checkPython(ctx, binary); err != nil {
			return err
		}
	}
	return d.linger(ctx)
}

func (d *demo) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return d.lab.StartAll(ctx)
}

// history reads all commits that HEAD reaches, the oldest first.
func history(ctx context.Context, repo string) ([]commit, error) {
	const format = "%H%x00%T%x00%P%x00%an <%ae>%x00%aI%x00%B%x01"
	cmd := exec.CommandContext(ctx, "git", "-C", repo, "log", "--reverse", "--format="+format, "HEAD")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("read the history of %s: %w", repo, err)
	}
	var commits []commit
	for _, entry := range strings.Split(string(out), "\x01") {
		f := strings.Split(strings.TrimLeft(entry, "\n"), "\x00")
		if len(f) != 6 {
			continue
		}
		commits = append(commits, commit{
			Commit: f[0], Tree: f[1], Parents: strings.Fields(f[2]), Author: f[3], AuthoredAt: f[4],
			Message: strings.TrimSpace(strings.ToValidUTF8(f[5], "\uFFFD")),
		})
	}
	if len(commits) == 0 {
		return nil, fmt.Errorf("the history of %s is empty", repo)
	}
	return commits, nil
}

// event makes a commit an event; its hash is the id, so that submitting it
// again changes nothing.
func (d *demo) event(c *commit) (chain.Event, error) {
	if c.Parents == nil {
		c.Parents = []string{}
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return chain.Event{}, err
	}
	return chain.Event{
		Workspace: "default", Source: d.source, ID: c.Commit, Kind: kind, Subject: c.Commit[:12],
		Payload: payload, ContentType: "application/json",
	}, nil
}

// submitAll submits every commit, each third to one node, and kills the leader
// once half are acknowledged.
func (d *demo) submitAll(ctx context.Context) error {
	admin, err := client.New(client.Config{Addresses: d.lab.Addrs()})
	if err != nil {
		return err
	}
	defer admin.Close()
	seq, err := admin.RegisterKind(ctx, kind, "", schema)
	if err != nil {
		return fmt.Errorf("register %s: %w", kind, err)
	}
	step("Submitting %d commits of %s through all three nodes", len(d.commits), d.repo)
	say("kind %s is registered: entry %d", kind, seq)

	bar := progress(len(d.commits))
	var acked atomic.Int64
	h := &halfTime{at: int64(len(d.commits)+1) / 2, reached: make(chan struct{}), over: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range d.lab.Nodes() {
		wg.Go(func() {
			if err := d.submitShare(ctx, i, h, func() {
				if acked.Add(1) == max(1, h.at/2) {
					close(h.reached)
				}
				_ = bar.Add(1) // a broken terminal does not stop the demo
			}); err != nil {
				cancel(err)
			}
		})
	}
	var victim string
	var before int64
	wg.Go(func() {
		select {
		case <-h.reached:
		case <-ctx.Done():
			return
		}
		var err error
		before = acked.Load()
		if victim, err = d.killLeader(ctx, admin); err != nil {
			cancel(err)
		}
		close(h.over)
	})
	wg.Wait()
	_ = bar.Finish()
	fmt.Println()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	say("%d commits acknowledged in %v, each by a quorum of synced disks", acked.Load(), time.Since(start).Round(time.Millisecond))
	say("the leader %s was killed (SIGKILL) with %d acknowledged and up to %d on their way", victim, before, h.at-before)

	step("Starting %s again", victim)
	restarted := time.Now()
	if err := d.lab.Start(victim); err != nil {
		return err
	}
	wait, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if err := d.lab.WaitReady(wait, victim); err != nil {
		return err
	}
	say("it went on from its own disk and caught up in %v", time.Since(restarted).Round(10*time.Millisecond))
	return nil
}

// halfTime lets the first half of the events pass, and the others once the
// leader is dead. It is killed when a quarter is acknowledged: others are on
// their way then.
type halfTime struct {
	at            int64
	sent          atomic.Int64
	reached, over chan struct{}
}

func (h *halfTime) pass(ctx context.Context) {
	if h.sent.Add(1) <= h.at {
		return
	}
	select {
	case <-h.over:
	case <-ctx.Done():
	}
}

// submitShare submits every third commit, from the i-th on, beginning with node
// i; where that one dies, the client goes on with another.
func (d *demo) submitShare(ctx context.Context, i int, h *halfTime, acked func()) error {
	addrs := d.lab.Addrs()
	c, err := client.New(client.Config{Addresses: append(addrs[i:len(addrs):len(addrs)], addrs[:i]...)})
	if err != nil {
		return err
	}
	defer c.Close()
	events := func(yield func(chain.Event, error) bool) {
		for k := i; k < len(d.commits); k += len(addrs) {
			h.pass(ctx)
			if !yield(d.event(&d.commits[k])) {
				return
			}
		}
	}
	_, err = c.Pump(ctx, events, client.PumpOptions{Window: 64, Acked: func(index uint64, _ client.Ack, err error) error {
		if err != nil {
			return fmt.Errorf("commit %s: %w", d.commits[i+int(index)*len(addrs)].Commit[:12], err)
		}
		acked()
		return nil
	}})
	return err
}

func (d *demo) killLeader(ctx context.Context, c *client.Client) (string, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return "", fmt.Errorf("find the leader: %w", err)
	}
	for _, m := range members {
		if m.Leader {
			return m.Name, d.lab.Kill(m.Name)
		}
	}
	return "", errors.New("no member leads")
}

// check verifies every node's chain, and that each commit is in it once.
func (d *demo) check(ctx context.Context, binary string) error {
	step("Verifying the chain on every node")
	for _, n := range d.lab.Nodes() {
		cmd := exec.CommandContext(ctx, binary, "verify", "--addr", n.API)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("verify %s: %w\n%s", n.Name, err, out)
		}
		say("%s: %s", n.Name, strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n      "))
	}
	c, err := client.New(client.Config{Addresses: d.lab.Addrs()})
	if err != nil {
		return err
	}
	defer c.Close()
	var first client.Head
	for i, n := range d.lab.Nodes() {
		r, err := c.On(n.API)
		if err != nil {
			return err
		}
		head, err := r.Head(ctx)
		if err != nil {
			return fmt.Errorf("head of %s: %w", n.Name, err)
		}
		if i == 0 {
			first = head
		} else if head.Size == first.Size && head.Hash != first.Hash {
			return fmt.Errorf("%s and %s disagree about entry %d", d.lab.Nodes()[0].Name, n.Name, head.Size-1)
		}
	}
	seen := make(map[string]int)
	for entry, err := range c.List(ctx, client.ListQuery{Filter: chain.Filter{Kind: kind, Source: d.source}}) {
		if err != nil {
			return err
		}
		seen[entry.Header.ID]++
	}
	for _, c := range d.commits {
		if n := seen[c.Commit]; n != 1 {
			return fmt.Errorf("commit %s is in the chain %d times", c.Commit, n)
		}
	}
	say("each of the %d commits is in the chain exactly once", len(d.commits))
	return nil
}

// checkPython has a verifier that shares no code with us check what an outsider
// gets: exports in both forms, a checkpoint, a receipt, and the policy for them.
// Then it damages an export, which the verifier must refuse.
func (d *demo) checkPython(ctx context.Context, binary string) (err error) {
	step("Verifying with %s", d.python)
	dir, err := os.MkdirTemp("", "exonode-demo-python-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := func(name string) string { return filepath.Join(dir, name) }
	exonode := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, binary, append(args, "--addr", strings.Join(d.lab.Addrs(), ","))...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("exonode %s: %w", args[0], err)
		}
		return out, nil
	}
	// The exports have all that the checkpoint covers: their node has caught up with
	// the cluster after the checkpoint was made.
	node := d.lab.Nodes()[0].API
	middle := len(d.commits) / 2
	for _, args := range [][]string{
		{"trust", "export", "--file", file("policy.txt")},
		{"receipt", fmt.Sprint(middle), "--envelope", "--file", file("entry.tlog-proof")},
		{"checkpoint"},
		{"export", "--format", "jsonl", "--out", file("chain.jsonl"), "--node", node},
		{"export", "--format", "binary", "--out", file("chain.bin"), "--node", node},
	} {
		out, err := exonode(args...)
		if err != nil {
			return err
		}
		if args[0] == "checkpoint" {
			if err := errors.Join(os.WriteFile(file("checkpoint.txt"), out, 0o600), d.catchUp(ctx, node)); err != nil {
				return err
			}
		}
	}
	start := time.Now()
	verify := func(args ...string) ([]byte, error) {
		return exec.CommandContext(ctx, "python3", append([]string{d.python}, args...)...).CombinedOutput()
	}
	for _, args := range [][]string{
		{file("chain.jsonl")},
		{file("chain.bin"), "--checkpoint", file("checkpoint.txt"), "--receipt", file("entry.tlog-proof"), "--policy", file("policy.txt")},
	} {
		out, err := verify(args...)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", d.python, err, out)
		}
		say("%s: %s", filepath.Base(args[0]), strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n      "))
	}
	took := time.Since(start)

	b, err := os.ReadFile(file("chain.bin"))
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file("chain.bin"), b, 0o600); err != nil {
		return err
	}
	out, err := verify(file("chain.bin"))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.HasPrefix(string(out), "verify.py: entry ") {
		return fmt.Errorf("%s does not name the entry of a damaged export: %v\n%s", d.python, err, out)
	}
	say("one bit of it flipped: %s", strings.TrimSpace(string(out)))
	say("both exports were verified in %v", took.Round(10*time.Millisecond))
	return nil
}

// catchUp returns when a node has all that the cluster had when it was called: a
// linearizable read waits for that.
func (d *demo) catchUp(ctx context.Context, addr string) error {
	c, err := client.New(client.Config{Addresses: d.lab.Addrs()})
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.On(addr)
	if err != nil {
		return err
	}
	_, err = r.Head(ctx)
	return err
}

// linger leaves the cluster running until it is interrupted.
func (d *demo) linger(ctx context.Context) error {
	if d.exit {
		step("Done; stopping the cluster")
		return nil
	}
	addrs := strings.Join(d.lab.Addrs(), ",")
	step("The cluster is running. Try, in another terminal:")
	say("export EXONODE_ADDR=%s", addrs)
	say("%s status", d.binary)
	say("%s list --kind %s --limit 5", d.binary, kind)
	say("%s tail", d.binary)
	say("%s submit --kind artifact.store --source me --data '{\"hash\":\"abc\",\"size\":3,\"content_type\":\"text/plain\"}'", d.binary)
	say("Ctrl-C stops it.")
	select {
	case <-ctx.Done():
	case e := <-d.lab.Ended():
		return fmt.Errorf("%s ended: %w; its log is %s", e.Name, e.Err, e.Log)
	}
	fmt.Println("\nstopping")
	return nil
}

// progress is a bar on a terminal, and silent elsewhere.
func progress(n int) *progressbar.ProgressBar {
	var w io.Writer = io.Discard
	if isatty.IsTerminal(os.Stderr.Fd()) {
		w = os.Stderr
	}
	return progressbar.NewOptions(n, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("  commits"),
		progressbar.OptionShowCount(), progressbar.OptionSetWidth(40))
}
