package raftstore_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node/raftstore"
)

func openDir(t *testing.T, dir string, backend raftstore.Backend) (*raftstore.Stores, error) {
	t.Helper()
	return raftstore.Open(raftstore.Config{
		Dir: dir, Backend: backend, WriteTimeout: time.Minute,
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
}

func TestStores(t *testing.T) {
	for _, backend := range []raftstore.Backend{raftstore.WAL, raftstore.BoltDB} {
		t.Run(string(backend), func(t *testing.T) {
			dir := t.TempDir()
			s, err := openDir(t, dir, backend)
			if err != nil {
				t.Fatal(err)
			}
			if st, err := s.State(); err != nil || st.Exists() {
				t.Fatalf("new stores: %+v, %v", st, err)
			}
			var logs []*raft.Log
			for i := uint64(1); i <= 300; i++ {
				logs = append(logs, &raft.Log{Index: i, Term: 2, Data: fmt.Appendf(nil, "entry %d", i)})
			}
			if err := s.Log.StoreLogs(logs); err != nil {
				t.Fatal(err)
			}
			if err := s.Vote.SetUint64([]byte("CurrentTerm"), 2); err != nil {
				t.Fatal(err)
			}
			if err := s.Log.DeleteRange(1, 10); err != nil {
				t.Fatal(err)
			}
			if err := s.Log.DeleteRange(290, 300); err != nil {
				t.Fatal(err)
			}
			if _, err := openDir(t, dir, backend); !errors.Is(err, raftstore.ErrLocked) {
				t.Errorf("second open: %v, want ErrLocked", err)
			}
			if err := errors.Join(s.Close(), s.Close()); err != nil {
				t.Fatal(err)
			}

			if s, err = openDir(t, dir, backend); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			st, err := s.State()
			if err != nil {
				t.Fatal(err)
			}
			want := raftstore.State{FirstLog: 11, LastLog: 289, Term: 2}
			if diff := cmp.Diff(want, st); diff != "" {
				t.Errorf("state (-want +got):\n%s", diff)
			}
			var l raft.Log
			if err := s.Log.GetLog(100, &l); err != nil || string(l.Data) != "entry 100" {
				t.Errorf("entry 100: %q, %v", l.Data, err)
			}
			if err := s.Log.GetLog(5, &l); !errors.Is(err, raft.ErrLogNotFound) {
				t.Errorf("deleted entry: %v", err)
			}
			// An install whose log was not removed before the crash.
			take(t, s.Manifests, 400, true)
			if dropped, err := s.Mend(); err != nil || !dropped {
				t.Fatalf("the log ends before the manifest: %v, %v", dropped, err)
			}
			if st, err := s.State(); err != nil || st.LastLog != 0 {
				t.Errorf("emptied log: %+v, %v", st, err)
			}
			// After an install the log goes on beyond the manifest.
			if err := s.Log.StoreLog(&raft.Log{Index: 401, Term: 3}); err != nil {
				t.Errorf("append after emptying: %v", err)
			}
		})
	}
}

func TestOtherBackendRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := openDir(t, dir, raftstore.BoltDB)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := openDir(t, dir, raftstore.WAL); !errors.Is(err, raftstore.ErrBackend) {
		t.Errorf("got %v, want ErrBackend", err)
	}
}

// take writes a manifest; local ones are the node's own.
func take(t *testing.T, m *raftstore.Manifests, index uint64, local bool) string {
	t.Helper()
	conf := raft.Configuration{Servers: []raft.Server{{ID: "a.1", Address: "a"}}}
	sink, err := m.Create(1, index, 3, conf, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if local {
		sink.(raftstore.LocalSink).Local()
	}
	if _, err := fmt.Fprintf(sink, "state at %d", index); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(sink.Close(), sink.Close()); err != nil {
		t.Fatal(err)
	}
	return sink.ID()
}

func indexes(t *testing.T, list func() ([]*raft.SnapshotMeta, error)) []uint64 {
	t.Helper()
	metas, err := list()
	if err != nil {
		t.Fatal(err)
	}
	var out []uint64
	for _, m := range metas {
		out = append(out, m.Index)
	}
	return out
}

func TestManifests(t *testing.T) {
	dir := t.TempDir()
	m, err := raftstore.OpenManifests(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []uint64{10, 20, 30} {
		take(t, m, i, true)
	}
	received := take(t, m, 40, false)
	if diff := cmp.Diff([]uint64{30, 20}, indexes(t, m.List)); diff != "" {
		t.Errorf("listed, with a received one pending (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]uint64{40}, indexes(t, m.Pending)); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	if m, err = raftstore.OpenManifests(dir); err != nil {
		t.Fatal(err)
	}
	meta, rc, err := m.Open(received)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(rc)
	if err != nil || string(b) != "state at 40" || meta.Size != int64(len(b)) || len(meta.Configuration.Servers) != 1 {
		t.Errorf("open pending: %q, %+v, %v", b, meta, err)
	}
	if err := errors.Join(rc.(*raftstore.Reader).Confirm(), rc.(*raftstore.Reader).Confirm()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]uint64{40, 30}, indexes(t, m.List)); diff != "" {
		t.Errorf("listed, confirmed (-want +got):\n%s", diff)
	}
	take(t, m, 35, false)
	take(t, m, 50, true)
	if got := indexes(t, m.Pending); len(got) != 0 {
		t.Errorf("pending ones older than a listed one stay: %v", got)
	}
}

func TestManifestDamage(t *testing.T) {
	dir := t.TempDir()
	m, err := raftstore.OpenManifests(dir)
	if err != nil {
		t.Fatal(err)
	}
	id := take(t, m, 10, true)
	if err := os.WriteFile(filepath.Join(dir, "half.tmp"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, id+".manifest")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x10
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.Open(id); err == nil {
			t.Fatalf("damage at byte %d goes unnoticed", i)
		}
		b[i] ^= 0x10
	}
	if _, err := raftstore.OpenManifests(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "half.tmp")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a crash left half written stays: %v", err)
	}
	b[10] ^= 0x10
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.List(); err == nil {
		t.Error("a damaged manifest is passed over")
	}
	take(t, m, 20, true)
	if diff := cmp.Diff([]uint64{20}, indexes(t, m.List)); diff != "" {
		t.Errorf("listed, once the damaged one is replaced (-want +got):\n%s", diff)
	}
}
