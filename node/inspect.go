package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"go.etcd.io/bbolt"

	"github.com/exonode/exonode/node/raftstore"
)

// DataGenesis reads the FORMAT file of a data directory, as a node does that
// starts on it, and returns the genesis hash of the cluster that the directory
// belongs to. Nothing is changed.
func DataGenesis(path string) (string, error) {
	format, err := os.ReadFile(filepath.Join(path, "FORMAT"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: %s holds no FORMAT file", ErrForeignData, path)
	}
	if err != nil {
		return "", accessError(path, err)
	}
	_, genesis, _ := strings.Cut(string(format), "\n")
	genesis, _, _ = strings.Cut(genesis, "\n")
	return genesis, checkFormat(path, string(format), genesis)
}

// LogAhead is what raft's log of a stopped node has beyond its ledger. The
// ledger is not synced at every commit, and a follower may stop before it hears
// that an entry is committed: the node applies what is committed at its next
// start.
type LogAhead struct {
	// Applied is the ledger's raft index, Last the log's.
	Applied uint64 `json:"applied_index"`
	Last    uint64 `json:"last_index"`
	// Commands is how many log entries between them carry events.
	Commands uint64 `json:"commands"`
}

// ReadLogAhead reads how far raft's log of a stopped node goes beyond what its
// ledger has applied. Nothing is changed. A node without a log has none ahead.
func ReadLogAhead(path string, applied uint64) (ahead LogAhead, err error) {
	ahead.Applied = applied
	log, closeLog, err := openLogReadOnly(filepath.Join(path, "raft"))
	if err != nil || log == nil {
		return ahead, err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	key, err := raftstore.LoadKey(filepath.Join(path, "raft"))
	if err != nil {
		return ahead, fmt.Errorf("read raft's log: %w", err)
	}
	first, err := log.FirstIndex()
	if err != nil {
		return ahead, err
	}
	if ahead.Last, err = log.LastIndex(); err != nil {
		return ahead, err
	}
	for i := max(first, applied+1); i <= ahead.Last && i > 0; i++ {
		var entry raft.Log
		err := raftstore.ReadLog(log, key, i, &entry)
		if errors.Is(err, raft.ErrLogNotFound) {
			continue // boltdb's hole behind an install
		}
		if err != nil {
			return ahead, fmt.Errorf("read raft's log beyond what the ledger has applied (index %d): %w", applied, err)
		}
		if entry.Type == raft.LogCommand {
			ahead.Commands++
		}
	}
	return ahead, nil
}

// openLogReadOnly opens raft's log; nil where there is none.
func openLogReadOnly(dir string) (raft.LogStore, func() error, error) {
	backend, err := os.ReadFile(filepath.Join(dir, "backend"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, accessError(dir, err)
	}
	readOnly := &bbolt.Options{ReadOnly: true, Timeout: time.Second}
	if raftstore.Backend(backend) == raftstore.BoltDB {
		store, err := raftboltdb.New(raftboltdb.Options{Path: filepath.Join(dir, "raft.db"), BoltOptions: readOnly})
		if err != nil {
			return nil, nil, fmt.Errorf("open raft's log: %w", err)
		}
		return store, store.Close, nil
	}
	dir = filepath.Join(dir, "wal")
	state, err := readWALState(filepath.Join(dir, metadb.FileName), readOnly)
	if err != nil || len(state.Segments) == 0 {
		return nil, nil, err
	}
	key, err := raftstore.LoadKey(filepath.Dir(dir))
	if err != nil {
		return nil, nil, fmt.Errorf("open raft's log: %w", err)
	}
	files := readOnlyFS{walfs.New(), state.Segments[len(state.Segments)-1], key}
	log, err := wal.Open(dir, wal.WithMetaStore(&frozenMeta{state: state}), wal.WithSegmentFiler(segment.NewFiler(dir, files)))
	if err != nil {
		return nil, nil, fmt.Errorf("open raft's log: %w", err)
	}
	return log, log.Close, nil
}

// readWALState reads what metadb.BoltMetaDB keeps, without opening it for
// writing.
func readWALState(path string, options *bbolt.Options) (state types.PersistentState, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return state, nil
	}
	db, err := bbolt.Open(path, 0, options)
	if err != nil {
		return state, fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.View(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(metadb.MetaBucket))
		if bucket == nil {
			return nil
		}
		if raw := bucket.Get([]byte(metadb.MetaKey)); raw != nil {
			return json.Unmarshal(raw, &state)
		}
		return nil
	})
	if err != nil {
		return state, fmt.Errorf("read %s: %w", path, err)
	}
	return state, nil
}

// errReadOnly answers what would change a log that is only read.
var errReadOnly = errors.New("node: raft's log is only read")

// frozenMeta is a types.MetaStore that does not change.
type frozenMeta struct{ state types.PersistentState }

func (m *frozenMeta) Load(string) (types.PersistentState, error) { return m.state, nil }
func (m *frozenMeta) CommitState(types.PersistentState) error    { return errReadOnly }
func (m *frozenMeta) GetStable([]byte) ([]byte, error)           { return nil, errReadOnly }
func (m *frozenMeta) SetStable(_, _ []byte) error                { return errReadOnly }
func (m *frozenMeta) Close() error                               { return nil }

// readOnlyFS is a types.VFS that changes nothing. What a crash left to delete, to make
// or to mend stays for the node.
type readOnlyFS struct {
	types.VFS
	tail types.SegmentInfo // the segment that raft-wal opens for writing
	key  raftstore.Key
}

func (readOnlyFS) Delete(string, string) error { return nil }

// Create implements types.VFS: a crash came before the file was made.
func (readOnlyFS) Create(string, string, uint64) (types.WritableFile, error) {
	return &cutFile{ReadableFile: nothing{}}, nil
}

// OpenWriter implements types.VFS: the log's end is found by reading. What stands behind
// it is not shown to raft-wal, as the node does not show it.
func (r readOnlyFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	end, err := raftstore.TailEnd(f, r.tail, r.key)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &cutFile{f, end}, nil
}

// cutFile is the beginning of a file, to be read.
type cutFile struct {
	types.ReadableFile
	end int64
}

func (f *cutFile) ReadAt(b []byte, at int64) (int, error) {
	if left := max(f.end-at, 0); left < int64(len(b)) {
		n, err := f.ReadableFile.ReadAt(b[:left], at)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	return f.ReadableFile.ReadAt(b, at)
}

func (*cutFile) WriteAt([]byte, int64) (int, error) { return 0, errReadOnly }
func (*cutFile) Sync() error                        { return errReadOnly }

// nothing is an empty file.
type nothing struct{}

func (nothing) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
func (nothing) Close() error                      { return nil }
