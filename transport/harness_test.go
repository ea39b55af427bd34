package transport_test

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"sync"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/transport"
	"github.com/exonode/exonode/transport/transporttest"
)

// incarnation is what every node of these tests has unless it says otherwise.
const incarnation = "0123456789abcdef"

// world is a network and what its nodes agree on.
type world struct {
	net     *transporttest.Network
	secret  transport.Secret
	genesis [32]byte

	mu    sync.Mutex
	hosts map[string]string // node id -> host
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	secret, err := transport.NewSecret()
	if err != nil {
		tb.Fatal(err)
	}
	return &world{net: transporttest.New(), secret: secret, genesis: [32]byte{1}, hosts: make(map[string]string)}
}

func (w *world) resolve(nodeID string) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	host, ok := w.hosts[nodeID]
	return host, ok
}

// members is a Members that a test sets.
type members struct {
	mu      sync.Mutex
	servers map[string]raft.ServerID
	voters  map[string]bool
	removed map[string]bool
	leader  string
}

func (m *members) Member(nodeID string) (raft.ServerID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, ok := m.servers[nodeID]
	return id, ok
}

func (m *members) Leader() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leader
}

func (m *members) Voter(nodeID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.voters[nodeID]
}

func (m *members) Removed(nodeID string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.removed[nodeID]
}

func (m *members) set(change func(*members)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

func (m *members) add(nodes ...*node) {
	m.set(func(m *members) {
		for _, n := range nodes {
			m.servers[n.NodeID()] = n.ServerID()
			m.voters[n.NodeID()] = true
		}
	})
}

func (m *members) remove(nodeID string) {
	m.set(func(m *members) {
		delete(m.servers, nodeID)
		m.removed[nodeID] = true
	})
}

// node is a running transport.
type node struct {
	*transport.Transport
	host    string
	members *members

	mu      sync.Mutex
	refused []error
}

func (n *node) ref() transport.PeerRef { return transport.PeerRef{NodeID: n.NodeID(), Addr: n.host} }

// refusals returns what the node was told of refused connections.
func (n *node) refusals() []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]error(nil), n.refused...)
}

func identity(host string) *transport.Identity {
	var seed [ed25519.SeedSize]byte
	copy(seed[:], host)
	return transport.NewIdentity(seed)
}

// start runs a node until the test ends.
func (w *world) start(tb testing.TB, host string, change ...func(*transport.Config)) *node {
	tb.Helper()
	ln, err := w.net.Listen(host)
	if err != nil {
		tb.Fatal(err)
	}
	n := &node{host: host, members: &members{
		servers: make(map[string]raft.ServerID), voters: make(map[string]bool), removed: make(map[string]bool),
	}}
	cfg := transport.Config{
		Identity:    identity(host),
		Incarnation: incarnation,
		Listener:    ln,
		Members:     n.members,
		Resolve:     w.resolve,
		Secret:      w.secret,
		Genesis:     w.genesis,
		Refused: func(_ string, _ transport.Class, reason error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.refused = append(n.refused, reason)
		},
		Logger: slog.New(slog.DiscardHandler),
		Dial:   w.net.Dialer(host),
	}
	for _, f := range change {
		f(&cfg)
	}
	if n.Transport, err = transport.New(cfg); err != nil {
		tb.Fatal(err)
	}
	w.mu.Lock()
	w.hosts[n.NodeID()] = host
	w.mu.Unlock()
	n.run(tb)
	return n
}

func (n *node) run(tb testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("run %s: %v", n.host, err)
		}
	})
}

// pair starts two nodes that are members to each other.
func (w *world) pair(tb testing.TB, change ...func(*transport.Config)) (a, b *node) {
	tb.Helper()
	a, b = w.start(tb, "a", change...), w.start(tb, "b", change...)
	a.members.add(a, b)
	b.members.add(a, b)
	return a, b
}

// echo registers a method that answers with what it is asked.
func (n *node) echo(class transport.Class) {
	n.Handle(class, "echo", func(_ context.Context, _ transport.Peer, b []byte) ([]byte, error) { return b, nil })
}

func (n *node) call(to *node, class transport.Class, method, request string) (string, error) {
	answer, _, err := n.Call(context.Background(), class, to.ref(), method, []byte(request))
	return string(answer), err
}

func header(n *node) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.ServerID()), Addr: []byte(n.NodeID())}
}
