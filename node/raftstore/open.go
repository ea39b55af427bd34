package raftstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/types"
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
	// Backend of the log; a directory keeps the one it was made with. "" is that one,
	// and WAL in a new directory.
	Backend Backend
	// WriteTimeout is the deadline of one write.
	WriteTimeout time.Duration
	// Fatal is told of the first failure.
	Fatal  func(error)
	Logger *slog.Logger
	// SegmentBytes is the size of raft-wal's segments; 0 is 16 MiB.
	SegmentBytes int
	// Wrap, where not nil, stands between the guard and the backends, and Files
	// beneath raft-wal's segments: the seams for injected faults.
	Wrap  func(raft.LogStore, raft.StableStore) (raft.LogStore, raft.StableStore)
	Files types.VFS
	// Model, where not nil, is what the stores stand on instead of Dir.
	Model *Model
}

// Stores are the open stores of one node.
type Stores struct {
	Log       raft.LogStore
	Vote      *Vote
	Manifests *Manifests
	// Backend is that of the log; "" of a model.
	Backend Backend

	log     *Log
	closers []io.Closer
}

// ErrBackend says that the directory was made with the other backend.
var ErrBackend = errors.New("raft log was made with another backend")

// ErrNotEmpty says that the stores were used before.
var ErrNotEmpty = errors.New("raft stores hold state already")

// ErrLocked says that another process has the stores open.
var ErrLocked = errors.New("raft stores are in use by another process")

// Open opens or creates the stores. Existence is the caller's to judge, by
// State: an empty directory is a node that was never in a cluster.
func Open(cfg Config) (_ *Stores, err error) {
	if cfg.Model != nil {
		return openModel(cfg)
	}
	s := new(Stores)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	// A database that is cut short faults where it is read.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		// bbolt does, where it meets a page that it never writes.
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: open %s: %v", ErrDamaged, cfg.Dir, p)
		}
	}()
	for _, part := range []string{"wal", "manifests"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, part), 0o700); err != nil {
			return nil, fmt.Errorf("raftstore: %w", err)
		}
	}
	guard, err := NewGuard(cfg.WriteTimeout, cfg.Fatal)
	if err != nil {
		return nil, err
	}
	if cfg.Backend, err = checkBackend(cfg.Dir, cfg.Backend); err != nil {
		return nil, err
	}
	s.Backend = cfg.Backend
	if err := makeBolt(filepath.Join(cfg.Dir, "raft.db")); err != nil {
		return nil, fmt.Errorf("raftstore: make raft.db: %w", err)
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
	key, err := openKey(cfg.Dir, func() (bool, error) {
		last, err := bolt.LastIndex()
		_, serr := os.Stat(filepath.Join(cfg.Dir, "wal", metadb.FileName))
		return last > 0 || serr == nil, err
	})
	if err != nil {
		return nil, fmt.Errorf("raftstore: the key of checksums: %w", err)
	}
	if err := syncFound(cfg.Dir); err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	var logs raft.LogStore = bolt
	if cfg.Backend == WAL {
		w, err := openWAL(filepath.Join(cfg.Dir, "wal"), cfg.SegmentBytes, cfg.Files, key)
		if err != nil {
			return nil, fmt.Errorf("raftstore: open wal: %w", err)
		}
		s.closers = append(s.closers, w)
		logs = w
	}
	if err := s.assemble(cfg, guard, logs, bolt, key); err != nil {
		return nil, err
	}
	if s.Manifests, err = OpenManifests(filepath.Join(cfg.Dir, "manifests")); err != nil {
		return nil, err
	}
	return s, nil
}

// syncFound makes durable what is in a directory, and its own name. A process that was
// killed leaves writes that the kernel has and the disk does not; the next one reads
// them, and a vote or an entry that it has read counts, whatever a power cut does then.
func syncFound(dir string) error {
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncDir(path) // a file just as well
	})
}

// makeBolt makes a database that is not there under a temporary name: bbolt writes its
// first pages one by one, does not open what a crash leaves of them, and does not sync
// the name. syncFound does that.
func makeBolt(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(path + tempSuffix); err != nil {
		return err
	}
	db, err := raftboltdb.New(raftboltdb.Options{Path: path + tempSuffix})
	if err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	return os.Rename(path+tempSuffix, path)
}

// checkBackend returns the backend of a directory, and refuses one whose log is in
// another than is wanted: raft would see an empty log and forget what it acknowledged.
// "" wants what is there, and WAL in a new one.
func checkBackend(dir string, want Backend) (Backend, error) {
	path := filepath.Join(dir, "backend")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if want == "" {
			want = WAL
		}
		if want != WAL && want != BoltDB {
			return "", fmt.Errorf("raftstore: unknown log backend %q: choose wal or boltdb", want)
		}
		if err := writeSynced(path+tempSuffix, []byte(want)); err != nil {
			return "", err
		}
		if err := os.Rename(path+tempSuffix, path); err != nil {
			return "", fmt.Errorf("raftstore: %w", err)
		}
		return want, syncDir(dir)
	}
	if err != nil {
		return "", fmt.Errorf("raftstore: %w", err)
	}
	is := Backend(b)
	if is != WAL && is != BoltDB || want != "" && is != want {
		return "", fmt.Errorf("%w: %s holds %q, asked for %q", ErrBackend, dir, b, want)
	}
	return is, nil
}

// State is what the stores hold, for the checks at boot.
type State struct {
	FirstLog, LastLog uint64
	// SnapshotIndex and SnapshotTerm are of the newest listed manifest.
	SnapshotIndex, SnapshotTerm uint64
	Term                        uint64
}

// Exists reports whether the node was ever part of a cluster.
func (s State) Exists() bool { return s.Configured() || s.Term > 0 }

// Configured reports whether the node knows a configuration. A node that crashed
// just after it first heard of its leader has a term, and may have voted, and
// knows nobody.
func (s State) Configured() bool { return s.LastLog > 0 || s.SnapshotIndex > 0 }

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

// Mend drops a log that does not go on from the newest listed manifest, and
// reports whether there was one. An install leaves such a log behind: what raft
// had not removed when it crashed, or, with boltdb, never removes. It ends before
// the manifest, or another entry than the manifest's stands at its index: then
// nothing after that was ever committed. Raft must not run, and what the manifest
// names must be durable.
func (s *Stores) Mend() (bool, error) {
	st, err := s.State()
	if err != nil || st.LastLog == 0 || st.SnapshotIndex == 0 {
		return false, err
	}
	fits := st.LastLog >= st.SnapshotIndex
	if fits && st.FirstLog <= st.SnapshotIndex {
		var entry raft.Log
		err := s.Log.GetLog(st.SnapshotIndex, &entry)
		if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
			return false, fmt.Errorf("raftstore: read log entry %d: %w", st.SnapshotIndex, err)
		}
		// Not found: boltdb has a hole where a shorter log was not
		// removed by an install, and what follows was appended since.
		fits = err != nil || entry.Term == st.SnapshotTerm
	}
	if fits {
		return false, nil
	}
	if err := s.Log.DeleteRange(st.FirstLog, st.LastLog); err != nil {
		return false, fmt.Errorf("raftstore: empty the log: %w", err)
	}
	return true, nil
}

// Bootstrap writes the first configuration of a cluster as log entry 1. Its
// commit point is that entry; the term follows, so that a crash before it leaves
// stores that were never used. (Raft's own bootstrap writes the term first, and
// refuses to go on after a crash between the two.) Exactly one server of the
// cluster does it, once, before raft starts; ErrNotEmpty where there is state.
func (s *Stores) Bootstrap(c raft.Configuration) error {
	st, err := s.State()
	if err != nil {
		return err
	}
	if st.Exists() {
		return ErrNotEmpty
	}
	entry := &raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}
	if err := s.Log.StoreLog(entry); err != nil {
		return fmt.Errorf("raftstore: bootstrap: %w", err)
	}
	if err := s.Vote.SetUint64([]byte(keyCurrentTerm), 1); err != nil {
		return fmt.Errorf("raftstore: bootstrap: %w", err)
	}
	return nil
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
