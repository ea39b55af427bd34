package pipeline_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
)

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
		p.SetRole(pipeline.Role{Leader: "n2"})
		p.SetRole(pipeline.Role{})
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

// TestLeaderless: once no leader has been known for long, events are answered
// before their callers' deadline, and a node's own wait on.
func TestLeaderless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{Leaderless: 4 * time.Second})
		defer stop()
		own, err := p.Witness([]fsm.Proposal{{Event: event(0), Principal: fsm.NodePrincipal("n1")}})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []struct {
			code api.Code
			took time.Duration
		}{{api.NotReady, 4 * time.Second}, {api.NotReady, 0}, {api.NoLeader, 4 * time.Second}, {api.NoLeader, 0}} {
			if i == 2 {
				if p.Leaderless() == 0 {
					t.Error("the node does not say that it has no leader")
				}
				p.SetRole(pipeline.Role{Leading: true})
				if acks, err := own.Wait(t.Context()); err != nil || acks[0].Err != nil {
					t.Errorf("the node's own event: %+v, %v", acks, err)
				}
				p.SetRole(pipeline.Role{})
				if p.Leaderless() != 0 {
					t.Error("the node gives up at once")
				}
			}
			begin := time.Now()
			acks, err := submit(t.Context(), p, event(1))
			if took := time.Since(begin); err != nil || code(acks[0].Err) != want.code || took != want.took {
				t.Errorf("event %d after %v: %+v, %v; want %s after %v", i, took, acks, err, want.code, want.took)
			}
		}
		p.SetRole(pipeline.Role{Leading: true})
		if acks, err := submit(t.Context(), p, event(1)); err != nil || acks[0].Err != nil {
			t.Errorf("with a leader: %+v, %v", acks, err)
		}
		g.checkOrder(2)
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

// TestGivenUpMakesRoom: events that were never sent, and whose callers left, do
// not fill the queue.
func TestGivenUpMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		p, stop := start(g, new(mesh), "n1", pipeline.Limits{QueueEvents: 8})
		defer stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		patient := submitAll(t, p, 0, 7)
		if acks, err := submit(ctx, p, event(99)); err != nil || code(acks[0].Err) != api.NotReady {
			t.Fatalf("got %+v, %v", acks, err)
		}
		patient = append(patient, submitAll(t, p, 7, 8)...)
		if _, err := p.Submit(t.Context(), local, []chain.Event{event(8)}); code(err) != api.QueueFull {
			t.Errorf("a ninth event: %v", err)
		}
		p.SetRole(pipeline.Role{Leading: true})
		waitAll(t, patient)
		g.checkOrder(8)
	})
}

// TestNobodyWaitsAnyMore: an event that was sent, and lost, after its caller had
// left is not sent again.
func TestNobodyWaitsAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		m := new(mesh)
		m.setSilent("n1")
		p, stop := start(g, m, "n2", pipeline.Limits{})
		defer stop()
		p.SetRole(pipeline.Role{Leader: "n1"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if acks, err := submit(ctx, p, event(0)); err != nil || code(acks[0].Err) != api.UnknownOutcome {
			t.Fatalf("got %+v, %v", acks, err)
		}
		p.SetRole(pipeline.Role{Leading: true})
		waitAll(t, submitAll(t, p, 1, 2))
		if ids := g.sealed(); len(ids) != 1 || ids[0] != "1" {
			t.Errorf("in the chain are %v, want event 1", ids)
		}
		if n := p.QueueLen(); n != 0 {
			t.Errorf("%d events wait for nobody", n)
		}
	})
}
