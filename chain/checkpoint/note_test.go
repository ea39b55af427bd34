package checkpoint_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

// TestEveryBit flips each bit of a signed note: none is still what the keys signed.
func TestEveryBit(t *testing.T) {
	n := signedNote(t, logSigner(t, origin, 1), cosigner(t, "node-1.example/cosign", 2))
	keys := []checkpoint.Key{logKey(t), cosigner(t, "node-1.example/cosign", 2).Key()}
	b := n.Bytes()
	if by, err := n.Verify(keys...); err != nil || len(by) != len(keys) {
		t.Fatalf("the note itself: %v, %v", by, err)
	}
	for i := range len(b) * 8 {
		bad := slices.Clone(b)
		bad[i/8] ^= 1 << (i % 8)
		n, err := checkpoint.ParseNote(bad)
		if err != nil {
			if !errors.Is(err, checkpoint.ErrFormat) {
				t.Errorf("bit %d: %v", i, err)
			}
			continue
		}
		if by, err := n.Verify(keys...); err == nil && len(by) == len(keys) {
			t.Errorf("bit %d (byte %q) may be flipped", i, b[i/8])
		}
	}
}

// TestEveryByteOfMLDSA changes each byte of a note that an ML-DSA-44 cosigner signed:
// a verification takes too long for every bit.
func TestEveryByteOfMLDSA(t *testing.T) {
	n, _, _ := goldenNote(t)
	n.Signatures = n.Signatures[2:]
	key := mldsaCosigner(t, "node-1.example/mldsa", 3).Key()
	b := n.Bytes()
	if by, err := n.Verify(key); err != nil || len(by) != 1 {
		t.Fatalf("the note itself: %v, %v", by, err)
	}
	for i := range b {
		bad := slices.Clone(b)
		bad[i] ^= 1 << (i % 7)
		n, err := checkpoint.ParseNote(bad)
		if err != nil {
			continue
		}
		if by, err := n.Verify(key); err == nil && len(by) == 1 {
			t.Errorf("byte %d, %q, may be changed", i, b[i])
		}
	}
}

func logKey(tb testing.TB) checkpoint.Key { return logSigner(tb, origin, 1).Key() }

func TestVerifySignatures(t *testing.T) {
	signer := cosigner(t, "node-1.example/cosign", 2)
	key := signer.Key()
	sign := func(c checkpoint.Checkpoint, time uint64) checkpoint.Signature { return must(signer.Sign(&c, time))(t) }
	older := testCheckpoint()
	older.Size--
	with := func(s ...checkpoint.Signature) *checkpoint.Note {
		return &checkpoint.Note{Checkpoint: testCheckpoint(), Signatures: s}
	}
	good, newer, stale := sign(testCheckpoint(), 1000), sign(testCheckpoint(), 2000), sign(older, 1000)
	renamed := good
	renamed.Name = "node-2.example/cosign"
	otherID := good
	otherID.KeyID++
	short := good
	short.Bytes = short.Bytes[:71]
	for _, test := range []struct {
		name string
		note *checkpoint.Note
		time uint64 // 0: not signed
		err  error
	}{
		{"one", with(good), 1000, nil},
		{"none", with(), 0, nil},
		{"another's name", with(renamed), 0, nil},
		{"another's id", with(otherID), 0, nil},
		{"of another tree", with(stale), 0, checkpoint.ErrSignature},
		{"too short", with(short), 0, checkpoint.ErrSignature},
		{"twice, the newest counts", with(newer, good), 2000, nil},
		{"a forged one after a genuine one", with(good, stale), 0, checkpoint.ErrSignature},
		{"a genuine one after a forged one", with(stale, good), 0, checkpoint.ErrSignature},
	} {
		by, err := test.note.Verify(key)
		if !errors.Is(err, test.err) || (test.err == nil && err != nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.err)
		}
		switch {
		case test.time == 0 && len(by) != 0:
			t.Errorf("%s: verified %v", test.name, by)
		case test.time != 0 && (len(by) != 1 || by[0].Time != test.time):
			t.Errorf("%s: %v, want one of %d", test.name, by, test.time)
		}
	}
}

// TestLogSignsItsOrigin: a log's key does not count for another origin, even with a
// genuine signature.
func TestLogSignsItsOrigin(t *testing.T) {
	other := logSigner(t, "other.example/log", 1)
	c := testCheckpoint()
	if _, err := other.Sign(&c, 0); !errors.Is(err, checkpoint.ErrFormat) {
		t.Errorf("signed for another log: %v", err)
	}
	signature := must(logSigner(t, origin, 1).Sign(&c, 0))(t)
	key := other.Key()
	n := checkpoint.Note{Checkpoint: c, Signatures: []checkpoint.Signature{{Name: key.Name, KeyID: key.ID(), Bytes: signature.Bytes}}}
	if by, err := n.Verify(key); err != nil || len(by) != 0 {
		t.Errorf("%v, %v", by, err)
	}
}

func TestSignerRefuses(t *testing.T) {
	c := testCheckpoint()
	for name, err := range map[string]error{
		"time beyond 2^63":  second(cosigner(t, "n", 2).Sign(&c, 1<<63)),
		"no origin":         second(cosigner(t, "n", 2).Sign(&checkpoint.Checkpoint{Size: 1}, 1)),
		"short key":         second(checkpoint.NewCosigner("n", make([]byte, 32))),
		"short ML-DSA seed": second(checkpoint.NewMLDSACosigner("n", make([]byte, 31))),
		"name with a plus":  second(checkpoint.NewMLDSACosigner("a+b", make([]byte, 32))),
		"no name":           second(checkpoint.NewLogSigner("", make([]byte, 64))),
	} {
		if !errors.Is(err, checkpoint.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestCheckpointRefused(t *testing.T) {
	root := rootBase64
	for name, text := range map[string]string{
		"empty":                  "",
		"no newline at the end":  "o\n1\n" + root,
		"no root":                "o\n1\n",
		"no origin":              "\n1\n" + root + "\n",
		"negative size":          "o\n-1\n" + root + "\n",
		"size with a plus":       "o\n+1\n" + root + "\n",
		"leading zero":           "o\n01\n" + root + "\n",
		"size beyond 2^63":       "o\n9223372036854775808\n" + root + "\n",
		"short root":             "o\n1\n" + root[:40] + "\n",
		"root without padding":   "o\n1\n" + root[:43] + "\n",
		"root with other bits":   "o\n1\n" + root[:42] + "l=\n",
		"root with a line break": "o\n1\n" + root[:4] + "\r" + root[4:] + "\n",
		"empty tree, other root": "o\n0\n" + root + "\n",
		"empty extension":        "o\n1\n" + root + "\n\n",
		"control character":      "o\n1\n" + root + "\na\tb\n",
		"not UTF-8":              "o\xff\n1\n" + root + "\n",
		"long origin":            strings.Repeat("o", 256) + "\n1\n" + root + "\n",
		"long text":              "o\n1\n" + root + "\n" + strings.Repeat("x", checkpoint.MaxText) + "\n",
	} {
		if c, err := checkpoint.Parse(text); !errors.Is(err, checkpoint.ErrFormat) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	for name, c := range map[string]checkpoint.Checkpoint{
		"two lines of origin":    {Origin: "a\nb", Size: 1},
		"two lines of extension": {Origin: "a", Size: 1, Extensions: []string{"b\nc"}},
		"empty extension":        {Origin: "a", Size: 1, Extensions: []string{""}},
		"size beyond 2^63":       {Origin: "a", Size: 1 << 63},
	} {
		if err := c.Validate(); !errors.Is(err, checkpoint.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoteRefused(t *testing.T) {
	good := string(signedNote(t, logSigner(t, origin, 1)).Bytes())
	line := good[strings.Index(good, "— "):]
	for name, text := range map[string]string{
		"empty":                   "",
		"no signature":            strings.TrimSuffix(good, line),
		"no newline at the end":   strings.TrimSuffix(good, "\n"),
		"something after it":      good + "x\n",
		"a hyphen for a dash":     strings.Replace(good, "— ", "- ", 1),
		"text is no checkpoint":   "hello\n\n" + line,
		"other base64":            strings.TrimSuffix(good, "=\n") + "\n",
		"signature without an id": strings.TrimSuffix(good, line) + "— a AAAA\n",
		"too large":               good + strings.Repeat(line, checkpoint.MaxNote/len(line)),
	} {
		if n, err := checkpoint.ParseNote([]byte(text)); !errors.Is(err, checkpoint.ErrFormat) {
			t.Errorf("%s: %+v, %v", name, n, err)
		}
	}
	for name, text := range map[string]string{
		"no newline":    strings.TrimSuffix(line, "\n"),
		"no dash":       strings.TrimPrefix(line, "— "),
		"no name":       "— AAAAAAAA\n",
		"empty name":    "—  AAAAAAAA\n",
		"name with tab": "— a\tb AAAAAAAA\n",
		"only an id":    "— a AAAAAA==\n",
		"empty line":    "\n",
		"too large":     strings.Repeat(line, checkpoint.MaxNote/len(line)+1),
	} {
		if s, err := checkpoint.ParseSignatures([]byte(text)); !errors.Is(err, checkpoint.ErrFormat) {
			t.Errorf("signatures, %s: %+v, %v", name, s, err)
		}
	}
}

func TestSixteenSignatures(t *testing.T) {
	var signers []*checkpoint.Signer
	var keys []checkpoint.Key
	for i := range checkpoint.MaxSignatures {
		s := mldsaCosigner(t, fmt.Sprintf("node-%d", i), byte(i))
		signers, keys = append(signers, s), append(keys, s.Key())
	}
	n := must(checkpoint.ParseNote(signedNote(t, signers...).Bytes()))(t)
	if by, err := n.Verify(keys...); err != nil || len(by) != checkpoint.MaxSignatures {
		t.Errorf("%d, %v", len(by), err)
	}
	n.Add(n.Signatures[3])
	if len(n.Signatures) != checkpoint.MaxSignatures || n.Signatures[15].Name != "node-3" {
		t.Errorf("Add kept the old signature: %d", len(n.Signatures))
	}
}

func TestKeyRefused(t *testing.T) {
	key := logKey(t)
	good := key.String()
	name, rest, _ := strings.Cut(good, "+")
	id, public, _ := strings.Cut(rest, "+")
	unknown := checkpoint.Key{Name: "n", Type: 2, Public: make([]byte, 32)}
	short := checkpoint.Key{Name: "n", Type: checkpoint.MLDSACosigner, Public: make([]byte, 32)}
	for what, vkey := range map[string]string{
		"empty":             "",
		"no id":             name + "+" + public,
		"another's id":      name + "+00000000+" + public,
		"short id":          name + "+" + id[:7] + "+" + public,
		"signed id":         name + "++" + id[:7] + "+" + public,
		"another name":      "x" + good,
		"no name":           "+" + rest,
		"not base64":        name + "+" + id + "+!",
		"no key":            name + "+" + id + "+",
		"line break":        good + "\n",
		"white space":       "a b+" + rest,
		"unknown type":      unknown.String(),
		"of another length": short.String(),
	} {
		if k, err := checkpoint.ParseKey(vkey); !errors.Is(err, checkpoint.ErrFormat) {
			t.Errorf("%s: %v, %v", what, k, err)
		}
	}
	var k checkpoint.Key
	if err := k.UnmarshalText([]byte(good)); err != nil || !k.Equal(&key) {
		t.Errorf("%v, %v", k, err)
	}
}

// TestAnyCheckpoint: what Validate accepts is read back as it was, signed or not, and
// what it refuses is not read back at all.
func TestAnyCheckpoint(t *testing.T) {
	line := rapid.StringMatching(`[ -~é☃\x{0}\x{a}]{0,12}`)
	rapid.Check(t, func(r *rapid.T) {
		c := checkpoint.Checkpoint{
			Origin: line.Draw(r, "origin"), Size: rapid.OneOf(rapid.Uint64(), rapid.Uint64Range(0, 2)).Draw(r, "size"),
			Extensions: rapid.SliceOfN(line, 0, 3).Draw(r, "extensions"),
		}
		copy(c.Root[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(r, "root"))
		if rapid.Bool().Draw(r, "empty root") {
			c.Root = chain.EmptyRoot()
		}
		if len(c.Extensions) == 0 {
			c.Extensions = nil
		}
		got, err := checkpoint.Parse(c.Text())
		if c.Validate() != nil {
			if err == nil && cmp.Equal(got, c) {
				r.Fatalf("read what Validate refuses: %q", c.Text())
			}
			return
		}
		if diff := cmp.Diff(c, got); err != nil || diff != "" {
			r.Fatalf("%v %s", err, diff)
		}
		signer := cosigner(t, "n", 2)
		s, err := signer.Sign(&c, 5)
		if err != nil {
			r.Fatal(err)
		}
		n := &checkpoint.Note{Checkpoint: c, Signatures: []checkpoint.Signature{s}}
		again, err := checkpoint.ParseNote(n.Bytes())
		if diff := cmp.Diff(n, again); err != nil || diff != "" {
			r.Fatalf("%v %s", err, diff)
		}
		if by, err := again.Verify(signer.Key()); err != nil || len(by) != 1 {
			r.Fatalf("%v, %v", by, err)
		}
	})
}

func FuzzNote(f *testing.F) {
	n, _, _ := goldenNote(f)
	f.Add(n.Bytes())
	f.Add(signedNote(f, logSigner(f, origin, 1)).Bytes())
	f.Add([]byte("o\n1\n" + rootBase64 + "\nextension\n\n— a AAAAAAA=\n— a AAAAAAA=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := checkpoint.ParseNote(data)
		if err != nil {
			return
		}
		if again := n.Bytes(); !bytes.Equal(again, data) {
			t.Fatalf("accepted %q, wrote %q", data, again)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	f.Add("o\n1\n" + rootBase64 + "\n")
	f.Add("o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\na\nb\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := checkpoint.Parse(text)
		if err == nil && c.Text() != text {
			t.Fatalf("accepted %q, wrote %q", text, c.Text())
		}
	})
}

func FuzzSignatures(f *testing.F) {
	n, _, _ := goldenNote(f)
	f.Add([]byte(n.Signatures[0].Line() + n.Signatures[1].Line()))
	f.Fuzz(func(t *testing.T, data []byte) {
		signatures, err := checkpoint.ParseSignatures(data)
		if err != nil {
			return
		}
		var again []byte
		for _, s := range signatures {
			again = append(again, s.Line()...)
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("accepted %q, wrote %q", data, again)
		}
	})
}

func FuzzKey(f *testing.F) {
	for _, k := range []checkpoint.Key{logKey(f), cosigner(f, "n", 2).Key(), mldsaCosigner(f, "n", 3).Key()} {
		f.Add(k.String())
	}
	f.Fuzz(func(t *testing.T, vkey string) {
		k, err := checkpoint.ParseKey(vkey)
		if err == nil && k.String() != vkey {
			t.Fatalf("accepted %q, wrote %q", vkey, k.String())
		}
	})
}
