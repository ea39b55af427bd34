// Package cbor writes and reads the one encoding that the project hashes: the
// core deterministic encoding of RFC 8949, section 4.2.1, restricted to
// unsigned and negative integers, byte strings, text strings, arrays, maps and
// booleans. Integers and lengths have their shortest form, lengths are
// definite, text is valid UTF-8, map keys are sorted by their encoded bytes and
// unique. There are no tags, no floating point, no null and no undefined.
//
// The writer appends to a byte slice and can't fail. The reader refuses every
// byte that the writer would not have written, so that one value has one
// encoding; what the writer leaves to its caller (the order of map keys) the
// reader checks.
//
// The package knows nothing of entries or commands: packages chain and fsm
// build their formats on it. It must not grow a general, reflecting codec.
package cbor

import "fmt"

// The major types, in the upper three bits of an item's first byte.
const (
	majorUint  = 0 << 5
	majorNeg   = 1 << 5
	majorBytes = 2 << 5
	majorText  = 3 << 5
	majorArray = 4 << 5
	majorMap   = 5 << 5

	simpleFalse = 0xf4
	simpleTrue  = 0xf5
)

// Type is the type of an item.
type Type uint8

// The types that this encoding has.
const (
	Invalid Type = iota // the end of the data, or a type that is refused
	Uint
	Negative
	Bytes
	Text
	Array
	Map
	Bool
)

var typeNames = [...]string{
	"invalid item", "unsigned integer", "negative integer", "byte string",
	"text string", "array", "map", "boolean",
}

// String returns the type's name.
func (t Type) String() string { return typeNames[t] }

// Error says where data is not what the writer would have written.
type Error struct {
	// Offset is the first byte of the offending item.
	Offset int
	// Reason says what is wrong with it.
	Reason string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("cbor: byte %d: %s", e.Offset, e.Reason) }
