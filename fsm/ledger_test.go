package fsm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/ledger/ledgertest"
)

var (
	_ fsm.Store   = (*ledger.Store)(nil)
	_ fsm.Staging = (*ledger.Store)(nil)
)

// installTest is an install of a snapshot over the real store, on a file system
// that can lose what was not synced.
type installTest struct {
	t      *testing.T
	leader *replica
	logs   []*raft.Log
	// early and late are manifests; the first half of the log is in early.
	early, late           []byte
	earlyIndex, lateIndex uint64
}

func newInstallTest(t *testing.T) *installTest {
	s := &installTest{t: t, leader: newReplica(t, ledgertest.NewMemory())}
	h := newHistory(t)
	add := func(l *raft.Log) {
		s.logs = append(s.logs, l)
		s.leader.apply(l)
	}
	add(h.servers("n1"))
	add(h.genesis(gates.Production))
	for i := range 60 {
		v := s.leader.View()
		p := h.event(fmt.Sprint(i), `{"a":1}`)
		switch i % 6 {
		case 1:
			p = h.system(v, fmt.Sprint(i), "cluster.peer.add", peer(fmt.Sprint("n", i)))
		case 2:
			p = h.gated(v, fmt.Sprint(i), 6_000)
		case 3:
			p = h.gated(v, fmt.Sprint(i), 9_000)
		case 4:
			p = h.system(v, fmt.Sprint(i), "chain.redact", fmt.Sprintf(`{"target_seq":%d}`, v.Head().Size-4))
		}
		add(h.batch(v.Revision(), p, p))
		if i == 25 {
			s.early, s.earlyIndex = s.leader.snapshot(), h.index
		}
		if i == 50 {
			s.late, s.lateIndex = s.leader.snapshot(), h.index
		}
	}
	return s
}

// open opens the ledger of a file system, made anew where there is none.
func (s *installTest) open(fs vfs.FS) *ledger.Store {
	s.t.Helper()
	store, err := ledger.Open("/ledger", ledger.Options{FS: fs, Logger: testLogger()})
	if err != nil {
		store, err = ledger.Create("/ledger", ledger.Options{FS: fs, Logger: testLogger()})
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return store
}

func (s *installTest) machine(store *ledger.Store) (*fsm.FSM, *fsm.Catchup, *peerFetcher) {
	s.t.Helper()
	f, err := fsm.New(fsm.Config{
		Store: store, Staging: store, ChainID: testID, NodeID: "n2",
		Fatal:  func(err error) { s.t.Errorf("fatal: %v", err) },
		Logger: testLogger(),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	fetcher := &peerFetcher{peer: s.leader.store}
	c, err := fsm.NewCatchup(f, fetcher)
	if err != nil {
		s.t.Fatal(err)
	}
	return f, c, fetcher
}

// finish brings a store to the end of the log: an install of late, a delayed
// duplicate of early, and the log that follows.
func (s *installTest) finish(store *ledger.Store) {
	s.t.Helper()
	f, c, _ := s.machine(store)
	for range 10 {
		got, _ := f.Admit(fsm.Install{LastLogIndex: s.lateIndex, Manifest: s.late})
		if got == fsm.AlreadyApplied {
			break
		}
		if got == fsm.ReadyToInstall {
			if err := f.Restore(receive(s.late)); err != nil {
				s.t.Fatal(err)
			}
			continue
		}
		if err := c.Attempt(testContext); err != nil {
			s.t.Fatal(err)
		}
	}
	if got, err := f.Admit(fsm.Install{LastLogIndex: s.earlyIndex, Manifest: s.early}); got != fsm.AlreadyApplied {
		s.t.Fatalf("a delayed duplicate is answered with %v, %v", got, err)
	}
	for _, l := range s.logs {
		f.ApplyBatch([]*raft.Log{l})
	}
	want := s.leader.store.Meta()
	if got := store.Meta(); got != want {
		s.t.Fatalf("meta %+v, the leader's is %+v", got, want)
	}
	state, err := store.State()
	if wanted, err2 := s.leader.store.State(); err != nil || err2 != nil || string(state) != string(wanted) {
		s.t.Fatalf("another state (%v, %v)", err, err2)
	}
	for seq := range want.Head.Size {
		got, err := store.Record(seq)
		wanted, err2 := s.leader.store.Record(seq)
		if err != nil || err2 != nil || fmt.Sprint(got) != fmt.Sprint(wanted) {
			s.t.Fatalf("entry %d differs (%v, %v)", seq, err, err2)
		}
		header := s.leader.header(seq)
		key := header.Key()
		gotSlot, _, err := store.Find(key)
		wantSlot, _, err2 := s.leader.store.Find(key)
		if err != nil || err2 != nil || gotSlot != wantSlot {
			s.t.Fatalf("slot of entry %d is %v, want %v (%v, %v)", seq, gotSlot, wantSlot, err, err2)
		}
	}
}

// What is wrong with the slots of a stopped store's entries, behind the last ones
// that opening looks at, shows by the entries.
func TestVerifyLooksUpKeys(t *testing.T) {
	slotOf := func(db *pebble.DB, seq uint64) []byte {
		t.Helper()
		want := binary.AppendUvarint([]byte{byte(chain.SlotSealed)}, seq)
		iter, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte("i"), UpperBound: []byte("j")})
		if err != nil {
			t.Fatal(err)
		}
		defer iter.Close()
		for ok := iter.First(); ok; ok = iter.Next() {
			if bytes.Equal(iter.Value(), want) {
				return bytes.Clone(iter.Key())
			}
		}
		t.Fatalf("no slot of entry %d", seq)
		return nil
	}
	for name, damage := range map[string]func(db *pebble.DB) error{
		"none":    func(*pebble.DB) error { return nil },
		"missing": func(db *pebble.DB) error { return db.Delete(slotOf(db, 5), pebble.Sync) },
		"another entry's": func(db *pebble.DB) error {
			return db.Set(slotOf(db, 5), []byte{byte(chain.SlotSealed), 3}, pebble.Sync)
		},
		"beyond the head": func(db *pebble.DB) error {
			return db.Set(slotOf(db, 5), binary.AppendUvarint([]byte{byte(chain.SlotSealed)}, 9999), pebble.Sync)
		},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			options := ledger.Options{FS: fs}
			store, err := ledger.Create("ledger", options)
			if err != nil {
				t.Fatal(err)
			}
			s := newInstallTest(t)
			f, _, _ := s.machine(store)
			for _, l := range s.logs {
				f.ApplyBatch([]*raft.Log{l})
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			db, err := pebble.Open("ledger/db", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: pebble.DefaultLogger})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(damage(db), db.Close()); err != nil {
				t.Fatal(err)
			}
			if store, err = ledger.OpenReadOnly("ledger", options); err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			replay := fsm.NewReplay()
			replay.Lookup = store.Find
			_, err = chain.Verify(t.Context(), store.Source(), chain.VerifyOptions{Check: replay.Check, Tiles: store.Source()})
			var bad *chain.BadEntryError
			if name == "none" {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.As(err, &bad) || bad.Sequence != 5 || bad.Part != chain.PartCheck {
				t.Errorf("%v, want entry 5", err)
			}
		})
	}
}

// A node may crash between any two steps of an install, and lose what it had not
// synced; after a restart it comes to the same chain.
func TestCrashAtEveryStepOfAnInstall(t *testing.T) {
	s := newInstallTest(t)
	var clones []*vfs.MemFS
	fs := vfs.NewCrashableMem()
	rng := rand.New(rand.NewPCG(1, 2))
	crash := func() {
		for _, percent := range []int{0, 50, 100} {
			clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng}))
		}
	}
	store := s.open(fs)
	f, c, fetcher := s.machine(store)
	crash()
	for _, l := range s.logs[:12] {
		f.ApplyBatch([]*raft.Log{l})
		crash()
	}
	for died := 1; ; died++ {
		got, err := f.Admit(fsm.Install{LastLogIndex: s.lateIndex, Manifest: s.late})
		if got == fsm.ReadyToInstall {
			break
		}
		if died > 100 {
			t.Fatal(err)
		}
		fetcher.dieAfter = 5
		_ = c.Attempt(testContext)
		crash()
	}
	if err := f.Restore(receive(s.late)); err != nil {
		t.Fatal(err)
	}
	crash()
	for _, l := range s.logs[51:] {
		f.ApplyBatch([]*raft.Log{l})
	}
	crash()
	s.finish(store)
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	for i, clone := range clones {
		if i > 0 && t.Failed() {
			break
		}
		store := s.open(clone)
		s.finish(store)
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d crashes", len(clones))
}
