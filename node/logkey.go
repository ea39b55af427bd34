package node

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// logKeyFile holds the cluster's log key, PKCS #8 in PEM.
const logKeyFile = "log.key"

// loadOrCreateLogKey returns the public half of the log key that this node
// would begin a chain with. The key is on disk before it is used: a chain whose
// key was lost could never sign a checkpoint.
func loadOrCreateLogKey(dir string) (public [ed25519.PublicKeySize]byte, err error) {
	path := filepath.Join(dir, logKeyFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return public, fmt.Errorf("draw the log key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return public, fmt.Errorf("encode the log key: %w", err)
		}
		if err := writeFileSynced(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			return public, fmt.Errorf("keep the log key: %w", err)
		}
		copy(public[:], key.Public().(ed25519.PublicKey))
		return public, nil
	}
	if err != nil {
		return public, fmt.Errorf("read the log key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return public, fmt.Errorf("log key %s is not PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return public, fmt.Errorf("log key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return public, fmt.Errorf("log key %s is not Ed25519", path)
	}
	copy(public[:], key.Public().(ed25519.PublicKey))
	return public, nil
}
