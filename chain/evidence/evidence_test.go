package evidence_test

import (
	"bytes"
	"crypto/ed25519"
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
	"github.com/exonode/exonode/chain/evidence"
)

var update = flag.Bool("update", false, "write the golden file anew")

var chainID = chain.ID{0xe0, 0xe1, 0xe2, 0xe3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

const (
	base     = "exonode/e0e1e2e30405060708090a0b0c0d0e0f"
	signedAt = 1_780_000_000
)

// testLog is a log in memory: a value, so that its copies fork.
type testLog struct {
	epoch   uint64
	entries [][]byte
	head    chain.Head
}

func newLog(n int) testLog {
	var l testLog
	return l.with("system", "chain.genesis", "genesis").grown(n-1, "event")
}

func (l testLog) grown(n int, id string) testLog {
	for range n {
		l = l.with("default", "test.event", fmt.Sprint(id, "-", l.head.Size))
	}
	return l
}

func (l testLog) recovered() testLog {
	l.epoch++
	return l.with("system", "chain.recover", fmt.Sprint("recover-", l.epoch))
}

func (l testLog) with(workspace, kind, id string) testLog {
	in := chain.SealInput{
		ChainID: chainID, Epoch: l.epoch, Prev: l.head, Stamp: signedAt*1e9 + int64(l.head.Size), Principal: "local",
		Event: &chain.Event{Workspace: workspace, Source: "urn:test", ID: id, Kind: kind, Payload: []byte("{}"), ContentType: "application/json"},
	}
	binary.BigEndian.PutUint64(in.Salt[:], l.head.Size)
	s, err := chain.Seal(&in)
	if err != nil {
		panic(err)
	}
	l.entries, l.head = append(slices.Clone(l.entries), s.Header), s.Head
	return l
}

// unlinked adds an entry with another previous hash.
func (l testLog) unlinked() testLog {
	next := l.with("default", "test.event", "unlinked")
	h, err := chain.DecodeHeader(next.entries[len(l.entries)])
	if err != nil {
		panic(err)
	}
	h.Previous[0]++
	if next.entries[len(l.entries)], err = h.MarshalBinary(); err != nil {
		panic(err)
	}
	return next
}

type tiles map[[2]uint64][]byte

func (m tiles) ReadTile(level int, index uint64, width int) ([]byte, error) {
	tile, ok := m[[2]uint64{uint64(level), index}]
	if !ok {
		return nil, chain.ErrNotFound
	}
	return tile[:32*width], nil
}

func (l testLog) tree() (chain.Tree, chain.TileReader) {
	var tree chain.Tree
	full := tiles{}
	for _, e := range l.entries {
		tree.Append(e, func(level int, index uint64, tile []byte) { full[[2]uint64{uint64(level), index}] = tile })
	}
	return tree, tree.Reader(full)
}

func signers(origin string) []*checkpoint.Signer {
	log, err := checkpoint.NewLogSigner(origin, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		panic(err)
	}
	by, err := checkpoint.NewCosigner("node-1.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32)))
	if err != nil {
		panic(err)
	}
	return []*checkpoint.Signer{log, by}
}

var policy = func() *checkpoint.Policy {
	s := signers(base + "/0")
	log, by := s[0].Key(), s[1].Key()
	p, err := checkpoint.ParsePolicy([]byte("log " + log.String() + "\nwitness node-1 " + by.String() + "\nquorum node-1\n"))
	if err != nil {
		panic(err)
	}
	return p
}()

func (l testLog) note() *checkpoint.Note { return l.noteOf(fmt.Sprintf("%s/%d", base, l.epoch)) }

func (l testLog) noteOf(origin string) *checkpoint.Note {
	tree, _ := l.tree()
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: origin, Size: tree.Size(), Root: tree.Root()}}
	for _, s := range signers(origin) {
		signature, err := s.Sign(&n.Checkpoint, signedAt)
		if err != nil {
			panic(err)
		}
		n.Add(signature)
	}
	return n
}

func (l testLog) prefix(size int) []chain.Hash {
	_, r := l.tree()
	_, proof, err := evidence.Prefix(uint64(size), uint64(len(l.entries)), r)
	if err != nil {
		panic(err)
	}
	return proof
}

func (l testLog) leaf(index int) evidence.Leaf {
	_, r := l.tree()
	path, err := chain.InclusionProof(uint64(index), uint64(len(l.entries)), r)
	if err != nil {
		panic(err)
	}
	return evidence.Leaf{Index: uint64(index), Entry: l.entries[index], Path: path}
}

func fork(a, b testLog, size int, leaves ...int) *evidence.Evidence {
	e := &evidence.Evidence{First: a.note(), Second: b.note(), Size: uint64(size), FirstProof: a.prefix(size), SecondProof: b.prefix(size)}
	for _, i := range leaves {
		e.Leaves = append(e.Leaves, b.leaf(i))
	}
	return e
}

func alone(l testLog, origin string, leaves ...int) *evidence.Evidence {
	e := &evidence.Evidence{Second: l.noteOf(origin)}
	for _, i := range leaves {
		e.Leaves = append(e.Leaves, l.leaf(i))
	}
	return e
}

// genuine are evidence files of each kind and form.
func genuine() map[string]*evidence.Evidence {
	l := newLog(10)
	return map[string]*evidence.Evidence{
		"two trees of 10":                   fork(l, newLog(7).grown(3, "fork"), 10),
		"5 entries, then 8":                 fork(newLog(5), newLog(3).grown(5, "fork"), 5),
		"4 entries, a perfect tree, then 9": fork(newLog(4), newLog(3).grown(6, "fork"), 4),
		"9 entries, then 5":                 fork(newLog(9), newLog(3).grown(2, "fork"), 5),
		"from entry 6 on, of 9 and 10":      fork(newLog(9), newLog(6).grown(4, "fork"), 7),
		"forked before the recovery":        fork(newLog(9), newLog(3).grown(3, "fork").recovered().grown(2, "event"), 6, 5),
		"forked, and recovered later":       fork(newLog(5), newLog(3).grown(3, "fork").recovered(), 5, 4),
		"a chain that begins in an epoch":   fork(newLog(2), testLog{epoch: 1}.with("system", "chain.genesis", "g"), 1, 0),
		"epoch 1 without a recovery":        alone(l, base+"/1", 9),
		"epoch 0 after a recovery":          alone(l.recovered(), base+"/0", 10),
		"a link that is broken":             alone(l.unlinked().grown(3, "event"), base+"/0", 9, 10),
		"entry 0 is no genesis":             alone(testLog{}.grown(2, "event"), base+"/0", 0),
		"an entry of another chain, signed": alone(l, "exonode/ffffffffffffffffffffffffffffffff/0", 3, 4),
	}
}

// policyFor knows all logs of this file.
func policyFor(e *evidence.Evidence) *checkpoint.Policy {
	p := *policy
	k := p.Logs[0].Key
	if e.First == nil {
		k.Name = e.Second.Checkpoint.Origin
	}
	p.Logs = []checkpoint.PolicyLog{{Key: k}}
	return &p
}

// TestGolden holds evidence files to testdata, and verifies those.
func TestGolden(t *testing.T) {
	const file = "testdata/evidence.json"
	type golden struct {
		Policy   string            `json:"policy"`
		Evidence map[string]string `json:"evidence"`
	}
	made := golden{policy.String(), map[string]string{}}
	for name, e := range genuine() {
		if strings.HasPrefix(e.Second.Checkpoint.Origin, base) {
			made.Evidence[name] = string(e.Bytes())
		}
	}
	if *update {
		b, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
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
	p, err := checkpoint.ParsePolicy([]byte(stored.Policy))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range stored.Evidence {
		e, err := evidence.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f, err := e.Verify(p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(f.Second.Cosigned) != 1 || (f.First == nil) != (e.First == nil) || f.What == "" {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// TestEveryBit flips each bit of evidence: nothing of it may be otherwise.
func TestEveryBit(t *testing.T) {
	for name, e := range genuine() {
		p := policyFor(e)
		// The names in a cosignature's line say whose it is: another's is passed over.
		for _, n := range []*checkpoint.Note{e.First, e.Second} {
			if n != nil {
				n.Signatures = n.Signatures[:1]
			}
		}
		b := e.Bytes()
		if _, err := e.Verify(p); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i := range len(b) * 8 {
			bad := slices.Clone(b)
			bad[i/8] ^= 1 << (i % 8)
			e, err := evidence.Parse(bad)
			if err == nil {
				_, err = e.Verify(p)
			}
			if err == nil {
				t.Errorf("%s: bit %d (byte %q) may be flipped", name, i, b[i/8])
				break
			}
		}
	}
}

// TestNotEvidence: what an honest log signs proves nothing against it, however it is put
// together.
func TestNotEvidence(t *testing.T) {
	l := newLog(10)
	later := l.grown(3, "event").recovered().grown(2, "event")
	dropped := newLog(6).recovered().grown(8, "event")
	stranger := *policy
	stranger.Logs = nil
	for name, test := range map[string]struct {
		e    *evidence.Evidence
		want error
	}{
		"the same tree":                   {fork(l, l, 10), evidence.ErrNotEvidence},
		"a tree that grew":                {fork(newLog(5), l, 5), evidence.ErrNotEvidence},
		"a tree that grew, smaller part":  {fork(newLog(5), l, 3), evidence.ErrNotEvidence},
		"beyond the smaller tree":         {&evidence.Evidence{First: newLog(5).note(), Second: l.note(), Size: 6, SecondProof: l.prefix(6)}, evidence.ErrNotEvidence},
		"no size":                         {&evidence.Evidence{First: newLog(5).note(), Second: l.note()}, evidence.ErrNotEvidence},
		"a proof of another size":         {&evidence.Evidence{First: newLog(5).note(), Second: l.note(), Size: 5, SecondProof: l.prefix(6)}, evidence.ErrNotEvidence},
		"a proof of another tree":         {&evidence.Evidence{First: newLog(5).note(), Second: l.note(), Size: 5, SecondProof: newLog(5).grown(5, "x").prefix(5)}, evidence.ErrNotEvidence},
		"no proof":                        {&evidence.Evidence{First: newLog(5).note(), Second: l.note(), Size: 5}, evidence.ErrNotEvidence},
		"a proof of nothing":              {&evidence.Evidence{First: newLog(10).note(), Second: l.note(), Size: 10, SecondProof: l.prefix(5)}, evidence.ErrNotEvidence},
		"a leaf beside a fork":            {fork(newLog(5), newLog(3).grown(5, "fork"), 5, 4), evidence.ErrNotEvidence},
		"a declared recovery":             {fork(l, later, 10, 9), evidence.ErrNotEvidence},
		"entries left behind":             {fork(l, dropped, 9, 8), evidence.ErrNotEvidence},
		"entries left behind, kept ones":  {fork(l, dropped, 6, 5), evidence.ErrNotEvidence},
		"entries left behind, early leaf": {fork(l, dropped, 9, 5), evidence.ErrNotEvidence},
		"entries left behind, no leaf":    {fork(l, dropped, 9), evidence.ErrNotEvidence},
		"later epoch first":               {fork(dropped, l, 9, 9), evidence.ErrNotEvidence},
		"entry 0 of both epochs":          {fork(l, dropped, 1, 0), evidence.ErrNotEvidence},
		"a leaf that is not there":        {func() *evidence.Evidence { e := alone(l, base+"/1", 9); e.Leaves[0].Entry = l.entries[8]; return e }(), evidence.ErrNotEvidence},
		"last entry of its epoch":         {alone(l, base+"/0", 9), evidence.ErrNotEvidence},
		"an entry of an earlier epoch":    {alone(later, base+"/1", 3), evidence.ErrNotEvidence},
		"entries that keep the rules":     {alone(l, base+"/0", 3, 4), evidence.ErrNotEvidence},
		"a recovery that keeps the rules": {alone(later, base+"/1", 12, 13), evidence.ErrNotEvidence},
		"entries apart":                   {alone(l, base+"/0", 3, 5), evidence.ErrNotEvidence},
		"entries the wrong way round":     {alone(l, base+"/0", 4, 3), evidence.ErrNotEvidence},
		"entry 0":                         {alone(l, base+"/0", 0), evidence.ErrNotEvidence},
		"no entry":                        {alone(l, base+"/0"), evidence.ErrNotEvidence},
		"a log that no one knows":         {&evidence.Evidence{Second: l.noteOf("log.example")}, checkpoint.ErrQuorum},
		"no signature of the log": {func() *evidence.Evidence {
			e := fork(newLog(5), newLog(3).grown(5, "fork"), 5)
			e.First.Signatures = e.First.Signatures[1:]
			return e
		}(), checkpoint.ErrQuorum},
		"root changed": {func() *evidence.Evidence {
			e := fork(l, l, 10)
			e.Second.Checkpoint.Root[0]++
			return e
		}(), checkpoint.ErrSignature},
	} {
		if f, err := test.e.Verify(policy); !errors.Is(err, test.want) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
		if _, err := test.e.Verify(&stranger); !errors.Is(err, checkpoint.ErrQuorum) && !errors.Is(err, checkpoint.ErrSignature) {
			t.Errorf("%s, no log known: %v", name, err)
		}
	}
	// Leaves of logs that are not ours keep no rules.
	e := alone(l.unlinked(), "log.example", 9, 10)
	if f, err := e.Verify(policyFor(e)); !errors.Is(err, evidence.ErrNotEvidence) {
		t.Errorf("opaque leaves: %+v, %v", f, err)
	}
}

// TestAnyFork makes evidence of any two trees that fork, and none of any two that do not.
func TestAnyFork(t *testing.T) {
	long, other := newLog(70), newLog(1)
	rapid.Check(t, func(rt *rapid.T) {
		at := rapid.IntRange(1, 60).Draw(rt, "at")
		a := testLog{entries: long.entries[:rapid.IntRange(at+1, 70).Draw(rt, "first")]}
		b := testLog{entries: slices.Clone(long.entries[:at]), head: other.head}
		for i := range rapid.IntRange(1, 70).Draw(rt, "more") {
			b.entries = append(b.entries, fmt.Appendf(nil, "fork %d", i))
		}
		size := rapid.IntRange(1, min(len(a.entries), len(b.entries))).Draw(rt, "size")
		e := fork(a, b, size)
		again, err := evidence.Parse(e.Bytes())
		if diff := cmp.Diff(e, again); err != nil || diff != "" {
			rt.Fatalf("%v %s", err, diff)
		}
		if _, err := again.Verify(policy); (err == nil) != (size > at) || err != nil && !errors.Is(err, evidence.ErrNotEvidence) {
			rt.Fatalf("fork at %d, size %d: %v", at, size, err)
		}
	})
}

func TestParseRefuses(t *testing.T) {
	good := string(fork(newLog(5), newLog(3).grown(5, "fork"), 5).Bytes())
	leaf := string(alone(newLog(10), base+"/1", 9).Bytes())
	line := func(text, prefix string) string {
		at := strings.Index(text, prefix)
		return text[at : at+strings.Index(text[at:], "\n")+1]
	}
	second, path := line(good, "second "), line(leaf, "path ")
	for name, text := range map[string]string{
		"empty":                  "",
		"another version":        strings.Replace(good, "/v1", "/v2", 1),
		"no note":                good[:strings.Index(good, "\n\n")],
		"one note and a half":    good[:strings.LastIndex(good, "\n\n")],
		"note is cut":            good[:len(good)-2],
		"three notes":            good + "\n" + leaf[strings.Index(leaf, "\n\n")+2:],
		"unknown line":           strings.Replace(good, "size", "sizes", 1),
		"no size":                strings.Replace(good, "size 5\n", "", 1),
		"leading zero":           strings.Replace(good, "size 5", "size 05", 1),
		"negative":               strings.Replace(good, "size 5", "size -5", 1),
		"two sizes":              strings.Replace(good, "size 5\n", "size 5\nsize 5\n", 1),
		"size after the hashes":  strings.Replace(good, "size 5\n"+second, second+"size 5\n", 1),
		"size of one":            strings.Replace(leaf, "leaf", "size 5\nleaf", 1),
		"short hash":             strings.Replace(good, second, "second AAAA\n", 1),
		"hash is no base64":      strings.Replace(good, second, "second !\n", 1),
		"too many hashes":        strings.Replace(good, second, strings.Repeat(second, 65), 1),
		"path before its leaf":   strings.Replace(leaf, "leaf", path+"leaf", 1),
		"three leaves":           strings.Replace(leaf, line(leaf, "leaf"), strings.Repeat(line(leaf, "leaf"), 3), 1),
		"leaf without entry":     strings.Replace(leaf, line(leaf, "leaf"), "leaf 9\n", 1),
		"leaf is too large":      strings.Replace(leaf, line(leaf, "leaf"), "leaf 9 "+strings.Repeat("AAAA", 22_000)+"\n", 1),
		"line breaks of DOS":     strings.ReplaceAll(good, "\n", "\r\n"),
		"empty line at its head": "\n" + good,
		"too large":              good + strings.Repeat(" ", evidence.MaxSize),
	} {
		if text == good || text == leaf {
			t.Errorf("%s: nothing changed", name)
		}
		if e, err := evidence.Parse([]byte(text)); !errors.Is(err, evidence.ErrFormat) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

// TestLargest: the largest notes, entries and proofs fit.
func TestLargest(t *testing.T) {
	large := func() *checkpoint.Note {
		n := newLog(2).note()
		for i := range checkpoint.MaxSignatures {
			n.Add(checkpoint.Signature{Name: fmt.Sprint("n", i), Bytes: make([]byte, 2428)})
		}
		return n
	}
	e := &evidence.Evidence{First: large(), Second: large(), Size: 1, FirstProof: make([]chain.Hash, 64), SecondProof: make([]chain.Hash, 64)}
	for range 2 {
		e.Leaves = append(e.Leaves, evidence.Leaf{Entry: make([]byte, 65_535), Path: make([]chain.Hash, 63)})
	}
	if _, err := evidence.Parse(e.Bytes()); err != nil {
		t.Error(err)
	}
}

func TestSplitOrigin(t *testing.T) {
	for origin, want := range map[string]struct {
		base  string
		epoch uint64
		ok    bool
	}{
		base + "/0":       {base, 0, true},
		"audit.example/7": {"audit.example", 7, true},
		"audit.example":   {}, "a/": {}, "/1": {}, "a/01": {}, "a/-1": {}, "a/+1": {}, "a/1x": {}, "a/18446744073709551616": {},
	} {
		if b, e, ok := evidence.SplitOrigin(origin); b != want.base || e != want.epoch || ok != want.ok {
			t.Errorf("%s: %q, %d, %v", origin, b, e, ok)
		}
	}
	for origin, want := range map[string]bool{
		base + "/0": true, base: false, "Exonode/e0e1e2e30405060708090a0b0c0d0e0f/0": false, "exonode/E0e1e2e30405060708090a0b0c0d0e0f/0": false,
		"exonode/e0e1/0": false, "x" + base + "/0": false,
	} {
		if id, ok := evidence.ChainID(origin); ok != want || ok && id != chainID {
			t.Errorf("%s: %v, %v", origin, id, ok)
		}
	}
}

func FuzzEvidence(f *testing.F) {
	for _, e := range genuine() {
		f.Add(e.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := evidence.Parse(data)
		if err != nil {
			return
		}
		if again := e.Bytes(); !bytes.Equal(again, data) {
			t.Fatalf("accepted %q, wrote %q", data, again)
		}
		// It says something of anything that parses, and does not panic.
		_, _ = e.Verify(policy)
	})
}
