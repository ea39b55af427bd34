package chain_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
)

func leafData(i uint64) []byte { return binary.BigEndian.AppendUint64([]byte("leaf "), i) }

// bigTree is a tree with all its full tiles, and the same tree as another
// implementation stores it.
type bigTree struct {
	tree   chain.Tree
	tiles  memoryTiles
	hashes []tlog.Hash // of tlog's stored hashes
}

func (b *bigTree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = b.hashes[x]
	}
	return out, nil
}

func (b *bigTree) grow(t testing.TB, size uint64) {
	t.Helper()
	for i := b.tree.Size(); i < size; i++ {
		b.tree.Append(leafData(i), b.tiles.put)
		hs, err := tlog.StoredHashes(int64(i), leafData(i), b)
		if err != nil {
			t.Fatal(err)
		}
		b.hashes = append(b.hashes, hs...)
	}
}

func (b *bigTree) reader() chain.TileReader { return b.tree.Reader(b.tiles) }

func (b *bigTree) root(t testing.TB, size uint64) chain.Hash {
	t.Helper()
	h, err := tlog.TreeHash(int64(size), b)
	if err != nil {
		t.Fatal(err)
	}
	return chain.Hash(h)
}

var treeSizes = []uint64{0, 1, 2, 3, 7, 8, 255, 256, 257, 511, 512, 1000, 65535, 65536, 65537, 65792, 70001}

// TestTreeAgainstTlog holds roots, tiles and proofs against
// golang.org/x/mod/sumdb/tlog, from trees that were grown, reopened from tiles,
// and rebuilt from their edge.
func TestTreeAgainstTlog(t *testing.T) {
	b := &bigTree{tiles: memoryTiles{}}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range treeSizes {
		b.grow(t, size)
		root := b.root(t, size)
		if got := b.tree.Root(); got != root {
			t.Fatalf("size %d: root %v, want %v", size, got, root)
		}
		reopened, err := chain.OpenTree(size, b.reader())
		if err != nil {
			t.Fatal(err)
		}
		rebuilt, err := chain.NewTree(size, b.tree.Edge())
		if err != nil {
			t.Fatal(err)
		}
		for name, tree := range map[string]*chain.Tree{"reopened": reopened, "rebuilt": rebuilt, "cloned": b.tree.Clone()} {
			if tree.Root() != root || tree.Size() != size || !slices.Equal(tree.Edge(), b.tree.Edge()) {
				t.Errorf("size %d: the %s tree differs", size, name)
			}
		}
		if size > 0 {
			checkProofs(t, b, size, rng)
		}
	}
	checkTiles(t, b)
}

func checkProofs(t *testing.T, b *bigTree, size uint64, rng *rand.Rand) {
	t.Helper()
	r, root := b.reader(), b.root(t, size)
	numbers := []uint64{0, size / 2, size - 1, size &^ 255 % size, rng.Uint64N(size), rng.Uint64N(size), rng.Uint64N(size)}
	for _, n := range numbers {
		proof, err := chain.InclusionProof(n, size, r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := tlog.ProveRecord(int64(size), int64(n), b)
		if err != nil {
			t.Fatal(err)
		}
		if !equalHashes(proof, want) {
			t.Fatalf("inclusion of %d in %d: %v, want %v", n, size, proof, want)
		}
		leaf := chain.LeafHash(leafData(n))
		if err := chain.VerifyInclusion(leaf, n, size, root, proof); err != nil {
			t.Errorf("inclusion of %d in %d: %v", n, size, err)
		}
		refuseInclusion(t, leaf, n, size, root, proof)

		old := n + 1
		oldRoot, err := chain.RootAt(old, r)
		if err != nil {
			t.Fatal(err)
		}
		if want := b.root(t, old); oldRoot != want {
			t.Fatalf("root at %d of %d: %v, want %v", old, size, oldRoot, want)
		}
		proof, err = chain.ConsistencyProof(old, size, r)
		if err != nil {
			t.Fatal(err)
		}
		wantTree, err := tlog.ProveTree(int64(size), int64(old), b)
		if err != nil {
			t.Fatal(err)
		}
		if !equalHashes(proof, wantTree) {
			t.Fatalf("consistency of %d with %d: %v, want %v", old, size, proof, wantTree)
		}
		if err := chain.VerifyConsistency(old, size, oldRoot, root, proof); err != nil {
			t.Errorf("consistency of %d with %d: %v", old, size, err)
		}
		refuseConsistency(t, old, size, oldRoot, root, proof)
	}
}

func equalHashes[H ~[]tlog.Hash](a []chain.Hash, b H) bool {
	return slices.EqualFunc(a, b, func(x chain.Hash, y tlog.Hash) bool { return x == chain.Hash(y) })
}

// changed yields proofs that are not proof.
func changed(proof []chain.Hash) [][]chain.Hash {
	out := [][]chain.Hash{append(slices.Clone(proof), chain.Hash{1})}
	for i := range proof {
		c := slices.Clone(proof)
		c[i][i%32] ^= 1
		out = append(out, c, slices.Delete(slices.Clone(proof), i, i+1))
	}
	return out
}

func refuseInclusion(t *testing.T, leaf chain.Hash, seq, size uint64, root chain.Hash, proof []chain.Hash) {
	t.Helper()
	for _, p := range changed(proof) {
		if err := chain.VerifyInclusion(leaf, seq, size, root, p); !errors.Is(err, chain.ErrProof) {
			t.Fatalf("inclusion of %d in %d: a changed proof: %v", seq, size, err)
		}
	}
	if err := chain.VerifyInclusion(chain.Hash{}, seq, size, root, proof); !errors.Is(err, chain.ErrProof) {
		t.Fatalf("inclusion of %d in %d: another leaf: %v", seq, size, err)
	}
	if err := chain.VerifyInclusion(leaf, size, size, root, proof); !errors.Is(err, chain.ErrProof) {
		t.Fatalf("inclusion of %d in %d: beyond the tree: %v", seq, size, err)
	}
	// The neighbour's place has another path, unless it has none.
	if other := seq ^ 1; other < size {
		if err := chain.VerifyInclusion(leaf, other, size, root, proof); !errors.Is(err, chain.ErrProof) {
			t.Fatalf("inclusion of %d in %d: at another place: %v", seq, size, err)
		}
	}
}

func refuseConsistency(t *testing.T, from, to uint64, fromRoot, toRoot chain.Hash, proof []chain.Hash) {
	t.Helper()
	for _, p := range changed(proof) {
		if err := chain.VerifyConsistency(from, to, fromRoot, toRoot, p); !errors.Is(err, chain.ErrProof) {
			t.Fatalf("consistency of %d with %d: a changed proof: %v", from, to, err)
		}
	}
	for _, roots := range [][2]chain.Hash{{fromRoot, {9}}, {{9}, toRoot}} {
		if err := chain.VerifyConsistency(from, to, roots[0], roots[1], proof); !errors.Is(err, chain.ErrProof) {
			t.Fatalf("consistency of %d with %d: another root: %v", from, to, err)
		}
	}
	if err := chain.VerifyConsistency(to, from, toRoot, fromRoot, proof); from != to && !errors.Is(err, chain.ErrProof) {
		t.Fatalf("consistency of %d with %d: backwards: %v", from, to, err)
	}
}

// checkTiles compares every full tile, and the partial ones, with tlog's.
func checkTiles(t *testing.T, b *bigTree) {
	t.Helper()
	size := int64(b.tree.Size())
	seen := 0
	for _, tile := range tlog.NewTiles(chain.TileHeight, 0, size) {
		want, err := tlog.ReadTileData(tile, b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := b.reader().ReadTile(tile.L, uint64(tile.N), tile.W)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("tile %v differs (%v)", tile, err)
		}
		if tile.W == chain.TileWidth {
			seen++
		} else if index, part := b.tree.Partial(tile.L); index != uint64(tile.N) || !bytes.Equal(part, want) {
			t.Fatalf("partial tile %v differs", tile)
		}
	}
	if seen != len(b.tiles) {
		t.Errorf("%d full tiles were reported, want %d", len(b.tiles), seen)
	}
	if b.tiles[tileID{1, 0}] == nil {
		t.Error("no tile of level 1: the test is too small")
	}
}

func TestProofEdges(t *testing.T) {
	r := memoryTiles{}
	if _, err := chain.InclusionProof(0, 0, r); !errors.Is(err, chain.ErrBeyond) {
		t.Errorf("inclusion in the empty tree: %v", err)
	}
	if _, err := chain.ConsistencyProof(2, 1, r); !errors.Is(err, chain.ErrBeyond) {
		t.Errorf("consistency backwards: %v", err)
	}
	if root, err := chain.RootAt(0, r); err != nil || root != chain.EmptyRoot() {
		t.Errorf("empty root %v (%v)", root, err)
	}
	any1 := chain.Hash{1}
	if err := chain.VerifyConsistency(0, 5, chain.EmptyRoot(), any1, nil); err != nil {
		t.Errorf("from the empty tree: %v", err)
	}
	if err := chain.VerifyConsistency(0, 5, any1, any1, nil); !errors.Is(err, chain.ErrProof) {
		t.Errorf("from an empty tree with another root: %v", err)
	}
	if err := chain.VerifyConsistency(5, 5, any1, any1, nil); err != nil {
		t.Errorf("of a tree with itself: %v", err)
	}
	if err := chain.VerifyConsistency(1, 5, any1, any1, nil); !errors.Is(err, chain.ErrProof) {
		t.Errorf("an empty proof: %v", err)
	}
	// A path that ends too early at a node which is the root it is held against.
	leaf, next := chain.Hash{2}, chain.Hash{3}
	if err := chain.VerifyInclusion(leaf, 0, 2, leaf, nil); !errors.Is(err, chain.ErrProof) {
		t.Errorf("a leaf as the root of two: %v", err)
	}
	if err := chain.VerifyInclusion(leaf, 0, 3, chain.NodeHash(leaf, next), []chain.Hash{next}); !errors.Is(err, chain.ErrProof) {
		t.Errorf("a node as the root of three: %v", err)
	}
	if _, err := chain.InclusionProof(0, 300, r); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("a missing tile: %v", err)
	}
	for _, n := range []int{0, 2} {
		if _, err := chain.NewTree(1, make([]chain.Hash, n)); !errors.Is(err, chain.ErrEdge) {
			t.Errorf("an edge of %d hashes for one leaf: %v", n, err)
		}
	}
}

// TestReaderIsFrozen: a tree's reader keeps serving its own size while the tree
// grows, past the completion of the partial tile that it holds.
func TestReaderIsFrozen(t *testing.T) {
	b := &bigTree{tiles: memoryTiles{}}
	b.grow(t, 200)
	r, root := b.reader(), b.tree.Root()
	_, before := b.tree.Partial(0)
	kept := slices.Clone(before)
	b.grow(t, 700)
	if got, err := chain.RootAt(200, r); err != nil || got != root {
		t.Errorf("root at 200 is %v (%v), want %v", got, err, root)
	}
	if !bytes.Equal(before, kept) {
		t.Error("a partial tile that was handed out changed")
	}
	if _, err := r.ReadTile(0, 0, 201); err == nil {
		t.Error("the reader serves what came later")
	}
}

// TestTreeProperties: any two sizes of any tree are consistent, every leaf of
// the larger one is in it, and no proof fits another root.
func TestTreeProperties(t *testing.T) {
	b := &bigTree{tiles: memoryTiles{}}
	b.grow(t, 3000)
	r := b.reader()
	rapid.Check(t, func(t *rapid.T) {
		to := rapid.Uint64Range(1, 3000).Draw(t, "to")
		from := rapid.Uint64Range(0, to).Draw(t, "from")
		seq := rapid.Uint64Range(0, to-1).Draw(t, "seq")
		must := func(h chain.Hash, err error) chain.Hash {
			if err != nil {
				t.Fatal(err)
			}
			return h
		}
		fromRoot, toRoot := must(chain.RootAt(from, r)), must(chain.RootAt(to, r))
		proof, err := chain.ConsistencyProof(from, to, r)
		if err == nil {
			err = chain.VerifyConsistency(from, to, fromRoot, toRoot, proof)
		}
		if err != nil {
			t.Fatal(err)
		}
		proof, err = chain.InclusionProof(seq, to, r)
		if err == nil {
			err = chain.VerifyInclusion(chain.LeafHash(leafData(seq)), seq, to, toRoot, proof)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzVerifyProofs: the verifiers never panic, and accept no proof that tlog
// refuses.
func FuzzVerifyProofs(f *testing.F) {
	b := &bigTree{tiles: memoryTiles{}}
	b.grow(f, 300)
	for _, n := range []uint64{1, 2, 5, 256, 257, 300} {
		proof, err := chain.InclusionProof(n/2, n, b.reader())
		if err != nil {
			f.Fatal(err)
		}
		var flat []byte
		for _, h := range proof {
			flat = append(flat, h[:]...)
		}
		f.Add(n/2, n, flat)
	}
	f.Fuzz(func(t *testing.T, seq, size uint64, flat []byte) {
		if size == 0 || size > 1<<62 || seq >= size {
			return
		}
		var proof []chain.Hash
		var other tlog.RecordProof
		for ; len(flat) >= 32; flat = flat[32:] {
			proof, other = append(proof, chain.Hash(flat)), append(other, tlog.Hash(flat))
		}
		root := chain.Hash{1}
		if size <= 300 {
			root = b.root(t, size)
		}
		leaf := chain.LeafHash(leafData(seq))
		got := chain.VerifyInclusion(leaf, seq, size, root, proof)
		want := tlog.CheckRecord(other, int64(size), tlog.Hash(root), int64(seq), tlog.Hash(leaf))
		if (got == nil) != (want == nil) {
			t.Fatalf("inclusion: %v, tlog: %v", got, want)
		}
		if from := seq + 1; from < size {
			got := chain.VerifyConsistency(from, size, leaf, root, proof)
			want := tlog.CheckTree(tlog.TreeProof(other), int64(size), tlog.Hash(root), int64(from), tlog.Hash(leaf))
			if (got == nil) != (want == nil) {
				t.Fatalf("consistency: %v, tlog: %v", got, want)
			}
		}
	})
}

func ExampleTree() {
	var tree chain.Tree
	for _, header := range []string{"first", "second"} {
		tree.Append([]byte(header), nil)
	}
	fmt.Println(tree.Size(), tree.Root() == chain.NodeHash(chain.LeafHash([]byte("first")), chain.LeafHash([]byte("second"))))
	// Output: 2 true
}
