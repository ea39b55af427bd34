package pipeline_test

import (
	"context"
	"errors"
	"fmt"
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

// soon is well below Limits.Forward, and above a few pauses.
const soon = 300 * time.Millisecond

func (m *mesh) setSilent(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.silent = id
}

func submitAll(t *testing.T, p *pipeline.Pipeline, from, to int) []server.Pending {
	t.Helper()
	var pendings []server.Pending
	for i := from; i < to; i++ {
		pending, err := p.Submit(t.Context(), local, []chain.Event{event(i)})
		if err != nil {
			t.Fatal(err)
		}
		pendings = append(pendings, pending)
	}
	return pendings
}

func waitAll(t *testing.T, pendings []server.Pending) {
	t.Helper()
	for i, pending := range pendings {
		acks, err := pending.Wait(t.Context())
		if err != nil || acks[0].Err != nil {
			t.Fatalf("event %d: %+v, %v", i, acks, err)
		}
	}
}

// TestSilentLeaderIsNotWaitedFor: calls to a leader that died without a word end
// once another leads, this node or a third one, and so do reads.
func TestSilentLeaderIsNotWaitedFor(t *testing.T) {
	for name, role := range map[string]pipeline.Role{
		"this node leads": {Leading: true, Term: 2}, "another leads": {Leader: "n3", Term: 2}, "it leads again": {Leader: "n1", Term: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, gates.Development)
				m := new(mesh)
				m.setSilent("n1")
				old, stopOld := start(g, m, "n1", pipeline.Limits{})
				defer stopOld()
				other, stopOther := start(g, m, "n3", pipeline.Limits{})
				defer stopOther()
				p, stop := start(g, m, "n2", pipeline.Limits{CommandBytes: 500})
				defer stop()
				p.SetRole(pipeline.Role{Leader: "n1", Term: 1})
				pendings := submitAll(t, p, 0, 40)
				read := make(chan error, 1)
				go func() {
					_, err := p.ReadIndex(t.Context())
					read <- err
				}()
				synctest.Wait() // all slots wait for n1
				p.SetRole(pipeline.Role{Term: 2})
				synctest.Wait()
				m.setSilent("")
				old.SetRole(pipeline.Role{Leading: role.Leader == "n1"})
				other.SetRole(pipeline.Role{Leading: role.Leader == "n3"})
				begin := time.Now()
				p.SetRole(role)
				waitAll(t, pendings)
				if err := <-read; err != nil {
					t.Errorf("read: %v", err)
				}
				if d := time.Since(begin); d > soon {
					t.Errorf("it took %v to go on", d)
				}
				g.checkOrder(40)
			})
		})
	}
}

// TestFirstGroupRefused: the leader began to lead between two groups. Those that
// came after the refused one neither overtake it nor wait for it in vain.
func TestFirstGroupRefused(t *testing.T) {
	for name, failure := range map[string]error{
		"certainly": fmt.Errorf("%w: not leading yet", pipeline.ErrNotSent), "unknown": errors.New("connection reset"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, gates.Development)
				m := &mesh{fate: func(n int) (before, after error) {
					if n%7 == 0 {
						return failure, nil
					}
					return nil, nil
				}}
				leader, stopLeader := start(g, m, "n1", pipeline.Limits{})
				defer stopLeader()
				p, stop := start(g, m, "n2", pipeline.Limits{CommandBytes: 500})
				defer stop()
				leader.SetRole(pipeline.Role{Leading: true})
				pendings := submitAll(t, p, 0, 12)
				begin := time.Now()
				p.SetRole(pipeline.Role{Leader: "n1"})
				waitAll(t, pendings)
				if d := time.Since(begin); d > soon {
					t.Errorf("it took %v", d)
				}
				g.checkOrder(12)
			})
		})
	}
}

// TestLeaderRestarts: the leader's process is a new one and knows nothing of the
// groups before. It leads again, so in another term.
func TestLeaderRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		m := new(mesh)
		leader, stopLeader := start(g, m, "n1", pipeline.Limits{})
		p, stop := start(g, m, "n2", pipeline.Limits{})
		defer stop()
		leader.SetRole(pipeline.Role{Leading: true, Term: 1})
		p.SetRole(pipeline.Role{Leader: "n1", Term: 1})
		for i := range 5 {
			waitAll(t, submitAll(t, p, i, i+1))
		}
		stopLeader()
		leader, stopLeader = start(g, m, "n1", pipeline.Limits{})
		defer stopLeader()
		leader.SetRole(pipeline.Role{Leading: true, Term: 2})
		begin := time.Now()
		pendings := submitAll(t, p, 5, 6)
		synctest.Wait()
		p.SetRole(pipeline.Role{Leader: "n1", Term: 2})
		waitAll(t, pendings)
		if d := time.Since(begin); d > soon {
			t.Errorf("it took %v", d)
		}
		// So does a follower's.
		stop()
		p, stop = start(g, m, "n2", pipeline.Limits{})
		defer stop()
		p.SetRole(pipeline.Role{Leader: "n1", Term: 2})
		waitAll(t, submitAll(t, p, 6, 8))
		if d := time.Since(begin); d > soon {
			t.Errorf("after the follower's restart it took %v", d)
		}
		g.checkOrder(8)
	})
}

// TestForwardedEventsGoBack: a leader that is deposed does not forward what
// others forwarded to it. The next leader would take it for a forgery where it is
// the peer's own, and nobody knows the caller's deadline here.
func TestForwardedEventsGoBack(t *testing.T) {
	for name, what := range map[string]fate{"lost": lost, "lost but in the log": lostInLog, "never taken": notLeader} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t, gates.Development)
				g.fate = func(n int) fate {
					if n < 2 {
						return what
					}
					return commits
				}
				m := new(mesh)
				old, stopOld := start(g, m, "n1", pipeline.Limits{})
				defer stopOld()
				p, stop := start(g, m, "n2", pipeline.Limits{})
				defer stop()
				next, stopNext := start(g, m, "n3", pipeline.Limits{})
				defer stopNext()
				old.SetRole(pipeline.Role{Leading: true})
				p.SetRole(pipeline.Role{Leader: "n1"})
				type outcome struct {
					id  string
					ack server.Ack
				}
				got := make(chan outcome, 2)
				go func() { got <- outcome{"own", seal(t.Context(), p, fsm.NodePrincipal("n2"), "own")} }()
				go func() { got <- outcome{"a caller's", seal(t.Context(), old, "local", "a caller's")} }()
				synctest.Wait()
				old.SetRole(pipeline.Role{Leader: "n3", Term: 2})
				next.SetRole(pipeline.Role{Leading: true, Term: 2})
				<-time.After(soon) // n2 hears of it late
				p.SetRole(pipeline.Role{Leader: "n3", Term: 2})
				for range 2 {
					o := <-got
					_, sealed, err := g.store.Find(chain.Key{Workspace: "system", Source: "test", ID: o.id})
					if err != nil {
						t.Fatal(err)
					}
					switch c := code(o.ack.Err); {
					case o.ack.Err == nil && sealed:
					case o.id == "own" || c != api.UnknownOutcome && (c != api.NoLeader || sealed):
						t.Errorf("%s: in the chain: %v, answered %+v", o.id, sealed, o.ack)
					}
				}
			})
		})
	}
}

// TestStopWithForwardsInFlight: nobody waits for an answer after the end.
func TestStopWithForwardsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t, gates.Development)
		m := new(mesh)
		m.setSilent("n1")
		p, stop := start(g, m, "n2", pipeline.Limits{CommandBytes: 500})
		p.SetRole(pipeline.Role{Leader: "n1"})
		pendings := submitAll(t, p, 0, 40)
		synctest.Wait()
		stop()
		open := 0
		for i, pending := range pendings {
			acks, err := pending.Wait(context.Background()) // the bubble ends in a deadlock where it never comes
			switch c := code(acks[0].Err); {
			case err == nil && c == api.UnknownOutcome:
				open++
			case err != nil || c != api.NotReady:
				t.Errorf("event %d: %+v, %v", i, acks, err)
			}
		}
		if open == 0 || open == 40 {
			t.Errorf("%d of 40 events are open, want those that were sent", open)
		}
	})
}
