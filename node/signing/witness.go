package signing

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogwitness"
)

// Errors of Witness.Add, besides ErrNotTheLog and Memory's.
var (
	// ErrUnknownLog: the witness is not configured for the checkpoint's origin.
	ErrUnknownLog = errors.New("the log is not known here")
	// ErrRequest: the request can't be about any log.
	ErrRequest = errors.New("request makes no sense")
)

// SizeError says that the tree which was cosigned last is not the one that the request
// starts from.
type SizeError struct {
	// Size is that tree's; 0 where none was cosigned.
	Size uint64
}

// Error implements error.
func (e *SizeError) Error() string {
	return fmt.Sprintf("signing: the last tree that was cosigned has size %d", e.Size)
}

// Witness cosigns checkpoints of logs that it does not have, on the strength of
// consistency proofs (c2sp.org/tlog-witness). Its keys are its own: what it says of a log
// is that it saw one history of it, not that it knows what is in there. Safe for
// concurrent use.
type Witness struct {
	mu      sync.Mutex // one request at a time: the check and what is kept are one step
	memory  *Memory
	signers []*checkpoint.Signer
	logs    []checkpoint.Key
	now     func() time.Time
}

// NewWitness returns a witness of logs, by their keys, of which one log may have several.
// The memory is of the signers' keys alone.
func NewWitness(m *Memory, logs []checkpoint.Key, now func() time.Time, signers ...*checkpoint.Signer) (*Witness, error) {
	for _, s := range signers {
		if t := s.Key().Type; t == checkpoint.Log {
			return nil, fmt.Errorf("signing: a key of type 0x%02x does not cosign", byte(t))
		}
	}
	return &Witness{memory: m, signers: signers, logs: slices.Clone(logs), now: now}, nil
}

// Keys are the witness's own.
func (w *Witness) Keys() []checkpoint.Key {
	var keys []checkpoint.Key
	for _, s := range w.signers {
		keys = append(keys, s.Key())
	}
	return keys
}

// Add cosigns a checkpoint that one of the log's keys signed, and whose tree goes on from
// the one that was cosigned last. What it signs is on disk first. The error wraps
// ErrUnknownLog, ErrNotTheLog, ErrRequest, chain.ErrProof, ErrContradicts or ErrBroken, or
// is a *SizeError.
func (w *Witness) Add(r *tlogwitness.Request) ([]checkpoint.Signature, error) {
	p := &r.Note.Checkpoint
	keys := slices.DeleteFunc(slices.Clone(w.logs), func(k checkpoint.Key) bool { return k.Name != p.Origin })
	if len(keys) == 0 {
		return nil, fmt.Errorf("signing: %w: %q", ErrUnknownLog, p.Origin)
	}
	signed, err := r.Note.Verify(keys...)
	if err != nil || len(signed) == 0 {
		return nil, errors.Join(fmt.Errorf("signing: %w: %s", ErrNotTheLog, p.Origin), err)
	}
	if r.Old > p.Size {
		return nil, fmt.Errorf("signing: %w: from size %d back to %d", ErrRequest, r.Old, p.Size)
	}
	if (r.Old == 0 || r.Old == p.Size) && len(r.Proof) > 0 {
		return nil, fmt.Errorf("signing: %w: a proof from size %d to %d has no hashes", ErrRequest, r.Old, p.Size)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last, _ := w.memory.Last(p.Origin)
	if last.Size != r.Old {
		return nil, &SizeError{last.Size}
	}
	err = w.memory.Advance(p.Origin, Head{Size: p.Size, Root: p.Root}, func(last Head) error {
		return chain.VerifyConsistency(last.Size, p.Size, last.Root, p.Root, r.Proof)
	})
	if err != nil {
		return nil, err
	}
	var out []checkpoint.Signature
	for _, s := range w.signers {
		signature, err := s.Sign(p, uint64(max(w.now().Unix(), 0)))
		if err != nil {
			return nil, err
		}
		out = append(out, signature)
	}
	return out, nil
}
