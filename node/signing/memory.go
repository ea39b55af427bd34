// Package signing keeps what a node has signed about logs' trees, so that it never signs
// two statements that contradict each other, whatever happens to it in between; and the
// keys that it signs with.
package signing

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"sync"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/membership"
)

// Head is a tree: its size and its RFC 6962 root.
type Head struct {
	Size uint64     `json:"size"`
	Root chain.Hash `json:"root"`
}

// Errors of Memory.Advance.
var (
	// ErrOlder: a larger tree of this log was signed before. Nothing is wrong; the
	// caller asks for a newer one.
	ErrOlder = errors.New("a larger tree was signed before")
	// ErrContradicts: what is to be signed and what was signed are not trees of one
	// append-only log. Somebody's chain was forged or damaged.
	ErrContradicts = errors.New("contradicts what was signed before")
	// ErrBroken: the file could not be written, and what the disk has is not known.
	// Nothing is signed until the node starts again.
	ErrBroken = errors.New("what was signed can't be kept")
)

// memoryVersion is the version of the file's format.
const memoryVersion = 1

// maxOrigins bounds how many logs a Memory knows of. A node's own epochs are a handful;
// a witness has as many as it is configured with.
const maxOrigins = 1024

// Memory is, of each log, the last tree that was signed. It is a file that is replaced
// whole: one for each key, never shared, never part of a backup. Safe for concurrent use.
type Memory struct {
	path string
	fs   membership.FS

	mu     sync.Mutex // guards the fields below, and the file
	heads  map[string]Head
	broken error
}

type memoryFile struct {
	Version int             `json:"version"`
	Heads   map[string]Head `json:"heads"`
	// Digest tells a file that was changed from one that was written: the SHA-256
	// leaf hash over the heads' JSON.
	Digest chain.Hash `json:"digest"`
}

func digest(heads map[string]Head) (chain.Hash, error) {
	b, err := json.Marshal(heads) // its keys are sorted
	return chain.LeafHash(b), err
}

// OpenMemory reads a file, or begins where there is none; the directory must exist.
// fsys nil is the operating system's.
func OpenMemory(path string, fsys membership.FS) (*Memory, error) {
	if fsys == nil {
		fsys = membership.OSFS{}
	}
	m := &Memory{path: path, fs: fsys, heads: map[string]Head{}}
	b, err := fsys.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("signing: read %s: %w", path, err)
	default:
		if m.heads, err = decodeMemory(b); err != nil {
			return nil, fmt.Errorf("signing: %s is damaged: this node does not know what it signed; remove it from the cluster, empty its data directory and let it join again: %w", path, err)
		}
	}
	// What was read may come from a rename that a crash caught before its directory
	// was synced: make it so before relying on it.
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("signing: sync the directory of %s: %w", path, err)
	}
	return m, nil
}

func decodeMemory(b []byte) (map[string]Head, error) {
	var f memoryFile
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, err
	}
	if f.Version != memoryVersion {
		return nil, fmt.Errorf("version %d, want %d", f.Version, memoryVersion)
	}
	if f.Heads == nil {
		return nil, errors.New("it has no heads")
	}
	d, err := digest(f.Heads)
	if err != nil {
		return nil, err
	}
	if d != f.Digest {
		return nil, errors.New("its content does not have its digest")
	}
	return f.Heads, nil
}

// Last returns the last tree of a log that was signed; false where none was.
func (m *Memory) Last(origin string) (Head, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.heads[origin]
	return h, ok
}

// Advance records that a tree is about to be signed, and returns once that is on disk:
// the caller signs after that, and not where it returned an error. consistent is asked
// whether the tree begins with the one that was signed last, of at least one leaf and
// smaller; nil is yes, and an error that wraps chain.ErrProof makes one that wraps
// ErrContradicts. The same tree may be signed again.
//
// Commit point: the sync of the directory. After a crash before it, the file has the
// tree or not, and nothing was signed.
func (m *Memory) Advance(origin string, next Head, consistent func(last Head) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken != nil {
		return m.broken
	}
	last, known := m.heads[origin]
	switch {
	case !known && len(m.heads) == maxOrigins:
		return fmt.Errorf("signing: %d logs are known already", maxOrigins)
	case known && next == last:
		return nil
	case known && next.Size < last.Size:
		return fmt.Errorf("signing: %w: %d entries, and %d are asked for", ErrOlder, last.Size, next.Size)
	case known && next.Size == last.Size:
		return fmt.Errorf("signing: %w: root %v of %d entries, it was %v", ErrContradicts, next.Root, next.Size, last.Root)
	case known && last.Size > 0:
		if err := consistent(last); errors.Is(err, chain.ErrProof) {
			return fmt.Errorf("signing: %w: the tree of %d entries does not begin with the one of %d: %w", ErrContradicts, next.Size, last.Size, err)
		} else if err != nil {
			return fmt.Errorf("signing: is the tree of %d entries consistent with the one of %d: %w", next.Size, last.Size, err)
		}
	}
	heads := maps.Clone(m.heads)
	heads[origin] = next
	if err := m.write(heads); err != nil {
		m.broken = fmt.Errorf("signing: %w: %w", ErrBroken, err)
		return m.broken
	}
	m.heads = heads
	return nil
}

func (m *Memory) write(heads map[string]Head) error {
	d, err := digest(heads)
	if err != nil {
		return err
	}
	b, err := json.Marshal(memoryFile{Version: memoryVersion, Heads: heads, Digest: d})
	if err != nil {
		return err
	}
	return replaceFile(m.fs, m.path, b)
}
