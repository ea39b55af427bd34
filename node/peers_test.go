package node

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/chain"
)

func TestRecordsTravel(t *testing.T) {
	want := []chain.Record{
		{Sequence: 7, Header: []byte("header"), Envelope: []byte("envelope"), Beside: []byte("beside")},
		{Sequence: 8, Header: []byte("header")}, // redacted
		{Sequence: 9, Header: []byte{}, Envelope: []byte{}, Beside: []byte{}},
		{Sequence: 10},
	}
	var b []byte
	for i := range want {
		before := len(b)
		if b = appendRecord(b, &want[i]); len(b)-before != recordSize(&want[i]) {
			t.Errorf("record %d has %d bytes, counted %d", i, len(b)-before, recordSize(&want[i]))
		}
	}
	rest := b
	for i := range want {
		var got chain.Record
		var err error
		if got, rest, err = readRecord(rest, want[i].Sequence); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("record %d (-want +got):\n%s", i, diff)
		}
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes are left", len(rest))
	}
	one := appendRecord(nil, &want[0])
	for n := range one {
		if _, _, err := readRecord(one[:n], 7); !errors.Is(err, errShortRange) {
			t.Fatalf("%d of %d bytes: %v", n, len(one), err)
		}
	}
}

// FuzzReadRecord: what is read is written as the same bytes, and holds on to no
// more than its own.
func FuzzReadRecord(f *testing.F) {
	f.Add(appendRecord(nil, &chain.Record{Header: []byte("h"), Envelope: []byte("e")}))
	f.Add(append(appendRecord(nil, &chain.Record{Header: []byte("h"), Beside: []byte{}}), 1, 2, 3))
	f.Add([]byte{0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, rest, err := readRecord(b, 5)
		if err != nil {
			return
		}
		if again := appendRecord(nil, &r); !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Fatalf("%x was read from %x", again, b[:len(b)-len(rest)])
		}
		if n := recordSize(&r); n != len(b)-len(rest) {
			t.Fatalf("counted %d of %d bytes", n, len(b)-len(rest))
		}
		for _, part := range [][]byte{r.Header, r.Envelope, r.Beside} {
			if len(part) != cap(part) {
				t.Fatal("an append to a part would run into the next")
			}
		}
	})
}
