// Package interop holds our log against tools that nobody here wrote: they read it from
// our server, as anybody's would. It is a module of its own, so that their dependencies
// stay out of ours.
package interop

import (
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"iter"
	"net/http/httptest"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/receipt"
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
	url     string
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
	l.url = h.URL + "/"
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
	l.note = l.sign(t).Bytes()
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
			if err := tool(t, l, older); err != nil {
				t.Errorf("%s, size %d: %v", name, size, err)
			}
		}
		older = l.note
	}
}

// TestToolsRefuse shows that the tools look: each refuses a log of which one leaf hash,
// or the root, is another.
func TestToolsRefuse(t *testing.T) {
	l := newLog(t)
	l.grow(t, 256)
	older := l.note
	l.grow(t, 300)
	good := l.note
	for name, tool := range tools {
		if err := tool(t, l, older); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		l.tiles[[2]uint64{0, 0}][5*32] ^= 1
		if err := tool(t, l, older); err == nil && name != "formats" { // which reads no tiles
			t.Errorf("%s accepts another leaf hash", name)
		}
		l.tiles[[2]uint64{0, 0}][5*32] ^= 1
		l.note = append([]byte(nil), good...)
		l.note[len(origin)+8] ^= 2 // in the root's base64
		if err := tool(t, l, older); err == nil {
			t.Errorf("%s accepts another root", name)
		}
		l.note = good
	}
}

// tools check the checkpoint, some entries with their inclusion, and the consistency
// with an older checkpoint, nil for none.
var tools = map[string]func(t *testing.T, l *testLog, older []byte) error{
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
