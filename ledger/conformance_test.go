package ledger_test

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/ledger/ledgertest"
)

// crashable keeps each store's file system, to crash it.
type crashable struct {
	disks map[ledgertest.Store]*vfs.MemFS
}

func newCrashable() *crashable { return &crashable{map[ledgertest.Store]*vfs.MemFS{}} }

func (c *crashable) New(t *testing.T) ledgertest.Store {
	disk := vfs.NewCrashableMem()
	s, err := ledger.Create("ledger", options(disk))
	if err != nil {
		t.Fatal(err)
	}
	return c.keep(t, s, disk)
}

func (c *crashable) Crash(t *testing.T, s ledgertest.Store, rng *rand.Rand) ledgertest.Store {
	disk := crash(c.disks[s], rng)
	closeStore(t, s.(*ledger.Store))
	delete(c.disks, s)
	n, err := ledger.Open("ledger", options(disk))
	if err != nil {
		t.Fatalf("reopen after a crash: %v", err)
	}
	return c.keep(t, n, disk)
}

func (c *crashable) keep(t *testing.T, s *ledger.Store, disk *vfs.MemFS) *ledger.Store {
	c.disks[s] = disk
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func TestStoreConforms(t *testing.T) { ledgertest.Run(t, newCrashable()) }

// crash returns the disk as a crash leaves it: all that was synced, and of the
// rest nothing, all, or each block by chance.
func crash(disk *vfs.MemFS, rng *rand.Rand) *vfs.MemFS {
	percent := [...]int{0, 0, 50, 90, 100}[rng.IntN(5)]
	return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
}

// options are those of a small store.
func options(disk vfs.FS) ledger.Options {
	return ledger.Options{FS: disk, CacheBytes: 1 << 20, MemTableBytes: 256 << 10}
}

func closeStore(t *testing.T, s *ledger.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
