package ledger_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/ledger/ledgertest"
)

// TestFilterKnowsAllKeys has the filter of absent keys grow several times under
// commits, staging and promotion, beside readers: no key that was written is ever
// denied, also after a crash.
func TestFilterKnowsAllKeys(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, err := ledger.Create("ledger", options(disk))
	must(t, err)
	s.TinyFilter()
	builder := ledgertest.NewBuilder(1)
	var written atomic.Uint64
	done := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for i := uint64(0); ; i++ {
			select {
			case <-done:
				return
			default:
			}
			if n := written.Load(); n > 0 {
				if seq := i * 7919 % n; !found(t, s, seq) {
					return
				}
			}
		}
	})
	commit := func(n int) {
		must(t, s.Commit(builder.NextN(n, 10)))
		written.Store(s.Meta().Head.Size)
	}
	for range 60 {
		commit(37)
	}
	// What is staged is known before it is promoted, and so needs no moment
	// in which it becomes so.
	first := written.Load()
	must(t, s.Stage(builder.NextN(500, 10)), s.Stage(builder.NextN(500, 10)))
	for seq := first; seq < first+1000; seq++ {
		if !s.MayHold(keyOf(seq)) {
			t.Fatalf("the key of staged entry %d is denied", seq)
		}
	}
	must(t, s.Promote(nil, 1000, 1, 0))
	written.Store(s.Meta().Head.Size)
	s.FilterFull()
	commit(37) // makes the last one grow
	close(done)
	readers.Wait()
	if got, least := s.FilterFull(), written.Load(); got < least {
		t.Errorf("the filter is made for %d keys, and has %d", got, least)
	}
	checkKeys(t, s, written.Load())
	must(t, s.Flush())
	crashed := disk.CrashClone(vfs.CrashCloneCfg{})
	must(t, s.Close())

	s, err = ledger.Open("ledger", options(crashed))
	must(t, err)
	// Before the filter is complete, while it becomes so, and after.
	checkKeys(t, s, written.Load())
	if s.FilterFull() == 0 {
		t.Error("the filter is not complete")
	}
	checkKeys(t, s, written.Load())
	must(t, s.Close())
}

// TestFilterDeniesAbsentKeys counts the absent keys that pass for known.
func TestFilterDeniesAbsentKeys(t *testing.T) {
	s, err := ledger.Create("ledger", options(vfs.NewMem()))
	must(t, err)
	builder := ledgertest.NewBuilder(1)
	s.TinyFilter()
	for s.FilterFull() < 1<<14 {
		must(t, s.Commit(builder.NextN(512, 0)))
	}
	for s.Meta().Head.Size < 1<<14 { // full
		must(t, s.Commit(builder.NextN(512, 0)))
	}
	const asked = 20_000
	passed := 0
	for i := range asked {
		if s.MayHold(chain.Key{Workspace: "team-1", Source: "host-1/agent", ID: fmt.Sprint("absent-", i)}) {
			passed++
		}
	}
	if passed > asked/50 {
		t.Errorf("%d of %d absent keys pass for known", passed, asked)
	}
	must(t, s.Close())
}

// keyOf is the key of an entry that a ledgertest.Builder made.
func keyOf(seq uint64) chain.Key {
	e := ledgertest.Event(seq, 0)
	if seq == 0 {
		e.Workspace = "system"
	}
	return e.Key()
}

// found looks the key of an entry up.
func found(t *testing.T, s *ledger.Store, seq uint64) bool {
	slot, ok, err := s.Find(keyOf(seq))
	if err != nil || !ok || slot.Sequence != seq {
		t.Errorf("the key of entry %d: %v, %v, %v", seq, slot, ok, err)
		return false
	}
	return true
}

// checkKeys looks up the keys of entries below size together, and as many absent
// ones between them.
func checkKeys(t *testing.T, s *ledger.Store, size uint64) {
	t.Helper()
	var keys []chain.Key
	for seq := range size {
		key := keyOf(seq)
		absent := key
		absent.ID += "-absent"
		keys = append(keys, key, absent)
	}
	slots := make([]chain.Slot, len(keys))
	must(t, s.FindAll(keys, slots))
	for i, slot := range slots {
		want := chain.Slot{State: chain.SlotSealed, Sequence: uint64(i / 2)}
		if i%2 == 1 {
			want = chain.Slot{}
		}
		if slot != want {
			t.Fatalf("key %v: slot %v, want %v", keys[i], slot, want)
		}
	}
}
