package pipeline_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
)

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

// seal has a node write an event to workspace system.
func seal(ctx context.Context, p *pipeline.Pipeline, principal, id string) server.Ack {
	pending, err := p.Witness([]fsm.Proposal{{
		Event: chain.Event{
			Workspace: "system", Source: "test", ID: id, Kind: catalog.KindClusterDemote,
			Payload: []byte(`{"node_id":"x"}`), ContentType: "application/json",
		},
		Principal: principal,
	}})
	if err != nil {
		return server.Ack{Err: err}
	}
	acks, err := pending.Wait(ctx)
	if err != nil {
		return server.Ack{Err: err}
	}
	return acks[0]
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
		if a := seal(t.Context(), follower, fsm.NodePrincipal("n2"), "own"); a.Err != nil {
			t.Errorf("as itself: %v", a.Err)
		}
		// Only the leader writes in the name of others.
		if a := seal(t.Context(), follower, "local", "for a caller"); code(a.Err) != api.NoLeader {
			t.Errorf("a follower in a caller's name: %+v", a)
		}
		if a := seal(t.Context(), leader, "local", "for a caller"); a.Err != nil {
			t.Errorf("the leader in a caller's name: %v", a.Err)
		}
		// A forger that forwards it all the same.
		forger, stopForger := start(g, m, "n3", pipeline.Limits{})
		defer stopForger()
		forger.SetRole(pipeline.Role{Leader: "n1"})
		m.mu.Lock()
		m.as = "n4"
		m.mu.Unlock()
		if a := seal(t.Context(), forger, fsm.NodePrincipal("n3"), "forged"); code(a.Err) != api.ReservedSpace {
			t.Errorf("as another: %+v", a)
		}
	})
}

// change seals an entry that changes the catalog, behind the pipelines' back.
func (g *group) change(id, kind, payload string) {
	g.t.Helper()
	b, err := (&fsm.Command{Batch: &fsm.Batch{Stamp: time.Now().UnixNano(), Node: "n9", Revision: g.fsm.View().Revision(), Events: []fsm.Proposal{{
		Event: chain.Event{
			Workspace: "system", Source: "exonode:catalog", ID: id, Kind: kind,
			Payload: []byte(payload), ContentType: "application/json", Salt: new([chain.SaltSize]byte),
		},
		Principal: "local",
	}}}}).AppendBinary(nil)
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if r, ok := g.append(raft.LogCommand, b).(*fsm.BatchResult); !ok || r.Results[0].Status != fsm.Appended {
		g.t.Fatalf("%s: %+v", id, r)
	}
}

// TestRefusalIsNoLastWord: an event whose first attempt is open may be in the
// chain, whatever is said of the second.
func TestRefusalIsNoLastWord(t *testing.T) {
	for name, where := range map[string]string{"here": "n1", "at the leader": "n2"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, gates.Development)
				g.change("register/1", catalog.KindCatalogRegister, `{"kind":"my.kind","schema":{},"gate":""}`)
				g.fate = func(int) fate { return lostInLog }
				m := new(mesh)
				nodes := make(map[string]*pipeline.Pipeline)
				for _, id := range []string{"n1", "n2"} {
					p, stop := start(g, m, id, pipeline.Limits{})
					defer stop()
					nodes[id] = p
				}
				nodes["n1"].SetRole(pipeline.Role{Leading: true, Term: 1})
				nodes["n2"].SetRole(pipeline.Role{Leader: "n1", Term: 1})
				e := event(0)
				e.Kind = "my.kind"
				pending, err := nodes[where].Submit(t.Context(), local, []chain.Event{e})
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // it is lost, and in the chain
				g.change("retire/1", catalog.KindCatalogRetire, `{"kind":"my.kind"}`)
				g.mu.Lock()
				g.fate = func(int) fate { return commits }
				g.mu.Unlock()
				acks, err := pending.Wait(t.Context())
				if err != nil || code(acks[0].Err) != api.UnknownOutcome {
					t.Errorf("got %+v, %v", acks, err)
				}
			})
		})
	}
}

// TestRulesChangeWhileItWaits: an event is held against the rules in force when
// it is proposed, not when it came.
func TestRulesChangeWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		g.change("register/1", catalog.KindCatalogRegister, `{"kind":"my.kind","schema":{},"gate":""}`)
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{})
		defer stop()
		p.SetRole(pipeline.Role{Leading: true})
		g.fate = func(int) fate { return waits }
		register, err := p.Witness([]fsm.Proposal{{
			Event: chain.Event{
				Workspace: "system", Source: "exonode:catalog", ID: "register/2", Kind: catalog.KindCatalogRegister,
				Payload: []byte(`{"kind":"my.kind","schema":{"type":"object","required":["must"]},"gate":""}`), ContentType: "application/json",
			},
			Principal: "local",
		}})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // the command is in flight, alone
		before, after := event(0), event(1)
		before.Kind, after.Kind = "my.kind", "my.kind"
		after.Payload = []byte(`{"must":1}`)
		pending, err := p.Submit(t.Context(), local, []chain.Event{before, after})
		if err != nil {
			t.Fatal(err)
		}
		g.fate = func(int) fate { return commits }
		g.release()
		waitAll(t, []server.Pending{register})
		acks, err := pending.Wait(t.Context())
		if err != nil || code(acks[0].Err) != api.PayloadInvalid || acks[1].Err != nil {
			t.Fatalf("got %+v, %v", acks, err)
		}
		rec, err := g.store.Record(acks[1].Sequence)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := chain.DecodeHeader(rec.Header); err != nil || h.SchemaVersion != 2 {
			t.Errorf("sealed under schema version %d, %v, want 2", h.SchemaVersion, err)
		}
	})
}
