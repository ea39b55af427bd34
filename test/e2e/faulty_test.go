package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/node"
)

// faultyEnv, where it is set, makes this test binary a node whose log store
// fails: it writes a command that holds the poison durably, and says that it
// could not.
const faultyEnv = "EXONODE_E2E_FAULTY_NODE"

const (
	poison     = "this write fails"
	diedLoudly = 3 // exit status
)

// faultyConfig is what faultyEnv holds, as JSON.
type faultyConfig struct {
	Node               lab.Node
	Cluster, Data, Log string
	Seeds              []string
	Expect             int
}

// faultyNode runs a node where the environment asks for one.
func faultyNode() bool {
	env, ok := os.LookupEnv(faultyEnv)
	if !ok {
		return false
	}
	var c faultyConfig
	if err := json.Unmarshal([]byte(env), &c); err != nil {
		panic(err)
	}
	if err := c.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

func (c *faultyConfig) run() error {
	cluster, err := node.LoadClusterFile(c.Cluster)
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	n, err := node.New(node.Config{
		DataDir: c.Data, Cluster: cluster, Name: c.Node.Name, Version: "faulty",
		Listen:    node.Listen{Peer: c.Node.Peer, Gossip: c.Node.Gossip},
		Discovery: node.Discovery{Seeds: c.Seeds, Expect: c.Expect},
		API:       node.API{Listen: c.Node.API},
		Timing:    node.Loopback(),
		Logger:    logger,
		Fatal: func(err error) {
			logger.Error("fatal", "error", err)
			os.Exit(diedLoudly)
		},
		WrapStores: func(logs raft.LogStore, stable raft.StableStore) (raft.LogStore, raft.StableStore) {
			return poisoned{logs}, stable
		},
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return n.Run(ctx)
}

// poisoned is a log store that fails after writing.
type poisoned struct{ raft.LogStore }

func (p poisoned) IsMonotonic() bool {
	m, ok := p.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

func (p poisoned) StoreLogs(logs []*raft.Log) error {
	if err := p.LogStore.StoreLogs(logs); err != nil {
		return err
	}
	if slices.ContainsFunc(logs, func(l *raft.Log) bool { return bytes.Contains(l.Data, []byte(poison)) }) {
		return errors.New("injected: written, and failed")
	}
	return nil
}

// startFaulty runs a node of the lab with the faulty store and waits until it
// serves. The returned function waits until it died of the fault.
func (c *cluster) startFaulty(name string, seeds ...string) (died func()) {
	c.t.Helper()
	cfg := faultyConfig{
		Node: c.Nodes()[c.index(name)], Cluster: c.ClusterFile(), Data: c.DataDir(name),
		Expect: len(c.Nodes()), Seeds: seeds,
	}
	env, err := json.Marshal(cfg)
	must(c.t, err)
	self, err := os.Executable()
	must(c.t, err)
	log, err := os.OpenFile(c.LogFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(c.t, err)
	defer log.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), faultyEnv+"="+string(env))
	cmd.Stdout, cmd.Stderr = log, log
	must(c.t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	c.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
	})
	return func() {
		c.t.Helper()
		select {
		case err := <-exited:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != diedLoudly {
				c.t.Fatalf("%s ended with %v, want exit status %d", name, err, diedLoudly)
			}
		case <-c.ctx.Done():
			c.t.Fatalf("%s goes on after its log store failed", name)
		}
	}
}

// ready waits until a node serves that the lab did not start.
func (c *cluster) ready(name string) {
	c.t.Helper()
	c.await(name+" to be ready", func(ctx context.Context) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.addr(name)+"/readyz", nil)
		if err != nil {
			return false, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, errors.New(resp.Status)
	})
}

// TestStoreFailsAfterWriting has raft's log store of one node of three write
// and then fail, once while the node leads and once while it follows. The node
// dies loudly, the client's attempts go on elsewhere with the same id, and the
// event is in the chain once: also after the node came back with its own.
func TestStoreFailsAfterWriting(t *testing.T) {
	t.Parallel()
	c := newCluster(t, lab.Config{})
	var seeds []string
	for _, n := range c.Nodes() {
		seeds = append(seeds, n.Peer)
	}
	died := c.startFaulty("n3", seeds...)
	must(t, c.Start("n1"))
	must(t, c.Start("n2"))
	must(t, c.WaitReady(c.ctx, "n1", "n2"))
	c.ready("n3")
	c.identify()

	c.lead("n3", "n1", "n2", "n3")
	c.appendPoison(2, 0) // through n3
	died()
	c.start("n3")
	c.checkPoison(1)

	c.stop("n3")
	c.leader("n1", "n2")
	died = c.startFaulty("n3", seeds...)
	c.ready("n3")
	c.appendPoison(0, 1)
	died()
	c.start("n3")
	c.checkPoison(2)
	c.checkIdentical()
	c.checkDisks()
}

// TestStoreFailsAlone is the same with a cluster of one: what it wrote before it
// died is committed once it is back.
func TestStoreFailsAlone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, lab.Config{Nodes: 1})
	died := c.startFaulty("n1")
	c.ready("n1")
	acked, cl := make(chan error, 1), c.newClient(0)
	go func() {
		e := testEvent("poison", 0)
		e.Subject = poison
		_, err := cl.Append(c.ctx, e)
		acked <- err
	}()
	died()
	c.start("n1")
	must(t, <-acked)
	c.checkPoison(1)
	c.checkDisks()
}

func (c *cluster) appendPoison(through, k int) {
	c.t.Helper()
	e := testEvent("poison", k)
	e.Subject = poison
	_, err := c.newClient(through).Append(c.ctx, e)
	must(c.t, err)
}

// checkPoison looks for the events 0 to n-1, each once, on every node.
func (c *cluster) checkPoison(n int) {
	c.t.Helper()
	for _, name := range c.running() {
		k := 0
		for e, err := range c.on(name).List(c.ctx, client.ListQuery{Filter: testFilter("poison")}) {
			must(c.t, err)
			if e.Header.ID != fmt.Sprint(k) {
				c.t.Fatalf("%s: event %s stands where %d is due", name, e.Header.ID, k)
			}
			k++
		}
		if k != n {
			c.t.Fatalf("%s has %d events, want %d", name, k, n)
		}
	}
}
