package pipeline_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/catalog"
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
	t     *testing.T
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

func newGroup(t *testing.T, env gates.Environment) *group {
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
}

type meshPeer struct {
	*mesh
	self string
}

func (m meshPeer) Call(ctx context.Context, nodeID, method string, request []byte) ([]byte, error) {
	m.mu.Lock()
	p := m.nodes[nodeID]
	var before, after error
	if m.fate != nil {
		before, after = m.fate(m.calls)
	}
	m.calls++
	m.mu.Unlock()
	if before != nil {
		return nil, before
	}
	var reply []byte
	var err error
	switch method {
	case pipeline.MethodAppend:
		reply, err = p.ServeAppend(ctx, m.self, request)
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

func TestLeaderCommitsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{CommandBytes: 2000})
		defer stop()
		p.SetRole(pipeline.Role{Leading: true})
		var pendings []server.Pending
		for i := range 500 {
			pending, err := p.Submit(t.Context(), local, []chain.Event{event(i)})
			if err != nil {
				t.Fatal(err)
			}
			pendings = append(pendings, pending)
		}
		last := uint64(0)
		for i, pending := range pendings {
			acks, err := pending.Wait(t.Context())
			if err != nil || acks[0].Err != nil {
				t.Fatalf("event %d: %+v, %v", i, acks, err)
			}
			if acks[0].Sequence <= last {
				t.Fatalf("event %d has sequence %d after %d", i, acks[0].Sequence, last)
			}
			last = acks[0].Sequence
		}
		g.checkOrder(500)
	})
}

// TestUnknownOutcomesAreRetried loses commands in every way: each event is in
// the chain once, and its caller is told so.
func TestUnknownOutcomesAreRetried(t *testing.T) {
	for name, what := range map[string]fate{"lost": lost, "lost but in the log": lostInLog, "not leader": notLeader, "not applied": notApplied} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, gates.Development)
				g.fate = func(n int) fate {
					if n%3 != 2 {
						return what
					}
					return commits
				}
				p, stop := start(g, new(mesh), "n1", pipeline.Limits{CommandBytes: 1500})
				defer stop()
				p.SetRole(pipeline.Role{Leading: true})
				var events []chain.Event
				for i := range 100 {
					events = append(events, event(i))
				}
				acks, err := submit(t.Context(), p, events...)
				if err != nil {
					t.Fatal(err)
				}
				for i, a := range acks {
					if a.Err != nil {
						t.Errorf("event %d: %v", i, a.Err)
					}
				}
				if ids := g.sealed(); len(ids) != 100 {
					t.Errorf("%d events in the chain, want 100", len(ids))
				}
			})
		})
	}
}

func TestNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{})
		defer stop()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		begin := time.Now()
		acks, err := submit(ctx, p, event(0))
		if err != nil || code(acks[0].Err) != api.NoLeader {
			t.Fatalf("got %+v, %v", acks, err)
		}
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("gave up after %v, want the caller's 3s", d)
		}
		// What was given up for good is never sent.
		p.SetRole(pipeline.Role{Leading: true})
		synctest.Wait()
		if ids := g.sealed(); len(ids) != 0 {
			t.Errorf("an event that was answered \"not written\" is in the chain: %v", ids)
		}
		if n := p.QueueLen(); n != 0 {
			t.Errorf("%d events wait for nobody", n)
		}
	})
}

func TestDeadlineWithOpenOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		g.fate = func(int) fate { return waits }
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{})
		defer stop()
		p.SetRole(pipeline.Role{Leading: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		acks, err := submit(ctx, p, event(0))
		if err != nil || code(acks[0].Err) != api.UnknownOutcome {
			t.Fatalf("got %+v, %v", acks, err)
		}
		g.release()
		synctest.Wait()
		g.checkOrder(1)
	})
}

func TestQueueFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{QueueEvents: 3})
		defer stop()
		var err error
		for i := range 4 {
			_, err = p.Submit(t.Context(), local, []chain.Event{event(i)})
		}
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.QueueFull || e.RetryAfterMillis == 0 {
			t.Fatalf("fourth event: %v", err)
		}
		p.SetRole(pipeline.Role{Leading: true})
		synctest.Wait()
		g.checkOrder(3)
		if _, err := p.Submit(t.Context(), local, []chain.Event{event(3)}); err != nil {
			t.Errorf("after the queue drained: %v", err)
		}
		synctest.Wait()
		g.checkOrder(4)
	})
}

func TestFollowerForwards(t *testing.T) {
	fates := map[string]func(n int) (before, after error){
		"well": nil,
		"not sent": func(n int) (error, error) {
			if n%2 == 0 {
				return fmt.Errorf("%w: refused", pipeline.ErrNotSent), nil
			}
			return nil, nil
		},
		"answer lost": func(n int) (error, error) {
			if n%2 == 0 {
				return nil, errors.New("connection reset")
			}
			return nil, nil
		},
	}
	for name, f := range fates {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, gates.Development)
				m := &mesh{fate: f}
				leader, stopLeader := start(g, m, "n1", pipeline.Limits{})
				defer stopLeader()
				follower, stopFollower := start(g, m, "n2", pipeline.Limits{CommandBytes: 1500})
				defer stopFollower()
				leader.SetRole(pipeline.Role{Leading: true})
				follower.SetRole(pipeline.Role{Leader: "n1"})
				var pendings []server.Pending
				for i := range 200 {
					pending, err := follower.Submit(t.Context(), local, []chain.Event{event(i)})
					if err != nil {
						t.Fatal(err)
					}
					pendings = append(pendings, pending)
				}
				for i, pending := range pendings {
					acks, err := pending.Wait(t.Context())
					if err != nil || acks[0].Err != nil {
						t.Fatalf("event %d: %+v, %v", i, acks, err)
					}
				}
				if ids := g.sealed(); len(ids) != 200 {
					t.Fatalf("%d events in the chain, want 200", len(ids))
				}
				if name == "well" {
					g.checkOrder(200) // nothing was retried
				}
			})
		})
	}
}

// TestLeaderChanges moves the leadership while events are on their way.
func TestLeaderChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		g.fate = func(n int) fate { return []fate{commits, lostInLog, notLeader, lost}[n%4] }
		m := new(mesh)
		a, stopA := start(g, m, "n1", pipeline.Limits{CommandBytes: 1000})
		defer stopA()
		b, stopB := start(g, m, "n2", pipeline.Limits{CommandBytes: 1000})
		defer stopB()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := range 40 {
				if i%2 == 0 {
					b.SetRole(pipeline.Role{Leader: "n1"})
					a.SetRole(pipeline.Role{Leading: true})
				} else {
					a.SetRole(pipeline.Role{Leader: "n2"})
					b.SetRole(pipeline.Role{Leading: true})
				}
				<-time.After(30 * time.Millisecond) // the bubble's clock
			}
		}()
		var wg sync.WaitGroup
		for w, p := range []*pipeline.Pipeline{a, b} {
			wg.Go(func() {
				for i := w; i < 100; i += 2 {
					acks, err := submit(t.Context(), p, event(i))
					if err != nil || acks[0].Err != nil {
						t.Errorf("event %d: %+v, %v", i, acks, err)
						return
					}
				}
			})
		}
		wg.Wait()
		<-done
		seen := make(map[string]bool)
		for _, id := range g.sealed() {
			if seen[id] {
				t.Errorf("event %s is in the chain twice", id)
			}
			seen[id] = true
		}
		if len(seen) != 100 {
			t.Errorf("%d events in the chain, want 100", len(seen))
		}
	})
}

// TestGovernanceTravelsAlone registers a kind between events that use it: each
// command is evaluated against what the one before left, so nothing is stale.
func TestGovernanceTravelsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Production)
		g.fate = func(int) fate { return waits }
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{})
		defer stop()
		p.SetRole(pipeline.Role{Leading: true})
		if acks, err := submit(t.Context(), p, chain.Event{
			Workspace: "default", Source: "test", ID: "x", Kind: "my.kind", Payload: []byte("{}"),
		}); err != nil || code(acks[0].Err) != api.UnknownKind {
			t.Fatalf("unknown kind: %+v, %v", acks, err)
		}
		first, err := p.Submit(t.Context(), local, []chain.Event{event(0)})
		if err != nil {
			t.Fatal(err)
		}
		register, err := p.Witness([]fsm.Proposal{{
			Event: chain.Event{
				Workspace: "system", Source: "exonode:catalog", ID: "register/my.kind/1", Kind: catalog.KindCatalogRegister,
				Payload: []byte(`{"kind":"my.kind","schema":{},"gate":""}`), ContentType: "application/json",
			},
			Principal: "local",
		}})
		if err != nil {
			t.Fatal(err)
		}
		second, err := p.Submit(t.Context(), local, []chain.Event{event(1)})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			synctest.Wait()
			g.mu.Lock()
			if n := len(g.held); n != 1 {
				t.Errorf("%d commands in flight, want one at a time around a change of governance", n)
			}
			g.mu.Unlock()
			g.release()
		}
		for i, pending := range []server.Pending{first, register, second} {
			acks, err := pending.Wait(t.Context())
			if err != nil || acks[0].Err != nil {
				t.Fatalf("%d: %+v, %v", i, acks, err)
			}
		}
		g.fate = func(int) fate { return commits }
		acks, err := submit(t.Context(), p, chain.Event{Workspace: "default", Source: "test", ID: "x", Kind: "my.kind", Payload: []byte("{}")})
		if err != nil || acks[0].Err != nil {
			t.Fatalf("registered kind: %+v, %v", acks, err)
		}
	})
}

func TestVerdicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Production)
		m := new(mesh)
		leader, stopLeader := start(g, m, "n1", pipeline.Limits{})
		defer stopLeader()
		follower, stopFollower := start(g, m, "n2", pipeline.Limits{})
		defer stopFollower()
		leader.SetRole(pipeline.Role{Leading: true})
		follower.SetRole(pipeline.Role{Leader: "n1"})
		gated := func(id string, effect *chain.Effect) chain.Event {
			return chain.Event{
				Workspace: "default", Source: "test", ID: id, Kind: "tool.register",
				Payload: []byte(`{"tool_name":"t"}`), ContentType: "application/json", DeclaredEffect: effect,
			}
		}
		acks, err := submit(t.Context(), follower,
			gated("permitted", nil), gated("denied", &chain.Effect{9999}), gated("escalated", &chain.Effect{6000}), gated("denied", &chain.Effect{9999}))
		if err != nil {
			t.Fatal(err)
		}
		if a := acks[0]; a.Err != nil || a.Verdict == nil || a.Verdict.Decision != chain.Permit {
			t.Errorf("permitted: %+v", a)
		}
		if a := acks[1]; code(a.Err) != api.GateDenied || a.Verdict == nil || a.Verdict.Decision != chain.Deny {
			t.Errorf("denied: %+v", a)
		}
		if a := acks[2]; code(a.Err) != api.Escalated || a.Verdict.Decision != chain.Escalate {
			t.Errorf("escalated: %+v", a)
		}
		if a := acks[3]; code(a.Err) != api.NotComparable {
			t.Errorf("denied again: %+v", a)
		}
	})
}

func TestRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Production)
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{Payload: 100})
		defer stop()
		p.SetRole(pipeline.Role{Leading: true})
		change := func(f func(*chain.Event)) chain.Event {
			e := event(1)
			f(&e)
			return e
		}
		cases := map[api.Code]chain.Event{
			api.BadField:       change(func(e *chain.Event) { e.ID = "" }),
			api.ReservedSpace:  change(func(e *chain.Event) { e.Workspace = "system" }),
			api.ReservedKind:   change(func(e *chain.Event) { e.Kind = "governance.permit" }),
			api.TooLarge:       change(func(e *chain.Event) { e.Payload = make([]byte, 101) }),
			api.EffectRange:    change(func(e *chain.Event) { e.DeclaredEffect = &chain.Effect{10_001} }),
			api.UnknownKind:    change(func(e *chain.Event) { e.Kind = "no.such" }),
			api.PayloadInvalid: change(func(e *chain.Event) { e.Payload = []byte(`{"id":1}`) }),
		}
		for want, e := range cases {
			// A good event beside it commits.
			acks, err := submit(t.Context(), p, e, event(len(g.sealed())))
			if err != nil || code(acks[0].Err) != want || acks[1].Err != nil {
				t.Errorf("%s: got %+v, %v", want, acks, err)
			}
		}
		g.checkOrder(len(cases))
		ungated := change(func(e *chain.Event) { e.DeclaredEffect = &chain.Effect{100} })
		acks, err := submit(t.Context(), p, ungated)
		var e *api.Error
		if err != nil || !errors.As(acks[0].Err, &e) || e.Field != "effect" {
			t.Errorf("effect of an ungated kind: %+v, %v", acks, err)
		}
	})
}

// TestSystemEventsFromPeers: a peer may write to system as itself alone.
func TestSystemEventsFromPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		m := new(mesh)
		leader, stopLeader := start(g, m, "n1", pipeline.Limits{})
		defer stopLeader()
		leader.SetRole(pipeline.Role{Leading: true})
		follower, stopFollower := start(g, m, "n2", pipeline.Limits{})
		defer stopFollower()
		follower.SetRole(pipeline.Role{Leader: "n1"})
		seal := func(principal string) server.Ack {
			pending, err := follower.Witness([]fsm.Proposal{{
				Event: chain.Event{
					Workspace: "system", Source: "exonode:node", ID: principal, Kind: catalog.KindClusterDemote,
					Payload: []byte(`{"node_id":"x"}`), ContentType: "application/json",
				},
				Principal: principal,
			}})
			if err != nil {
				t.Fatal(err)
			}
			acks, err := pending.Wait(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return acks[0]
		}
		if a := seal(pipeline.NodePrincipal("n2")); a.Err != nil {
			t.Errorf("as itself: %v", a.Err)
		}
		if a := seal(pipeline.NodePrincipal("n3")); code(a.Err) != api.ReservedSpace {
			t.Errorf("as another: %+v", a)
		}
	})
}

func TestReadIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		m := new(mesh)
		leader, stopLeader := start(g, m, "n1", pipeline.Limits{})
		defer stopLeader()
		follower, stopFollower := start(g, m, "n2", pipeline.Limits{})
		defer stopFollower()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := follower.ReadIndex(ctx); code(err) != api.NoLeader {
			t.Fatalf("without a leader: %v", err)
		}
		leader.SetRole(pipeline.Role{Leading: true})
		follower.SetRole(pipeline.Role{Leader: "n1"})
		for i, p := range []*pipeline.Pipeline{leader, follower} {
			acks, err := submit(t.Context(), p, event(i))
			if err != nil || acks[0].Err != nil {
				t.Fatal(acks, err)
			}
			size, err := follower.ReadIndex(t.Context())
			if err != nil || size <= acks[0].Sequence {
				t.Errorf("read at size %d, %v, after entry %d was acknowledged", size, err, acks[0].Sequence)
			}
		}
		// A hundred reads at once share a few barriers.
		before := leader.Stats().Barriers.Load()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := follower.ReadIndex(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := leader.Stats().Barriers.Load() - before; n > 20 {
			t.Errorf("%d barriers for 100 reads at once", n)
		}
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{})
		pending, err := p.Submit(t.Context(), local, []chain.Event{event(0)})
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan error)
		go func() {
			_, err := p.ReadIndex(t.Context())
			read <- err
		}()
		synctest.Wait()
		go stop()
		acks, err := pending.Wait(t.Context())
		if err != nil || code(acks[0].Err) != api.NotReady {
			t.Errorf("waiting event: %+v, %v", acks, err)
		}
		if err := <-read; code(err) != api.NotReady {
			t.Errorf("waiting read: %v", err)
		}
		synctest.Wait()
		if _, err := p.Submit(t.Context(), local, []chain.Event{event(1)}); code(err) != api.NotReady {
			t.Errorf("after the end: %v", err)
		}
		if _, err := p.ReadIndex(t.Context()); code(err) != api.NotReady {
			t.Errorf("read after the end: %v", err)
		}
	})
}
