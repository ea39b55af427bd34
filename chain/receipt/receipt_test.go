package receipt_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/receipt"
)

var update = flag.Bool("update", false, "write the golden files anew")

var chainID = chain.ID{0xe0, 0xe1, 0xe2, 0xe3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const (
	origin   = "exonode/e0e1e2e30405060708090a0b0c0d0e0f/0"
	signedAt = 1_780_000_000
)

// testLog is a chain in memory whose checkpoints are signed by a log and one cosigner.
type testLog struct {
	records []chain.Record
	tree    chain.Tree
	tiles   tiles
	policy  *checkpoint.Policy
	log, by *checkpoint.Signer
}

type tiles map[[2]uint64][]byte

func (m tiles) ReadTile(level int, index uint64, width int) ([]byte, error) {
	tile, ok := m[[2]uint64{uint64(level), index}]
	if !ok {
		return nil, chain.ErrNotFound
	}
	return tile[:32*width], nil
}

func newLog(tb testing.TB, size int) *testLog {
	tb.Helper()
	l := &testLog{tiles: tiles{}}
	var head chain.Head
	for i := range size {
		in := chain.SealInput{
			ChainID: chainID, Prev: head, Stamp: signedAt*1e9 + int64(i), Principal: "local", SealingNode: "node-1",
			Event: &chain.Event{Workspace: "default", Source: "urn:test", ID: fmt.Sprint("event-", i), Kind: "test.event",
				Payload: fmt.Appendf(nil, `{"number":%d}`, i), ContentType: "application/json"},
		}
		binary.BigEndian.PutUint64(in.Salt[:], uint64(i))
		s, err := chain.Seal(&in)
		if err != nil {
			tb.Fatal(err)
		}
		l.records, head = append(l.records, s.Record), s.Head
		l.tree.Append(s.Header, func(level int, index uint64, tile []byte) { l.tiles[[2]uint64{uint64(level), index}] = tile })
	}
	var err error
	if l.log, err = checkpoint.NewLogSigner(origin, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))); err != nil {
		tb.Fatal(err)
	}
	if l.by, err = checkpoint.NewCosigner("node-1.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))); err != nil {
		tb.Fatal(err)
	}
	lk, ck := l.log.Key(), l.by.Key()
	if l.policy, err = checkpoint.ParsePolicy([]byte("log " + lk.String() + "\nwitness node-1 " + ck.String() + "\nquorum node-1\n")); err != nil {
		tb.Fatal(err)
	}
	return l
}

func (l *testLog) reader() chain.TileReader { return l.tree.Reader(l.tiles) }

// note is the signed checkpoint of a size.
func (l *testLog) note(tb testing.TB, size uint64) *checkpoint.Note {
	tb.Helper()
	root, err := chain.RootAt(size, l.reader())
	if err != nil {
		tb.Fatal(err)
	}
	return l.sign(tb, checkpoint.Checkpoint{Origin: origin, Size: size, Root: root})
}

func (l *testLog) sign(tb testing.TB, c checkpoint.Checkpoint) *checkpoint.Note {
	tb.Helper()
	n := &checkpoint.Note{Checkpoint: c}
	for _, s := range []*checkpoint.Signer{l.log, l.by} {
		signature, err := s.Sign(&c, signedAt)
		if err != nil {
			tb.Fatal(err)
		}
		n.Add(signature)
	}
	return n
}

func (l *testLog) receipt(tb testing.TB, seq, size uint64, envelope bool) *receipt.Receipt {
	tb.Helper()
	rec := l.records[seq]
	if !envelope {
		rec.Envelope = nil
	}
	r, err := receipt.Make(l.reader(), rec.Header, rec.Envelope, l.note(tb, size))
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// TestGolden holds receipts and their policy to testdata.
func TestGolden(t *testing.T) {
	const file = "testdata/receipts.json"
	type golden struct {
		Policy   string            `json:"policy"`
		Receipts map[string]string `json:"receipts"`
	}
	l := newLog(t, 300)
	made := golden{l.policy.String(), map[string]string{
		"entry 0 of 1":                   string(l.receipt(t, 0, 1, true).Bytes()),
		"entry 7 of 300":                 string(l.receipt(t, 7, 300, true).Bytes()),
		"entry 299 of 300, header alone": string(l.receipt(t, 299, 300, false).Bytes()),
		"entry 255 of 256, leaf alone":   string(withoutHeader(l.receipt(t, 255, 256, false)).Bytes()),
	}}
	if *update {
		b, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var stored golden
	if err := json.Unmarshal(b, &stored); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored, made); diff != "" {
		t.Fatalf("differs from %s (-stored +made):\n%s", file, diff)
	}
	policy, err := checkpoint.ParsePolicy([]byte(stored.Policy))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range stored.Receipts {
		r, err := receipt.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.Header == nil {
			_, err = r.VerifyLeaf(policy, chain.LeafHash(l.records[r.Index].Header))
		} else {
			_, err = r.Verify(policy)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func withoutHeader(r *receipt.Receipt) *receipt.Receipt {
	r.Header, r.Envelope = nil, nil
	return r
}

// TestEveryBit flips each bit of a receipt.
func TestEveryBit(t *testing.T) {
	l := newLog(t, 11)
	b := l.receipt(t, 5, 11, true).Bytes()
	if r, err := receipt.Parse(b); err != nil {
		t.Fatal(err)
	} else if p, err := r.Verify(l.policy); err != nil || p.Envelope == nil || p.Header.Sequence != 5 || p.Hash != chain.HeaderHash(l.records[5].Header) {
		t.Fatalf("%+v, %v", p, err)
	}
	for i := range len(b) * 8 {
		bad := slices.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		r, err := receipt.Parse(bad)
		if err != nil {
			if !errors.Is(err, receipt.ErrFormat) {
				t.Errorf("bit %d: %v", i, err)
			}
			continue
		}
		if _, err := r.Verify(l.policy); err == nil {
			t.Errorf("bit %d (byte %q) may be flipped", i, b[i/8])
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	l := newLog(t, 300)
	_, stranger, _ := ed25519.GenerateKey(nil)
	for name, test := range map[string]struct {
		change func(r *receipt.Receipt)
		err    error
	}{
		"nothing changed":   {func(*receipt.Receipt) {}, nil},
		"no header":         {func(r *receipt.Receipt) { r.Header = nil }, receipt.ErrEntry},
		"another header":    {func(r *receipt.Receipt) { r.Header = l.records[8].Header }, chain.ErrProof},
		"another index":     {func(r *receipt.Receipt) { r.Index = 8 }, chain.ErrProof},
		"index beyond":      {func(r *receipt.Receipt) { r.Index = 300 }, chain.ErrProof},
		"proof too short":   {func(r *receipt.Receipt) { r.Proof = r.Proof[1:] }, chain.ErrProof},
		"proof too long":    {func(r *receipt.Receipt) { r.Proof = append(r.Proof, chain.Hash{}) }, chain.ErrProof},
		"another envelope":  {func(r *receipt.Receipt) { r.Envelope = l.records[8].Envelope }, receipt.ErrEntry},
		"checkpoint of 299": {func(r *receipt.Receipt) { r.Note = l.note(t, 299) }, chain.ErrProof},
		"no cosignature":    {func(r *receipt.Receipt) { r.Note.Signatures = r.Note.Signatures[:1] }, checkpoint.ErrQuorum},
		"no log signature":  {func(r *receipt.Receipt) { r.Note.Signatures = r.Note.Signatures[1:] }, checkpoint.ErrQuorum},
		"root changed":      {func(r *receipt.Receipt) { r.Note.Checkpoint.Root[0]++ }, checkpoint.ErrSignature},
		"signed by a stranger": {func(r *receipt.Receipt) {
			s, err := checkpoint.NewLogSigner(origin, stranger)
			if err != nil {
				t.Fatal(err)
			}
			signature, err := s.Sign(&r.Note.Checkpoint, 0)
			if err != nil {
				t.Fatal(err)
			}
			r.Note.Signatures[0] = signature
		}, checkpoint.ErrQuorum},
	} {
		r := l.receipt(t, 7, 300, true)
		test.change(r)
		if _, err := r.Verify(l.policy); !errors.Is(err, test.err) || test.err == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, test.err)
		}
	}
}

// TestVerifyEntry: a tree may have leaves that are no header, or a header out of place;
// the proof holds, and the receipt is refused.
func TestVerifyEntry(t *testing.T) {
	l := newLog(t, 1)
	for name, leaf := range map[string][]byte{"no header": []byte("leaf"), "another sequence": l.records[0].Header} {
		tree := chain.Tree{}
		tree.Append([]byte("first"), nil)
		tree.Append(leaf, nil)
		n := l.sign(t, checkpoint.Checkpoint{Origin: origin, Size: 2, Root: tree.Root()})
		r := &receipt.Receipt{Index: 1, Header: leaf, Proof: []chain.Hash{chain.LeafHash([]byte("first"))}, Note: n}
		if _, err := r.VerifyLeaf(l.policy, chain.LeafHash(leaf)); err != nil {
			t.Errorf("%s: the leaf: %v", name, err)
		}
		if _, err := r.Verify(l.policy); !errors.Is(err, receipt.ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMakeRefuses(t *testing.T) {
	l := newLog(t, 20)
	other := newLog(t, 20).sign(t, checkpoint.Checkpoint{Origin: origin, Size: 20})
	for name, test := range map[string]struct {
		header, envelope []byte
		note             *checkpoint.Note
		err              error
	}{
		"header is none":             {[]byte("x"), nil, l.note(t, 20), receipt.ErrEntry},
		"envelope of another":        {l.records[3].Header, l.records[4].Envelope, l.note(t, 20), receipt.ErrEntry},
		"envelope is empty":          {l.records[3].Header, []byte{}, l.note(t, 20), receipt.ErrEntry},
		"checkpoint before it":       {l.records[10].Header, nil, l.note(t, 10), chain.ErrBeyond},
		"checkpoint of another tree": {l.records[3].Header, nil, other, chain.ErrProof},
	} {
		if r, err := receipt.Make(l.reader(), test.header, test.envelope, test.note); !errors.Is(err, test.err) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	l := newLog(t, 3)
	good := string(l.receipt(t, 1, 3, true).Bytes())
	line := func(prefix string) string {
		at := strings.Index(good, prefix)
		return good[at : at+strings.Index(good[at:], "\n")+1]
	}
	extra, index := line("extra "), line("index ")
	encode := func(cbor string) string { return "extra " + base64.StdEncoding.EncodeToString([]byte(cbor)) + "\n" }
	for name, text := range map[string]string{
		"empty":                 "",
		"another version":       strings.Replace(good, "@v1", "@v2", 1),
		"no checkpoint":         good[:strings.Index(good, "\n\n")],
		"note is cut":           good[:len(good)-2],
		"no index":              strings.Replace(good, index, "", 1),
		"two indexes":           strings.Replace(good, index, index+index, 1),
		"leading zero":          strings.Replace(good, index, "index 01\n", 1),
		"negative index":        strings.Replace(good, index, "index -1\n", 1),
		"index beyond 2^63":     strings.Replace(good, index, "index 9223372036854775808\n", 1),
		"extra after the index": strings.Replace(good, extra+index, index+extra, 1),
		"extra twice":           strings.Replace(good, extra, extra+extra, 1),
		"extra is no base64":    strings.Replace(good, extra, "extra !\n", 1),
		"extra is no CBOR":      strings.Replace(good, extra, encode("hello"), 1),
		"extra with more":       strings.Replace(good, extra, encode("\xa2\x00\x41a\x02\x41b"), 1),
		"extra without header":  strings.Replace(good, extra, encode("\xa1\x01\x41a"), 1),
		"extra, then bytes":     strings.Replace(good, extra, encode("\xa1\x00\x41a\x00"), 1),
		"short hash":            strings.Replace(good, index, index+"AAAA\n", 1),
		"too many hashes":       strings.Replace(good, index, index+strings.Repeat(strings.Repeat("A", 43)+"=\n", 62), 1),
		"line breaks of DOS":    strings.ReplaceAll(good, "\n", "\r\n"),
		"too large":             good + strings.Repeat(" ", receipt.MaxSize),
	} {
		if text == good {
			t.Errorf("%s: nothing changed", name)
		}
		if r, err := receipt.Parse([]byte(text)); !errors.Is(err, receipt.ErrFormat) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}

// TestAnyReceipt makes receipts of any entry in any checkpoint after it.
func TestAnyReceipt(t *testing.T) {
	l := newLog(t, 700)
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Uint64Range(1, 700).Draw(rt, "size")
		seq := rapid.Uint64Range(0, size-1).Draw(rt, "sequence")
		r := l.receipt(t, seq, size, rapid.Bool().Draw(rt, "envelope"))
		again, err := receipt.Parse(r.Bytes())
		if diff := cmp.Diff(r, again); err != nil || diff != "" {
			rt.Fatalf("%v %s", err, diff)
		}
		p, err := again.Verify(l.policy)
		if err != nil || p.Header.Sequence != seq || (p.Envelope == nil) != (r.Envelope == nil) {
			rt.Fatalf("%+v, %v", p, err)
		}
		again.Index = rapid.Uint64Range(0, size).Filter(func(n uint64) bool { return n != seq }).Draw(rt, "another")
		if _, err := again.Verify(l.policy); !errors.Is(err, chain.ErrProof) {
			rt.Fatalf("entry %d at %d: %v", seq, again.Index, err)
		}
	})
}

// TestLargestReceipt: the largest entry and a note of sixteen ML-DSA-44 signatures fit.
func TestLargestReceipt(t *testing.T) {
	l := newLog(t, 1)
	r := l.receipt(t, 0, 1, true)
	r.Header, r.Envelope = make([]byte, 60_000), make([]byte, 2<<20)
	for i := range checkpoint.MaxSignatures {
		r.Note.Add(checkpoint.Signature{Name: fmt.Sprint("n", i), Bytes: make([]byte, 2428)})
	}
	r.Proof = make([]chain.Hash, 63)
	if _, err := receipt.Parse(r.Bytes()); err != nil {
		t.Error(err)
	}
}

func FuzzReceipt(f *testing.F) {
	l := newLog(f, 20)
	f.Add(l.receipt(f, 7, 20, true).Bytes())
	f.Add(l.receipt(f, 0, 1, false).Bytes())
	f.Add(withoutHeader(l.receipt(f, 19, 20, false)).Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := receipt.Parse(data)
		if err != nil {
			return
		}
		if again := r.Bytes(); !bytes.Equal(again, data) {
			t.Fatalf("accepted %q, wrote %q", data, again)
		}
		// It says something of anything that parses, and does not panic.
		_, _ = r.Verify(l.policy)
	})
}
