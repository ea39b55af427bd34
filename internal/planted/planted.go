// Package planted has the bugs that prove the checkers of chaos/check: a binary that is
// built with one of the tags planted_* has one bug, which they must catch. Without a tag
// every constant is false, and the compiler leaves the branch out.
//
// A bug is one branch where the code that it breaks stands. Two at once do not compile.
package planted

// Bug is the tag's, without its prefix; "" in every binary that is for use.
const Bug = bug

const (
	// LostAck: a leader acknowledges some events before anybody has them, and
	// forgets them.
	LostAck = bug == "lost_ack"
	// Double: an id that is in the chain is sealed again.
	Double = bug == "double"
	// Reorder: a leader acknowledges some events, and proposes them a while later.
	Reorder = bug == "reorder"
	// StaleRead: a node answers linearizable reads from what it has, and does not
	// ask whether the cluster has more.
	StaleRead = bug == "stale_read"
	// Session: a session read does not wait for what its client has seen.
	Session = bug == "session"
	// WatchGap and WatchTwice: a watch leaves some entries out, or sends them
	// twice.
	WatchGap   = bug == "watch_gap"
	WatchTwice = bug == "watch_twice"
	// Fork: of some entries the node that sealed them stores another salt than
	// all others.
	Fork = bug == "fork"
	// Verdict: a leader seals permit, whatever the policy says.
	Verdict = bug == "verdict"
	// Head: some heads are told with a hash that is in no chain.
	Head = bug == "head"
	// Stall: once leaders have changed a few times, none proposes anything.
	Stall = bug == "stall"
)
