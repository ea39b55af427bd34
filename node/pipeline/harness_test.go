package pipeline_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
)

// group is a raft log with a real state machine behind it, shared by the
// pipelines of a test's nodes. What happens to a command is up to fate.
type group struct {
	t     testing.TB
	fsm   *fsm.FSM
	store *ledgertest.Memory

	mu    sync.Mutex // guards the fields below
	index uint64
	fate  func(n int) fate // of the n-th command
	count int
	// held are futures that wait to be released.
	held []func()
}

type fate int

const (
	commits    fate = iota
	lost            // ErrLeadershipLost, and it is not in the log
	lostInLog       // ErrLeadershipLost, and it is: the outcome was unknown
	notLeader       // ErrNotLeader, never taken
	waits           // commits once the test says so
	notApplied      // the state machine halted
)

type future struct {
	done     chan struct{}
	err      error
	response any
}

func (f *future) Error() error  { <-f.done; return f.err }
func (f *future) Response() any { return f.response }

func newGroup(t testing.TB, env gates.Environment) *group {
	t.Helper()
	g := &group{t: t, store: ledgertest.NewMemory(), fate: func(int) fate { return commits }}
	var err error
	id := chain.ID{7}
	g.fsm, err = fsm.New(fsm.Config{
		Store: g.store, Staging: g.store, ChainID: id, NodeID: "n1",
		Fatal: func(err error) { t.Errorf("fatal: %v", err) }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	policy, err := gates.BuiltIn(env)
	if err != nil {
		t.Fatal(err)
	}
	document, err := (&fsm.Genesis{
		Format: fsm.GenesisFormat, ChainID: id, ClusterName: "test", Created: time.Now(),
		Environment: string(env), Policy: policy.Encode(),
	}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1.0", Address: "n1"}}}
	g.append(raft.LogConfiguration, raft.EncodeConfiguration(conf))
	b, err := (&fsm.Command{Genesis: &fsm.GenesisCommand{
		Stamp: time.Now().UnixNano(), Node: "n1", Document: document, LogKey: [ed25519.PublicKeySize]byte{1},
	}}).AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := g.append(raft.LogCommand, b).(*fsm.GenesisResult); !ok || r.Err != nil {
		t.Fatalf("genesis: %+v", r)
	}
	return g
}

func (g *group) append(typ raft.LogType, data []byte) any {
	g.index++
	return g.fsm.ApplyBatch([]*raft.Log{{Index: g.index, Term: 1, Type: typ, Data: data}})[0]
}

// Apply implements pipeline.Log.
func (g *group) Apply(command []byte, _ time.Duration) pipeline.Future {
	g.mu.Lock()
	defer g.mu.Unlock()
	f := &future{done: make(chan struct{})}
	what := g.fate(g.count)
	g.count++
	commit := func() {
		f.response = g.append(raft.LogCommand, command)
		close(f.done)
	}
	switch what {
	case commits:
		commit()
	case waits:
		g.held = append(g.held, commit)
	case lost, lostInLog:
		if what == lostInLog {
			g.append(raft.LogCommand, command)
		}
		f.err = raft.ErrLeadershipLost
		close(f.done)
	case notLeader:
		f.err = raft.ErrNotLeader
		close(f.done)
	case notApplied:
		f.response = &fsm.Halted{Err: errors.New("disk")}
		close(f.done)
	}
	return f
}

// release lets everything that waits commit.
func (g *group) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, commit := range g.held {
		commit()
	}
	g.held = nil
}

// Barrier implements pipeline.Log. It takes a while: the bubble's clock.
func (g *group) Barrier(time.Duration) error {
	<-time.After(5 * time.Millisecond)
	return nil
}

// mesh is the peers' network: calls reach the other pipeline's handlers.
type mesh struct {
	mu    sync.Mutex // guards the fields below
	nodes map[string]*pipeline.Pipeline
	calls int
	// fate says what happens to a call before and after it was carried out.
	fate func(n int) (before, after error)
	// as, where not "", is who callers are known as.
	as string
	// silent is a node that calls reach, and that never answers.
	silent string
}

type meshPeer struct {
	*mesh
	self string
}

func (m meshPeer) Call(ctx context.Context, nodeID, method string, request []byte) ([]byte, error) {
	m.mu.Lock()
	p, silent, self := m.nodes[nodeID], m.silent == nodeID, cmp.Or(m.as, m.self)
	var before, after error
	if m.fate != nil {
		before, after = m.fate(m.calls)
	}
	m.calls++
	m.mu.Unlock()
	if before != nil {
		<-time.After(time.Millisecond) // the bubble's clock: others overtake it
		return nil, before
	}
	if silent {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	var reply []byte
	var err error
	switch method {
	case pipeline.MethodAppend:
		reply, err = p.ServeAppend(ctx, self, request)
	case pipeline.MethodRead:
		reply, err = p.ServeRead(ctx)
	}
	if errors.Is(err, pipeline.ErrNotLeading) {
		err = fmt.Errorf("%w: %w", pipeline.ErrNotSent, err)
	}
	if after != nil {
		return nil, after
	}
	return reply, err
}

// start runs a pipeline over the group; the bubble must be left by stop.
func start(g *group, m *mesh, id string, limits pipeline.Limits) (p *pipeline.Pipeline, stop func()) {
	p = pipeline.New(pipeline.Config{
		NodeID: id, Log: g, Peer: meshPeer{m, id}, View: g.fsm.View,
		Head: func() chain.Head { return g.fsm.View().Head() }, Clock: time.Now, Limits: limits,
		Logger: slog.New(slog.DiscardHandler),
	})
	m.mu.Lock()
	if m.nodes == nil {
		m.nodes = make(map[string]*pipeline.Pipeline)
	}
	m.nodes[id] = p
	m.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx) // always nil
	}()
	return p, func() {
		cancel()
		<-done
	}
}

var local = server.Caller{Principal: "local"}

func event(i int) chain.Event {
	return chain.Event{
		Workspace: "default", Source: "test", ID: fmt.Sprint(i), Kind: "hnsw.insert",
		Payload: fmt.Appendf(nil, `{"id":"%d"}`, i), ContentType: "application/json",
	}
}

// submit submits and waits.
func submit(ctx context.Context, p *pipeline.Pipeline, events ...chain.Event) ([]server.Ack, error) {
	pending, err := p.Submit(ctx, local, events)
	if err != nil {
		return nil, err
	}
	return pending.Wait(ctx)
}

func code(err error) api.Code {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// sealed returns the ids of the test's entries in the order of the chain.
func (g *group) sealed() []string {
	var ids []string
	for seq := range g.fsm.View().Head().Size {
		rec, err := g.store.Record(seq)
		if err != nil {
			g.t.Fatal(err)
		}
		h, err := chain.DecodeHeader(rec.Header)
		if err != nil {
			g.t.Fatal(err)
		}
		if h.Source == "test" {
			ids = append(ids, h.ID)
		}
	}
	return ids
}

// checkOrder fails unless events 0 to n-1 are in the chain once each, in order.
func (g *group) checkOrder(n int) {
	g.t.Helper()
	ids := g.sealed()
	if len(ids) != n {
		g.t.Fatalf("%d events in the chain, want %d", len(ids), n)
	}
	for i, id := range ids {
		if id != fmt.Sprint(i) {
			g.t.Fatalf("entry %d of the test is event %s", i, id)
		}
	}
}
