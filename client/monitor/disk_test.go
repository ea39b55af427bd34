package monitor_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
)

var errCrash = errors.New("crashed")

// disk is a directory in memory that knows what is synced, and crashes before a given
// operation: it and all later ones fail.
type disk struct {
	mu      sync.Mutex
	ops     int
	crashAt int // from 1; 0 is never
	names   map[string]*file
	synced  map[string]*file // what the directory has after a crash that loses all
}

type file struct{ data, synced []byte }

func newDisk() *disk { return &disk{names: map[string]*file{}, synced: map[string]*file{}} }

func (d *disk) step() error {
	if d.ops++; d.crashAt > 0 && d.ops >= d.crashAt {
		return errCrash
	}
	return nil
}

// leaves is what a crash leaves of what was written and not synced.
type leaves int

const (
	nothing leaves = iota
	all
	// renames: the renamed state file, and no other file that was made since the
	// directory was synced. Nothing orders the two.
	renames
)

var crashes = []leaves{nothing, all, renames}

// afterCrash is the directory that is found after a crash.
func (d *disk) afterCrash(left leaves) *disk {
	after := newDisk()
	names := maps.Clone(d.synced)
	switch f := d.names["state.json"]; {
	case left == all:
		names = d.names
	case left == renames && f != nil:
		names["state.json"] = f
	}
	for name, f := range names {
		data := f.synced
		if left == all {
			data = f.data
		}
		n := &file{slices.Clone(data), slices.Clone(data)}
		after.names[name], after.synced[name] = n, n
	}
	return after
}

func (d *disk) ReadFile(name string) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.names[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return slices.Clone(f.data), nil
}

func (d *disk) ReadAt(name string, p []byte, offset int64) error {
	b, err := d.ReadFile(name)
	if err != nil {
		return err
	}
	if int64(len(b)) < offset+int64(len(p)) {
		return fmt.Errorf("%s ends at %d", name, len(b))
	}
	copy(p, b[offset:])
	return nil
}

func (d *disk) WriteFile(name string, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		// The file is there, and empty.
		d.names[name] = &file{}
		return err
	}
	d.names[name] = &file{slices.Clone(data), slices.Clone(data)}
	return nil
}

func (d *disk) WriteAt(name string, p []byte, offset int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.names[name]
	if !ok {
		f = &file{}
	}
	if err := d.step(); err != nil {
		p = p[:len(p)/2]
		f.write(p, offset)
		d.names[name] = f
		return err
	}
	f.write(p, offset)
	d.names[name] = f
	return nil
}

func (f *file) write(p []byte, offset int64) {
	if grow := int(offset) + len(p) - len(f.data); grow > 0 {
		f.data = append(slices.Clone(f.data), make([]byte, grow)...)
	} else {
		f.data = slices.Clone(f.data)
	}
	copy(f.data[offset:], p)
}

func (d *disk) Sync(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	f, ok := d.names[name]
	if !ok {
		return fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	f.synced = slices.Clone(f.data)
	return nil
}

func (d *disk) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

func (d *disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	delete(d.names, name)
	return nil
}

func (d *disk) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.names)), nil
}

func (d *disk) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	d.synced = maps.Clone(d.names)
	return nil
}
