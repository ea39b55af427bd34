package monitor

import (
	"bytes"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/evidence"
)

// FuzzState: whatever is read as a state is written, and read again, as the same.
func FuzzState(f *testing.F) {
	note := &checkpoint.Note{
		Checkpoint: checkpoint.Checkpoint{Origin: "log.example", Size: 2, Root: chain.Hash{1}},
		Signatures: []checkpoint.Signature{{Name: "log.example", KeyID: 7, Bytes: make([]byte, 64)}},
	}
	for _, s := range []*state{
		{note: note},
		{note: note, headers: true, tip: evidence.Tip{Size: 2, Epoch: 1, Time: 3}, epochs: []epochStart{{0, 0, nil}, {1, 1, []byte("header")}}, generation: 4},
	} {
		b, err := encodeState(s)
		if err != nil {
			f.Fatal(err)
		}
		if _, err := decodeState(b); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeState(data)
		if err != nil {
			return
		}
		b, err := encodeState(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeState(b)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := encodeState(again); err != nil || !bytes.Equal(b, c) {
			t.Fatalf("%s, then %s, %v", b, c, err)
		}
	})
}
