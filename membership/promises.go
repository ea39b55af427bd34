package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/exonode/exonode/chain"
)

// FS is what Promises needs of a file system. Methods are called one at a time.
type FS interface {
	// ReadFile returns an error that wraps fs.ErrNotExist where there is
	// no such file.
	ReadFile(name string) ([]byte, error)
	// WriteFile creates or replaces a file and syncs its content.
	WriteFile(name string, data []byte) error
	// Rename replaces newName atomically.
	Rename(oldName, newName string) error
	// Remove removes a file; one that does not exist wraps fs.ErrNotExist.
	Remove(name string) error
	// SyncDir makes renames and removals in a directory durable.
	SyncDir(dir string) error
}

// promiseFile is the store's file in its directory; the new one is written
// beside it first.
const promiseFile = "promise.json"

// Promises holds at most one promised proposal, durably. What a method answers
// is on disk: a promise that was given survives any crash, and one that was
// released stays released. Safe for concurrent use.
type Promises struct {
	dir string
	fs  FS

	// mu guards what follows and the file.
	mu   sync.Mutex
	held *Proposal
	// closed says that no new promise is given: the node joins.
	closed bool
	// broken is the first error of a write: what the disk holds is not
	// known any more, and nothing is answered until the next open.
	broken error
}

// promiseRecord is the file's content. Digest tells a file that was changed
// from one that was written.
type promiseRecord struct {
	Version  int        `json:"version"`
	Proposal Proposal   `json:"proposal"`
	Digest   chain.Hash `json:"digest"`
}

func (r promiseRecord) validate() error {
	if r.Version != 1 {
		return fmt.Errorf("version %d, want 1", r.Version)
	}
	if err := r.Proposal.validate(); err != nil {
		return err
	}
	if d := r.Proposal.Digest(); d != r.Digest {
		return fmt.Errorf("digest %s does not fit the proposal", r.Digest)
	}
	return nil
}

// OpenPromises reads the promise in dir, which must exist; fsys nil is the
// operating system's.
func OpenPromises(dir string, fsys FS) (*Promises, error) {
	if fsys == nil {
		fsys = OSFS{}
	}
	p := &Promises{dir: dir, fs: fsys}
	data, err := fsys.ReadFile(p.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("membership: read promise: %w", err)
	default:
		r, err := decode[promiseRecord](data)
		if err != nil {
			return nil, fmt.Errorf("membership: %s is damaged; where no cluster was formed with it, remove it by exonode reset: %w", p.path(), err)
		}
		p.held = &r.Proposal
	}
	// What was read may come from a rename or removal that a crash caught
	// before its directory was synced: make it so before relying on it.
	if err := fsys.SyncDir(dir); err != nil {
		return nil, fmt.Errorf("membership: sync %s: %w", dir, err)
	}
	return p, nil
}

func (p *Promises) path() string { return filepath.Join(p.dir, promiseFile) }

// Held returns the promised proposal; nil where there is none.
func (p *Promises) Held() *Proposal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.held
}

// Promise promises a proposal where none is held, and returns what is held
// afterwards: that one, or the earlier. It returns ErrPromised for an earlier
// one, and ErrRefused after Close.
func (p *Promises) Promise(next Proposal) (Proposal, error) {
	if err := next.validate(); err != nil {
		return Proposal{}, fmt.Errorf("%w: proposal: %w", ErrMalformed, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.broken != nil:
		return Proposal{}, p.broken
	case p.held != nil && p.held.Digest() == next.Digest():
		return *p.held, nil
	case p.held != nil:
		return *p.held, fmt.Errorf("%w, by %s", ErrPromised, p.held.Proposer().NodeID)
	case p.closed:
		return Proposal{}, fmt.Errorf("%w: this node is joining a cluster", ErrRefused)
	}
	data, err := json.Marshal(promiseRecord{Version: 1, Proposal: next, Digest: next.Digest()})
	if err != nil {
		return Proposal{}, fmt.Errorf("membership: encode promise: %w", err)
	}
	if err := p.write(data); err != nil {
		p.broken = fmt.Errorf("membership: write promise: %w", err)
		return Proposal{}, p.broken
	}
	p.held = &next
	return next, nil
}

// write replaces the file. The commit point is SyncDir: after a crash before
// it, the promise may be there or not, and nobody was told of it.
func (p *Promises) write(data []byte) error {
	tmp := p.path() + ".new"
	if err := p.fs.WriteFile(tmp, data); err != nil {
		return err
	}
	if err := p.fs.Rename(tmp, p.path()); err != nil {
		return err
	}
	return p.fs.SyncDir(p.dir)
}

// Release gives up the promise with this digest. Another one, or none, is left
// as it is.
func (p *Promises) Release(digest chain.Hash) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	if p.held == nil || p.held.Digest() != digest {
		return nil
	}
	return p.clear()
}

// clear removes the file. The commit point is SyncDir.
func (p *Promises) clear() error {
	err := p.fs.Remove(p.path())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = p.fs.SyncDir(p.dir)
	}
	if err != nil {
		p.broken = fmt.Errorf("membership: clear promise: %w", err)
		return p.broken
	}
	p.held = nil
	return nil
}

// Close refuses new promises from now on, until the next open; ErrPromised
// where one is held. A node closes before it joins a cluster, so that it can't
// belong to two.
func (p *Promises) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held != nil {
		return fmt.Errorf("%w, by %s", ErrPromised, p.held.Proposer().NodeID)
	}
	p.closed = true
	return nil
}

// ResetPromise removes the promise in dir, damaged or not, for an operator who
// knows that its proposer is gone for good; ErrHasState once raft state exists,
// as then it may have been kept. It reports whether there was one. The node
// must not be running.
func ResetPromise(dir string, fsys FS, hasState bool) (bool, error) {
	if hasState {
		return false, fmt.Errorf("%w: a promise can't be reset any more", ErrHasState)
	}
	if fsys == nil {
		fsys = OSFS{}
	}
	err := fsys.Remove(filepath.Join(dir, promiseFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		return false, fmt.Errorf("membership: reset promise: %w", err)
	}
	return true, nil
}

// OSFS is the operating system's file system.
type OSFS struct{}

func (OSFS) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }
func (OSFS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }
func (OSFS) Remove(name string) error             { return os.Remove(name) }

func (OSFS) WriteFile(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (OSFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
