package sim

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/outbox"
)

// disk is what one node keeps: a file system for the ledger, the outbox, promises and
// manifests, and models of raft's log and vote.
type disk struct {
	files *vfs.MemFS
	log   *raftLog
	vote  *raftVote
	rng   *source
	bug   Bug
}

// source is a random source that several goroutines draw from.
type source struct {
	mu  sync.Mutex // guards rng
	rng *rand.Rand
}

func newSource(seed, stream uint64) *source {
	return &source{rng: rand.New(rand.NewPCG(seed, stream))}
}

func (s *source) intN(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(n)
}

// between draws a duration of [lo, hi).
func (s *source) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.intN(int(hi-lo)))
}

func newDisk(rng *source, bug Bug) *disk {
	d := &disk{files: vfs.NewCrashableMem(), rng: rng, bug: bug}
	d.log, d.vote = &raftLog{rng: rng}, &raftVote{rng: rng, values: make(map[string][]byte)}
	for _, dir := range []string{outboxDir, manifestDir, promiseDir, signingDir} {
		d.makeDir(dir)
	}
	return d
}

// The directories of the file system. The ledger's is where the node says, in its data
// directory.
const (
	outboxDir   = "/outbox"
	manifestDir = "/manifests"
	promiseDir  = "/formation"
	signingDir  = "/signing"
)

// makeDir makes a directory and its parents, durably.
func (d *disk) makeDir(dir string) {
	must(d.files.MkdirAll(dir, 0o700))
	for dir != "/" {
		dir = path.Dir(dir)
		must(syncDir(d.files, dir))
	}
}

// moveLedger puts the ledger of an earlier life, if there is one, where the node's next
// life looks for it.
func (d *disk) moveLedger(from, to string) {
	d.makeDir(to)
	if _, err := d.files.Stat(from + "/ledger"); err != nil {
		return
	}
	must(d.files.Rename(from+"/ledger", to+"/ledger"))
	must(syncDir(d.files, to))
	must(syncDir(d.files, from))
}

// must is for what can't fail in memory.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// crash returns the disk as a crash at this moment leaves it. Nothing may be running
// in the bubble but the caller.
func (d *disk) crash() *disk {
	percent := [...]int{0, 0, 50, 90, 100}[d.rng.intN(5)]
	d.rng.mu.Lock()
	files := d.files.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: d.rng.rng})
	d.rng.mu.Unlock()
	after := &disk{files: files, log: d.log.crash(), vote: d.vote.crash(), rng: d.rng, bug: d.bug}
	if d.bug == UnsyncedLog {
		after.log.entries = after.log.entries[:max(0, len(after.log.entries)-20)]
	}
	return after
}

// wait is how long a sync takes.
func (s *source) wait() { time.Sleep(s.between(50*time.Microsecond, 2*time.Millisecond)) }

// raftLog is a model of raft's log on disk: what StoreLogs has returned for survives a
// crash; of what it is at, some beginning may.
type raftLog struct {
	rng *source

	mu      sync.Mutex // guards the fields below; never held while time passes
	entries []*raft.Log
	writing []*raft.Log
}

func (l *raftLog) crash() *raftLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	left := slices.Clone(l.entries)
	if n := len(l.writing); n > 0 {
		left = append(left, l.writing[:l.rng.intN(n+1)]...)
	}
	return &raftLog{rng: l.rng, entries: left}
}

func (l *raftLog) FirstIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		return 0, nil
	}
	return l.entries[0].Index, nil
}

func (l *raftLog) LastIndex() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		return 0, nil
	}
	return l.entries[len(l.entries)-1].Index, nil
}

func (l *raftLog) GetLog(index uint64, log *raft.Log) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 || index < l.entries[0].Index || index > l.entries[len(l.entries)-1].Index {
		return raft.ErrLogNotFound
	}
	*log = *l.entries[index-l.entries[0].Index]
	return nil
}

func (l *raftLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

func (l *raftLog) StoreLogs(logs []*raft.Log) error {
	kept := make([]*raft.Log, len(logs))
	for i, log := range logs {
		c := *log
		c.Data, c.Extensions = slices.Clone(log.Data), slices.Clone(log.Extensions)
		kept[i] = &c
	}
	l.mu.Lock()
	next := kept[0].Index
	if n := len(l.entries); n > 0 {
		next = l.entries[n-1].Index + 1
	}
	for i, log := range kept {
		if log.Index != next+uint64(i) {
			l.mu.Unlock()
			return fmt.Errorf("sim: log entry %d is stored where %d is next", log.Index, next+uint64(i))
		}
	}
	l.writing = kept
	l.mu.Unlock()
	l.rng.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries, l.writing = append(l.entries, kept...), nil
	return nil
}

// DeleteRange removes the beginning or the end of the log, at once.
func (l *raftLog) DeleteRange(lo, hi uint64) error {
	l.rng.wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.entries) == 0 {
		return nil
	}
	first, last := l.entries[0].Index, l.entries[len(l.entries)-1].Index
	lo, hi = max(lo, first), min(hi, last)
	switch {
	case lo > hi:
	case lo == first:
		l.entries = slices.Clone(l.entries[hi-first+1:])
	case hi == last:
		l.entries = slices.Clone(l.entries[:lo-first])
	default:
		return fmt.Errorf("sim: removal of %d to %d from the middle of %d to %d", lo, hi, first, last)
	}
	return nil
}

// IsMonotonic implements raft.MonotonicLogStore, as raft-wal does.
func (l *raftLog) IsMonotonic() bool { return true }

// raftVote is a model of the stable store: a write happens whole, once it is synced.
type raftVote struct {
	rng *source

	mu      sync.Mutex // guards the fields below; never held while time passes
	values  map[string][]byte
	writing []byte // of key, where not nil
	key     string
}

var errNoKey = errors.New("not found") // raft compares the text

func (v *raftVote) crash() *raftVote {
	v.mu.Lock()
	defer v.mu.Unlock()
	left := &raftVote{rng: v.rng, values: make(map[string][]byte)}
	for key, value := range v.values {
		left.values[key] = value
	}
	if v.writing != nil && v.rng.intN(2) == 0 {
		left.values[v.key] = v.writing
	}
	return left
}

func (v *raftVote) Set(key, value []byte) error {
	v.mu.Lock()
	v.key, v.writing = string(key), slices.Clone(value)
	v.mu.Unlock()
	v.rng.wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values[v.key], v.writing = v.writing, nil
	return nil
}

func (v *raftVote) Get(key []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	value, ok := v.values[string(key)]
	if !ok {
		return nil, errNoKey
	}
	return value, nil
}

// SetUint64 and GetUint64 are not used: all is in one record.
func (v *raftVote) SetUint64(key []byte, _ uint64) error {
	return fmt.Errorf("sim: number stored under %q", key)
}

func (v *raftVote) GetUint64([]byte) (uint64, error) { return 0, errNoKey }

// flat is one directory as packages membership and raftstore want it, whatever path
// they know it by.
type flat struct {
	fs  *vfs.MemFS
	dir string
}

var (
	_ raftstore.Files = flat{}
	_ membership.FS   = flat{}
)

func (f flat) name(p string) string { return f.dir + "/" + path.Base(p) }

func (f flat) ReadDir(string) ([]string, error) {
	names, err := f.fs.List(f.dir)
	slices.Sort(names)
	return names, err
}

func (f flat) ReadFile(name string) ([]byte, error) {
	file, err := f.fs.Open(f.name(name))
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(file)
	return b, errors.Join(err, file.Close())
}

func (f flat) WriteFile(name string, data []byte) error {
	file, err := f.fs.Create(f.name(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = file.Write(slices.Clone(data))
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func (f flat) Rename(from, to string) error {
	if _, err := f.fs.Stat(f.name(from)); err != nil {
		return fs.ErrNotExist
	}
	return f.fs.Rename(f.name(from), f.name(to))
}

func (f flat) Remove(name string) error { return f.fs.Remove(f.name(name)) }

func (f flat) SyncDir(string) error { return syncDir(f.fs, f.dir) }

func syncDir(fs *vfs.MemFS, name string) error {
	dir, err := fs.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// queueFiles are the files of an outbox.
type queueFiles struct{ fs *vfs.MemFS }

var _ outbox.FS = queueFiles{}

func (q queueFiles) name(n string) string { return outboxDir + "/" + n }

func (q queueFiles) Open(name string, create bool) (outbox.File, int64, error) {
	if create {
		f, err := q.fs.Create(q.name(name), vfs.WriteCategoryUnspecified)
		return &queueFile{File: f, fs: q.fs, name: q.name(name)}, 0, err
	}
	f, err := q.fs.OpenReadWrite(q.name(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	return &queueFile{File: f, fs: q.fs, name: q.name(name)}, info.Size(), nil
}

func (q queueFiles) Rename(from, to string) error { return q.fs.Rename(q.name(from), q.name(to)) }
func (q queueFiles) Remove(name string) error     { return q.fs.Remove(q.name(name)) }
func (q queueFiles) List() ([]string, error)      { return q.fs.List(outboxDir) }
func (q queueFiles) Sync() error                  { return syncDir(q.fs, outboxDir) }

// queueFile is one of them.
type queueFile struct {
	vfs.File
	fs   *vfs.MemFS
	name string
}

// Truncate makes the file anew, and durable: the file system can't truncate.
func (f *queueFile) Truncate(size int64) error {
	b := make([]byte, size)
	if n, err := f.File.ReadAt(b, 0); int64(n) < size {
		return err
	}
	next, err := f.fs.Create(f.name+".cut", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	if _, err := next.Write(b); err != nil {
		return err
	}
	if err := errors.Join(next.Sync(), f.fs.Rename(f.name+".cut", f.name), syncDir(f.fs, outboxDir), f.File.Close()); err != nil {
		return err
	}
	f.File, err = next, nil
	return err
}
