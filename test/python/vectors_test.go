package python

import (
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/exonode/exonode/chain"
)

func golden(t *testing.T, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func fromHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestBLAKE3 holds verify.py's BLAKE3 to the official vectors, as the module that we
// use carries them in a test, and to that module, at the edges of blocks, chunks
// and subtrees.
func TestBLAKE3(t *testing.T) {
	v := start(t)
	const official = "BLAKE3 2019-12-27 16:29:52 test vectors context"
	input := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i % 251)
		}
		return b
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/zeebo/blake3").Output()
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "vec_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	vectors := regexp.MustCompile(`(?s)inputLen:\s*(\d+),.*?deriveKey:\s*"([0-9a-f]{64})`).FindAllSubmatch(source, -1)
	if len(vectors) < 20 {
		t.Fatalf("%d official vectors", len(vectors))
	}
	for _, m := range vectors {
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		if got := v.text(v.ask("derive_key", official, input(n))); got != string(m[2]) {
			t.Errorf("official vector of %d bytes: %s, want %s", n, got, m[2])
		}
	}
	for _, n := range []int{0, 1, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2047, 2048, 2049, 3072, 3073, 4096, 4097, 5000, 8193, 31744} {
		var want [32]byte
		blake3.DeriveKey("some context", input(n), want[:])
		if got := v.text(v.ask("derive_key", "some context", input(n))); got != hex.EncodeToString(want[:]) {
			t.Errorf("%d bytes: %s, want %x", n, got, want)
		}
	}
}

// TestGoldenChain holds verify.py to the vectors that docs/FORMAT.md names.
func TestGoldenChain(t *testing.T) {
	v := start(t)
	var g struct {
		Contexts []struct{ Context, Input, Hash string }
		Headers  []struct {
			Name, Hex, Hash string
			Leaf            string `json:"leaf_hash"`
		}
		Envelopes []struct{ Name, Hex, Hash string }
		Digests   []struct{ Name, Hex, Hash string } `json:"event_digests"`
		Trees     []struct {
			Size int
			Root string
		}
		Inclusion []struct {
			Sequence, Size uint64
			Proof          []string
		} `json:"inclusion_proofs"`
	}
	golden(t, "../../chain/testdata/vectors.json", &g)
	same := func(what, want, function string, args ...any) {
		t.Helper()
		if got := v.text(v.ask(function, args...)); got != want {
			t.Errorf("%s: %s is %s, want %s", what, function, got, want)
		}
	}
	fine := func(what, function string, args ...any) {
		t.Helper()
		if a := v.ask(function, args...); a.Bad != "" {
			t.Errorf("%s: %s: %s", what, function, a.Bad)
		}
	}
	for _, c := range g.Contexts {
		same(c.Context, c.Hash, "derive_key", c.Context, []byte(c.Input))
	}
	for _, h := range g.Headers {
		b := fromHex(t, h.Hex)
		fine(h.Name, "header", b)
		same(h.Name, h.Hash, "header_hash", b)
		same(h.Name, h.Leaf, "leaf_hash", b)
	}
	for _, e := range g.Envelopes {
		b := fromHex(t, e.Hex)
		fine(e.Name, "envelope", b)
		same(e.Name, e.Hash, "envelope_hash", b)
	}
	for _, d := range g.Digests {
		same(d.Name, d.Hash, "derive_key", "exonode 2026 v1 event digest", fromHex(t, d.Hex))
	}
	roots := map[uint64]string{}
	for _, r := range g.Trees {
		if r.Size <= 5000 {
			same("tree", r.Root, "root", r.Size)
		}
		roots[uint64(r.Size)] = r.Root
	}
	for _, p := range g.Inclusion {
		want, ok := roots[p.Size]
		if !ok {
			var tree chain.Tree
			for i := range p.Size {
				tree.Append(leaf(i), nil)
			}
			want = tree.Root().String()
		}
		l := chain.LeafHash(leaf(p.Sequence))
		same("inclusion proof", want, "root_of_proof", l[:], p.Sequence, p.Size, append([]string{}, p.Proof...))
		for _, wrong := range [][]string{append(slices.Clone(p.Proof), want), p.Proof[:max(0, len(p.Proof)-1)]} {
			if a := v.ask("root_of_proof", l[:], p.Sequence, p.Size, append([]string{}, wrong...)); a.Bad == "" && len(wrong) != len(p.Proof) {
				t.Errorf("a proof of %d hashes passes for entry %d of %d", len(wrong), p.Sequence, p.Size)
			}
		}
	}
	if len(g.Contexts) == 0 || len(g.Headers) == 0 || len(g.Envelopes) == 0 || len(g.Digests) == 0 || len(g.Trees) == 0 || len(g.Inclusion) == 0 {
		t.Error("vectors are missing")
	}
}

func leaf(i uint64) []byte {
	b := []byte("leaf \x00\x00\x00\x00\x00\x00\x00\x00")
	for k := range 8 {
		b[5+k] = byte(i >> (56 - 8*k))
	}
	return b
}

// TestSameHeaders changes headers and envelopes in small ways, and asks both
// verifiers whether they are one.
func TestSameHeaders(t *testing.T) {
	long(t)
	v := start(t)
	var g struct{ Headers, Envelopes []struct{ Name, Hex string } }
	golden(t, "../../chain/testdata/vectors.json", &g)
	r := rand.New(rand.NewPCG(1, 2))
	bytes := []byte{0, 1, 0x17, 0x18, 0x19, 0x20, 0x40, 0x60, 0x80, 0xa0, 0xf4, 0xf5, 0xf6, 0xff, '/', '.', ' ', 'A', 0x7f, 0xc2}
	taken := map[bool]int{}
	for range 2500 {
		h := g.Headers[r.IntN(len(g.Headers))]
		b := fromHex(t, h.Hex)
		for range 1 + r.IntN(2) {
			i := r.IntN(len(b))
			switch r.IntN(4) {
			case 0:
				b[i] ^= 1 << r.IntN(8)
			case 1:
				b[i] = bytes[r.IntN(len(bytes))]
			case 2:
				b[i]++
			case 3:
				b = slices.Delete(b, i, i+1)
			}
		}
		_, err := chain.DecodeHeader(b)
		if a := v.ask("header", b); (a.Bad == "") != (err == nil) {
			t.Fatalf("%s, as %x:\nchain: %v\nverify.py: %s", h.Name, b, err, a.Bad)
		}
		taken[err == nil]++
	}
	if taken[true] < 250 || taken[false] < 250 {
		t.Errorf("of the changed headers %d were still headers, and %d not", taken[true], taken[false])
	}
	for range 300 {
		b := fromHex(t, g.Envelopes[r.IntN(len(g.Envelopes))].Hex)
		b[r.IntN(min(len(b), 50))] = bytes[r.IntN(len(bytes))]
		_, err := chain.DecodeEnvelope(b)
		if a := v.ask("envelope", b); (a.Bad == "") != (err == nil) {
			t.Fatalf("envelope %x:\nchain: %v\nverify.py: %s", b, err, a.Bad)
		}
	}
}
