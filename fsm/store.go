package fsm

import "github.com/exonode/exonode/chain"

// Store is what the state machine needs of the durable store of a chain;
// package ledger implements it. Commit, Promote and the staging methods are
// called from one goroutine at a time; reads may run beside them and see
// either all of an Update or none.
//
// Nothing here is synced per call: raft's log makes an entry durable. After a
// crash the store is some prefix of its commits; Flush makes all of them
// durable. An error other than ErrNotFound is fatal to the node.
type Store interface {
	// Meta returns what the last committed Update said.
	Meta() Meta
	// State returns the encoded folded state as of Meta, nil if none.
	State() ([]byte, error)
	// Find returns where a key stands.
	Find(chain.Key) (Slot, bool, error)
	// Record returns an entry below Meta().Head.Size.
	Record(seq uint64) (chain.Record, error)
	// Commit applies one Update atomically.
	Commit(*Update) error
	// Flush returns once all commits so far are durable.
	Flush() error
}

// Meta is the store's own account of what it holds.
type Meta struct {
	Head chain.Head
	// Root is the RFC 6962 root over all headers; the empty tree's for
	// Size 0.
	Root chain.Hash
	// Applied is the raft index and term of the last log entry that was
	// applied; RaftEpoch counts restarts of raft's numbering by recovery.
	Applied, AppliedTerm, RaftEpoch uint64
}

// Slot says what became of a key.
type Slot struct {
	State SlotState
	// Sequence is the event's own entry (Sealed), or the governance entry
	// in workspace system that decided it.
	Sequence uint64
}

// SlotState is the state of a key.
type SlotState uint8

// The states of a key, as stored.
const (
	// Sealed: the event is entry Slot.Sequence.
	Sealed SlotState = 1
	// Denied: consumed by governance.deny entry Slot.Sequence.
	Denied SlotState = 2
	// Pending: reserved by governance.escalate entry Slot.Sequence.
	Pending SlotState = 3
	// Closed: consumed by a rejected or expired request.
	Closed SlotState = 4
)

// Update is the outcome of applying one or more raft log entries.
type Update struct {
	// Entries continue the chain without a gap; may be empty.
	Entries []Sealing
	// Slots are keys whose state changes besides the entries' own.
	Slots []SlotChange
	// Redact lists entries whose envelope (and Beside) goes.
	Redact []uint64
	// State is the encoded folded state; nil leaves it as it is.
	State []byte
	// Applied, AppliedTerm and RaftEpoch replace those of Meta.
	Applied, AppliedTerm, RaftEpoch uint64
}

// Sealing is an entry as Commit takes it: the record, and what of its header
// the indexes need, so that the store does not decode what was just encoded.
type Sealing struct {
	chain.Record
	Hash chain.Hash
	Time int64
	Key  chain.Key
	Kind string
	// Principal is the acting principal's name.
	Principal string
}

// SlotChange sets the state of a key.
type SlotChange struct {
	Key  chain.Key
	Slot Slot
}

// Staging is the second half of the store's contract: catch-up writes verified
// entries beyond the head into a staging keyspace, where no read sees them, and
// Promote makes them the chain's. Staging is resumable: what was staged and
// flushed is still there after a restart.
type Staging interface {
	// Staged returns how far staging reaches: the head of the last staged
	// entry; Meta().Head where nothing is staged. Staged entries always
	// link to Meta().Head.
	Staged() chain.Head
	// Stage appends entries (and slot changes and redactions that they
	// cause) to staging.
	Stage(*Update) error
	// FlushStaging returns once all that was staged is durable.
	FlushStaging() error
	// Promote atomically makes the staged entries the chain's, with the
	// given folded state and applied index; its cost does not depend on
	// how many there are. The commit point is one synced batch.
	Promote(state []byte, applied, appliedTerm, raftEpoch uint64) error
	// DropStaging discards what is staged.
	DropStaging() error
}
