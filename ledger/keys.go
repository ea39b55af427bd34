package ledger

import (
	"encoding/binary"

	"github.com/exonode/exonode/chain"
)

// table is the first byte of a row's key (see the package comment).
type table byte

const (
	tableFormat    table = 'F'
	tableMeta      table = 'M'
	tablePromoted  table = 'P'
	tableState     table = 'S'
	tableBeside    table = 'b'
	tableEnvelope  table = 'e'
	tableHeader    table = 'h'
	tableID        table = 'i'
	tableKind      table = 'k'
	tableSource    table = 'o'
	tablePrincipal table = 'p'
	tableRedacted  table = 'r' // in staging only
	tableTile      table = 't'
	tableWorkspace table = 'w'

	// stagingPrefix stands before the keys of the staging keyspace, and
	// stagingEnd after all of them.
	stagingPrefix byte = 's'
	stagingEnd    byte = 's' + 1
)

// space is a keyspace: the main one, or staging.
type space bool

const (
	mainSpace    space = false
	stagingSpace space = true
)

// appendTable starts a key.
func appendTable(dst []byte, sp space, t table) []byte {
	if sp == stagingSpace {
		dst = append(dst, stagingPrefix)
	}
	return append(dst, byte(t))
}

// appendSeqKey appends the key of a row that is named by its sequence alone.
func appendSeqKey(dst []byte, sp space, t table, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(appendTable(dst, sp, t), seq)
}

func appendTileKey(dst []byte, sp space, level uint8, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(appendTable(dst, sp, tableTile), level), index)
}

func appendIDKey(dst []byte, sp space, d *keyDigest) []byte {
	return append(appendTable(dst, sp, tableID), d[:idSize]...)
}

// appendValue appends an index value without its end: every row whose value
// starts with value has this prefix.
func appendValue(dst []byte, sp space, t table, value string) []byte {
	dst = appendTable(dst, sp, t)
	for i := range len(value) {
		if value[i] == 0 {
			dst = append(dst, 0, 0xff)
		} else {
			dst = append(dst, value[i])
		}
	}
	return dst
}

// appendPostingKey appends the key of the posting list of value that starts at
// sequence first.
func appendPostingKey(dst []byte, sp space, t table, value string, first uint64) []byte {
	return binary.BigEndian.AppendUint64(append(appendValue(dst, sp, t, value), 0, 1), first)
}

// appendRedactedKey appends the key of a staged redaction of an entry below the
// staged range: it names the table and the sequence of the row that goes.
func appendRedactedKey(dst []byte, r chain.Redaction) []byte {
	dst = append(appendTable(dst, stagingSpace, tableRedacted), byte(envelopeTable(r)))
	return binary.BigEndian.AppendUint64(dst, r.Sequence)
}

func splitRedactedKey(key []byte) (r chain.Redaction, ok bool) {
	if len(key) != 3+8 {
		return chain.Redaction{}, false
	}
	r = chain.Redaction{Sequence: seqOf(key), Beside: table(key[2]) == tableBeside}
	return r, table(key[2]) == envelopeTable(r)
}

// splitPostingKey returns value and first sequence of a posting list's key.
func splitPostingKey(key []byte, sp space) (value string, first uint64, ok bool) {
	n := 1
	if sp == stagingSpace {
		n++
	}
	if len(key) < n+10 {
		return "", 0, false
	}
	body, end := key[n:len(key)-10], key[len(key)-10:]
	if end[0] != 0 || end[1] != 1 {
		return "", 0, false
	}
	out := make([]byte, 0, len(body))
	for i := 0; i < len(body); i++ {
		out = append(out, body[i])
		if body[i] == 0 {
			if i++; i == len(body) || body[i] != 0xff {
				return "", 0, false
			}
		}
	}
	return string(out), binary.BigEndian.Uint64(end[2:]), true
}

// takeUvarint takes a number off the front of b. It must be in its shortest form.
func takeUvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

// seqOf returns the sequence at the end of a key.
func seqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// tableEnd returns the key after all keys of a table.
func tableEnd(sp space, t table) []byte { return appendTable(nil, sp, t+1) }

const (
	metaSize    = 1 + 8 + 32 + 8 + 32 + 8 + 8 + 8 + 1
	metaVersion = 1
)

// metaRow is what the row M holds.
type metaRow struct {
	chain.Meta
	// hasState says that the row S exists.
	hasState bool
}

func (m *metaRow) encode() []byte {
	b := make([]byte, 0, metaSize)
	b = append(b, metaVersion)
	b = binary.BigEndian.AppendUint64(b, m.Head.Size)
	b = append(b, m.Head.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Head.Time))
	b = append(b, m.Root[:]...)
	b = binary.BigEndian.AppendUint64(b, m.Applied)
	b = binary.BigEndian.AppendUint64(b, m.AppliedTerm)
	b = binary.BigEndian.AppendUint64(b, m.RaftEpoch)
	if m.hasState {
		return append(b, 1)
	}
	return append(b, 0)
}

func decodeMeta(b []byte) (m metaRow, ok bool) {
	if len(b) != metaSize || b[0] != metaVersion || b[metaSize-1] > 1 {
		return metaRow{}, false
	}
	m.Head.Size = binary.BigEndian.Uint64(b[1:])
	copy(m.Head.Hash[:], b[9:])
	m.Head.Time = int64(binary.BigEndian.Uint64(b[41:]))
	copy(m.Root[:], b[49:])
	m.Applied = binary.BigEndian.Uint64(b[81:])
	m.AppliedTerm = binary.BigEndian.Uint64(b[89:])
	m.RaftEpoch = binary.BigEndian.Uint64(b[97:])
	m.hasState = b[metaSize-1] == 1
	return m, true
}

// span is a range of sequences [from, to).
type span struct{ from, to uint64 }

func (s span) contains(seq uint64) bool { return s.from <= seq && seq < s.to }

func (s span) encode() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, s.from), s.to)
}

func decodeSpan(b []byte) (span, bool) {
	if len(b) != 16 {
		return span{}, false
	}
	s := span{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	return s, s.from < s.to
}
