package ledger

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/exonode/exonode/chain"
)

// FuzzRows gives the bytes of a row to each decoder of one: what is read encodes
// to the same bytes.
func FuzzRows(f *testing.F) {
	head := chain.Head{Size: 300, Hash: chain.Hash{1}, Time: 5}
	meta := metaRow{chain.Meta{Head: head, Root: chain.Hash{2}, Applied: 7, AppliedTerm: 8, RaftEpoch: 9}, true}
	digest := keyDigest{idSize: 3, 31: 4}
	slot := appendSlot(nil, chain.Slot{State: chain.SlotSealed, Sequence: 300}, &digest)
	for _, seed := range [][]byte{
		meta.encode(), span{5, 300}.encode(), encodeStagedMeta(200, head), slot,
		appendSlot(nil, chain.Slot{State: chain.SlotPending, Sequence: 1 << 60}, &digest),
		{1, 0x80, 1, 127}, {1, 0x80, 0},
		appendPostingKey(nil, mainSpace, tableKind, "a\x00b\xff", 300),
		appendPostingKey(nil, stagingSpace, tableSource, "", 1<<63),
		appendRedactedKey(nil, chain.Redaction{Sequence: 300, Beside: true}),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		same := func(what string, again []byte) {
			t.Helper()
			if !bytes.Equal(again, data) {
				t.Errorf("two encodings of one %s:\n%x\n%x", what, data, again)
			}
		}
		if m, ok := decodeMeta(data); ok {
			same("meta", m.encode())
		}
		if s, ok := decodeSpan(data); ok {
			same("span", s.encode())
		}
		if from, head, ok := decodeStagedMeta(data); ok {
			same("meta of staging", encodeStagedMeta(from, head))
		}
		if slot, check, ok := decodeSlot(data); ok {
			var d keyDigest
			copy(d[idSize:], check)
			same("slot", appendSlot(nil, slot, &d))
		}
		if list, ok := decodePostings(9, data); ok {
			var again []byte
			for i := 1; i < len(list); i++ {
				again = binary.AppendUvarint(again, list[i]-list[i-1])
			}
			same("posting list", again)
		}
		if r, ok := splitRedactedKey(data); ok && bytes.HasPrefix(data, []byte("sr")) {
			same("redaction's key", appendRedactedKey(nil, r))
		}
		for _, sp := range [...]space{mainSpace, stagingSpace} {
			value, first, ok := splitPostingKey(data, sp)
			if !ok || sp == stagingSpace && data[0] != stagingPrefix {
				continue
			}
			t := table(data[0])
			if sp == stagingSpace {
				t = table(data[1])
			}
			same("posting list's key", appendPostingKey(nil, sp, t, value, first))
		}
		minLog(data) // of Pebble: it must not panic
	})
}
