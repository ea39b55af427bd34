package raftstore

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Key goes into the checksums of a directory's log entries. Payloads stand in the log as
// clients sent them; without it one could make bytes that pass for an entry, and where a
// power cut tears the write that has them, they would be taken for what the log has lost.
// It is drawn for each directory and told nobody. The zero Key is for models of a log.
type Key [8]byte

// keyFile holds the key in lower-case hex.
const keyFile = "sum.key"

// LoadKey reads the key of a directory of stores. The error wraps fs.ErrNotExist where
// there is none, and ErrDamaged where it is not one.
func LoadKey(dir string) (key Key, err error) {
	b, err := os.ReadFile(filepath.Join(dir, keyFile))
	if err != nil {
		return key, err
	}
	if len(b) != hex.EncodedLen(len(key)) {
		return key, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, keyFile, len(b))
	}
	if _, err := hex.Decode(key[:], b); err != nil {
		return key, fmt.Errorf("%w: %s: %w", ErrDamaged, keyFile, err)
	}
	return key, nil
}

// openKey reads the key, or draws it where the directory has none yet; where there is a
// log already that is damage. The commit point is the sync of the directory, which the
// caller makes before it writes with the key.
func openKey(dir string, hasLog func() (bool, error)) (key Key, err error) {
	key, err = LoadKey(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if has, err := hasLog(); err != nil {
		return key, err
	} else if has {
		return key, fmt.Errorf("%w: %s is missing, and there is a log", ErrDamaged, keyFile)
	}
	rand.Read(key[:]) // never fails
	path := filepath.Join(dir, keyFile)
	f, err := os.OpenFile(path+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return key, err
	}
	_, err = f.WriteString(hex.EncodeToString(key[:]))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return key, err
	}
	return key, os.Rename(path+tempSuffix, path)
}
