package outbox_test

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/exonode/exonode/outbox"
)

var errCrash = errors.New("crashed")

// crashFS is a file system in memory that knows what is synced, and crashes at
// a given operation: that one is done by half, and all later ones fail.
type crashFS struct {
	mu      sync.Mutex
	ops     int // how many operations changed or synced something
	crashAt int // the operation to crash at, from 1; 0 is never
	crashed bool
	names   map[string]*crashFile // as a running process sees them
	synced  map[string]*crashFile
	changes []func(map[string]*crashFile) // of names, since the last sync
	syncs   int
	// onSync, where not nil, is called at the start of each file sync.
	onSync func()
	// onRead likewise for reads; closed counts closed files.
	onRead func()
	closed int
}

type crashFile struct {
	data, synced []byte
	writes       []write // since the last sync
}

// write is bytes at an offset, or a truncation to the offset where data is nil.
type write struct {
	offset int64
	data   []byte
}

func (w write) apply(data []byte) []byte {
	if w.data == nil {
		if int64(len(data)) > w.offset {
			return slices.Clone(data[:w.offset])
		}
		return append(slices.Clone(data), make([]byte, w.offset-int64(len(data)))...)
	}
	data = append(slices.Clone(data), make([]byte, max(0, w.offset+int64(len(w.data))-int64(len(data))))...)
	copy(data[w.offset:], w.data)
	return data
}

func newCrashFS() *crashFS {
	return &crashFS{names: map[string]*crashFile{}, synced: map[string]*crashFile{}}
}

// step counts an operation. It reports whether this is the one to crash at.
func (c *crashFS) step() (crashNow bool, err error) {
	if c.crashed {
		return false, errCrash
	}
	c.ops++
	if c.ops == c.crashAt {
		c.crashed = true
		return true, nil
	}
	return false, nil
}

func (c *crashFS) change(f func(map[string]*crashFile)) {
	f(c.names)
	c.changes = append(c.changes, f)
}

func (c *crashFS) Open(name string, create bool) (outbox.File, int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !create {
		if c.crashed {
			return nil, 0, errCrash
		}
		f, ok := c.names[name]
		if !ok {
			return nil, 0, fs.ErrNotExist
		}
		return &crashHandle{fs: c, file: f}, int64(len(f.data)), nil
	}
	now, err := c.step()
	if err != nil {
		return nil, 0, err
	}
	f := &crashFile{}
	c.change(func(names map[string]*crashFile) { names[name] = f })
	if now {
		return nil, 0, errCrash
	}
	return &crashHandle{fs: c, file: f}, 0, nil
}

func (c *crashFS) Rename(from, to string) error {
	return c.mutate(func(names map[string]*crashFile) {
		// The name alone may have been lost: the file is found anyway.
		if f, ok := names[from]; ok {
			delete(names, from)
			names[to] = f
		}
	})
}

func (c *crashFS) Remove(name string) error {
	return c.mutate(func(names map[string]*crashFile) { delete(names, name) })
}

func (c *crashFS) mutate(f func(map[string]*crashFile)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := c.step()
	if err != nil {
		return err
	}
	c.change(f)
	if now {
		return errCrash
	}
	return nil
}

func (c *crashFS) List() ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashed {
		return nil, errCrash
	}
	return slices.Collect(maps.Keys(c.names)), nil
}

func (c *crashFS) Sync() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, err := c.step()
	if err != nil {
		return err
	}
	if now {
		return errCrash
	}
	c.synced = maps.Clone(c.names)
	c.changes = nil
	return nil
}

type crashHandle struct {
	fs     *crashFS
	file   *crashFile
	closed bool
}

func (h *crashHandle) ReadAt(p []byte, offset int64) (int, error) {
	if h.fs.onRead != nil {
		h.fs.onRead()
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return 0, fs.ErrClosed
	}
	if h.fs.crashed {
		return 0, errCrash
	}
	if offset > int64(len(h.file.data)) {
		return 0, io.EOF
	}
	n := copy(p, h.file.data[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *crashHandle) WriteAt(p []byte, offset int64) (int, error) {
	if err := h.write(write{offset, slices.Clone(p)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (h *crashHandle) Truncate(size int64) error { return h.write(write{offset: size}) }

func (h *crashHandle) write(w write) error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	now, err := h.fs.step()
	if err != nil {
		return err
	}
	if now {
		w.data = w.data[:len(w.data)/2]
		if len(w.data) == 0 {
			return errCrash
		}
		err = errCrash
	}
	h.file.data = w.apply(h.file.data)
	h.file.writes = append(h.file.writes, w)
	return err
}

func (h *crashHandle) Sync() error {
	if h.fs.onSync != nil {
		h.fs.onSync()
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	now, err := h.fs.step()
	if err != nil {
		return err
	}
	if now {
		return errCrash
	}
	h.fs.syncs++
	h.file.synced = slices.Clone(h.file.data)
	h.file.writes = nil
	return nil
}

func (h *crashHandle) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.closed {
		return fs.ErrClosed
	}
	h.closed = true
	h.fs.closed++
	return nil
}

// revive is a restart of the process alone: the machine still has what it did
// not sync. The next crash comes at an operation counted from here.
func (c *crashFS) revive(crashAt int) {
	c.crashed, c.ops, c.crashAt = false, 0, crashAt
}

// survivor is how much of what was not synced is there after a crash.
type survivor int

const (
	nothing survivor = iota
	everything
	anything // a random part, in pieces of 16 bytes
)

// restart returns the file system that a machine finds after the crash.
func (c *crashFS) restart(s survivor, rng *rand.Rand) *crashFS {
	names := maps.Clone(c.synced)
	switch s {
	case everything:
		names = maps.Clone(c.names)
	case anything:
		for _, change := range c.changes {
			if rng.IntN(2) == 0 {
				change(names)
			}
		}
	}
	next := newCrashFS()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		data := f.synced
		switch s {
		case everything:
			data = f.data
		case anything:
			data = f.part(rng)
		}
		file := &crashFile{data: slices.Clone(data), synced: slices.Clone(data)}
		next.names[name], next.synced[name] = file, file
	}
	return next
}

// part returns the file with a random part of its unsynced writes.
func (f *crashFile) part(rng *rand.Rand) []byte {
	data := f.synced
	for _, w := range f.writes {
		if w.data == nil {
			if rng.IntN(2) == 0 {
				data = w.apply(data)
			}
			continue
		}
		for at := 0; at < len(w.data); at += 16 {
			if rng.IntN(2) == 0 {
				data = write{w.offset + int64(at), w.data[at:min(at+16, len(w.data))]}.apply(data)
			}
		}
	}
	return data
}
