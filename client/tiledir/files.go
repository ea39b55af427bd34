package tiledir

import (
	"io"
	"os"
)

// Files is a file system. It is safe for concurrent use. What does not exist is told by an
// error that wraps fs.ErrNotExist.
type Files interface {
	ReadFile(path string) ([]byte, error)
	// Create opens a new file for writing. One that is there is emptied.
	Create(path string) (File, error)
	// Rename replaces a file at once. It is durable when the directory is synced.
	Rename(from, to string) error
	// MkdirAll makes a directory, and those above it, where they are missing.
	MkdirAll(path string) error
	// Sync makes durable which names a directory has.
	Sync(dir string) error
	// RemoveAll removes what is at a path, if anything is.
	RemoveAll(path string) error
}

// File is a file that is being written.
type File interface {
	io.WriteCloser
	// Sync makes its content durable.
	Sync() error
}

// osFiles are the operating system's. Everybody may read them: a web server does.
type osFiles struct{}

var _ Files = osFiles{}

func (osFiles) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }
func (osFiles) Rename(from, to string) error         { return os.Rename(from, to) }
func (osFiles) MkdirAll(path string) error           { return os.MkdirAll(path, 0o755) }
func (osFiles) RemoveAll(path string) error          { return os.RemoveAll(path) }

func (osFiles) Create(path string) (File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
}

func (osFiles) Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
