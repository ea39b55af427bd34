package chain

import (
	"errors"
	"fmt"
	"math/bits"
)

// ErrProof says that a proof does not prove what it is held against. Whoever
// sent it is wrong or lies.
var ErrProof = errors.New("chain: proof does not verify")

// ErrBeyond says that a proof or root was asked for beyond the tree's size.
var ErrBeyond = errors.New("chain: beyond the size of the tree")

// RootAt returns the root over the first size leaves of a tree of at least that
// size.
func RootAt(size uint64, r TileReader) (Hash, error) {
	if size == 0 {
		return EmptyRoot(), nil
	}
	return newProver(r).root(0, size)
}

// InclusionProof returns the RFC 6962 audit path (section 2.1.1) that leaf seq
// is in the tree of the given size, nearest sibling first.
func InclusionProof(seq, size uint64, r TileReader) ([]Hash, error) {
	if seq >= size {
		return nil, fmt.Errorf("%w: inclusion of %d in %d", ErrBeyond, seq, size)
	}
	p := newProver(r)
	return p.path(nil, seq, 0, size)
}

// ConsistencyProof returns the RFC 6962 proof (section 2.1.2) that the tree of
// size to begins with the tree of size from. It is empty where from is 0 or
// equal to to.
func ConsistencyProof(from, to uint64, r TileReader) ([]Hash, error) {
	if from > to {
		return nil, fmt.Errorf("%w: consistency of %d with %d", ErrBeyond, from, to)
	}
	if from == 0 || from == to {
		return nil, nil
	}
	return newProver(r).subproof(nil, from, 0, to, true)
}

// VerifyInclusion checks an audit path: that leaf (a leaf hash) has sequence seq
// in the tree of the given size and root. Otherwise it returns ErrProof.
// The algorithm is RFC 9162's, section 2.1.3.2.
func VerifyInclusion(leaf Hash, seq, size uint64, root Hash, proof []Hash) error {
	if seq >= size {
		return fmt.Errorf("%w: sequence %d in a tree of %d", ErrProof, seq, size)
	}
	fn, sn, r := seq, size-1, leaf
	for _, p := range proof {
		if sn == 0 {
			return fmt.Errorf("%w: inclusion proof is too long", ErrProof)
		}
		if fn&1 == 1 || fn == sn {
			r = NodeHash(p, r)
			if fn&1 == 0 {
				shift := bits.TrailingZeros64(fn)
				fn, sn = fn>>shift, sn>>shift
			}
		} else {
			r = NodeHash(r, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		return fmt.Errorf("%w: inclusion proof is too short", ErrProof)
	}
	if r != root {
		return fmt.Errorf("%w: inclusion proof leads to another root", ErrProof)
	}
	return nil
}

// VerifyConsistency checks that the tree of size to and root toRoot begins with
// the tree of size from and root fromRoot. Otherwise it returns ErrProof. Every
// tree begins with the empty one.
// The algorithm is RFC 9162's, section 2.1.4.2.
func VerifyConsistency(from, to uint64, fromRoot, toRoot Hash, proof []Hash) error {
	switch {
	case from > to:
		return fmt.Errorf("%w: a tree of %d can't begin with one of %d", ErrProof, to, from)
	case from == 0 || from == to:
		if len(proof) != 0 {
			return fmt.Errorf("%w: consistency proof is too long", ErrProof)
		}
		if from == 0 && fromRoot != EmptyRoot() || from == to && fromRoot != toRoot {
			return fmt.Errorf("%w: roots differ", ErrProof)
		}
		return nil
	case len(proof) == 0:
		return fmt.Errorf("%w: consistency proof is empty", ErrProof)
	}
	// The path begins at the old tree itself where that is one perfect
	// subtree, whose root the verifier has.
	if from&(from-1) == 0 {
		proof = append([]Hash{fromRoot}, proof...)
	}
	fr, sr, err := ConsistencyRoots(from, to, proof)
	switch {
	case err != nil:
		return err
	case fr != fromRoot:
		return fmt.Errorf("%w: consistency proof leads to another old root", ErrProof)
	case sr != toRoot:
		return fmt.Errorf("%w: consistency proof leads to another new root", ErrProof)
	}
	return nil
}

// ConsistencyRoots returns the roots that a consistency proof leads to: of the tree of
// size from, which is at least 1, and of the tree of size to, which is larger, that
// begins with it. Where from is a power of two the older root stands before the proof
// of ConsistencyProof, which leaves it out. The error wraps ErrProof where there are
// too few hashes or too many.
//
// Whoever knows the newer root to be signed, and finds that the proof leads to it, has
// the one root that the older tree can have had: that of another is a contradiction.
func ConsistencyRoots(from, to uint64, proof []Hash) (old, root Hash, err error) {
	if from == 0 || from >= to {
		return old, root, fmt.Errorf("%w: no roots of %d in %d", ErrProof, from, to)
	}
	if len(proof) == 0 {
		return old, root, fmt.Errorf("%w: consistency proof is empty", ErrProof)
	}
	fn, sn := from-1, to-1
	shift := bits.TrailingZeros64(^fn)
	fn, sn = fn>>shift, sn>>shift
	old, root = proof[0], proof[0]
	for _, p := range proof[1:] {
		if sn == 0 {
			return old, root, fmt.Errorf("%w: consistency proof is too long", ErrProof)
		}
		if fn&1 == 1 || fn == sn {
			old, root = NodeHash(p, old), NodeHash(p, root)
			if fn&1 == 0 {
				shift := bits.TrailingZeros64(fn)
				fn, sn = fn>>shift, sn>>shift
			}
		} else {
			root = NodeHash(root, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		return old, root, fmt.Errorf("%w: consistency proof is too short", ErrProof)
	}
	return old, root, nil
}

// prover computes hashes of one proof; it keeps the tiles that it has read.
type prover struct {
	r     TileReader
	tiles []readTiles
}

type readTiles struct {
	level int
	index uint64
	tile  []byte
}

func newProver(r TileReader) *prover { return &prover{r: r} }

// split returns the largest power of two below n, which is at least 2.
func split(n uint64) uint64 { return 1 << (bits.Len64(n-1) - 1) }

// path appends PATH(seq, D[lo:hi]).
func (p *prover) path(proof []Hash, seq, lo, hi uint64) ([]Hash, error) {
	if hi-lo == 1 {
		return proof, nil
	}
	mid := lo + split(hi-lo)
	if seq < mid {
		return p.then(p.path, proof, seq, lo, mid, mid, hi)
	}
	return p.then(p.path, proof, seq, mid, hi, lo, mid)
}

// then appends what f says of [lo, hi), then the root of the sibling.
func (p *prover) then(f func([]Hash, uint64, uint64, uint64) ([]Hash, error), proof []Hash, n, lo, hi, siblingLo, siblingHi uint64) ([]Hash, error) {
	proof, err := f(proof, n, lo, hi)
	if err != nil {
		return nil, err
	}
	h, err := p.root(siblingLo, siblingHi)
	if err != nil {
		return nil, err
	}
	return append(proof, h), nil
}

// subproof appends SUBPROOF(from-lo, D[lo:hi], whole): from is where the old
// tree ends, and whole says that D[lo:from] is all of the old tree.
func (p *prover) subproof(proof []Hash, from, lo, hi uint64, whole bool) ([]Hash, error) {
	if from == hi {
		if whole {
			return proof, nil
		}
		h, err := p.root(lo, hi)
		return append(proof, h), err
	}
	mid := lo + split(hi-lo)
	left := from <= mid
	inner := func(proof []Hash, from, lo, hi uint64) ([]Hash, error) {
		return p.subproof(proof, from, lo, hi, whole && left)
	}
	if left {
		return p.then(inner, proof, from, lo, mid, mid, hi)
	}
	return p.then(inner, proof, from, mid, hi, lo, mid)
}

// root returns the root over the leaves [lo, hi), a subtree of some tree: lo is
// a multiple of the least power of two that is not below hi-lo.
func (p *prover) root(lo, hi uint64) (Hash, error) {
	n := hi - lo
	if n&(n-1) == 0 {
		return p.perfect(bits.TrailingZeros64(n), lo)
	}
	mid := lo + split(n)
	left, err := p.root(lo, mid)
	if err != nil {
		return Hash{}, err
	}
	right, err := p.root(mid, hi)
	if err != nil {
		return Hash{}, err
	}
	return NodeHash(left, right), nil
}

// perfect returns the root of the perfect subtree of the given height whose
// first leaf is lo.
func (p *prover) perfect(height int, lo uint64) (Hash, error) {
	level := height / TileHeight
	width := 1 << (height % TileHeight) // hashes of that level under the root
	n := lo >> (TileHeight * level)
	first := int(n % TileWidth)
	tile, err := p.tile(level, n>>TileHeight, first+width)
	if err != nil {
		return Hash{}, err
	}
	return perfectRoot(tile[first*hashSize : (first+width)*hashSize]), nil
}

func (p *prover) tile(level int, index uint64, width int) ([]byte, error) {
	at := -1
	for i := range p.tiles {
		if p.tiles[i].level == level && p.tiles[i].index == index {
			if len(p.tiles[i].tile) >= width*hashSize {
				return p.tiles[i].tile, nil
			}
			at = i
		}
	}
	tile, err := readTile(p.r, level, index, width)
	if err != nil {
		return nil, err
	}
	if at < 0 {
		p.tiles = append(p.tiles, readTiles{level: level, index: index})
		at = len(p.tiles) - 1
	}
	p.tiles[at].tile = tile
	return tile, nil
}
