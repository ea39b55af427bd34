package python

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/receipt"
)

// TestEd25519 holds verify.py's Ed25519 to crypto/ed25519.
func TestEd25519(t *testing.T) {
	v := start(t)
	verify := func(public, message, signature []byte) bool {
		t.Helper()
		a := v.ask("ed25519_verify", public, message, signature)
		if a.Bad != "" {
			t.Fatal(a.Bad)
		}
		return string(a.Value) == "true"
	}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 20 {
		seed, message := make([]byte, ed25519.SeedSize), make([]byte, i*i)
		for _, b := range [][]byte{seed, message} {
			for k := range b {
				b[k] = byte(r.Uint32())
			}
		}
		key := ed25519.NewKeyFromSeed(seed)
		public, signature := []byte(key.Public().(ed25519.PublicKey)), ed25519.Sign(key, message)
		if !verify(public, message, signature) {
			t.Fatalf("key %x: a genuine signature of %x is refused", seed, message)
		}
		for range 6 {
			p, m, s := slices.Clone(public), append(slices.Clone(message), 'x')[:len(message)], slices.Clone(signature)
			b := [][]byte{p, m, s}[r.IntN(3)]
			if len(b) == 0 {
				continue
			}
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			if got := verify(p, m, s); got || ed25519.Verify(p, m, s) {
				t.Fatalf("key %x, message %x: %x passes", p, m, s)
			}
		}
		// The same signature with another s: its order added.
		order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
		s := slices.Clone(signature[32:])
		slices.Reverse(s)
		sum := order.Add(order, new(big.Int).SetBytes(s)).FillBytes(make([]byte, 32))
		slices.Reverse(sum)
		if verify(public, message, slices.Concat(signature[:32], sum)) {
			t.Fatal("a signature with s beyond the order passes")
		}
		for _, n := range []int{0, 32, 63} {
			if verify(public, message, signature[:n]) {
				t.Fatalf("%d bytes of a signature pass", n)
			}
		}
	}
}

// TestGoldenSigned holds verify.py to the vectors of checkpoints and receipts.
func TestGoldenSigned(t *testing.T) {
	v := start(t)
	var c struct{ Note, Policy string }
	golden(t, "../../chain/checkpoint/testdata/vectors.json", &c)
	a := v.ask("policy", []byte(c.Policy), []byte(c.Note))
	if a.Bad != "" || !strings.Contains(a.Said, "70000 entries") || !strings.Contains(a.Said, "passed over: an ML-DSA-44 signature of node-1.example/mldsa") {
		t.Errorf("%+v", a)
	}
	var r struct {
		Policy   string
		Receipts map[string]string
	}
	golden(t, "../../chain/receipt/testdata/receipts.json", &r)
	if len(r.Receipts) < 4 {
		t.Fatalf("%d receipts", len(r.Receipts))
	}
	for name, text := range r.Receipts {
		a := v.ask("receipt", []byte(text), []byte(r.Policy), nil)
		if alone := strings.Contains(name, "leaf alone"); alone != (a.Bad != "") || alone && !strings.Contains(a.Bad, "no header") {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// signers are a log and three nodes; the third has an ML-DSA-44 key alone.
type signers struct {
	log    *checkpoint.Signer
	nodes  []*checkpoint.Signer
	policy string
}

const origin = "exonode/e0e1e200000000000000000000000000/0"

func newSigners(t *testing.T) *signers {
	t.Helper()
	must := func(s *checkpoint.Signer, err error) *checkpoint.Signer {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	seed := func(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }
	s := &signers{log: must(checkpoint.NewLogSigner(origin, ed25519.NewKeyFromSeed(seed(1))))}
	for i := range byte(2) {
		s.nodes = append(s.nodes, must(checkpoint.NewCosigner(fmt.Sprint("node/", i), ed25519.NewKeyFromSeed(seed(2+i)))))
	}
	s.nodes = append(s.nodes, must(checkpoint.NewMLDSACosigner("node/2", seed(9))))
	key := s.log.Key()
	s.policy = "# three nodes\nlog " + key.String() + " https://example.org/\n"
	for i, n := range s.nodes {
		key := n.Key()
		s.policy += fmt.Sprintf("witness n%d-key %s\ngroup n%d any n%d-key\n", i, key.String(), i, i)
	}
	s.policy += "group voters 2 n0 n1\tn2\nquorum voters\n"
	return s
}

func (s *signers) note(t *testing.T, size uint64, root chain.Hash, by ...*checkpoint.Signer) *checkpoint.Note {
	t.Helper()
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: origin, Size: size, Root: root}}
	for _, by := range by {
		signature, err := by.Sign(&n.Checkpoint, 1_780_000_000)
		if err != nil {
			t.Fatal(err)
		}
		n.Add(signature)
	}
	return n
}

// TestCheckpoint holds checkpoints against an export.
func TestCheckpoint(t *testing.T) {
	long(t)
	v, m, s := start(t), sample(t), newSigners(t)
	data, _ := m.binary()
	check := func(what string, status int, want string, note []byte) {
		t.Helper()
		a := v.ask("checkpoint", data, note, []byte(s.policy))
		if (a.Bad != "") != (status == 1) || !strings.Contains(a.Said+a.Bad, want) {
			t.Errorf("%s: no %q in:\n%s%s", what, want, a.Said, a.Bad)
		}
	}
	quorum := []*checkpoint.Signer{s.log, s.nodes[0], s.nodes[1]}
	root := func(n uint64) chain.Hash { tree := treeOf(m.recs[:n]); return tree.Root() }
	for _, n := range []uint64{0, 1, 5, 8, m.head.Size} {
		check("a checkpoint", 0, fmt.Sprintf("root is that of the export's first %d entries", n), s.note(t, n, root(n), quorum...).Bytes())
	}
	check("a root of another chain", 1, "root is not that of the export's first 5 entries", s.note(t, 5, root(4), quorum...).Bytes())
	check("a longer chain", 1, "make a new export", s.note(t, m.head.Size+1, root(4), quorum...).Bytes())
	check("no quorum", 1, "quorum is not reached by those of n0-key", s.note(t, 5, root(5), s.log, s.nodes[0]).Bytes())
	check("a quorum with ML-DSA-44", 1, "passed over: an ML-DSA-44 signature", s.note(t, 5, root(5), s.log, s.nodes[0], s.nodes[2]).Bytes())
	check("ML-DSA-44 above a quorum", 0, "cosigned by n0-key, n1-key", s.note(t, 5, root(5), append(quorum, s.nodes[2])...).Bytes())
	check("no log", 1, "no signature that can be checked of a log", s.note(t, 5, root(5), s.nodes...).Bytes())
	for i := range quorum {
		note := s.note(t, 5, root(5), quorum...)
		note.Signatures[i].Bytes[20]++
		check("a forged signature", 1, "is not genuine", note.Bytes())
		note = s.note(t, 5, root(5), quorum...)
		forged := note.Signatures[i]
		forged.Bytes = slices.Clone(forged.Bytes)
		forged.Bytes[20]++
		check("a forged signature behind a genuine one", 1, "is not genuine", append(note.Bytes(), forged.Line()...))
	}
	note := s.note(t, 5, root(5), quorum...)
	note.Signatures[1].Bytes[7]++
	check("another time", 1, "is not genuine", note.Bytes())
	text := string(s.note(t, 5, root(5), quorum...).Bytes())
	for what, note := range map[string]string{
		"another size": strings.Replace(text, "\n5\n", "\n6\n", 1), "a leading zero": strings.Replace(text, "\n5\n", "\n05\n", 1),
		"a carriage return": strings.Replace(text, "\n", "\r\n", 1), "no end": strings.TrimSuffix(text, "\n"), "no signatures": text[:strings.Index(text, "\n\n")+2],
		"another dash": strings.Replace(text, "—", "-", 1), "nothing": "", "other white space": strings.Replace(text, "— node", "—  node", 1),
	} {
		if note == text {
			t.Errorf("%s changes nothing", what)
		}
		if _, err := checkpoint.ParseNote([]byte(note)); err == nil && what != "another size" {
			t.Errorf("%s: package checkpoint takes it", what)
		}
		check(what, 1, "", []byte(note))
	}
	export, policy := file(t, data), file(t, []byte(s.policy))
	sound, forked := s.note(t, 5, root(5), quorum...), s.note(t, 5, root(4), quorum...)
	run(t, 0, export, "--checkpoint", file(t, sound.Bytes()), "--policy", policy)
	run(t, 1, export, "--checkpoint", file(t, forked.Bytes()), "--policy", policy)
}

// TestPolicies reads policies as package checkpoint does.
func TestPolicies(t *testing.T) {
	v, s := start(t), newSigners(t)
	note := s.note(t, 5, chain.Hash{1}, s.log, s.nodes[0], s.nodes[1]).Bytes()
	key := func(s *checkpoint.Signer) string { k := s.Key(); return k.String() }
	log, a, b := "log "+key(s.log)+"\n", "witness a "+key(s.nodes[0])+"\n", "witness b "+key(s.nodes[1])+"\n"
	absent := "witness c " + key(s.nodes[2]) + "\n"
	taken := map[bool]int{}
	for _, policy := range []string{
		s.policy, log + "quorum none\n", log + a + "quorum a\n", log + a + b + "group g all a b\nquorum g\n", log + a + absent + "group g any a c\nquorum g\n",
		log + a + absent + "group g all a c\nquorum g\n", log + absent + "quorum c\n", a + "quorum a\n", log, "", log + "quorum none", " # x\n\n\t" + log + "quorum none\n",
		log + "quorum a\n" + a, log + a + a + "quorum a\n", log + a + "group a any a\nquorum a\n", log + a + "group g 2 a\nquorum g\n", log + a + "group g 0 a\nquorum g\n",
		log + a + "group g 01 a\nquorum g\n", log + a + "group g any a a\nquorum g\n", log + a + "group g any a\ngroup h any a\nquorum g\n", log + a + "group g any\nquorum g\n",
		log + "quorum none\nquorum none\n", log + "witness none " + key(s.nodes[0]) + "\nquorum none\n", log + log + "quorum none\n", log + "nonsense\nquorum none\n",
		log + "quorum none\r\n", "log " + key(s.nodes[0]) + "\nquorum none\n", log + "witness a " + key(s.log) + "\nquorum a\n", log + "group g any none\nquorum g\n",
		strings.Replace(log, "/0+", "/1+", 1) + "quorum none\n", log + a + b + "group g 1 a\ngroup h all g b\nquorum h\n", log + "quorum\n", log + a + "group g x a\nquorum a\n",
	} {
		p, err := checkpoint.ParsePolicy([]byte(policy))
		if err == nil {
			n, parse := checkpoint.ParseNote(note)
			if parse != nil {
				t.Fatal(parse)
			}
			_, err = p.Verify(n)
		}
		if a := v.ask("policy", []byte(policy), note); (a.Bad == "") != (err == nil) {
			t.Errorf("%s\npackage checkpoint: %v\nverify.py: %s", policy, err, a.Bad)
		}
		taken[err == nil]++
	}
	if taken[true] < 5 || taken[false] < 5 {
		t.Errorf("of the policies %d were taken, and %d not", taken[true], taken[false])
	}
}

// TestReceipts changes receipts.
func TestReceipts(t *testing.T) {
	long(t)
	v, m, s := start(t), sample(t), newSigners(t)
	data, _ := m.binary()
	tiles := m.tree.Reader(nil)
	note := s.note(t, m.head.Size, m.tree.Root(), s.log, s.nodes[0], s.nodes[1])
	ask := func(r *receipt.Receipt, export []byte) answer {
		t.Helper()
		var e any
		if export != nil {
			e = export
		}
		return v.ask("receipt", r.Bytes(), []byte(s.policy), e)
	}
	for i := range m.recs {
		rec := &m.recs[i]
		r, err := receipt.Make(tiles, rec.Header, rec.Envelope, note)
		if err != nil {
			t.Fatal(err)
		}
		for _, export := range [][]byte{nil, data} {
			a := ask(r, export)
			if want := map[bool]string{true: "payload is genuine", false: "has no payload"}[rec.Envelope != nil]; a.Bad != "" || !strings.Contains(a.Said, want) {
				t.Errorf("entry %d: %+v", i, a)
			}
		}
		leaf := *r
		leaf.Header, leaf.Envelope = nil, nil
		if a := ask(&leaf, data); a.Bad != "" {
			t.Errorf("entry %d, its header from the export: %s", i, a.Bad)
		}
		if i%3 > 0 {
			continue
		}
		other := &m.recs[(i+1)%len(m.recs)]
		for what, change := range map[string]func(r *receipt.Receipt){
			"another index":        func(r *receipt.Receipt) { r.Index = other.Sequence },
			"an index beyond":      func(r *receipt.Receipt) { r.Index = m.head.Size },
			"another header":       func(r *receipt.Receipt) { r.Header = other.Header },
			"another envelope":     func(r *receipt.Receipt) { r.Envelope = []byte("x") },
			"another proof":        func(r *receipt.Receipt) { r.Proof[0][0]++ },
			"a hash too few":       func(r *receipt.Receipt) { r.Proof = r.Proof[1:] },
			"a hash too many":      func(r *receipt.Receipt) { r.Proof = append(r.Proof, chain.Hash{}) },
			"a checkpoint too few": func(r *receipt.Receipt) { r.Note = s.note(t, m.head.Size, m.tree.Root(), s.log) },
			"another root":         func(r *receipt.Receipt) { r.Note = s.note(t, m.head.Size, chain.Hash{}, s.log, s.nodes[0], s.nodes[1]) },
			"no header, no export": func(r *receipt.Receipt) { r.Header, r.Envelope = nil, nil },
			"a checkpoint too early": func(r *receipt.Receipt) {
				n := max(r.Index, 1) // no checkpoint is too early for entry 0: this one has another root
				r.Note = s.note(t, n, chain.Hash{1}, s.log, s.nodes[0], s.nodes[1])
			},
		} {
			bad := *r
			bad.Proof = slices.Clone(r.Proof)
			change(&bad)
			if a := ask(&bad, nil); a.Bad == "" {
				t.Errorf("entry %d with %s passes", i, what)
			}
		}
	}
	r, err := receipt.Make(tiles, m.recs[1].Header, m.recs[1].Envelope, note)
	if err != nil {
		t.Fatal(err)
	}
	text := string(r.Bytes())
	fork := short(t)
	fork.add("another", nil)
	forked, _ := fork.binary()
	r3, err := receipt.Make(tiles, m.recs[3].Header, nil, note)
	if err != nil {
		t.Fatal(err)
	}
	if a := ask(r3, forked); a.Entry == nil || *a.Entry != 3 {
		t.Errorf("a receipt of another chain than the export's: %+v", a)
	}
	line := base64.StdEncoding.EncodeToString(r.Proof[0][:])
	for what, c := range map[string]struct{ old, new string }{
		"another first line": {"@v1", "@v2"}, "another word": {"\nindex 1\n", "\nIndex 1\n"}, "a leading zero": {"\nindex 1\n", "\nindex 01\n"},
		"no index": {"\nindex 1\n", "\n"}, "a short hash": {line, line[:40]}, "a carriage return": {"\nindex 1\n", "\r\nindex 1\n"},
		"extra that is no map": {"\nextra ", "\nextra AA"},
	} {
		changed := strings.Replace(text, c.old, c.new, 1)
		if changed == text {
			t.Errorf("%s changes nothing", what)
		}
		if _, err := receipt.Parse([]byte(changed)); err == nil {
			t.Errorf("%s: package receipt takes it", what)
		}
		if a := v.ask("receipt", []byte(changed), []byte(s.policy), nil); a.Bad == "" {
			t.Errorf("%s passes", what)
		}
	}
	policy := file(t, []byte(s.policy))
	if out := run(t, 0, "--receipt", file(t, []byte(text)), "--policy", policy); !strings.Contains(out, "receipt: entry 1, test.event in workspace default") {
		t.Error(out)
	}
	if out := run(t, 1, "--receipt", file(t, []byte(strings.Replace(text, line, line[:len(line)-3]+"AA=", 1))), "--policy", policy); !strings.Contains(out, "verify.py: entry 1: ") && !strings.Contains(out, "not base64") {
		t.Error(out)
	}
}
