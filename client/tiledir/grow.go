package tiledir

import (
	"bytes"
	"context"
	"fmt"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/tlogtiles"
)

const hashSize = len(chain.Hash{})

// grown is a tree with what is new in it, built from hashes alone: of the leaves only those
// that are in no full bundle.
type grown struct {
	tree *chain.Tree
	// first is the index of the first bundle that the tree before did not have full.
	first uint64
	// roots are those of the full bundles from there on.
	roots []chain.Hash
	// full are the tiles of level 1 and above that are full now and were not before.
	full []hashTile
}

type hashTile struct {
	tile   tlogtiles.Tile
	hashes []byte
}

// grow builds the tree of a size on one that is known. What came is right where its root
// is: then every bundle can be held against it by itself, in any order.
func grow(ctx context.Context, source Source, from *chain.Tree, size uint64) (*grown, error) {
	g := &grown{first: from.Size() / chain.TileWidth}
	// The roots of full bundles are the leaves of a tree of their own, which is ours
	// without level 0.
	upper, err := chain.NewTree(g.first, from.Edge()[from.Size()%chain.TileWidth:])
	if err != nil {
		return nil, err
	}
	bundles := size / chain.TileWidth
	for n := g.first; n < bundles; {
		index := n / chain.TileWidth
		tile := tlogtiles.Tile{Level: 1, Index: index, Width: int(min(chain.TileWidth, bundles-index*chain.TileWidth))}
		hashes, err := fetchHashes(ctx, source, tile)
		if err != nil {
			return nil, err
		}
		for _, h := range hashes[n%chain.TileWidth:] {
			g.roots = append(g.roots, h)
			upper.AppendLeaf(h, func(level int, index uint64, hashes []byte) {
				g.full = append(g.full, hashTile{tlogtiles.Tile{Level: level + 1, Index: index, Width: chain.TileWidth}, hashes})
			})
			n++
		}
	}
	var leaves []chain.Hash
	if width := int(size % chain.TileWidth); width > 0 {
		if leaves, err = fetchHashes(ctx, source, tlogtiles.Tile{Index: bundles, Width: width}); err != nil {
			return nil, err
		}
	}
	g.tree, err = chain.NewTree(size, append(leaves, upper.Edge()...))
	return g, err
}

func fetchHashes(ctx context.Context, source Source, tile tlogtiles.Tile) ([]chain.Hash, error) {
	b, err := source.Tile(ctx, tile)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", tile.Path(), err)
	}
	if len(b) != tile.Width*hashSize {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrSource, tile.Path(), len(b))
	}
	hashes := make([]chain.Hash, 0, tile.Width)
	for ; len(b) > 0; b = b[hashSize:] {
		hashes = append(hashes, chain.Hash(b))
	}
	return hashes, nil
}

// older judges a checkpoint of a tree that is smaller than the published one.
func (w *writer) older() error {
	c, p := &w.note.Checkpoint, &w.published.Checkpoint
	root, err := chain.RootAt(c.Size, w)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	proof, err := chain.ConsistencyProof(c.Size, p.Size, w)
	if err == nil {
		err = chain.VerifyConsistency(c.Size, p.Size, root, p.Root, proof)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if root != c.Root {
		return &ForkError{w.published, w.note}
	}
	return fmt.Errorf("%w: it is of %d entries, and %d are published", ErrBehind, c.Size, p.Size)
}

// mismatch finds out why the published tree and what came after it do not have the root
// that was signed: it is a fork only where the source has a whole tree of that root, which
// does not begin with the published one.
func (w *writer) mismatch(ctx context.Context, got chain.Hash) error {
	c := &w.note.Checkpoint
	wrong := fmt.Errorf("%w: the tiles have root %v, the checkpoint of %d entries says %v", ErrSource, got, c.Size, c.Root)
	if w.report.From == 0 {
		return wrong
	}
	whole, err := grow(ctx, w.cfg.Source, new(chain.Tree), c.Size)
	if err != nil {
		return err
	}
	if whole.tree.Root() != c.Root {
		return wrong
	}
	root, err := whole.rootAt(ctx, w.cfg.Source, w.report.From)
	if err != nil {
		return err
	}
	if root != w.published.Checkpoint.Root {
		return &ForkError{w.published, w.note}
	}
	return fmt.Errorf("%w; asked again, the source has the right ones: it changes its answers", wrong)
}

// rootAt returns the root of a smaller tree than the grown one, which began empty.
func (g *grown) rootAt(ctx context.Context, source Source, size uint64) (chain.Hash, error) {
	var upper chain.Tree
	bundles := size / chain.TileWidth
	for _, h := range g.roots[:bundles] {
		upper.AppendLeaf(h, nil)
	}
	var leaves []chain.Hash
	if n := size % chain.TileWidth; n > 0 {
		tile := tlogtiles.Tile{Index: bundles, Width: int(min(chain.TileWidth, g.tree.Size()-bundles*chain.TileWidth))}
		all, err := fetchHashes(ctx, source, tile)
		if err != nil {
			return chain.Hash{}, err
		}
		var t chain.Tree
		for _, h := range all {
			t.AppendLeaf(h, nil)
		}
		genuine := false
		if tile.Width == chain.TileWidth {
			genuine = t.Root() == g.roots[bundles]
		} else {
			_, have := t.Partial(0)
			_, signed := g.tree.Partial(0)
			genuine = bytes.Equal(have, signed)
		}
		if !genuine {
			return chain.Hash{}, fmt.Errorf("%w: %s is another", ErrSource, tile.Path())
		}
		leaves = all[:n]
	}
	t, err := chain.NewTree(size, append(leaves, upper.Edge()...))
	if err != nil {
		return chain.Hash{}, err
	}
	return t.Root(), nil
}
