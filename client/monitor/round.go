package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/evidence"
)

// round judges one checkpoint, which the log signed.
type round struct {
	*Monitor
	ctx    context.Context
	note   *checkpoint.Note
	tree   *tree // the log's, of the note's size
	lacks  error // the note lacks a quorum; nil where it has one
	result *Result
}

func (r *round) size() uint64 { return r.note.Checkpoint.Size }

// judge compares the checkpoint with what was verified, and reads what is new.
func (r *round) judge() error {
	if r.state == nil {
		return r.extend(&state{tree: &chain.Tree{}})
	}
	r.result.From = r.state.size()
	old, now := r.state.note.Checkpoint.Origin, r.note.Checkpoint.Origin
	if old == now {
		return r.sameLog()
	}
	base, before, ok := evidence.SplitOrigin(old)
	other, epoch, ok2 := evidence.SplitOrigin(now)
	switch {
	case !ok || !ok2 || base != other || !r.state.headers:
		return fmt.Errorf("monitor: %w: %q, not %q", ErrOtherLog, now, old)
	case epoch > before:
		return r.laterEpoch(before, epoch)
	default:
		return r.earlierEpoch(epoch)
	}
}

// own are the hashes of what was verified.
func (r *round) own() hashes { return hashes{r.store, r.state.generation} }

// prefixes returns the roots at a size in the verified tree and in the log's, with their
// proofs. That of the log's tree leads to the signed root.
func (r *round) prefixes(size uint64) (e *evidence.Evidence, equal bool, err error) {
	e = &evidence.Evidence{First: r.state.note, Second: r.note, Size: size}
	verified, first, err := r.verifiedPrefix(size)
	if err != nil {
		return nil, false, err
	}
	theirs, second, err := r.prefix(size, r.note, r.tree)
	if err != nil {
		return nil, false, err
	}
	e.FirstProof, e.SecondProof = first, second
	return e, verified == theirs, nil
}

// verifiedPrefix is prefix of what was verified, by the hashes on disk.
func (r *round) verifiedPrefix(size uint64) (chain.Hash, []chain.Hash, error) {
	root, proof, err := r.prefix(size, r.state.note, r.own())
	if errors.Is(err, ErrTiles) {
		err = fmt.Errorf("monitor: %w: the hashes on disk are not those that were verified", ErrState)
	}
	return root, proof, err
}

// prefix is evidence.Prefix, and checks that the proof leads to the note's root.
func (r *round) prefix(size uint64, note *checkpoint.Note, tiles chain.TileReader) (chain.Hash, []chain.Hash, error) {
	c := &note.Checkpoint
	if size == c.Size {
		return c.Root, nil, nil
	}
	_, proof, err := evidence.Prefix(size, c.Size, tiles)
	if err != nil {
		return chain.Hash{}, nil, fmt.Errorf("monitor: %w", err)
	}
	old, root, err := chain.ConsistencyRoots(size, c.Size, proof)
	if err != nil || root != c.Root {
		return chain.Hash{}, nil, fmt.Errorf("monitor: %w: they have root %v at %d entries, %v is signed", ErrTiles, root, c.Size, c.Root)
	}
	return old, proof, nil
}

// sameLog judges a checkpoint of the origin that was followed.
func (r *round) sameLog() error {
	had, has := &r.state.note.Checkpoint, &r.note.Checkpoint
	if has.Size == 0 && had.Size > 0 {
		return r.stale() // every tree begins with the empty one
	}
	if had.Size > 0 {
		e, equal, err := r.prefixes(min(had.Size, has.Size))
		if err != nil {
			return err
		}
		if !equal {
			return r.misbehaved(e)
		}
	}
	switch {
	case has.Size < had.Size:
		return r.stale()
	case has.Size > had.Size:
		return r.extend(r.state)
	}
	r.result.Headers = r.state.headers
	return r.lacks
}

func (r *round) stale() error {
	had, has := &r.state.note.Checkpoint, &r.note.Checkpoint
	return fmt.Errorf("monitor: %w: %d entries of %s, verified are %d of %s", ErrStale, has.Size, has.Origin, had.Size, had.Origin)
}

// leaf fetches an entry of the log's tree, and its proof, which leads to the signed root.
func (r *round) leaf(index uint64) (evidence.Leaf, error) {
	l := evidence.Leaf{Index: index}
	entries, err := bundle(r.ctx, r.source, index, r.size())
	if err != nil {
		return l, fmt.Errorf("monitor: %w", err)
	}
	l.Entry = entries[0]
	if l.Path, err = chain.InclusionProof(index, r.size(), r.tree); err != nil {
		return l, fmt.Errorf("monitor: %w", err)
	}
	if err := chain.VerifyInclusion(chain.LeafHash(l.Entry), index, r.size(), r.note.Checkpoint.Root, l.Path); err != nil {
		return l, fmt.Errorf("monitor: %w: entry %d: %w", ErrTiles, index, err)
	}
	return l, nil
}

// broken is where an entry breaks a rule of the chain: it is the log's doing where the
// entry is in the tree that it signed, and a false file where it is not.
func (r *round) broken(index uint64, rule error) error {
	e := &evidence.Evidence{Second: r.note}
	for i := index - min(index, 1); i <= index; i++ {
		l, err := r.leaf(i)
		if err != nil {
			return err
		}
		e.Leaves = append(e.Leaves, l)
	}
	if _, err := e.Verify(r.policy); errors.Is(err, evidence.ErrNotEvidence) {
		return &MisbehaviourError{Finding: &evidence.Finding{Kind: evidence.Entry, What: rule.Error()}}
	}
	return r.misbehaved(e)
}

// extend reads the entries from the end of a state on, which is consistent with the
// checkpoint, and commits the checkpoint as the new state.
func (r *round) extend(from *state) error {
	if r.lacks != nil {
		return r.lacks
	}
	next := &state{note: r.note, headers: from.headers, tip: from.tip, epochs: slices.Clone(from.epochs), generation: from.generation}
	g := r.store.grow(from.tree, from.generation)
	start := from.tree.Size()
	total := r.size() - start
	var before []byte
	var broken error // the first entry that breaks a rule
	at := start
	err := eachEntry(r.ctx, r.source, start, r.size(), func(index uint64, entry []byte) error {
		if index == 0 {
			next.headers, next.tip = areHeaders(r.note.Checkpoint.Origin, entry)
		}
		if next.headers {
			if broken = next.add(entry, before); broken != nil {
				at = index
				return broken
			}
			before = entry
		}
		if done := index - start; done%chain.TileWidth == 0 {
			r.progress(done, total)
		}
		return g.add(entry)
	})
	if broken != nil {
		return r.broken(at, broken)
	}
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	r.progress(total, total)
	if root := g.tree.Root(); root != r.note.Checkpoint.Root {
		return fmt.Errorf("monitor: %w: the entries have root %v, %v is signed", ErrTiles, root, r.note.Checkpoint.Root)
	}
	if _, epoch, ok := evidence.SplitOrigin(r.note.Checkpoint.Origin); ok && next.headers && next.tip.Epoch != epoch {
		return r.undeclared()
	}
	for i := range next.epochs[len(from.epochs):] {
		e := &next.epochs[len(from.epochs)+i]
		if e.Start == 0 {
			continue
		}
		r.result.Epochs = append(r.result.Epochs, e.Epoch)
		if e.Before == nil {
			l, err := r.leaf(e.Start - 1)
			if err != nil {
				return err
			}
			e.Before = l.Entry
		}
	}
	if err := g.flush(); err != nil {
		return err
	}
	next.tree = g.tree
	if err := r.store.save(next); err != nil {
		return err
	}
	r.Monitor.state, r.result.Headers = next, next.headers
	return nil
}

// areHeaders decides by entry 0 whether a log's leaves are headers of a chain: by its
// origin, which says so, or where that was configured otherwise and has an epoch, by the
// entry.
func areHeaders(origin string, entry []byte) (bool, evidence.Tip) {
	if id, ok := evidence.ChainID(origin); ok {
		return true, evidence.Tip{ChainID: id}
	}
	if _, _, ok := evidence.SplitOrigin(origin); !ok {
		return false, evidence.Tip{}
	}
	var none evidence.Tip
	_, err := none.Next(entry)
	return err == nil, none
}

// add checks the next header, and notes where an epoch begins. before is the entry
// before it, nil for the first one of a round: extend fetches it where it is needed.
func (s *state) add(entry, before []byte) error {
	tip, err := s.tip.Next(entry)
	if err != nil {
		return err
	}
	if s.tip.Size == 0 || tip.Epoch != s.tip.Epoch {
		s.epochs = append(s.epochs, epochStart{tip.Epoch, s.tip.Size, before})
	}
	s.tip = tip
	return nil
}

// undeclared is where the log's tree ends in another epoch than its origin names.
func (r *round) undeclared() error {
	last, err := r.leaf(r.size() - 1)
	if err != nil {
		return err
	}
	return r.misbehaved(&evidence.Evidence{Second: r.note, Leaves: []evidence.Leaf{last}})
}

// laterEpoch judges a checkpoint of a later epoch than the one that was followed. Its
// tree must declare that epoch, by a chain.recover, and have all that was verified before
// that entry; what was verified beyond it, the recovery left behind.
func (r *round) laterEpoch(before, epoch uint64) error {
	if r.size() == 0 {
		return r.stale()
	}
	last, err := r.leaf(r.size() - 1)
	if err != nil {
		return err
	}
	tip, err := evidence.At(last.Index, last.Entry)
	if err != nil {
		return r.broken(last.Index, err)
	}
	if tip.Epoch != epoch {
		return r.undeclared()
	}
	begins, err := r.firstAfter(before)
	if err != nil {
		return err
	}
	common := min(begins, r.state.size())
	if r.state.size() > 0 {
		// A chain that begins in the later epoch can't have declared it: it has nothing
		// in common with one that began before.
		e, equal, err := r.prefixes(max(common, 1))
		if err != nil {
			return err
		}
		if !equal {
			l, err := r.leaf(max(begins, 1) - 1)
			if err != nil {
				return err
			}
			e.Leaves = []evidence.Leaf{l}
			return r.misbehaved(e)
		}
	}
	from := r.state
	if common < from.size() {
		if from, err = r.cut(common); err != nil {
			return err
		}
		r.result.Dropped = r.state.size() - common
	}
	return r.extend(from)
}

// firstAfter returns the first entry of the log's tree that is of a later epoch than the
// one given. The tree's last entry is. Epochs never go back in a chain: what extend reads
// later shows a tree in which they do.
func (r *round) firstAfter(epoch uint64) (uint64, error) {
	var failed error
	n := sort.Search(int(r.size()), func(i int) bool {
		if failed != nil {
			return false
		}
		l, err := r.leaf(uint64(i))
		if err != nil {
			failed = err
			return false
		}
		tip, err := evidence.At(l.Index, l.Entry)
		if err != nil {
			failed = r.broken(l.Index, err)
			return false
		}
		return tip.Epoch > epoch
	})
	return uint64(n), failed
}

// cut returns the state of the first size entries of what was verified, in a generation
// of its own. It is committed with what follows.
func (r *round) cut(size uint64) (*state, error) {
	if r.lacks != nil {
		return nil, r.lacks // nothing will follow
	}
	s := &state{headers: true, generation: r.state.generation + 1}
	l, err := r.leaf(size - 1) // it is what was verified: the roots are equal
	if err != nil {
		return nil, err
	}
	if s.tip, err = evidence.At(l.Index, l.Entry); err != nil {
		return nil, r.broken(l.Index, err)
	}
	for _, e := range r.state.epochs {
		if e.Start < size {
			s.epochs = append(s.epochs, e)
		}
	}
	if s.tree, err = chain.OpenTree(size, r.own()); err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	return s, r.store.copyHashes(r.state.generation, s.generation, size)
}

// earlierEpoch judges a checkpoint of an epoch that ended. Up to where the next one
// begins, its tree must be what was verified; beyond that the recovery left it behind.
func (r *round) earlierEpoch(epoch uint64) error {
	i := sort.Search(len(r.state.epochs), func(i int) bool { return r.state.epochs[i].Epoch > epoch })
	if i == len(r.state.epochs) || i == 0 || r.size() == 0 {
		return r.stale()
	}
	next := r.state.epochs[i]
	e, equal, err := r.prefixes(min(next.Start, r.size()))
	if err != nil {
		return err
	}
	if equal {
		return r.stale()
	}
	e.First, e.Second = e.Second, e.First
	e.FirstProof, e.SecondProof = e.SecondProof, e.FirstProof
	path, err := chain.InclusionProof(next.Start-1, r.state.size(), r.own())
	if err != nil {
		return fmt.Errorf("monitor: %w", err)
	}
	e.Leaves = []evidence.Leaf{{Index: next.Start - 1, Entry: next.Before, Path: path}}
	return r.misbehaved(e)
}

// settle holds what was verified against the checkpoints that were kept since their tree
// could not be had. Those that prove true are removed, others are evidence.
func (r *round) settle() error {
	if !r.unsettled {
		return nil
	}
	names, err := r.store.fs.List()
	if err != nil {
		return fmt.Errorf("monitor: %w: %w", ErrState, err)
	}
	open, lied := false, error(nil)
	for _, name := range names {
		if !strings.HasPrefix(name, keptPrefix) || strings.HasSuffix(name, newSuffix) {
			continue
		}
		b, err := r.store.fs.ReadFile(name)
		if err != nil {
			return fmt.Errorf("monitor: %w: %w", ErrState, err)
		}
		kept, err := checkpoint.ParseNote(b)
		if err != nil {
			return fmt.Errorf("monitor: %w: %s is damaged: %w", ErrState, name, err)
		}
		c, verified := &kept.Checkpoint, &r.state.note.Checkpoint
		if c.Origin != verified.Origin || c.Size > verified.Size {
			open = true // of an epoch that ended, or of a tree that is still to come
			continue
		}
		if c.Size > 0 {
			root, proof, err := r.verifiedPrefix(c.Size)
			if err != nil {
				return err
			}
			if root != c.Root {
				found := r.misbehaved(&evidence.Evidence{First: kept, Second: r.state.note, Size: c.Size, SecondProof: proof})
				if m := (*MisbehaviourError)(nil); !errors.As(found, &m) {
					return found
				}
				lied = found // the evidence has it now
			}
		}
		if err := r.store.fs.Remove(name); err != nil {
			return fmt.Errorf("monitor: %w: %w", ErrState, err)
		}
	}
	r.unsettled = open
	return lied
}
