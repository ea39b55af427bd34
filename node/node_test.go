package node_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/exonode/exonode/chain"
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
	cfg    node.Config
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func testLogger(t testing.TB, name string) *slog.Logger {
	out := io.Discard
	if testing.Verbose() {
		out = os.Stderr
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelInfo})).With("test_node", name)
}

func start(t testing.TB, cfg node.Config) *testNode {
	t.Helper()
	n, err := node.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tn := &testNode{Node: n, cfg: cfg, cancel: cancel, done: make(chan error, 1)}
	go func() { tn.done <- n.Run(ctx) }()
	t.Cleanup(func() { tn.stop(t) })
	return tn
}

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
func startCluster(t testing.TB, env gates.Environment, n int) []*testNode {
	t.Helper()
	cluster := newCluster(t, env)
	seed := freePort(t)
	dir := t.TempDir()
	var nodes []*testNode
	for i := range n {
		peer := seed
		if i > 0 {
			peer = "127.0.0.1:0"
		}
		nodes = append(nodes, start(t, node.Config{
			DataDir: filepath.Join(dir, fmt.Sprint(i)), Cluster: cluster, Name: fmt.Sprintf("n%d", i+1), Version: "test",
			Listen:    node.Listen{Peer: peer, Gossip: "127.0.0.1:0"},
			Discovery: node.Discovery{Seeds: []string{seed}, Expect: n},
			API:       node.API{Listen: "127.0.0.1:0"},
			Timing:    node.Loopback(),
			Logger:    testLogger(t, fmt.Sprintf("n%d", i+1)),
			Fatal:     func(err error) { t.Errorf("fatal: %v", err) },
		}))
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

func event(source string, i int) chain.Event {
	return chain.Event{
		Workspace: "default", Source: source, ID: fmt.Sprint(i), Kind: "hnsw.insert",
		Payload: []byte(fmt.Sprintf(`{"id":"%d"}`, i)), ContentType: "application/json",
	}
}

func TestThreeNodes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	nodes := startCluster(t, gates.Development, 3)
	const each = 50
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			for k := range each {
				acks, err := n.submit(ctx, event(fmt.Sprintf("test:%d", i), k))
				if err == nil && acks[0].Err != nil {
					err = acks[0].Err
				}
				if err != nil {
					t.Errorf("node %d, event %d: %v", i, k, err)
					return
				}
			}
		})
	}
	wg.Wait()
	var heads []server.Head
	for i, n := range nodes {
		if _, err := n.Await(ctx, server.Consistency{}); err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
		for k := range each {
			for j := range nodes {
				l, err := n.Lookup(ctx, chain.Key{Workspace: "default", Source: fmt.Sprintf("test:%d", j), ID: fmt.Sprint(k)})
				if err != nil || l.State != "sealed" {
					t.Fatalf("node %d: event %d of source %d: %+v, %v", i, k, j, l, err)
				}
			}
		}
		h, err := n.Node.Head(ctx)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, h)
	}
	t.Logf("heads: %+v", heads)
	for _, n := range nodes {
		n.stop(t)
	}
}
