package raftstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node/raftstore"
)

// entries are log entries [from, to] of a term.
func entries(from, to, term uint64) (logs []*raft.Log) {
	for i := from; i <= to; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: term, Data: []byte("entry")})
	}
	return logs
}

// TestMend: a log stays unless it ends before the manifest, or has another entry
// at its index. The manifest is of index 100 and term 3.
func TestMend(t *testing.T) {
	for _, test := range []struct {
		name    string
		logs    []*raft.Log
		only    raftstore.Backend // where not ""
		dropped bool
	}{
		{name: "empty"},
		{name: "goes on", logs: append(entries(90, 99, 2), entries(100, 120, 3)...)},
		{name: "goes on in a later term", logs: append(entries(90, 100, 3), entries(101, 120, 4)...)},
		{name: "ends at the manifest", logs: entries(90, 100, 3)},
		{name: "begins behind the manifest", logs: entries(101, 120, 4)},
		{name: "ends before", logs: entries(80, 99, 2), dropped: true},
		{name: "another end at the manifest", logs: entries(90, 100, 2), dropped: true},
		{name: "another end beyond the manifest", logs: entries(90, 400, 2), dropped: true},
		{name: "with a hole", logs: append(entries(80, 90, 2), entries(101, 120, 3)...), only: raftstore.BoltDB},
	} {
		for _, backend := range []raftstore.Backend{raftstore.WAL, raftstore.BoltDB} {
			if test.only != "" && test.only != backend {
				continue
			}
			t.Run(test.name+"/"+string(backend), func(t *testing.T) {
				s, err := openDir(t, t.TempDir(), backend)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				if len(test.logs) > 0 {
					if err := s.Log.StoreLogs(test.logs); err != nil {
						t.Fatal(err)
					}
				}
				if dropped, err := s.Mend(); dropped || err != nil {
					t.Fatalf("without a manifest: %v, %v", dropped, err)
				}
				take(t, s.Manifests, 100, true)
				before, err := s.State()
				if err != nil {
					t.Fatal(err)
				}
				dropped, err := s.Mend()
				if err != nil || dropped != test.dropped {
					t.Fatalf("dropped: %v, %v, want %v", dropped, err, test.dropped)
				}
				after, err := s.State()
				if err != nil {
					t.Fatal(err)
				}
				if dropped {
					before.FirstLog, before.LastLog = 0, 0
				}
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("state (-want +got):\n%s", diff)
				}
				if again, err := s.Mend(); again || err != nil {
					t.Errorf("mended twice: %v, %v", again, err)
				}
				next := max(after.LastLog, 100) + 1
				if err := s.Log.StoreLog(&raft.Log{Index: next, Term: 5}); err != nil {
					t.Errorf("append of entry %d: %v", next, err)
				}
			})
		}
	}
}

var errCrash = errors.New("crash")

// crashing lets so many writes pass, then none.
type crashing struct {
	raft.LogStore
	raft.StableStore
	left int
}

func (c *crashing) write(do func() error) error {
	if c.left == 0 {
		return errCrash
	}
	c.left--
	return do()
}

func (c *crashing) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }
func (c *crashing) StoreLogs(l []*raft.Log) error {
	return c.write(func() error { return c.LogStore.StoreLogs(l) })
}

func (c *crashing) Set(k, v []byte) error {
	return c.write(func() error { return c.StableStore.Set(k, v) })
}

// TestBootstrapCrash crashes at every write of a bootstrap: the cluster was never
// begun, or it goes on.
func TestBootstrapCrash(t *testing.T) {
	conf := raft.Configuration{Servers: []raft.Server{{ID: "a.1", Address: "a"}}}
	for writes, begun := range []bool{false, true, true} {
		dir := t.TempDir()
		s, err := raftstore.Open(raftstore.Config{
			Dir: dir, Backend: raftstore.WAL, WriteTimeout: 1 << 40, Fatal: func(error) {},
			Wrap: func(l raft.LogStore, s raft.StableStore) (raft.LogStore, raft.StableStore) {
				c := &crashing{l, s, writes}
				return c, c
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Bootstrap(conf); (err == nil) != (writes == 2) {
			t.Fatalf("after %d writes: %v", writes, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = openDir(t, dir, raftstore.WAL); err != nil {
			t.Fatal(err)
		}
		state, err := s.State()
		if err != nil || state.Exists() != begun || state.Configured() != begun {
			t.Errorf("after %d writes: %+v, %v", writes, state, err)
		}
		if err := s.Bootstrap(conf); errors.Is(err, raftstore.ErrNotEmpty) != begun {
			t.Errorf("after %d writes, once more: %v", writes, err)
		}
		var entry raft.Log
		if err := s.Log.GetLog(1, &entry); err != nil || entry.Type != raft.LogConfiguration || entry.Term != 1 {
			t.Errorf("entry 1: %+v, %v", entry, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBackendCrash: the file that names the backend comes whole, or not at all.
func TestBackendCrash(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "backend.tmp"), []byte("bo"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := openDir(t, dir, raftstore.WAL)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "backend")); err != nil || string(b) != "wal" {
		t.Errorf("backend is %q, %v", b, err)
	}
}
