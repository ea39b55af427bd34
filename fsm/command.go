package fsm

import (
	"crypto/ed25519"

	"github.com/exonode/exonode/chain"
)

// CommandVersion is the version of the command format that this package writes
// and reads. A node that meets another one halts: it must be upgraded first.
const CommandVersion = 1

// MaxCommandSize bounds the events of one command in bytes, as ProposalSize
// counts them; the last event may go beyond it, by its own size.
const MaxCommandSize = 1 << 20

// MaxCommandEvents bounds the number of events of one command. By ProposalSize,
// a command of MaxCommandSize never comes near it.
const MaxCommandEvents = 1 << 14

// Command is a raft log entry: exactly one of its fields is set.
type Command struct {
	Batch   *Batch
	Genesis *GenesisCommand
}

// Batch appends events, in order.
type Batch struct {
	// Stamp is the leader's clock in Unix nanoseconds; an entry's time is
	// the later of it and the previous entry's time plus one.
	Stamp int64
	// Node is the id of the node that seals.
	Node string
	// Revision is the governance revision that every event was evaluated
	// at.
	Revision uint64
	// Events are in the order in which they are to be appended.
	Events []Proposal
}

// Proposal is an event that the leader has decided about. Its Salt is set, its
// SchemaVersion filled from the catalog.
type Proposal struct {
	chain.Event
	Principal  string
	Credential string
	OnBehalfOf string
	// Attestation is a follower's attestation of a client certificate.
	Attestation []byte
	// Verdict is nil where no gate was evaluated.
	Verdict *chain.Verdict
}

// GenesisCommand begins the chain. Where the chain has begun it does nothing.
type GenesisCommand struct {
	// Stamp and Node are as in Batch.
	Stamp int64
	Node  string
	// Document is the encoded genesis document, as it came.
	Document []byte
	// LogKey is the log's public key.
	LogKey [ed25519.PublicKeySize]byte
}
