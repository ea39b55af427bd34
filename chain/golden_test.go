package chain_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	fx "github.com/fxamacker/cbor/v2"

	"github.com/exonode/exonode/chain"
)

var update = flag.Bool("update", false, "write the golden files anew")

// vectors are the golden vectors of chain/testdata/vectors.json: enough for
// another implementation to test each step by itself.
type vectors struct {
	Note      string            `json:"note"`
	Contexts  []contextVector   `json:"contexts"`
	Headers   []bytesVector     `json:"headers"`
	Envelopes []bytesVector     `json:"envelopes"`
	Digests   []bytesVector     `json:"event_digests"`
	Keys      []keyVector       `json:"event_keys"`
	Maximal   maximalVector     `json:"maximal_header"`
	Trees     []treeVector      `json:"trees"`
	Inclusion []inclusionVector `json:"inclusion_proofs"`
	Consist   []consistVector   `json:"consistency_proofs"`
}

type contextVector struct {
	Context string     `json:"context"`
	Input   string     `json:"input"`
	Hash    chain.Hash `json:"hash"`
}

type bytesVector struct {
	Name string     `json:"name"`
	Hex  string     `json:"hex"`
	Hash chain.Hash `json:"hash"`
	Leaf string     `json:"leaf_hash,omitempty"`
}

type maximalVector struct {
	Size int        `json:"size"`
	Hash chain.Hash `json:"hash"`
}

type keyVector struct {
	Workspace string     `json:"workspace"`
	Source    string     `json:"source"`
	ID        string     `json:"id"`
	Hash      chain.Hash `json:"hash"`
}

type treeVector struct {
	Size uint64     `json:"size"`
	Root chain.Hash `json:"root"`
}

type inclusionVector struct {
	Sequence uint64       `json:"sequence"`
	Size     uint64       `json:"size"`
	Proof    []chain.Hash `json:"proof"`
}

type consistVector struct {
	From  uint64       `json:"from"`
	To    uint64       `json:"to"`
	Proof []chain.Hash `json:"proof"`
}

func makeVectors(t *testing.T) vectors {
	t.Helper()
	v := vectors{Note: "Leaves of the trees are \"leaf \" and the sequence as 8 bytes, big-endian. " +
		"The maximal header has every field at its limit; only its size and hash are here."}
	for _, c := range []struct {
		context string
		hash    func([]byte) chain.Hash
	}{
		{chain.ContextHeader, chain.HeaderHash}, {chain.ContextEnvelope, chain.EnvelopeHash},
		{chain.ContextState, chain.StateDigest}, {chain.ContextPolicy, chain.PolicyHash},
		{chain.ContextGenesis, chain.GenesisHash},
	} {
		for _, input := range []string{"", "abc", strings.Repeat("0123456789abcdef", 200)} {
			v.Contexts = append(v.Contexts, contextVector{c.context, input, c.hash([]byte(input))})
		}
	}
	for _, h := range []struct {
		name   string
		header chain.Header
	}{{"minimal", minimalHeader()}, {"typical", typicalHeader()}, {"every field", manyHeader()}} {
		b, err := h.header.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		v.Headers = append(v.Headers, bytesVector{h.name, hex.EncodeToString(b), chain.HeaderHash(b), chain.LeafHash(b).String()})
	}
	maximal := maximalHeader()
	b, err := maximal.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	v.Maximal = maximalVector{len(b), chain.HeaderHash(b)}
	for _, e := range []struct {
		name string
		env  chain.Envelope
	}{
		{"empty", chain.Envelope{}},
		{"payload", chain.Envelope{Payload: []byte(`{"pid":7}`), Salt: [32]byte{1, 2, 3}}},
		{"signed", chain.Envelope{Payload: []byte("x"), Salt: [32]byte{31: 9}, ClientSignature: bytes.Repeat([]byte{0x5a}, 64)}},
	} {
		b, err := e.env.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		v.Envelopes = append(v.Envelopes, bytesVector{Name: e.name, Hex: hex.EncodeToString(b), Hash: chain.EnvelopeHash(b)})
	}
	v.Digests = digestVectors(t)
	for _, k := range []chain.Key{{Workspace: "w", Source: "s", ID: "i"}, {Workspace: "default", Source: "urn:agent:7", ID: strings.Repeat("ü", 100)}} {
		v.Keys = append(v.Keys, keyVector{k.Workspace, k.Source, k.ID, k.Hash()})
	}
	tree := &bigTree{tiles: memoryTiles{}}
	for _, size := range []uint64{0, 1, 2, 3, 7, 255, 256, 257, 600} {
		tree.grow(t, size)
		v.Trees = append(v.Trees, treeVector{size, tree.tree.Root()})
	}
	for _, p := range [][2]uint64{{0, 1}, {0, 2}, {2, 3}, {255, 256}, {256, 257}, {100, 600}, {599, 600}} {
		proof, err := chain.InclusionProof(p[0], p[1], tree.reader())
		if err != nil {
			t.Fatal(err)
		}
		v.Inclusion = append(v.Inclusion, inclusionVector{p[0], p[1], proof})
	}
	for _, p := range [][2]uint64{{1, 2}, {2, 3}, {3, 7}, {255, 256}, {256, 257}, {257, 600}, {600, 600}} {
		proof, err := chain.ConsistencyProof(p[0], p[1], tree.reader())
		if err != nil {
			t.Fatal(err)
		}
		v.Consist = append(v.Consist, consistVector{p[0], p[1], proof})
	}
	return v
}

func digestVectors(t *testing.T) []bytesVector {
	t.Helper()
	plain := typicalEvent()
	plain.Salt = &[32]byte{7}
	full := plain
	full.DataSchema, full.DeclaredEffect, full.Causes, full.Priority = "schema", &chain.Effect{0, 1, 2, 3, 10000}, []uint64{1, 400}, 1
	full.Extensions, full.ClientKeyID = manyHeader().Extensions, "key-1"
	var out []bytesVector
	for name, e := range map[string]*chain.Event{"typical": &plain, "every field": &full} {
		d, err := chain.EventDigest(testID, 2, e)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, bytesVector{Name: name, Hex: hex.EncodeToString(chain.DigestInput(testID, 2, e)), Hash: d})
	}
	if out[0].Name > out[1].Name {
		out[0], out[1] = out[1], out[0]
	}
	return out
}

func TestGoldenVectors(t *testing.T) {
	got, err := json.MarshalIndent(makeVectors(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/vectors.json", append(got, '\n'))
}

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: the format changed; if that is wanted, run the test with -update\ngot:\n%.2000s", path, got)
	}
}

// TestGoldenIsDeterministic: another implementation of core deterministic CBOR
// writes the same bytes for every golden value, so nothing is malformed.
func TestGoldenIsDeterministic(t *testing.T) {
	mode, err := fx.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	v := makeVectors(t)
	for _, list := range [][]bytesVector{v.Headers, v.Envelopes, v.Digests} {
		for _, b := range list {
			data, err := hex.DecodeString(b.Hex)
			if err != nil {
				t.Fatal(err)
			}
			var value any
			if err := fx.Unmarshal(data, &value); err != nil {
				t.Fatalf("%s: %v", b.Name, err)
			}
			if again, err := mode.Marshal(value); err != nil || !bytes.Equal(again, data) {
				t.Errorf("%s: another encoder writes %x (%v), we %x", b.Name, again, err, data)
			}
		}
	}
}

// TestFormatDocument: the examples and constants in docs/FORMAT.md are those of
// the code.
func TestFormatDocument(t *testing.T) {
	doc, err := os.ReadFile("../docs/FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(doc)
	joined := strings.NewReplacer("\n", "", " ", "").Replace(text)
	for _, h := range makeVectors(t).Headers[:1] {
		for _, want := range []string{h.Hex, h.Hash.String(), h.Leaf} {
			if !strings.Contains(joined, want) {
				t.Errorf("docs/FORMAT.md does not have the %s header's %s", h.Name, want)
			}
		}
	}
	found := contexts(t, "..")
	if len(found) < 13 || !slices.Contains(found, chain.ContextHeader) {
		t.Errorf("found contexts %q, there are more", found)
	}
	for _, c := range found {
		if !strings.Contains(text, "`"+c+"`") {
			t.Errorf("docs/FORMAT.md does not have the context %q", c)
		}
	}
}

// contexts returns the context strings of hashes in all packages.
func contexts(t *testing.T, root string) []string {
	t.Helper()
	pattern := regexp.MustCompile(`"((?:github\.com/exonode/)?exonode (?:\d{4} v\d+ [^"]+|[^"]+ v\d+))"`)
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, match := range pattern.FindAllSubmatch(source, -1) {
			found = append(found, string(match[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
