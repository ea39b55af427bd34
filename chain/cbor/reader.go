package cbor

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// Reader reads items one after the other. The first error sticks: every later
// call returns a zero value, and Err and Done return that error, so callers
// may read a whole value and check once. A Reader is used by one goroutine.
type Reader struct {
	data []byte
	// text holds the same bytes as data where the reader shares strings.
	text string
	off  int
	err  error
}

// NewReader returns a reader of data. Byte strings that it returns are parts of
// data; text strings are copies.
func NewReader(data []byte) Reader { return Reader{data: data} }

// NewSharedReader returns a reader of data whose text strings are parts of one
// copy of data: a single allocation for all of them, but any of them keeps the
// whole copy alive (strings.Clone what outlives the rest).
func NewSharedReader(data []byte) Reader { return Reader{data: data, text: string(data)} }

// Err returns the first error, an *Error, or nil.
func (r *Reader) Err() error { return r.err }

// Done returns the first error; data left over is one.
func (r *Reader) Done() error {
	if r.err == nil && r.off < len(r.data) {
		r.Fail(r.off, "data after the end of the value")
	}
	return r.err
}

// Offset returns the position of the next item.
func (r *Reader) Offset() int { return r.off }

// Fail makes err stick, unless one already does: the caller found the item at
// the offset wrong for reasons of its own.
func (r *Reader) Fail(offset int, reason string) {
	if r.err == nil {
		r.err = &Error{Offset: offset, Reason: reason}
		r.off = len(r.data)
	}
}

// Peek returns the type of the next item without reading it.
func (r *Reader) Peek() Type {
	if r.err != nil || r.off >= len(r.data) {
		return Invalid
	}
	switch b := r.data[r.off]; {
	case b == simpleFalse || b == simpleTrue:
		return Bool
	case b>>5 <= 5:
		return Type(b>>5) + Uint
	}
	return Invalid
}

// Uint reads an unsigned integer.
func (r *Reader) Uint() uint64 {
	if r.off < len(r.data) {
		if c := r.data[r.off]; c < 24 {
			r.off++
			return uint64(c)
		}
	}
	return r.head(majorUint)
}

// Int reads an integer that fits 64 bits with sign.
func (r *Reader) Int() int64 {
	start, major := r.off, byte(majorUint)
	if r.Peek() == Negative {
		major = majorNeg
	}
	v := r.head(major)
	if v > math.MaxInt64 {
		r.Fail(start, "integer does not fit 64 bits with sign")
		return 0
	}
	if major == majorNeg && r.err == nil {
		return -1 - int64(v)
	}
	return int64(v)
}

// Bytes reads a byte string. It is a part of the reader's data, its capacity
// clipped to its length.
func (r *Reader) Bytes() []byte {
	off, n := r.str(majorBytes)
	return r.data[off : off+n : off+n]
}

// Fixed reads a byte string of exactly len(dst) bytes into dst.
func (r *Reader) Fixed(dst []byte) {
	start := r.off
	off, n := r.str(majorBytes)
	if r.err == nil && n != len(dst) {
		r.Fail(start, fmt.Sprintf("byte string of %d bytes, want %d", n, len(dst)))
		return
	}
	copy(dst, r.data[off:off+n])
}

// Text reads a text string.
func (r *Reader) Text() string {
	off, n := r.validText()
	return r.textAt(off, n)
}

// TextBytes reads a text string as a part of the reader's data, without an
// allocation.
func (r *Reader) TextBytes() []byte {
	off, n := r.validText()
	return r.data[off : off+n : off+n]
}

func (r *Reader) textAt(off, n int) string {
	if r.text != "" {
		return r.text[off : off+n]
	}
	return string(r.data[off : off+n])
}

// validText reads a text string and returns where it is.
func (r *Reader) validText() (off, n int) {
	start := r.off
	off, n = r.str(majorText)
	if !utf8.Valid(r.data[off : off+n]) {
		r.Fail(start, "text is not valid UTF-8")
		return 0, 0
	}
	return off, n
}

// Bool reads a boolean.
func (r *Reader) Bool() bool {
	if r.Peek() != Bool {
		r.mismatch(Bool)
		return false
	}
	r.off++
	return r.data[r.off-1] == simpleTrue
}

// Array reads the head of an array and returns how many items follow, never
// more than the data left could hold.
func (r *Reader) Array() int { return r.count(majorArray, 1) }

// Map reads the head of a map whose keys are unsigned integers. The caller
// reads each value after Next returned true.
func (r *Reader) Map() Fields { return Fields{r: r, left: r.count(majorMap, 2)} }

// TextMap reads the head of a map whose keys are text. The caller reads each
// value after Next returned true.
func (r *Reader) TextMap() Attributes { return Attributes{r: r, left: r.count(majorMap, 2)} }

// Fields walks over a map with unsigned integer keys.
type Fields struct {
	r    *Reader
	left int
	min  uint64 // the least key that may come next
	key  uint64
	at   int
}

// Len returns how many pairs Next has not reached yet.
func (f *Fields) Len() int { return f.left }

// Next reads the next key. It returns false at the map's end and on an error.
func (f *Fields) Next() bool {
	r := f.r
	// After an error the offset is at the end, and not here.
	if f.left > 0 && r.off < len(r.data) {
		if c := uint64(r.data[r.off]); c < 24 && c >= f.min {
			f.left--
			f.at, f.key, f.min = r.off, c, c+1
			r.off++
			return true
		}
	}
	return f.next()
}

func (f *Fields) next() bool {
	if f.left == 0 || f.r.err != nil {
		return false
	}
	f.left--
	f.at = f.r.off
	f.key = f.r.Uint()
	if f.key < f.min || f.key == math.MaxUint64 && f.left > 0 {
		f.r.Fail(f.at, "map keys are not in ascending order")
	}
	f.min = f.key + 1
	return f.r.err == nil
}

// Key returns the key that Next read.
func (f *Fields) Key() uint64 { return f.key }

// Unknown fails the reader: the key that Next read is not one of the format's.
func (f *Fields) Unknown() { f.r.Fail(f.at, fmt.Sprintf("unknown key %d", f.key)) }

// Attributes walks over a map with text keys.
type Attributes struct {
	r    *Reader
	left int
	// The key's place in the data; kept as numbers, so that a Reader on the
	// stack can stay there.
	off, n int
	any    bool
}

// Len returns how many pairs Next has not reached yet.
func (a *Attributes) Len() int { return a.left }

// Next reads the next key. It returns false at the map's end and on an error.
func (a *Attributes) Next() bool {
	if a.left == 0 || a.r.err != nil {
		return false
	}
	a.left--
	start := a.r.off
	off, n := a.r.validText()
	if a.any && a.r.err == nil {
		previous, key := a.r.data[a.off:a.off+a.n], a.r.data[off:off+n]
		if n < a.n || n == a.n && bytes.Compare(previous, key) >= 0 {
			a.r.Fail(start, "map keys are not in ascending order")
		}
	}
	a.off, a.n, a.any = off, n, true
	return a.r.err == nil
}

// Key returns the key that Next read.
func (a *Attributes) Key() string { return a.r.textAt(a.off, a.n) }

// count reads the head of an array or map whose every element takes at least
// size bytes.
func (r *Reader) count(major byte, size int) int {
	start := r.off
	n := r.head(major)
	if n > uint64((len(r.data)-r.off)/size) {
		r.Fail(start, "more elements than data")
		return 0
	}
	return int(n)
}

// str reads the head of a string and skips its content, which it returns as
// offset and length.
func (r *Reader) str(major byte) (off, n int) {
	start := r.off
	// Nearly all strings are shorter than 256 bytes: one byte of head, or two.
	if start+1 < len(r.data) {
		n := int(r.data[start]) - int(major)
		if n >= 0 && n < 24 && n <= len(r.data)-start-1 {
			r.off = start + 1 + n
			return start + 1, n
		}
		if k := int(r.data[start+1]); n == 24 && k >= 24 && k <= len(r.data)-start-2 {
			r.off = start + 2 + k
			return start + 2, k
		}
	}
	v := r.head(major)
	if v > uint64(len(r.data)-r.off) {
		r.Fail(start, "string goes beyond the end of the data")
		return 0, 0
	}
	off = r.off
	r.off += int(v)
	return off, int(v)
}

// head reads an item's head, which must be of the given major type and in its
// shortest form.
func (r *Reader) head(major byte) uint64 {
	if r.err != nil {
		return 0
	}
	if r.off >= len(r.data) {
		r.Fail(len(r.data), "unexpected end of the data")
		return 0
	}
	c := r.data[r.off]
	if c&0xe0 != major {
		r.mismatch(Type(major>>5) + Uint)
		return 0
	}
	info := c & 0x1f
	if info < 24 {
		r.off++
		return uint64(info)
	}
	return r.longHead(info)
}

func (r *Reader) longHead(info byte) uint64 {
	rest := r.data[r.off+1:]
	if info > 27 {
		r.Fail(r.off, "reserved or indefinite length")
		return 0
	}
	size := 1 << (info - 24)
	if len(rest) < size {
		r.Fail(r.off, "unexpected end of the data")
		return 0
	}
	var v, least uint64
	switch size {
	case 1:
		v, least = uint64(rest[0]), 24
	case 2:
		v, least = uint64(binary.BigEndian.Uint16(rest)), 1<<8
	case 4:
		v, least = uint64(binary.BigEndian.Uint32(rest)), 1<<16
	case 8:
		v, least = binary.BigEndian.Uint64(rest), 1<<32
	}
	if v < least {
		r.Fail(r.off, "integer or length is not in its shortest form")
		return 0
	}
	r.off += 1 + size
	return v
}

func (r *Reader) mismatch(want Type) {
	if r.err != nil {
		return
	}
	if r.off >= len(r.data) {
		r.Fail(len(r.data), "unexpected end of the data")
		return
	}
	r.Fail(r.off, fmt.Sprintf("%v, want %v", r.Peek(), want))
}
