package chain_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
)

// minimalHeader has no optional field.
func minimalHeader() chain.Header {
	return chain.Header{
		Version: chain.FormatVersion, ChainID: testID, Time: 1, Workspace: "w", Source: "s", ID: "i", Kind: "k",
		Principal: "p",
	}
}

// maximalHeader has every field, each at its limit.
func maximalHeader() chain.Header {
	name := func(prefix string, i, size int) string {
		s := fmt.Sprintf("%s%02d", prefix, i)
		return s + strings.Repeat("x", size-len(s))
	}
	h := chain.Header{
		Version: chain.FormatVersion, ChainID: testID, Epoch: math.MaxUint64, Sequence: math.MaxUint64,
		Previous: chain.HeaderHash([]byte("previous")), Time: math.MaxInt64,
		Workspace: strings.Repeat("w", chain.MaxWorkspace), Source: strings.Repeat("s", chain.MaxSource),
		ID: strings.Repeat("ü", chain.MaxID/2), Kind: strings.Repeat("k", chain.MaxKind),
		SchemaVersion: math.MaxUint64, Subject: strings.Repeat("s", chain.MaxSubject),
		Principal: strings.Repeat("p", chain.MaxPrincipal), Credential: strings.Repeat("c", chain.MaxCredential),
		OnBehalfOf: strings.Repeat("o", chain.MaxPrincipal),
		Envelope: chain.EnvelopeRef{
			Hash: chain.EnvelopeHash([]byte("envelope")), Size: math.MaxUint64,
			ContentType: "a/" + strings.Repeat("t", chain.MaxContentType-2),
			DataSchema:  strings.Repeat("d", chain.MaxDataSchema),
		},
		Verdict: &chain.Verdict{
			Gate: strings.Repeat("g", chain.MaxKind), Decision: chain.Emergency, Revision: math.MaxUint64,
			PolicyHash: chain.PolicyHash([]byte("policy")), Declared: &chain.Effect{1, 2, 3, 4, 5},
			Effective: chain.Effect{10000, 10000, 10000, 10000, 10000},
			Profile:   strings.Repeat("p", chain.MaxVerdictName),
			Request:   math.MaxUint64, Permit: math.MaxUint64, Emergency: math.MaxUint64,
		},
		Priority: 1, ClientTime: math.MaxInt64,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		ClientKeyID: strings.Repeat("k", chain.MaxKeyID), SealingNode: strings.Repeat("n", chain.MaxSealingNode),
		Attestation: bytes.Repeat([]byte{0xa7}, chain.MaxAttestation), RaftIndex: math.MaxUint64,
	}
	for i := range chain.MaxVerdictItems {
		h.Verdict.Rules = append(h.Verdict.Rules, chain.RuleOutcome{ID: name("r", i, chain.MaxVerdictName), Severity: "critical", Failed: true})
		h.Verdict.Counts = append(h.Verdict.Counts, chain.Count{Name: name("c", i, chain.MaxVerdictName), Value: math.MaxUint64})
		h.Verdict.Reasons = append(h.Verdict.Reasons, name("z", i, chain.MaxVerdictName))
	}
	for i := range chain.MaxCauses {
		h.Causes = append(h.Causes, math.MaxUint64-chain.MaxCauses+uint64(i))
	}
	left := chain.MaxExtensionsSize - chain.MaxExtensions*chain.MaxExtensionName
	for i := range chain.MaxExtensions {
		n := min(left, chain.MaxExtensionValue)
		h.Extensions = append(h.Extensions, chain.Extension{Name: name("e", i, chain.MaxExtensionName), Value: strings.Repeat("v", n)})
		left -= n
	}
	return h
}

// manyHeader has every field, of moderate size.
func manyHeader() chain.Header {
	h := typicalHeader()
	h.Epoch, h.Credential, h.OnBehalfOf = 2, "token", "alice"
	h.Envelope.DataSchema = "https://example.com/schema"
	h.Verdict.Declared = &chain.Effect{0, 1, 0, 10000, 5}
	h.Verdict.Effective = chain.Effect{2000, 1, 0, 10000, 5}
	h.Verdict.Decision = chain.Warn
	h.Verdict.Rules = []chain.RuleOutcome{{ID: "night", Severity: "advisory"}, {ID: "broken", Severity: "blocking", Failed: true}}
	h.Verdict.Counts = []chain.Count{{Name: "agent.spawn/1h", Value: 17}, {Name: "tool.execute/1m", Value: 0}}
	h.Verdict.Reasons = []string{"novelty>elevate", "rule:night"}
	h.Verdict.Request, h.Verdict.Permit, h.Verdict.Emergency = 7, 8, 9
	h.Causes = []uint64{0, 5, 300}
	h.Priority = 1
	h.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	h.Extensions = []chain.Extension{
		{Name: "a", Value: int64(-5)}, {Name: "bbbb", Value: "text ü"}, {Name: "ccc", Value: true},
		{Name: "dd", Value: false}, {Name: "e", Value: int64(math.MaxInt32)}, {Name: "empty", Value: ""},
	}
	h.ClientKeyID, h.Attestation, h.RaftIndex = "key-1", []byte{1, 2, 3}, 99
	return h
}

func TestHeaderRoundTrip(t *testing.T) {
	for name, h := range map[string]chain.Header{
		"minimal": minimalHeader(), "typical": typicalHeader(), "many": manyHeader(), "maximal": maximalHeader(),
	} {
		t.Run(name, func(t *testing.T) {
			b, err := h.AppendBinary([]byte("prefix"))
			if err != nil {
				t.Fatal(err)
			}
			b = b[len("prefix"):]
			t.Logf("%d bytes", len(b))
			if len(b) > chain.MaxHeaderSize {
				t.Errorf("%d bytes, over the limit", len(b))
			}
			got, err := chain.DecodeHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			clear(b)
			if diff := cmp.Diff(h, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNearMisses changes every byte of a header that has every field, in several
// ways: a decoder refuses the result, or it is another header's only encoding.
func TestNearMisses(t *testing.T) {
	h := manyHeader()
	b, err := h.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for i := range b {
		for _, x := range []byte{1, 2, 4, 8, 16, 32, 64, 128, 255} {
			c := slices.Clone(b)
			c[i] ^= x
			if got, err := chain.DecodeHeader(c); err == nil {
				accepted++
				if again, err := got.MarshalBinary(); err != nil || !bytes.Equal(again, c) {
					t.Fatalf("byte %d: accepted %x, wrote %x (%v)", i, c, again, err)
				}
			}
		}
		if _, err := chain.DecodeHeader(b[:i]); err == nil {
			t.Fatalf("accepted the first %d bytes", i)
		}
	}
	if accepted == 0 {
		t.Error("no change was another header: the test tests nothing")
	}
}

func TestPresentButEmpty(t *testing.T) {
	h := minimalHeader()
	b, err := h.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	text, uint0, list := []byte{0x60}, []byte{0x00}, []byte{0x80}
	for key, empty := range map[uint64][]byte{
		10: uint0, 11: text, 13: text, 14: text, 17: list, 18: uint0, 19: uint0, 20: text, 21: {0xa0}, 22: text,
		23: text, 24: {0x40}, 25: uint0,
	} {
		// Keys over 15 go to the end; 10 to 14 are inserted by decoding
		// the rest again.
		out := cbor.AppendMap(nil, int(b[0]&0x1f)+1)
		inserted := false
		add := func() {
			out = append(cbor.AppendUint(out, key), empty...)
			inserted = true
		}
		rest := b[1:]
		for len(rest) > 0 {
			if !inserted && uint64(rest[0]) > key {
				add()
			}
			n := itemSize(t, rest[1:])
			out = append(out, rest[:1+n]...)
			rest = rest[1+n:]
		}
		if !inserted {
			add()
		}
		_, err := chain.DecodeHeader(out)
		var ce *cbor.Error
		if !errors.As(err, &ce) || !strings.Contains(ce.Reason, fmt.Sprintf("key %d is present but empty", key)) {
			t.Errorf("key %d, empty: %v", key, err)
		}
	}
}

// itemSize returns the size of the CBOR item that b begins with.
func itemSize(t *testing.T, b []byte) int {
	t.Helper()
	r := cbor.NewReader(b)
	switch r.Peek() {
	case cbor.Uint:
		r.Uint()
	case cbor.Bytes:
		r.Bytes()
	case cbor.Text:
		r.Text()
	case cbor.Map:
		for m := r.Map(); m.Next(); {
			if r.Peek() == cbor.Bytes {
				r.Bytes()
			} else {
				r.Uint()
			}
		}
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return r.Offset()
}

func TestMissingKeys(t *testing.T) {
	h := minimalHeader()
	b, err := h.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for at := 1; at < len(b); {
		n := 1 + itemSize(t, b[at+1:])
		c := append([]byte{b[0] - 1}, b[1:at]...)
		c = append(c, b[at+n:]...)
		_, err := chain.DecodeHeader(c)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("without key %d", b[at])) {
			t.Errorf("without key %d: %v", b[at], err)
		}
		at += n
	}
}

func TestEnvelopeRoundTrip(t *testing.T) {
	for _, e := range []chain.Envelope{
		{Payload: []byte{}},
		{Payload: []byte("x"), Salt: [32]byte{1}, ClientSignature: bytes.Repeat([]byte{7}, 64)},
		{Payload: make([]byte, 1<<16)},
	} {
		b, err := e.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		got, err := chain.DecodeEnvelope(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, got); diff != "" {
			t.Error(diff)
		}
	}
	e := chain.Envelope{ClientSignature: []byte{1}}
	if _, err := e.MarshalBinary(); err == nil {
		t.Error("a signature of one byte was encoded")
	}
}

func TestVerdictRoundTrip(t *testing.T) {
	v := manyHeader().Verdict
	b, err := v.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	var got chain.Verdict
	if err := got.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*v, got); diff != "" {
		t.Error(diff)
	}
	if err := got.UnmarshalBinary(append(b, 0)); err == nil {
		t.Error("data after a verdict was accepted")
	}
}

// TestWideEffect: an element is not cut to 16 bits before it is checked.
func TestWideEffect(t *testing.T) {
	b, err := maximalHeader().Verdict.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	wide := bytes.Replace(b, cbor.AppendUint(nil, 10_000), cbor.AppendUint(nil, 1<<16+10_000), 1)
	var v chain.Verdict
	if err := v.UnmarshalBinary(wide); err == nil || len(wide) == len(b) {
		t.Errorf("an effect of 75536 is read as %v", v.Effective)
	}
}

func TestTooLargeHeader(t *testing.T) {
	var fe *chain.FieldError
	if _, err := chain.DecodeHeader(make([]byte, chain.MaxHeaderSize+1)); !errors.As(err, &fe) || fe.Limit != chain.MaxHeaderSize {
		t.Errorf("a header over the limit: %v", err)
	}
}

// drawEvent draws a valid event.
func drawEvent(t *rapid.T) chain.Event {
	text := rapid.StringOfN(rapid.RuneFrom([]rune("abz09 ü漢~\u2065\u00a0-")), 1, 20, 60)
	e := chain.Event{
		Workspace: rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,10}`).Draw(t, "workspace"),
		Source:    text.Draw(t, "source"), ID: text.Draw(t, "id"),
		Kind:          rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,5}(\.[a-z][a-z0-9_-]{0,5}){0,2}`).Draw(t, "kind"),
		SchemaVersion: rapid.Uint64().Draw(t, "schema version"),
		Payload:       rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
		Priority:      rapid.Uint64Range(0, 1).Draw(t, "priority"),
		ClientTime:    rapid.Int64Min(0).Draw(t, "client time"),
	}
	if rapid.Bool().Draw(t, "more") {
		e.Subject, e.DataSchema, e.ContentType = text.Draw(t, "subject"), text.Draw(t, "data schema"), "text/plain; charset=utf-8"
		e.Causes = slices.Sorted(slices.Values(rapid.SliceOfNDistinct(rapid.Uint64(), 0, 5, rapid.ID[uint64]).Draw(t, "causes")))
		for _, name := range slices.Sorted(slices.Values(rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9]{1,20}`), 0, 20, rapid.ID[string]).Draw(t, "names"))) {
			x := chain.Extension{Name: name, Value: rapid.Bool().Draw(t, "bool")}
			if rapid.Bool().Draw(t, "number") {
				x.Value = int64(rapid.Int32().Draw(t, "int"))
			}
			e.Extensions = append(e.Extensions, x)
		}
	}
	return e
}

// TestSealProperties: whatever valid event is sealed, the entry decodes to it,
// its time is after the predecessor's, and its hashes fit.
func TestSealProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := drawEvent(t)
		if err := e.Validate(0); err != nil {
			t.Fatal(err)
		}
		in := chain.SealInput{
			ChainID: testID, Epoch: rapid.Uint64().Draw(t, "epoch"), Event: &e, Principal: "p", Salt: [32]byte{1},
			Prev:  chain.Head{Size: rapid.Uint64Range(1, 1<<62).Draw(t, "size"), Time: rapid.Int64Range(1, chain.MaxStamp).Draw(t, "time")},
			Stamp: rapid.Int64Max(chain.MaxStamp).Draw(t, "stamp"),
		}
		if rapid.Bool().Draw(t, "salted") {
			e.Salt = &[32]byte{2}
		}
		s, err := chain.Seal(&in)
		if err != nil {
			t.Fatal(err)
		}
		h, err := chain.DecodeHeader(s.Header)
		if err != nil {
			t.Fatal(err)
		}
		env, err := chain.DecodeEnvelope(s.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		if h.Time <= in.Prev.Time || h.Time != max(in.Stamp, in.Prev.Time+1) {
			t.Fatalf("time %d, stamp %d, predecessor %d", h.Time, in.Stamp, in.Prev.Time)
		}
		if h.Key() != e.Key() || h.Previous != in.Prev.Hash || h.Sequence != in.Prev.Size || s.Head.Size != h.Sequence+1 ||
			s.Head.Hash != chain.HeaderHash(s.Header) || s.Head.Time != h.Time || s.Sequence != h.Sequence {
			t.Fatalf("sealed %+v as %+v", e, h)
		}
		if h.Envelope.Hash != chain.EnvelopeHash(s.Envelope) || h.Envelope.Size != uint64(len(e.Payload)) || !bytes.Equal(env.Payload, e.Payload) {
			t.Fatal("the envelope is not the event's")
		}
		want := in.Salt
		if e.Salt != nil {
			want = *e.Salt
		}
		if env.Salt != want {
			t.Fatal("not the right salt")
		}
		if diff := cmp.Diff(e.Extensions, h.Extensions); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestDecodeAllocations(t *testing.T) {
	h := typicalHeader()
	h.Verdict = nil
	b, err := h.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	var out chain.Header
	if n := testing.AllocsPerRun(100, func() {
		if err := out.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("decoding allocates %v times, want 1", n)
	}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := h.AppendBinary(buf); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("encoding allocates %v times", n)
	}
}

func FuzzHeader(f *testing.F) {
	for _, h := range []chain.Header{minimalHeader(), typicalHeader(), manyHeader()} {
		b, err := h.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := chain.DecodeHeader(data)
		if err != nil {
			return
		}
		again, err := h.MarshalBinary()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted %x, wrote %x (%v)", data, again, err)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	for _, e := range []chain.Envelope{{}, {Payload: []byte(`{"a":1}`), ClientSignature: make([]byte, 64)}} {
		b, err := e.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := chain.DecodeEnvelope(data)
		if err != nil {
			return
		}
		again, err := e.MarshalBinary()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted %x, wrote %x (%v)", data, again, err)
		}
	})
}

func FuzzVerdict(f *testing.F) {
	for _, v := range []*chain.Verdict{typicalHeader().Verdict, manyHeader().Verdict} {
		b, err := v.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v chain.Verdict
		if v.UnmarshalBinary(data) != nil {
			return
		}
		again, err := v.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted %x, wrote %x (%v)", data, again, err)
		}
	})
}

// TestLatestTime: a clock gone wild takes nothing from its successors, however
// many they are.
func TestLatestTime(t *testing.T) {
	e := typicalEvent()
	in := chain.SealInput{ChainID: testID, Event: &e, Principal: "p", Prev: chain.Head{Size: 9, Time: testStart}}
	wantTime := func(seq uint64, err error) {
		t.Helper()
		var field *chain.FieldError
		if !errors.As(err, &field) || field.Field != "time" || field.Reason != chain.OutOfRange {
			t.Errorf("entry %d: %v, want time out of range", seq, err)
		}
	}
	for _, stamp := range []int64{chain.MaxStamp + 10, math.MaxInt64} {
		in.Stamp = stamp
		_, err := chain.Seal(&in)
		wantTime(9, err)
	}
	in.Stamp = chain.MaxStamp + 9
	for seq := uint64(9); seq < 20; seq++ {
		s, err := chain.Seal(&in)
		if err != nil || s.Head.Time != chain.MaxStamp+int64(seq) {
			t.Fatalf("entry %d: time %d, %v", seq, s.Head.Time, err)
		}
		in.Prev, in.Stamp = s.Head, 0
	}
	// What was never sealed is not read either.
	h := typicalHeader()
	h.Time = chain.MaxStamp + int64(h.Sequence)
	b, err := h.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, binary.BigEndian.AppendUint64(nil, uint64(h.Time)))
	binary.BigEndian.PutUint64(b[at:], uint64(h.Time)+1)
	_, err = chain.DecodeHeader(b)
	wantTime(h.Sequence, err)
	// Prev is not checked, and still nothing overflows.
	in.Prev.Time = math.MaxInt64
	for _, stamp := range []int64{math.MaxInt64, testStart} {
		in.Stamp = stamp
		_, err = chain.Seal(&in)
		wantTime(20, err)
	}
}
