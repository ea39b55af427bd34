// Package catalog holds the event kinds and the gates as data: what a kind's
// payload must contain, which gate it passes, and what a gate weighs.
//
// The data lies in one place, catalog/data; the tables, the constants
// (KindAgentSpawn, GateAgentSpawn) and the payload types (AgentSpawn) are
// generated from it. A Set adds what a chain's own catalog.register entries
// brought. A node's leader validates payloads with it before it accepts an
// event; clients use the constants and payload types.
//
// A kind's payload never changes once it is released, but by a new version:
// chains outlive binaries. The package does no I/O, knows nothing of policy and
// compiles to WebAssembly.
package catalog

import (
	"encoding/json"
	"slices"
	"sort"
	"strings"
)

//go:generate go run ./internal/gen

// SystemWorkspace is the workspace in which only nodes write.
const SystemWorkspace = "system"

// Kind is the type of an event.
type Kind struct {
	// Name is the kind's name, lower-case dotted words ("agent.spawn").
	Name string
	// Subsystem groups kinds; "" for registered ones.
	Subsystem string
	// Item is the compliance item that the kind serves; "" is none.
	Item string
	// Gate is the gate that an event of this kind passes; "" is none.
	Gate string
	// SchemaVersion counts the versions of the payload's schema, from 1.
	SchemaVersion uint64
	// Fields is what the payload, a JSON object, must contain; other
	// fields are allowed. Callers must not change it. Empty for registered
	// kinds.
	Fields []Field
	// Schema is the JSON Schema of a registered kind's payload; nil for
	// built-in ones. Callers must not change it.
	Schema []byte
}

// Field is one field of a payload.
type Field struct {
	Name string
	Type Type
	// Elem is the type of an array's elements; 0 leaves them unchecked.
	Elem Type
	// Optional fields may be absent; present, they have Type.
	Optional bool
}

// Type is a JSON type.
type Type uint8

// The types. An integer is a JSON number without fraction and exponent in the
// range of int64; any integer is a number.
const (
	TypeString Type = 1 + iota
	TypeInteger
	TypeNumber
	TypeBoolean
	TypeArray
	TypeObject
)

// String returns the type's name in JSON Schema.
func (t Type) String() string {
	switch t {
	case TypeString:
		return "string"
	case TypeInteger:
		return "integer"
	case TypeNumber:
		return "number"
	case TypeBoolean:
		return "boolean"
	case TypeArray:
		return "array"
	case TypeObject:
		return "object"
	}
	return "unknown"
}

// Gate is a named check on an action.
type Gate struct {
	Name string
	// Effect is the least effect of what passes the gate, in
	// ten-thousandths: risk, fairness, privacy, novelty, security.
	Effect  [5]uint16
	Purpose string
}

// Lookup returns a built-in kind.
func Lookup(kind string) (Kind, bool) {
	i, ok := findKind(kind)
	if !ok {
		return Kind{}, false
	}
	return kinds[i], true
}

// findKind is a binary search that, unlike package slices, does not copy a
// Kind at each step.
func findKind(name string) (int, bool) {
	return sort.Find(len(kinds), func(i int) int { return strings.Compare(name, kinds[i].Name) })
}

// Kinds returns the built-in kinds, sorted by name.
func Kinds() []Kind { return slices.Clone(kinds[:]) }

// LookupGate returns a gate.
func LookupGate(name string) (Gate, bool) {
	i, ok := slices.BinarySearchFunc(gates[:], name, func(g Gate, name string) int { return strings.Compare(g.Name, name) })
	if !ok {
		return Gate{}, false
	}
	return gates[i], true
}

// Gates returns the gates, sorted by name.
func Gates() []Gate { return slices.Clone(gates[:]) }

// Reserved reports whether events of a kind may stand in workspace system
// alone.
func Reserved(kind string) bool {
	return strings.HasPrefix(kind, "chain.") || strings.HasPrefix(kind, "governance.")
}

// List is an array in a payload; nil is the empty array.
type List[T any] []T

// MarshalJSON implements json.Marshaler.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}

// Object is a JSON object in a payload, as text; nil is the empty object.
type Object json.RawMessage

// MarshalJSON implements json.Marshaler.
func (o Object) MarshalJSON() ([]byte, error) {
	if o == nil {
		return []byte("{}"), nil
	}
	return o, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *Object) UnmarshalJSON(text []byte) error {
	*o = slices.Clone(text)
	return nil
}
