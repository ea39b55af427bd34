package pipeline_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node/pipeline"
)

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
		if _, err := follower.ReadIndex(ctx); code(err) != api.NotReady {
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
