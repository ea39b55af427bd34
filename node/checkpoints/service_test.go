package checkpoints

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/node/signing"
)

// await returns the checkpoint that a member has of at least size entries.
func (c *cluster) await(id string, size uint64) *Final {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	f, err := c.members[id].Await(ctx, size)
	if err != nil {
		c.t.Fatalf("%s: %v; %+v", id, err, c.members[c.leader()].Status())
	}
	return f
}

// never asserts that nothing newer becomes final at the leader, and returns its word.
func (c *cluster) never() Status {
	c.t.Helper()
	size := c.members[c.leader()].Size()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	if f, err := c.members[c.leader()].Await(ctx, size); err == nil {
		c.t.Fatalf("%d entries are final, signed by %v", f.Note.Checkpoint.Size, f.Signed)
	}
	return c.members[c.leader()].Status()
}

// TestFinalEverywhere: a checkpoint that all members take, by the policy that each tells,
// and that names the right tree; keys and the log's key go round by themselves.
func TestFinalEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, func(id string, cfg *Config) { cfg.MLDSA = id == "n2" })
		c.grow(10)
		c.await("n1", 1)
		// Keys of all: each is named by an entry, which is final in its turn.
		time.Sleep(30 * time.Second)
		for _, id := range c.order {
			m := c.members[id]
			f := c.await(id, m.Size())
			root, _ := m.RootAt(f.Note.Checkpoint.Size)
			if p := f.Note.Checkpoint; p.Root != root || p.Origin != "exonode/"+testID.String()+"/0" {
				t.Errorf("%s: %+v, its root is %v", id, p, root)
			}
			view := m.fsm.View()
			policy := Policy(view.Origin(), view.Genesis().LogKey, Voters(view))
			j, err := policy.Verify(f.Note)
			if err != nil || len(j.Cosigned) != 4 {
				t.Errorf("%s: cosigned %d times: %v", id, len(j.Cosigned), err)
			}
			if again, err := checkpoint.ParsePolicy([]byte(policy.String())); err != nil || again.String() != policy.String() {
				t.Errorf("the policy is not read again: %v\n%s", err, policy)
			}
			if m.key(view) == nil {
				t.Errorf("%s does not have the log's key", id)
			}
		}
		// Any of them leads on.
		c.leading.Store("n3")
		c.grow(1)
		c.await("n1", c.members["n1"].Size())
		// One that is down is not needed, two are.
		c.members["n1"].down.Store(true)
		c.grow(1)
		if f := c.await("n3", c.members["n3"].Size()); len(f.Signed) != 2 || f.Signed["n1"] {
			t.Errorf("signed by %v", f.Signed)
		}
		c.members["n2"].down.Store(true)
		c.grow(1)
		s := c.never()
		if len(s.Refusals) != 2 || !strings.Contains(s.Problem, "1 of 3 voters cosigned") {
			t.Errorf("%+v", s)
		}
	})
}

// TestNothingMoves: a cluster in which nothing is committed signs nothing again.
func TestNothingMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		f := c.members["n1"].Final()
		if f == nil || f.Note.Checkpoint.Size != c.members["n1"].Size() {
			t.Fatalf("%v of %d", f, c.members["n1"].Size())
		}
		time.Sleep(time.Minute)
		if again := c.members["n1"].Final(); again != f {
			t.Errorf("another checkpoint of the same tree")
		}
	})
}

// TestInterval: while the chain grows all the time, checkpoints come at most once an
// interval, but at once where somebody waits.
func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		made := make(map[*Final]bool)
		for range 100 {
			c.grow(1)
			time.Sleep(100 * time.Millisecond)
			made[c.members["n1"].Final()] = true
		}
		if n := len(made); n < 8 || n > 12 {
			t.Errorf("%d checkpoints in 10 s", n)
		}
		c.grow(1)
		began := time.Now()
		c.await("n2", c.members["n2"].Size())
		if took := time.Since(began); took > 300*time.Millisecond {
			t.Errorf("who waited got it after %v", took)
		}
	})
}

// TestPatchedLeader: a leader that seals an event with a permit, where the policy denies
// it, gets no cosignature for it or anything that follows. Its own included.
func TestPatchedLeader(t *testing.T) {
	for _, want := range []chain.Decision{chain.Deny, chain.Escalate} {
		t.Run(fmt.Sprint(want), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, nil)
				time.Sleep(time.Minute)
				p := c.event("tool.execute", "patched", `{"tool":"t"}`)
				p.DeclaredEffect = &chain.Effect{10_000}
				if want == chain.Escalate {
					p.DeclaredEffect = &chain.Effect{7_000}
				}
				view := c.members["n1"].fsm.View()
				if p.Verdict = view.Evaluate(&p); p.Verdict.Decision != want {
					t.Fatalf("policy says %v, the test is about %v", p.Verdict.Decision, want)
				}
				p.Verdict.Decision = chain.Permit
				at := c.members["n1"].Size()
				c.seal(p)
				c.grow(3)
				s := c.never()
				for _, id := range c.order {
					if why := s.Refusals[id]; !strings.Contains(why, fmt.Sprintf("entry %d", at)) || !strings.Contains(why, "verdict") {
						t.Errorf("%s refuses since %q", id, why)
					}
				}
				if s.Size > at {
					t.Errorf("%d entries are final, the patched one is %d", s.Size, at)
				}
				// What stands before it may be signed: nothing is wrong with it.
				n1 := c.members["n1"]
				n, err := n1.sign(n1.fsm.View(), at)
				if err == nil {
					_, err = c.members["n2"].serveCosign(t.Context(), n.Bytes())
				}
				if err != nil && !errors.Is(err, signing.ErrOlder) {
					t.Error(err)
				}
			})
		})
	}
}

// TestAhead: entries that are stamped ahead of a voter's clock are not cosigned, until the
// clock gets there.
func TestAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		c.members["n1"].ahead.Store(int64(maxAhead + 10*time.Minute))
		c.grow(1)
		if s := c.never(); !strings.Contains(s.Problem, "ahead of this node's clock") {
			t.Errorf("%+v", s)
		}
		time.Sleep(10 * time.Minute)
		c.await("n2", c.members["n2"].Size())
	})
}

// TestBehindVoter: a voter that has not applied what it is to cosign is waited for a
// little, and does not sign what it has not seen.
func TestBehindVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, nil)
		time.Sleep(time.Minute)
		c.grow(1, "n1")
		s := c.never()
		if why := s.Refusals["n2"]; !strings.Contains(why, "not that far yet") {
			t.Errorf("%+v", s)
		}
	})
}

// TestNewKeys: a voter that comes in counts once a checkpoint that covers it is final by
// those who voted before, and the chain says so by that checkpoint; who trusts them alone
// can verify it.
func TestNewKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		n1 := c.members["n1"]
		was := n1.fsm.View().Trusted()
		if len(was) != 3 || len(was[0].Keys) != 1 {
			t.Fatalf("%v voters are recorded", was)
		}
		old := Policy(n1.fsm.View().Origin(), n1.fsm.View().Genesis().LogKey, Voters(n1.fsm.View()))
		// Two more join, so that new ones alone could never be a quorum of the old.
		c.join("n4", "n5")
		c.vote(c.order...)
		time.Sleep(time.Minute)
		view := n1.fsm.View()
		if now := view.Trusted(); len(now) != 5 || len(now[4].Keys) != 1 {
			t.Fatalf("%v voters are recorded", now)
		}
		recorded := c.recorded()
		last := recorded[len(recorded)-1]
		for name, p := range map[string]*checkpoint.Policy{"old": old, "new": Policy(view.Origin(), view.Genesis().LogKey, Voters(view))} {
			if _, err := p.Verify(last); err != nil {
				t.Errorf("the recorded checkpoint, by the %s voters: %v", name, err)
			}
		}
		if len(recorded) > 5 {
			t.Errorf("%d checkpoints are recorded", len(recorded))
		}
		// The old ones gone, it takes them to let the new ones in: two of five are no
		// quorum, and three of which one is old are one.
		c.members["n2"].down.Store(true)
		c.members["n3"].down.Store(true)
		c.grow(1)
		c.await("n4", c.members["n4"].Size())
	})
}

// TestOldKeysFirst: without a quorum of the voters that are recorded, new ones that are a
// quorum by themselves make nothing final.
func TestOldKeysFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		c.join("n4", "n5")
		c.members["n2"].down.Store(true)
		c.members["n3"].down.Store(true)
		c.vote(c.order...)
		if s := c.never(); !strings.Contains(s.Problem, "cosigned") || s.Size == 0 {
			t.Errorf("%+v", s)
		}
		c.members["n2"].down.Store(false)
		c.await("n5", c.members["n5"].Size())
	})
}

// TestLogKeyIsForVoters: who does not vote does not get the log's key.
func TestLogKeyIsForVoters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		if seed, err := c.members["n1"].serveKey("stranger"); err == nil || seed != nil {
			t.Errorf("a stranger got %x, %v", seed, err)
		}
		if seed, err := c.members["n1"].serveKey("n2"); err != nil || len(seed) != 32 {
			t.Errorf("a voter got %d bytes, %v", len(seed), err)
		}
	})
}

// TestPublishRefuses: what a member sends as final is checked.
func TestPublishRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		n2 := c.members["n2"]
		genuine := c.await("n2", n2.Size()).Note
		change := func(f func(*checkpoint.Note)) []byte {
			n, err := checkpoint.ParseNote(genuine.Bytes())
			c.must(err)
			f(n)
			return n.Bytes()
		}
		for name, b := range map[string][]byte{
			"no note":        []byte("x"),
			"another origin": change(func(n *checkpoint.Note) { n.Checkpoint.Origin += "x" }),
			"another root":   change(func(n *checkpoint.Note) { n.Checkpoint.Root[0]++ }),
			"a larger tree":  change(func(n *checkpoint.Note) { n.Checkpoint.Size += 100 }),
			"log alone":      change(func(n *checkpoint.Note) { n.Signatures = n.Signatures[:1] }),
			"not the log":    change(func(n *checkpoint.Note) { n.Signatures = n.Signatures[1:] }),
			"one cosigner":   change(func(n *checkpoint.Note) { n.Signatures = n.Signatures[:2] }),
			"a false cosignature": change(func(n *checkpoint.Note) {
				n.Signatures[3].Bytes[20]++
			}),
		} {
			if err := n2.servePublish(t.Context(), b); err == nil {
				t.Errorf("%s: taken", name)
			}
		}
		if err := n2.servePublish(t.Context(), genuine.Bytes()); err != nil {
			t.Errorf("the genuine one: %v", err)
		}
	})
}

// TestMemoryLasts: a node that starts again over another chain signs nothing that
// contradicts what it signed.
func TestMemoryLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 1, nil)
		time.Sleep(time.Minute)
		n1 := c.members["n1"]
		if f := n1.Final(); f.Note.Checkpoint.Size != n1.Size() {
			t.Fatalf("%d of %d entries are final", f.Note.Checkpoint.Size, n1.Size())
		}
		forged := n1.roots[len(n1.roots)-1]
		forged[0]++
		n1.start(nil)
		n1.mu.Lock()
		n1.roots[len(n1.roots)-1] = forged
		n1.mu.Unlock()
		if _, err := n1.sign(n1.fsm.View(), n1.Size()); !errors.Is(err, signing.ErrContradicts) {
			t.Errorf("it signs another tree after its restart: %v", err)
		}
	})
}

// TestCrashAtCosign: a voter that crashes where it cosigns has what it signed on disk once
// anybody could have it, and after its restart cosigns on.
func TestCrashAtCosign(t *testing.T) {
	for _, at := range []struct {
		point faults.Point
		kept  bool
	}{{faults.BeforeCosign, false}, {faults.AfterCosign, true}} {
		t.Run(string(at.point), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				died := make(chan struct{})
				set, err := faults.New(faults.Config{
					Locate: func(string) string { return "" },
					Die: func() {
						close(died)
						<-t.Context().Done() // it says nothing any more
						runtime.Goexit()
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				c := newCluster(t, 3, func(id string, cfg *Config) {
					if id == "n2" {
						cfg.Faults = set
					}
				})
				time.Sleep(30 * time.Second) // all keys are known
				n2, origin := c.members["n2"], c.members["n1"].fsm.View().Origin()
				if f := c.await("n1", n2.Size()); !f.Signed["n2"] {
					t.Fatalf("signed by %v", f.Signed)
				}
				c.must(set.Apply(faults.Plan{Crash: faults.Crash{Point: at.point}}))
				c.grow(1)
				<-died
				n2.down.Store(true)
				size := n2.Size()
				if f := c.await("n1", size); f.Signed["n2"] {
					t.Error("it crashed, and its signature is there")
				}
				memory, err := signing.OpenMemory("signed/"+cosignMemory, n2.disk)
				c.must(err)
				root, _ := n2.RootAt(size)
				if last, _ := memory.Last(origin); (last == signing.Head{Size: size, Root: root}) != at.kept {
					t.Errorf("on disk is that it signed %v, of %d entries", last, size)
				}
				n2.start(nil)
				n2.down.Store(false)
				c.grow(1)
				if f := c.await("n1", n2.Size()); !f.Signed["n2"] {
					t.Errorf("after its restart it does not cosign: %v, %v", f.Signed, c.members["n1"].Status().Refusals)
				}
			})
		})
	}
}

func TestTrim(t *testing.T) {
	note := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: "o", Size: 1}}
	add := func(name string, typ checkpoint.KeyType, size int) checkpoint.Key {
		k := checkpoint.Key{Name: name, Type: typ, Public: make([]byte, size)}
		note.Add(checkpoint.Signature{Name: name, KeyID: k.ID(), Bytes: []byte{1}})
		return k
	}
	add("o", checkpoint.Log, 32)
	var voters []Voter
	for i := range 9 {
		id := fmt.Sprint("n", i)
		voters = append(voters, Voter{id, []checkpoint.Key{
			add(id, checkpoint.Cosigner, 32), add(id, checkpoint.MLDSACosigner, 1312),
		}})
	}
	out := trim(note, voters)
	if len(out.Signatures) != maxSignatures {
		t.Fatalf("%d signatures", len(out.Signatures))
	}
	for i, s := range out.Signatures[1:10] {
		if k := voters[i].Keys[0]; s.KeyID != k.ID() {
			t.Errorf("signature %d is of key %08x, want the Ed25519 one of %s", i+1, s.KeyID, k.Name)
		}
	}
}

// TestVotersWithoutKeys: they count, and the policy asks more of the others; where there
// are too few it can't be met.
func TestVotersWithoutKeys(t *testing.T) {
	keyed := func(id string) Voter {
		return Voter{id, []checkpoint.Key{{Name: fsm.CosignerName(id), Type: checkpoint.Cosigner, Public: append([]byte(id), make([]byte, 30)...)}}}
	}
	voters := []Voter{keyed("n1"), keyed("n2"), {NodeID: "n3"}, {NodeID: "n4"}}
	if quorum(map[string]bool{"n1": true, "n2": true}, voters) {
		t.Error("two of four are a quorum")
	}
	if quorum(nil, nil) {
		t.Error("none of none is a quorum")
	}
	if p := Policy("o", [32]byte{}, voters); p.Quorum != checkpoint.NoQuorum {
		t.Errorf("a quorum that can't be met:\n%s", p)
	}
	p := Policy("o", [32]byte{}, voters[:3])
	if g := p.Groups[len(p.Groups)-1]; g.Threshold != 2 || len(g.Members) != 2 {
		t.Errorf("%s", p)
	}
}
