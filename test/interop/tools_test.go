package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/torchwood"
	fmtlog "github.com/transparency-dev/formats/log"
	fmtnote "github.com/transparency-dev/formats/note"
	fmtproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/exonode/exonode/chain/receipt"
)

// place is where a tool reads the log: at a URL, or in a directory.
type place struct{ name, url, dir string }

func (p place) get(path string) ([]byte, error) {
	if p.dir != "" {
		return os.ReadFile(filepath.Join(p.dir, path))
	}
	res, err := http.Get(p.url + path)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, b)
	}
	return b, err
}

// fetcher is tessera's.
type fetcher interface {
	ReadCheckpoint(context.Context) ([]byte, error)
	ReadTile(ctx context.Context, level, index uint64, partial uint8) ([]byte, error)
	ReadEntryBundle(ctx context.Context, index uint64, partial uint8) ([]byte, error)
}

func (p place) tessera() (fetcher, error) {
	if p.dir != "" {
		return client.FileFetcher{Root: p.dir}, nil
	}
	base, err := url.Parse(p.url)
	if err != nil {
		return nil, err
	}
	return client.NewHTTPFetcher(base, nil)
}

func (p place) torchwood() (torchwood.TileReader, error) {
	if p.dir != "" {
		return torchwood.NewTileFS(os.DirFS(p.dir))
	}
	return torchwood.NewTileFetcher(p.url)
}

// sumdbTiles reads tiles as the go command does, but by the paths of tlog-tiles.
type sumdbTiles struct{ at place }

func (sumdbTiles) Height() int                         { return 8 }
func (sumdbTiles) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (s sumdbTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range tiles {
		b, err := s.at.get(strings.Replace(tile.Path(), "tile/8/", "tile/", 1))
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, nil
}

// modTool is x/mod: note and tlog.
func modTool(_ *testing.T, l *testLog, at place, older []byte) error {
	v, err := note.NewVerifier(vkey(l.log))
	if err != nil {
		return err
	}
	open := func(b []byte) (tlog.Tree, error) {
		n, err := note.Open(b, note.VerifierList(v))
		if err != nil {
			return tlog.Tree{}, err
		}
		c, err := torchwood.ParseCheckpoint(n.Text) // x/mod reads no text but the sum database's
		return c.Tree, err
	}
	b, err := at.get("checkpoint")
	if err != nil {
		return err
	}
	tree, err := open(b)
	if err != nil || tree.N == 0 {
		return err
	}
	r := tlog.TileHashReader(tree, sumdbTiles{at})
	if root, err := tlog.TreeHash(tree.N, r); err != nil || root != tree.Hash {
		return fmt.Errorf("root %v, want %v: %v", root, tree.Hash, err)
	}
	for _, n := range some(uint64(tree.N)) {
		p, err := tlog.ProveRecord(tree.N, int64(n), r)
		if err != nil {
			return err
		}
		if err := tlog.CheckRecord(p, tree.N, tree.Hash, int64(n), tlog.RecordHash(l.headers[n])); err != nil {
			return err
		}
	}
	if older == nil {
		return nil
	}
	old, err := open(older)
	if err != nil || old.N == 0 {
		return err
	}
	p, err := tlog.ProveTree(tree.N, old.N, r)
	if err != nil {
		return err
	}
	return tlog.CheckTree(p, tree.N, tree.Hash, old.N, old.Hash)
}

// formatsTool is transparency-dev/formats: all three kinds of signature, and receipts.
func formatsTool(t *testing.T, l *testLog, at place, older []byte) error {
	v, err := note.NewVerifier(vkey(l.log))
	if err != nil {
		return err
	}
	var cosigners []note.Verifier
	for _, s := range l.by {
		c, err := fmtnote.NewVerifierForCosignatureV1(vkey(s))
		if err != nil {
			return err
		}
		cosigners = append(cosigners, c)
	}
	open := func(b []byte) (*fmtlog.Checkpoint, error) {
		c, rest, n, err := fmtlog.ParseCheckpoint(b, origin, v, cosigners...)
		if err != nil {
			return nil, err
		}
		if len(n.Sigs) != 3 || len(n.UnverifiedSigs) != 0 || len(rest) != 0 {
			return nil, fmt.Errorf("%d signatures verified, %d not, rest %q", len(n.Sigs), len(n.UnverifiedSigs), rest)
		}
		for _, s := range n.Sigs[1:] {
			if at, err := fmtnote.CoSigV1Timestamp(s); err != nil || at.Unix() != signedAt {
				return nil, fmt.Errorf("time %v: %v", at, err)
			}
		}
		return c, nil
	}
	b, err := at.get("checkpoint")
	if err != nil {
		return err
	}
	c, err := open(b)
	if err != nil {
		return err
	}
	if older != nil {
		if _, err := open(older); err != nil {
			return err
		}
	}
	for _, n := range some(c.Size) {
		file, err := tryReceipt(l, t, n)
		if err != nil {
			return err
		}
		var p fmtproof.TLogProof
		if err := p.Unmarshal(file); err != nil {
			return err
		}
		if !bytes.Equal(p.Marshal(), file) || p.Index != n || len(p.ExtraData) == 0 {
			return fmt.Errorf("receipt of %d is another when formats writes it", n)
		}
		if _, err := open(p.Checkpoint); err != nil {
			return err
		}
		var hashes [][]byte
		for i := range p.Hashes {
			hashes = append(hashes, p.Hashes[i][:])
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, n, c.Size, rfc6962.DefaultHasher.HashLeaf(l.headers[n]), hashes, c.Hash); err != nil {
			return err
		}
	}
	return nil
}

// tesseraTool is tessera's client, over HTTP and on files, with the proofs of transparency-dev/merkle.
func tesseraTool(t *testing.T, l *testLog, at place, older []byte) error {
	ctx, hasher := t.Context(), rfc6962.DefaultHasher
	v, err := note.NewVerifier(vkey(l.log))
	if err != nil {
		return err
	}
	f, err := at.tessera()
	if err != nil {
		return err
	}
	c, _, _, err := client.FetchCheckpoint(ctx, f.ReadCheckpoint, v, origin)
	if err != nil || c.Size == 0 {
		return err
	}
	builder, err := client.NewProofBuilder(ctx, c.Size, f.ReadTile)
	if err != nil {
		return err
	}
	for _, n := range some(c.Size) {
		p, err := builder.InclusionProof(ctx, n)
		if err != nil {
			return err
		}
		bundle, err := client.GetEntryBundle(ctx, f.ReadEntryBundle, n/256, c.Size)
		if err != nil {
			return err
		}
		if err := proof.VerifyInclusion(hasher, n, c.Size, hasher.HashLeaf(bundle.Entries[n%256]), p, c.Hash); err != nil {
			return err
		}
	}
	if older == nil {
		return nil
	}
	tracker, err := client.NewLogStateTracker(ctx, f.ReadTile, older, v, origin, client.UnilateralConsensus(f.ReadCheckpoint))
	if err != nil {
		return err
	}
	if _, _, _, err := tracker.Update(ctx); err != nil {
		return err
	}
	if got := tracker.Latest(); got.Size != c.Size {
		return fmt.Errorf("followed to %d, want %d", got.Size, c.Size)
	}
	return nil
}

// torchwoodTool is torchwood: our policy file, checkpoints, entries, and receipts.
func torchwoodTool(t *testing.T, l *testLog, at place, older []byte) error {
	// 0.9 knows no ML-DSA-44: such a cosignature is one of an unknown key.
	policy, err := torchwood.ParsePolicy([]byte("log " + vkey(l.log) + "\nwitness node-1 " + vkey(l.by[0]) + "\ngroup nodes all node-1\nquorum nodes\n"))
	if err != nil {
		return err
	}
	f, err := at.torchwood()
	if err != nil {
		return err
	}
	b, err := f.ReadEndpoint(t.Context(), "checkpoint")
	if err != nil {
		return err
	}
	c, _, err := torchwood.VerifyCheckpoint(b, policy)
	if err != nil || c.N == 0 {
		return err
	}
	tw, err := torchwood.NewClient(f)
	if err != nil {
		return err
	}
	for _, n := range some(uint64(c.N)) {
		entry, p, err := tw.Entry(t.Context(), c.Tree, int64(n))
		if err != nil {
			return err
		}
		if !bytes.Equal(entry, l.headers[n]) {
			return fmt.Errorf("entry %d is another", n)
		}
		// Their proof is our receipt, and the other way round.
		if err := checkReceipts(t, l, policy, b, n, p); err != nil {
			return err
		}
	}
	if err := readAll(t.Context(), l, tw, c.Tree); err != nil {
		return err
	}
	if older == nil {
		return nil
	}
	old, _, err := torchwood.VerifyCheckpoint(older, policy)
	if err != nil || old.N == 0 {
		return err
	}
	p, err := tlog.ProveTree(c.N, old.N, torchwood.TileHashReaderWithContext(t.Context(), c.Tree, f))
	if err != nil {
		return err
	}
	return tlog.CheckTree(p, c.N, c.Hash, old.N, old.Hash)
}

// readAll reads the last entries up to the end, as a monitor does.
func readAll(ctx context.Context, l *testLog, tw *torchwood.Client, tree tlog.Tree) error {
	at := max(0, tree.N-600)
	for n, entry := range tw.AllEntries(ctx, tree, at) {
		if n != at || !bytes.Equal(entry, l.headers[n]) {
			return fmt.Errorf("entry %d at %d is another", n, at)
		}
		at++
	}
	if err := tw.Err(); err != nil || at != tree.N {
		return fmt.Errorf("read up to %d of %d: %w", at, tree.N, err)
	}
	return nil
}

func checkReceipts(t *testing.T, l *testLog, policy torchwood.Policy, note []byte, n uint64, p tlog.RecordProof) error {
	theirs := torchwood.FormatProof(int64(n), p, note)
	r, err := receipt.Parse(theirs)
	if err != nil {
		return err
	}
	if again := r.Bytes(); !bytes.Equal(again, theirs) || r.Header != nil {
		return errors.New("a receipt of torchwood is another when we write it")
	}
	ours, err := tryReceipt(l, t, n)
	if err != nil {
		return err
	}
	if err := torchwood.VerifyProof(policy, tlog.RecordHash(l.headers[n]), ours); err != nil {
		return err
	}
	if n > 0 {
		if err := torchwood.VerifyProof(policy, tlog.RecordHash(l.headers[n-1]), ours); err == nil {
			return errors.New("a receipt proves another entry")
		}
	}
	return nil
}
