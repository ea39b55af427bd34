package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options configure a store. The zero value is ready to use.
type Options struct {
	// FS is the file system; nil is the operating system's.
	FS vfs.FS
	// Write, where not nil, is called before each write to a file, which fails
	// with its error: the seam for injected faults.
	Write func() error
	// Logger takes what Pebble reports about its background work; nil
	// discards it.
	Logger *slog.Logger
	// CacheBytes is the size that the block cache has at least; 0 is 32 MiB.
	// It also uses what the memtables leave of theirs.
	CacheBytes int64
	// MemTableBytes is the size of one memtable; 0 is 32 MiB. Up to three
	// exist at a time, and as much of the log is replayed on Open.
	MemTableBytes int
}

const (
	defaultCacheBytes    = 32 << 20
	defaultMemTableBytes = 32 << 20
	// maxMemTables exist at a time.
	maxMemTables = 3
)

// pebble returns the database's options. fatal takes errors after which the
// database cannot go on.
func (o Options) pebble(readOnly bool, fatal func(error), opening *atomic.Bool) *pebble.Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = defaultMemTableBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &pebble.Options{
		FS:       o.fs(),
		ReadOnly: readOnly,
		// Pebble takes memtables out of the cache's size. Without room for
		// them nothing would be cached at all: not even the filters, which
		// every event asks.
		CacheSize: o.CacheBytes + maxMemTables*int64(o.MemTableBytes),
		// The log chunks of this format tell a torn tail from damage to
		// what had been synced.
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                uint64(o.MemTableBytes),
		MemTableStopWritesThreshold: maxMemTables,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               64 << 20,
		// Nodes share two cores with raft and their peers: one
		// compaction at a time, a second only under debt.
		CompactionConcurrencyRange: func() (int, int) { return 1, 2 },
		MaxOpenFiles:               1000,
		// Trickle table writes to the disk, so that a flush does not
		// make raft's fsync wait for megabytes.
		BytesPerSync:  1 << 20,
		Logger:        pebbleLogger{o.Logger, fatal, opening},
		EventListener: listener(o.Logger, fatal),
	}
	p.Experimental.FileCacheShards = 1
	p.Experimental.SpanPolicyFunc = splitTables
	p.TargetFileSizes = targetFileSizes()
	for i := range p.Levels {
		p.Levels[i].BlockSize = 16 << 10
		p.Levels[i].IndexBlockSize = 64 << 10
		// Exactly-once asks for an absent id with every event: a filter
		// on every level, the last included, answers without a read.
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		p.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.FastestCompression }
	}
	return p
}

// splitTables makes Pebble end each of its files where one of our tables ends.
// Rows that are named by sequence then fill files that overlap no older ones: they
// stay where the flush put them, or move down as they are, and only the id index
// and posting lists, a tenth of the bytes, are ever merged.
func splitTables(startKey []byte) (pebble.SpanPolicy, []byte, error) {
	n := 1
	if len(startKey) > 1 && startKey[0] == stagingPrefix {
		n = 2
	}
	end := bytes.Clone(startKey[:min(n, len(startKey))])
	if len(end) > 0 {
		end[len(end)-1]++
	}
	return pebble.SpanPolicy{}, end, nil
}

// targetFileSizes are the sizes of Pebble's files: those of a flush, then those
// of the levels from the first below L0 down. A flush does not split a table.
// Pebble adds neighbours from L0 to a compaction while all of it stays below 25
// times the second size; that is kept below two flushed files of headers, so that
// these are moved one by one rather than written again together.
func targetFileSizes() [7]int64 {
	return [...]int64{64 << 20, 384 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20}
}

// listener turns background errors, after which Pebble would retry for ever
// while memory fills, into the store's failure, and keeps Pebble from ending
// the process where a read finds damage: the reader gets the error.
func listener(log *slog.Logger, fatal func(error)) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) { fatal(fmt.Errorf("background work: %w", err)) },
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			log.Error("ledger data corruption", "path", info.Path, "error", info.Details)
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			log.Warn("ledger writes stalled", "reason", info.Reason)
		},
	}
}

// errFatal marks what pebbleLogger panics with.
var errFatal = errors.New("unrecoverable database error")

// pebbleLogger passes Pebble's messages on. Pebble expects Fatalf not to
// return. On the writer's goroutine the panic is caught by the store, which
// then stays failed; on Pebble's own goroutines it ends the process, as a
// replica that can't write its state must.
type pebbleLogger struct {
	log   *slog.Logger
	fatal func(error)
	// opening, where not nil, says that the database is being opened: then the error is
	// told by who waits for that, and the goroutine that has it stays where it is.
	opening *atomic.Bool
}

func (l pebbleLogger) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("ledger database", "message", fmt.Sprintf(format, args...))
	}
}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("ledger database", "message", fmt.Sprintf(format, args...))
}

func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf("%w: %s", errFatal, fmt.Sprintf(format, args...))
	for _, arg := range args {
		if cause, ok := arg.(error); ok {
			err = fmt.Errorf("%w: %w", errFatal, cause)
		}
	}
	l.fatal(err)
	if l.opening != nil && l.opening.Load() {
		select {} // the process is about to end
	}
	panic(err)
}
