// Package planted has the bugs that prove the checkers of chaos/check: a binary that is
// built with the tag planted has the bug that the environment variable EXONODE_PLANTED
// names, which they must catch. Without the tag every constant is false, and the compiler
// leaves the branch out.
//
// A bug is one branch where the code that it breaks stands.
package planted

// Bugs are the names, in order.
var Bugs = []string{
	"double", "fork", "head", "lost_ack", "no_lookup", "reorder", "session", "stale_read", "stall",
	"verdict", "watch_gap", "watch_twice",
}
