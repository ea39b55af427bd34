package ledgertest_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/exonode/exonode/ledger/ledgertest"
)

type memoryFixture struct{}

func (memoryFixture) New(*testing.T) ledgertest.Store { return ledgertest.NewMemory() }

func (memoryFixture) Crash(_ *testing.T, s ledgertest.Store, rng *rand.Rand) ledgertest.Store {
	m := s.(*ledgertest.Memory)
	return m.Crash(rng.IntN(m.Unsynced() + 1))
}

func TestMemoryConforms(t *testing.T) { ledgertest.Run(t, memoryFixture{}) }

func TestFailNext(t *testing.T) {
	boom := errors.New("boom")
	for _, persisted := range []bool{false, true} {
		m, b := ledgertest.NewMemory(), ledgertest.NewBuilder(1)
		if err := m.Commit(b.NextN(3, 10)); err != nil {
			t.Fatal(err)
		}
		m.FailNext(ledgertest.OpCommit, persisted, boom)
		if err := m.Commit(b.NextN(2, 10)); !errors.Is(err, boom) {
			t.Fatalf("Commit: %v, want the injected error", err)
		}
		if _, err := m.Record(0); !errors.Is(err, boom) {
			t.Errorf("a failed store answers a read with %v", err)
		}
		want := uint64(3)
		if persisted {
			want = 5
		}
		if got := m.Crash(m.Unsynced()).Meta().Head.Size; got != want {
			t.Errorf("persisted %t: %d entries after a crash, want %d", persisted, got, want)
		}
		if got := m.Crash(0).Meta().Head.Size; got != 0 {
			t.Errorf("%d entries after losing all that was not flushed, want 0", got)
		}
	}
}
