package outbox

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A segment is a file named by the id of its first item in 16 hexadecimal
// digits and ".seg". All numbers are little-endian; CRC is CRC-32C.
//
//	segment   magic[8] "exooutb1" | first u64 | acked u64 | salt u32 | CRC u32   then batches
//	batch     magic[4] "batc" | body u32 | first u64 | acked u64 | count u32 | CRC u32   then body
//	record    size u32 | CRC u32 | data[size]
//
// A header's CRC covers the 28 bytes before it, and a batch's then the salt (u32),
// which is random: so that no item can hold what looks like a batch of its own
// segment. A batch's body is body bytes long and holds count records, of the items first, first+1 and so on. acked is
// what was acknowledged when the header was written. A record's CRC covers the
// item's id (u64), size and data. A removed item's record has size 0xffffffff,
// and no data.
//
// A batch is synced before the next one is written. So at most the last batch
// of the last segment can be torn, and a bad one with a good one behind it is
// damage, not a crash. A segment's header is synced, and the directory, before
// its first batch is written.
const (
	segmentMagic  = "exooutb1"
	batchMagic    = "batc"
	segmentHeader = 32
	batchHeader   = 32
	recordHeader  = 8
	removedSize   = 1<<32 - 1

	// maxBody is the most bytes in a batch's body.
	maxBody = 64 << 20

	segmentSuffix = ".seg"
	tempSuffix    = ".tmp"
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

func segmentName(first uint64) string { return fmt.Sprintf("%016x", first) + segmentSuffix }

// parseSegmentName returns the first id in a segment's name.
func parseSegmentName(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	first, err := strconv.ParseUint(digits, 16, 64)
	return first, err == nil && segmentName(first) == name
}

func appendSegmentHeader(b []byte, first, acked uint64, salt uint32) []byte {
	start := len(b)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint64(b, first)
	b = binary.LittleEndian.AppendUint64(b, acked)
	b = binary.LittleEndian.AppendUint32(b, salt)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], crcTable))
}

func appendBatchHeader(b []byte, salt, body uint32, first, acked uint64, count uint32) []byte {
	start := len(b)
	b = append(b, batchMagic...)
	b = binary.LittleEndian.AppendUint32(b, body)
	b = binary.LittleEndian.AppendUint64(b, first)
	b = binary.LittleEndian.AppendUint64(b, acked)
	b = binary.LittleEndian.AppendUint32(b, count)
	return binary.LittleEndian.AppendUint32(b, batchCRC(b[start:], salt))
}

// batchCRC returns the CRC of a batch header's first 28 bytes and the salt.
func batchCRC(head []byte, salt uint32) uint32 {
	return crc32.Update(crc32.Checksum(head, crcTable), crcTable, binary.LittleEndian.AppendUint32(nil, salt))
}

// appendBatches appends records of the items first, first+1 and so on, given one
// by one by record, as many batches as it takes. acked is what was acknowledged
// up to the last of them.
func appendBatches(b []byte, salt uint32, first, acked uint64, count int, record func(b []byte, i int) []byte) []byte {
	for i := 0; i < count; {
		start, from := len(b), i
		b = append(b, make([]byte, batchHeader)...)
		for ; i < count; i++ {
			before := len(b)
			b = record(b, i)
			if len(b)-start-batchHeader > maxBody {
				b = b[:before]
				break
			}
		}
		at := first + uint64(from)
		last := first + uint64(i) - 1
		appendBatchHeader(b[:start], salt, uint32(len(b)-start-batchHeader), at, min(acked, last), uint32(i-from))
	}
	return b
}

func appendRecord(b []byte, id uint64, data []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, recordCRC(id, uint32(len(data)), data))
	return append(b, data...)
}

func appendRemoved(b []byte, id uint64) []byte {
	b = binary.LittleEndian.AppendUint32(b, removedSize)
	return binary.LittleEndian.AppendUint32(b, recordCRC(id, removedSize, nil))
}

func recordCRC(id uint64, size uint32, data []byte) uint32 {
	var head [12]byte
	binary.LittleEndian.PutUint64(head[:], id)
	binary.LittleEndian.PutUint32(head[8:], size)
	return crc32.Update(crc32.Checksum(head[:], crcTable), crcTable, data)
}

// CorruptError is damage that no crash explains. Items behind it can't be
// trusted: restore the directory, or move it away to begin with an empty queue.
type CorruptError struct {
	File   string
	Offset int64
	What   string
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("outbox: %s is damaged at offset %d: %s", e.File, e.Offset, e.What)
}

// A record is an item as it lies in a segment.
type record struct {
	offset  int64 // of its data
	size    uint32
	removed bool
}

// parsed is a segment's content.
type parsed struct {
	first   uint64
	salt    uint32
	acked   uint64   // the highest in any header
	records []record // of the items first, first+1, ...
	end     int64    // of the last good batch
}

// errTorn: a header or a batch is not good.
var errTorn = errors.New("torn")

// parseSegment reads a segment. Where it ends in a torn batch, or is nothing
// but a torn header, the error wraps errTorn, and what is before is returned;
// any other damage is a *CorruptError without File.
func parseSegment(data []byte) (parsed, error) {
	var p parsed
	if len(data) < segmentHeader || string(data[:8]) != segmentMagic ||
		binary.LittleEndian.Uint32(data[28:]) != crc32.Checksum(data[:28], crcTable) {
		if len(data) <= segmentHeader {
			return p, fmt.Errorf("segment header: %w", errTorn)
		}
		return p, &CorruptError{What: "bad segment header"}
	}
	p.first = binary.LittleEndian.Uint64(data[8:])
	p.acked = binary.LittleEndian.Uint64(data[16:])
	p.salt = binary.LittleEndian.Uint32(data[24:])
	p.end = segmentHeader
	if p.first == 0 || p.acked >= p.first {
		return p, &CorruptError{What: "impossible segment header"}
	}
	for int(p.end) < len(data) {
		n, err := p.batch(data[p.end:])
		if err != nil {
			if at, ok := findBatch(data[p.end+1:], p.salt); ok {
				return p, &CorruptError{Offset: p.end, What: fmt.Sprintf("%v, yet there is a good batch %d bytes on", err, at+1)}
			}
			return p, fmt.Errorf("%w: %w", errTorn, err)
		}
		p.end += n
	}
	return p, nil
}

// batch reads the batch at the front of data and returns its size. After an
// error p is as it was.
func (p *parsed) batch(data []byte) (int64, error) {
	size, err := checkBatch(data, p.salt)
	if err != nil {
		return 0, err
	}
	next := p.first + uint64(len(p.records))
	first, acked, count := binary.LittleEndian.Uint64(data[8:]), binary.LittleEndian.Uint64(data[16:]), binary.LittleEndian.Uint32(data[24:])
	if first != next {
		return 0, fmt.Errorf("batch begins with item %d, want %d", first, next)
	}
	if acked >= first+uint64(count) {
		return 0, errors.New("batch acknowledges items to come")
	}
	offset := int64(batchHeader)
	for range count {
		r := record{offset: p.end + offset + recordHeader, size: binary.LittleEndian.Uint32(data[offset:])}
		if r.size == removedSize {
			r.size, r.removed = 0, true
		}
		p.records = append(p.records, r)
		offset += recordHeader + int64(r.size)
	}
	p.acked = max(p.acked, acked)
	return size, nil
}

// checkBatch checks the batch at the front of data, header and records, and
// returns its size.
func checkBatch(data []byte, salt uint32) (int64, error) {
	if len(data) < batchHeader || string(data[:4]) != batchMagic ||
		binary.LittleEndian.Uint32(data[28:]) != batchCRC(data[:28], salt) {
		return 0, errors.New("bad batch header")
	}
	size := batchHeader + int64(binary.LittleEndian.Uint32(data[4:]))
	if size > batchHeader+maxBody || size > int64(len(data)) {
		return 0, errors.New("batch ends early")
	}
	id, count := binary.LittleEndian.Uint64(data[8:]), binary.LittleEndian.Uint32(data[24:])
	body := data[batchHeader:size]
	for range count {
		if len(body) < recordHeader {
			return 0, errors.New("bad record")
		}
		length, n := binary.LittleEndian.Uint32(body), int64(0)
		if length != removedSize {
			n = int64(length)
		}
		if n > int64(len(body))-recordHeader ||
			binary.LittleEndian.Uint32(body[4:]) != recordCRC(id, length, body[recordHeader:recordHeader+n]) {
			return 0, errors.New("bad record")
		}
		body = body[recordHeader+n:]
		id++
	}
	if len(body) != 0 {
		return 0, errors.New("batch is longer than its records")
	}
	return size, nil
}

// findBatch returns where in data the first good batch begins.
func findBatch(data []byte, salt uint32) (int, bool) {
	for at := 0; ; at++ {
		i := bytes.Index(data[at:], []byte(batchMagic))
		if i < 0 {
			return 0, false
		}
		at += i
		if _, err := checkBatch(data[at:], salt); err == nil {
			return at, true
		}
	}
}
