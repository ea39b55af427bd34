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
	// FindAll sets slots[i] to where keys[i] stands, or to the zero Slot
	// where it is not known. Both have the same length.
	FindAll(keys []chain.Key, slots []Slot) error
	// Record returns an entry below Meta().Head.Size.
	Record(seq uint64) (chain.Record, error)
	// Commit applies one Update atomically. Where it has entries, what is
	// staged does not link to the head any more, and is dropped with it.
	Commit(*Update) error
	// Flush returns once all commits so far are durable. It may run beside
	// Commit.
	Flush() error
}

// The store and the state machine may not import each other, so the data that
// they exchange is declared in package chain.
type (
	// Meta is the store's own account of what it holds.
	Meta = chain.Meta
	// Slot says what became of a key.
	Slot = chain.Slot
	// SlotState is the state of a key.
	SlotState = chain.SlotState
	// SlotChange sets the state of a key.
	SlotChange = chain.SlotChange
	// Update is the outcome of applying one or more raft log entries.
	Update = chain.Update
	// Redaction names an envelope that goes.
	Redaction = chain.Redaction
	// Sealing is an entry as Commit takes it.
	Sealing = chain.Sealing
)

// The states of a key.
const (
	Sealed  = chain.SlotSealed
	Denied  = chain.SlotDenied
	Pending = chain.SlotPending
	Closed  = chain.SlotClosed
)

// Staging is the second half of the store's contract: catch-up writes verified
// entries beyond the head into a staging keyspace, where no read sees them, and
// Promote makes them the chain's. Staging is resumable: what was staged and
// flushed is still there after a restart.
type Staging interface {
	// Staged returns how far staging reaches: the head of the last staged
	// entry; Meta().Head where nothing is staged. Staged entries always
	// link to Meta().Head.
	Staged() chain.Head
	// StagedHeader returns the encoded header of an entry below
	// Staged().Size, staged or the chain's.
	StagedHeader(seq uint64) ([]byte, error)
	// StagedRoot returns the RFC 6962 root over all headers up to Staged():
	// what Meta().Root would be after a Promote.
	StagedRoot() (chain.Hash, error)
	// StagedState returns the State of the last staged Update that had one
	// (opaque bytes, atomic with that Update's entries); nil where nothing
	// is staged.
	StagedState() ([]byte, error)
	// Stage appends entries (and slot changes and redactions that they
	// cause) to staging. It may wait for work that an earlier Promote left
	// behind.
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
