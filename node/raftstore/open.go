package raftstore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"go.etcd.io/bbolt"
)

// Backend is the store of raft's log.
type Backend string

// The backends. Both fsync before they answer.
const (
	WAL    Backend = "wal"
	BoltDB Backend = "boltdb"
)

// cacheSize is raft's LogCache in entries. Without it replication re-reads the
// log for every follower, at half the throughput; a command has up to 128 KiB.
const cacheSize = 128

// segmentSize is the size of a raft-wal segment in bytes. A segment is
// allocated whole, and space comes back in whole segments.
const segmentSize = 16 << 20

// Config says where the stores are. It is not changed after Open.
type Config struct {
	// Dir is the raft directory; it is created where missing.
	Dir string
	// Backend of the log; a directory keeps the one it was made with.
	Backend Backend
	// WriteTimeout is the deadline of one write.
	WriteTimeout time.Duration
	// Fatal is told of the first failure.
	Fatal  func(error)
	Logger *slog.Logger
	// Wrap, where not nil, stands between the guard and the backends: the
	// seam for injected faults.
	Wrap func(raft.LogStore, raft.StableStore) (raft.LogStore, raft.StableStore)
}

// Stores are the open stores of one node.
type Stores struct {
	Log       raft.LogStore
	Vote      *Vote
	Manifests *Manifests

	log     *Log
	closers []io.Closer
}

// ErrBackend says that the directory was made with the other backend.
var ErrBackend = errors.New("raft log was made with another backend")

// ErrLocked says that another process has the stores open.
var ErrLocked = errors.New("raft stores are in use by another process")

// Open opens or creates the stores. Existence is the caller's to judge, by
// State: an empty directory is a node that was never in a cluster.
func Open(cfg Config) (_ *Stores, err error) {
	s := new(Stores)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := os.MkdirAll(filepath.Join(cfg.Dir, "wal"), 0o700); err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	guard, err := NewGuard(cfg.WriteTimeout, cfg.Fatal)
	if err != nil {
		return nil, err
	}
	if err := checkBackend(cfg.Dir, cfg.Backend); err != nil {
		return nil, err
	}
	// bbolt's lock on this file is the lock of the whole directory.
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(cfg.Dir, "raft.db"),
		BoltOptions: &bbolt.Options{Timeout: time.Second},
	})
	if errors.Is(err, bbolt.ErrTimeout) {
		return nil, ErrLocked
	}
	if err != nil {
		return nil, fmt.Errorf("raftstore: open raft.db: %w", err)
	}
	s.closers = append(s.closers, bolt)
	var logs raft.LogStore = bolt
	if cfg.Backend == WAL {
		w, err := wal.Open(filepath.Join(cfg.Dir, "wal"), wal.WithSegmentSize(segmentSize))
		if err != nil {
			return nil, fmt.Errorf("raftstore: open wal: %w", err)
		}
		s.closers = append(s.closers, w)
		logs = w
	}
	var terms raft.StableStore = bolt
	if cfg.Wrap != nil {
		logs, terms = cfg.Wrap(logs, terms)
	}
	s.log = NewLog(logs, guard)
	if s.Log, err = raft.NewLogCache(cacheSize, s.log); err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	if s.Vote, err = OpenVote(&stable{StableStore: terms, guard: guard}); err != nil {
		return nil, err
	}
	if s.Manifests, err = OpenManifests(filepath.Join(cfg.Dir, "manifests")); err != nil {
		return nil, err
	}
	return s, nil
}

// checkBackend refuses a directory whose log is in the other backend: raft
// would see an empty log and forget what it acknowledged.
func checkBackend(dir string, want Backend) error {
	path := filepath.Join(dir, "backend")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if want != WAL && want != BoltDB {
			return fmt.Errorf("raftstore: unknown log backend %q: choose wal or boltdb", want)
		}
		if err := writeSynced(path, []byte(want)); err != nil {
			return err
		}
		return syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	if string(b) != string(want) {
		return fmt.Errorf("%w: %s holds %q, asked for %q", ErrBackend, dir, b, want)
	}
	return nil
}

// State is what the stores hold, for the checks at boot.
type State struct {
	FirstLog, LastLog uint64
	// SnapshotIndex and SnapshotTerm are of the newest listed manifest.
	SnapshotIndex, SnapshotTerm uint64
	Term                        uint64
}

// Exists reports whether the node was ever part of a cluster.
func (s State) Exists() bool { return s.LastLog > 0 || s.SnapshotIndex > 0 || s.Term > 0 }

// State reads what the stores hold.
func (s *Stores) State() (State, error) {
	var st State
	var err error
	if st.FirstLog, err = s.Log.FirstIndex(); err != nil {
		return State{}, fmt.Errorf("raftstore: %w", err)
	}
	if st.LastLog, err = s.Log.LastIndex(); err != nil {
		return State{}, fmt.Errorf("raftstore: %w", err)
	}
	st.Term = s.Vote.Term()
	metas, err := s.Manifests.List()
	if err != nil {
		return State{}, err
	}
	if len(metas) > 0 {
		st.SnapshotIndex, st.SnapshotTerm = metas[0].Index, metas[0].Term
	}
	return st, nil
}

// EmptyLog removes all log entries: for a log that ends before the snapshot,
// which a crash during an install leaves behind.
func (s *Stores) EmptyLog() error {
	st, err := s.State()
	if err != nil || st.LastLog == 0 {
		return err
	}
	return s.Log.DeleteRange(st.FirstLog, st.LastLog)
}

// Close closes the stores; raft must have stopped. It may be called twice.
func (s *Stores) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i].Close())
	}
	s.closers = nil
	return errors.Join(errs...)
}
