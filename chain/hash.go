package chain

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// Hash is a 32-byte digest: a BLAKE3 header or envelope hash, or a SHA-256
// node of the Merkle tree. Its text form is lower-case hex.
type Hash [32]byte

// String returns h in lower-case hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero reports whether h is all zero.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error { return unhex(h[:], text) }

// ID identifies a chain: 128 random bits, in lower-case hex as text.
type ID [16]byte

// String returns id in lower-case hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error { return unhex(id[:], text) }

// errUpperHex: one value has one text, as it has one encoding.
var errUpperHex = errors.New("upper-case hex digit")

func unhex(dst, text []byte) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("chain: %d hex digits, want %d", len(text), hex.EncodedLen(len(dst)))
	}
	for _, c := range text {
		if 'A' <= c && c <= 'F' {
			return fmt.Errorf("chain: %w", errUpperHex)
		}
	}
	if _, err := hex.Decode(dst, text); err != nil {
		return fmt.Errorf("chain: %w", err)
	}
	return nil
}
