package tiledir_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/exonode/exonode/client/tiledir"
)

var errDisk = errors.New("the disk fails")

// faultyFiles are a file system in memory that fails at an operation.
type faultyFiles struct {
	mem *vfs.MemFS

	mu sync.Mutex // guards what follows
	// ops counts operations; number fail is the first that fails, and with for good
	// all after it do. 0 fails none.
	ops, fail int
	forGood   bool
	// failed names the operation that failed first.
	failed string
}

func (f *faultyFiles) op(name string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ops++
	if f.fail == 0 || f.ops < f.fail || f.ops > f.fail && !f.forGood {
		return nil
	}
	if f.failed == "" {
		f.failed = fmt.Sprint(append([]any{name, " "}, args...)...)
	}
	return errDisk
}

func (f *faultyFiles) ReadFile(name string) ([]byte, error) {
	if err := f.op("read", name); err != nil {
		return nil, err
	}
	return readMem(f.mem, name)
}

func readMem(mem *vfs.MemFS, name string) ([]byte, error) {
	file, err := mem.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

func (f *faultyFiles) Create(name string) (tiledir.File, error) {
	if err := f.op("create", name); err != nil {
		return nil, err
	}
	file, err := f.mem.Create(name, vfs.WriteCategoryUnspecified)
	return faultyFile{file, f, name}, err
}

func (f *faultyFiles) Rename(from, to string) error {
	if err := f.op("rename", to); err != nil {
		return err
	}
	return f.mem.Rename(from, to)
}

func (f *faultyFiles) MkdirAll(name string) error {
	if err := f.op("mkdir", name); err != nil {
		return err
	}
	return f.mem.MkdirAll(name, 0o755)
}

func (f *faultyFiles) Sync(name string) error {
	if err := f.op("sync", name); err != nil {
		return err
	}
	d, err := f.mem.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *faultyFiles) RemoveAll(name string) error {
	if err := f.op("remove", name); err != nil {
		return err
	}
	err := f.mem.RemoveAll(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

type faultyFile struct {
	vfs.File
	f    *faultyFiles
	name string
}

func (f faultyFile) Write(b []byte) (int, error) {
	if err := f.f.op("write", f.name); err != nil {
		n, _ := f.File.Write(b[:len(b)/2]) // torn
		return n, err
	}
	return f.File.Write(b)
}

func (f faultyFile) Sync() error {
	if err := f.f.op("fsync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func wholeMem(mem *vfs.MemFS) (uint64, error) {
	return whole(func(name string) ([]byte, error) { return readMem(mem, path.Join("/srv/log", name)) })
}

// TestCrash fails every operation of a run, once and for good, and then cuts the power:
// whatever of what was not synced is lost, what is published is the tree of before or the
// new one, whole, and the next run goes on from there.
func TestCrash(t *testing.T) {
	l := newLog(origin, 520, 1<<63)
	for _, c := range []struct{ from, to uint64 }{{0, 300}, {300, 301}, {300, 520}, {500, 512}} {
		base := vfs.NewCrashableMem()
		write := func(f *faultyFiles, size uint64) error {
			_, err := tiledir.Write(t.Context(), tiledir.Config{Dir: "/srv/log", Source: l, Files: f}, l.note(t, size))
			return err
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(base.MkdirAll("/srv", 0o755))
		must((&faultyFiles{mem: base}).Sync("/"))
		if c.from > 0 {
			must(write(&faultyFiles{mem: base}, c.from))
		}
		base = base.CrashClone(vfs.CrashCloneCfg{}) // also says that a run syncs all that it has
		if size, err := wholeMem(base); size != c.from || err != nil {
			t.Fatalf("after a whole run and a crash: %d entries, want %d: %v", size, c.from, err)
		}
		steps := 0
		for _, forGood := range []bool{true, false} {
			for step := 1; ; step++ {
				random := rand.New(rand.NewPCG(uint64(step), c.to))
				f := &faultyFiles{mem: base.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: random}), fail: step, forGood: forGood}
				err := write(f, c.to)
				if f.failed == "" {
					must(err)
					break
				}
				steps++
				if !errors.Is(err, errDisk) {
					t.Fatalf("%s fails, and the run says %v", f.failed, err)
				}
				for _, percent := range []int{0, 50, 100} {
					crashed := f.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: random})
					size, err := wholeMem(crashed)
					if err != nil || size != c.from && size != c.to {
						t.Fatalf("%d to %d: %s fails (for good: %v), then a crash that keeps %d%%: %d entries, %v", c.from, c.to, f.failed, forGood, percent, size, err)
					}
					if err := write(&faultyFiles{mem: crashed}, c.to); err != nil {
						t.Fatalf("%d to %d: the run after %s failed: %v", c.from, c.to, f.failed, err)
					}
					if size, err := wholeMem(crashed.CrashClone(vfs.CrashCloneCfg{})); err != nil || size != c.to {
						t.Fatalf("%d to %d: the run after %s failed leaves %d entries, %v", c.from, c.to, f.failed, size, err)
					}
				}
			}
		}
		if steps < 20 {
			t.Errorf("%d to %d: %d steps failed, there are more", c.from, c.to, steps)
		}
	}
}
