package pipeline

import (
	"reflect"
	"testing"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
)

func someAcks() []server.Ack {
	return []server.Ack{
		{Sequence: 7, Hash: chain.Hash{1, 2}, Time: 99},
		{Sequence: 8, Hash: chain.Hash{3}, Time: 100, Duplicate: true, Verdict: &chain.Verdict{
			Gate: "tool", Decision: chain.Warn, Revision: 3, PolicyHash: chain.Hash{9}, Profile: "p", Reasons: []string{"r1", "r2"},
		}},
		{Err: &api.Error{Code: api.QueueFull, Message: "full", Hint: "wait", Field: "f", RetryAfterMillis: 100}},
		{Err: &api.Error{Code: api.Conflict, HasSequence: true}},
		{Err: &api.Error{}},
		{},
	}
}

func TestAcksTravel(t *testing.T) {
	want := someAcks()
	b, err := encodeAcks(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeAcks(b, len(want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for name, bad := range map[string][]byte{
		"one too few": mustEncode(t, want[1:]), "cut short": b[:len(b)-1], "with more behind": append(b[:len(b):len(b)], 0), "nothing": nil,
	} {
		if acks, err := decodeAcks(bad, len(want)); err == nil {
			t.Errorf("%s: decoded as %+v", name, acks)
		}
	}
}

func mustEncode(t *testing.T, acks []server.Ack) []byte {
	t.Helper()
	b, err := encodeAcks(acks)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzAcks: what decodes is encoded to the same bytes, so that there is one
// encoding of each answer; nothing panics or asks for much memory.
func FuzzAcks(f *testing.F) {
	for i, ack := range someAcks() {
		b, err := encodeAcks(someAcks()[:i+1])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(i+1))
		if b, err = encodeAcks([]server.Ack{ack}); err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint16(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, n uint16) {
		acks, err := decodeAcks(b, int(n))
		if err != nil {
			return
		}
		again, err := encodeAcks(acks)
		if err != nil {
			t.Fatalf("%+v does not encode: %v", acks, err)
		}
		second, err := decodeAcks(again, int(n))
		if err != nil || !reflect.DeepEqual(acks, second) {
			t.Fatalf("%+v became %+v, %v", acks, second, err)
		}
	})
}
