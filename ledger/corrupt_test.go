package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/ledger/ledgertest"
)

// stopped returns the disk of a stopped store of 1,500 entries, of which some
// are staged, and what it held.
func stopped(t *testing.T, stage bool) (*vfs.MemFS, chain.Meta) {
	t.Helper()
	disk := vfs.NewCrashableMem()
	s, err := Create("ledger", small(disk))
	ok(t, err)
	b := ledgertest.NewBuilder(1)
	for range 10 {
		ok(t, s.Commit(b.NextN(150, 300)))
	}
	if stage {
		ok(t, s.Stage(b.NextN(100, 20)))
	}
	meta := s.Meta()
	ok(t, s.Close())
	return disk, meta
}

// small are options that make little work of opening.
func small(disk vfs.FS) Options {
	return Options{FS: disk, CacheBytes: 1 << 20, MemTableBytes: 1 << 20}
}

func ok(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// TestOpenFindsDisagreement takes rows away, or changes them, behind the store's
// back.
func TestOpenFindsDisagreement(t *testing.T) {
	long(t)
	const size = 1500
	del := func(key []byte) func(*Store, *pebble.Batch) {
		return func(_ *Store, b *pebble.Batch) { _ = b.Delete(key, nil) }
	}
	set := func(key []byte, value string) func(*Store, *pebble.Batch) {
		return func(_ *Store, b *pebble.Batch) { _ = b.Set(key, []byte(value), nil) }
	}
	last := func(s *Store) chain.Header {
		b, err := s.Header(size - 1)
		ok(t, err)
		h, err := chain.DecodeHeader(b)
		ok(t, err)
		return h
	}
	posting := func(table table, value func(chain.Header) string) func(*Store, *pebble.Batch) {
		return func(s *Store, b *pebble.Batch) {
			v := value(last(s))
			_ = b.DeleteRange(appendPostingKey(nil, mainSpace, table, v, size-100), appendPostingKey(nil, mainSpace, table, v, size), nil)
			_ = b.DeleteRange(appendPostingKey(nil, mainSpace, table, v, size-160), appendPostingKey(nil, mainSpace, table, v, size), nil)
		}
	}
	editMeta := func(edit func(*metaRow)) func(*Store, *pebble.Batch) {
		return func(s *Store, b *pebble.Batch) {
			row := metaRow{s.Meta(), true}
			edit(&row)
			_ = b.Set([]byte{byte(tableMeta)}, row.encode(), nil)
		}
	}
	header := func(s *Store, seq uint64) []byte {
		b, err := s.Header(seq)
		ok(t, err)
		return b
	}
	for _, test := range []struct {
		name   string
		damage func(*Store, *pebble.Batch)
		part   string
		seq    int // -1: none
	}{
		{"no format row", del([]byte{byte(tableFormat)}), "database", -1},
		{"no meta", del([]byte{byte(tableMeta)}), "meta", -1},
		{"cut meta", set([]byte{byte(tableMeta)}, "\x01abc"), "meta", -1},
		{"no state", del([]byte{byte(tableState)}), "state", -1},
		{"no last header", del(appendSeqKey(nil, mainSpace, tableHeader, size-1)), "header", size - 1},
		{"no last envelope", del(appendSeqKey(nil, mainSpace, tableEnvelope, size-1)), "envelope", size - 1},
		{"no envelope in the tail", del(appendSeqKey(nil, mainSpace, tableEnvelope, size-checkedTail)), "envelope", size - checkedTail},
		{"another last envelope", set(appendSeqKey(nil, mainSpace, tableEnvelope, size-1), "x"), "envelope", size - 1},
		{"a second envelope", set(appendSeqKey(nil, mainSpace, tableBeside, size-2), "x"), "envelope", size - 2},
		{"posting beyond the head", func(s *Store, b *pebble.Batch) {
			_ = b.Set(appendPostingKey(nil, mainSpace, tableKind, last(s).Kind, size-1), []byte{7}, nil)
		}, "index", size + 6},
		{"malformed key", set([]byte("hx"), ""), "database", -1},
		{"another last header", func(s *Store, b *pebble.Batch) {
			_ = b.Set(appendSeqKey(nil, mainSpace, tableHeader, size-1), header(s, 7), nil)
		}, "header", size - 1},
		{"a header of the right edge is gone", del(appendSeqKey(nil, mainSpace, tableHeader, size-50)), "header", size - 50},
		{"header beyond the head", set(appendSeqKey(nil, mainSpace, tableHeader, size+3), "x"), "header", size + 3},
		{"envelope beyond the head", set(appendSeqKey(nil, mainSpace, tableEnvelope, size), "x"), "envelope", size},
		{"second envelope beyond the head", set(appendSeqKey(nil, mainSpace, tableBeside, size), "x"), "envelope", size},
		{"tile beyond the head", set(appendTileKey(nil, mainSpace, 0, 5), strings.Repeat("x", chain.TileSize)), "tile", 5 * 256},
		{"no last tile", del(appendTileKey(nil, mainSpace, 0, 4)), "tile", 4 * 256},
		{"short tile", set(appendTileKey(nil, mainSpace, 0, 4), "short"), "tile", 4 * 256},
		{"a header under the last tile changed", func(s *Store, b *pebble.Batch) {
			_ = b.Set(appendSeqKey(nil, mainSpace, tableHeader, 4*256+9), header(s, 3), nil)
		}, "tile", 4*256 + 9},
		{"another time", editMeta(func(m *metaRow) { m.Head.Time++ }), "header", size - 1},
		{"another root", editMeta(func(m *metaRow) { m.Root[0]++ }), "tile", -1},
		{"a longer chain", editMeta(func(m *metaRow) { m.Head.Size++ }), "header", size},
		{"a shorter chain", editMeta(func(m *metaRow) { m.Head.Size-- }), "header", size - 2},
		{"the empty chain with a head", editMeta(func(m *metaRow) { m.Head.Size = 0 }), "meta", -1},
		{"no slot of the last entry", func(s *Store, b *pebble.Batch) {
			h := last(s)
			d := s.keys.digest(h.Key())
			_ = b.Delete(appendIDKey(nil, mainSpace, &d), nil)
		}, "index", size - 1},
		{"slot of another entry", func(s *Store, b *pebble.Batch) {
			h := last(s)
			d := s.keys.digest(h.Key())
			_ = b.Set(appendIDKey(nil, mainSpace, &d), appendSlot(nil, chain.Slot{State: chain.SlotSealed, Sequence: 9}, &d), nil)
		}, "index", 9},
		{"malformed slot", func(s *Store, b *pebble.Batch) {
			h := last(s)
			d := s.keys.digest(h.Key())
			_ = b.Set(appendIDKey(nil, mainSpace, &d), []byte{9, 9}, nil)
		}, "index", -1},
		{"kinds cut", posting(tableKind, func(h chain.Header) string { return h.Kind }), "index", -2},
		{"sources cut", posting(tableSource, func(h chain.Header) string { return h.Source }), "index", -2},
		{"principals cut", func(s *Store, b *pebble.Batch) {
			_ = b.DeleteRange(appendTable(nil, mainSpace, tablePrincipal), tableEnd(mainSpace, tablePrincipal), nil)
		}, "index", -2},
		{"workspaces cut", posting(tableWorkspace, func(h chain.Header) string { return h.Workspace }), "index", -2},
		{"promoted range beyond the head", set([]byte{byte(tablePromoted)}, string(span{size - 1, size + 1}.encode())), "meta", -1},
		{"promoted range without its rows", set([]byte{byte(tablePromoted)}, string(span{size - 1, size}.encode())), "header", size - 1},
		{"staging of another head", set(appendTable(nil, stagingSpace, tableMeta), string(encodeStagedMeta(3, chain.Head{Size: 9}))), "staging", -1},
		{"staging without its rows", set(appendTable(nil, stagingSpace, tableMeta), string(encodeStagedMeta(size, chain.Head{Size: size + 9}))), "header", size + 8},
	} {
		t.Run(test.name, func(t *testing.T) {
			disk, _ := stopped(t, false)
			s, err := Open("ledger", small(disk))
			ok(t, err)
			b := s.db.NewBatch()
			test.damage(s, b)
			ok(t, s.db.Apply(b, pebble.Sync), s.Close())
			s, err = Open("ledger", small(disk))
			if err == nil {
				_ = s.Close()
				t.Fatal("opens")
			}
			var c *CorruptError
			if !errors.As(err, &c) {
				t.Fatalf("%v, want a CorruptError", err)
			}
			if c.Part != test.part || test.seq != -2 && (c.HasSequence != (test.seq >= 0) || c.HasSequence && c.Sequence != uint64(test.seq)) {
				t.Errorf("%v, want part %s, sequence %d", err, test.part, test.seq)
			}
			// The lock was released.
			if s, err := OpenReadOnly("ledger", small(disk)); errors.Is(err, ErrLocked) {
				t.Error(err)
			} else if err == nil {
				_ = s.Close()
			}
		})
	}
}

// TestOpenWithEnvelopesGone: the last entries may lack envelopes for good reasons.
func TestOpenWithEnvelopesGone(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, err := Create("ledger", small(disk))
	ok(t, err)
	b := ledgertest.NewBuilder(1)
	ok(t, s.Commit(b.NextN(30, 100)))
	u := b.Next()
	u.Entries = append(u.Entries, b.Redact(28))
	u.Redact = []chain.Redaction{{Sequence: 28}}
	ok(t, s.Commit(u))
	// A member gave this one after a redaction that is not here yet.
	u = b.NextN(2, 100)
	u.Entries[0].Envelope = nil
	ok(t, s.Stage(u), s.Promote(nil, b.Index, 1, 0), s.Close())
	for range 2 { // it may be moved by then, or not
		s, err = Open("ledger", small(disk))
		ok(t, err)
		for _, seq := range []uint64{28, 31} {
			if rec, err := s.Record(seq); err != nil || rec.Envelope != nil {
				t.Errorf("entry %d: envelope %x, %v", seq, rec.Envelope, err)
			}
		}
		for rec, err := range s.Scan(chain.Filter{}, 0, b.Head.Size, false) {
			ok(t, err)
			if gone := rec.Sequence == 28 || rec.Sequence == 31; gone != (rec.Envelope == nil) {
				t.Errorf("entry %d is scanned with envelope %x", rec.Sequence, rec.Envelope)
			}
		}
		ok(t, s.Close())
	}
	if err := verify(t, disk); err == nil {
		t.Error("a missing envelope that no entry redacts verifies")
	}
}

// TestVerifyChecksIndexes: rows that no entry has, behind what Open looks at.
func TestVerifyChecksIndexes(t *testing.T) {
	long(t)
	const size = 1500
	set := func(key []byte, value string) func(*Store, *pebble.Batch) {
		return func(_ *Store, b *pebble.Batch) { _ = b.Set(key, []byte(value), nil) }
	}
	for _, test := range []struct {
		name   string
		damage func(*Store, *pebble.Batch)
		seq    int // -1: none
	}{
		{"slot beyond the head", func(s *Store, b *pebble.Batch) {
			d := s.keys.digest(chain.Key{Workspace: "nobody's"})
			_ = b.Set(appendIDKey(nil, mainSpace, &d), appendSlot(nil, chain.Slot{State: chain.SlotDenied, Sequence: 9999}, &d), nil)
		}, 9999},
		{"malformed slot", func(s *Store, b *pebble.Batch) {
			d := s.keys.digest(chain.Key{Workspace: "nobody's"})
			_ = b.Set(appendIDKey(nil, mainSpace, &d), []byte{9}, nil)
		}, -1},
		{"posting beyond the head", set(appendPostingKey(nil, mainSpace, tableSource, "nobody", size-3), "\x01\x01\x01"), size},
		{"malformed posting", set(appendPostingKey(nil, mainSpace, tableSource, "nobody", 7), "\x00"), 7},
		{"malformed key of a posting", set([]byte{byte(tableKind), 'x'}, ""), -1},
		{"no posting", func(s *Store, b *pebble.Batch) {
			v := ledgertest.Event(0, 0).Source
			_ = b.Delete(appendPostingKey(nil, mainSpace, tableSource, v, 0), nil)
		}, -1},
		{"row of no table", set([]byte("a"), ""), -1},
		{"row of no table behind all", set([]byte("z\xff"), ""), -1},
		{"second meta", set([]byte("Mx"), ""), -1},
		{"row of no table in staging", set([]byte("sx"), ""), -1},
		{"tile beyond the head", set(appendTileKey(nil, mainSpace, 0, 5), "x"), 5 * 256},
	} {
		t.Run(test.name, func(t *testing.T) {
			disk, _ := stopped(t, false)
			s, err := Open("ledger", small(disk))
			ok(t, err)
			b := s.db.NewBatch()
			test.damage(s, b)
			ok(t, s.db.Apply(b, pebble.Sync), s.Close())
			err = verify(t, disk)
			var bad *chain.BadEntryError
			var c *CorruptError
			switch found := errors.As(err, &bad); {
			case !errors.As(err, &c):
				t.Errorf("verify: %v, want a CorruptError", err)
			case found != (test.seq >= 0), found && bad.Sequence != uint64(test.seq):
				t.Errorf("verify: %v, want entry %d", err, test.seq)
			}
		})
	}
}

// TestVerifyWhileMoving: a store that was stopped while it moved a promoted range
// has rows twice.
func TestVerifyWhileMoving(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, err := Create("ledger", small(disk))
	ok(t, err)
	b := ledgertest.NewBuilder(1)
	ok(t, s.Commit(b.NextN(300, 100)))
	for range 3 {
		ok(t, s.Stage(b.NextN(300, 100)))
	}
	s.mu.Lock() // the mover waits, and its last step never comes
	ok(t, s.promote(nil, b.Index, 1, 0))
	for cursor := []byte{stagingPrefix}; cursor != nil; {
		batch := s.db.NewBatch()
		cursor, err = s.copyStaged(batch, cursor)
		ok(t, err, s.db.Apply(batch, pebble.Sync))
	}
	killed := disk.CrashClone(vfs.CrashCloneCfg{})
	s.mu.Unlock()
	ok(t, s.Close())
	if err := verify(t, killed); err != nil {
		t.Error(err)
	}
}

// TestVerifyFindsFlippedBytes flips bytes in the files that hold headers,
// envelopes and tiles of a stopped store: verification names a sequence that the
// file holds.
func TestVerifyFindsFlippedBytes(t *testing.T) {
	long(t)
	disk, meta := stopped(t, false)
	rng := rand.New(rand.NewPCG(1, 1))
	seen := map[table]int{}
	for _, file := range tables(t, disk) {
		switch file.table {
		case tableHeader, tableEnvelope, tableTile:
		default:
			continue
		}
		name := fmt.Sprintf("ledger/db/%06d.sst", file.number)
		size := fileSize(t, disk, name)
		for range 6 {
			// Rows come first in a file; what follows them (index,
			// filter, properties) is not the chain's.
			offset := rng.Int64N(size * 2 / 3)
			damaged := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
			flipByte(t, damaged, name, offset)
			err := verify(t, damaged)
			var bad *chain.BadEntryError
			if !errors.As(err, &bad) {
				t.Fatalf("byte %d of %s (table %c) flipped: %v, want a BadEntryError", offset, name, file.table, err)
			}
			if bad.Sequence < file.first || bad.Sequence > file.last {
				t.Errorf("byte %d of %s flipped: %v, but the file holds %d to %d", offset, name, err, file.first, file.last)
			}
			seen[file.table]++
		}
	}
	if len(seen) != 3 {
		t.Errorf("flipped %v, want headers, envelopes and tiles", seen)
	}
	if err := verify(t, disk); err != nil {
		t.Errorf("undamaged, %d entries: %v", meta.Head.Size, err)
	}
}

// TestDamagedUpperTile damages the one tile of level 1 that 65,536 entries have: in
// its row, and in the file that holds it.
func TestDamagedUpperTile(t *testing.T) {
	long(t)
	disk := vfs.NewCrashableMem()
	s, err := Create("ledger", Options{FS: disk})
	ok(t, err)
	b := ledgertest.NewBuilder(1)
	for range 16 {
		ok(t, s.Commit(b.NextN(4096, 0)))
	}
	ok(t, s.Commit(b.NextN(1, 0)))
	tile, err := s.ReadTile(1, 0, chain.TileWidth)
	ok(t, err, s.Close())
	clone := func() *vfs.MemFS {
		return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	}

	flipped := 0
	for _, file := range tables(t, disk) {
		name := fmt.Sprintf("ledger/db/%06d.sst", file.number)
		at := strings.Index(readAll(t, disk, name), string(tile[:64]))
		if file.table != tableTile || at < 0 {
			continue
		}
		damaged := clone()
		flipByte(t, damaged, name, int64(at+40))
		err := verify(t, damaged)
		var bad *chain.BadEntryError
		// The block of the file may hold the tile before it, too.
		if !errors.As(err, &bad) || bad.Part != chain.PartTile || bad.Sequence != 0 && bad.Sequence != 255*256 {
			t.Errorf("flipped in %s: %v", name, err)
		}
		flipped++
	}
	if flipped == 0 {
		t.Error("the tile is in no file")
	}

	damaged := clone()
	s, err = Open("ledger", Options{FS: damaged})
	ok(t, err)
	tile[7*32] ^= 1
	ok(t, s.db.Set(appendTileKey(nil, mainSpace, 1, 0), tile, pebble.Sync), s.Close())
	err = verify(t, damaged)
	var wrong *chain.TileError
	if !errors.As(err, &wrong) || wrong.Level != 1 || wrong.From != 7*256 || wrong.To != 8*256 {
		t.Errorf("another hash in the row: %v", err)
	}
	var c *CorruptError
	if _, err := Open("ledger", Options{FS: damaged}); !errors.As(err, &c) || c.Part != "tile" || c.Sequence != 7*256 {
		t.Errorf("another hash in the row: open says %v", err)
	}
}

func readAll(t *testing.T, disk vfs.FS, name string) string {
	t.Helper()
	f, err := disk.Open(name)
	ok(t, err)
	data, err := io.ReadAll(f)
	ok(t, err, f.Close())
	return string(data)
}

// TestFlipAnywhere flips bytes in any file: nothing may panic, and what opens
// and verifies is the chain.
func TestFlipAnywhere(t *testing.T) {
	long(t)
	disk, meta := stopped(t, true)
	names, err := disk.List("ledger/db")
	ok(t, err)
	rng := rand.New(rand.NewPCG(2, 2))
	slices.Sort(names)
	for _, name := range names {
		if name == "LOCK" || strings.HasPrefix(name, "marker.") {
			continue
		}
		name = "ledger/db/" + name
		size := fileSize(t, disk, name)
		for range 2 {
			if size == 0 {
				break
			}
			damaged := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
			flipByte(t, damaged, name, rng.Int64N(size))
			s, err := OpenReadOnly("ledger", small(damaged))
			if err != nil {
				continue
			}
			_, err = chain.Verify(context.Background(), s.Source(), chain.VerifyOptions{Tiles: s.Source()})
			if got := s.Meta(); err == nil && got != meta {
				t.Errorf("%s flipped: verifies with meta %v, want %v", name, got, meta)
			}
			ok(t, s.Close())
		}
	}
}

func verify(t *testing.T, disk vfs.FS) error {
	t.Helper()
	s, err := OpenReadOnly("ledger", small(disk))
	ok(t, err)
	defer s.Close()
	meta := s.Meta()
	_, err = chain.Verify(context.Background(), s.Source(), chain.VerifyOptions{Tiles: s.Source(), Head: &meta.Head, Root: &meta.Root})
	return err
}

// tableFile is one of Pebble's files, which holds rows of one table.
type tableFile struct {
	number      uint64
	table       table
	first, last uint64 // sequences, of tables named by them
}

func tables(t *testing.T, disk vfs.FS) []tableFile {
	t.Helper()
	s, err := OpenReadOnly("ledger", small(disk))
	ok(t, err)
	defer s.Close()
	levels, err := s.db.SSTables()
	ok(t, err)
	var files []tableFile
	for _, level := range levels {
		for _, info := range level {
			f := tableFile{number: uint64(info.FileNum), table: table(info.Smallest.UserKey[0])}
			if got := table(info.Largest.UserKey[0]); got != f.table && f.table > 'a' {
				t.Errorf("file %d holds rows of tables %c to %c", f.number, f.table, got)
			}
			switch f.table {
			case tableHeader, tableEnvelope:
				f.first, f.last = seqOf(info.Smallest.UserKey), seqOf(info.Largest.UserKey)
			case tableTile:
				f.first, f.last = 0, tileSpan(0, seqOf(info.Largest.UserKey)).to-1
			}
			files = append(files, f)
		}
	}
	return files
}

func fileSize(t *testing.T, disk vfs.FS, name string) int64 {
	t.Helper()
	info, err := disk.Stat(name)
	ok(t, err)
	return info.Size()
}

func flipByte(t *testing.T, disk vfs.FS, name string, offset int64) {
	t.Helper()
	f, err := disk.Open(name)
	ok(t, err)
	data, err := io.ReadAll(f)
	ok(t, err, f.Close())
	data[offset] ^= 0x40
	f, err = disk.Create(name, vfs.WriteCategoryUnspecified)
	ok(t, err)
	_, err = f.Write(data)
	ok(t, err, f.Sync(), f.Close())
}

// TestVerifyFindsDamagedLog flips bytes of the log that a killed process left:
// opening or verifying names an entry that the log holds.
func TestVerifyFindsDamagedLog(t *testing.T) {
	long(t)
	disk := vfs.NewCrashableMem()
	s, err := Create("ledger", small(disk))
	ok(t, err)
	b := ledgertest.NewBuilder(1)
	ok(t, s.Commit(b.NextN(100, 100)), s.Close())
	s, err = Open("ledger", small(disk))
	ok(t, err)
	for i := range 40 {
		ok(t, s.Commit(b.NextN(5, 100)))
		if i == 20 {
			ok(t, s.Flush())
		}
	}
	ok(t, s.Flush()) // all is written
	rng := rand.New(rand.NewPCG(1, 1))
	killed := disk.CrashClone(vfs.CrashCloneCfg{})
	ok(t, s.Close())
	names, err := killed.List("ledger/db")
	ok(t, err)
	slices.Sort(names)
	var name string
	var used int64
	for _, n := range names {
		if strings.HasSuffix(n, ".log") {
			name = "ledger/db/" + n
			used = usedSize(t, killed, name)
		}
	}
	if err := verify(t, killed); err != nil || used < 50_000 {
		t.Fatalf("undamaged, log of %d bytes: %v", used, err)
	}
	var refused, found int
	for range 50 {
		damaged := killed.CrashClone(vfs.CrashCloneCfg{})
		offset := rng.Int64N(used - 100)
		flipByte(t, damaged, name, offset)
		s, err := OpenReadOnly("ledger", small(damaged))
		var sequence uint64
		var c *CorruptError
		if errors.As(err, &c) && c.HasSequence {
			refused++
			sequence = c.Sequence
		} else if err == nil {
			_, err = chain.Verify(context.Background(), s.Source(), chain.VerifyOptions{Tiles: s.Source()})
			var bad *chain.BadEntryError
			if !errors.As(err, &bad) {
				t.Errorf("byte %d flipped: verify says %v", offset, err)
				_ = s.Close()
				continue
			}
			found++
			sequence = bad.Sequence
			ok(t, s.Close())
		} else if c == nil || offset > 5000 {
			t.Errorf("byte %d flipped: open says %v", offset, err)
			continue
		}
		// Five entries have about five kilobytes of log.
		if at := uint64(100 + 200*offset/used); c != nil && !c.HasSequence {
			continue
		} else if sequence < 100 || sequence > 300 || sequence > at+15 || sequence+15 < at {
			t.Errorf("byte %d of %d flipped: named entry %d, expected about %d", offset, used, sequence, at)
		}
	}
	if refused == 0 || found == 0 {
		t.Errorf("opening refused %d times, verification found %d: want both", refused, found)
	}
}

// TestVerifyIgnoresObsoleteLog flips a byte of the log that a stopped node leaves
// behind though all of it is in tables.
func TestVerifyIgnoresObsoleteLog(t *testing.T) {
	for _, rounds := range []int{1, 3} { // the first manifest, and one with a history
		disk := vfs.NewCrashableMem()
		s, err := Create("ledger", small(disk))
		ok(t, err)
		b := ledgertest.NewBuilder(1)
		for round := range rounds {
			if round > 0 {
				s, err = Open("ledger", small(disk))
				ok(t, err)
			}
			ok(t, s.Commit(b.NextN(300, 100)), s.Close())
		}
		names, err := disk.List("ledger/db")
		ok(t, err)
		flipped := 0
		for _, name := range names {
			if name = "ledger/db/" + name; strings.HasSuffix(name, ".log") && fileSize(t, disk, name) > 500 {
				flipByte(t, disk, name, 500)
				flipped++
			}
		}
		if err := verify(t, disk); err != nil || flipped == 0 {
			t.Errorf("after %d rounds, %d logs flipped: %v", rounds, flipped, err)
		}
	}
}

// usedSize returns the size of a file without the zeros at its end.
func usedSize(t *testing.T, disk vfs.FS, name string) int64 {
	t.Helper()
	return int64(len(strings.TrimRight(readAll(t, disk, name), "\x00")))
}

// TestPurge looks for a redacted payload in Pebble's tables.
func TestPurge(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, err := Create("ledger", small(disk))
	ok(t, err)
	defer s.Close()
	b := ledgertest.NewBuilder(1)
	ok(t, s.Commit(b.NextN(10, 100)))
	e := ledgertest.Event(10, 0)
	// What compression leaves as it is.
	secret := make([]byte, 64)
	rng := rand.New(rand.NewPCG(9, 9))
	for i := range secret {
		secret[i] = byte(rng.Uint32())
	}
	e.Payload = secret
	ok(t, s.Commit(b.Next(e)), s.Commit(b.NextN(10, 100)), s.db.Flush())
	if !inTables(t, disk, secret) {
		t.Fatal("the payload is not where this test looks for it")
	}
	u := b.NextN(0, 0)
	u.Redact = []chain.Redaction{{Sequence: 10}}
	ok(t, s.Commit(u), s.Purge(context.Background(), 10))
	if rec, err := s.Record(10); err != nil || rec.Envelope != nil {
		t.Errorf("redacted entry: %v, envelope %x", err, rec.Envelope)
	}
	// Pebble deletes the tables that a compaction replaced in the background;
	// Close waits for that.
	ok(t, s.Close())
	if inTables(t, disk, secret) {
		t.Error("the payload is still in a table after Purge")
	}
}

func inTables(t *testing.T, disk vfs.FS, what []byte) bool {
	t.Helper()
	names, err := disk.List("ledger/db")
	ok(t, err)
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		f, err := disk.Open("ledger/db/" + name)
		ok(t, err)
		data, err := io.ReadAll(f)
		ok(t, err, f.Close())
		if strings.Contains(string(data), string(what)) {
			return true
		}
	}
	return false
}

// long skips a test of one goroutine in short runs: the race detector, which
// they are for, has nothing to find in it and makes it ten times slower.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("one goroutine, and long")
	}
}
