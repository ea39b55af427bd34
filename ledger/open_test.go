package ledger_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/ledger/ledgertest"
)

func create(t *testing.T, disk vfs.FS) *ledger.Store {
	t.Helper()
	s, err := ledger.Create("ledger", options(disk))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func reopen(t *testing.T, disk vfs.FS) *ledger.Store {
	t.Helper()
	s, err := ledger.Open("ledger", options(disk))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	write := func(name, content string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
	}
	existing := func(t *testing.T, dir string) {
		s, err := ledger.Create(dir, ledger.Options{})
		must(t, err)
		must(t, s.Close())
	}
	inUse := func(t *testing.T, dir string) {
		s, err := ledger.Create(dir, ledger.Options{})
		must(t, err)
		t.Cleanup(func() { _ = s.Close() })
	}
	for _, test := range []struct {
		name         string
		setUp        func(t *testing.T, dir string)
		open, create error // nil: succeeds
	}{
		{"no directory", func(*testing.T, string) {}, ledger.ErrNotExist, nil},
		{"empty directory", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o700)) }, ledger.ErrNotExist, nil},
		{"something else", write("notes.txt", "hello"), ledger.ErrForeign, ledger.ErrForeign},
		{"unknown content", write("LEDGER", "hello\n"), ledger.ErrForeign, ledger.ErrForeign},
		{"cut format file", write("LEDGER", "exonode ledger 1"), ledger.ErrForeign, ledger.ErrForeign},
		{"newer version", write("LEDGER", "exonode ledger 2\n"), ledger.ErrNewer, ledger.ErrNewer},
		{"interrupted creation", write("LEDGER", "exonode ledger 1 creating\n"), ledger.ErrNotExist, nil},
		{"a ledger", existing, nil, ledger.ErrExist},
		{"a ledger in use", inUse, ledger.ErrLocked, ledger.ErrExist},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, f := range []struct {
				name string
				open func(string, ledger.Options) (*ledger.Store, error)
				want error
			}{
				{"Open", ledger.Open, test.open},
				{"OpenReadOnly", ledger.OpenReadOnly, test.open},
				{"Create", ledger.Create, test.create},
			} {
				dir := filepath.Join(t.TempDir(), "ledger")
				test.setUp(t, dir)
				s, err := f.open(dir, ledger.Options{})
				if !errors.Is(err, f.want) {
					t.Errorf("%s: %v, want %v", f.name, err, f.want)
				}
				var open *ledger.OpenError
				if err != nil && (!errors.As(err, &open) || open.Dir != dir) {
					t.Errorf("%s: error %v does not name the directory", f.name, err)
				}
				if s != nil {
					must(t, s.Close())
				}
			}
		})
	}
}

func TestReadOnly(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, b := create(t, disk), ledgertest.NewBuilder(1)
	must(t, s.Commit(b.NextN(300, 20)))
	want := s.Meta()
	must(t, s.Close())
	s, err := ledger.OpenReadOnly("ledger", options(disk))
	must(t, err)
	defer s.Close()
	if got := s.Meta(); got != want {
		t.Errorf("meta %v, want %v", got, want)
	}
	for _, err := range []error{
		s.Commit(b.NextN(1, 1)), s.Stage(b.NextN(1, 1)), s.Flush(), s.FlushStaging(),
		s.Promote(nil, 0, 0, 0), s.DropStaging(),
	} {
		if !errors.Is(err, ledger.ErrReadOnly) {
			t.Errorf("a write answers %v, want ErrReadOnly", err)
		}
	}
}

func TestClose(t *testing.T) {
	s := create(t, vfs.NewCrashableMem())
	b := ledgertest.NewBuilder(1)
	u := b.NextN(3, 20)
	must(t, s.Commit(u), s.Close(), s.Close())
	_, recordErr := s.Record(0)
	_, _, findErr := s.Find(u.Entries[0].Key)
	_, stateErr := s.State()
	_, seekErr := s.SeekTime(0)
	_, proofErr := s.InclusionProof(0, 3)
	for _, err := range []error{recordErr, findErr, stateErr, seekErr, proofErr, s.Commit(b.NextN(1, 1)), s.Stage(b.NextN(1, 1)), s.Flush()} {
		if !errors.Is(err, ledger.ErrClosed) {
			t.Errorf("after Close: %v, want ErrClosed", err)
		}
	}
	for _, err := range s.Scan(everything, 0, 3, false) {
		if !errors.Is(err, ledger.ErrClosed) {
			t.Errorf("Scan after Close: %v, want ErrClosed", err)
		}
	}
}

func TestCheckRaft(t *testing.T) {
	disk := vfs.NewCrashableMem()
	fresh, b := create(t, disk), ledgertest.NewBuilder(1)
	for range 9 {
		must(t, fresh.Commit(b.NextN(3, 20)))
	}
	must(t, fresh.Close())
	old := reopen(t, disk) // applied index 9
	empty := vfs.NewCrashableMem()
	must(t, create(t, empty).Close())
	reopened := reopen(t, empty) // applied index 0
	for _, test := range []struct {
		name                     string
		s                        *ledger.Store
		lastLog, snapshot, state uint64
		exists, ok               bool
	}{
		{"both new", create(t, vfs.NewCrashableMem()), 0, 0, 0, false, true},
		{"raft's state alone", create(t, vfs.NewCrashableMem()), 7, 0, 0, true, false},
		{"ledger alone", old, 0, 0, 0, false, false},
		{"empty ledger came back with raft's log", reopened, 7, 0, 0, true, true},
		{"empty ledger, no raft state yet", reopened, 0, 0, 0, false, true},
		{"empty ledger, snapshot", reopened, 0, 7, 7, true, false},
		{"log at applied", old, 9, 0, 0, true, true},
		{"log ahead", old, 12, 5, 5, true, true},
		{"log behind", old, 8, 5, 5, true, false},
		{"log empty, snapshot at applied", old, 0, 9, 9, true, true},
		{"log before the snapshot", old, 3, 9, 9, true, true},
		{"snapshot ahead of its state", old, 0, 12, 9, true, true},
		{"snapshot state ahead", old, 20, 12, 10, true, false},
	} {
		err := test.s.CheckRaft(test.lastLog, test.snapshot, test.state, test.exists)
		var mismatch *ledger.RaftMismatchError
		if (err == nil) != test.ok || err != nil && !errors.As(err, &mismatch) {
			t.Errorf("%s: %v, want ok: %t", test.name, err, test.ok)
		}
	}
}
