package raftstore

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// ErrFailed is wrapped by every error after a store failed once. The process
// must exit: what the disk holds is not known any more.
var ErrFailed = errors.New("raft store failed")

// Guard runs writes under a deadline, and latches the first failure. One Guard
// is shared by the log and the stable store of a node: where one fails, the
// other must not go on.
type Guard struct {
	timeout time.Duration
	fatal   func(error)
	// dead and noLatch are Model's; zero but in a simulation.
	dead    func()
	noLatch bool

	mu     sync.Mutex // guards failed
	failed error
}

// NewGuard returns a guard with the given deadline per write. fatal is called
// once, on the first failure, from the goroutine of the write that failed or from a
// timer's; it should stop the process and may return.
func NewGuard(timeout time.Duration, fatal func(error)) (*Guard, error) {
	if timeout <= 0 || fatal == nil {
		return nil, errors.New("raftstore: a guard needs a timeout and a fatal function")
	}
	return &Guard{timeout: timeout, fatal: fatal}, nil
}

// Err returns the failure, nil while there is none.
func (g *Guard) Err() error {
	if g.dead != nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

func (g *Guard) fail(err error) error {
	if g.noLatch {
		return err
	}
	g.mu.Lock()
	first := g.failed == nil
	if first {
		g.failed = fmt.Errorf("%w: %w", ErrFailed, err)
	}
	failed := g.failed
	g.mu.Unlock()
	if first {
		g.fatal(failed)
	}
	if g.dead != nil {
		g.dead()
		return nil
	}
	return failed
}

// do runs write on the caller's goroutine, under a watch: a goroutine for each
// write would cost a lone writer four more thread switches a command. A write that
// hangs hangs its caller, which is raft's main goroutine; nothing can end that but
// the process, which the failed guard ends. A write that lands after its deadline is
// answered with the failure all the same.
func (g *Guard) do(op string, write func() error) error {
	if err := g.Err(); err != nil {
		return err
	}
	done := Watch(g.timeout, func() {
		_ = g.fail(fmt.Errorf("%s took longer than %v", op, g.timeout)) // do returns it
	})
	err := write()
	done()
	if err != nil {
		return g.fail(fmt.Errorf("%s: %w", op, err))
	}
	return g.Err()
}

// Watch calls stalled, from a goroutine of its own, unless done is called within
// limit. After limit it waits for a tenth of it more: a process that was stopped, and
// goes on, finds its timers over before what they watch had a chance to end.
func Watch(limit time.Duration, stalled func()) (done func()) {
	var mu sync.Mutex // guards timer
	var timer *time.Timer
	ended := false
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(limit, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended {
			timer = time.AfterFunc(limit/10, stalled)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		ended = true
		timer.Stop()
	}
}

// Log is a raft.LogStore under a guard. It forwards IsMonotonic, which decides
// what raft does with the log after an install (raft.go:1965).
type Log struct {
	under raft.LogStore
	guard *Guard
	key   Key
}

// NewLog wraps a log store, whose entries have checksums with a key.
func NewLog(under raft.LogStore, guard *Guard, key Key) *Log {
	return &Log{under: under, guard: guard, key: key}
}

// FirstIndex implements raft.LogStore.
func (l *Log) FirstIndex() (uint64, error) { return l.index(l.under.FirstIndex) }

// LastIndex implements raft.LogStore.
func (l *Log) LastIndex() (uint64, error) { return l.index(l.under.LastIndex) }

// index reads one of the log's ends. raft-boltdb panics where a key is damaged.
func (l *Log) index(read func() (uint64, error)) (index uint64, err error) {
	if err := l.guard.Err(); err != nil {
		return 0, err
	}
	defer func() {
		if p := recover(); p != nil {
			index, err = 0, l.guard.fail(fmt.Errorf("read the raft log: %w: %v", ErrDamaged, p))
		}
	}()
	return read()
}

// GetLog implements raft.LogStore. The error is raft.ErrLogNotFound itself
// where the entry is missing: replication compares with it. Any other fails the
// guard: a log that can't be read is as bad as one that can't be written.
func (l *Log) GetLog(index uint64, log *raft.Log) error {
	if err := l.guard.Err(); err != nil {
		return err
	}
	err := ReadLog(l.under, l.key, index, log)
	if err == nil || err == raft.ErrLogNotFound { //nolint:errorlint // the exact error
		return err
	}
	return l.guard.fail(fmt.Errorf("read the raft log: %w", err))
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs implements raft.LogStore; it returns after the entries are
// fsynced.
func (l *Log) StoreLogs(logs []*raft.Log) error {
	stored := withSums(l.key, logs)
	return l.guard.do("append to the raft log", func() error { return l.under.StoreLogs(stored) })
}

// DeleteRange implements raft.LogStore.
func (l *Log) DeleteRange(lo, hi uint64) error {
	return l.guard.do("truncate the raft log", func() error { return l.under.DeleteRange(lo, hi) })
}

// IsMonotonic implements raft.MonotonicLogStore.
func (l *Log) IsMonotonic() bool {
	m, ok := l.under.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// stable is a raft.StableStore under a guard.
type stable struct {
	raft.StableStore
	guard *Guard
}

func (s *stable) Set(key, val []byte) error {
	return s.guard.do("write the vote", func() error { return s.StableStore.Set(key, val) })
}

func (s *stable) SetUint64(key []byte, val uint64) error {
	return s.guard.do("write the vote", func() error { return s.StableStore.SetUint64(key, val) })
}

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)
