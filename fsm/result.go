package fsm

import "github.com/exonode/exonode/chain"

// Status says what became of a proposal.
type Status uint8

// The statuses. Sequence, Hash and Time of the Result are those of the entry in
// parentheses.
const (
	// Appended: the event is in the chain (its own entry).
	Appended Status = 1
	// Duplicate: it already was (its own entry); Verdict is the original's.
	Duplicate Status = 2
	// Conflict: another event has this key (that event's entry, or the
	// request that reserves the key).
	Conflict Status = 3
	// NotComparable: the key is taken, and the content that took it is gone,
	// was denied or was turned down (the entry that took it).
	NotComparable Status = 4
	// DeniedNow: policy refused it just now (the governance.deny entry).
	DeniedNow Status = 5
	// Escalated: it waits for approval as of now (the governance.escalate
	// entry).
	Escalated Status = 6
	// Stale: the governance revision moved since the evaluation; evaluate
	// and propose again. No entry, the key is free.
	Stale Status = 7
	// StillPending: the same event already waits for approval (the
	// governance.escalate entry).
	StillPending Status = 8
	// Refused: the event can't be sealed; Err says why. No entry, the key is
	// free. A leader that checks its events never sees it.
	Refused Status = 9
)

// Result is what became of one proposal.
type Result struct {
	Status Status
	// Sequence, Hash and Time name an entry; see Status. Zero where there
	// is none.
	Sequence uint64
	Hash     chain.Hash
	Time     int64
	// Verdict is that of the entry; nil where no gate was evaluated.
	Verdict *chain.Verdict
	// Err is set for Refused.
	Err error
}

// BatchResult answers a Batch.
type BatchResult struct {
	// Results has one element per event, in order.
	Results []Result
	// Head is the chain's after the batch.
	Head chain.Head
	// Revision is the governance revision after the batch.
	Revision uint64
}

// GenesisResult answers a GenesisCommand.
type GenesisResult struct {
	// Began is whether this command began the chain; it had begun before
	// where false and Err is nil.
	Began bool
	Head  chain.Head
	// Err says why the command can't begin a chain.
	Err error
}

// ConfigurationResult answers a raft configuration.
type ConfigurationResult struct {
	// Sequence is the cluster.config entry's, where Sealed; a configuration
	// from before genesis waits for it.
	Sequence uint64
	Sealed   bool
	Head     chain.Head
}

// Skipped answers a log entry that the store had applied already.
type Skipped struct{ Applied uint64 }

// Halted answers every log entry from a failure on: nothing was applied.
type Halted struct{ Err error }
