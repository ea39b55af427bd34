package raftstore

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// Files is what Manifests needs of a file system; names are paths. Methods are called
// one at a time.
type Files interface {
	// ReadDir returns the names in a directory, sorted.
	ReadDir(dir string) ([]string, error)
	// ReadFile returns an error that wraps fs.ErrNotExist where there is no
	// such file; Rename and Remove do as well.
	ReadFile(name string) ([]byte, error)
	// WriteFile creates or replaces a file and syncs its content.
	WriteFile(name string, data []byte) error
	// Rename replaces to atomically.
	Rename(from, to string) error
	Remove(name string) error
	// SyncDir makes what was created, renamed and removed in a directory
	// durable.
	SyncDir(dir string) error
}

// Model stands in for everything in Config.Dir, in a simulation of crashes: nothing of
// the directory is touched. A write that has returned survives a crash, as with the
// backends.
type Model struct {
	Log    raft.LogStore
	Stable raft.StableStore
	Files  Files
	// Dead is called where a write has failed, after Config.Fatal, which would have
	// ended a process; raft panics where it goes on. Dead returns once nobody hears
	// of the node any more; the write then counts as done.
	Dead func()
	// NoLatch has a failure answered and forgotten: neither Config.Fatal nor Dead is
	// called, and the store goes on. It shows what the latch is for.
	NoLatch bool
}

// osFiles are the operating system's.
type osFiles struct{}

func (osFiles) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFiles) ReadFile(name string) ([]byte, error) { return os.ReadFile(name) }
func (osFiles) Rename(from, to string) error         { return os.Rename(from, to) }
func (osFiles) Remove(name string) error             { return os.Remove(name) }
func (osFiles) SyncDir(dir string) error             { return syncDir(dir) }

func (osFiles) WriteFile(name string, data []byte) error { return writeSynced(name, data) }

// openModel opens stores over a model.
func openModel(cfg Config) (*Stores, error) {
	guard, err := NewGuard(cfg.WriteTimeout, cfg.Fatal)
	if err != nil {
		return nil, err
	}
	guard.dead, guard.noLatch = cfg.Model.Dead, cfg.Model.NoLatch
	s := new(Stores)
	if err := s.assemble(cfg, guard, cfg.Model.Log, cfg.Model.Stable, Key{}); err != nil {
		return nil, err
	}
	if s.Manifests, err = openManifests(filepath.Join(cfg.Dir, "manifests"), cfg.Model.Files); err != nil {
		return nil, err
	}
	return s, nil
}

// assemble puts the layers over the backends, or over their models.
func (s *Stores) assemble(cfg Config, guard *Guard, logs raft.LogStore, terms raft.StableStore, key Key) (err error) {
	if cfg.Wrap != nil {
		logs, terms = cfg.Wrap(logs, terms)
	}
	s.log = NewLog(logs, guard, key)
	if s.Log, err = raft.NewLogCache(cacheSize, s.log); err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	s.Vote, err = OpenVote(&stable{StableStore: terms, guard: guard})
	return err
}
