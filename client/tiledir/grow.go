package tiledir

import (
	"bytes"
	"context"
	"fmt"
	"slices"

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
	// extends is whether the tree's first unfinished bundle begins with the leaves that
	// the tree before had of it. Of all else that it had, the tree is made.
	extends bool
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
	if g.tree, err = chain.NewTree(size, append(leaves, upper.Edge()...)); err != nil {
		return nil, err
	}
	had := from.Edge()[:from.Size()%chain.TileWidth]
	if g.extends = len(had) == 0; !g.extends {
		all, genuine, err := g.leaves(ctx, source, g.first)
		if err != nil {
			return nil, err
		}
		g.extends = genuine && slices.Equal(had, all[:len(had)])
	}
	return g, nil
}

// leaves gets the leaf hashes of a bundle, and whether the tree has them.
func (g *grown) leaves(ctx context.Context, source Source, bundle uint64) (hashes []chain.Hash, genuine bool, err error) {
	width := int(min(chain.TileWidth, g.tree.Size()-bundle*chain.TileWidth))
	if hashes, err = fetchHashes(ctx, source, tlogtiles.Tile{Index: bundle, Width: width}); err != nil {
		return nil, false, err
	}
	var t chain.Tree
	for _, h := range hashes {
		t.AppendLeaf(h, nil)
	}
	_, partial := t.Partial(0)
	return hashes, g.has(bundle, t.Root(), partial), nil
}

// has reports whether a bundle is the tree's: a full one by its root, the last one by its
// leaf hashes, 32 bytes each.
func (g *grown) has(bundle uint64, root chain.Hash, partial []byte) bool {
	if n := bundle - g.first; n < uint64(len(g.roots)) {
		return g.roots[n] == root
	}
	_, signed := g.tree.Partial(0)
	return bytes.Equal(partial, signed)
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
		return damaged(err)
	}
	proof, err := chain.ConsistencyProof(c.Size, p.Size, w)
	if err == nil {
		err = chain.VerifyConsistency(c.Size, p.Size, root, p.Root, proof)
	}
	if err != nil {
		return damaged(err)
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
	wrong := func(got chain.Hash) error {
		return fmt.Errorf("%w: the tiles have root %v, the checkpoint of %d entries says %v", ErrSource, got, c.Size, c.Root)
	}
	if w.report.From == 0 {
		return wrong(got)
	}
	whole, err := grow(ctx, w.cfg.Source, new(chain.Tree), c.Size)
	if err != nil {
		return err
	}
	if root := whole.tree.Root(); root != c.Root {
		return wrong(root)
	}
	root, err := whole.rootAt(ctx, w.cfg.Source, w.report.From)
	if err != nil {
		return err
	}
	if root != w.published.Checkpoint.Root {
		return &ForkError{w.published, w.note}
	}
	return fmt.Errorf("%w: asked again, the source gives the right tiles: it changes its answers", ErrSource)
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
		all, genuine, err := g.leaves(ctx, source, bundles)
		if err != nil {
			return chain.Hash{}, err
		}
		if !genuine {
			return chain.Hash{}, fmt.Errorf("%w: leaf hashes of bundle %d are others", ErrSource, bundles)
		}
		leaves = all[:n]
	}
	t, err := chain.NewTree(size, append(leaves, upper.Edge()...))
	if err != nil {
		return chain.Hash{}, err
	}
	return t.Root(), nil
}
