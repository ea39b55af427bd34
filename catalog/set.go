package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits on what a chain may add to the catalog. They are part of what every
// replica decides alike, and never change.
const (
	// MaxKindName is the most bytes in a kind's or a gate's name.
	MaxKindName = 128
	// MaxSchema is the most bytes in a registered kind's schema.
	MaxSchema = 64 << 10
	// MaxAdditions is the most kinds that a chain registers, retired ones
	// included.
	MaxAdditions = 4096
	// MaxSchemas is the most bytes in all registered schemas together.
	MaxSchemas = 4 << 20
)

// Errors of a Set.
var (
	// ErrUnknownKind: the kind is neither built in nor registered.
	// Register it, or have policy accept unknown kinds.
	ErrUnknownKind = errors.New("unknown kind")
	// ErrRetiredKind: the kind was registered and then retired; no policy
	// accepts it. Use its successor, or register it again.
	ErrRetiredKind = errors.New("retired kind")
	// ErrReservedKind: chain.* and governance.* are the cluster's own.
	// Choose another name.
	ErrReservedKind = errors.New("reserved kind")
	// ErrBadName: a kind's or gate's name is not of lower-case dotted
	// words. Choose another name.
	ErrBadName = errors.New("bad name")
	// ErrLimit: the addition exceeds a limit, which the text names.
	ErrLimit = errors.New("catalog limit")
)

// Addition is what a chain registered under a kind's name.
type Addition struct {
	Kind string
	// Gate is the name of the gate that the kind passes; "" is none.
	Gate string
	// Version is the schema's version: 1 at first, one more each time that
	// the kind is registered again.
	Version uint64
	// Retired kinds are unknown until they are registered again.
	Retired bool
	// Schema is the JSON Schema of the payload, as it was registered.
	Schema []byte
}

// Set is the catalog of one chain: the built-in kinds and the chain's own
// additions. It is a value: Register and Retire return a changed copy and leave
// the receiver as it is. The zero Set has no additions. It is safe for
// concurrent use.
//
// What a Set accepts depends on nothing but its arguments and the constants
// above: not on the built-in kinds, which differ between versions of the
// program, nor on whether a schema compiles. CheckRegister asks those
// questions, before an addition is submitted. Where a later version builds in
// a kind that a chain has registered, the chain's own goes first.
type Set struct {
	additions []*addition // sorted by kind; never changed in place
}

// addition is an Addition with its compiled schema, shared by copies.
type addition struct {
	Addition
	compiled lazySchema
}

// NewSet returns the set with these additions, which must be sorted by kind as
// Additions returns them.
func NewSet(additions []Addition) (Set, error) {
	var s Set
	for i, a := range additions {
		if i > 0 && additions[i-1].Kind >= a.Kind {
			return Set{}, fmt.Errorf("catalog: additions are not sorted at %q", a.Kind)
		}
		if a.Version == 0 {
			return Set{}, fmt.Errorf("catalog: addition %q has version 0", a.Kind)
		}
		if err := checkAddition(a.Kind, a.Gate, a.Schema); err != nil {
			return Set{}, err
		}
		s.additions = append(s.additions, &addition{Addition: a})
	}
	return s, s.checkSize()
}

// Additions returns the additions sorted by kind. Callers must not change the
// schemas.
func (s Set) Additions() []Addition {
	list := make([]Addition, len(s.additions))
	for i, a := range s.additions {
		list[i] = a.Addition
	}
	return list
}

// Register returns s with a kind added or replaced. It keeps schema. An error
// leaves nothing to be undone.
func (s Set) Register(kind, gate string, schema []byte) (Set, error) {
	if err := checkAddition(kind, gate, schema); err != nil {
		return s, err
	}
	a := &addition{Addition: Addition{Kind: kind, Gate: gate, Version: 1, Schema: schema}}
	i, found := s.find(kind)
	list := slices.Clone(s.additions)
	if found {
		a.Version = list[i].Version + 1
		list[i] = a
	} else {
		list = slices.Insert(list, i, a)
	}
	next := Set{additions: list}
	if err := next.checkSize(); err != nil {
		return s, err
	}
	return next, nil
}

// Retire returns s without a registered kind; events of it are refused from
// then on. Built-in kinds can't be retired.
func (s Set) Retire(kind string) (Set, error) {
	i, found := s.find(kind)
	switch {
	case !found:
		return s, fmt.Errorf("catalog: retire %q: %w", kind, ErrUnknownKind)
	case s.additions[i].Retired:
		return s, fmt.Errorf("catalog: retire %q: %w", kind, ErrRetiredKind)
	}
	list := slices.Clone(s.additions)
	// The schema goes; entries of the kind name its version, and the
	// catalog.register entry has it.
	list[i] = &addition{Addition: Addition{Kind: kind, Version: list[i].Version, Retired: true, Schema: []byte("{}")}}
	return Set{additions: list}, nil
}

// Lookup returns a kind that events may have.
func (s Set) Lookup(kind string) (Kind, bool) {
	if i, found := s.find(kind); found {
		a := s.additions[i]
		return a.asKind(), !a.Retired
	}
	return Lookup(kind)
}

// Kinds returns every kind that events may have, sorted by name.
func (s Set) Kinds() []Kind {
	var list []Kind
	for _, k := range kinds {
		if _, found := s.find(k.Name); !found {
			list = append(list, k)
		}
	}
	for _, a := range s.additions {
		if !a.Retired {
			list = append(list, a.asKind())
		}
	}
	slices.SortFunc(list, func(a, b Kind) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Validate checks an event's payload. The error is a *FieldError, or wraps
// ErrUnknownKind or ErrRetiredKind.
func (s Set) Validate(kind, contentType string, payload []byte) error {
	if i, found := s.find(kind); found {
		if s.additions[i].Retired {
			return fmt.Errorf("catalog: %w: %q", ErrRetiredKind, kind)
		}
		return s.additions[i].validate(contentType, payload)
	}
	i, ok := findKind(kind)
	if !ok {
		return fmt.Errorf("catalog: %w: %q", ErrUnknownKind, kind)
	}
	return kinds[i].Validate(contentType, payload)
}

func (s Set) find(kind string) (int, bool) {
	return slices.BinarySearchFunc(s.additions, kind, func(a *addition, kind string) int {
		return strings.Compare(a.Kind, kind)
	})
}

func (s Set) checkSize() error {
	if len(s.additions) > MaxAdditions {
		return fmt.Errorf("catalog: %w: more than %d registered kinds", ErrLimit, MaxAdditions)
	}
	total := 0
	for _, a := range s.additions {
		total += len(a.Schema)
	}
	if total > MaxSchemas {
		return fmt.Errorf("catalog: %w: more than %d bytes of registered schemas", ErrLimit, MaxSchemas)
	}
	return nil
}

func (a *addition) asKind() Kind {
	if a.Retired {
		return Kind{}
	}
	return Kind{Name: a.Kind, Gate: a.Gate, SchemaVersion: a.Version, Schema: a.Schema}
}

// checkAddition checks the form of an addition: all that replicas look at.
func checkAddition(kind, gate string, schema []byte) error {
	switch {
	case !ValidName(kind):
		return fmt.Errorf("catalog: kind %q: %w", kind, ErrBadName)
	case Reserved(kind):
		return fmt.Errorf("catalog: kind %q: %w", kind, ErrReservedKind)
	case gate != "" && !ValidName(gate):
		return fmt.Errorf("catalog: gate %q: %w", gate, ErrBadName)
	case len(schema) > MaxSchema:
		return fmt.Errorf("catalog: %w: schema of %q has %d bytes, at most %d", ErrLimit, kind, len(schema), MaxSchema)
	}
	return nil
}

// CheckRegister reports whether it makes sense to register a kind, as the node
// that is asked to do so sees it: its name is free, the gate exists, the schema
// compiles. The error is a *FieldError over the payload of catalog.register.
func (s Set) CheckRegister(kind, gate string, schema []byte) error {
	wrong := func(field, want, got string) error {
		return &FieldError{Kind: KindCatalogRegister, Field: field, Want: want, Got: got}
	}
	_, registered := s.find(kind)
	_, builtIn := Lookup(kind)
	switch {
	case !ValidName(kind):
		return wrong("kind", "lower-case dotted words, at most 128 bytes", "another form")
	case Reserved(kind):
		return wrong("kind", "a name outside chain.* and governance.*", "a reserved one")
	case builtIn && !registered:
		return wrong("kind", "a name that is free", "a built-in kind")
	}
	if _, ok := LookupGate(gate); gate != "" && !ok {
		return wrong("gate", "a gate of the catalog, or the empty string", "an unknown one")
	}
	if _, err := compileSchema(schema); err != nil {
		return wrong("schema", "a JSON Schema", err.Error())
	}
	if _, err := s.Register(kind, gate, schema); err != nil {
		return wrong("schema", "an addition within the limits", err.Error())
	}
	return nil
}

// ValidName reports whether name has the form of a kind's or a gate's name: at
// least two words of lower-case letters, digits, "_" and "-", joined by dots,
// each beginning with a letter or digit; at most MaxKindName bytes.
func ValidName(name string) bool {
	if len(name) > MaxKindName {
		return false
	}
	words, start := 0, true
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z' || isDigit(c):
			if start {
				words++
			}
			start = false
		case start:
			return false
		case c == '.':
			start = true
		case c != '_' && c != '-':
			return false
		}
	}
	return words >= 2 && !start
}
