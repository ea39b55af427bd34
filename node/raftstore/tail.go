package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// openWAL opens raft-wal's log over files, or over the operating system's where nil.
// size is of a segment, in bytes; 0 is segmentSize.
func openWAL(dir string, size int, files types.VFS, key Key) (_ *wal.WAL, err error) {
	if size == 0 {
		size = segmentSize
	}
	if files == nil {
		files = walfs.New()
	}
	meta := new(metadb.BoltMetaDB)
	defer func() {
		if err != nil {
			// raft-wal leaves it open, and the next attempt would wait for its lock.
			err = errors.Join(err, meta.Close())
		}
	}()
	if err := mendTail(dir, size, meta, files, key); err != nil {
		return nil, err
	}
	return wal.Open(dir, wal.WithSegmentSize(size), wal.WithMetaStore(meta), wal.WithSegmentFiler(segment.NewFiler(dir, files)))
}

// mendTail makes of the segment that was written to last what raft-wal 0.4.2 can go on
// with after a crash. Left alone it
//
//   - takes no entry any more where the crash came after the segment was full and
//     before the meta store knew (types.ErrSealed, at every start), or where what was
//     torn was the write that filled it;
//   - does not look at the checksum of the last whole write where something that looks
//     like an entry stands behind it, and an earlier crash may have left just that;
//   - ends the log at the first byte that it can't make sense of, though acknowledged
//     entries stand behind it.
//
// So what stands behind the last write that is whole is wiped here, a full segment is
// closed, and the error wraps ErrDamaged where something was lost. A crash on any line
// leaves what the next start mends.
func mendTail(dir string, size int, meta types.MetaStore, files types.VFS, key Key) (err error) {
	state, err := meta.Load(dir)
	if err != nil || len(state.Segments) == 0 {
		return err
	}
	info := &state.Segments[len(state.Segments)-1]
	if !info.SealTime.IsZero() {
		return nil
	}
	f, err := files.OpenWriter(dir, segment.FileName(*info))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // raft-wal has yet to make it
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	t, err := readTail(f, *info, key)
	if err != nil {
		return err
	}
	if t.used > t.end {
		if _, err := f.WriteAt(make([]byte, t.used-t.end), t.end); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if t.indexStart == 0 {
		return nil
	}
	info.SealTime, info.MaxIndex, info.IndexStart = time.Now(), t.last, t.indexStart
	state.Segments = append(state.Segments, types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: t.last + 1, MinIndex: t.last + 1,
		SizeLimit: uint32(size), Codec: info.Codec, CreateTime: info.SealTime,
	})
	state.NextSegmentID++
	return meta.CommitState(state)
}

// tail is a segment that is not sealed in the meta store.
type tail struct {
	// end is where the last whole write ends, in bytes, 0 without one; used is where
	// the zeros begin that the file ends with, or end.
	end, used int64
	// last is the last index of the last whole write.
	last uint64
	// indexStart is where the index of a full segment begins; else 0.
	indexStart uint64
}

// TailEnd returns where in a segment that is not sealed the last whole write ends, in
// bytes. The error wraps ErrDamaged where entries are lost that were synced.
func TailEnd(f types.ReadableFile, info types.SegmentInfo, key Key) (int64, error) {
	t, err := readTail(f, info, key)
	return t.end, err
}

// raft-wal's layout (segment/format.go): a header, then frames, each at a multiple of
// eight bytes and with a header of eight: the kind, three zeros, and u32 little-endian
// the size of what follows, or of a commit the CRC-32C of all since the one before.
const (
	fileHeader  = 32
	frameHeader = 8
)

// frame reads the frame at an offset; its kind is segment.FrameInvalid where there is
// none. next is where the one behind it begins.
func frame(b []byte, at int64) (kind uint8, sum uint32, body []byte, next int64) {
	if at+frameHeader > int64(len(b)) || b[at+1]|b[at+2]|b[at+3] != 0 {
		return segment.FrameInvalid, 0, nil, 0
	}
	kind, value := b[at], binary.LittleEndian.Uint32(b[at+4:])
	next = at + frameHeader
	switch kind {
	case segment.FrameCommit:
		return kind, value, nil, next
	case segment.FrameEntry, segment.FrameIndex:
		body = b[next:]
		if int64(value) <= int64(len(body)) {
			return kind, 0, body[:value], next + (int64(value)+7)&^7
		}
	}
	return segment.FrameInvalid, 0, nil, 0
}

// readTail finds the last whole write of a segment. What stands behind it may be what
// was torn of one more, all of whose entries say that they follow the last whole one;
// an entry that says it follows a later one shows that a write is missing which was
// synced before its own.
func readTail(f types.ReadableFile, info types.SegmentInfo, key Key) (t tail, err error) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return t, fmt.Errorf("read %s: %w", segment.FileName(info), err)
	}
	t.last = info.BaseIndex - 1
	entries, indexStart := t.last, uint64(0)
	for at := int64(fileHeader); ; {
		kind, sum, _, next := frame(b, at)
		if kind == segment.FrameInvalid || kind == segment.FrameCommit && sum != crc32.Checksum(b[t.end:at], castagnoli) {
			break
		}
		switch kind {
		case segment.FrameEntry:
			entries++
		case segment.FrameIndex:
			indexStart = uint64(at) + frameHeader
		case segment.FrameCommit:
			t.end, t.last, t.indexStart = next, entries, indexStart
		}
		at = next
	}
	t.used = t.end
	for i := int64(len(b)); i > t.end; i-- {
		if b[i-1] != 0 {
			t.used = i
			break
		}
	}
	for at := max(t.end, fileHeader); at < t.used; at += 8 {
		kind, _, body, _ := frame(b, at)
		if kind != segment.FrameEntry {
			continue
		}
		if index, n := binary.Uvarint(body); n <= 0 || index <= t.last {
			continue // not worth a checksum
		}
		if index, after, ok := readStored(key, body); ok && after > t.last {
			return t, fmt.Errorf("%w: entry %d was written after entry %d was synced, and what is whole before it ends with entry %d (%s, from byte %d on)",
				ErrDamaged, index, after, t.last, segment.FileName(info), t.end)
		}
	}
	return t, nil
}

// readStored reads an entry as raft-wal encodes it, and its mark; it is not ok where it
// is not what was written.
func readStored(key Key, body []byte) (index, after uint64, ok bool) {
	defer func() {
		if recover() != nil { // raft-wal's decoder does where a number is too long
			ok = false
		}
	}()
	var l raft.Log
	if new(wal.BinaryCodec).Decode(body, &l) != nil {
		return 0, 0, false
	}
	after, err := takeSum(key, l.Index, &l)
	return l.Index, after, err == nil
}
