package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/hashicorp/raft"
)

// The keys that raft uses (raft.go:27), and the one that all three become.
const (
	keyCurrentTerm  = "CurrentTerm"
	keyLastVoteTerm = "LastVoteTerm"
	keyLastVoteCand = "LastVoteCand"
	keyRecord       = "exonode/vote/1"
)

// errNotFound has the exact text that raft compares with (api.go:470).
var errNotFound = errors.New("not found")

// Vote is a raft.StableStore that keeps raft's three values in one record of
// another stable store, so that they change together.
//
// Raft stores a vote in two calls, the term of the vote and then the candidate
// (raft.go:2130). Vote holds the first back until the second comes: between
// the two nothing is written, and a crash there is a vote that was never cast.
// The current term is written at once. Safe for concurrent use, though raft
// calls it from one goroutine.
type Vote struct {
	under raft.StableStore
	// writing is a lock, full while held: it serialises writes, and its holder
	// alone uses held. It is a channel since it is held during I/O, and who waits
	// for a channel is blocked in the eyes of testing/synctest.
	writing chan struct{}
	// held is a vote's term that waits for its candidate; 0 is none.
	held uint64

	// mu guards the fields below. It is never held during I/O: a vote that takes
	// its time must not keep others from what is known.
	mu    sync.Mutex
	rec   voteRecord
	found bool
}

// voteRecord is stored as
//
//	term u64 | vote term u64 | candidate length u16 | candidate | CRC-32C u32
//
// big-endian; the checksum covers all before it.
type voteRecord struct {
	term, voteTerm uint64
	candidate      []byte
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r *voteRecord) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, r.term)
	b = binary.BigEndian.AppendUint64(b, r.voteTerm)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.candidate)))
	b = append(b, r.candidate...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeVote(b []byte) (voteRecord, error) {
	if len(b) < 22 {
		return voteRecord{}, fmt.Errorf("raftstore: vote record has %d bytes, want at least 22", len(b))
	}
	n := int(binary.BigEndian.Uint16(b[16:18]))
	if len(b) != 22+n {
		return voteRecord{}, fmt.Errorf("raftstore: vote record has %d bytes, want %d", len(b), 22+n)
	}
	if crc32.Checksum(b[:18+n], castagnoli) != binary.BigEndian.Uint32(b[18+n:]) {
		return voteRecord{}, errors.New("raftstore: vote record fails its checksum")
	}
	return voteRecord{
		term:      binary.BigEndian.Uint64(b),
		voteTerm:  binary.BigEndian.Uint64(b[8:]),
		candidate: append([]byte(nil), b[18:18+n]...),
	}, nil
}

// OpenVote reads the record of a stable store, which it then owns. A record
// that does not decode is an error: a node that forgot its vote must not run.
func OpenVote(under raft.StableStore) (*Vote, error) {
	v := &Vote{under: under, writing: make(chan struct{}, 1)}
	b, err := under.Get([]byte(keyRecord))
	switch {
	case err != nil && err.Error() == errNotFound.Error():
		return v, nil
	case err != nil:
		return nil, fmt.Errorf("raftstore: read vote: %w", err)
	}
	if v.rec, err = decodeVote(b); err != nil {
		return nil, err
	}
	v.found = true
	return v, nil
}

// Term returns the current term; 0 where none was stored.
func (v *Vote) Term() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec.term
}

// current returns the record.
func (v *Vote) current() voteRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec
}

// write stores next; its return is the commit point. writing is held.
func (v *Vote) write(next voteRecord) error {
	if err := v.under.Set([]byte(keyRecord), next.encode()); err != nil {
		return fmt.Errorf("raftstore: write vote: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rec, v.found = next, true
	return nil
}

// SetUint64 implements raft.StableStore for raft's two terms.
func (v *Vote) SetUint64(key []byte, val uint64) error {
	v.writing <- struct{}{}
	defer func() { <-v.writing }()
	switch string(key) {
	case keyCurrentTerm:
		next := v.current()
		next.term = val
		return v.write(next)
	case keyLastVoteTerm:
		v.held = val
		return nil
	}
	return fmt.Errorf("raftstore: unknown stable key %q", key)
}

// Set implements raft.StableStore for the candidate of a vote.
func (v *Vote) Set(key, val []byte) error {
	v.writing <- struct{}{}
	defer func() { <-v.writing }()
	if string(key) != keyLastVoteCand {
		return fmt.Errorf("raftstore: unknown stable key %q", key)
	}
	if v.held == 0 {
		return errors.New("raftstore: a vote's candidate without its term")
	}
	if len(val) > 1<<16-1 {
		return fmt.Errorf("raftstore: candidate has %d bytes, limit 65535", len(val))
	}
	next := v.current()
	next.voteTerm, next.candidate = v.held, append([]byte(nil), val...)
	if err := v.write(next); err != nil {
		return err
	}
	v.held = 0
	return nil
}

// GetUint64 implements raft.StableStore.
func (v *Vote) GetUint64(key []byte) (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var val uint64
	switch string(key) {
	case keyCurrentTerm:
		val = v.rec.term
	case keyLastVoteTerm:
		val = v.rec.voteTerm
	default:
		return 0, fmt.Errorf("raftstore: unknown stable key %q", key)
	}
	if !v.found || val == 0 {
		return 0, errNotFound
	}
	return val, nil
}

// Get implements raft.StableStore.
func (v *Vote) Get(key []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if string(key) != keyLastVoteCand {
		return nil, fmt.Errorf("raftstore: unknown stable key %q", key)
	}
	if len(v.rec.candidate) == 0 {
		return nil, errNotFound
	}
	return append([]byte(nil), v.rec.candidate...), nil
}

var _ raft.StableStore = (*Vote)(nil)
