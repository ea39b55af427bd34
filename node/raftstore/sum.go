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
//	extensions | CRC-32C u32
//
// It covers index u64, term u64, type u8, length of the data u64, data, extensions;
// numbers are big-endian. What the log gives back has lost it again.

// ErrDamaged is wrapped where a stored log entry is not what was written. The node must
// not go on: it is taken out of the cluster, and joins again with an empty directory.
var ErrDamaged = errors.New("raft's log is damaged on disk")

const sumSize = 4

// logSum is the checksum of an entry.
func logSum(l *raft.Log) uint32 {
	var b [25]byte
	binary.BigEndian.PutUint64(b[:], l.Index)
	binary.BigEndian.PutUint64(b[8:], l.Term)
	b[16] = byte(l.Type)
	binary.BigEndian.PutUint64(b[17:], uint64(len(l.Data)))
	sum := crc32.Update(0, castagnoli, b[:])
	sum = crc32.Update(sum, castagnoli, l.Data)
	return crc32.Update(sum, castagnoli, l.Extensions)
}

// withSums returns entries as they are stored. They share their data with logs, which
// raft goes on using.
func withSums(logs []*raft.Log) []*raft.Log {
	stored, out := make([]raft.Log, len(logs)), make([]*raft.Log, len(logs))
	for i, l := range logs {
		stored[i] = *l
		stored[i].Extensions = binary.BigEndian.AppendUint32(append(make([]byte, 0, len(l.Extensions)+sumSize), l.Extensions...), logSum(l))
		out[i] = &stored[i]
	}
	return out
}

// takeSum checks a stored entry and makes it what raft wrote.
func takeSum(index uint64, l *raft.Log) error {
	n := len(l.Extensions) - sumSize
	if n < 0 {
		return fmt.Errorf("%w: entry %d has no checksum", ErrDamaged, index)
	}
	want := binary.BigEndian.Uint32(l.Extensions[n:])
	l.Extensions = l.Extensions[:n]
	if n == 0 {
		l.Extensions = nil
	}
	if got := logSum(l); l.Index != index || got != want {
		return fmt.Errorf("%w: entry %d fails its checksum", ErrDamaged, index)
	}
	return nil
}

// ReadLog reads an entry of a stopped node's log, as Log.GetLog does.
func ReadLog(under raft.LogStore, index uint64, log *raft.Log) error {
	if err := under.GetLog(index, log); err != nil {
		return err
	}
	return takeSum(index, log)
}
