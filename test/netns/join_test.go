//go:build linux && netns

package netns_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
)

// history is how much there is to fetch before a node joins.
const history = 2000

// Later nodes come by mDNS and by a seed, are voters in the end, and one leaves.
func TestJoinAndLeave(t *testing.T) {
	ctx := bounded(t, 2*time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	nodes := c.nodes(ctx, 1, 3, "--mdns", "--bootstrap-expect", "3")
	formed(ctx, t, nodes...)
	events := make([]chain.Event, history)
	for i := range events {
		events[i] = event(fmt.Sprintf("history-%d", i))
	}
	for i, r := range nodes[0].AppendBatch(ctx, events) {
		if r.Err != nil {
			t.Fatalf("event %d: %v", i, r.Err)
		}
	}
	byMDNS := c.node(c.host(ctx, 4), "--mdns")
	bySeed := c.node(c.host(ctx, 5), "--seeds", nodes[1].peer())
	for _, n := range []*nodeAt{byMDNS, bySeed} {
		awaitReady(ctx, t, n)
		if got := members(n.mustStatus(ctx))[n.id]; got != "nonvoter" && got != "voter" {
			t.Errorf("%s is ready as %q", n.name, got)
		}
		if got := n.metric(ctx, "exonode_catchup_fetched_entries_total"); got < history {
			t.Errorf("%s fetched %.0f entries before it was let in, want %d or more", n.name, got, history)
		}
	}
	all := append(nodes, byMDNS, bySeed)
	awaitVoters(ctx, t, all)
	last := bySeed.submit(ctx, "joined").Sequence
	head := sameChain(ctx, t, last+1, all...)
	for _, n := range []*nodeAt{byMDNS, bySeed} {
		promoted(ctx, t, all[0], head.Size, n.id)
	}

	// Who leaves tells the others, and is gone for good.
	if err := byMDNS.Leave(ctx, byMDNS.host.At(apiPort), byMDNS.id); err != nil {
		t.Fatal(err)
	}
	if err := byMDNS.ended(ctx); err != nil {
		t.Errorf("the node that left ended with %v", err)
	}
	rest := append(nodes, bySeed)
	awaitVoters(ctx, t, rest)
	last = bySeed.submit(ctx, "left").Sequence
	head = sameChain(ctx, t, last+1, rest...)
	eventually(ctx, t, "the chain tells who left", func(ctx context.Context) error {
		for _, e := range rest[0].entries(ctx, head.Size) {
			if e.Header.Kind == catalog.KindClusterPeerRemove && strings.Contains(string(e.Envelope.Payload), byMDNS.id) {
				return nil
			}
		}
		return fmt.Errorf("no %s of %s", catalog.KindClusterPeerRemove, byMDNS.id)
	})
	byMDNS.restart()
	endsRemoved(ctx, t, byMDNS)

	// A leader hands over first.
	lead, others := leader(ctx, t, rest...)
	if err := lead.Leave(ctx, lead.host.At(apiPort), lead.id); err != nil {
		t.Fatal(err)
	}
	if err := lead.ended(ctx); err != nil {
		t.Errorf("the leader that left ended with %v", err)
	}
	awaitVoters(ctx, t, others)
	last = others[0].submit(ctx, "the leader left").Sequence
	sameChain(ctx, t, last+1, others...)
}

// promoted checks that a node was let in without a vote first, and got its vote
// after that.
func promoted(ctx context.Context, t *testing.T, n *nodeAt, size uint64, id string) {
	t.Helper()
	added, promoted := uint64(0), uint64(0)
	for _, e := range n.entries(ctx, size) {
		if !strings.Contains(string(e.Envelope.Payload), id) {
			continue
		}
		switch e.Header.Kind {
		case catalog.KindClusterPeerAdd:
			added = e.Sequence
		case catalog.KindClusterPromote:
			promoted = e.Sequence
		}
	}
	if added == 0 || promoted <= added {
		t.Errorf("%s was added by entry %d and promoted by entry %d", id, added, promoted)
	}
}
