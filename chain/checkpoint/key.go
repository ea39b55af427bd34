package checkpoint

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"filippo.io/mldsa"
)

// KeyType is a signed note's signature type. Its numbers are assigned by
// c2sp.org/signed-note and c2sp.org/tlog-cosignature.
type KeyType byte

// The types that this package has.
const (
	// Log signs a checkpoint's text with Ed25519.
	Log KeyType = 0x01
	// Cosigner signs text and time with Ed25519.
	Cosigner KeyType = 0x04
	// MLDSACosigner signs size, root and time with ML-DSA-44.
	MLDSACosigner KeyType = 0x06
)

// keyTypes says how large public keys and signatures are, in bytes. Cosignatures are
// preceded by 8 bytes of time.
var keyTypes = map[KeyType]struct{ public, signature int }{
	Log:           {ed25519.PublicKeySize, ed25519.SignatureSize},
	Cosigner:      {ed25519.PublicKeySize, 8 + ed25519.SignatureSize},
	MLDSACosigner: {mldsa.MLDSA44PublicKeySize, 8 + mldsa.MLDSA44SignatureSize},
}

// Key is a public key that signs notes. Name and ID tell which of a note's signatures
// are its own.
type Key struct {
	// Name has 1 to 255 bytes, no white space and no plus sign. Of a log it is the
	// origin.
	Name string
	Type KeyType
	// Public is the encoded public key: 32 bytes of Ed25519, 1,312 of ML-DSA-44.
	Public []byte
}

// Validate returns an error, which wraps ErrFormat, where k can't be a key.
func (k *Key) Validate() error {
	t, known := keyTypes[k.Type]
	switch {
	case !known:
		return formatError("key %q has type 0x%02x, want 0x01, 0x04 or 0x06", k.Name, byte(k.Type))
	case len(k.Public) != t.public:
		return formatError("key %q of type 0x%02x has %d bytes, want %d", k.Name, byte(k.Type), len(k.Public), t.public)
	case len(k.Name) == 0 || len(k.Name) > 255 || !validName(k.Name):
		return formatError("key name %q: want 1 to 255 bytes without white space or plus sign", k.Name)
	}
	return nil
}

func validName(name string) bool {
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == '+' || r < ' ' || unicode.IsSpace(r)
	})
}

// ID is the key's id, as c2sp.org/signed-note computes it.
func (k *Key) ID() uint32 {
	h := sha256.New()
	h.Write([]byte(k.Name))
	h.Write([]byte{'\n', byte(k.Type)})
	h.Write(k.Public)
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// Equal reports whether the keys have name, type and public key in common.
func (k *Key) Equal(other *Key) bool {
	return k.Name == other.Name && k.Type == other.Type && bytes.Equal(k.Public, other.Public)
}

// String returns the key as a vkey, which ParseKey reads.
func (k *Key) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.Name, k.ID(), base64.StdEncoding.EncodeToString(append([]byte{byte(k.Type)}, k.Public...)))
}

// MarshalText implements encoding.TextMarshaler: it is String.
func (k *Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler: it is ParseKey.
func (k *Key) UnmarshalText(text []byte) (err error) {
	*k, err = ParseKey(string(text))
	return err
}

// ParseKey reads a vkey (c2sp.org/signed-note): name, id in hex and key in base64,
// with plus signs between. The error wraps ErrFormat.
func ParseKey(vkey string) (Key, error) {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return Key{}, formatError("%q is not a key: want name+id+key", vkey)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(b) == 0 || strings.ContainsAny(parts[2], "\r\n") {
		return Key{}, formatError("key %q is not base64", parts[0])
	}
	k := Key{Name: parts[0], Type: KeyType(b[0]), Public: b[1:]}
	if err := k.Validate(); err != nil {
		return Key{}, err
	}
	id, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil || len(parts[1]) != 8 || uint32(id) != k.ID() {
		return Key{}, formatError("key %q has id %s, want %08x", k.Name, parts[1], k.ID())
	}
	return k, nil
}

// verify checks the signature that a note has of this key, without the id, and returns
// its time in Unix seconds: 0 of a log's. c is what text says.
func (k *Key) verify(text string, c *Checkpoint, signature []byte) (time uint64, ok bool) {
	if len(signature) != keyTypes[k.Type].signature {
		return 0, false
	}
	if k.Type == Log {
		return 0, ed25519.Verify(k.Public, []byte(text), signature)
	}
	time, signature = binary.BigEndian.Uint64(signature), signature[8:]
	if time >= 1<<63 {
		return 0, false
	}
	if k.Type == Cosigner {
		return time, ed25519.Verify(k.Public, cosignedText(text, time), signature)
	}
	public, err := mldsa.NewPublicKey(mldsa.MLDSA44(), k.Public)
	if err != nil {
		return 0, false
	}
	return time, mldsa.Verify(public, cosignedMessage(k.Name, time, c), signature, nil) == nil
}

// cosignedText is what an Ed25519 cosigner signs.
func cosignedText(text string, time uint64) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", time, text)
}

// cosignedMessage is what an ML-DSA-44 cosigner signs: cosigned_message of
// c2sp.org/tlog-cosignature, over the whole tree.
func cosignedMessage(name string, time uint64, c *Checkpoint) []byte {
	b := append([]byte("subtree/v1\n\x00"), byte(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint64(b, time)
	b = append(append(b, byte(len(c.Origin))), c.Origin...)
	b = binary.BigEndian.AppendUint64(b, 0) // start
	b = binary.BigEndian.AppendUint64(b, c.Size)
	return append(b, c.Root[:]...)
}
