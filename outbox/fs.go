package outbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FS is a directory of files, as the queue uses it. Names have no slashes.
type FS interface {
	// Open opens a file for reading and writing and returns its size.
	// With create it makes the file, or empties the one that is there.
	Open(name string, create bool) (File, int64, error)
	// Rename gives a file a new name and replaces one that has it.
	Rename(from, to string) error
	Remove(name string) error
	// List returns the names of all files.
	List() ([]string, error)
	// Sync returns once files made, renamed and removed stay so after a
	// crash.
	Sync() error
}

// File is an open file.
type File interface {
	ReadAt(p []byte, offset int64) (int, error)
	WriteAt(p []byte, offset int64) (int, error)
	Truncate(size int64) error
	// Sync returns once the content stays as it is after a crash.
	Sync() error
	Close() error
}

// lockName is the file that an open queue holds locked.
const lockName = "lock"

// osFS is a directory of the operating system.
type osFS string

func (dir osFS) path(name string) string { return filepath.Join(string(dir), name) }

func (dir osFS) Open(name string, create bool) (File, int64, error) {
	flags := os.O_RDWR
	if create {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(dir.path(name), flags, 0o600)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func (dir osFS) Rename(from, to string) error { return os.Rename(dir.path(from), dir.path(to)) }
func (dir osFS) Remove(name string) error     { return os.Remove(dir.path(name)) }
func (dir osFS) Sync() error                  { return syncDir(string(dir)) }

func (dir osFS) List() ([]string, error) {
	entries, err := os.ReadDir(string(dir))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() && e.Name() != lockName {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// makeDir makes a directory that only its owner enters, and its parents, each
// of them synced into the one above, where it is not there.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// sharedFile is an open file whose readers may outlast its place in the queue.
// Queue.mu guards users and retired.
type sharedFile struct {
	File
	users   int  // readers at work
	retired bool // the queue itself is through with it
}

// release ends a read. q.mu is not held.
func (q *Queue) release(f *sharedFile) {
	q.mu.Lock()
	f.users--
	last := f.retired && f.users == 0
	q.mu.Unlock()
	if last {
		// Everything that matters was synced.
		_ = f.Close()
	}
}

// retire closes a file, once its readers are through.
func (q *Queue) retire(f *sharedFile) {
	q.mu.Lock()
	f.users++
	f.retired = true
	q.mu.Unlock()
	q.release(f)
}

// read returns the data of the item with that id.
func (r ref) read(id uint64) ([]byte, error) {
	data := make([]byte, recordHeader+int(r.size))
	if n, err := r.file.ReadAt(data, r.offset-recordHeader); n < len(data) {
		return nil, fmt.Errorf("read: %w", err)
	}
	if string(data[:recordHeader]) != string(appendRecord(nil, id, data[recordHeader:])[:recordHeader]) {
		return nil, errors.New("its record is damaged")
	}
	return data[recordHeader:], nil
}
