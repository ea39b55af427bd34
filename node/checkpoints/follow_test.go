package checkpoints

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

// source is a member's chain, or the beginning of it.
type source struct {
	m    *member
	size uint64
}

func (s source) Size() uint64 { return s.size }

func (s source) Records(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return s.m.records(ctx, from, to)
}

func (c *cluster) follow(size uint64, trust *checkpoint.Policy) (*Followed, error) {
	return Follow(c.t.Context(), func() (chain.Source, func(), error) { return source{c.members["n1"], size}, func() {}, nil }, trust, nil)
}

func (c *cluster) policy() *checkpoint.Policy {
	v := c.members["n1"].fsm.View()
	return Policy(v.Origin(), v.Genesis().LogKey, Voters(v))
}

// TestFollow: from the first voters to the last, of which none is the same; and not from
// strangers, nor over a step that nobody confirmed.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, nil)
		time.Sleep(time.Minute)
		first := c.policy()
		for _, voters := range [][]string{{"n1", "n2", "n3", "n4"}, {"n1", "n2", "n4"}, {"n1", "n2", "n4", "n5"}, {"n1", "n4", "n5"}} {
			for _, id := range voters {
				if c.members[id] == nil {
					c.join(id)
				}
			}
			c.vote(voters...)
			time.Sleep(time.Minute)
		}
		last := c.policy()
		if first.String() == last.String() {
			t.Fatal("nothing has changed")
		}
		size := c.members["n1"].Size()
		f, err := c.follow(size, first)
		if err != nil {
			t.Fatal(err)
		}
		if f.Policy.String() != last.String() || f.Steps < 4 || f.Entries != size {
			t.Errorf("%+v leads to\n%s\nwant\n%s", f, f.Policy, last)
		}
		// From any step on.
		if f, err = c.follow(size, last); err != nil || f.Policy.String() != last.String() {
			t.Errorf("from the last one: %+v, %v", f, err)
		}
		// What came before the newest is of no account to who trusts the newest.
		if _, err := c.follow(size/2, last); !errors.Is(err, ErrNoAnchor) {
			t.Errorf("a chain that ends before the policy: %v", err)
		}
		stranger := *first
		stranger.Logs = []checkpoint.PolicyLog{{Key: checkpoint.Key{Name: first.Logs[0].Key.Name, Type: checkpoint.Log, Public: make([]byte, 32)}}}
		if _, err := c.follow(size, &stranger); err == nil {
			t.Error("a policy with another log key leads somewhere")
		}
		// A leader that seals a checkpoint of voters that nobody confirmed.
		note := c.recorded()[0]
		v := c.members["n1"].fsm.View()
		forged := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: v.Origin(), Size: size}, Signatures: note.Signatures[:1]}
		forged.Checkpoint.Root, _ = c.members["n1"].RootAt(size)
		voter := Voter{NodeID: "n1"}
		b, err := json.Marshal(catalog.ChainCheckpoint{TreeSize: int64(size), RootHash: forged.Checkpoint.Root.String(), Cosigners: []string{voter.cosigner()}, Note: string(forged.Bytes())})
		if err != nil {
			t.Fatal(err)
		}
		p := c.event(catalog.KindChainCheckpoint, "forged", string(b))
		p.Workspace, p.Source, p.Principal = "system", "exonode:node", "node:n1"
		c.seal(p)
		if _, err := c.follow(c.members["n1"].Size(), first); err == nil || !errors.Is(err, ErrBroken) && !strings.Contains(err.Error(), "signature") {
			t.Errorf("a checkpoint that nobody signed: %v", err)
		}
	})
}
