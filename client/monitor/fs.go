package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
)

// FS is a directory of files, as the state is kept in it. Names have no slashes.
type FS interface {
	// ReadFile returns an error that wraps fs.ErrNotExist where there is no such file.
	ReadFile(name string) ([]byte, error)
	// WriteFile makes or replaces a file and syncs its content.
	WriteFile(name string, data []byte) error
	// ReadAt fills p.
	ReadAt(name string, p []byte, offset int64) error
	// WriteAt writes into a file, which it makes where there is none. Sync makes it
	// last.
	WriteAt(name string, p []byte, offset int64) error
	Sync(name string) error
	Rename(from, to string) error
	Remove(name string) error
	// List returns the names of all files.
	List() ([]string, error)
	// SyncDir returns once files made, renamed and removed stay so after a crash.
	SyncDir() error
}

// osFS is a directory of the operating system.
type osFS string

func (dir osFS) path(name string) string { return filepath.Join(string(dir), name) }

func (dir osFS) ReadFile(name string) ([]byte, error) { return os.ReadFile(dir.path(name)) }

func (dir osFS) with(name string, flags int, f func(*os.File) error) error {
	file, err := os.OpenFile(dir.path(name), flags, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(f(file), file.Close())
}

func (dir osFS) WriteFile(name string, data []byte) error {
	return dir.with(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, func(f *os.File) error {
		if _, err := f.Write(data); err != nil {
			return err
		}
		return f.Sync()
	})
}

func (dir osFS) ReadAt(name string, p []byte, offset int64) error {
	return dir.with(name, os.O_RDONLY, func(f *os.File) error {
		n, err := f.ReadAt(p, offset)
		if n == len(p) {
			return nil // it may say at once that the file ends there
		}
		return err
	})
}

func (dir osFS) WriteAt(name string, p []byte, offset int64) error {
	return dir.with(name, os.O_WRONLY|os.O_CREATE, func(f *os.File) error {
		_, err := f.WriteAt(p, offset)
		return err
	})
}

func (dir osFS) Sync(name string) error {
	return dir.with(name, os.O_WRONLY, func(f *os.File) error { return f.Sync() })
}

func (dir osFS) Rename(from, to string) error { return os.Rename(dir.path(from), dir.path(to)) }
func (dir osFS) Remove(name string) error     { return os.Remove(dir.path(name)) }

func (dir osFS) List() ([]string, error) {
	entries, err := os.ReadDir(string(dir))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (dir osFS) SyncDir() error {
	if runtime.GOOS == "windows" {
		return nil // a directory can't be opened for syncing there
	}
	return osFS("").with(string(dir), os.O_RDONLY, func(f *os.File) error { return f.Sync() })
}

// makeDir makes a directory, and syncs it into the one above where it is new.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return osFS(filepath.Dir(filepath.Clean(dir))).SyncDir()
}
