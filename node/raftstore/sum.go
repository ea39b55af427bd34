package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// Every log entry is stored with a checksum over all of it. Neither raft-wal, which looks
// at its own only where it recovers the end of the log, nor boltdb checks what it reads;
// and what a disk has changed in an entry that is not applied yet would be applied by this
// node alone, which then goes on with another chain than the others.
//
// The checksum stands behind the entry's Extensions, which raft itself does not use:
//
//	extensions | after u64 | CRC-32C u32
//
// after is the index that the entry's own write follows: all up to it was synced before
// any of that write was begun (readTail says what for). The checksum covers the
// directory's key (8 bytes), index u64, term u64, type u8, length of the data u64, data,
// extensions, after; numbers are big-endian. What the log gives back has lost both again.

// ErrDamaged is wrapped where a stored log entry is not what was written. The node must
// not go on: it is taken out of the cluster, and joins again with an empty directory.
var ErrDamaged = errors.New("raft's log is damaged on disk")

const (
	markSize = 8
	sumSize  = 4
)

// logSum is the checksum of an entry, whose extensions end with its mark.
func logSum(key Key, l *raft.Log) uint32 {
	var b [25]byte
	binary.BigEndian.PutUint64(b[:], l.Index)
	binary.BigEndian.PutUint64(b[8:], l.Term)
	b[16] = byte(l.Type)
	binary.BigEndian.PutUint64(b[17:], uint64(len(l.Data)))
	sum := crc32.Update(crc32.Checksum(key[:], castagnoli), castagnoli, b[:])
	sum = crc32.Update(sum, castagnoli, l.Data)
	return crc32.Update(sum, castagnoli, l.Extensions)
}

// withSums returns entries, which are one write, as they are stored. They share their
// data with logs, which raft goes on using.
func withSums(key Key, logs []*raft.Log) []*raft.Log {
	stored, out := make([]raft.Log, len(logs)), make([]*raft.Log, len(logs))
	for i, l := range logs {
		s := &stored[i]
		*s, out[i] = *l, s
		s.Extensions = append(make([]byte, 0, len(l.Extensions)+markSize+sumSize), l.Extensions...)
		s.Extensions = binary.BigEndian.AppendUint64(s.Extensions, logs[0].Index-1)
		s.Extensions = binary.BigEndian.AppendUint32(s.Extensions, logSum(key, s))
	}
	return out
}

// takeSum checks a stored entry and makes it what raft wrote. It returns the mark.
func takeSum(key Key, index uint64, l *raft.Log) (after uint64, err error) {
	n := len(l.Extensions) - sumSize - markSize
	if n < 0 {
		return 0, fmt.Errorf("%w: entry %d has no checksum", ErrDamaged, index)
	}
	after = binary.BigEndian.Uint64(l.Extensions[n:])
	want := binary.BigEndian.Uint32(l.Extensions[n+markSize:])
	l.Extensions = l.Extensions[:n+markSize]
	if got := logSum(key, l); l.Index != index || got != want {
		return 0, fmt.Errorf("%w: entry %d fails its checksum", ErrDamaged, index)
	}
	l.Extensions = l.Extensions[:n]
	if n == 0 {
		l.Extensions = nil
	}
	return after, nil
}

// ReadLog reads an entry of a stopped node's log, as Log.GetLog does, with the key of its
// directory. The error is
// raft.ErrLogNotFound itself where there is none.
func ReadLog(under raft.LogStore, key Key, index uint64, log *raft.Log) (err error) {
	defer func() {
		// Both backends do, where they meet bytes that they never write.
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: entry %d: %v", ErrDamaged, index, p)
		}
	}()
	if err := under.GetLog(index, log); err != nil {
		return err
	}
	_, err = takeSum(key, index, log)
	return err
}
