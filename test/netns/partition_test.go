//go:build linux && netns

package netns_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/exonode/exonode/client"
)

// healed is how long the cluster may take to be whole again once packets flow:
// what was sent meanwhile waits for TCP's next attempt, or for a deadline that
// gives the connection up.
const healed = 15 * time.Second

// refuses checks that a node that is cut off acknowledges nothing, and shows
// nobody what may be old for what is new.
func refuses(ctx context.Context, t *testing.T, n *nodeAt, id string) {
	t.Helper()
	call, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if ack, err := n.Append(call, event(id)); err == nil {
		t.Errorf("%s acknowledged %s: %+v", n.name, id, ack)
	}
	read, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if head, err := n.At(client.Linearizable).Head(read); err == nil {
		t.Errorf("%s answered a linearizable read with %v", n.name, head)
	}
}

// once checks that an event is in the chain one time.
func once(ctx context.Context, t *testing.T, n *nodeAt, size uint64, by *nodeAt, id string) {
	t.Helper()
	count := 0
	for _, e := range n.entries(ctx, size) {
		if e.Header.Source == by.key(id).Source && e.Header.ID == id {
			count++
		}
	}
	if count != 1 {
		t.Errorf("event %s is in the chain %d times", id, count)
	}
}

// The leader's packets vanish; the majority goes on without it.
func TestPartitionedLeader(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	nodes := c.nodes(ctx, 1, 3, "--mdns", "--bootstrap-expect", "3")
	formed(ctx, t, nodes...)
	old, rest := leader(ctx, t, nodes...)
	if err := c.net.Isolate(ctx, old.host.Name()); err != nil {
		t.Fatal(err)
	}
	refuses(ctx, t, old, "cut-off")
	eventually(ctx, t, "the majority elects another leader", func(ctx context.Context) error {
		for _, n := range rest {
			s, err := n.status(ctx)
			if err != nil {
				return err
			}
			if s.Leader == "" || s.Leader == old.id {
				return fmt.Errorf("%s follows %q", n.name, s.Leader)
			}
		}
		return nil
	})
	last := uint64(0)
	for i := range 100 {
		last = max(last, rest[i%2].submit(ctx, fmt.Sprintf("majority-%d", i)).Sequence)
	}
	sameChain(ctx, t, last+1, rest...)
	refuses(ctx, t, old, "still-cut-off")
	eventually(ctx, t, "the old leader knows that it does not lead", func(ctx context.Context) error {
		s, err := old.status(ctx)
		if err == nil && (s.State == "Leader" || s.Leader != "") {
			err = fmt.Errorf("it is a %s and follows %q", s.State, s.Leader)
		}
		return err
	})

	if err := c.net.Heal(ctx); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(ctx, healed)
	defer cancel()
	sameChain(soon, t, last+1, nodes...)
	// What had no answer may be in the chain by now or not; the same id
	// settles it.
	for _, id := range []string{"cut-off", "still-cut-off"} {
		last = max(last, old.submit(soon, id).Sequence)
	}
	head := sameChain(ctx, t, last+1, nodes...)
	for _, id := range []string{"cut-off", "still-cut-off"} {
		once(ctx, t, nodes[0], head.Size, old, id)
	}
	for i := range 100 {
		once(ctx, t, nodes[0], head.Size, rest[i%2], fmt.Sprintf("majority-%d", i))
	}
}

// Connections whose other end is gone without a word: first behind a cut, then
// for good.
func TestHalfOpenConnections(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	nodes := c.nodes(ctx, 1, 3, "--mdns", "--bootstrap-expect", "3")
	formed(ctx, t, nodes...)
	lead, followers := leader(ctx, t, nodes...)
	away, third := followers[0], followers[1]
	silent := func(from, away *nodeAt, d time.Duration) {
		t.Helper()
		eventually(ctx, t, "the leader misses "+away.name, func(ctx context.Context) error {
			s, err := from.status(ctx)
			if err != nil {
				return err
			}
			for _, m := range s.Members {
				if m.NodeID == away.id && m.LastContact >= d {
					return nil
				}
			}
			return errors.New("it does not")
		})
	}
	back := func(what string, nodes ...*nodeAt) {
		t.Helper()
		if err := c.net.Heal(ctx); err != nil {
			t.Fatal(err)
		}
		soon, cancel := context.WithTimeout(ctx, healed)
		defer cancel()
		awaitReady(soon, t, nodes...)
		last := uint64(0)
		for _, n := range nodes {
			last = max(last, n.submit(soon, what).Sequence)
		}
		sameChain(soon, t, last+1, nodes...)
	}

	// The follower and the leader lose each other, and both keep the third:
	// it hears a leader, so that the follower gets no pre-vote, and brings no
	// newer term back to disturb the others with.
	if err := c.net.Cut(ctx, lead.host.Name(), away.host.Name()); err != nil {
		t.Fatal(err)
	}
	refuses(ctx, t, away, "half-way")
	silent(lead, away, 5*time.Second)
	for _, n := range []*nodeAt{lead, third} {
		n.submit(ctx, "without one")
	}
	if ahead, term := away.mustStatus(ctx).Term, lead.mustStatus(ctx).Term; ahead > term {
		t.Errorf("the follower that was cut off is in term %d, the leader in term %d", ahead, term)
	}
	back("after the cut", nodes...)

	// A follower dies behind a cut: its end of all connections is gone, and
	// nobody was told.
	lead, followers = leader(ctx, t, nodes...)
	away = followers[0]
	if err := c.net.Isolate(ctx, away.host.Name()); err != nil {
		t.Fatal(err)
	}
	away.kill()
	silent(lead, away, 3*time.Second)
	away.restart()
	back("after the death", nodes...)
}
