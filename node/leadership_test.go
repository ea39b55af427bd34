package node

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/exonode/exonode/ledger/ledgertest"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/transport"
)

// TestRequestsEndWithWhoWaits: what an operator was told has failed is not done an
// hour later; and requests leave nothing behind.
func TestRequestsEndWithWhoWaits(t *testing.T) {
	var l leadership
	l.init()
	member := membership.Member{NodeID: "n4", ServerID: "n4.d"}
	first := l.ask("n4", func() { l.joins["n4"] = member })
	second := l.ask("n4", func() { l.joins["n4"] = member })
	l.refused["n4"] = "not yet"
	first()
	if len(l.joins) != 1 || l.refused["n4"] == "" {
		t.Error("the request ended while somebody waits")
	}
	remove := l.ask("n4", func() { l.removals["n4"] = membership.Removal{NodeID: "n4"} })
	if l.refused["n4"] != "" {
		t.Error("a new request starts with an old refusal")
	}
	second()
	remove()
	if n := len(l.joins) + len(l.removals) + len(l.refused) + len(l.waiting); n != 0 {
		t.Errorf("requests are left: %+v %+v %+v %+v", l.joins, l.removals, l.refused, l.waiting)
	}
}

// TestOnlyTheLeaderAnswersForIt: a node that does not lead, or does not run raft
// yet, and is asked by a peer that believes it does.
func TestOnlyTheLeaderAnswersForIt(t *testing.T) {
	f := openFollower(t, t.TempDir(), raftstore.WAL, ledgertest.NewMemory())
	f.members = newMembers("n1", f.host.get, f.fsm.View)
	f.leadership.init()
	ask := func(when string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for name, err := range map[string]error{
			"admit":  f.admit(ctx, membership.Member{NodeID: "n4", ServerID: "n4.d", PeerAddr: "a:1"}),
			"remove": f.remove(ctx, membership.Removal{NodeID: "n4"}),
		} {
			if !errors.Is(err, membership.ErrUnavailable) {
				t.Errorf("%s: %s: %v", when, name, err)
			}
		}
	}
	ask("before raft runs")
	if _, err := f.serveStats(t.Context(), transport.Peer{}, nil); err == nil {
		t.Error("statistics of a raft that does not run")
	}
	f.start()
	ask("as a follower")
	if len(f.leadership.joins)+len(f.leadership.removals) != 0 {
		t.Error("what was refused is kept for the next leadership")
	}
}
