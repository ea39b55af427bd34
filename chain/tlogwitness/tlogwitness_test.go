package tlogwitness_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/tlogwitness"
)

// golden is a request as the specification describes it, with a signature that is of no
// key: what is in a note is package checkpoint's.
const golden = `old 20852014
AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=

example.org/log
20852163
QEFCQ0RFRkdISUpLTE1OT1BRUlNUVVZXWFlaW1xdXl8=

` + "\u2014" + ` example.org/log AAAAAQECAw==
`

func hashFrom(b byte) (h chain.Hash) {
	for i := range h {
		h[i] = b + byte(i)
	}
	return h
}

func TestGolden(t *testing.T) {
	r, err := tlogwitness.Parse([]byte(golden))
	if err != nil {
		t.Fatal(err)
	}
	if r.Old != 20852014 || len(r.Proof) != 2 || r.Proof[0] != hashFrom(0) || r.Proof[1] != hashFrom(32) {
		t.Errorf("%+v", r)
	}
	if c := r.Note.Checkpoint; c.Origin != "example.org/log" || c.Size != 20852163 || c.Root != hashFrom(64) || len(r.Note.Signatures) != 1 {
		t.Errorf("%+v", r.Note)
	}
	if got := string(r.Bytes()); got != golden {
		t.Errorf("written again it is\n%s", got)
	}
}

func TestParseRefuses(t *testing.T) {
	line := "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
	for name, b := range map[string]string{
		"empty":             "",
		"no checkpoint":     "old 1\n\n",
		"no empty line":     strings.Replace(golden, "\n\nexample", "\nexample", 1),
		"no old":            strings.Replace(golden, "old 20852014\n", "", 1),
		"another word":      strings.Replace(golden, "old", "new", 1),
		"no size":           strings.Replace(golden, "old 20852014", "old ", 1),
		"a leading zero":    strings.Replace(golden, "old 2", "old 02", 1),
		"a sign":            strings.Replace(golden, "old 2", "old +2", 1),
		"2^63":              strings.Replace(golden, "old 20852014", "old 9223372036854775808", 1),
		"a space":           strings.Replace(golden, "old 2", "old  2", 1),
		"a short hash":      strings.Replace(golden, "AAEC", "", 1),
		"padding bits":      strings.Replace(golden, "Hh8=", "Hh9=", 1),
		"a carriage return": strings.Replace(golden, "Hh8=\n", "Hh8=\r\n", 1),
		"64 hashes":         strings.Replace(golden, line, strings.Repeat(line, 63), 1),
		"too large":         golden + strings.Repeat("x", tlogwitness.MaxSize),
	} {
		if r, err := tlogwitness.Parse([]byte(b)); !errors.Is(err, tlogwitness.ErrFormat) || r != nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if _, err := tlogwitness.Parse([]byte(strings.Replace(golden, line, strings.Repeat(line, 62), 1))); err != nil {
		t.Errorf("63 hashes: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(golden))
	f.Add([]byte("old 0\n\n" + golden[strings.Index(golden, "example"):]))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := tlogwitness.Parse(b)
		if err != nil {
			if !errors.Is(err, tlogwitness.ErrFormat) {
				t.Errorf("error of no class: %v", err)
			}
			return
		}
		again, err := tlogwitness.Parse(r.Bytes())
		if err != nil || !bytes.Equal(again.Bytes(), r.Bytes()) {
			t.Errorf("written again it is another: %v", err)
		}
	})
}
