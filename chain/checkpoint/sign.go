package checkpoint

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"

	"filippo.io/mldsa"
)

// Signer makes signatures of one key. It does not remember what it signed: whoever
// holds it must see to it that no two of its checkpoints contradict each other.
type Signer struct {
	key     Key
	ed25519 ed25519.PrivateKey
	mldsa   *mldsa.PrivateKey
}

// NewLogSigner returns a signer of a log's checkpoints; name is the origin.
func NewLogSigner(name string, key ed25519.PrivateKey) (*Signer, error) {
	return newEd25519(Log, name, key)
}

// NewCosigner returns a signer of Ed25519 cosignatures. The key must sign nothing else:
// what it signs does not name it.
func NewCosigner(name string, key ed25519.PrivateKey) (*Signer, error) {
	return newEd25519(Cosigner, name, key)
}

func newEd25519(t KeyType, name string, key ed25519.PrivateKey) (*Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, formatError("a private key of %d bytes, want %d", len(key), ed25519.PrivateKeySize)
	}
	s := &Signer{key: Key{Name: name, Type: t, Public: key.Public().(ed25519.PublicKey)}, ed25519: key}
	return s, s.key.Validate()
}

// NewMLDSACosigner returns a signer of ML-DSA-44 cosignatures; seed is the 32 bytes that
// FIPS 204 makes a key from.
func NewMLDSACosigner(name string, seed []byte) (*Signer, error) {
	key, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed)
	if err != nil {
		return nil, formatError("ML-DSA-44 seed: %w", err)
	}
	s := &Signer{key: Key{Name: name, Type: MLDSACosigner, Public: key.PublicKey().Bytes()}, mldsa: key}
	return s, s.key.Validate()
}

// Key returns the public half.
func (s *Signer) Key() Key { return s.key }

// Sign signs a checkpoint. time is when, in Unix seconds, below 2^63; a log's signature
// has none. The error wraps ErrFormat where c can't be signed.
func (s *Signer) Sign(c *Checkpoint, time uint64) (Signature, error) {
	if err := c.Validate(); err != nil {
		return Signature{}, err
	}
	if time >= 1<<63 {
		return Signature{}, formatError("time %d, want less than 2^63", time)
	}
	out := Signature{Name: s.key.Name, KeyID: s.key.ID()}
	text := c.Text()
	switch s.key.Type {
	case Log:
		if c.Origin != s.key.Name {
			return Signature{}, formatError("log %q asked to sign for %q", s.key.Name, c.Origin)
		}
		out.Bytes = ed25519.Sign(s.ed25519, []byte(text))
	case Cosigner:
		out.Bytes = append(binary.BigEndian.AppendUint64(nil, time), ed25519.Sign(s.ed25519, cosignedText(text, time))...)
	case MLDSACosigner:
		b, err := s.mldsa.Sign(nil, cosignedMessage(s.key.Name, time, c), nil)
		if err != nil {
			return Signature{}, fmt.Errorf("checkpoint: sign with ML-DSA-44: %w", err)
		}
		out.Bytes = append(binary.BigEndian.AppendUint64(nil, time), b...)
	}
	return out, nil
}
