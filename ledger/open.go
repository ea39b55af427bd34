package ledger

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/exonode/exonode/chain"
)

// FormatVersion is the version of the directory's layout that this package
// writes, and the newest that it reads.
const FormatVersion = 1

const (
	formatFile  = "LEDGER"
	formatMagic = "exonode ledger"
	creating    = "creating"
	dbDir       = "db"
	// keyCheck stands before the id index's key in row F.
	keyCheck = "\x01"
)

// Create makes an empty ledger in dir, which must not exist or be empty, and
// opens it. Errors are *OpenError.
//
// Commit point: the file LEDGER losing its word "creating". A crash before
// leaves a directory that Open calls ErrNotExist and that Create starts anew.
func Create(dir string, o Options) (*Store, error) {
	s, err := create(dir, o)
	if err != nil {
		return nil, &OpenError{dir, err}
	}
	return s, nil
}

// Open opens the ledger in dir, after checking that its parts agree, and goes
// on with a move that Close or a crash interrupted. Errors are *OpenError.
func Open(dir string, o Options) (*Store, error) { return reopen(dir, o, false) }

// OpenReadOnly opens the ledger of a stopped node for reading and verification.
// It changes nothing but the lock file. Only what reading needs is checked:
// finding what is damaged is the verifier's work. Errors are *OpenError.
func OpenReadOnly(dir string, o Options) (*Store, error) { return reopen(dir, o, true) }

func create(dir string, o Options) (*Store, error) {
	fs := o.fs()
	switch version, err := readFormat(fs, dir); {
	case err == nil:
		return nil, fmt.Errorf("%w (version %d)", ErrExist, version)
	case errors.Is(err, ErrForeign), errors.Is(err, ErrNewer):
		return nil, err
	case !errors.Is(err, ErrNotExist):
		return nil, err
	}
	if err := mkdirSynced(fs, dir); err != nil {
		return nil, err
	}
	if err := writeFormat(fs, dir, creating); err != nil {
		return nil, err
	}
	db := fs.PathJoin(dir, dbDir)
	if err := fs.RemoveAll(db); err != nil {
		return nil, err
	}
	s, err := openDB(db, o, false)
	if err != nil {
		return nil, err
	}
	s.created = true
	if err := s.initialise(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := writeFormat(fs, dir, ""); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// initialise writes the rows that every ledger has.
func (s *Store) initialise() error {
	if _, err := rand.Read(s.keys.key[:]); err != nil {
		return err
	}
	s.tree = &chain.Tree{}
	v := &view{tiles: s.tree.Reader(storedTiles{s})}
	v.meta.Root = s.tree.Root()
	s.view.Store(v)
	s.growFilter(newFilter(minFilterKeys))
	return s.guard("create", func() error {
		b := s.db.NewBatch()
		w := writer{batch: b}
		w.set([]byte{byte(tableFormat)}, append([]byte(keyCheck), s.keys.key[:]...))
		row := metaRow{Meta: v.meta}
		w.set([]byte{byte(tableMeta)}, row.encode())
		if w.err != nil {
			return w.err
		}
		return s.apply(b, pebble.Sync, false, v)
	})
}

func reopen(dir string, o Options, readOnly bool) (*Store, error) {
	fail := func(err error) (*Store, error) { return nil, &OpenError{dir, err} }
	fs := o.fs()
	if _, err := readFormat(fs, dir); err != nil {
		return fail(err)
	}
	s, err := openDB(fs.PathJoin(dir, dbDir), o, readOnly)
	if err != nil {
		return fail(err)
	}
	err = s.guardOpen(s.load)
	if err == nil && readOnly {
		err = s.findLogDamage(fs, fs.PathJoin(dir, dbDir))
	}
	if err != nil {
		return fail(errors.Join(err, s.Close()))
	}
	return s, nil
}

// guardOpen keeps what is found on opening as it is: it says more than that the
// store failed.
func (s *Store) guardOpen(load func() error) error {
	err := load()
	if err != nil && pebble.IsCorruptionError(err) {
		if c := (*CorruptError)(nil); !errors.As(err, &c) {
			err = corrupt("database", err, "can't be read")
		}
	}
	return err
}

// findLogDamage notes an entry that the log has and that can't be read.
func (s *Store) findLogDamage(fs vfs.FS, db string) error {
	end, err := readLogs(fs, db)
	if err != nil {
		return err
	}
	if end.damage != "" {
		s.lost = corruptAt("database", s.Meta().Head.Size, nil,
			"%s: this entry and those after it can't be read; unless the node lost power: then the log ends there, and raft's log has them", end.damage)
	}
	return nil
}

// openDB locks and opens the database, of which nothing has been read yet.
// openPebble opens the database. Where Pebble can't write what it replays of its log, it
// tries again for ever, and says so in the background alone: that ends the attempt here.
// The goroutine, and the lock, then stay until the process ends, as it must.
func (s *Store) openPebble(dir string, opts *pebble.Options) (*pebble.DB, error) {
	type outcome struct {
		db       *pebble.DB
		err      error
		panicked any
	}
	done := make(chan outcome, 1)
	go func() {
		var o outcome
		defer func() {
			o.panicked = recover()
			done <- o
		}()
		o.db, o.err = pebble.Open(dir, opts)
	}()
	select {
	case o := <-done:
		if o.panicked != nil {
			panic(o.panicked)
		}
		return o.db, o.err
	case <-s.failed:
		return nil, fmt.Errorf("%w: %w", errAbandoned, s.Err())
	}
}

// errAbandoned marks an attempt to open the database that goes on.
var errAbandoned = errors.New("the database can't be brought to where it was")

func openDB(dir string, o Options, readOnly bool) (_ *Store, err error) {
	fs := o.fs()
	if !readOnly {
		if err := mkdirSynced(fs, dir); err != nil {
			return nil, err
		}
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	s := &Store{
		lock:     lock,
		readOnly: readOnly,
		moved:    make(chan struct{}),
		stop:     make(chan struct{}),
		failed:   make(chan struct{}),
	}
	close(s.moved)
	s.view.Store(&view{})
	// A store that is only read has nothing to fail: its reader gets the error.
	var opening *atomic.Bool
	if !readOnly {
		opening = new(atomic.Bool)
		opening.Store(true)
		defer opening.Store(false)
	}
	opts := o.pebble(readOnly, func(err error) { _ = s.fail(err) }, opening)
	opts.Lock = lock
	// Opening reports what it finds through its error, or a panic where its
	// log or manifest can't be written.
	defer func() {
		if r := recover(); r != nil {
			cause, ok := r.(error)
			if !ok {
				cause = fmt.Errorf("%v", r)
			}
			err = fmt.Errorf("open database: %w", cause)
		}
		if err != nil && !errors.Is(err, errAbandoned) {
			err = errors.Join(err, lock.Close())
		}
	}()
	db, err := s.openPebble(dir, opts)
	if err != nil {
		if pebble.IsCorruptionError(err) {
			return nil, nameLogDamage(fs, dir, corrupt("database", err, "can't be opened"))
		}
		return nil, fmt.Errorf("open database: %w", err)
	}
	s.db = db
	return s, nil
}

// nameLogDamage adds to an error of opening the first entry that can't be read,
// where a log is what is damaged.
func nameLogDamage(fs vfs.FS, dir string, c *CorruptError) error {
	if end, err := readLogs(fs, dir); err == nil && end.damage != "" && end.hasSize {
		c.Sequence, c.HasSequence, c.Found = end.size, true, end.damage
	}
	return c
}

func (o Options) fs() vfs.FS {
	fs := o.FS
	if fs == nil {
		fs = vfs.Default
	}
	if o.Write == nil {
		return fs
	}
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpFileClose {
			return nil
		}
		return o.Write()
	}))
}

// readFormat returns the layout's version of the ledger in dir.
func readFormat(fs vfs.FS, dir string) (version int, err error) {
	names, err := fs.List(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, ErrNotExist
		}
		return 0, err
	}
	content, err := readFile(fs, fs.PathJoin(dir, formatFile))
	if errors.Is(err, os.ErrNotExist) {
		if len(names) == 0 || len(names) == 1 && names[0] == formatFile+".tmp" {
			return 0, ErrNotExist
		}
		return 0, fmt.Errorf("%w: it has %q and no file %s", ErrForeign, names[0], formatFile)
	}
	if err != nil {
		return 0, err
	}
	text, ok := strings.CutPrefix(string(content), formatMagic+" ")
	text, ended := strings.CutSuffix(text, "\n")
	number, state, _ := strings.Cut(text, " ")
	version, err = strconv.Atoi(number)
	switch {
	case !ok || !ended || err != nil || version < 1:
		return 0, fmt.Errorf("%w: file %s has unknown content", ErrForeign, formatFile)
	case version > FormatVersion:
		return 0, fmt.Errorf("%w: its format is %d, this program knows %d", ErrNewer, version, FormatVersion)
	case state == creating:
		return 0, fmt.Errorf("%w: its creation was interrupted", ErrNotExist)
	}
	return version, nil
}

// writeFormat replaces the format file, durably.
func writeFormat(fs vfs.FS, dir, state string) error {
	name := fs.PathJoin(dir, formatFile)
	text := fmt.Sprintf("%s %d", formatMagic, FormatVersion)
	if state != "" {
		text += " " + state
	}
	f, err := fs.Create(name+".tmp", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, strings.NewReader(text+"\n"))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(name+".tmp", name); err != nil {
		return err
	}
	return syncDir(fs, dir)
}

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, io.LimitReader(f, 4096))
	return b.Bytes(), errors.Join(err, f.Close())
}

// mkdirSynced makes a directory and syncs its parent, so that a crash does not
// take it away again.
func mkdirSynced(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(fs, fs.PathDir(dir))
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
