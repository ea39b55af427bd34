package signing

import (
	"errors"
	"fmt"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

// Tree is a log as this node has it: what it has itself applied, never what somebody says
// of it.
type Tree interface {
	// Size is the number of leaves.
	Size() uint64
	// RootAt is the root over the first size leaves, at most Size.
	RootAt(size uint64) (chain.Hash, error)
}

// Errors of Cosign, besides Memory's.
var (
	// ErrBehind: the node has not applied that much yet. The caller asks again.
	ErrBehind = errors.New("not that far yet")
	// ErrNotTheLog: no key of the log signed the checkpoint.
	ErrNotTheLog = errors.New("the log did not sign it")
)

// Log signs its own checkpoints.
type Log struct {
	memory *Memory
	signer *checkpoint.Signer
}

// NewLog returns a signer of one log's checkpoints. The memory is of this key alone.
func NewLog(m *Memory, s *checkpoint.Signer) (*Log, error) {
	if t := s.Key().Type; t != checkpoint.Log {
		return nil, fmt.Errorf("signing: a key of type 0x%02x signs no checkpoints of a log", byte(t))
	}
	return &Log{memory: m, signer: s}, nil
}

// Sign signs the tree as it is now. What it signs is on disk first. The error wraps
// ErrContradicts where the tree does not go on from what was signed before.
func (l *Log) Sign(t Tree) (*checkpoint.Note, error) {
	origin := l.signer.Key().Name
	head := Head{Size: t.Size()}
	var err error
	if head.Root, err = t.RootAt(head.Size); err != nil {
		return nil, fmt.Errorf("signing: root of %d entries: %w", head.Size, err)
	}
	if err := l.memory.Advance(origin, head, beginsIn(t)); err != nil {
		return nil, err
	}
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: origin, Size: head.Size, Root: head.Root}}
	signature, err := l.signer.Sign(&n.Checkpoint, 0)
	if err != nil {
		return nil, err
	}
	n.Add(signature)
	return n, nil
}

// beginsIn tells Memory.Advance whether a tree begins with the one signed last.
func beginsIn(t Tree) func(Head) error {
	return func(last Head) error {
		root, err := t.RootAt(last.Size)
		if err != nil {
			return err
		}
		if root != last.Root {
			return fmt.Errorf("%w: its first %d entries have root %v, what was signed has %v", chain.ErrProof, last.Size, root, last.Root)
		}
		return nil
	}
}

// Cosigner cosigns checkpoints of logs that this node has itself.
type Cosigner struct {
	memory  *Memory
	signers []*checkpoint.Signer
	// judge is asked about all entries below a size: nil says that they may be
	// cosigned.
	judge func(size uint64) error
	now   func() time.Time
}

// NewCosigner returns a cosigner with one or more keys, which all sign the same. The
// memory is of these keys alone. judge is asked before anything is signed whether what
// stands below a size may be cosigned: that the node's clock is not far behind the
// entries' times, and that their verdicts follow.
func NewCosigner(m *Memory, judge func(size uint64) error, now func() time.Time, signers ...*checkpoint.Signer) (*Cosigner, error) {
	for _, s := range signers {
		if t := s.Key().Type; t == checkpoint.Log {
			return nil, fmt.Errorf("signing: a key of type 0x%02x does not cosign", byte(t))
		}
	}
	return &Cosigner{memory: m, signers: signers, judge: judge, now: now}, nil
}

// Cosign returns a signature of each key over a checkpoint that one of the log's keys
// signed, of a tree that is the beginning of t. What it signs is on disk first. The error
// wraps ErrNotTheLog, ErrBehind, ErrOlder, ErrContradicts or ErrBroken, or is judge's.
func (c *Cosigner) Cosign(n *checkpoint.Note, log []checkpoint.Key, t Tree) ([]checkpoint.Signature, error) {
	p := &n.Checkpoint
	signed, err := n.Verify(log...)
	if err != nil {
		return nil, fmt.Errorf("signing: %w: %w", ErrNotTheLog, err)
	}
	if len(signed) == 0 {
		return nil, fmt.Errorf("signing: %w: %s", ErrNotTheLog, p.Origin)
	}
	if have := t.Size(); have < p.Size {
		return nil, fmt.Errorf("signing: %w: %d of %d entries", ErrBehind, have, p.Size)
	}
	root, err := t.RootAt(p.Size)
	if err != nil {
		return nil, fmt.Errorf("signing: root of %d entries: %w", p.Size, err)
	}
	if root != p.Root {
		return nil, fmt.Errorf("signing: %w: the log says root %v of %d entries, they have %v here", ErrContradicts, p.Root, p.Size, root)
	}
	if err := c.judge(p.Size); err != nil {
		return nil, err
	}
	if err := c.memory.Advance(p.Origin, Head{Size: p.Size, Root: p.Root}, beginsIn(t)); err != nil {
		return nil, err
	}
	var out []checkpoint.Signature
	for _, s := range c.signers {
		signature, err := s.Sign(p, uint64(max(c.now().Unix(), 0)))
		if err != nil {
			return nil, err
		}
		out = append(out, signature)
	}
	return out, nil
}
