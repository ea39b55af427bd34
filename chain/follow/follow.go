// Package follow decides whether a log's checkpoint may take the place of one that is
// trusted: signed as the policy asks, and of a tree that begins with the trusted one. It
// is pure: the caller fetches the tiles, keeps the trusted note, and stops where a log
// contradicts itself.
package follow

import (
	"errors"
	"fmt"
	"slices"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogtiles"
)

var (
	// ErrStale is wrapped where the checkpoint is of a smaller tree than the trusted one.
	// Keep the trusted one, and ask again or elsewhere. Whether the smaller tree is a
	// beginning of the larger is not looked at.
	ErrStale = errors.New("checkpoint is older than the trusted one")
	// ErrOrigin is wrapped where the checkpoint is of another log. An epoch that a
	// recovery began is another log.
	ErrOrigin = errors.New("checkpoint of another log")
)

// Equivocation is the error where a log signed two trees of which one does not begin with
// the other. The two notes, Root and Proof show it to anyone: by the proof, the tree of
// the newer note has Root at the trusted note's size, and the trusted note says otherwise.
type Equivocation struct {
	Trusted, Note *checkpoint.Note
	// Root is of the first leaves of the newer tree, as many as the trusted note counts.
	Root chain.Hash
	// Proof is the RFC 6962 consistency proof from Root to the newer note's root; empty
	// where both have the same size.
	Proof []chain.Hash
}

func (e *Equivocation) Error() string {
	return fmt.Sprintf("follow: %s signed two histories: of its first %d entries the root is %v by the trusted checkpoint, and %v by that of %d entries: keep both as evidence",
		e.Trusted.Checkpoint.Origin, e.Trusted.Checkpoint.Size, e.Trusted.Checkpoint.Root, e.Root, e.Note.Checkpoint.Size)
}

// Next holds a note against the policy, and where trusted is not nil, against that: a note
// that Next accepted before. Its signatures are not checked again, since the policy's keys
// may have changed since. Tiles are those of the note's tree, as Tiles names them, from
// anywhere: they are verified with it.
//
// The errors wrap checkpoint.ErrSignature or checkpoint.ErrQuorum where the note does not
// satisfy the policy; ErrOrigin; ErrStale; chain.ErrProof where the tiles are not of the
// note's tree, which shows nothing about the log; what reading tiles returned; or are an
// *Equivocation. Only without an error may the note be trusted.
func Next(trusted, note *checkpoint.Note, policy *checkpoint.Policy, tiles chain.TileReader) (checkpoint.Judgement, error) {
	by, err := policy.Verify(note)
	if err != nil {
		return by, fmt.Errorf("follow: %w", err)
	}
	if trusted == nil {
		return by, nil
	}
	old, now := &trusted.Checkpoint, &note.Checkpoint
	switch {
	case now.Origin != old.Origin:
		return by, fmt.Errorf("follow: %w: %q, trusted is one of %q", ErrOrigin, now.Origin, old.Origin)
	case now.Size < old.Size:
		return by, fmt.Errorf("follow: %w: of %d entries, trusted are %d", ErrStale, now.Size, old.Size)
	}
	root, proof, err := beginning(old.Size, now.Size, now.Root, tiles)
	if err != nil {
		return by, fmt.Errorf("follow: consistency of %d with %d entries: %w", old.Size, now.Size, err)
	}
	// The root at the old size comes from hashes that the proof has just bound to the
	// note's root: what a bad tile leads to is ErrProof, never this.
	if root != old.Root {
		return by, &Equivocation{Trusted: trusted, Note: note, Root: root, Proof: proof}
	}
	return by, nil
}

// beginning returns the root that the tree of size to and root toRoot has over its first
// leaves, and the proof of it.
func beginning(from, to uint64, toRoot chain.Hash, tiles chain.TileReader) (chain.Hash, []chain.Hash, error) {
	if from == to {
		return toRoot, nil, nil
	}
	root, err := chain.RootAt(from, tiles)
	if err != nil {
		return root, nil, err
	}
	proof, err := chain.ConsistencyProof(from, to, tiles)
	if err != nil {
		return root, nil, err
	}
	return root, proof, chain.VerifyConsistency(from, to, root, toRoot, proof)
}

// Tiles names the tiles that Next reads, in the widths that they have in a tree of size
// to: none where one of the sizes is 0, or from is not below to.
func Tiles(from, to uint64) []tlogtiles.Tile {
	if from >= to {
		return nil
	}
	// Which tiles are read depends on the sizes alone. Of tiles of zeroes the proof is
	// wrong, which is the only error.
	r := &recorder{size: to}
	_, _, _ = beginning(from, to, chain.Hash{}, r)
	return r.read
}

// Tile names a tile, which has at least one hash, as a tree of that size has it.
func Tile(level int, index, size uint64) tlogtiles.Tile {
	has := size>>(chain.TileHeight*level) - index*chain.TileWidth
	return tlogtiles.Tile{Level: level, Index: index, Width: int(min(has, chain.TileWidth))}
}

type recorder struct {
	size uint64
	read []tlogtiles.Tile
}

func (r *recorder) ReadTile(level int, index uint64, _ int) ([]byte, error) {
	t := Tile(level, index, r.size)
	if !slices.Contains(r.read, t) {
		r.read = append(r.read, t)
	}
	return make([]byte, chain.TileSize)[:t.Width*len(chain.Hash{})], nil
}
