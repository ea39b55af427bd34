package chain

import "errors"

// This file holds the plain data that the state machine and the durable store
// of a chain exchange. The two may not import each other, so it stands here.

// ErrNotFound says that there is no such entry, below the head, in a store or
// source. The caller answers "not found"; any other error of a store is fatal
// to the node.
var ErrNotFound = errors.New("chain: no such entry")

// Meta is a store's own account of what it holds.
type Meta struct {
	Head Head
	// Root is the RFC 6962 root over all headers; the empty tree's for
	// Size 0.
	Root Hash
	// Applied is the raft index and term of the last log entry that was
	// applied; RaftEpoch counts restarts of raft's numbering by recovery.
	Applied, AppliedTerm, RaftEpoch uint64
}

// Slot says what became of a key.
type Slot struct {
	State SlotState
	// Sequence is the event's own entry (SlotSealed), or the governance
	// entry in workspace system that decided it.
	Sequence uint64
}

// SlotState is the state of a key.
type SlotState uint8

// The states of a key, as stored.
const (
	// SlotSealed: the event is entry Slot.Sequence.
	SlotSealed SlotState = 1
	// SlotDenied: consumed by governance.deny entry Slot.Sequence.
	SlotDenied SlotState = 2
	// SlotPending: reserved by governance.escalate entry Slot.Sequence.
	SlotPending SlotState = 3
	// SlotClosed: consumed by a rejected or expired request.
	SlotClosed SlotState = 4
)

// Update is the outcome of applying one or more raft log entries.
type Update struct {
	// Entries continue the chain without a gap; may be empty.
	Entries []Sealing
	// Slots are keys whose state changes besides the entries' own.
	Slots []SlotChange
	// Redact lists the envelopes that go.
	Redact []Redaction
	// State is the encoded folded state; nil leaves it as it is.
	State []byte
	// Applied, AppliedTerm and RaftEpoch replace those of Meta.
	Applied, AppliedTerm, RaftEpoch uint64
}

// Redaction names an envelope that a store deletes. Which one of an entry may go
// is not for the store to decide: of the entries in workspace system only the one
// beside an escalation.
type Redaction struct {
	Sequence uint64
	// Beside is whether it is Record.Beside, not Record.Envelope.
	Beside bool
}

// Sealing is an entry as a store takes it: the record, and what of its header
// the indexes need, so that the store does not decode what was just encoded.
type Sealing struct {
	Record
	Hash Hash
	Time int64
	Key  Key
	Kind string
	// Principal is the acting principal's name.
	Principal string
}

// String returns the state's name in answers: "sealed", "denied", "pending" or
// "closed".
func (s SlotState) String() string {
	switch s {
	case SlotSealed:
		return "sealed"
	case SlotDenied:
		return "denied"
	case SlotPending:
		return "pending"
	case SlotClosed:
		return "closed"
	}
	return "unknown"
}

// SlotChange sets the state of a key.
type SlotChange struct {
	Key  Key
	Slot Slot
}
