package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/chain"
)

// sim is a network of nodes that form a cluster, in a bubble.
type sim struct {
	t      *testing.T
	expect int

	mu    sync.Mutex // guards what follows, and rng
	rng   *rand.Rand
	nodes []*simNode
	// rough: calls are delayed, lost, answered to nobody, and repeated
	// later.
	rough bool
	// cut are pairs that can't reach each other.
	cut map[[2]*simNode]bool
	// clusters are the distinct configurations that were bootstrapped.
	clusters []*simCluster
	late     sync.WaitGroup // repeated calls under way
}

// simCluster stands for the raft group that a bootstrap begins.
type simCluster struct {
	first   []Member
	members []Member
}

// simNode is a node with its disk; it may be down.
type simNode struct {
	s    *sim
	self Member
	// sees are the addresses that discovery yields.
	sees []string

	// Guarded by sim.mu:
	disk     *crashFS
	cluster  *simCluster // its raft state; nil is none
	life     int         // counts starts and stops
	handler  *Handler    // nil while down
	promises *Promises
	stop     context.CancelFunc
	done     chan struct{}
	outcome  Outcome
	err      error
}

func newSim(t *testing.T, seed uint64, expect, nodes int) *sim {
	s := &sim{t: t, expect: expect, rng: rand.New(rand.NewPCG(seed, 1)), cut: make(map[[2]*simNode]bool)}
	for i := range nodes {
		id := string(rune('a' + i))
		s.nodes = append(s.nodes, &simNode{
			s: s, disk: newCrashFS(),
			self: Member{NodeID: "node-" + id, ServerID: "srv-" + id, PeerAddr: id + ":1"},
		})
	}
	for _, n := range s.nodes {
		for _, o := range s.nodes { // itself, too: seeds often hold it
			n.sees = append(n.sees, o.self.PeerAddr)
		}
	}
	return s
}

func (s *sim) random() float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.Float64()
}

func (s *sim) chance(p float64) bool { return s.random() < p }

// nodeCluster is what a node's handler sees of it.
type nodeCluster struct{ n *simNode }

func (c nodeCluster) HasState() bool {
	c.n.s.mu.Lock()
	defer c.n.s.mu.Unlock()
	return c.n.cluster != nil
}

func (c nodeCluster) Members() []Member {
	c.n.s.mu.Lock()
	defer c.n.s.mu.Unlock()
	if c.n.cluster == nil {
		return nil
	}
	return slices.Clone(c.n.cluster.members)
}

func (nodeCluster) Head() chain.Head { return chain.Head{Size: 7} }

func (c nodeCluster) Admit(_ context.Context, m Member) error {
	c.n.s.mu.Lock()
	defer c.n.s.mu.Unlock()
	if c.n.cluster == nil {
		return ErrUnavailable
	}
	if !hasServer(c.n.cluster.members, m.ServerID) {
		c.n.cluster.members = append(c.n.cluster.members, m)
	}
	return nil
}

// start boots a node from its disk.
func (n *simNode) start() {
	p, err := OpenPromises("d", n.disk)
	if err != nil {
		n.s.t.Fatal(err)
	}
	h, err := NewHandler(HandlerConfig{
		Self: n.self, Genesis: chain.Hash{1}, Expect: n.s.expect, Promises: p,
		Cluster: nodeCluster{n}, Allowed: func(string) bool { return true },
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		n.s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.s.mu.Lock()
	n.life++
	n.handler, n.promises, n.stop, n.done, n.err = h, p, cancel, make(chan struct{}), nil
	hasState, done := n.cluster != nil, n.done
	n.s.mu.Unlock()
	go func() {
		defer close(done)
		if hasState {
			return
		}
		if err := n.begin(ctx, h); err != nil {
			n.s.mu.Lock()
			n.err = err
			n.s.mu.Unlock()
		}
	}()
}

// begin is what package node does with a node without state.
func (n *simNode) begin(ctx context.Context, h *Handler) error {
	out, err := Form(ctx, FormConfig{
		Handler: h, Call: n.call, Rand: n.s.random, Log: slog.New(slog.DiscardHandler),
		Candidates: func() []string { return slices.Clone(n.sees) },
		Nonce: func() (id chain.ID, err error) {
			n.s.mu.Lock()
			defer n.s.mu.Unlock()
			for i := range id {
				id[i] = byte(n.s.rng.Uint32())
			}
			return id, nil
		},
	})
	if err != nil {
		return err
	}
	if n.s.isRough() && n.s.chance(0.3) { // to be killed just before it acts
		<-ctx.Done()
		return ctx.Err()
	}
	switch out.Step {
	case StepBootstrap:
		n.s.bootstrapped(n, out.Members)
	case StepStart:
		n.s.started(n, out.Members)
	case StepJoin:
		members, err := Join(ctx, JoinConfig{
			Self: n.self, Genesis: chain.Hash{1}, Call: n.call, Rand: n.s.random,
			Log:        slog.New(slog.DiscardHandler),
			Candidates: func() []string { return append(slices.Clone(out.Addrs), n.sees...) },
			Pin:        func([]Member) {},
			Prefetch: func(_ context.Context, from []Member, head chain.Head) error {
				if len(from) == 0 || head.Size != 7 {
					return fmt.Errorf("prefetch of %v from %v", head, from)
				}
				return nil
			},
		})
		if err != nil {
			return err
		}
		n.s.started(n, members)
	default:
		n.s.t.Errorf("outcome %+v", out)
	}
	n.s.mu.Lock()
	n.outcome = out
	n.s.mu.Unlock()
	return nil
}

func (s *sim) isRough() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rough
}

func (s *sim) bootstrapped(n *simNode, members []Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.cluster != nil {
		s.t.Errorf("%s bootstraps although it has state", n.self.NodeID)
	}
	c := &simCluster{first: members, members: slices.Clone(members)}
	s.clusters = append(s.clusters, c)
	n.cluster = c
}

// started finds the raft group that a node becomes part of.
func (s *sim) started(n *simNode, members []Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clusters {
		if hasServer(c.members, n.self.ServerID) && hasServer(members, c.first[0].ServerID) {
			n.cluster = c
			return
		}
	}
	s.t.Errorf("%s starts in a configuration that nobody has: %v", n.self.NodeID, members)
}

// kill stops a node; lucky says that the disk keeps what was not synced.
func (n *simNode) kill(lucky bool) {
	n.s.mu.Lock()
	if n.handler == nil {
		n.s.mu.Unlock()
		return
	}
	p, stop, done := n.promises, n.stop, n.done
	n.handler = nil
	n.life++
	n.s.mu.Unlock()
	stop()
	<-done
	p.mu.Lock()
	defer p.mu.Unlock()
	n.disk = n.disk.crash(lucky)
}

var errNet = errors.New("network failed")

// call is the simulated network, with the caller's identity authenticated.
func (n *simNode) call(ctx context.Context, addr, method string, payload []byte) ([]byte, string, error) {
	s := n.s
	i := slices.IndexFunc(s.nodes, func(o *simNode) bool { return o.self.PeerAddr == addr })
	if i < 0 {
		return nil, "", errNet
	}
	to := s.nodes[i]
	rough := s.isRough()
	delay := time.Duration(1+s.random()*5) * time.Millisecond
	if rough {
		delay = time.Duration(s.random() * float64(3*time.Second) * s.random())
		if s.chance(0.1) {
			s.late.Go(func() { // a copy that arrives much later
				time.Sleep(delay + time.Duration(s.random()*float64(20*time.Second)))
				to.deliver(n, method, payload)
			})
		}
	}
	if err := sleep(ctx, delay); err != nil {
		if rough && s.chance(0.5) { // gave up, but it gets there
			s.late.Go(func() {
				time.Sleep(delay)
				to.deliver(n, method, payload)
			})
		}
		return nil, "", err
	}
	if rough && s.chance(0.1) {
		return nil, "", errNet
	}
	reply, ok := to.deliver(n, method, payload)
	if !ok || rough && s.chance(0.1) { // the answer is lost
		return nil, "", errNet
	}
	return reply, to.self.NodeID, sleep(ctx, delay)
}

func (n *simNode) deliver(from *simNode, method string, payload []byte) ([]byte, bool) {
	n.s.mu.Lock()
	h, life := n.handler, n.life
	cut := n.s.cut[[2]*simNode{from, n}] || n.s.cut[[2]*simNode{n, from}]
	n.s.mu.Unlock()
	if h == nil || cut {
		return nil, false
	}
	reply := h.Handle(context.Background(), from.self.NodeID, method, payload)
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	return reply, n.life == life
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// settle waits for all nodes to be in a cluster, and checks what must hold.
func (s *sim) settle(within time.Duration) {
	s.t.Helper()
	for range within / time.Second {
		if s.settled() {
			break
		}
		time.Sleep(time.Second)
	}
	s.late.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		switch {
		case n.err != nil:
			s.t.Errorf("%s: %v", n.self.NodeID, n.err)
		case n.cluster == nil:
			s.t.Errorf("%s is in no cluster", n.self.NodeID)
		}
	}
	s.oneCluster()
}

func (s *sim) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(s.nodes, func(n *simNode) bool { return n.cluster == nil })
}

// oneCluster is the invariant: never two configurations.
func (s *sim) oneCluster() {
	s.t.Helper()
	if len(s.clusters) == 0 {
		return
	}
	for _, c := range s.clusters {
		if ids(c.first) != ids(s.clusters[0].first) || len(c.first) != s.expect {
			s.t.Errorf("two configurations: %s and %s", ids(s.clusters[0].first), ids(c.first))
		}
	}
	if len(s.clusters) > 1 {
		s.t.Errorf("bootstrapped %d times", len(s.clusters))
	}
}

func ids(ms []Member) string {
	var out []string
	for _, m := range ms {
		out = append(out, strings.TrimPrefix(m.ServerID, "srv-"))
	}
	return strings.Join(out, "")
}

// down stops all nodes, so that the bubble can end.
func (s *sim) down() {
	for _, n := range s.nodes {
		n.kill(true)
	}
	s.late.Wait()
	synctest.Wait()
}
