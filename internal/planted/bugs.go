//go:build planted

package planted

import (
	"fmt"
	"os"
	"slices"
)

// Bug is the one that is planted.
var Bug = choose()

func choose() string {
	bug := os.Getenv("EXONODE_PLANTED")
	if bug != "" && !slices.Contains(Bugs, bug) {
		panic(fmt.Sprintf("EXONODE_PLANTED=%s: want one of %q", bug, Bugs))
	}
	return bug
}

var (
	// LostAck: a leader acknowledges some events before anybody has them, and
	// forgets them.
	LostAck = Bug == "lost_ack"
	// Double: an id that is in the chain is sealed again.
	Double = Bug == "double"
	// Reorder: a leader acknowledges some events, and proposes them a while later.
	Reorder = Bug == "reorder"
	// StaleRead: a node answers linearizable reads from what it has, and does not
	// ask whether the cluster has more.
	StaleRead = Bug == "stale_read"
	// Session: a session read does not wait for what its client has seen.
	Session = Bug == "session"
	// WatchGap and WatchTwice: a watch leaves some entries out, or sends them
	// twice.
	WatchGap   = Bug == "watch_gap"
	WatchTwice = Bug == "watch_twice"
	// Fork: of some entries the node that sealed them stores another salt than
	// all others.
	Fork = Bug == "fork"
	// Verdict: a leader seals permit, whatever the policy says.
	Verdict = Bug == "verdict"
	// Head: some heads are told with a hash that is in no chain.
	Head = Bug == "head"
	// NoLookup: no lookup is answered.
	NoLookup = Bug == "no_lookup"
	// Stall: once leaders have changed a few times, none proposes anything.
	Stall = Bug == "stall"
)
