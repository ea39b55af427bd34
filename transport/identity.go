package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/zeebo/blake3"
)

// The files that an identity and an incarnation are kept in.
const (
	KeyFile         = "node.key"
	IncarnationFile = "incarnation"
)

const (
	// contextNodeID is the BLAKE3 derive-key context of node ids; the key
	// material is the 32-byte Ed25519 public key.
	contextNodeID = "github.com/exonode/exonode 2026 node id v1"

	// nodeIDDigits base32 digits stand for the first 125 bits of the hash:
	// a whole number of digits, so that no two texts mean one id.
	nodeIDDigits    = 25
	nodeIDLen       = 1 + nodeIDDigits
	incarnationSize = 8
)

// base32Lower is RFC 4648 base32 in lower case, without padding.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Identity is a node's own key. It is immutable and safe for concurrent use.
type Identity struct {
	key    ed25519.PrivateKey
	nodeID string
}

// NewIdentity makes the identity of a 32-byte Ed25519 seed. Nodes create and
// load theirs in a directory; simulations make them from known seeds.
func NewIdentity(seed [ed25519.SeedSize]byte) *Identity {
	key := ed25519.NewKeyFromSeed(seed[:])
	return &Identity{key: key, nodeID: NodeIDOf(key.Public().(ed25519.PublicKey))}
}

// CreateIdentity draws a key and stores it in dir (which must exist) as
// KeyFile, PKCS #8 in PEM, mode 0600. It fails with fs.ErrExist where there is
// one. Once it returns, file and directory entry are on disk; a crash before
// leaves no KeyFile.
func CreateIdentity(dir string) (*Identity, error) {
	var seed [ed25519.SeedSize]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("transport: create identity: %w", err)
	}
	id := NewIdentity(seed)
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return nil, fmt.Errorf("transport: create identity: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := createFile(dir, KeyFile, text); err != nil {
		return nil, fmt.Errorf("transport: create identity: %w", err)
	}
	return id, nil
}

// LoadIdentity reads the identity that CreateIdentity stored in dir; its error
// is fs.ErrNotExist where there is none. It refuses a key that others than the
// owner may read.
func LoadIdentity(dir string) (*Identity, error) {
	path := filepath.Join(dir, KeyFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("transport: load identity: %w", err)
	}
	// Windows has no such bits.
	if perm := info.Mode().Perm(); perm&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("transport: load identity: %s has mode %#o, want 0600: others may have read the key", path, perm)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("transport: load identity: %w", err)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
		return nil, fmt.Errorf("transport: load identity: %s is not one PEM private key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("transport: load identity: %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("transport: load identity: %s is not an Ed25519 key", path)
	}
	return NewIdentity([ed25519.SeedSize]byte(key.Seed())), nil
}

// NodeID returns the node's id.
func (id *Identity) NodeID() string { return id.nodeID }

// PublicKey returns the node's TLS public key.
func (id *Identity) PublicKey() ed25519.PublicKey { return id.key.Public().(ed25519.PublicKey) }

// String returns the node id, never the key.
func (id *Identity) String() string { return id.nodeID }

// certificate makes the self-signed certificate that carries the public key
// through TLS. Nobody looks at its names or dates: the key is what is pinned.
func (id *Identity) certificate() (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: id.nodeID},
		NotBefore:    time.Unix(0, 0),
		// RFC 5280, 4.1.2.5: no well-defined expiration date.
		NotAfter:    time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, id.key.Public(), id.key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("transport: certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.key}, nil
}

// NodeIDOf returns the node id of a public key: "n" and 25 digits of lower-case
// RFC 4648 base32, the first 125 bits of the key's BLAKE3 hash in derive-key
// mode.
func NodeIDOf(key ed25519.PublicKey) string {
	var sum [16]byte
	blake3.DeriveKey(contextNodeID, key, sum[:])
	return "n" + base32Lower.EncodeToString(sum[:])[:nodeIDDigits]
}

// ParseNodeID checks that s has the form of a node id and returns it.
func ParseNodeID(s string) (string, error) {
	if len(s) != nodeIDLen || s[0] != 'n' {
		return "", fmt.Errorf("transport: %q is not a node id: want n and %d base32 digits", s, nodeIDDigits)
	}
	for _, r := range s[1:] {
		if (r < 'a' || r > 'z') && (r < '2' || r > '7') {
			return "", fmt.Errorf("transport: %q is not a node id: %q is no base32 digit", s, r)
		}
	}
	return s, nil
}

// CreateIncarnation draws an incarnation (8 random bytes in hex) and stores it
// in dir, with the guarantees of CreateIdentity. It belongs in the directory
// that holds raft's state, so that whoever wipes that state wipes it too: a
// node that came back with an empty disk under its old server id could vote
// twice in one term.
func CreateIncarnation(dir string) (string, error) {
	inc, err := NewIncarnation()
	if err != nil {
		return "", err
	}
	if err := createFile(dir, IncarnationFile, []byte(inc+"\n")); err != nil {
		return "", fmt.Errorf("transport: create incarnation: %w", err)
	}
	return inc, nil
}

// NewIncarnation draws an incarnation: 8 random bytes in hex.
func NewIncarnation() (string, error) {
	var b [incarnationSize]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("transport: draw an incarnation: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// LoadIncarnation reads what CreateIncarnation stored; its error is
// fs.ErrNotExist where there is none.
func LoadIncarnation(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, IncarnationFile))
	if err != nil {
		return "", fmt.Errorf("transport: load incarnation: %w", err)
	}
	inc, ok := strings.CutSuffix(string(text), "\n")
	if !ok || !validIncarnation(inc) {
		return "", fmt.Errorf("transport: load incarnation: %s is damaged", filepath.Join(dir, IncarnationFile))
	}
	return inc, nil
}

// ServerID joins a node id and an incarnation to a raft server id,
// "<node id>.<incarnation>".
func ServerID(nodeID, incarnation string) raft.ServerID {
	return raft.ServerID(nodeID + "." + incarnation)
}

// SplitServerID takes a raft server id apart.
func SplitServerID(id raft.ServerID) (nodeID, incarnation string, err error) {
	nodeID, incarnation, ok := strings.Cut(string(id), ".")
	if !ok || !validIncarnation(incarnation) {
		return "", "", fmt.Errorf("transport: %q is not a server id: want a node id, a dot and %d hex digits", id, 2*incarnationSize)
	}
	if nodeID, err = ParseNodeID(nodeID); err != nil {
		return "", "", err
	}
	return nodeID, incarnation, nil
}

func validIncarnation(s string) bool {
	if len(s) != 2*incarnationSize || strings.ToLower(s) != s {
		return false
	}
	_, err := hex.DecodeString(s)
	return err == nil
}

// createFile writes dir/name, which must not exist. The commit point is the
// link: before it there is at most a temporary file, after it the whole
// content.
func createFile(dir, name string, content []byte) (err error) {
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	f, err := os.CreateTemp(dir, "."+name+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	if _, err = f.Write(content); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link does not replace what is there.
	if err := os.Link(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a directory can't be synced there
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
