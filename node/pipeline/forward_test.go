package pipeline_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
)

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
