package follow_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/follow"
	"github.com/exonode/exonode/chain/tlogtiles"
)

const origin = "log.example"

// testTree is a tree of numbered leaves; from leaf fork on they are of another history.
type testTree struct {
	tree  chain.Tree
	tiles map[[2]uint64][]byte
}

func newTree(size, fork uint64) *testTree {
	t := &testTree{tiles: map[[2]uint64][]byte{}}
	for i := range size {
		text := fmt.Sprint("leaf ", i)
		if i >= fork {
			text = fmt.Sprint("other ", i)
		}
		t.tree.AppendLeaf(sha256.Sum256([]byte(text)), func(level int, index uint64, tile []byte) { t.tiles[[2]uint64{uint64(level), index}] = tile })
	}
	return t
}

const never = 1 << 62

func (t *testTree) ReadTile(level int, index uint64, width int) ([]byte, error) {
	tile, ok := t.tiles[[2]uint64{uint64(level), index}]
	if !ok {
		return nil, chain.ErrNotFound
	}
	return tile[:32*width], nil
}

func (t *testTree) reader() chain.TileReader { return t.tree.Reader(t) }

type signers struct {
	log, witness *checkpoint.Signer
	policy       *checkpoint.Policy
}

func newSigners(tb testing.TB, name string) *signers {
	tb.Helper()
	log, err := checkpoint.NewLogSigner(name, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		tb.Fatal(err)
	}
	witness, err := checkpoint.NewCosigner("witness.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)))
	if err != nil {
		tb.Fatal(err)
	}
	lk, wk := log.Key(), witness.Key()
	policy, err := checkpoint.ParsePolicy([]byte("log " + lk.String() + "\nwitness w " + wk.String() + "\nquorum w\n"))
	if err != nil {
		tb.Fatal(err)
	}
	return &signers{log, witness, policy}
}

func (s *signers) note(tb testing.TB, t *testTree, size uint64) *checkpoint.Note {
	tb.Helper()
	root, err := chain.RootAt(size, t.reader())
	if err != nil {
		tb.Fatal(err)
	}
	log := s.log.Key()
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: log.Name, Size: size, Root: root}}
	for _, signer := range []*checkpoint.Signer{s.log, s.witness} {
		signature, err := signer.Sign(&n.Checkpoint, 1_780_000_000)
		if err != nil {
			tb.Fatal(err)
		}
		n.Add(signature)
	}
	return n
}

// resources has the tiles that were named, and no other.
type resources map[tlogtiles.Tile][]byte

// fetch reads the named tiles of a tree as a log serves them.
func fetch(tb rapid.TB, t *testTree, named []tlogtiles.Tile) resources {
	m := resources{}
	for _, tile := range named {
		b, err := t.reader().ReadTile(tile.Level, tile.Index, tile.Width)
		if err != nil {
			tb.Fatal(err)
		}
		m[tile] = slices.Clone(b[:32*tile.Width])
	}
	return m
}

// sized is the reader of resources of a tree of some size.
type sized struct {
	resources
	size uint64
	read map[tlogtiles.Tile]bool
}

func (s *sized) ReadTile(level int, index uint64, _ int) ([]byte, error) {
	tile := follow.Tile(level, index, s.size)
	b, ok := s.resources[tile]
	if !ok {
		return nil, fmt.Errorf("%s was not named", tile.Path())
	}
	if s.read != nil {
		s.read[tile] = true
	}
	return b, nil
}

// sizes are those where trees of tiles change their form.
var sizes = []uint64{0, 1, 2, 3, 255, 256, 257, 300, 511, 512, 513, 4096, 5000, 65_535, 65_536, 65_537, 66_000}

func TestNext(t *testing.T) {
	s, tree := newSigners(t, origin), newTree(66_000, never)
	for _, from := range sizes {
		for _, to := range sizes {
			trusted, note := s.note(t, tree, from), s.note(t, tree, to)
			tiles := fetch(t, tree, follow.Tiles(from, to))
			by, err := follow.Next(trusted, note, s.policy, &sized{resources: tiles, size: to})
			switch {
			case from > to && !errors.Is(err, follow.ErrStale):
				t.Errorf("%d after %d: %v, want ErrStale", to, from, err)
			case from <= to && (err != nil || len(by.Cosigned) != 1):
				t.Errorf("%d after %d: %v, %v", to, from, by, err)
			}
		}
	}
}

// TestFork follows into trees that differ in the last leaf that is trusted, and in the
// first, and holds the evidence to what it says.
func TestFork(t *testing.T) {
	s, tree := newSigners(t, origin), newTree(66_000, never)
	elsewhere := newTree(66_000, 0)
	for _, from := range sizes[1:] {
		for _, other := range []*testTree{newTree(from+300, from-1), elsewhere} {
			for _, to := range append(slices.Clone(sizes), from+300) {
				if to > other.tree.Size() {
					continue
				}
				if to < from {
					continue
				}
				trusted, note := s.note(t, tree, from), s.note(t, other, to)
				_, err := follow.Next(trusted, note, s.policy, &sized{resources: fetch(t, other, follow.Tiles(from, to)), size: to})
				var fork *follow.Equivocation
				if !errors.As(err, &fork) {
					t.Errorf("%d after %d: %v, want an Equivocation", to, from, err)
					continue
				}
				if fork.Trusted != trusted || fork.Note != note || fork.Root == trusted.Checkpoint.Root {
					t.Errorf("%d after %d: evidence %+v", to, from, fork)
				}
				if err := chain.VerifyConsistency(from, to, fork.Root, note.Checkpoint.Root, fork.Proof); err != nil {
					t.Errorf("%d after %d: evidence proves nothing: %v", to, from, err)
				}
			}
		}
	}
}

// TestBadTiles changes each hash of each tile: what is used is noticed, and is never said
// to be the log's doing.
func TestBadTiles(t *testing.T) {
	s, tree := newSigners(t, origin), newTree(5000, never)
	for _, step := range [][2]uint64{{256, 300}, {300, 513}, {512, 5000}, {4096, 5000}, {3, 5000}} {
		from, to := step[0], step[1]
		trusted, note := s.note(t, tree, from), s.note(t, tree, to)
		tiles, noticed := fetch(t, tree, follow.Tiles(from, to)), 0
		for tile, b := range tiles {
			for i := 0; i < len(b); i += 32 {
				b[i] ^= 1
				_, err := follow.Next(trusted, note, s.policy, &sized{resources: tiles, size: to})
				b[i] ^= 1
				if err != nil {
					noticed++
				}
				if err != nil && !errors.Is(err, chain.ErrProof) {
					t.Errorf("%d after %d, %s changed at %d: %v, want ErrProof", to, from, tile.Path(), i, err)
				}
			}
		}
		if noticed == 0 {
			t.Errorf("%d after %d: no change was noticed", to, from)
		}
	}
}

func TestRefuses(t *testing.T) {
	s, tree := newSigners(t, origin), newTree(300, never)
	another := newSigners(t, "other.example")
	both := *s.policy
	both.Logs = append(slices.Clone(both.Logs), another.policy.Logs...)
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		trusted *checkpoint.Note
		policy  *checkpoint.Policy
		change  func(n *checkpoint.Note)
		tiles   chain.TileReader
		want    error
	}{
		"nothing changed":       {s.note(t, tree, 256), s.policy, nil, tree.reader(), nil},
		"first":                 {nil, s.policy, nil, nil, nil},
		"first, no cosignature": {nil, s.policy, func(n *checkpoint.Note) { n.Signatures = n.Signatures[:1] }, nil, checkpoint.ErrQuorum},
		"no log's signature":    {s.note(t, tree, 256), s.policy, func(n *checkpoint.Note) { n.Signatures = n.Signatures[1:] }, tree.reader(), checkpoint.ErrQuorum},
		"signature changed":     {s.note(t, tree, 256), s.policy, func(n *checkpoint.Note) { n.Signatures[0].Bytes[5] ^= 1 }, tree.reader(), checkpoint.ErrSignature},
		"size changed":          {s.note(t, tree, 256), s.policy, func(n *checkpoint.Note) { n.Checkpoint.Size = 299 }, tree.reader(), checkpoint.ErrSignature},
		"another log":           {another.note(t, tree, 256), &both, nil, tree.reader(), follow.ErrOrigin},
		"another log's policy":  {s.note(t, tree, 256), another.policy, nil, tree.reader(), checkpoint.ErrQuorum},
		"tiles can't be read":   {s.note(t, tree, 256), s.policy, nil, failing{broken}, broken},
	} {
		note := s.note(t, tree, 300)
		if test.change != nil {
			test.change(note)
		}
		if _, err := follow.Next(test.trusted, note, test.policy, test.tiles); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

type failing struct{ error }

func (f failing) ReadTile(int, uint64, int) ([]byte, error) { return nil, f.error }

// TestTiles holds Tiles to what a log must have at that size, and to what is read.
func TestTiles(t *testing.T) {
	tree := newTree(3000, never)
	rapid.Check(t, func(t *rapid.T) {
		to := rapid.Uint64Range(0, 3000).Draw(t, "to")
		from := rapid.Uint64Range(0, 3000).Draw(t, "from")
		named := follow.Tiles(from, to)
		if (from == 0 || from >= to) != (len(named) == 0) {
			t.Fatalf("%d tiles", len(named))
		}
		read := map[tlogtiles.Tile]bool{}
		for _, tile := range named {
			end, ok := tile.End()
			if read[tile] || !ok || end > to || tile.Entries {
				t.Fatalf("%s: twice, or beyond the tree of %d", tile.Path(), to)
			}
			read[tile] = true
		}
		if len(named) == 0 {
			return
		}
		r := &sized{resources: fetch(t, tree, named), size: to, read: map[tlogtiles.Tile]bool{}}
		if _, err := chain.RootAt(from, r); err != nil {
			t.Fatal(err)
		}
		if _, err := chain.ConsistencyProof(from, to, r); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(read, r.read); diff != "" {
			t.Fatalf("named and read (-named +read):\n%s", diff)
		}
	})
}

// FuzzTiles reads the sizes that a checkpoint may state, without a tree of that size.
func FuzzTiles(f *testing.F) {
	f.Add(uint64(1), uint64(1)<<63-1)
	f.Add(uint64(1)<<62, uint64(1)<<62+1)
	f.Fuzz(func(t *testing.T, from, to uint64) {
		from, to = from>>1, to>>1
		for _, tile := range follow.Tiles(from, to) {
			if end, ok := tile.End(); !ok || end > to {
				t.Fatalf("%s is beyond %d", tile.Path(), to)
			}
			if got, err := tlogtiles.Parse(tile.Path()); err != nil || got != tile {
				t.Fatalf("%s: %v, %v", tile.Path(), got, err)
			}
		}
	})
}
