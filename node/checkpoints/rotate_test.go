package checkpoints

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"encoding/json"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/fsm"
)

// rotate has the leader change the log's key, and seals the entry.
func (c *cluster) rotate() {
	c.t.Helper()
	entry, err := c.members[c.leader()].Rotate(c.t.Context())
	c.must(err)
	c.seal(c.rotation(entry, entry.NewKey))
}

func (c *cluster) rotation(entry catalog.ChainRotate, id string) fsm.Proposal {
	c.t.Helper()
	b, err := json.Marshal(entry)
	c.must(err)
	p := c.event(catalog.KindChainRotate, "rotate/"+id, string(b))
	p.Workspace, p.Source, p.Principal = "system", "exonode:node", fsm.NodePrincipal(c.leader())
	p.Verdict = c.members[c.leader()].fsm.View().Evaluate(&p)
	return p
}

// TestRotate: after a rotation the new key signs, whoever leads, also after all started
// again; whoever trusts the old policy gets to the new one by the chain.
func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		old := c.policy()
		// One misses it, and asks for the key later.
		c.members["n3"].down.Store(true)
		c.rotate()
		c.members["n3"].down.Store(false)
		c.leading.Store("n2")
		c.grow(1)
		time.Sleep(time.Minute)
		now := c.policy()
		f := c.await("n1", c.members["n1"].Size())
		if _, err := now.Verify(f.Note); err != nil {
			t.Error(err)
		}
		if _, err := old.Verify(f.Note); err == nil {
			t.Error("the old key signs on")
		}
		for _, id := range c.order {
			m := c.members[id]
			m.start(nil)
			if k := m.key(m.fsm.View()); k == nil {
				t.Errorf("%s does not have the new key after its restart", id)
			}
		}
		followed, err := c.follow(c.members["n1"].Size(), old)
		if err != nil || followed.Policy.String() != now.String() {
			t.Errorf("the old policy leads to %v, %v, want\n%s", followed, err, now)
		}
		// Twice in a row, without a checkpoint in between.
		c.rotate()
		c.rotate()
		if followed, err = c.follow(c.members["n1"].Size(), old); err != nil || followed.Policy.String() != c.policy().String() {
			t.Errorf("after two more: %v, %v", followed, err)
		}
	})
}

// TestRotateRefuses: no quorum that keeps the key, no rotation; and none without both
// signatures.
func TestRotateRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		n1 := c.members["n1"]
		if _, err := c.members["n2"].Rotate(t.Context()); !errors.Is(err, ErrRotate) {
			t.Errorf("by one that does not lead: %v", err)
		}
		if err := n1.serveOffer("n3", make([]byte, 32)); err == nil {
			t.Error("a key is taken from one that does not lead")
		}
		c.members["n2"].down.Store(true)
		c.members["n3"].down.Store(true)
		if _, err := n1.Rotate(t.Context()); !errors.Is(err, ErrRotate) {
			t.Errorf("with nobody to keep it: %v", err)
		}
		c.members["n2"].down.Store(false)
		good, err := n1.Rotate(t.Context())
		c.must(err)
		key := n1.fsm.View().Genesis().LogKey
		for name, change := range map[string]func(*catalog.ChainRotate){
			"no old signature": func(e *catalog.ChainRotate) { e.OldProof = e.NewProof },
			"no new signature": func(e *catalog.ChainRotate) { e.NewProof = e.OldProof },
			"another old key":  func(e *catalog.ChainRotate) { e.OldKey = e.NewKey },
			"the same key":     func(e *catalog.ChainRotate) { e.NewKey, e.NewProof = e.OldKey, e.OldProof },
			"not hexadecimal":  func(e *catalog.ChainRotate) { e.NewKey = "x" },
		} {
			e := good
			change(&e)
			if r := c.try(c.rotation(e, name)); r.Err == nil {
				t.Errorf("%s: sealed", name)
			}
		}
		if n1.fsm.View().Genesis().LogKey != key {
			t.Error("the key has changed")
		}
		c.seal(c.rotation(good, "good"))
		if n1.fsm.View().Genesis().LogKey == key {
			t.Error("the key has not changed")
		}
	})
}

// TestRotateTwice: two rotations are begun at once, and one of them is sealed: whichever
// it is, the log's key is not lost to the other.
func TestRotateTwice(t *testing.T) {
	for _, which := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3, nil)
			time.Sleep(time.Minute)
			var entries []catalog.ChainRotate
			for range 2 {
				entry, err := c.members["n1"].Rotate(t.Context())
				c.must(err)
				entries = append(entries, entry)
			}
			c.seal(c.rotation(entries[which], "one"))
			if r := c.try(c.rotation(entries[1-which], "other")); r.Err == nil {
				t.Error("the other one is sealed as well")
			}
			for _, id := range c.order {
				m := c.members[id]
				if m.key(m.fsm.View()) == nil {
					t.Errorf("%s does not have the log's key", id)
				}
			}
			c.grow(1)
			c.await("n2", c.members["n2"].Size())
		})
	}
}
