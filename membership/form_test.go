package membership

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// inSim runs a test in a bubble with its own network.
func inSim(t *testing.T, seed uint64, expect, nodes int, f func(t *testing.T, s *sim)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, seed, expect, nodes)
		defer s.down()
		f(t, s)
	})
}

func (s *sim) want(first string) {
	s.t.Helper()
	if len(s.clusters) != 1 || ids(s.clusters[0].first) != first {
		s.t.Errorf("%d clusters, want one of %s", len(s.clusters), first)
	}
}

func TestFormOne(t *testing.T) {
	inSim(t, 1, 1, 1, func(t *testing.T, s *sim) {
		s.nodes[0].sees = nil
		start := time.Now()
		s.nodes[0].start()
		synctest.Wait()
		s.want("a")
		if d := time.Since(start); d != 0 {
			t.Errorf("took %s, want no wait at all", d)
		}
	})
}

func TestFormInAnyOrder(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			inSim(t, 1, 3, 3, func(t *testing.T, s *sim) {
				for _, i := range order {
					if len(s.clusters) > 0 {
						t.Error("formed with nodes missing")
					}
					s.nodes[i].start()
					time.Sleep(10 * time.Second)
				}
				s.settle(10 * time.Second)
				s.want("abc")
			})
		})
	}
}

// One seed is enough, whichever node it is: the others hear of each other.
func TestFormByOneSeed(t *testing.T) {
	for seed := range 3 {
		inSim(t, 1, 3, 3, func(t *testing.T, s *sim) {
			for _, n := range s.nodes {
				n.sees = []string{s.nodes[seed].self.PeerAddr}
				n.start()
			}
			s.settle(20 * time.Second)
			s.want("abc")
		})
	}
}

func TestExtraNodesJoin(t *testing.T) {
	inSim(t, 1, 3, 5, func(t *testing.T, s *sim) {
		for _, n := range s.nodes {
			n.start()
		}
		s.settle(60 * time.Second)
		if got := len(s.clusters[0].members); got != 5 {
			t.Errorf("%d members, want 5", got)
		}
	})
}

// The proposer crashes after some promised: it resumes with the same attempt.
func TestProposerResumes(t *testing.T) {
	inSim(t, 1, 3, 3, func(t *testing.T, s *sim) {
		a, b, c := s.nodes[0], s.nodes[1], s.nodes[2]
		a.start()
		b.start()
		c.start()
		// It dies as soon as a first promise was given by another.
		for b.promises.Held() == nil && c.promises.Held() == nil {
			time.Sleep(time.Millisecond)
		}
		before := a.promises.Held().Digest()
		a.kill(false)
		time.Sleep(time.Hour) // nobody may go on without it
		if len(s.clusters) > 0 {
			t.Fatal("formed without the proposer")
		}
		a.start()
		synctest.Wait()
		if h := a.promises.Held(); h == nil || h.Digest() != before {
			t.Errorf("resumed with %v", h)
		}
		s.settle(30 * time.Second)
		s.want("abc")
	})
}

// Two proposers, as each sees only some: the higher one gives way.
func TestTwoProposers(t *testing.T) {
	inSim(t, 1, 3, 4, func(t *testing.T, s *sim) {
		a, b, c, d := s.nodes[0], s.nodes[1], s.nodes[2], s.nodes[3]
		// a is apart, and d is down: b proposes bcd when d appears, but
		// c has lost touch by then.
		s.cut = map[[2]*simNode]bool{{a, b}: true, {a, c}: true, {a, d}: true, {b, c}: false}
		b.start()
		c.start()
		d.start()
		for b.promises.Held() == nil {
			time.Sleep(time.Millisecond)
		}
		s.mu.Lock()
		s.cut = map[[2]*simNode]bool{{a, d}: true, {b, c}: true, {b, d}: true}
		s.mu.Unlock()
		a.start()
		time.Sleep(time.Minute)
		s.mu.Lock()
		s.cut = map[[2]*simNode]bool{}
		s.mu.Unlock()
		s.settle(time.Minute)
	})
}

// A node whose proposer lost its disk stays bound until an operator resets it.
func TestLostProposer(t *testing.T) {
	inSim(t, 1, 2, 3, func(t *testing.T, s *sim) {
		a, b, c := s.nodes[0], s.nodes[1], s.nodes[2]
		a.start()
		b.start()
		for b.promises.Held() == nil {
			time.Sleep(time.Millisecond)
		}
		a.kill(false)
		if len(s.clusters) > 0 {
			t.Skip("formed before it could be killed")
		}
		// a comes back as another server, on an empty disk.
		a.disk, a.self.ServerID = newCrashFS(), "srv-z"
		a.start()
		time.Sleep(time.Minute)
		if len(s.clusters) > 0 || b.promises.Held() == nil {
			t.Fatal("a promise was released to another incarnation")
		}
		b.kill(true)
		if was, err := ResetPromise("d", b.disk, false); !was || err != nil {
			t.Fatalf("reset: %t, %v", was, err)
		}
		b.start()
		c.start()
		s.settle(time.Minute)
	})
}

// Different ideas of the size form nothing, and say so.
func TestExpectDiffers(t *testing.T) {
	in := FormationInput{
		Now: time.Unix(100, 0), Fresh: time.Minute, Expect: 2, Self: Member{NodeID: "n1", ServerID: "s1"},
		Hellos: []HeardHello{{Addr: "x:1", At: time.Unix(99, 0), Hello: Hello{
			Self: Member{NodeID: "n2", ServerID: "s2"}, Expect: 3, State: Forming,
		}}},
	}
	d := DecideFormation(in)
	if d.Step != StepWait || d.Reason != "1 of 2 nodes found; n2 expects 3 nodes, this one 2: give all the same --bootstrap-expect" {
		t.Errorf("decision %+v", d)
	}
}

var formSeeds = flag.Uint64("form.seeds", 30, "number of seeds of TestFormRandom")

// Nodes start in any order, see each other partly, crash and come back with
// what their disks kept, and calls are delayed, lost and repeated: never two
// configurations; and once all is calm, one.
func TestFormRandom(t *testing.T) {
	for seed := range *formSeeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 2))
			expect := 1 + rng.IntN(4)
			nodes := expect + rng.IntN(expect)
			inSim(t, seed, expect, nodes, func(t *testing.T, s *sim) {
				s.rough = true
				all := make([][]string, nodes)
				for i, n := range s.nodes {
					all[i] = n.sees
					n.sees = slices.DeleteFunc(slices.Clone(n.sees), func(string) bool { return rng.IntN(3) == 0 })
				}
				for range 40 {
					n := s.nodes[rng.IntN(nodes)]
					if n.handler == nil {
						n.start()
					} else if rng.IntN(2) == 0 {
						n.kill(rng.IntN(2) == 0)
					}
					if rng.IntN(4) == 0 {
						x, y := s.nodes[rng.IntN(nodes)], s.nodes[rng.IntN(nodes)]
						s.mu.Lock()
						s.cut[[2]*simNode{x, y}] = x != y && rng.IntN(2) == 0
						s.mu.Unlock()
					}
					time.Sleep(time.Duration(rng.Float64() * float64(4*time.Second)))
				}
				s.mu.Lock()
				s.rough = false
				clear(s.cut)
				s.oneCluster()
				s.mu.Unlock()
				for i, n := range s.nodes {
					n.kill(rng.IntN(2) == 0)
					n.sees = all[i]
					n.start()
				}
				s.settle(2 * time.Minute)
			})
		})
	}
}
