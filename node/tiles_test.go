package node

import (
	"bytes"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/ledger/ledgertest"
	"github.com/exonode/exonode/server"
)

var _ server.Tiles = (*reader)(nil)

// TestReaderTiles: headers and tiles of a stored ledger make the root that it says.
func TestReaderTiles(t *testing.T) {
	s, err := ledger.Create(t.TempDir()+"/ledger", ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Commit(ledgertest.NewBuilder(1).NextN(300, 10)); err != nil {
		t.Fatal(err)
	}
	r := reader{store: s, growth: newGrowth(300)}
	ctx := t.Context()
	size, err := r.TreeSize(ctx)
	if err != nil || size < 300 {
		t.Fatalf("size %d, %v", size, err)
	}
	var tree chain.Tree
	var full []byte
	for header, err := range r.Headers(ctx, 0, size) {
		if err != nil {
			t.Fatal(err)
		}
		tree.Append(header, func(_ int, _ uint64, tile []byte) { full = tile })
	}
	if root := s.Meta().Root; tree.Size() != size || tree.Root() != root {
		t.Errorf("%d headers make %v, want %d and %v", tree.Size(), tree.Root(), size, root)
	}
	for _, width := range []int{1, 255, 256} {
		got, err := r.ReadTile(ctx, 0, 0, width)
		if err != nil || len(got) < width*32 || !bytes.Equal(got[:width*32], full[:width*32]) {
			t.Errorf("width %d: %d bytes, %v", width, len(got), err)
		}
	}
	_, edge := tree.Partial(0)
	if got, err := r.ReadTile(ctx, 0, 1, len(edge)/32); err != nil || !bytes.Equal(got, edge) {
		t.Errorf("the last tile: %d bytes, want %d, %v", len(got), len(edge), err)
	}
	n := uint64(0)
	for range r.Headers(ctx, 10, 20) {
		n++
	}
	if n != 10 {
		t.Errorf("%d headers from 10 to 20", n)
	}
	r.published = func() []byte { return []byte("note") }
	if note, err := r.Checkpoint(ctx); string(note) != "note" || err != nil {
		t.Errorf("the checkpoint: %q, %v", note, err)
	}
}
