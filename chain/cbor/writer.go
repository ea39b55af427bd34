package cbor

import (
	"encoding/binary"
	"math/bits"
)

// AppendUint appends an unsigned integer.
func AppendUint(b []byte, v uint64) []byte { return appendHead(b, majorUint, v) }

// AppendInt appends an integer, negative ones as such.
func AppendInt(b []byte, v int64) []byte {
	if v < 0 {
		return appendHead(b, majorNeg, uint64(-1-v))
	}
	return appendHead(b, majorUint, uint64(v))
}

// AppendBytes appends a byte string.
func AppendBytes(b, v []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(v))), v...)
}

// AppendBytesHead appends the head of a byte string of n bytes; the caller
// appends the bytes themselves.
func AppendBytesHead(b []byte, n int) []byte { return appendHead(b, majorBytes, uint64(n)) }

// AppendText appends a text string, which the caller knows to be valid UTF-8.
func AppendText(b []byte, v string) []byte {
	return append(appendHead(b, majorText, uint64(len(v))), v...)
}

// AppendArray appends the head of an array; n items follow.
func AppendArray(b []byte, n int) []byte { return appendHead(b, majorArray, uint64(n)) }

// AppendMap appends the head of a map; n pairs follow, in ascending order of
// their encoded keys. For unsigned keys that is numeric order, for text keys
// the shorter first and bytewise among equal lengths (see CompareText).
func AppendMap(b []byte, n int) []byte { return appendHead(b, majorMap, uint64(n)) }

// AppendBool appends a boolean.
func AppendBool(b []byte, v bool) []byte {
	if v {
		return append(b, simpleTrue)
	}
	return append(b, simpleFalse)
}

// CompareText orders text map keys as a map holds them. It returns -1, 0 or 1.
func CompareText(a, b string) int {
	switch {
	case len(a) != len(b) && len(a) < len(b):
		return -1
	case len(a) != len(b):
		return 1
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// UintSize returns how many bytes AppendUint appends; it is also the size of
// the head of a string, array or map of that length.
func UintSize(v uint64) int {
	if v < 24 {
		return 1
	}
	// 1, 2, 4 or 8 bytes after the first.
	n := (bits.Len64(v) + 7) / 8
	return 1 + 1<<bits.Len(uint(n-1))
}

func appendHead(b []byte, major byte, v uint64) []byte {
	switch {
	case v < 24:
		return append(b, major|byte(v))
	case v <= 0xff:
		return append(b, major|24, byte(v))
	case v <= 0xffff:
		return append(b, major|25, byte(v>>8), byte(v))
	case v <= 0xffffffff:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(v))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), v)
}
