package ledgertest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/chain"
)

// Store is the contract that package fsm declares (Store and Staging together).
type Store interface {
	Meta() chain.Meta
	State() ([]byte, error)
	Find(chain.Key) (chain.Slot, bool, error)
	FindAll(keys []chain.Key, slots []chain.Slot) error
	Record(seq uint64) (chain.Record, error)
	Commit(*chain.Update) error
	Flush() error

	Staged() chain.Head
	StagedHeader(seq uint64) ([]byte, error)
	StagedRoot() (chain.Hash, error)
	StagedState() ([]byte, error)
	Stage(*chain.Update) error
	FlushStaging() error
	Promote(state []byte, applied, appliedTerm, raftEpoch uint64) error
	DropStaging() error
}

// Fixture opens stores for Run.
type Fixture interface {
	// New returns an empty store.
	New(t *testing.T) Store
	// Crash returns a store as it comes back after a crash of s: all that
	// was durable, and some prefix of what was not; which one, rng decides.
	Crash(t *testing.T, s Store, rng *rand.Rand) Store
}

// Run runs the conformance suite.
func Run(t *testing.T, f Fixture) {
	t.Run("Empty", func(t *testing.T) { testEmpty(t, f) })
	t.Run("Commit", func(t *testing.T) { testCommit(t, f) })
	t.Run("Slots", func(t *testing.T) { testSlots(t, f) })
	t.Run("Redact", func(t *testing.T) { testRedact(t, f) })
	t.Run("Staging", func(t *testing.T) { testStaging(t, f) })
	t.Run("StagingIsInvisible", func(t *testing.T) { testStagingIsInvisible(t, f) })
	t.Run("CommitDropsStaging", func(t *testing.T) { testCommitDropsStaging(t, f) })
	t.Run("Flush", func(t *testing.T) { testFlush(t, f) })
	t.Run("RefusesGap", func(t *testing.T) { testRefusesGap(t, f) })
	seeds := uint64(6)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("Random%d", seed), func(t *testing.T) { testRandom(t, f, seed) })
	}
}

func testEmpty(t *testing.T, f Fixture) {
	s := f.New(t)
	Equal(t, s, NewMemory(), nil)
	if _, err := s.Record(0); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("Record(0) of an empty store: %v, want ErrNotFound", err)
	}
	ok(t, s.Flush(), s.FlushStaging(), s.DropStaging())
	ok(t, s.Promote(nil, 0, 0, 0))
	Equal(t, s, NewMemory(), nil)
}

func testCommit(t *testing.T, f Fixture) {
	s, m, b := f.New(t), NewMemory(), NewBuilder(1)
	for _, n := range []int{1, 0, 3, 250, 1, 1, 10, 256, 0, 40} {
		both(t, s, m, b.NextN(n, 40))
		Equal(t, s, m, nil)
	}
	u := b.NextN(0, 0)
	u.State, u.RaftEpoch = nil, 7 // the state stays as it was
	both(t, s, m, u)
	Equal(t, s, m, []chain.Key{{Workspace: "team-1", Source: "host-1/agent", ID: "absent"}})
}

func testSlots(t *testing.T, f Fixture) {
	s, m, b := f.New(t), NewMemory(), NewBuilder(1)
	key := chain.Key{Workspace: "team-0", Source: "s", ID: "reserved"}
	both(t, s, m, b.NextN(3, 10))
	for _, slot := range []chain.Slot{
		{State: chain.SlotPending, Sequence: 3},
		{State: chain.SlotClosed, Sequence: 4},
		{State: chain.SlotDenied, Sequence: 5},
	} {
		u := b.NextN(1, 10)
		u.Slots = []chain.SlotChange{{Key: key, Slot: slot}}
		both(t, s, m, u)
		Equal(t, s, m, []chain.Key{key})
	}
	e := Event(99, 10)
	e.Workspace, e.Source, e.ID = key.Workspace, key.Source, key.ID
	both(t, s, m, b.Next(e)) // the request was granted
	Equal(t, s, m, []chain.Key{key})
}

func testRedact(t *testing.T, f Fixture) {
	s, m, b := f.New(t), NewMemory(), NewBuilder(1)
	both(t, s, m, b.NextN(4, 30))
	both(t, s, m, b.escalation())
	both(t, s, m, b.NextN(5, 30))
	u := b.NextN(2, 30)
	// The last one arrives with this Update.
	u.Redact = []chain.Redaction{{Sequence: 2}, {Sequence: 4, Beside: true}, {Sequence: 4, Beside: true}, {Sequence: 10}}
	both(t, s, m, u)
	Equal(t, s, m, nil)
	u = b.NextN(0, 0)
	u.Redact = redactions(2, 11)
	both(t, s, m, u)
	Equal(t, s, m, nil)
	rec, err := s.Record(4)
	ok(t, err)
	if rec.Envelope == nil || rec.Beside != nil {
		t.Errorf("a redacted escalation has an envelope of %d bytes, and %d beside", len(rec.Envelope), len(rec.Beside))
	}
	// The same by staging, below the staged range and in it.
	both(t, s, m, b.escalation())
	below := redaction(b)
	u = b.escalation()
	u.Redact = []chain.Redaction{below, redaction(b), {Sequence: 1}}
	ok(t, s.Stage(u), m.Stage(u))
	Equal(t, s, m, nil)
	ok(t, s.Promote(nil, b.Index, 1, 0), m.Promote(nil, b.Index, 1, 0))
	Equal(t, s, m, nil)
	// What a member redacted before it gave it comes without.
	u = b.NextN(3, 30)
	u.Entries[1].Envelope = nil
	ok(t, s.Stage(u), m.Stage(u), s.Promote(nil, b.Index, 1, 0), m.Promote(nil, b.Index, 1, 0))
	Equal(t, s, m, nil)
}

// redaction is that of the last entry, an escalation.
func redaction(b *Builder) chain.Redaction {
	return chain.Redaction{Sequence: b.Head.Size - 1, Beside: true}
}

func redactions(seqs ...uint64) []chain.Redaction {
	list := make([]chain.Redaction, len(seqs))
	for i, seq := range seqs {
		list[i].Sequence = seq
	}
	return list
}

func testStaging(t *testing.T, f Fixture) {
	s, m, b := f.New(t), NewMemory(), NewBuilder(1)
	key := chain.Key{Workspace: "team-0", Source: "s", ID: "reserved"}
	for round := range uint64(3) {
		u := b.NextN(100, 20)
		u.Slots = []chain.SlotChange{{Key: key, Slot: chain.Slot{State: chain.SlotPending, Sequence: b.Head.Size - 1}}}
		both(t, s, m, u)
		for i := range uint64(4) {
			u := b.NextN(90, 20)
			u.Redact = redactions(round*500+3+i, b.Head.Size-5)
			if i == 2 {
				u.Slots = []chain.SlotChange{{Key: key, Slot: chain.Slot{State: chain.SlotDenied, Sequence: b.Head.Size - 1}}}
				u.State = nil
			}
			ok(t, s.Stage(u), m.Stage(u))
			Equal(t, s, m, []chain.Key{key})
		}
		ok(t, s.FlushStaging(), m.FlushStaging())
		state := fmt.Appendf(nil, "promoted %d", round)
		ok(t, s.Promote(state, b.Index, 5, round), m.Promote(state, b.Index, 5, round))
		Equal(t, s, m, []chain.Key{key})
		// What was promoted is redacted and replaced at once, perhaps
		// while it is being moved.
		u = b.NextN(40, 20)
		u.RaftEpoch = round
		u.Redact = redactions(round*500+150, round*500+459, round*500+7)
		u.Slots = []chain.SlotChange{{Key: key, Slot: chain.Slot{State: chain.SlotClosed, Sequence: b.Head.Size - 1}}}
		both(t, s, m, u)
		Equal(t, s, m, []chain.Key{key})
	}
	ok(t, s.Stage(b.NextN(10, 10)), s.DropStaging())
	Equal(t, s, m, nil)
}

func testStagingIsInvisible(t *testing.T, f Fixture) {
	s, m, b := f.New(t), NewMemory(), NewBuilder(1)
	both(t, s, m, b.NextN(5, 20))
	ok(t, s.Stage(b.NextN(300, 20)))
	if _, err := s.Record(5); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("Record of a staged entry: %v, want ErrNotFound", err)
	}
	staged := Event(7, 0)
	if slot, found, err := s.Find(staged.Key()); found || err != nil {
		t.Errorf("Find of a staged entry's key: %v, %t, %v, want none", slot, found, err)
	}
	if got := s.Staged(); got != b.Head {
		t.Errorf("Staged() = %v, want %v", got, b.Head)
	}
	for seq := range b.Head.Size {
		header, err := s.StagedHeader(seq)
		ok(t, err)
		if h, err := chain.DecodeHeader(header); err != nil || h.Sequence != seq {
			t.Errorf("StagedHeader(%d) is that of entry %d (%v)", seq, h.Sequence, err)
		}
	}
	if _, err := s.StagedHeader(b.Head.Size); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("StagedHeader beyond what is staged: %v, want ErrNotFound", err)
	}
	ok(t, s.DropStaging())
	Equal(t, s, m, nil)
}

func testCommitDropsStaging(t *testing.T, f Fixture) {
	s, m, b := f.New(t), NewMemory(), NewBuilder(1)
	both(t, s, m, b.NextN(5, 20))
	next := *b
	ok(t, s.Stage(b.NextN(300, 20)))
	*b = next
	u := b.NextN(0, 0)
	both(t, s, m, u) // no entries: staging still links to the head
	if got := s.Staged().Size; got != 305 {
		t.Errorf("Staged().Size = %d after a Commit without entries, want 305", got)
	}
	both(t, s, m, b.NextN(2, 20))
	Equal(t, s, m, nil)
	ok(t, s.Stage(b.NextN(3, 20)), s.Promote(nil, 9, 9, 0))
	if got := s.Meta().Head; got != b.Head {
		t.Errorf("head %v, want %v", got, b.Head)
	}
}

func testFlush(t *testing.T, f Fixture) {
	rng := rand.New(rand.NewPCG(1, 1))
	s, m, b := f.New(t), NewMemory(), NewBuilder(1)
	for range 5 {
		both(t, s, m, b.NextN(50, 20))
		ok(t, s.Flush())
		s = f.Crash(t, s, rng)
		Equal(t, s, m, nil)
	}
	u := b.NextN(300, 20)
	ok(t, s.Stage(u), m.Stage(u), s.FlushStaging())
	s = f.Crash(t, s, rng)
	Equal(t, s, m, nil)
	ok(t, s.Promote([]byte("p"), 20, 2, 0), m.Promote([]byte("p"), 20, 2, 0))
	s = f.Crash(t, s, rng)
	Equal(t, s, m, nil)
}

func testRefusesGap(t *testing.T, f Fixture) {
	s, b := f.New(t), NewBuilder(1)
	ok(t, s.Commit(b.NextN(5, 20)))
	b.NextN(1, 20)
	if err := s.Commit(b.NextN(1, 20)); err == nil {
		t.Fatal("Commit of an Update that leaves a gap succeeded")
	}
	if err := s.Commit(b.NextN(1, 20)); err == nil {
		t.Error("the store goes on after an Update that does not fit")
	}
}

// testRandom does random steps on the store and on Memory, with crashes, and
// compares all they hold after each.
func testRandom(t *testing.T, f Fixture, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	s, m, b := f.New(t), NewMemory(), NewBuilder(1)
	staged := *b // the builder as of Staged(); b is as of the head
	var keys []chain.Key
	for i := range uint64(6) {
		keys = append(keys, chain.Key{Workspace: "team-0", Source: "s", ID: fmt.Sprint("reserved ", i)})
	}
	update := func(b *Builder) *chain.Update {
		first := b.Head.Size
		u := b.NextN(rng.IntN(80), rng.IntN(100))
		size := b.Head.Size
		for range rng.IntN(4) {
			if size > 1 {
				if seq := 1 + rng.Uint64N(size-1); seq >= first || redactable(t, m, seq) {
					u.Entries = append(u.Entries, b.Redact(seq))
					u.Redact = append(u.Redact, chain.Redaction{Sequence: seq})
				}
				u.Slots = append(u.Slots, chain.SlotChange{
					Key:  keys[rng.IntN(len(keys))],
					Slot: chain.Slot{State: chain.SlotDenied + chain.SlotState(rng.IntN(3)), Sequence: rng.Uint64N(b.Head.Size)},
				})
			}
		}
		return u
	}
	for range 30 {
		switch n := rng.IntN(20); {
		case n < 9:
			u := update(b)
			both(t, s, m, u)
			if len(u.Entries) > 0 || m.Staged() == b.Head {
				staged = *b
			}
		case n < 14:
			u := update(&staged)
			ok(t, s.Stage(u), m.Stage(u))
		case n < 16:
			b.Index = max(b.Index, staged.Index)
			ok(t, s.Promote([]byte("promoted"), b.Index, 9, 0), m.Promote([]byte("promoted"), b.Index, 9, 0))
			index := b.Index
			*b = staged
			b.Index = index
			staged = *b
		case n < 17:
			ok(t, s.DropStaging(), m.DropStaging())
			staged = *b
		case n < 18:
			ok(t, s.Flush(), m.Flush())
		default:
			s = f.Crash(t, s, rng)
			m = matchPrefix(t, s, m)
			b.Head, b.Index = m.Meta().Head, m.Meta().Applied
			staged = *b
			staged.Head = m.Staged()
		}
		Equal(t, s, m, keys)
	}
}

// redactable reports whether an entry, perhaps a staged one, is not of workspace
// system.
func redactable(t *testing.T, m *Memory, seq uint64) bool {
	t.Helper()
	header, err := m.StagedHeader(seq)
	ok(t, err)
	h, err := chain.DecodeHeader(header)
	ok(t, err)
	return h.Workspace != "system"
}

// matchPrefix returns the state of m that s came back with: one of those
// between m's last sync and now.
func matchPrefix(t *testing.T, s Store, m *Memory) *Memory {
	t.Helper()
	for n := m.Unsynced(); n >= 0; n-- {
		c := m.Crash(n)
		if s.Meta() == c.Meta() && s.Staged() == c.Staged() && sameStagedState(t, s, c) {
			return c
		}
	}
	t.Fatalf("after a crash the store has meta %v, staged %v: no prefix of its commits", s.Meta(), s.Staged())
	return nil
}

// sameStagedState tells apart steps that change neither meta nor staged head.
func sameStagedState(t *testing.T, s, m Store) bool {
	t.Helper()
	a, err := s.StagedState()
	ok(t, err)
	b, err := m.StagedState()
	ok(t, err)
	return string(a) == string(b)
}

// both commits an Update to both stores.
func both(t *testing.T, s Store, m *Memory, u *chain.Update) {
	t.Helper()
	ok(t, s.Commit(u), m.Commit(u))
}

func ok(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Equal fails t unless s holds what m holds: meta, states, all records, and the
// slots of all entries' keys and of the given ones.
func Equal(t *testing.T, s Store, m *Memory, keys []chain.Key) {
	t.Helper()
	meta := m.Meta()
	if diff := cmp.Diff(meta, s.Meta()); diff != "" {
		t.Fatalf("meta (-want +got):\n%s", diff)
	}
	wantState, err := m.State()
	ok(t, err)
	gotState, err := s.State()
	ok(t, err)
	if diff := cmp.Diff(wantState, gotState); diff != "" {
		t.Fatalf("state (-want +got):\n%s", diff)
	}
	for seq := range meta.Head.Size {
		want, err := m.Record(seq)
		ok(t, err)
		got, err := s.Record(seq)
		ok(t, err)
		if !sameRecord(&want, &got) {
			t.Fatalf("record %d (-want +got):\n%s", seq, cmp.Diff(want, got))
		}
		h, err := chain.DecodeHeader(want.Header)
		ok(t, err)
		equalSlot(t, s, m, h.Key())
	}
	for _, key := range keys {
		equalSlot(t, s, m, key)
	}
	if _, err := s.Record(meta.Head.Size); !errors.Is(err, chain.ErrNotFound) {
		t.Fatalf("Record beyond the head: %v, want ErrNotFound", err)
	}
	equalStaging(t, s, m)
}

func sameRecord(a, b *chain.Record) bool {
	return a.Sequence == b.Sequence && same(a.Header, b.Header) && same(a.Envelope, b.Envelope) && same(a.Beside, b.Beside)
}

func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func equalSlot(t *testing.T, s Store, m *Memory, key chain.Key) {
	t.Helper()
	want, found, err := m.Find(key)
	ok(t, err)
	got, gotFound, err := s.Find(key)
	ok(t, err)
	if want != got || found != gotFound {
		t.Fatalf("Find(%v) = %v, %t, want %v, %t", key, got, gotFound, want, found)
	}
	absent := key
	absent.ID += "-absent"
	slots := []chain.Slot{{Sequence: 7}, {Sequence: 7}, {Sequence: 7}}
	ok(t, s.FindAll([]chain.Key{absent, key, key}, slots))
	if slots[0] != (chain.Slot{}) || slots[1] != want || slots[2] != want {
		t.Fatalf("FindAll(absent, %v twice) = %v, want nothing and twice %v", key, slots, want)
	}
}

func equalStaging(t *testing.T, s Store, m *Memory) {
	t.Helper()
	if got, want := s.Staged(), m.Staged(); got != want {
		t.Fatalf("Staged() = %v, want %v", got, want)
	}
	want, err := m.StagedRoot()
	ok(t, err)
	got, err := s.StagedRoot()
	ok(t, err)
	if got != want {
		t.Fatalf("StagedRoot() = %v, want %v", got, want)
	}
	if !sameStagedState(t, s, m) {
		t.Fatal("StagedState differs")
	}
}
