package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/ledger/ledgertest"
)

// TestCreateCrash crashes at every write, sync and rename of Create: what is
// left either opens, or can be created anew.
func TestCreateCrash(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	disk := vfs.NewCrashableMem()
	var crashed []*vfs.MemFS
	var mu sync.Mutex // Pebble writes from several goroutines
	s, err := ledger.Create("ledger", options(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			mu.Lock()
			defer mu.Unlock()
			crashed = append(crashed, crash(disk, rng))
		}
		return nil
	}))))
	must(t, err, s.Close())
	var opened, created int
	for i, disk := range crashed {
		s, err := ledger.Open("ledger", options(disk))
		if errors.Is(err, ledger.ErrNotExist) {
			s, err = ledger.Create("ledger", options(disk))
			created++
		} else {
			opened++
		}
		if err != nil {
			t.Fatalf("crash %d of %d: %v", i, len(crashed), err)
		}
		must(t, s.Commit(ledgertest.NewBuilder(1).NextN(3, 10)), s.Close())
	}
	if opened == 0 || created == 0 {
		t.Errorf("%d crashes left a ledger and %d none: want both", opened, created)
	}
}

// TestCrashAtWrites crashes at random writes of a store's life, the move of
// promoted entries included. Each time the store comes back as a prefix of what
// was done, with at least what was flushed, and goes on.
func TestCrashAtWrites(t *testing.T) {
	every := 25 // writes
	if testing.Short() {
		every = 150
	}
	for seed := range uint64(2) {
		rng := rand.New(rand.NewPCG(seed, 7))
		disk := vfs.NewCrashableMem()
		type crashed struct {
			disk    *vfs.MemFS
			flushed uint64 // raft index
		}
		var mu sync.Mutex
		var crashes []crashed
		var flushed atomic.Uint64
		writes := rng.IntN(every)
		wrapped := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
				return nil
			}
			if writes++; writes%every == 0 {
				at := flushed.Load() // before the disk is cloned
				crashes = append(crashes, crashed{crash(disk, rng), at})
			}
			return nil
		}))
		s, err := ledger.Create("ledger", options(wrapped))
		must(t, err)
		b := ledgertest.NewBuilder(1)
		metas := map[uint64]chain.Meta{0: s.Meta()} // by raft index
		note := func() { metas[s.Meta().Applied] = s.Meta() }
		for range 4 {
			for range 8 {
				must(t, s.Commit(b.NextN(20, 200)))
				note()
			}
			must(t, s.Flush())
			flushed.Store(b.Index)
			for range 8 {
				must(t, s.Stage(b.NextN(50, 300)))
			}
			must(t, s.FlushStaging(), s.Promote([]byte("p"), b.Index, 1, 0))
			note()
			flushed.Store(b.Index)
		}
		must(t, s.Close())
		for _, c := range crashes {
			s, err := ledger.Open("ledger", options(c.disk))
			if errors.Is(err, ledger.ErrNotExist) && c.flushed == 0 {
				continue
			}
			must(t, err)
			meta := s.Meta()
			if meta != metas[meta.Applied] {
				t.Errorf("after a crash meta is %v, want %v", meta, metas[meta.Applied])
			}
			if meta.Applied < c.flushed {
				t.Errorf("a crash lost index %d to %d, which were flushed", meta.Applied+1, c.flushed)
			}
			_, err = chain.Verify(context.Background(), s.Source(), chain.VerifyOptions{Tiles: s.Source(), Head: &meta.Head, Root: &meta.Root})
			must(t, err)
			// It goes on where it is.
			again := ledgertest.NewBuilder(1)
			again.Head, again.Index = s.Staged(), meta.Applied
			must(t, s.Stage(again.NextN(10, 10)), s.Promote(nil, again.Index, 1, 0), s.Commit(again.NextN(10, 10)), s.Close())
		}
		// How many writes there are is Pebble's business, and the clock's.
		t.Logf("%d crashes", len(crashes))
		if len(crashes) == 0 {
			t.Error("no crash")
		}
	}
}

// TestFaults injects one error into the writing of Pebble's log or tables: the
// store fails, says so to every later call, and what a crash leaves is a prefix.
// (Where a log fails while Pebble changes to the next one, it ends the process.)
func TestFaults(t *testing.T) {
	boom := errors.New("disk on fire")
	for _, suffix := range []string{".log", ".sst"} {
		for _, kinds := range [][]errorfs.OpKind{
			{errorfs.OpCreate},
			{errorfs.OpFileWrite},
			{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo},
		} {
			if suffix == ".log" && kinds[0] == errorfs.OpCreate {
				continue
			}
			for _, nth := range []int64{1, 5} {
				t.Run(fmt.Sprint(suffix, kinds, nth), func(t *testing.T) { testFault(t, boom, suffix, kinds, nth) })
			}
		}
	}
}

func testFault(t *testing.T, boom error, suffix string, kinds []errorfs.OpKind, nth int64) {
	disk := vfs.NewCrashableMem()
	must(t, create(t, disk).Close())
	var armed atomic.Bool
	var count atomic.Int64
	s, err := ledger.Open("ledger", options(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if armed.Load() && slices.Contains(kinds, op.Kind) && strings.HasSuffix(op.Path, suffix) && count.Add(1) == nth {
			return boom
		}
		return nil
	}))))
	must(t, err)
	armed.Store(true)
	b := ledgertest.NewBuilder(1)
	var metas []chain.Meta
	for i := 0; err == nil; i++ {
		if i == 3000 {
			t.Fatal("the operation does not occur often enough")
		}
		metas = append(metas, s.Meta())
		if err = s.Commit(b.NextN(10, 500)); err == nil && i%3 == 0 {
			err = s.Flush()
		}
	}
	if !errors.Is(err, boom) {
		t.Errorf("the store fails with %v, want the injected error", err)
	}
	select {
	case <-s.Failed():
	default:
		t.Error("Failed is not closed")
	}
	_, recordErr := s.Record(0)
	_, _, findErr := s.Find(chain.Key{})
	for _, again := range []error{s.Commit(b.NextN(1, 1)), s.Flush(), s.Stage(b.NextN(1, 1)), recordErr, findErr, s.Err()} {
		if !errors.Is(again, boom) {
			t.Errorf("after it failed, the store answers %v", again)
		}
	}
	rng := rand.New(rand.NewPCG(1, uint64(nth)))
	left := crash(disk, rng)
	_ = s.Close()
	n, err := ledger.Open("ledger", options(left))
	must(t, err)
	defer n.Close()
	got := n.Meta()
	for _, m := range append(metas, s.Meta()) {
		if m == got {
			return
		}
	}
	t.Errorf("after the crash meta is %v: no prefix of the commits", got)
}

// TestReadersBesideWriter reads all there is while it grows, is staged, promoted,
// moved and redacted.
func TestReadersBesideWriter(t *testing.T) {
	s := create(t, vfs.NewCrashableMem())
	b := ledgertest.NewBuilder(1)
	must(t, s.Commit(b.NextN(10, 50)))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for i := range uint64(3) {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(i, 1))
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := readOnce(s, rng); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 12 {
		for range 6 {
			u := b.NextN(20, 200)
			if i%2 == 1 {
				u.Redact = []chain.Redaction{{Sequence: b.Head.Size / 2}, {Sequence: b.Head.Size - 3}}
			}
			must(t, s.Commit(u))
		}
		for range 6 {
			must(t, s.Stage(b.NextN(60, 200)))
		}
		must(t, s.Promote(nil, b.Index, 1, 0))
	}
	close(done)
	readers.Wait()
	must(t, s.Err())
}

// readOnce reads the head's entry by sequence, key, scan and proof, and compares.
func readOnce(s *ledger.Store, rng *rand.Rand) error {
	meta := s.Meta()
	seq := rng.Uint64N(meta.Head.Size)
	if rng.IntN(2) == 0 {
		seq = meta.Head.Size - 1
	}
	rec, err := s.Record(seq)
	if err != nil {
		return err
	}
	if seq == meta.Head.Size-1 && chain.HeaderHash(rec.Header) != meta.Head.Hash {
		return fmt.Errorf("entry %d does not hash to the head", seq)
	}
	h, err := chain.DecodeHeader(rec.Header)
	if err != nil {
		return err
	}
	slot, found, err := s.Find(h.Key())
	if err != nil || !found || slot.Sequence != seq {
		return fmt.Errorf("find key of entry %d: %v, %t, %w", seq, slot, found, err)
	}
	// Keys that the writer may be sealing right now.
	next := ledgertest.Event(s.Meta().Head.Size+uint64(rng.IntN(30)), 0)
	if slot, found, err := s.Find(next.Key()); err != nil || found && slot.Sequence >= s.Meta().Head.Size {
		return fmt.Errorf("find a key of the future: %v, %t, %w", slot, found, err)
	}
	proof, err := s.InclusionProof(seq, meta.Head.Size)
	if err != nil {
		return err
	}
	if err := chain.VerifyInclusion(chain.LeafHash(rec.Header), seq, meta.Head.Size, meta.Root, proof); err != nil {
		return err
	}
	want := seq
	for rec, err := range s.Scan(chain.Filter{Kind: h.Kind}, seq, meta.Head.Size, false) {
		if err != nil {
			return err
		}
		if rec.Sequence < want || rec.Sequence == seq && want != seq {
			return fmt.Errorf("scan yields %d after %d", rec.Sequence, want)
		}
		if want = rec.Sequence; want > seq+200 {
			break
		}
	}
	n := meta.Head.Size
	for rec, err := range s.Scan(chain.Filter{}, 0, meta.Head.Size, true) {
		if n--; err != nil || rec.Sequence != n {
			return fmt.Errorf("scan yields %d, want %d: %w", rec.Sequence, n, err)
		}
		if n+200 < meta.Head.Size {
			break
		}
	}
	return nil
}

// TestOpenOnFullDisk: a store whose log can't be brought into tables, for lack of room,
// refuses to open and says why, where Pebble by itself tries again for ever. With room it
// opens.
func TestOpenOnFullDisk(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, err := ledger.Create("ledger", options(disk))
	must(t, err)
	b := ledgertest.NewBuilder(1)
	clone := func(disk *vfs.MemFS) *vfs.MemFS {
		return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	}
	// Its log is written behind its back: the crash comes once something is there.
	var killed *vfs.MemFS
	for i, found := 0, uint64(0); found == 0; i++ {
		if i == 1000 {
			t.Fatal("nothing of a thousand commits reaches the log")
		}
		must(t, s.Commit(b.NextN(20, 200)))
		killed = clone(disk)
		probe, err := ledger.Open("ledger", options(clone(killed)))
		must(t, err)
		found = probe.Meta().Applied
		must(t, probe.Close())
	}
	meta := s.Meta()
	must(t, s.Close())
	full := errorfs.Wrap(killed, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	}))
	// What was abandoned holds its lock: the process ends, and so does its disk here.
	later := clone(killed)
	if s, err := ledger.Open("ledger", options(full)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("opened on a full disk: %v, %v", s, err)
	}
	s, err = ledger.Open("ledger", options(later))
	must(t, err)
	if got := s.Meta(); got.Applied == 0 || got.Applied > meta.Applied {
		t.Errorf("with room again it has %v of %v", got, meta)
	}
	must(t, s.Close())
}

// TestCloseOnFullDisk: a store that can't bring what it has into tables closes, and says
// why. What raft's log covers is not lost.
func TestCloseOnFullDisk(t *testing.T) {
	disk := vfs.NewMem()
	var full atomic.Bool
	s, err := ledger.Create("ledger", options(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	}))))
	must(t, err)
	b := ledgertest.NewBuilder(1)
	must(t, s.Commit(b.NextN(20, 200)))
	full.Store(true)
	if err := s.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("closed on a full disk: %v", err)
	}
}
