package raftstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/types"

	"github.com/exonode/exonode/node/raftstore"
)

// openSmall opens stores whose segments have 32 KiB.
func openSmall(dir string) (*raftstore.Stores, error) {
	return raftstore.Open(raftstore.Config{
		Dir: dir, Backend: raftstore.WAL, SegmentBytes: 32 << 10, WriteTimeout: time.Minute, Fatal: func(error) {},
	})
}

// appendSizes appends one write of entries with data of those sizes.
func appendSizes(t *testing.T, s *raftstore.Stores, term uint64, sizes ...int) {
	t.Helper()
	last, err := s.Log.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	var logs []*raft.Log
	for i, size := range sizes {
		logs = append(logs, &raft.Log{Index: last + 1 + uint64(i), Term: term, Data: bytes.Repeat([]byte{byte(term)}, size)})
	}
	if err := s.Log.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// smallLog makes a directory with a log, written by fill, and returns the path and the
// used bytes of its last segment.
func smallLog(t *testing.T, fill func(*raftstore.Stores)) (dir, segment string, used []byte) {
	t.Helper()
	dir = t.TempDir()
	segment, used = fillLog(t, dir, fill)
	return dir, segment, used
}

// fillLog is smallLog in a directory.
func fillLog(t *testing.T, dir string, fill func(*raftstore.Stores)) (segment string, used []byte) {
	t.Helper()
	s, err := openSmall(dir)
	if err != nil {
		t.Fatal(err)
	}
	fill(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	segment = names[len(names)-1]
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	return segment, bytes.TrimRight(b, "\x00")
}

// patch overwrites a part of a file.
func patch(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(b, at)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// lastIndex opens a log, reads all of it, and returns its last index.
func lastIndex(t *testing.T, dir string) (last uint64, err error) {
	t.Helper()
	s, err := openSmall(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	first, err := s.Log.FirstIndex()
	if err != nil {
		t.Fatal(err)
	}
	if last, err = s.Log.LastIndex(); err != nil {
		t.Fatal(err)
	}
	for i := first; i <= last && i > 0; i++ {
		if err := s.Log.GetLog(i, new(raft.Log)); err != nil {
			return last, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return last, nil
}

// TestDamagedTail changes each byte of a log that was written in five writes. In all but
// the last it is damage; what is changed in the last can't be told from a write that was
// torn, and that write is gone whole.
func TestDamagedTail(t *testing.T) {
	dir, segment, used := smallLog(t, func(s *raftstore.Stores) {
		for _, sizes := range [][]int{{40}, {10, 0, 77}, {8}, {30, 30}, {64, 9}} {
			appendSizes(t, s, 3, sizes...)
		}
	})
	_, writes := raftstore.FrameEnds(used)
	if len(writes) != 5 {
		t.Fatalf("%d writes", len(writes))
	}
	key, err := raftstore.LoadKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	info := types.SegmentInfo{BaseIndex: 1}
	for at := range used {
		for bit := range 8 {
			b := bytes.Clone(used)
			b[at] ^= 1 << bit
			end, err := raftstore.TailEnd(inMemory{bytes.NewReader(b)}, info, key)
			switch last := int64(at) >= writes[3]; {
			case !last && !errors.Is(err, raftstore.ErrDamaged):
				t.Errorf("byte %d, bit %d: ends at %d, %v; want ErrDamaged", at, bit, end, err)
			case last && (err != nil || end != writes[3]):
				t.Errorf("byte %d, bit %d, of the last write: ends at %d, %v; want %d", at, bit, end, err, writes[3])
			}
		}
	}
	for at, damaged := range map[int64]bool{5: true, writes[1] + 4: true, writes[3] + 4: false} {
		patch(t, segment, at, []byte{used[at] ^ 1})
		last, err := lastIndex(t, dir)
		if errors.Is(err, raftstore.ErrDamaged) != damaged || !damaged && (err != nil || last != 7) {
			t.Errorf("byte %d: up to %d, %v; damaged: %v", at, last, err, damaged)
		}
		patch(t, segment, 0, used)
	}
}

// inMemory is a types.ReadableFile.
type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// TestTornOverTorn: what an earlier crash left of a write lies just where a later one
// that was torn in its middle ends. raft-wal then takes the later one for whole.
func TestTornOverTorn(t *testing.T) {
	sizes := []int{2000, 200}
	// The earlier write goes on with an entry at the very place where the later ends:
	// its first two are together eight bytes longer, which is the later one's commit.
	earlier := []int{2000, 208, 100}
	_, _, old := smallLog(t, func(s *raftstore.Stores) {
		appendSizes(t, s, 1, 100)
		appendSizes(t, s, 2, earlier...)
	})
	_, oldWrites := raftstore.FrameEnds(old)

	dir, segment, _ := smallLog(t, func(s *raftstore.Stores) { appendSizes(t, s, 1, 100) })
	// The earlier write, of which the first sector is lost.
	patch(t, segment, oldWrites[0]+512, old[oldWrites[0]+512:])
	s, err := openSmall(dir)
	if err != nil {
		t.Fatal(err)
	}
	appendSizes(t, s, 3, sizes...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The later one, of which a sector in its middle is lost.
	patch(t, segment, oldWrites[0]+1024, make([]byte, 512))
	if last, err := lastIndex(t, dir); err != nil || last != 1 {
		t.Errorf("up to %d, %v; want 1", last, err)
	}
}

// TestFullSegment crashes after the write that fills a segment, whole or torn, and
// before anything was done about it.
func TestFullSegment(t *testing.T) {
	for _, torn := range []bool{false, true} {
		dir, want := t.TempDir(), uint64(4)
		s, err := openSmall(dir)
		if err != nil {
			t.Fatal(err)
		}
		appendSizes(t, s, 1, 10000, 10000)
		meta := filepath.Join(dir, "wal", "wal-meta.db")
		before, err := os.ReadFile(meta)
		if err != nil {
			t.Fatal(err)
		}
		appendSizes(t, s, 1, 10000, 10000)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names[1:] {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(meta, before, 0o600); err != nil {
			t.Fatal(err)
		}
		if torn {
			patch(t, names[0], 25000, make([]byte, 512))
			want = 2
		}
		if last, err := lastIndex(t, dir); err != nil || last != want {
			t.Errorf("torn %v: up to %d, %v; want %d", torn, last, err, want)
		}
		if s, err = openSmall(dir); err != nil {
			t.Fatal(err)
		}
		appendSizes(t, s, 2, 100)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if last, err := lastIndex(t, dir); err != nil || last != want+1 {
			t.Errorf("torn %v, one more: up to %d, %v; want %d", torn, last, err, want+1)
		}
	}
}

// TestPayloadLooksLikeLog: a client's payload holds a whole frame of an entry far ahead, at
// every alignment, and the write that it is in is torn. It is a torn write all the same,
// as long as the client does not know the directory's key.
func TestPayloadLooksLikeLog(t *testing.T) {
	theirs, _, used := smallLog(t, func(s *raftstore.Stores) {
		if err := s.Log.StoreLogs([]*raft.Log{{Index: 1_000_001, Term: 9, Data: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
	})
	ends, _ := raftstore.FrameEnds(used)
	var payload []byte
	for range 8 {
		payload = append(append(payload, used[32:ends[0]]...), 0)
	}
	key, err := os.ReadFile(filepath.Join(theirs, "sum.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, known := range map[string]bool{"key unknown": false, "key known": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if known {
				if err := os.WriteFile(filepath.Join(dir, "sum.key"), key, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			segment, b := fillLog(t, dir, func(s *raftstore.Stores) {
				appendSizes(t, s, 1, 100)
				if err := s.Log.StoreLogs([]*raft.Log{{Index: 2, Term: 1, Data: payload}}); err != nil {
					t.Fatal(err)
				}
			})
			_, writes := raftstore.FrameEnds(b)
			patch(t, segment, writes[1]-8, make([]byte, 8)) // its commit
			last, err := lastIndex(t, dir)
			if known && !errors.Is(err, raftstore.ErrDamaged) {
				t.Errorf("the frame would fool nobody: %d, %v", last, err)
			}
			if !known && (err != nil || last != 1) {
				t.Errorf("last %d, %v", last, err)
			}
		})
	}
}

// TestKeyIsMissing: without the key the log can't be told from a damaged one.
func TestKeyIsMissing(t *testing.T) {
	for _, backend := range []raftstore.Backend{raftstore.WAL, raftstore.BoltDB} {
		t.Run(string(backend), func(t *testing.T) {
			dir := t.TempDir()
			open := func() (*raftstore.Stores, error) {
				return raftstore.Open(raftstore.Config{Dir: dir, Backend: backend, WriteTimeout: time.Minute, Fatal: func(error) {}})
			}
			s, err := open()
			if err != nil {
				t.Fatal(err)
			}
			appendSizes(t, s, 1, 100)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "sum.key")
			for what, change := range map[string]func() error{
				"gone":    func() error { return os.Remove(path) },
				"cut":     func() error { return os.WriteFile(path, []byte("00"), 0o600) },
				"no hex":  func() error { return os.WriteFile(path, []byte("0123456789abcdeg"), 0o600) },
				"another": func() error { return os.WriteFile(path, []byte("0123456789abcdef"), 0o600) },
			} {
				if err := change(); err != nil {
					t.Fatal(err)
				}
				s, err := open()
				if err == nil {
					err = errors.Join(s.Log.GetLog(1, new(raft.Log)), s.Close())
				}
				if !errors.Is(err, raftstore.ErrDamaged) {
					t.Errorf("%s: %v", what, err)
				}
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
