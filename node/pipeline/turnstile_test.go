package pipeline

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

// TestTurnstile has the groups of three runs of two forwarders overtake one
// another in every way: within a run they enter in order without a gap, never
// after a group of a later run, and nobody waits for what can't come.
func TestTurnstile(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			var turns turnstile
			turns.init()
			var places []place
			for forwarder := range uint64(2) {
				for run := range uint64(3) {
					for group := range uint64(5) {
						if group == 0 && run < 2 && random.IntN(3) == 0 {
							continue // it was lost; the run is given up
						}
						places = append(places, place{forwarder, run + 1, group})
					}
				}
			}
			random.Shuffle(len(places), func(i, k int) { places[i], places[k] = places[k], places[i] })
			var mu sync.Mutex // guards entered
			var entered []place
			var wg sync.WaitGroup
			for _, at := range places {
				wg.Go(func() {
					err := turns.pass(t.Context(), "peer", at, func() {
						mu.Lock()
						entered = append(entered, at)
						mu.Unlock()
					})
					if err != nil && (!errors.Is(err, errSuperseded) || at.run == 3) {
						t.Errorf("seed %d: %+v: %v", seed, at, err)
					}
				})
				if random.IntN(2) == 0 {
					synctest.Wait()
				}
			}
			wg.Wait()
			for forwarder := range uint64(2) {
				var own []place
				for _, at := range entered {
					if at.forwarder == forwarder {
						own = append(own, at)
					}
				}
				if !slices.IsSortedFunc(own, func(a, b place) int {
					if a.run != b.run {
						return int(a.run) - int(b.run)
					}
					return int(a.group) - int(b.group)
				}) {
					t.Fatalf("seed %d: entered out of order: %v", seed, own)
				}
				next := make(map[uint64]uint64)
				for _, at := range own {
					if at.group != next[at.run] {
						t.Fatalf("seed %d: a gap before %+v", seed, at)
					}
					next[at.run]++
				}
				if next[3] != 5 {
					t.Fatalf("seed %d: %d of the last run's groups entered", seed, next[3])
				}
			}
		})
	}
}

func TestTurnstileForgetsWhoGaveUp(t *testing.T) {
	var turns turnstile
	turns.init()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := turns.pass(ctx, "peer", place{1, 1, 0}, func() { t.Error("a group entered that its forwarder had given up") })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// A node that restarts again and again leaves a bounded trace.
	for forwarder := range uint64(100) {
		if err := turns.pass(t.Context(), "peer", place{forwarder, 1, 0}, func() {}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(turns.peers["peer"]); n != keepForwarders {
		t.Errorf("%d forwarders remembered, want %d", n, keepForwarders)
	}
}
