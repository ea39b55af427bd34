package ledger

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/exonode/exonode/chain"
)

// tileSpan returns the sequences under a full tile.
func tileSpan(level int, index uint64) span {
	shift := chain.TileHeight * (level + 1)
	return span{index << shift, (index + 1) << shift}
}

// writeTile puts a full tile into a batch.
func writeTile(b *pebble.Batch, sp space, level int, index uint64, tile []byte) {
	var buf [11]byte
	key := appendTileKey(buf[:0], sp, uint8(level), index)
	op := b.SetDeferred(len(key), len(tile))
	copy(op.Key, key)
	copy(op.Value, tile)
	_ = op.Finish() // fails for indexed batches alone
}

// fullTile reads a full tile.
func (s *Store) fullTile(v *view, level int, index uint64) ([]byte, error) {
	under := tileSpan(level, index)
	var buf [11]byte
	tile, ok, err := s.get(appendTileKey(buf[:0], v.space(under.to-1), uint8(level), index))
	if err != nil {
		return nil, readError("tile", under.from, err)
	}
	if !ok || len(tile) != chain.TileSize {
		return nil, corruptAt("tile", under.from, nil, "tile %d of level %d is missing or malformed (%d bytes)", index, level, len(tile))
	}
	return tile, nil
}

// storedTiles reads full tiles below the head. It is safe for concurrent use;
// its callers have entered the store.
type storedTiles struct{ store *Store }

// ReadTile implements chain.TileReader.
func (r storedTiles) ReadTile(level int, index uint64, _ int) (tile []byte, err error) {
	err = r.store.consistent(func(v *view) (err error) {
		if tileSpan(level, index).to > v.meta.Head.Size {
			return fmt.Errorf("tile %d of level %d is not full in a tree of %d", index, level, v.meta.Head.Size)
		}
		tile, err = r.store.fullTile(v, level, index)
		return err
	})
	return tile, err
}

// edgeTiles reads what the right edge of the tree is rebuilt from: full tiles,
// and the lowest partial tile, computed from its headers.
type edgeTiles struct {
	store *Store
	view  *view
}

// ReadTile implements chain.TileReader.
func (r edgeTiles) ReadTile(level int, index uint64, width int) ([]byte, error) {
	under := tileSpan(level, index)
	if under.to <= r.view.meta.Head.Size {
		return r.store.fullTile(r.view, level, index)
	}
	if level != 0 {
		return nil, fmt.Errorf("tile %d of level %d is not full in a tree of %d", index, level, r.view.meta.Head.Size)
	}
	tile := make([]byte, 0, chain.TileSize)
	for seq := under.from; seq < under.from+uint64(width); seq++ {
		header, err := r.store.header(r.view, seq)
		if err != nil {
			return nil, err
		}
		leaf := chain.LeafHash(header)
		tile = append(tile, leaf[:]...)
	}
	return tile, nil
}

// ReadTile returns the first width hashes of a tile, or more of them: it
// implements chain.TileReader over the tree as it is now. It is safe for
// concurrent use.
func (s *Store) ReadTile(level int, index uint64, width int) (tile []byte, err error) {
	err = s.withTiles(func(r chain.TileReader) (err error) {
		tile, err = r.ReadTile(level, index, width)
		return err
	})
	return tile, err
}

// RootAt returns the root over the first size headers; size is at most
// Meta().Head.Size.
func (s *Store) RootAt(size uint64) (root chain.Hash, err error) {
	err = s.withTree(size, func(r chain.TileReader) (err error) {
		root, err = chain.RootAt(size, r)
		return err
	})
	return root, err
}

// InclusionProof returns the audit path of an entry in the tree of a size, which
// is at most Meta().Head.Size.
func (s *Store) InclusionProof(seq, size uint64) (proof []chain.Hash, err error) {
	if seq >= size {
		return nil, fmt.Errorf("%w: sequence %d in a tree of %d", chain.ErrBeyond, seq, size)
	}
	err = s.withTree(size, func(r chain.TileReader) (err error) {
		proof, err = chain.InclusionProof(seq, size, r)
		return err
	})
	return proof, err
}

// ConsistencyProof returns the proof that the tree of size to, at most
// Meta().Head.Size, begins with the tree of size from.
func (s *Store) ConsistencyProof(from, to uint64) (proof []chain.Hash, err error) {
	if from > to {
		return nil, fmt.Errorf("%w: consistency of %d with %d", chain.ErrBeyond, from, to)
	}
	err = s.withTree(to, func(r chain.TileReader) (err error) {
		proof, err = chain.ConsistencyProof(from, to, r)
		return err
	})
	return proof, err
}

// withTree runs read over the tree, once it has size entries. A size beyond the
// head is the caller's mistake, and no failure of the store.
func (s *Store) withTree(size uint64, read func(chain.TileReader) error) error {
	if have := s.Meta().Head.Size; size > have {
		return fmt.Errorf("%w: size %d, the chain has %d entries", chain.ErrBeyond, size, have)
	}
	err := s.withTiles(read)
	if err == nil || s.readOnly {
		return err
	}
	return s.fail(fmt.Errorf("read tree: %w", err))
}

func (s *Store) withTiles(read func(chain.TileReader) error) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	v := s.view.Load()
	if v.edgeErr != nil {
		return v.edgeErr
	}
	return read(v.tiles)
}
