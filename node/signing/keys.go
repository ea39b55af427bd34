package signing

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"filippo.io/mldsa"
	mldsax509 "filippo.io/mldsa/x509"

	"github.com/exonode/exonode/membership"
)

// Keys are files of PKCS #8 in PEM, one a file, each for one purpose: what a key signs as
// the log, as a cosigner or in TLS must never be taken for something else.
const pemType = "PRIVATE KEY"

// Ed25519Key reads a key, or draws one where there is no file. It is on disk before it is
// returned: a key whose public half others know must not be lost. fsys nil is the
// operating system's.
func Ed25519Key(path string, fsys membership.FS) (ed25519.PrivateKey, error) {
	return loadOrDraw(path, fsys, func() ([]byte, error) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		return x509.MarshalPKCS8PrivateKey(key)
	}, parseEd25519)
}

// ReadEd25519Key reads a key that Ed25519Key or KeepEd25519Key wrote. The error wraps
// fs.ErrNotExist where there is none.
func ReadEd25519Key(path string, fsys membership.FS) (ed25519.PrivateKey, error) {
	return loadOrDraw(path, fsys, nil, parseEd25519)
}

// KeepEd25519Key puts a key in the place of the one that is there. It is on disk when it
// returns.
func KeepEd25519Key(path string, fsys membership.FS, key ed25519.PrivateKey) error {
	if fsys == nil {
		fsys = membership.OSFS{}
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err == nil {
		err = replaceFile(fsys, path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
	}
	if err != nil {
		return fmt.Errorf("keep key %s: %w", path, err)
	}
	return nil
}

func parseEd25519(der []byte) (ed25519.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	if k, ok := key.(ed25519.PrivateKey); ok {
		return k, nil
	}
	return nil, errors.New("not Ed25519")
}

// MLDSASeed is Ed25519Key for the seed of an ML-DSA-44 key, 32 bytes.
func MLDSASeed(path string, fsys membership.FS) ([]byte, error) {
	return loadOrDraw(path, fsys, func() ([]byte, error) {
		key, err := mldsa.GenerateKey(mldsa.MLDSA44())
		if err != nil {
			return nil, err
		}
		return mldsax509.MarshalPKCS8PrivateKey(key)
	}, func(der []byte) ([]byte, error) {
		key, err := mldsax509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, err
		}
		if k, ok := key.(*mldsa.PrivateKey); ok && k.PublicKey().Parameters() == mldsa.MLDSA44() {
			return k.Bytes(), nil
		}
		return nil, errors.New("not ML-DSA-44")
	})
}

func loadOrDraw[T any](path string, fsys membership.FS, draw func() ([]byte, error), parse func([]byte) (T, error)) (key T, err error) {
	if fsys == nil {
		fsys = membership.OSFS{}
	}
	b, err := fsys.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && draw != nil {
		der, err := draw()
		if err != nil {
			return key, fmt.Errorf("draw key %s: %w", path, err)
		}
		b = pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
		if err := replaceFile(fsys, path, b); err != nil {
			return key, fmt.Errorf("keep key %s: %w", path, err)
		}
	} else if err != nil {
		return key, fmt.Errorf("read key: %w", err)
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemType || len(rest) != 0 {
		return key, fmt.Errorf("key %s is not one %s in PEM", path, pemType)
	}
	if key, err = parse(block.Bytes); err != nil {
		return key, fmt.Errorf("key %s: %w", path, err)
	}
	return key, nil
}

// replaceFile writes a file beside the one that it replaces. The commit point is the sync
// of the directory.
func replaceFile(fsys membership.FS, path string, b []byte) error {
	next := path + ".new"
	if err := fsys.WriteFile(next, b); err != nil {
		return err
	}
	if err := fsys.Rename(next, path); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}
