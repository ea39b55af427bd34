package ledger

import (
	"errors"
	"fmt"
)

// Sentinel errors of opening a ledger.
var (
	// ErrNotExist: there is no ledger in the directory. Create one, or
	// correct the path.
	ErrNotExist = errors.New("no ledger here")
	// ErrExist: Create found a ledger. Open it.
	ErrExist = errors.New("a ledger exists already")
	// ErrForeign: the directory holds something else. Choose another.
	ErrForeign = errors.New("the directory holds something that is not a ledger")
	// ErrNewer: a newer version wrote the ledger. Upgrade the program.
	ErrNewer = errors.New("the ledger was written by a newer version")
	// ErrLocked: another process, or this one, has the ledger open. Stop it
	// first.
	ErrLocked = errors.New("the ledger is in use")
)

// ErrClosed is returned by a store after Close.
var ErrClosed = errors.New("ledger: closed")

// ErrReadOnly is returned by writes to a store from OpenReadOnly.
var ErrReadOnly = errors.New("ledger: opened read-only")

// OpenError says which directory could not be created or opened, and why; it
// wraps a sentinel above, a *CorruptError, or the file system's error.
type OpenError struct {
	Dir string
	Err error
}

// Error implements error.
func (e *OpenError) Error() string { return fmt.Sprintf("ledger %s: %v", e.Dir, e.Err) }

// Unwrap returns what went wrong.
func (e *OpenError) Unwrap() error { return e.Err }

// CorruptError says that the store's parts disagree, or that bytes on disk do
// not match their checksum. The node must not start; the operator restores the
// directory, or removes it so that the node catches up from its peers.
type CorruptError struct {
	// Part is what was found wrong: "header", "envelope", "tile", "index",
	// "meta", "state", "staging", "database".
	Part string
	// Sequence is the first entry affected; valid where HasSequence.
	Sequence    uint64
	HasSequence bool
	// Found says what was found and what was expected.
	Found string
	// Err is the cause, nil where the store's own check failed.
	Err error
}

// Error implements error.
func (e *CorruptError) Error() string {
	s := "corrupt " + e.Part
	if e.HasSequence {
		s += fmt.Sprintf(" at sequence %d", e.Sequence)
	}
	s += ": " + e.Found
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// RaftMismatchError says that raft's state and the ledger do not belong
// together. The node must not start.
type RaftMismatchError struct {
	// Applied is the ledger's applied raft index.
	Applied uint64
	// Found says how raft's state differs, and what to do.
	Found string
}

// Error implements error.
func (e *RaftMismatchError) Error() string {
	return fmt.Sprintf("ledger (applied raft index %d) and raft state disagree: %s", e.Applied, e.Found)
}

// corruptAt is a CorruptError that names a sequence.
func corruptAt(part string, seq uint64, cause error, format string, args ...any) *CorruptError {
	return &CorruptError{Part: part, Sequence: seq, HasSequence: true, Found: fmt.Sprintf(format, args...), Err: cause}
}

// corrupt is a CorruptError of no particular sequence.
func corrupt(part string, cause error, format string, args ...any) *CorruptError {
	return &CorruptError{Part: part, Found: fmt.Sprintf(format, args...), Err: cause}
}
