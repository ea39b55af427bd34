package gates

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/exonode/exonode/catalog"
)

// The encoding of a State, frozen:
//
//	byte     version, 1
//	uvarint  governance revision
//	bytes    the policy's canonical form; empty where there is none
//	uvarint  number of catalog additions, then for each, sorted by kind:
//	    bytes    kind
//	    bytes    gate
//	    uvarint  version
//	    byte     1 where retired, else 0
//	    bytes    schema
//
// "bytes" is a uvarint length and that many bytes; a uvarint is encoding/binary's
// in its shortest form. Nothing follows.
const stateVersion = 1

// ErrState: the bytes are no encoded State of this version.
var ErrState = errors.New("invalid governance state")

// AppendBinary implements encoding.BinaryAppender. Equal states have equal
// encodings. The error is always nil.
func (s State) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, stateVersion)
	b = binary.AppendUvarint(b, s.revision)
	var policy []byte
	if s.policy != nil {
		policy = s.policy.Encode()
	}
	b = appendBytes(b, policy)
	additions := s.catalog.Additions()
	b = binary.AppendUvarint(b, uint64(len(additions)))
	for _, a := range additions {
		b = appendBytes(b, a.Kind)
		b = appendBytes(b, a.Gate)
		b = binary.AppendUvarint(b, a.Version)
		if a.Retired {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		b = appendBytes(b, a.Schema)
	}
	return b, nil
}

func appendBytes[T string | []byte](b []byte, data T) []byte {
	b = binary.AppendUvarint(b, uint64(len(data)))
	return append(b, data...)
}

// DecodeState reads what AppendBinary wrote, and nothing else. It keeps no
// reference to data. The error wraps ErrState.
func DecodeState(data []byte, hash Hasher) (State, error) {
	d := decoder{data: data}
	s := NewState(hash)
	if v := d.byte(); d.err == nil && v != stateVersion {
		return State{}, fmt.Errorf("gates: %w: version %d, want %d", ErrState, v, stateVersion)
	}
	s.revision = d.uvarint(math.MaxUint64)
	policy := d.bytes(len(data))
	var additions []catalog.Addition
	for range d.uvarint(catalog.MaxAdditions) {
		a := catalog.Addition{
			Kind:    string(d.bytes(catalog.MaxKindName)),
			Gate:    string(d.bytes(catalog.MaxKindName)),
			Version: d.uvarint(math.MaxUint64),
		}
		retired := d.byte()
		if retired > 1 {
			d.fail("a flag is neither 0 nor 1")
		}
		a.Retired = retired == 1
		a.Schema = append([]byte{}, d.bytes(catalog.MaxSchema)...)
		if d.err != nil {
			break
		}
		additions = append(additions, a)
	}
	if len(d.data) > 0 {
		d.fail("bytes after the end")
	}
	if d.err != nil {
		return State{}, d.err
	}
	if len(policy) > 0 {
		p, err := DecodePolicy(policy)
		if err != nil {
			return State{}, fmt.Errorf("gates: %w: %w", ErrState, err)
		}
		s.policy, s.policyHash = &p, hash(policy)
	}
	var err error
	if s.catalog, err = catalog.NewSet(additions); err != nil {
		return State{}, fmt.Errorf("gates: %w: %w", ErrState, err)
	}
	return s, nil
}

// A decoder takes values off the front of data. After the first error it
// returns zeros.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("gates: %w: %s", ErrState, what)
	}
	d.data = nil
}

func (d *decoder) byte() byte {
	if len(d.data) == 0 {
		d.fail("it ends early")
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return b
}

// uvarint takes a number of at most limit.
func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.data)
	switch {
	case n <= 0:
		d.fail("a number ends early or is too large")
		return 0
	case n > 1 && d.data[n-1] == 0:
		d.fail("a number is not in its shortest form")
		return 0
	case v > limit:
		d.fail("a number is above its limit")
		return 0
	}
	d.data = d.data[n:]
	return v
}

// bytes takes a string of at most limit bytes, which aliases the data.
func (d *decoder) bytes(limit int) []byte {
	n := d.uvarint(uint64(limit))
	if n > uint64(len(d.data)) {
		d.fail("a string ends early")
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}
