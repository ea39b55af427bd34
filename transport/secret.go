package transport

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/zeebo/blake3"
)

// BLAKE3 derive-key contexts, one for each use of the cluster's secret, and one
// for the tag that tells clusters apart.
const (
	contextGossip = "github.com/exonode/exonode 2026 gossip key v1"
	contextJoin   = "github.com/exonode/exonode 2026 join proof key v1"
	contextTag    = "github.com/exonode/exonode 2026 cluster tag v1"
)

const (
	// secretPrefix starts a secret's text, so that people and scanners
	// recognise one.
	secretPrefix = "exosecret1"
	secretSize   = 32
	proofSize    = sha256.Size
	tagSize      = 16
	exporterSize = 32
	// exporterLabel is the RFC 8446 7.5 exporter label of the material that
	// binds a proof to one TLS session.
	exporterLabel = "EXPORTER-exonode-join-proof"
)

// Secret is a cluster's secret: 32 random bytes that every node has. It gives
// the gossip key and the proof of a join, and nothing more. Its formatted and
// logged forms are redacted; Reveal is the only way to its text. The zero
// Secret is no secret and is refused by New.
type Secret struct {
	// key is a function so that fmt, which may not call the methods of an
	// unexported field and looks behind a pointer, prints an address at
	// worst.
	key func() []byte
}

func secretOf(raw []byte) Secret { return Secret{key: func() []byte { return raw }} }

// NewSecret draws a secret.
func NewSecret() (Secret, error) {
	raw := make([]byte, secretSize)
	if _, err := rand.Read(raw); err != nil {
		return Secret{}, fmt.Errorf("transport: new secret: %w", err)
	}
	return secretOf(raw), nil
}

// ParseSecret reads the text that Reveal returns. Its error does not quote it.
func ParseSecret(text string) (Secret, error) {
	digits, ok := strings.CutPrefix(text, secretPrefix)
	raw, err := base32Lower.DecodeString(digits)
	if !ok || err != nil || len(raw) != secretSize || base32Lower.EncodeToString(raw) != digits {
		return Secret{}, fmt.Errorf("transport: not a cluster secret: want %s and 52 base32 digits", secretPrefix)
	}
	return secretOf(raw), nil
}

// Reveal returns the secret's text, for the cluster file.
func (s Secret) Reveal() string { return secretPrefix + base32Lower.EncodeToString(s.key()) }

// IsZero reports whether s is no secret.
func (s Secret) IsZero() bool { return s.key == nil }

// GossipKey returns the 32-byte key that encrypts gossip (AES-256).
func (s Secret) GossipKey() []byte { return s.derive(contextGossip) }

// String returns a placeholder.
func (Secret) String() string { return "[secret]" }

// Format implements fmt.Formatter for every verb with a placeholder.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// LogValue implements slog.LogValuer with a placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue("[secret]") }

func (s Secret) derive(context string) []byte {
	out := make([]byte, 32)
	blake3.DeriveKey(context, s.key(), out)
	return out
}

// session is what both ends of a join or fetch connection know alike.
type session struct {
	exporter         []byte // keying material of this TLS session alone
	class            Class
	dialer, acceptor string // node ids, as the handshake proved them
	genesis          [32]byte
}

// role is which end a proof is of, so that neither can be echoed.
type role byte

const (
	roleDialer   role = 1
	roleAcceptor role = 2
)

// proof is the HMAC-SHA256 under the join key over: role, exporter (32 bytes),
// genesis hash (32 bytes), and class and both node ids, each after its length
// as a big-endian uint16.
func (s session) proof(joinKey []byte, r role) []byte {
	mac := hmac.New(sha256.New, joinKey)
	mac.Write([]byte{byte(r)})
	mac.Write(s.exporter)
	mac.Write(s.genesis[:])
	for _, field := range []string{string(s.class), s.dialer, s.acceptor} {
		var n [2]byte
		binary.BigEndian.PutUint16(n[:], uint16(len(field)))
		mac.Write(n[:])
		_, _ = io.WriteString(mac, field)
	}
	return mac.Sum(nil)
}

// tag says which cluster the dialer is of, to those alone who know that
// cluster's genesis hash: a hash of it with this session's material. It tells
// "foreign cluster" from "wrong secret" without naming the cluster.
func (s session) tag() []byte {
	out := make([]byte, tagSize)
	blake3.DeriveKey(contextTag, append(s.genesis[:], s.exporter...), out)
	return out
}
