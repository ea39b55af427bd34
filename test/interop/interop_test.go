// Package interop holds our log against tools that nobody here wrote: they read it from
// our server, and from the static files of an export, served by a plain file server and
// as they lie on disk. It is a module of its own, so that their dependencies stay out of
// ours.
package interop

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/receipt"
	"github.com/exonode/exonode/chain/tlogtiles"
	"github.com/exonode/exonode/client/tiledir"
	"github.com/exonode/exonode/server"
)

const (
	origin   = "exonode/e0000000000000000000000000000000/0"
	signedAt = 1_780_000_000
)

// testLog is a chain in memory behind our server. What it does not implement of
// server.Node is nil, and not called.
type testLog struct {
	server.Node
	// short: leaves are 8 bytes and no headers, where a million of them would
	// take too much memory.
	short   bool
	headers [][]byte
	head    chain.Head
	tree    chain.Tree
	tiles   map[[2]uint64][]byte
	note    []byte
	log     *checkpoint.Signer
	by      []*checkpoint.Signer
	// dir is where the log is exported to.
	dir    string
	places []place
}

func newLog(t *testing.T) *testLog {
	t.Helper()
	l := &testLog{tiles: map[[2]uint64][]byte{}}
	key := func(b byte) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed(append(make([]byte, ed25519.SeedSize-1), b))
	}
	var err error
	if l.log, err = checkpoint.NewLogSigner(origin, key(1)); err != nil {
		t.Fatal(err)
	}
	c, err := checkpoint.NewCosigner("node-1.example/ed25519", key(2))
	if err != nil {
		t.Fatal(err)
	}
	m, err := checkpoint.NewMLDSACosigner("node-1.example/mldsa44", key(3).Seed())
	if err != nil {
		t.Fatal(err)
	}
	l.by = []*checkpoint.Signer{c, m}
	s, err := server.New(server.Config{Node: l})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	l.dir = t.TempDir()
	static := httptest.NewServer(http.FileServer(http.Dir(l.dir)))
	t.Cleanup(static.Close)
	l.places = []place{{name: "our server", url: h.URL + "/"}, {name: "a file server", url: static.URL + "/"}, {name: "the files", dir: l.dir}}
	return l
}

// grow appends entries up to a size and publishes its checkpoint.
func (l *testLog) grow(t *testing.T, size uint64) {
	t.Helper()
	for n := l.tree.Size(); n < size; n++ {
		header := binary.BigEndian.AppendUint64(nil, n)
		if !l.short {
			s, err := chain.Seal(&chain.SealInput{
				ChainID: chain.ID{0xe0}, Prev: l.head, Stamp: signedAt * 1e9, Principal: "local", SealingNode: "node-1",
				Event: &chain.Event{Workspace: "default", Source: "urn:test", ID: fmt.Sprint(n), Kind: "test.event"},
			})
			if err != nil {
				t.Fatal(err)
			}
			header, l.head = s.Header, s.Head
		}
		l.headers = append(l.headers, header)
		l.tree.Append(header, func(level int, index uint64, tile []byte) { l.tiles[[2]uint64{uint64(level), index}] = tile })
	}
	note := l.sign(t)
	l.note = note.Bytes()
	if _, err := tiledir.Write(t.Context(), tiledir.Config{Dir: l.dir, Source: l}, note); err != nil {
		t.Fatal(err)
	}
}

// Tile implements tiledir.Source.
func (l *testLog) Tile(ctx context.Context, tile tlogtiles.Tile) ([]byte, error) {
	if !tile.Entries {
		b, err := l.ReadTile(ctx, tile.Level, tile.Index, tile.Width)
		return b[:min(len(b), 32*tile.Width)], err
	}
	var b []byte
	from := tile.Index * chain.TileWidth
	for h := range l.Headers(ctx, from, from+uint64(tile.Width)) {
		b = tlogtiles.AppendEntry(b, h)
	}
	return b, nil
}

func (l *testLog) sign(t *testing.T) *checkpoint.Note {
	t.Helper()
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: origin, Size: l.tree.Size(), Root: l.tree.Root()}}
	for _, s := range append([]*checkpoint.Signer{l.log}, l.by...) {
		signature, err := s.Sign(&n.Checkpoint, signedAt)
		if err != nil {
			t.Fatal(err)
		}
		n.Add(signature)
	}
	return n
}

// tryReceipt makes a receipt of an entry. A short leaf is no header: there the receipt
// is a proof alone.
func tryReceipt(l *testLog, t *testing.T, seq uint64) ([]byte, error) {
	t.Helper()
	tiles := l.tree.Reader(stored(l.tiles))
	if l.short {
		p, err := chain.InclusionProof(seq, l.tree.Size(), tiles)
		r := receipt.Receipt{Index: seq, Header: l.headers[seq], Proof: p, Note: l.sign(t)}
		return r.Bytes(), err
	}
	r, err := receipt.Make(tiles, l.headers[seq], nil, l.sign(t))
	if err != nil {
		return nil, err
	}
	return r.Bytes(), nil
}

func vkey(s *checkpoint.Signer) string {
	k := s.Key()
	return k.String()
}

type stored map[[2]uint64][]byte

func (m stored) ReadTile(level int, index uint64, width int) ([]byte, error) {
	tile, ok := m[[2]uint64{uint64(level), index}]
	if !ok {
		return nil, chain.ErrNotFound
	}
	return tile[:32*width], nil
}

// TreeSize implements server.Tiles, as do the following.
func (l *testLog) TreeSize(context.Context) (uint64, error) { return l.tree.Size(), nil }

func (l *testLog) ReadTile(_ context.Context, level int, index uint64, width int) ([]byte, error) {
	return l.tree.Reader(stored(l.tiles)).ReadTile(level, index, width)
}

func (l *testLog) Headers(_ context.Context, from, to uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, h := range l.headers[from:to] {
			if !yield(h, nil) {
				return
			}
		}
	}
}

func (l *testLog) Checkpoint(context.Context) ([]byte, error) { return l.note, nil }

// sizes are where something begins or ends: an empty tree, a tile, a level.
var sizes = []uint64{0, 1, 255, 256, 257, 65_536, 65_537}

// TestTools grows a log and lets each tool read it at each size, and say that it goes
// on from the size before.
func TestTools(t *testing.T) {
	testTools(t, newLog(t), sizes)
}

func TestToolsMillion(t *testing.T) {
	l := newLog(t)
	l.short = true
	testTools(t, l, []uint64{999_999, 1_000_000})
}

func testTools(t *testing.T, l *testLog, sizes []uint64) {
	older := []byte(nil)
	for _, size := range sizes {
		l.grow(t, size)
		for name, tool := range tools {
			for _, at := range l.places {
				if err := tool(t, l, at, older); err != nil {
					t.Errorf("%s, %s, size %d: %v", name, at.name, size, err)
				}
			}
		}
		older = l.note
	}
}

// TestToolsRefuse shows that the tools look, wherever they do: each refuses a log of which
// one leaf hash, one entry, or the root, is another.
func TestToolsRefuse(t *testing.T) {
	l := newLog(t)
	l.grow(t, 256)
	older := l.note
	l.grow(t, 300)
	// check says which tools accept what they find at some places; the others must not.
	check := func(what string, places []place, accept ...string) {
		t.Helper()
		for name, tool := range tools {
			for _, at := range places {
				if err := tool(t, l, at, older); (err == nil) != slices.Contains(accept, name) {
					t.Errorf("%s, %s, with %s: %v", name, at.name, what, err)
				}
			}
		}
	}
	ours, static := l.places[:1], l.places[1:]
	everyone := slices.Collect(maps.Keys(tools))
	check("nothing wrong", l.places, everyone...)

	l.tiles[[2]uint64{0, 0}][5*32] ^= 1
	check("another leaf hash", ours)
	l.tiles[[2]uint64{0, 0}][5*32] ^= 1
	restore := l.flip(t, "tile/0/000", 5*32)
	check("another leaf hash", static, "formats") // which reads no tiles
	restore()

	entry := l.headers[5]
	l.headers[5] = append([]byte(nil), entry...)
	l.headers[5][9] ^= 1
	check("another entry", ours)
	l.headers[5] = entry
	offset := 2 + 9
	for _, h := range l.headers[:5] {
		offset += 2 + len(h)
	}
	restore = l.flip(t, "tile/entries/000", offset)
	check("another entry", static, "formats", "golang.org/x/mod/sumdb") // neither reads bundles
	restore()

	good := l.note
	l.note = append([]byte(nil), good...)
	l.note[len(origin)+8] ^= 2 // in the root's base64
	check("another root", ours)
	l.note = good
	restore = l.flip(t, "checkpoint", len(origin)+8)
	check("another root", static)
	restore()
	check("all as it was", l.places, everyone...)
}

// flip changes a bit of the exported files.
func (l *testLog) flip(t *testing.T, path string, at int) (restore func()) {
	t.Helper()
	path = filepath.Join(l.dir, path)
	change := func() {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[at] ^= 2
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	change()
	return change
}

// tools check the checkpoint, some entries with their inclusion, and the consistency
// with an older checkpoint, nil for none.
var tools = map[string]func(t *testing.T, l *testLog, at place, older []byte) error{
	"golang.org/x/mod/sumdb": modTool,
	"formats":                formatsTool,
	"tessera":                tesseraTool,
	"torchwood":              torchwoodTool,
}

// some returns entries at the edges of a tree.
func some(size uint64) []uint64 {
	var out []uint64
	for _, n := range []uint64{0, 5, 254, 255, 256, 65_535, 65_536, size / 2, size - 1} {
		if n < size {
			out = append(out, n)
		}
	}
	return out
}
