//go:build linux && netns

package netns_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/transport"
)

// standing is what nobody from outside may change: who the servers are, who
// leads, and in which term.
type standing struct {
	members map[string]string
	leader  string
	term    uint64
}

func standingOf(ctx context.Context, n *nodeAt) standing {
	n.c.t.Helper()
	s := n.mustStatus(ctx)
	return standing{members(s), s.Leader, s.Term}
}

// unmoved checks that the cluster stands as before, and still works. A busy
// machine may make members vote; nobody else may make them: each new term is
// one that a member campaigned for.
func unmoved(ctx context.Context, t *testing.T, before standing, nodes ...*nodeAt) {
	t.Helper()
	for i, n := range nodes {
		now := standingOf(ctx, n)
		for term := before.term + 1; term <= now.term; term++ {
			if !slices.ContainsFunc(nodes, func(n *nodeAt) bool {
				_, ok := n.log.find(0, `msg="voting for self"`, fmt.Sprintf(" term=%d ", term))
				return ok
			}) {
				t.Fatalf("%s: the term moved from %d to %d, and term %d is no member's", n.name, before.term, now.term, term)
			}
		}
		if !maps.Equal(now.members, before.members) || now.term == before.term && now.leader != before.leader {
			t.Errorf("%s: the cluster stood as %+v, now as %+v", n.name, before, now)
		}
		n.submit(ctx, fmt.Sprintf("unmoved-%d-%d", i, n.log.length()))
	}
}

// Two clusters share a wire and both shout on it.
func TestTwoClusters(t *testing.T) {
	ctx := bounded(t, time.Minute)
	wire := newNet(ctx, t)
	a, b := newCluster(ctx, t, wire), newCluster(ctx, t, wire)
	var ofA, ofB []*nodeAt
	for i := range 3 {
		ofA = append(ofA, a.nodes(ctx, 1+i, 1, "--mdns", "--bootstrap-expect", "3")...)
		ofB = append(ofB, b.nodes(ctx, 11+i, 1, "--mdns", "--bootstrap-expect", "3")...)
	}
	formed(ctx, t, ofA...)
	formed(ctx, t, ofB...)
	headA, headB := ofA[0].mustStatus(ctx).Head, ofB[0].mustStatus(ctx).Head
	if want := a.read().Genesis.ChainID; headA.Chain != want {
		t.Errorf("cluster a keeps chain %v, its file says %v", headA.Chain, want)
	}
	if want := b.read().Genesis.ChainID; headB.Chain != want || headA.Chain == want {
		t.Errorf("cluster b keeps chain %v, its file says %v", headB.Chain, want)
	}
	// Neither so much as noticed the other.
	for _, side := range []struct {
		one    *nodeAt
		head   client.Head
		others []*nodeAt
	}{{ofA[0], headA, ofB}, {ofB[0], headB, ofA}} {
		for _, e := range side.one.entries(ctx, side.head.Size) {
			for _, other := range side.others {
				if strings.Contains(string(e.Envelope.Payload), other.host.Addr().String()+":") {
					t.Errorf("entry %d of %s names a node of the other cluster: %s", e.Sequence, side.one.name, e.Envelope.Payload)
				}
			}
		}
	}
}

// A node that has all but the secret: the genesis document of the cluster,
// whose hash its announcements carry.
func TestWrongSecret(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	nodes := c.nodes(ctx, 1, 3, "--mdns", "--bootstrap-expect", "3")
	formed(ctx, t, nodes...)
	secret, err := transport.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	forged, err := node.NewClusterFile(secret, c.read().Document)
	if err != nil {
		t.Fatal(err)
	}
	before := standingOf(ctx, nodes[0])
	other := c.withFile(forged)

	joiner := other.node(c.host(ctx, 4), "--mdns")
	if err := joiner.ended(ctx); err == nil {
		t.Error("a node that could not join ended without an error")
	}
	joiner.says(ctx, t, 0, "exonode:", "secret")

	former := other.node(c.host(ctx, 5), "--mdns", "--bootstrap-expect", "3")
	former.says(ctx, t, 0, "wrong cluster secret")
	for _, n := range nodes {
		n.says(ctx, t, 0, "peer refused", "wrong cluster secret")
	}
	notServing(ctx, t, former)
	unmoved(ctx, t, before, nodes...)
}

// notServing checks that a node runs, and neither is ready nor takes an event.
func notServing(ctx context.Context, t *testing.T, n *nodeAt) {
	t.Helper()
	if err := n.ready(ctx); err == nil {
		t.Errorf("%s is ready", n.name)
	}
	if !n.running() {
		t.Errorf("%s ended: %v", n.name, n.err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if ack, err := n.Append(ctx, event("from-outside")); err == nil {
		t.Errorf("%s took an event: %+v", n.name, ack)
	}
}

// member is how others see a node.
func (n *nodeAt) member(ctx context.Context) membership.Member {
	n.c.t.Helper()
	s := n.mustStatus(ctx)
	for _, m := range s.Members {
		if m.NodeID == s.NodeID {
			return membership.Member{NodeID: m.NodeID, ServerID: m.ServerID, PeerAddr: n.peer()}
		}
	}
	n.c.t.Fatalf("%s is not a member of its own cluster", n.name)
	return membership.Member{}
}

// A stranger on the wire, with a certificate as good as any node's.
func TestStranger(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	nodes := c.nodes(ctx, 1, 3, "--mdns", "--bootstrap-expect", "3")
	formed(ctx, t, nodes...)
	host := c.host(ctx, 66)
	before := standingOf(ctx, nodes[0])

	var targets []membership.Member
	for _, n := range nodes {
		targets = append(targets, n.member(ctx))
	}
	for i, target := range targets {
		claim := targets[(i+1)%len(targets)]
		for _, class := range []transport.Class{transport.ClassRaft, transport.ClassCall, transport.ClassFetch, transport.ClassJoin} {
			answer, err := knock(ctx, t, host, class, target, claim, true)
			// A welcome of two bytes and no proof, whose status is not 0.
			if err != nil || len(answer) != 7 || answer[5] == 0 {
				t.Errorf("%s at %s: answered %x (%v), want a refusal and the end", class, target.PeerAddr, answer, err)
			}
			answer, err = knock(ctx, t, host, class, target, claim, false)
			if err != nil || len(answer) > 7 || len(answer) == 7 && answer[5] == 0 {
				t.Errorf("%s at %s without a hello: answered %x (%v)", class, target.PeerAddr, answer, err)
			}
		}
		// The API listens on loopback unless told otherwise.
		if conn, err := host.DialContext(ctx, "tcp", nodes[i].host.At(apiPort)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the API of %s: %v", nodes[i].name, err)
			if err == nil {
				_ = conn.Close()
			}
		}
	}

	// The same with the whole protocol at hand.
	secret, err := transport.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	stranger := outsider{
		on: host, identity: transport.NewIdentity([32]byte{1, 2, 3}), incarnation: "0123456789abcdef",
		secret: secret, genesis: c.read().Hash,
	}
	for _, target := range targets {
		stranger.attack(ctx, t, target, transport.ErrNotMember, transport.ErrWrongSecret)
	}
	stranger.secret, stranger.genesis = c.read().Secret, [32]byte{9}
	for _, target := range targets {
		stranger.attack(ctx, t, target, transport.ErrNotMember, transport.ErrForeignCluster)
	}
	unmoved(ctx, t, before, nodes...)
	awaitVoters(ctx, t, nodes)
}

// A removed node is out: with its process, with its data, wherever its data
// goes, and with its keys alone.
func TestRemovedNode(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	nodes := c.nodes(ctx, 1, 4, "--mdns", "--bootstrap-expect", "4")
	formed(ctx, t, nodes...)
	lead, followers := leader(ctx, t, nodes...)
	live, dead, other := followers[0], followers[1], followers[2]
	stay := []*nodeAt{lead, other}

	// One that runs learns of its removal, says so and ends.
	if err := other.Remove(ctx, live.mustStatus(ctx).NodeID); err != nil {
		t.Fatal(err)
	}
	endsRemoved(ctx, t, live)
	live.restart()
	endsRemoved(ctx, t, live)

	// One that was away learns of it when it comes back with its old data,
	// here or anywhere.
	self := dead.member(ctx)
	dead.kill()
	host := c.host(ctx, 5)
	copied := filepath.Join(c.dir, host.Name())
	copyDir(ctx, t, dead.data, copied)
	if err := lead.Remove(ctx, self.NodeID); err != nil {
		t.Fatal(err)
	}
	last := lead.submit(ctx, "after the removals").Sequence
	sameChain(ctx, t, last+1, stay...)
	awaitVoters(ctx, t, stay)
	before := standingOf(ctx, lead)
	for _, n := range []func() *nodeAt{
		func() *nodeAt { dead.restart(); return dead },
		func() *nodeAt { return c.node(host, "--mdns") },
	} {
		marks := []int{lead.log.length(), other.log.length()}
		back := n()
		endsRemoved(ctx, t, back)
		said := 0
		for i, s := range stay {
			if _, ok := s.log.find(marks[i], "peer refused", "peer="+self.NodeID, "removed from the cluster"); ok {
				said++
			}
		}
		if said == 0 {
			t.Errorf("no member refused %s", back.name)
		}
		unmoved(ctx, t, before, stay...)
	}

	// What is left in its data: its key, its incarnation, and the secret.
	identity, err := transport.LoadIdentity(filepath.Join(copied, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	incarnation, err := transport.LoadIncarnation(filepath.Join(copied, "raft"))
	if err != nil {
		t.Fatal(err)
	}
	thief := outsider{on: host, identity: identity, incarnation: incarnation, secret: c.read().Secret, genesis: c.read().Hash}
	for _, s := range stay {
		thief.attack(ctx, t, s.member(ctx), transport.ErrRemoved, transport.ErrRemoved)
	}
	unmoved(ctx, t, before, stay...)
	awaitVoters(ctx, t, stay)
}

// endsRemoved waits until a node ends because it was removed.
func endsRemoved(ctx context.Context, t *testing.T, n *nodeAt) {
	t.Helper()
	if err := n.ended(ctx); err == nil {
		t.Errorf("%s ended without an error", n.name)
	}
	n.says(ctx, t, 0, "exonode:", "removed from the cluster")
}
