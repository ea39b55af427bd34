//go:build !planted

package planted

// Bug is the planted one; "" in every binary that is for use.
const Bug = ""

// What the bugs do stands beside the tag.
const (
	LostAck    = false
	Double     = false
	Reorder    = false
	StaleRead  = false
	Session    = false
	WatchGap   = false
	WatchTwice = false
	Fork       = false
	Verdict    = false
	Head       = false
	NoLookup   = false
	Stall      = false
)
