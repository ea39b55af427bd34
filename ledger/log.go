package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/wal"
)

// A process that was killed leaves its last batches in Pebble's log. Where a
// record of the log is damaged, Pebble stops there: with an error if the record
// had been synced, and else as if the log ended, since after a loss of power it
// may just have. A verifier can't take that for the chain's end, so it looks
// whether the log goes on behind the damage.

// logEnd is what a look through the logs found.
type logEnd struct {
	// size is the chain's size as of the last batch before the end.
	size    uint64
	hasSize bool
	// damage describes a record that can't be read though it is there; "" is
	// none.
	damage string
}

// readLogs reads the logs that a database needs up to the first damage.
func readLogs(fs vfs.FS, dir string) (end logEnd, err error) {
	oldest, err := oldestLog(fs, dir)
	if err != nil {
		return logEnd{}, err
	}
	logs, err := wal.Scan(wal.Dir{FS: fs, Dirname: dir})
	if err != nil {
		return logEnd{}, err
	}
	for i, log := range logs {
		if log.Num < oldest {
			continue
		}
		last, err := readLog(log, &end)
		switch {
		case err == nil:
			continue
		case errors.Is(err, record.ErrUnexpectedEOF) && i == len(logs)-1:
			end.damage, err = findDamage(log, last)
			return end, err
		case errors.Is(err, record.ErrUnexpectedEOF), errors.Is(err, record.ErrInvalidChunk), errors.Is(err, record.ErrZeroedChunk):
			end.damage = fmt.Sprintf("log %d is damaged after offset %d", uint64(log.Num), last)
			return end, nil
		}
		return end, err
	}
	return end, nil
}

// The first two fields of a version edit, as a MANIFEST's records are called; each
// is a tag and a value, in this order, and may be missing.
const (
	editComparer = 1 // string
	editMinLog   = 2 // uvarint
)

// oldestLog returns the number of the oldest log whose batches are not all in
// tables. Pebble keeps logs before it for some time, to write over them or until it
// comes to deleting them, and never reads them again.
func oldestLog(fs vfs.FS, dir string) (oldest wal.NumWAL, err error) {
	desc, err := pebble.Peek(dir, fs)
	if err != nil || !desc.Exists {
		return 0, err
	}
	f, err := fs.Open(desc.ManifestFilename)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	edits := record.NewReader(f, 0)
	for {
		r, err := edits.Next()
		var edit []byte
		if err == nil {
			edit, err = io.ReadAll(r)
		}
		if errors.Is(err, io.EOF) || record.IsInvalidRecord(err) {
			return oldest, nil // Pebble takes this for the end, too
		}
		if err != nil {
			return 0, err
		}
		if n, ok := minLog(edit); ok {
			oldest = n
		}
	}
}

// minLog returns the number of the oldest log needed, where a version edit has it.
func minLog(edit []byte) (wal.NumWAL, bool) {
	tag, edit := uvarint(edit)
	if tag == editComparer {
		var size uint64
		if size, edit = uvarint(edit); size > uint64(len(edit)) {
			return 0, false
		}
		tag, edit = uvarint(edit[size:])
	}
	n, _ := uvarint(edit)
	return wal.NumWAL(n), tag == editMinLog && n > 0
}

// uvarint takes a number off b; 0 where there is none.
func uvarint(b []byte) (uint64, []byte) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil
	}
	return v, b[n:]
}

// readLog notes the chain's size as of each batch, and returns where the last
// record that it could read begins.
func readLog(log wal.LogicalLog, end *logEnd) (last int64, err error) {
	r := log.OpenForRead()
	defer func() { err = errors.Join(err, r.Close()) }()
	var batch bytes.Buffer
	for {
		body, offset, err := r.NextRecord()
		if err == nil {
			batch.Reset()
			_, err = io.Copy(&batch, body)
		}
		if errors.Is(err, io.EOF) {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		last = offset.Physical
		if batch.Len() < batchrepr.HeaderLen {
			continue
		}
		ops := batchrepr.Read(batch.Bytes())
		for {
			_, key, value, ok, err := ops.Next()
			if err != nil || !ok {
				break
			}
			if len(key) == 1 && table(key[0]) == tableMeta {
				if row, ok := decodeMeta(value); ok {
					end.size, end.hasSize = row.Head.Size, true
				}
			}
		}
	}
}

// The log consists of blocks of chunks: checksum:4 length:2 type:1 log number:4,
// in newer types synced offset:8, and payload; little-endian. The checksum is a
// masked CRC-32C from type to the payload's end.
const (
	chunkHeader     = 11
	chunkHeaderSync = 19
	chunkOldest     = 5 // types with a log number
	chunkSync       = 9 // ... and a synced offset
	chunkNewest     = 12
	logBlock        = 32 << 10
)

// findDamage looks, from a readable record on, for the chunk that ends the log,
// and whether the log was written further.
func findDamage(log wal.LogicalLog, from int64) (string, error) {
	fs, name := log.SegmentLocation(log.NumSegments() - 1)
	f, err := fs.Open(name)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	crcs := crc32.MakeTable(crc32.Castagnoli)
	number := uint32(log.Num)
	at := int(from)
	for {
		if left := logBlock - at%logBlock; left < chunkHeader {
			at += left // the block's unused end
		}
		size, valid := chunk(data, at, number, crcs)
		if !valid {
			break
		}
		at += size
	}
	found := fmt.Sprintf("log %d is damaged at offset %d", number, at)
	if size, _ := chunk(data, at, number, crcs); size > 0 && data[at+size-1] != 0 {
		return found, nil // written to its end
	}
	for next := at + 1; next+chunkHeader <= len(data); next++ {
		if _, valid := chunk(data, next, number, crcs); valid {
			return found + ", and goes on behind it", nil
		}
	}
	return "", nil
}

// chunk returns the size of the chunk of the given log at an offset, 0 where
// there is none, and whether its checksum is right.
func chunk(data []byte, at int, number uint32, crcs *crc32.Table) (size int, valid bool) {
	if at+chunkHeader > len(data) {
		return 0, false
	}
	c := data[at:]
	kind := c[6]
	if kind < chunkOldest || kind > chunkNewest || binary.LittleEndian.Uint32(c[7:]) != number {
		return 0, false
	}
	size = chunkHeader
	if kind >= chunkSync {
		size = chunkHeaderSync
	}
	size += int(binary.LittleEndian.Uint16(c[4:]))
	if size > len(c) || at%logBlock+size > logBlock {
		return 0, false
	}
	crc := crc32.Checksum(c[6:size], crcs)
	masked := (crc>>15 | crc<<17) + 0xa282ead8
	return size, masked == binary.LittleEndian.Uint32(c)
}
