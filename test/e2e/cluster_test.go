package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger"
)

// patience bounds a test; it is for machines that are busy with other things.
const patience = 4 * time.Minute

// limit is patience, and more for tests that are known to be long.
func limit() time.Duration {
	if os.Getenv("EXONODE_LONG") == "1" {
		return 5 * patience
	}
	return patience
}

// cluster is a lab under test.
type cluster struct {
	*lab.Lab
	t   *testing.T
	ctx context.Context
	// client has the addresses of all nodes.
	client *client.Client
	// ids are the node ids, by name.
	ids map[string]string
}

// newCluster makes a cluster that ends with the test. Nothing runs yet.
func newCluster(t *testing.T, cfg lab.Config) *cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit())
	t.Cleanup(cancel)
	cfg.Binary, cfg.Dir = exonode, t.TempDir()
	l, err := lab.New(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{Lab: l, t: t, ctx: ctx, ids: make(map[string]string)}
	t.Cleanup(c.end)
	c.client = c.newClient(0)
	return c
}

// startCluster is newCluster with all nodes running.
func startCluster(t *testing.T, cfg lab.Config) *cluster {
	t.Helper()
	c := newCluster(t, cfg)
	must(t, c.StartAll(c.ctx))
	c.identify()
	return c
}

// identify learns the ids of all nodes.
func (c *cluster) identify() {
	c.t.Helper()
	for _, n := range c.Nodes() {
		c.ids[n.Name] = c.status(n.Name).NodeID
	}
}

// end stops what runs, and shows what the nodes said if the test failed.
func (c *cluster) end() {
	if err := c.Close(); err != nil {
		c.t.Errorf("stop the cluster: %v", err)
	}
	for {
		select {
		case e := <-c.Ended():
			c.t.Errorf("%s ended by itself: %v", e.Name, e.Err)
			continue
		default:
		}
		break
	}
	if !c.t.Failed() {
		return
	}
	for _, n := range c.Nodes() {
		c.t.Logf("end of the log of %s:\n%s", n.Name, tail(c.LogFile(n.Name), 60))
	}
}

func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// freeAddr is a port of loopback that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := lab.FreeAddr()
	must(t, err)
	return addr
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newClient returns a client that begins with the i-th node.
func (c *cluster) newClient(i int) *client.Client {
	c.t.Helper()
	addrs := c.Addrs()
	i %= len(addrs)
	cl, err := client.New(client.Config{
		Addresses: append(slices.Clone(addrs[i:]), addrs[:i]...),
		// A paused node answers nothing; writers are to go on elsewhere.
		Stall:    time.Second,
		RetryFor: patience,
	})
	must(c.t, err)
	c.t.Cleanup(func() { _ = cl.Close() }) // what was under way then is nobody's
	return cl
}

func (c *cluster) addr(name string) string {
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n.API
		}
	}
	c.t.Fatalf("no node %s", name)
	return ""
}

// on reads from one node.
func (c *cluster) on(name string) client.Reader {
	c.t.Helper()
	r, err := c.client.On(c.addr(name))
	must(c.t, err)
	return r
}

func (c *cluster) status(name string) client.Status {
	c.t.Helper()
	s, err := c.on(name).Status(c.ctx)
	must(c.t, err)
	return s
}

// running are the names of the nodes whose processes run.
func (c *cluster) running() []string {
	var names []string
	for _, n := range c.Nodes() {
		if c.Running(n.Name) {
			names = append(names, n.Name)
		}
	}
	return names
}

// leader waits until the nodes asked (all that run, where none is named) agree
// on one that leads, and returns its name.
func (c *cluster) leader(names ...string) string {
	c.t.Helper()
	if len(names) == 0 {
		names = c.running()
	}
	var found string
	c.await("a leader", func(ctx context.Context) (bool, error) {
		found = ""
		for _, name := range names {
			s, err := c.on(name).Status(ctx)
			if err != nil {
				return false, err
			}
			if s.Leader == "" || found != "" && s.Leader != c.ids[found] {
				return false, fmt.Errorf("%s says that %q leads", name, s.Leader)
			}
			for other, id := range c.ids {
				if id == s.Leader {
					found = other
				}
			}
		}
		return slices.Contains(names, found), fmt.Errorf("%q leads", found)
	})
	return found
}

// lead has a node lead, as the others see it too.
func (c *cluster) lead(name string, names ...string) {
	c.t.Helper()
	for {
		leader := c.leader(names...)
		if leader == name {
			return
		}
		err := c.newClient(c.index(leader)).Transfer(c.ctx, c.ids[name])
		if c.ctx.Err() != nil {
			c.t.Fatalf("%s does not lead: %v", name, err)
		}
	}
}

// await asks until done, or until the test's time is over. why says what is
// missing; an attempt has a second.
func (c *cluster) await(what string, done func(context.Context) (ok bool, why error)) {
	c.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		ok, why := done(ctx)
		cancel()
		if ok {
			return
		}
		select {
		case <-c.ctx.Done():
			c.t.Fatalf("waiting for %s: %v: %v", what, c.ctx.Err(), why)
		case <-tick.C:
		}
	}
}

// kill ends a node with SIGKILL.
func (c *cluster) kill(name string) {
	c.t.Helper()
	must(c.t, c.Kill(name))
}

// stop ends a node in good order.
func (c *cluster) stop(name string) {
	c.t.Helper()
	must(c.t, c.Stop(c.ctx, name))
}

// start starts nodes and waits until they serve.
func (c *cluster) start(names ...string) {
	c.t.Helper()
	for _, name := range names {
		must(c.t, c.Start(name))
	}
	must(c.t, c.WaitReady(c.ctx, names...))
}

// metric reads one metric without labels.
func (c *cluster) metric(name, metric string) float64 {
	c.t.Helper()
	v, err := c.tryMetric(c.ctx, name, metric)
	must(c.t, err)
	return v
}

func (c *cluster) tryMetric(ctx context.Context, name, metric string) (float64, error) {
	return c.metricAt(ctx, c.addr(name), metric)
}

func (c *cluster) metricAt(ctx context.Context, addr, metric string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, metric+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("%s has no metric %s", addr, metric)
}

// records reads the first entries of a node's chain, as it tells them.
func (c *cluster) records(name string, size uint64) []chain.Record {
	c.t.Helper()
	records := make([]chain.Record, 0, size)
	for e, err := range c.on(name).List(c.ctx, client.ListQuery{To: size, PageSize: 1000}) {
		if err != nil {
			c.t.Fatalf("list %s: %v", name, err)
		}
		records = append(records, chain.Record{
			Sequence: e.Sequence,
			Header:   bytes.Clone(e.Record.Header), Envelope: bytes.Clone(e.Record.Envelope), Beside: bytes.Clone(e.Beside),
		})
	}
	if uint64(len(records)) != size {
		c.t.Fatalf("%s lists %d entries of %d", name, len(records), size)
	}
	return records
}

// checkIdentical compares the chains of all running nodes byte by byte.
func (c *cluster) checkIdentical() {
	c.t.Helper()
	head, err := c.client.Head(c.ctx)
	must(c.t, err)
	var first []chain.Record
	for i, name := range c.running() {
		records := c.records(name, head.Size)
		if i == 0 {
			first = records
			continue
		}
		for seq := range records {
			a, b := &first[seq], &records[seq]
			if a.Sequence != b.Sequence || !bytes.Equal(a.Header, b.Header) || !bytes.Equal(a.Envelope, b.Envelope) || !bytes.Equal(a.Beside, b.Beside) {
				c.t.Fatalf("entry %d of %s differs from that of %s", seq, name, c.running()[0])
			}
		}
	}
}

// verifyDisk verifies the chain of a stopped node as it stands on its disk: the
// chain, its tiles, and that every verdict follows.
func (c *cluster) verifyDisk(name string) chain.VerifyReport {
	c.t.Helper()
	report, err := verifyLedger(c.ctx, c.DataDir(name)+"/ledger")
	if err != nil {
		c.t.Fatalf("verify the disk of %s: %v", name, err)
	}
	return report
}

func verifyLedger(ctx context.Context, dir string) (_ chain.VerifyReport, err error) {
	store, err := ledger.OpenReadOnly(dir, ledger.Options{})
	if err != nil {
		return chain.VerifyReport{}, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	replay, source, meta := fsm.NewReplay(), store.Source(), store.Meta()
	replay.Lookup = store.Find
	return chain.Verify(ctx, source, chain.VerifyOptions{
		Head: &meta.Head, Root: &meta.Root, Tiles: source, Check: replay.Check,
	})
}

// checkDisks stops all nodes and verifies what each has on its disk.
func (c *cluster) checkDisks() {
	c.t.Helper()
	for _, name := range c.running() {
		c.stop(name)
	}
	for _, n := range c.Nodes() {
		report := c.verifyDisk(n.Name)
		c.t.Logf("%s: %d entries verified on disk, %d tiles", n.Name, report.Entries, report.Tiles)
	}
}
