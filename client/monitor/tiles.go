package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/tlogtiles"
)

const (
	maxBundle = chain.TileWidth * (2 + 65_535)
	// ahead is how many bundles are fetched at a time.
	ahead = 8
)

// tree is the log's tree of one size, as its files have it. Nothing of it is verified.
// It is for one goroutine.
type tree struct {
	ctx    context.Context
	source Source
	size   uint64
	// read are the tiles that were fetched: proofs come by the same ones.
	read map[tlogtiles.Tile][]byte
}

func newTree(ctx context.Context, source Source, size uint64) *tree {
	return &tree{ctx, source, size, map[tlogtiles.Tile][]byte{}}
}

// ReadTile implements chain.TileReader. It asks for a tile in the width that it has in
// the tree: static files have no other.
func (t *tree) ReadTile(level int, index uint64, width int) ([]byte, error) {
	there := t.size>>(chain.TileHeight*level) - index*chain.TileWidth
	tile := tlogtiles.Tile{Level: level, Index: index, Width: int(min(there, chain.TileWidth))}
	if b, ok := t.read[tile]; ok {
		return b, nil
	}
	size := tile.Width * len(chain.Hash{})
	b, err := fetchTile(t.ctx, t.source, tile, int64(chain.TileSize))
	if err != nil {
		return nil, err
	}
	if len(b) < size || len(b) > chain.TileSize || width > tile.Width {
		return nil, fmt.Errorf("%w: %s has %d bytes, want %d", ErrTiles, tile.Path(), len(b), size)
	}
	t.read[tile] = b[:size]
	return b[:size], nil
}

// fetchTile fetches a tile or a bundle. A partial one may be gone once the full one is
// there, which begins with it.
func fetchTile(ctx context.Context, source Source, tile tlogtiles.Tile, limit int64) ([]byte, error) {
	b, err := source.Fetch(ctx, tile.Path(), limit)
	if errors.Is(err, fs.ErrNotExist) && tile.Width < chain.TileWidth {
		full := tile
		full.Width = chain.TileWidth
		if whole, ferr := source.Fetch(ctx, full.Path(), limit); ferr == nil {
			return whole, nil
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, errTooLarge):
		return nil, fmt.Errorf("%w: %w", ErrTiles, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return b, nil
}

// bundle fetches the entries of a tree from an index on, up to the end of their bundle.
func bundle(ctx context.Context, source Source, from, size uint64) ([][]byte, error) {
	index := from / chain.TileWidth
	tile := tlogtiles.Tile{Entries: true, Index: index, Width: int(min(size-index*chain.TileWidth, chain.TileWidth))}
	b, err := fetchTile(ctx, source, tile, maxBundle)
	if err != nil {
		return nil, err
	}
	entries, err := tlogtiles.ReadBundle(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrTiles, tile.Path(), err)
	}
	if len(entries) < tile.Width || len(entries) > chain.TileWidth {
		return nil, fmt.Errorf("%w: %s has %d entries, want %d", ErrTiles, tile.Path(), len(entries), tile.Width)
	}
	return entries[from%chain.TileWidth : tile.Width], nil
}

// eachEntry calls f for the entries from an index to the end of the tree, in order.
// Bundles are fetched ahead; it returns once nothing of that runs.
func eachEntry(ctx context.Context, source Source, from, size uint64, f func(index uint64, entry []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var joined sync.WaitGroup
	defer joined.Wait()
	defer cancel()
	type result struct {
		entries [][]byte
		err     error
	}
	var waiting []chan result // of the next bundles, in order
	for next, at := from, from; at < size; {
		for ; len(waiting) < ahead && next < size; next = (next/chain.TileWidth + 1) * chain.TileWidth {
			start, c := next, make(chan result, 1)
			joined.Go(func() {
				entries, err := bundle(ctx, source, start, size)
				c <- result{entries, err}
			})
			waiting = append(waiting, c)
		}
		r := <-waiting[0]
		waiting = waiting[1:]
		if r.err != nil {
			return r.err
		}
		for _, entry := range r.entries {
			if err := f(at, entry); err != nil {
				return err
			}
			at++
		}
	}
	return nil
}
