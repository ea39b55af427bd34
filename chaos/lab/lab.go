// Package lab runs a cluster of real node processes on this machine's loopback:
// it makes the cluster file, gives out ports, starts, kills, pauses and restarts
// the processes, and waits until they serve.
//
// `exonode dev`, the demo, the benchmark, the end-to-end tests and the chaos lab
// run their clusters with it. It knows nodes only as a binary with flags and an
// HTTP address: it must not import what the binary is made of.
package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/exonode/exonode/faults"
)

// Config says what cluster to run.
type Config struct {
	// Binary is the exonode to run; "" is the running program.
	Binary string
	// Nodes is how many; 3 where 0.
	Nodes int
	// Dir keeps the cluster; "" is a temporary directory, which Close
	// removes. A directory that holds a lab goes on with it.
	Dir string
	// Environment is the built-in policy of a new cluster; "" is
	// development.
	Environment string
	// Args are further arguments of every `exonode serve`.
	Args []string
	// NodeArgs, where not nil, gives the further arguments of one node.
	NodeArgs func(Node) []string
	// BasePort, where not 0, is the port of the first node's peer listener;
	// gossip and API follow, and the next node is ten further. Where one of
	// them is taken, and where it is 0, free ports are used.
	BasePort int
	// Chaos starts the nodes so that faults can be injected into them.
	Chaos bool
}

// Node is one node of the lab.
type Node struct {
	// Name is n1, n2, ...
	Name string `json:"name"`
	// Peer, Gossip and API are host:port.
	Peer   string `json:"peer"`
	Gossip string `json:"gossip"`
	API    string `json:"api"`
	// Chaos is where faults are injected; "" where the lab has no chaos.
	Chaos string `json:"chaos,omitempty"`
	// Joins says that it was added to a cluster that ran.
	Joins bool `json:"joins,omitempty"`
}

// Lab is a cluster of processes. Its methods are safe for concurrent use.
type Lab struct {
	cfg  Config
	temp bool

	mu    sync.Mutex // guards nodes and procs
	nodes []Node     // never changed, only replaced
	procs map[string]*process
	// ended has an element for every process that ended by itself.
	ended chan Ended
}

// Ended tells of a process that nobody here stopped.
type Ended struct {
	Name string
	Err  error
	// Log is where the process wrote its log.
	Log string
}

// process is one run of a node's binary.
type process struct {
	cmd *exec.Cmd
	// lifeline is the process's standard input: it ends when we do, however
	// that happens, and the node with it.
	lifeline io.Closer
	log      *os.File
	done     chan struct{} // closed once the process was waited for
	err      error         // of Wait; valid once done is closed
	wanted   bool          // somebody here stopped it
	ended    time.Time     // when it was waited for; valid once done is closed
}

// labFile keeps the nodes of a lab in its directory.
const labFile = "lab.json"

// MaxNodes is how many nodes a lab has at most.
const MaxNodes = 15

// New prepares a lab; nothing runs yet.
func New(ctx context.Context, cfg Config) (_ *Lab, err error) {
	if cfg.Nodes == 0 {
		cfg.Nodes = 3
	}
	if cfg.Nodes < 1 || cfg.Nodes > MaxNodes {
		return nil, fmt.Errorf("a lab has 1 to %d nodes, not %d", MaxNodes, cfg.Nodes)
	}
	if cfg.Environment == "" {
		cfg.Environment = "development"
	}
	if cfg.Binary == "" {
		if cfg.Binary, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find the exonode binary: %w", err)
		}
	}
	l := &Lab{cfg: cfg, procs: make(map[string]*process), ended: make(chan Ended, 64)}
	if cfg.Dir == "" {
		if l.cfg.Dir, err = os.MkdirTemp("", "exonode-"); err != nil {
			return nil, fmt.Errorf("make a directory for the lab: %w", err)
		}
		l.temp = true
	} else if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	if err := l.prepare(ctx); err != nil {
		return nil, errors.Join(err, l.removeTemp())
	}
	return l, nil
}

// prepare reads what the directory holds, or makes a new cluster in it.
func (l *Lab) prepare(ctx context.Context) error {
	path := filepath.Join(l.cfg.Dir, labFile)
	b, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(b, &l.nodes); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the lab: %w", err)
	}
	init := exec.CommandContext(ctx, l.cfg.Binary, "init", "--out", l.ClusterFile(), "--environment", l.cfg.Environment, "--name", "lab")
	if out, err := init.CombinedOutput(); err != nil {
		return fmt.Errorf("exonode init: %w: %s", err, strings.TrimSpace(string(out)))
	}
	if l.nodes, err = assignPorts(1, l.cfg.Nodes, l.cfg.BasePort, l.cfg.Chaos); err != nil {
		return err
	}
	return l.save(l.nodes)
}

// save keeps the nodes for the next time.
func (l *Lab) save(nodes []Node) error {
	b, err := json.MarshalIndent(nodes, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(l.cfg.Dir, labFile), b, 0o600); err != nil {
		return fmt.Errorf("write the lab: %w", err)
	}
	return nil
}

// Add adds a node, which joins the cluster when it is started.
func (l *Lab) Add() (Node, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	added, err := assignPorts(len(l.nodes)+1, 1, 0, l.cfg.Chaos)
	if err != nil {
		return Node{}, err
	}
	added[0].Joins = true
	nodes := append(slices.Clone(l.nodes), added[0])
	if err := l.save(nodes); err != nil {
		return Node{}, err
	}
	l.nodes = nodes
	return added[0], nil
}

// assignPorts gives n nodes, from the first-th on, three ports each, and one more for
// chaos.
func assignPorts(first, n, base int, chaos bool) ([]Node, error) {
	if base > 0 {
		if nodes := fixedPorts(n, base, chaos); nodes != nil {
			return nodes, nil
		}
	}
	var all []*held // until all are drawn: no two are the same
	defer func() {
		for _, h := range all {
			_ = h.release() // it was only looked whether it is free
		}
	}()
	var nodes []Node
	for i := range n {
		node := Node{Name: "n" + strconv.Itoa(first+i)}
		addrs := []*string{&node.Peer, &node.Gossip, &node.API}
		if chaos {
			addrs = append(addrs, &node.Chaos)
		}
		for _, addr := range addrs {
			h, err := holdAddr()
			if err != nil {
				return nil, err
			}
			all = append(all, h)
			*addr = h.addr
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// fixedPorts returns nil where one of the ports is taken.
func fixedPorts(n, base int, chaos bool) []Node {
	var nodes []Node
	for i := range n {
		at := func(k int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(base+10*i+k)) }
		node := Node{Name: "n" + strconv.Itoa(i+1), Peer: at(0), Gossip: at(1), API: at(2)}
		addrs := []string{node.Peer, node.Gossip, node.API}
		if chaos {
			node.Chaos = at(3)
			addrs = append(addrs, node.Chaos)
		}
		for _, addr := range addrs {
			l, err := net.Listen("tcp", addr)
			if err != nil {
				return nil
			}
			l.Close()
		}
		nodes = append(nodes, node)
	}
	return nodes
}

// Dir is where the lab keeps everything.
func (l *Lab) Dir() string { return l.cfg.Dir }

// Kept reports whether the directory stays after Close.
func (l *Lab) Kept() bool { return !l.temp }

// ClusterFile is the cluster's file.
func (l *Lab) ClusterFile() string { return filepath.Join(l.cfg.Dir, "cluster.json") }

// DataDir is a node's data directory.
func (l *Lab) DataDir(name string) string { return filepath.Join(l.cfg.Dir, name) }

// LogFile is where a node's log goes.
func (l *Lab) LogFile(name string) string { return filepath.Join(l.cfg.Dir, name+".log") }

func (l *Lab) planFile(name string) string { return filepath.Join(l.cfg.Dir, name+".faults.json") }

// WritePlan keeps what is wrong with a node, for when it starts.
func (l *Lab) WritePlan(name string, p faults.Plan) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	path := l.planFile(name)
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return fmt.Errorf("write the faults of %s: %w", name, err)
	}
	return os.Rename(path+".tmp", path)
}

// Removed reports whether a node ended since the cluster has removed it: such a node
// does not come back.
func (l *Lab) Removed(name string) bool {
	return strings.Contains(tail(l.LogFile(name), 5), "removed from the cluster")
}

// Nodes are all nodes, running or not. The caller must not change the slice.
func (l *Lab) Nodes() []Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes
}

// Addrs are the API addresses of all nodes.
func (l *Lab) Addrs() []string {
	var addrs []string
	for _, n := range l.Nodes() {
		addrs = append(addrs, n.API)
	}
	return addrs
}

// Ended yields processes that ended without being stopped here.
func (l *Lab) Ended() <-chan Ended { return l.ended }

func (l *Lab) node(name string) (Node, error) {
	for _, n := range l.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("the lab has no node %q", name)
}

// StartAll starts every node that does not run and waits until all serve.
func (l *Lab) StartAll(ctx context.Context) error {
	for _, n := range l.Nodes() {
		if err := l.Start(n.Name); err != nil {
			return err
		}
	}
	return l.WaitReady(ctx)
}

// Start starts a node. One that runs is left alone.
func (l *Lab) Start(name string) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.procs[name]; p != nil && !p.isDone() {
		return nil
	}
	var seeds []string
	expect := 0 // a node that joins forms no cluster
	for _, other := range l.nodes {
		if other.Name != name {
			seeds = append(seeds, other.Peer)
		}
		if !other.Joins && !n.Joins {
			expect++
		}
	}
	args := []string{
		"serve", "--cluster", l.ClusterFile(), "--data", l.DataDir(name), "--name", name,
		"--peer-listen", n.Peer, "--gossip-listen", n.Gossip, "--api-listen", n.API,
		"--seeds", strings.Join(seeds, ","), "--bootstrap-expect", strconv.Itoa(expect),
		"--timing", "loopback", "--exit-with-stdin",
	}
	if n.Chaos != "" {
		args = append(args, "--chaos", n.Chaos, "--chaos-plan", l.planFile(name))
	}
	args = append(args, l.cfg.Args...)
	if l.cfg.NodeArgs != nil {
		args = append(args, l.cfg.NodeArgs(n)...)
	}
	p, err := l.run(name, args)
	if err != nil {
		return err
	}
	l.procs[name] = p
	return nil
}

func (l *Lab) run(name string, args []string) (*process, error) {
	log, err := os.OpenFile(l.LogFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	p := &process{cmd: exec.Command(l.cfg.Binary, args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	detach(p.cmd)
	stdin, err := p.cmd.StdinPipe()
	if err == nil {
		p.lifeline = stdin
		err = p.cmd.Start()
	}
	if err != nil {
		log.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // ends with the process
		p.err, p.ended = p.cmd.Wait(), time.Now()
		log.Close()
		close(p.done)
		l.mu.Lock()
		wanted := p.wanted
		l.mu.Unlock()
		if !wanted {
			select {
			case l.ended <- Ended{Name: name, Err: p.err, Log: l.LogFile(name)}:
			default: // nobody listens
			}
		}
	}()
	return p, nil
}

func (p *process) isDone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// running returns a node's process, marked as about to be stopped where wanted.
func (l *Lab) running(name string, wanted bool) (*process, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.procs[name]
	if p == nil || p.isDone() {
		return nil, fmt.Errorf("%s does not run", name)
	}
	p.wanted = p.wanted || wanted
	return p, nil
}

// Kill ends a node's process at once (SIGKILL) and waits for its end.
func (l *Lab) Kill(name string) error {
	p, err := l.running(name, true)
	if err != nil {
		return err
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	<-p.done
	return nil
}

// Stop asks a node to stop and waits until it has; after ctx it is killed.
func (l *Lab) Stop(ctx context.Context, name string) error {
	p, err := l.running(name, true)
	if err != nil {
		return err
	}
	if err := terminate(p.cmd.Process); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s did not stop: %w", name, ctx.Err()), l.Kill(name))
	}
}

// Pause and Resume stop and go on with a process where it stands.
func (l *Lab) Pause(name string) error { return l.signal(name, pauseProcess) }

// Resume goes on with a paused process.
func (l *Lab) Resume(name string) error { return l.signal(name, resumeProcess) }

func (l *Lab) signal(name string, send func(*os.Process) error) error {
	p, err := l.running(name, false)
	if err != nil {
		return err
	}
	return send(p.cmd.Process)
}

// PID is the process id of a node that runs.
func (l *Lab) PID(name string) (int, error) {
	p, err := l.running(name, false)
	if err != nil {
		return 0, err
	}
	return p.cmd.Process.Pid, nil
}

// Running reports whether a node's process runs.
func (l *Lab) Running(name string) bool {
	_, err := l.running(name, false)
	return err == nil
}

// Crashed is when a node's last process ended by a SIGKILL that did not come from here, as
// one does that was told to crash at a point; the zero time where it did not.
func (l *Lab) Crashed(name string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.procs[name]; p != nil && p.isDone() && !p.wanted && killed(p.err) {
		return p.ended
	}
	return time.Time{}
}

// readyEvery is how often a node is asked whether it is ready.
const readyEvery = 50 * time.Millisecond

// WaitReady waits until the named nodes, or all, serve. Its error says what the
// node waits for, or how its process ended.
func (l *Lab) WaitReady(ctx context.Context, names ...string) error {
	if len(names) == 0 {
		for _, n := range l.Nodes() {
			names = append(names, n.Name)
		}
	}
	// Side by side: where one has ended, the others may wait for it.
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range names {
		group.Go(func() error { return l.waitOne(ctx, name) })
	}
	return group.Wait()
}

func (l *Lab) waitOne(ctx context.Context, name string) error {
	n, err := l.node(name)
	if err != nil {
		return err
	}
	for {
		l.mu.Lock()
		p := l.procs[name]
		l.mu.Unlock()
		if p == nil {
			return fmt.Errorf("%s was not started", name)
		}
		why, err := ready(ctx, n.API)
		if err == nil && why == "" {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %w\n%s", name, p.err, tail(l.LogFile(name), 5))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w (%s)", name, ctx.Err(), why)
		case <-time.After(readyEvery):
		}
	}
}

// ready asks a node; why is what it waits for, "" where it serves.
func ready(ctx context.Context, addr string) (why string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "it does not answer", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", err
	}
	if resp.StatusCode == http.StatusOK {
		return "", nil
	}
	return strings.TrimSpace(string(body)), nil
}

// tail returns the last lines of a file, for error texts.
func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// stopTimeout bounds the stop of all nodes.
const stopTimeout = 15 * time.Second

// Close stops all nodes, and removes a temporary directory. It may be called
// twice.
func (l *Lab) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var wg sync.WaitGroup
	nodes := l.Nodes()
	errs := make([]error, len(nodes))
	for i, n := range nodes {
		if !l.Running(n.Name) {
			continue
		}
		_ = l.Resume(n.Name) // a paused process can't stop
		wg.Go(func() { errs[i] = l.Stop(ctx, n.Name) })
	}
	wg.Wait()
	return errors.Join(append(errs, l.removeTemp())...)
}

func (l *Lab) removeTemp() error {
	if !l.temp {
		return nil
	}
	return os.RemoveAll(l.cfg.Dir)
}
