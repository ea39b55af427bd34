package ledger

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/exonode/exonode/chain"
)

// Store is a chain on disk. Commit, Stage, Promote and DropStaging are for one
// goroutine at a time; everything else is safe beside them and beside itself.
//
// An error other than chain.ErrNotFound, ErrClosed and ErrReadOnly means that
// the store has failed: every later call returns it, Failed is closed, and the
// node must stop.
type Store struct {
	db       *pebble.DB
	lock     *pebble.Lock
	keys     keyHasher
	readOnly bool
	// created says that this process created the directory.
	created bool
	// lost is, in a read-only store, damage to the log behind the head; nil
	// where there is none.
	lost *CorruptError

	// view is what reads see; published by the writer after its batch is
	// applied. Never nil.
	view atomic.Pointer[view]
	// rewrites is odd while a batch that deletes or moves rows is applied:
	// reads of several rows that saw it change start again.
	rewrites atomic.Uint64

	// mu is held by whoever applies a batch and publishes a view: the
	// writer, and the mover for one chunk at a time.
	mu sync.Mutex
	// tree and hasState are the writer's, under mu.
	tree     *chain.Tree
	hasState bool
	staging  *staging // nil where nothing is staged; under mu
	scratch  []byte   // the writer's, under mu

	// filter answers for most absent keys; nil in a read-only store. nextFilter
	// takes its place when it is complete, nil where there is none, and filtered
	// is about how many keys the filter holds: both under mu.
	filter     atomic.Pointer[filter]
	nextFilter *filter
	filtered   uint64

	// moved is closed when no promoted range waits to be moved; under mu.
	moved chan struct{}
	stop  chan struct{} // closed by Close: background work ends
	// background counts the goroutines that move rows and fill filters.
	background sync.WaitGroup

	failure  atomic.Pointer[error]
	failed   chan struct{}
	poisoned atomic.Bool // Pebble panicked: its locks may be held for ever

	// open is held for reading by each use of db, so that Close waits for
	// them; closed and closeErr are under it.
	open     sync.RWMutex
	closed   bool
	closing  sync.Once
	closeErr error
}

// view is an immutable account of what reads may see.
type view struct {
	meta chain.Meta
	// tiles reads the tree at meta's size: partial tiles from memory.
	tiles chain.TileReader
	// edgeErr is why a read-only store could not load tiles; nil else.
	edgeErr error
	// moving says that a promoted range still lives in the staging keyspace,
	// and promoted which; it may be empty, with slots alone.
	moving   bool
	promoted span
	// hidden are envelopes below promoted.from that a staged update redacted
	// and the mover has not yet; nil where there are none.
	hidden map[chain.Redaction]struct{}
}

// space returns where the rows of an entry live.
func (v *view) space(seq uint64) space { return space(v.promoted.contains(seq)) }

// Meta returns what the last committed Update said.
func (s *Store) Meta() chain.Meta { return s.view.Load().meta }

// State returns the encoded folded state as of Meta, nil if none.
func (s *Store) State() ([]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	state, _, err := s.get([]byte{byte(tableState)})
	if err != nil {
		return nil, s.fail(fmt.Errorf("read state: %w", err))
	}
	return state, nil
}

// Find returns where a key stands, as of a view at least as new as when it was
// called. A slot is verified before it is returned.
func (s *Store) Find(key chain.Key) (chain.Slot, bool, error) {
	if err := s.enter(); err != nil {
		return chain.Slot{}, false, err
	}
	defer s.leave()
	d := s.keys.digest(key)
	if !s.mayHold(&d) {
		return chain.Slot{}, false, nil
	}
	slot, ok, err := s.find(key, &d)
	if err != nil {
		return chain.Slot{}, false, s.fail(fmt.Errorf("find key: %w", err))
	}
	return slot, ok, nil
}

func (s *Store) find(key chain.Key, d *keyDigest) (slot chain.Slot, ok bool, err error) {
	var buf [2 + idSize]byte
	v := s.view.Load()
	spaces := [...]space{stagingSpace, mainSpace}
	from := spaces[1:]
	if v.moving {
		// Commits since the promotion wrote to the main table and took
		// the staged row away: the staged one, if there, is the newest.
		from = spaces[:]
	}
	for _, sp := range from {
		row, closer, err := s.db.Get(appendIDKey(buf[:0], sp, d))
		if errors.Is(err, pebble.ErrNotFound) {
			continue
		}
		if err != nil {
			return chain.Slot{}, false, err
		}
		slot, check, valid := decodeSlot(row)
		valid = valid && (slot.State == chain.SlotSealed || string(check) == string(d[idSize:]))
		if err := closer.Close(); err != nil {
			return chain.Slot{}, false, err
		}
		if !valid {
			return chain.Slot{}, false, corrupt("index", nil, "the slot of key %q does not belong to it", key)
		}
		if slot.Sequence >= v.meta.Head.Size {
			// The row is newer than the view: its batch is applied,
			// its view about to be published.
			s.mu.Lock()
			v = s.view.Load()
			s.mu.Unlock()
		}
		if err := s.verifySlot(key, slot, v); err != nil {
			return chain.Slot{}, false, err
		}
		return slot, true, nil
	}
	return chain.Slot{}, false, nil
}

// verifySlot holds a slot against the header that it points at.
func (s *Store) verifySlot(key chain.Key, slot chain.Slot, v *view) error {
	if slot.Sequence >= v.meta.Head.Size {
		return corruptAt("index", slot.Sequence, nil, "the slot of key %q points beyond the head", key)
	}
	if slot.State != chain.SlotSealed {
		return nil
	}
	header, err := s.currentHeader(slot.Sequence)
	if err != nil {
		return err
	}
	h, err := decodeHeader(slot.Sequence, header)
	if err != nil {
		return err
	}
	if got := h.Key(); got != key {
		return corruptAt("index", slot.Sequence, nil, "the slot of key %q points at the entry of key %q", key, got)
	}
	return nil
}

// Header returns the encoded header of an entry below Meta().Head.Size, and
// chain.ErrNotFound for others.
func (s *Store) Header(seq uint64) ([]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	header, err := s.currentHeader(seq)
	return header, s.failUnlessNotFound(err)
}

func (s *Store) currentHeader(seq uint64) (header []byte, err error) {
	err = s.consistent(func(v *view) (err error) {
		header, err = s.header(v, seq)
		return err
	})
	return header, err
}

// Record returns an entry below Meta().Head.Size, and chain.ErrNotFound for
// others.
func (s *Store) Record(seq uint64) (chain.Record, error) {
	if err := s.enter(); err != nil {
		return chain.Record{}, err
	}
	defer s.leave()
	var rec chain.Record
	err := s.consistent(func(v *view) (err error) {
		rec, err = s.record(v, seq)
		return err
	})
	return rec, s.failUnlessNotFound(err)
}

func (s *Store) header(v *view, seq uint64) ([]byte, error) {
	if seq >= v.meta.Head.Size {
		return nil, errBeyond(seq, v.meta.Head.Size)
	}
	var buf [10]byte
	header, ok, err := s.get(appendSeqKey(buf[:0], v.space(seq), tableHeader, seq))
	switch {
	case err != nil:
		return nil, readError("header", seq, err)
	case !ok:
		return nil, corruptAt("header", seq, nil, "is missing, the chain has %d entries", v.meta.Head.Size)
	}
	return header, nil
}

func (s *Store) record(v *view, seq uint64) (chain.Record, error) {
	header, err := s.header(v, seq)
	if err != nil {
		return chain.Record{}, err
	}
	rec := chain.Record{Sequence: seq, Header: header}
	if rec.Envelope, err = s.envelope(v, chain.Redaction{Sequence: seq}); err == nil {
		rec.Beside, err = s.envelope(v, chain.Redaction{Sequence: seq, Beside: true})
	}
	if err != nil {
		return chain.Record{}, err
	}
	return rec, nil
}

// envelope returns the envelope that a redaction would name; nil where there is
// none.
func (s *Store) envelope(v *view, which chain.Redaction) ([]byte, error) {
	if _, hidden := v.hidden[which]; hidden {
		return nil, nil
	}
	var buf [10]byte
	envelope, _, err := s.get(appendSeqKey(buf[:0], v.space(which.Sequence), envelopeTable(which), which.Sequence))
	if err != nil {
		return nil, readError("envelope", which.Sequence, err)
	}
	if len(envelope) == 0 {
		return nil, nil // it came without
	}
	return envelope, nil
}

// hasEnvelopeRow reports whether an entry has a row for its envelope, if only an
// empty one.
func (s *Store) hasEnvelopeRow(v *view, seq uint64) (bool, error) {
	var buf [10]byte
	_, there, err := s.get(appendSeqKey(buf[:0], v.space(seq), tableEnvelope, seq))
	if err != nil {
		return false, readError("envelope", seq, err)
	}
	return there, nil
}

func errBeyond(seq, size uint64) error {
	return fmt.Errorf("%w: sequence %d, the chain has %d entries", chain.ErrNotFound, seq, size)
}

// decodeHeader decodes a stored header.
func decodeHeader(seq uint64, b []byte) (chain.Header, error) {
	h, err := chain.DecodeHeader(b)
	if err != nil {
		return chain.Header{}, corruptAt("header", seq, err, "can't be decoded")
	}
	if h.Sequence != seq {
		return chain.Header{}, corruptAt("header", seq, nil, "says that its sequence is %d", h.Sequence)
	}
	return h, nil
}

// readError names the sequence of a row that could not be read.
func readError(part string, seq uint64, err error) error {
	if pebble.IsCorruptionError(err) {
		return corruptAt(part, seq, err, "bytes on disk do not match their checksum")
	}
	return fmt.Errorf("read %s %d: %w", part, seq, err)
}

// get returns a copy of a row.
func (s *Store) get(key []byte) ([]byte, bool, error) {
	row, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	out := append(make([]byte, 0, len(row)), row...)
	return out, true, closer.Close()
}

// consistent runs a read of several rows so that it sees all or none of any
// batch that deletes or moves rows. Rows that are only added need no such care:
// reads don't look beyond their view's head.
func (s *Store) consistent(read func(*view) error) error {
	for range 3 {
		n := s.rewrites.Load()
		if n%2 != 0 {
			break
		}
		err := read(s.view.Load())
		if s.rewrites.Load() == n {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return read(s.view.Load())
}

// Flush returns once all commits so far are durable. Pebble's log holds every
// batch in order, the logs before the current one were synced when they were
// closed, and tables are synced before the log behind them goes: so a sync of
// the log is enough, and flushing memtables would only cost time.
func (s *Store) Flush() error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.leave()
	return s.guard("sync log", func() error { return s.db.LogData(nil, pebble.Sync) })
}

// FlushStaging returns once all that was staged is durable.
func (s *Store) FlushStaging() error { return s.Flush() }

// Failed returns a channel that is closed when the store fails for good; Err
// says why.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// Err returns why the store failed; nil where it has not.
func (s *Store) Err() error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Close ends background work, flushes memtables (so that a stopped node's
// directory is all checksummed tables) and releases the directory. It may be
// called twice. A store that Pebble left with an unrecoverable error keeps its
// lock and goroutines until the process ends: its own locks may be held.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.stop)
		s.background.Wait()
		// Those that a write started meanwhile end when they see closed.
		defer s.background.Wait()
		s.open.Lock()
		defer s.open.Unlock()
		s.closed = true
		if s.poisoned.Load() {
			s.closeErr = s.Err()
			return
		}
		s.closeErr = s.closeDB()
	})
	return s.closeErr
}

func (s *Store) closeDB() error {
	var errs []error
	if !s.readOnly && s.Err() == nil {
		errs = append(errs, s.flush())
	}
	if !s.poisoned.Load() {
		errs = append(errs, s.guard("close", s.db.Close), s.lock.Close())
	}
	return errors.Join(errs...)
}

// flush has what is in memory brought into tables. Where that fails for lack of room,
// Pebble tries again for ever, and says so in the background alone: that ends the wait.
// The database is then left as it is, since closing it waits for the same.
func (s *Store) flush() error {
	done := make(chan error, 1)
	go func() { done <- s.guard("flush", s.db.Flush) }() // ends with the process where it is not waited for
	select {
	case err := <-done:
		return err
	case <-s.failed:
		s.poisoned.Store(true)
		return s.Err()
	}
}

// enter begins a use of the database; unless it returns an error, leave ends
// it. Uses do not nest.
func (s *Store) enter() error {
	if err := s.Err(); err != nil {
		return err
	}
	s.open.RLock()
	if s.closed {
		s.open.RUnlock()
		return ErrClosed
	}
	return nil
}

func (s *Store) leave() { s.open.RUnlock() }

// enterWrite is enter for writes.
func (s *Store) enterWrite() error {
	if s.readOnly {
		return ErrReadOnly
	}
	return s.enter()
}

// fail makes err the store's failure and returns the first one. A read-only
// store does not fail: verification goes on to name all that is damaged.
func (s *Store) fail(err error) error {
	if s.readOnly {
		return err
	}
	err = fmt.Errorf("ledger: %w", err)
	if s.failure.CompareAndSwap(nil, &err) {
		close(s.failed)
	}
	return s.Err()
}

func (s *Store) failUnlessNotFound(err error) error {
	if err == nil || errors.Is(err, chain.ErrNotFound) {
		return err
	}
	return s.fail(err)
}

// guard runs a write. Whatever goes wrong in it fails the store, panics of
// Pebble included: it panics where its log can't be written.
func (s *Store) guard(op string, write func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.poisoned.Store(true)
			cause, ok := r.(error)
			if !ok {
				cause = fmt.Errorf("%v", r)
			}
			err = s.fail(fmt.Errorf("%s: %w", op, cause))
		}
	}()
	if err := write(); err != nil {
		return s.fail(fmt.Errorf("%s: %w", op, err))
	}
	return nil
}
