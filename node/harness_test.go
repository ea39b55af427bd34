package node_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/transport"
)

// newCluster makes a cluster file with the policy of an environment.
func newCluster(t testing.TB, env gates.Environment) *node.ClusterFile {
	t.Helper()
	secret, err := transport.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	policy, err := gates.BuiltIn(env)
	if err != nil {
		t.Fatal(err)
	}
	g := fsm.Genesis{
		Format: fsm.GenesisFormat, ChainID: chain.ID{1, 2, 3}, ClusterName: "test", Created: time.Now(),
		Environment: string(env), Policy: policy.Encode(),
	}
	document, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err := node.NewClusterFile(secret, document)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// testNode is a node of a test cluster, running in this process.
type testNode struct {
	*node.Node
	owner  testing.TB // when it ends, so does the node
	cfg    node.Config
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

func freePort(t testing.TB) string {
	t.Helper()
	addr, err := lab.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func testLogger(name string) *slog.Logger {
	out := io.Discard
	if testing.Verbose() {
		out = os.Stderr
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelInfo})).With("test_node", name)
}

// config is of a node that stands alone.
func config(t testing.TB, cluster *node.ClusterFile, dir, name string) node.Config {
	return node.Config{
		DataDir: dir, Cluster: cluster, Name: name, Version: "test",
		Listen:    node.Listen{Peer: "127.0.0.1:0", Gossip: "127.0.0.1:0"},
		Discovery: node.Discovery{Expect: 1},
		API:       node.API{Listen: "127.0.0.1:0"},
		Timing:    node.Loopback(),
		Logger:    testLogger(name),
		Fatal:     func(err error) { t.Errorf("fatal: %v", err) },
	}
}

func start(t testing.TB, cfg node.Config) *testNode {
	t.Helper()
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tn := &testNode{Node: n, owner: t, cfg: cfg, cancel: cancel, done: make(chan error, 1)}
	go func() { tn.done <- n.Run(ctx) }()
	t.Cleanup(func() { tn.stop(t) })
	return tn
}

// again starts a stopped node anew.
func (n *testNode) again() *testNode { return start(n.owner, n.cfg) }

func (n *testNode) stop(t testing.TB) {
	t.Helper()
	n.once.Do(func() {
		n.cancel()
		if err := <-n.done; err != nil {
			t.Errorf("node stopped: %v", err)
		}
	})
}

// startCluster starts n nodes that know the first one's address.
func startCluster(t testing.TB, env gates.Environment, n int, change func(*node.Config)) []*testNode {
	t.Helper()
	cluster, seed, dir := newCluster(t, env), freePort(t), t.TempDir()
	var nodes []*testNode
	for i := range n {
		cfg := config(t, cluster, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprintf("n%d", i+1))
		if i == 0 {
			cfg.Listen.Peer = seed
		}
		cfg.Discovery = node.Discovery{Seeds: []string{seed}, Expect: n}
		if change != nil {
			change(&cfg)
		}
		nodes = append(nodes, start(t, cfg))
	}
	return nodes
}

func (n *testNode) submit(ctx context.Context, events ...chain.Event) ([]server.Ack, error) {
	pending, err := n.Submit(ctx, server.Caller{Principal: "local"}, events)
	if err != nil {
		return nil, err
	}
	return pending.Wait(ctx)
}

// append submits an event until its outcome is known, and returns its sequence.
func (n *testNode) append(ctx context.Context, e chain.Event) (uint64, error) {
	for {
		acks, err := n.submit(ctx, e)
		if err != nil {
			return 0, err
		}
		if acks[0].Err == nil {
			return acks[0].Sequence, nil
		}
		if e, ok := acks[0].Err.(*api.Error); !ok || e.Code != api.UnknownOutcome && e.Code != api.NoLeader && e.Code != api.NotReady || ctx.Err() != nil {
			return 0, acks[0].Err
		}
	}
}

func event(source string, i int) chain.Event {
	return chain.Event{
		Workspace: "default", Source: source, ID: fmt.Sprint(i), Kind: "hnsw.insert",
		Payload: []byte(fmt.Sprintf(`{"id":"%d"}`, i)), ContentType: "application/json",
	}
}

// leader returns the node that leads, once one does.
func leader(t testing.TB, ctx context.Context, nodes []*testNode) *testNode {
	t.Helper()
	for {
		// A linearizable read at any node has found the leader.
		if _, err := nodes[0].Await(ctx, server.Consistency{}); err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			if n.Leads() {
				return n
			}
		}
	}
}

// sameChains fails unless all nodes have the same entries, byte by byte.
func sameChains(t testing.TB, ctx context.Context, nodes []*testNode) {
	t.Helper()
	size, err := nodes[0].Await(ctx, server.Consistency{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if err := n.AwaitSize(ctx, size); err != nil {
			t.Fatal(err)
		}
	}
	for seq := range size {
		want, err := nodes[0].Record(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range nodes[1:] {
			got, err := n.Record(ctx, seq)
			if err != nil || string(got.Header) != string(want.Header) || string(got.Envelope) != string(want.Envelope) {
				t.Fatalf("entry %d of node %d is %+v, %v, want %+v", seq, i+1, got, err, want)
			}
		}
	}
}
