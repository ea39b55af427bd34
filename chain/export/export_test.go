package export_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/export"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testID = chain.ID{1, 2, 3}

// records makes a chain of n entries with payloads of several kinds, one of
// them redacted, and one escalation.
func records(t testing.TB, n int) []chain.Record {
	t.Helper()
	var recs []chain.Record
	var head chain.Head
	add := func(e chain.Event, v *chain.Verdict) *chain.Record {
		e.SetDefaults()
		s, err := chain.Seal(&chain.SealInput{
			ChainID: testID, Prev: head, Stamp: 1_790_000_000_000_000_000 + int64(head.Size), Event: &e, Principal: "local",
			Salt: [32]byte{byte(head.Size)}, Verdict: v, SealingNode: "node-1",
		})
		if err != nil {
			t.Fatal(err)
		}
		head = s.Head
		recs = append(recs, s.Record)
		return &recs[len(recs)-1]
	}
	system := func(kind, id, payload string) *chain.Record {
		return add(chain.Event{Workspace: "system", Source: "exonode:node", ID: id, Kind: kind, Payload: []byte(payload)}, nil)
	}
	system("chain.genesis", "g", "{}")
	for i := 1; i < n-2; i++ {
		e := chain.Event{Workspace: "default", Source: "test", ID: fmt.Sprint(i), Kind: "test.event"}
		var v *chain.Verdict
		switch i % 4 {
		case 0:
			e.Payload = []byte(`{ "html": "<&>", "n": 12345678901234567890 }`)
			v = &chain.Verdict{Gate: "agent.spawn", Decision: chain.Warn, Effective: chain.Effect{0, 1, 2000, 5500, 10000}, Reasons: []string{"a"},
				Declared: &chain.Effect{1}, Rules: []chain.RuleOutcome{{ID: "r", Severity: "warning"}}, Counts: []chain.Count{{Name: "c", Value: 2}}}
		case 1:
			e.Payload, e.ContentType = []byte("text <b>"), "text/plain"
			e.Extensions = []chain.Extension{{Name: "a", Value: int64(-1)}, {Name: "b", Value: true}, {Name: "c", Value: "x"}}
			e.ClientTime = 1
		case 2:
			e.Payload, e.ContentType = []byte{0, 1, 0xff}, "application/octet-stream"
		}
		add(e, v)
	}
	if n < 6 {
		return recs
	}
	env := chain.Envelope{Payload: []byte(`{"held":"back"}`)}
	beside, err := env.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	system("governance.escalate", "e", fmt.Sprintf(`{"envelope_hash":"%v"}`, chain.EnvelopeHash(beside))).Beside = beside
	system("chain.redact", "r", `{"target_seq":2}`)
	recs[2].Envelope = nil
	return recs
}

func write(t testing.TB, format export.Format, info export.Info, recs []chain.Record) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := export.NewWriter(&buf, format, info)
	if err != nil {
		t.Fatal(err)
	}
	for i := range recs {
		if err := w.Write(&recs[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func read(t testing.TB, r io.Reader) *export.Reader {
	t.Helper()
	x, err := export.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// startAt returns the point before entry n.
func startAt(t testing.TB, recs []chain.Record, n int) *chain.Start {
	t.Helper()
	r, err := chain.Verify(t.Context(), source(recs[:n]), chain.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r.Start()
}

// source is a chain in memory.
type source []chain.Record

func (s source) Size() uint64 { return uint64(len(s)) }

func (s source) Records(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		for _, r := range s[from:to] {
			if !yield(r, nil) {
				return
			}
		}
	}
}

var formats = map[string]export.Format{"binary": export.Binary, "json": export.JSONLines}

func TestRoundTrip(t *testing.T) {
	for name, format := range formats {
		for _, n := range []int{0, 1, 2, 10, 300} {
			t.Run(fmt.Sprint(name, n), func(t *testing.T) {
				var recs []chain.Record
				if n > 0 {
					recs = records(t, n)
				}
				data := write(t, format, export.Info{ChainID: testID, To: uint64(len(recs))}, recs)
				x := read(t, iotest.OneByteReader(bytes.NewReader(data)))
				report, err := export.Verify(t.Context(), x, chain.VerifyOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if report.Entries != uint64(len(recs)) || x.Info().ChainID != testID {
					t.Errorf("%+v of %+v", report, x.Info())
				}
				x = read(t, bytes.NewReader(data))
				i := 0
				for r, err := range x.Records(t.Context(), 0, x.Size()) {
					if err != nil {
						t.Fatal(err)
					}
					if r.Sequence != recs[i].Sequence || !bytes.Equal(r.Header, recs[i].Header) ||
						!bytes.Equal(r.Envelope, recs[i].Envelope) || !bytes.Equal(r.Beside, recs[i].Beside) {
						t.Fatalf("entry %d changed", i)
					}
					i++
				}
				if trailer, err := x.Trailer(); i != len(recs) || err != nil || trailer.Root != report.Root {
					t.Errorf("%d entries, trailer %+v, %v", i, trailer, err)
				}
			})
		}
	}
}

func TestRange(t *testing.T) {
	recs := records(t, 300)
	whole, err := chain.Verify(t.Context(), source(recs), chain.VerifyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, format := range formats {
		info := export.Info{ChainID: testID, From: 270, To: 300, Start: startAt(t, withoutRedaction(t, recs), 270)}
		data := write(t, format, info, recs[270:])
		report, err := export.Verify(t.Context(), read(t, bytes.NewReader(data)), chain.VerifyOptions{})
		if err != nil || report.Entries != 30 || report.Root != whole.Root || report.Head != whole.Head {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
		// From a trusted start inside of the range.
		start := startAt(t, withoutRedaction(t, recs), 280)
		report, err = export.Verify(t.Context(), read(t, bytes.NewReader(data)), chain.VerifyOptions{Start: start})
		if err != nil || report.Entries != 20 || report.Root != whole.Root {
			t.Errorf("%s: %+v, %v", name, report, err)
		}
		// From before it.
		start = startAt(t, withoutRedaction(t, recs), 100)
		if _, err = export.Verify(t.Context(), read(t, bytes.NewReader(data)), chain.VerifyOptions{Start: start}); !errors.Is(err, export.ErrOrder) {
			t.Errorf("%s: a start before the range: %v", name, err)
		}
	}
	if _, err := export.NewWriter(io.Discard, export.Binary, export.Info{From: 5, To: 6}); err == nil {
		t.Error("a range without its start was begun")
	}
}

// withoutRedaction gives entry 2 its envelope back, so that a prefix verifies.
func withoutRedaction(t *testing.T, recs []chain.Record) []chain.Record {
	t.Helper()
	recs = append([]chain.Record(nil), recs...)
	h, err := chain.DecodeHeader(recs[2].Header)
	if err != nil {
		t.Fatal(err)
	}
	env := chain.Envelope{Payload: []byte{0, 1, 0xff}, Salt: [32]byte{2}}
	if recs[2].Envelope, err = env.MarshalBinary(); err != nil {
		t.Fatal(err)
	}
	if chain.EnvelopeHash(recs[2].Envelope) != h.Envelope.Hash {
		t.Fatal("not the envelope of entry 2")
	}
	return recs
}

// TestEveryByte changes an export at every byte (of the JSON form, every fourth),
// and cuts it at every fifth: verification fails.
func TestEveryByte(t *testing.T) {
	recs := records(t, 8)
	for name, format := range formats {
		data := write(t, format, export.Info{ChainID: testID, To: uint64(len(recs))}, recs)
		check := func(data []byte) error {
			x, err := export.NewReader(bytes.NewReader(data))
			if err != nil {
				return err
			}
			_, err = export.Verify(t.Context(), x, chain.VerifyOptions{Workers: 1})
			return err
		}
		for i := range data {
			// The JSON form is longer, and slower to read.
			if format == export.JSONLines && i%4 != 0 {
				continue
			}
			old := data[i]
			data[i] ^= [...]byte{0x20, 0x01, 0x80}[i%3]
			if err := check(data); err == nil {
				t.Errorf("%s: byte %d of %d, %q to %q, was not noticed: %.60q", name, i, len(data), old, data[i], data[max(0, i-30):])
			}
			data[i] = old
			if i%5 != 0 && i != len(data)-1 {
				continue
			}
			if err := check(data[:i]); err == nil {
				t.Errorf("%s: the first %d of %d bytes verified", name, i, len(data))
			}
		}
		if err := check(append(data[:len(data):len(data)], 'x')); err == nil {
			t.Errorf("%s: data after the end was not noticed", name)
		}
	}
}

func TestLyingView(t *testing.T) {
	recs := records(t, 10)
	text := string(write(t, export.JSONLines, export.Info{ChainID: testID, To: 10}, recs))
	tests := []struct {
		name, old, new string
		bad            bool
	}{
		{"principal", `"principal":"local"`, `"principal":"alice"`, true},
		{"decision", `"decision":"warn"`, `"decision":"permit"`, true},
		{"order", `"source":"test","id":"4"`, `"id":"4","source":"test"`, true},
		{"escapes", `text <b>`, `text \u003cb>`, true},
		{"large number", `12345678901234567890`, `12345678901234567891`, true},
	}
	for _, tt := range tests {
		if !strings.Contains(text, tt.old) {
			t.Fatalf("%s: no %s in the export", tt.name, tt.old)
		}
		_, err := export.Verify(t.Context(), read(t, strings.NewReader(strings.Replace(text, tt.old, tt.new, 1))), chain.VerifyOptions{})
		var bad *chain.BadEntryError
		if got := errors.As(err, &bad) && bad.Part == export.PartView; got != tt.bad || !tt.bad && err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestOnlyAsWritten: what says the same in other bytes is refused, at the end of
// the file too.
func TestOnlyAsWritten(t *testing.T) {
	recs := records(t, 10)
	text := string(write(t, export.JSONLines, export.Info{ChainID: testID, To: 10}, recs))
	last := strings.LastIndex(text, "{")
	for name, changed := range map[string]string{
		"comma in the trailer's time": text[:last] + strings.Replace(text[last:], ".", ",", 1),
		"white space in a view":       strings.Replace(text, `"principal":"local"`, `"principal" : "local"`, 1),
		"white space in a line":       strings.Replace(text, `"sequence":3,`, `"sequence": 3,`, 1),
		"end is CR":                   text[:len(text)-1] + "\r",
		"end is a space":              text[:len(text)-1] + " ",
		"end is CR LF":                text[:len(text)-1] + "\r\n",
		"no end":                      text[:len(text)-1],
		"a second end":                text + "\n",
		"order in the trailer":        text[:last] + strings.Replace(text[last:], `"size":10,`, ``, 1)[:len(text)-last-12] + `,"size":10}` + "\n",
	} {
		if changed == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		_, err := export.Verify(t.Context(), read(t, strings.NewReader(changed)), chain.VerifyOptions{})
		if !errors.Is(err, export.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWriterRefuses(t *testing.T) {
	recs := records(t, 10)
	w, err := export.NewWriter(io.Discard, export.Binary, export.Info{To: 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&recs[1]); !errors.Is(err, export.ErrOrder) {
		t.Errorf("entry 1 first: %v", err)
	}
	w, err = export.NewWriter(io.Discard, export.Binary, export.Info{To: 10})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(&recs[0]); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Close(); !errors.Is(err, export.ErrIncomplete) {
			t.Errorf("closed early: %v", err)
		}
	}
	broken := errors.New("disk full")
	w, err = export.NewWriter(failingWriter{broken}, export.JSONLines, export.Info{To: 0})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, broken) {
		t.Errorf("a failing disk: %v", err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestNotAnExport(t *testing.T) {
	for _, s := range []string{"", "x", "{}", "{", "exonode-export/2\n", `{"format":"other"}`, "exonode-export/1\n\xff\xff\xff\xff", "exonode-export/1\n\x03\xff\xff\xff"} {
		if _, err := export.NewReader(strings.NewReader(s)); !errors.Is(err, export.ErrFormat) {
			t.Errorf("%q: %v", s, err)
		}
	}
	broken := errors.New("cable unplugged")
	if _, err := export.NewReader(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a read error became %v", err)
	}
}

func TestGolden(t *testing.T) {
	recs := records(t, 8)
	for name, format := range formats {
		path := "../testdata/export." + map[string]string{"binary": "bin", "json": "jsonl"}[name]
		got := write(t, format, export.Info{ChainID: testID, To: uint64(len(recs))}, recs)
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
			t.Errorf("%s: the format changed; if that is wanted, run the test with -update", path)
		}
	}
}

// FuzzReader: no input makes the reader panic, and a binary export that verifies
// is what the writer writes.
func FuzzReader(f *testing.F) {
	recs := records(f, 8)
	for _, format := range formats {
		f.Add(write(f, format, export.Info{ChainID: testID, To: uint64(len(recs))}, recs))
		f.Add(write(f, format, export.Info{ChainID: testID}, nil))
		f.Add(write(f, format, export.Info{ChainID: testID, From: 1, To: 2, Start: startAt(f, recs, 1)}, recs[1:2]))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := export.NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		if _, err := export.Verify(t.Context(), x, chain.VerifyOptions{Workers: 1}); err != nil || data[0] == '{' {
			return
		}
		x = read(t, bytes.NewReader(data))
		var out bytes.Buffer
		w, err := export.NewWriter(&out, export.Binary, x.Info())
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range x.Records(t.Context(), x.Info().From, x.Info().To) {
			if err != nil {
				t.Fatal(err)
			}
			if err := w.Write(&r); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), data) {
			t.Fatalf("accepted %x, wrote %x", data, out.Bytes())
		}
	})
}
