package chain

import (
	"context"
	"fmt"
	"iter"
)

// Source is what Verify reads a chain from: a store, an export, another node.
type Source interface {
	// Size returns the number of entries of the chain that the source has
	// up to its end; entries below it may be missing only where Verify is
	// told to start later.
	Size() uint64
	// Records yields the entries of [from, to) in order. A Record is valid
	// until the next one is asked for. An error ends the sequence: one that
	// wraps ErrNotFound or is a *BadEntryError counts against the chain, any
	// other against the reading of it. Verify asks for one range, from one
	// goroutine.
	Records(ctx context.Context, from, to uint64) iter.Seq2[Record, error]
}

// Indexed is a Source that keeps more than entries. Verify calls CheckIndexes
// last, once the entries were found good; its errors are as those of Records.
type Indexed interface {
	Source
	CheckIndexes(ctx context.Context) error
}

// Part is the part of a chain that BadEntryError finds bad.
type Part string

// The parts.
const (
	PartRecord   Part = "record"   // the entry is missing or out of place
	PartIndex    Part = "index"    // an index that the source keeps names what is not there
	PartHeader   Part = "header"   // the header's bytes, or a field of it
	PartLink     Part = "link"     // the link to the predecessor
	PartTime     Part = "time"     // not after the predecessor's
	PartEpoch    Part = "epoch"    // changed without chain.recover, or one that does not follow
	PartEnvelope Part = "envelope" // altered; or it, or the one beside, missing without a redaction
	PartBeside   Part = "beside"   // the envelope beside an escalation, altered or out of place
	PartTile     Part = "tile"     // a stored tile differs from the headers
	PartHead     Part = "head"     // the chain ends in another head than expected
	PartRoot     Part = "root"     // the tree has another root than expected
	PartCheck    Part = "check"    // VerifyOptions.Check refused the entry
)

// BadEntryError names the first entry at which a chain does not verify.
type BadEntryError struct {
	// Sequence is the bad entry; of PartTile the first one under the hash
	// that differs, of PartHead and PartRoot the last one of the chain.
	Sequence uint64
	Part     Part
	Err      error
}

// Error implements error.
func (e *BadEntryError) Error() string {
	return fmt.Sprintf("chain: entry %d: %s: %v", e.Sequence, e.Part, e.Err)
}

// Unwrap returns what is wrong with the part.
func (e *BadEntryError) Unwrap() error { return e.Err }

// TileError says which stored tile is not what the headers make.
type TileError struct {
	Level int
	Index uint64
	// From and To bound the sequences under the first hash that differs.
	From, To uint64
}

// Error implements error.
func (e *TileError) Error() string {
	return fmt.Sprintf("tile %d/%d differs from the headers at entries %d to %d", e.Level, e.Index, e.From, e.To-1)
}

// Entry is a record that Verify found good so far, decoded.
type Entry struct {
	// Record is the entry as it was read.
	Record Record
	// Hash is the header hash.
	Hash   Hash
	Header Header
	// Envelope is nil where it is redacted, Beside where there is none or
	// it is redacted.
	Envelope, Beside *Envelope
}

// Start is a point of a chain that the verifier trusts, to go on from.
type Start struct {
	ChainID ID
	Epoch   uint64
	Head    Head
	// Tree is the tree of Head.Size headers. Verify does not change it.
	Tree *Tree
}

// VerifyOptions say what a chain is held against, besides itself. The zero value
// verifies from entry 0 that it is some unbroken chain; who made it and whether
// it is all of it only Head, Root or a checkpoint can tell.
type VerifyOptions struct {
	// ChainID is the chain's id; nil takes that of entry 0.
	ChainID *ID
	// Start is where to begin; nil is before entry 0.
	Start *Start
	// Head and Root are those that the chain must end in; nil is any.
	Head *Head
	Root *Hash
	// Tiles are the stored tiles: each full one that verification comes by
	// is compared. nil compares none.
	Tiles TileReader
	// Check is called for each entry in order, from the calling goroutine,
	// once all else was found good but the entry's successors. The Entry and
	// its byte slices are valid during the call; its strings for ever.
	Check func(*Entry) error
	// Progress is called from the calling goroutine every few hundred
	// entries, and at the end.
	Progress func(Progress)
	// Workers is how many goroutines decode and hash; 0 is GOMAXPROCS.
	Workers int
}

// Progress is how far verification is.
type Progress struct {
	// Done and Total count entries, from the start of this verification.
	Done, Total uint64
	// Bytes of headers and envelopes so far.
	Bytes uint64
}

// VerifyReport is what Verify found.
type VerifyReport struct {
	ChainID ID
	Epoch   uint64
	Head    Head
	Root    Hash
	// Tree is the tree's right edge, from which a later verification can
	// start.
	Tree *Tree
	// Entries and Bytes were verified; Redacted of the entries lack an
	// envelope, validly. Tiles were compared.
	Entries, Bytes, Redacted, Tiles uint64
}

// Start returns the point from which a later verification can go on.
func (r *VerifyReport) Start() *Start {
	return &Start{ChainID: r.ChainID, Epoch: r.Epoch, Head: r.Head, Tree: r.Tree}
}

// The kinds that verification knows, and the workspace that they stand in.
const (
	systemWorkspace = "system"
	kindGenesis     = "chain.genesis"
	kindRecover     = "chain.recover"
	kindRedact      = "chain.redact"
	kindEscalate    = "governance.escalate"
)
