package ledger

import (
	"encoding/binary"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/exonode/exonode/chain"
)

// idSize is how much of a key's digest names its row.
const idSize = 16

// keyDigest is the keyed BLAKE3 hash of an event key.
type keyDigest [32]byte

// keyHasher computes digests of event keys under a directory's secret key. It
// is safe for concurrent use.
type keyHasher struct {
	key  [32]byte
	pool sync.Pool // of *keyState, reset
}

type keyState struct {
	h   *blake3.Hasher
	buf []byte
}

func (k *keyHasher) digest(key chain.Key) (d keyDigest) {
	s, ok := k.pool.Get().(*keyState)
	if !ok {
		h, err := blake3.NewKeyed(k.key[:])
		if err != nil { // only where the key is not 32 bytes long
			panic(err)
		}
		s = &keyState{h: h}
	}
	s.buf = s.buf[:0]
	for _, f := range [...]string{key.Workspace, key.Source, key.ID} {
		s.buf = binary.AppendUvarint(s.buf, uint64(len(f)))
		s.buf = append(s.buf, f...)
	}
	s.h.Write(s.buf)
	s.h.Sum(d[:0])
	s.h.Reset()
	k.pool.Put(s)
	return d
}

// appendSlot encodes a slot. A sealed one is held against the header that it
// points at; the others, whose entry is not the key's own, carry the other half
// of the digest.
func appendSlot(dst []byte, slot chain.Slot, d *keyDigest) []byte {
	dst = binary.AppendUvarint(append(dst, byte(slot.State)), slot.Sequence)
	if slot.State != chain.SlotSealed {
		dst = append(dst, d[idSize:]...)
	}
	return dst
}

func decodeSlot(b []byte) (slot chain.Slot, check []byte, ok bool) {
	if len(b) < 2 || b[0] < byte(chain.SlotSealed) || b[0] > byte(chain.SlotClosed) {
		return chain.Slot{}, nil, false
	}
	seq, check, ok := takeUvarint(b[1:])
	if !ok {
		return chain.Slot{}, nil, false
	}
	slot = chain.Slot{State: chain.SlotState(b[0]), Sequence: seq}
	want := len(keyDigest{}) - idSize
	if slot.State == chain.SlotSealed {
		want = 0
	}
	return slot, check, len(check) == want
}
