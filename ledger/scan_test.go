package ledger_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/ledger/ledgertest"
)

var everything = chain.Filter{}

// matches is the filter's meaning, spelled out once more.
func matches(f chain.Filter, h *chain.Header) bool {
	kind := f.Kind == "" || f.Kind == h.Kind
	if prefix, ok := strings.CutSuffix(f.Kind, "*"); ok {
		kind = strings.HasPrefix(h.Kind, prefix)
	}
	return kind && (f.Workspace == "" || f.Workspace == h.Workspace) &&
		(f.Source == "" || f.Source == h.Source) &&
		(f.Principal == "" || f.Principal == h.Principal) &&
		h.Time >= f.TimeFrom && (f.TimeTo == 0 || h.Time < f.TimeTo)
}

// collect returns the sequences that a scan yields, having compared the records
// with those of want.
func collect(t *testing.T, s *ledger.Store, want []chain.Record, f chain.Filter, from, to uint64, reverse bool) []uint64 {
	t.Helper()
	var got []uint64
	for rec, err := range s.Scan(f, from, to, reverse) {
		must(t, err)
		w := want[rec.Sequence]
		if string(rec.Header) != string(w.Header) || string(rec.Envelope) != string(w.Envelope) || string(rec.Beside) != string(w.Beside) {
			t.Fatalf("scan yields entry %d otherwise than it was committed", rec.Sequence)
		}
		got = append(got, rec.Sequence)
	}
	return got
}

// checkScans compares random scans with a filter over all entries.
func checkScans(t *testing.T, s *ledger.Store, m *ledgertest.Memory, rng *rand.Rand, n int) {
	t.Helper()
	size := m.Meta().Head.Size
	records := make([]chain.Record, size)
	headers := make([]chain.Header, size)
	for seq := range size {
		var err error
		records[seq], err = m.Record(seq)
		must(t, err)
		headers[seq], err = chain.DecodeHeader(records[seq].Header)
		must(t, err)
	}
	pick := func(values ...string) string { return values[rng.IntN(len(values))] }
	for range n {
		f := chain.Filter{
			Workspace: pick("", "", "team-1", "team-2", "nowhere"),
			Kind:      pick("", "agent.spawn", "agent.*", "*", "git.commit", "a*", "chain.genesis", "nothing.*", "agent.tool.call"),
			Source:    pick("", "", "host-1/agent", "host-6/agent", "host"),
			Principal: pick("", "", "principal-0", "nobody"),
		}
		if rng.IntN(3) == 0 {
			f.TimeFrom = headers[rng.Uint64N(size)].Time + rng.Int64N(2)
		}
		if rng.IntN(3) == 0 {
			f.TimeTo = headers[rng.Uint64N(size)].Time + rng.Int64N(2)
		}
		from, to := rng.Uint64N(size), rng.Uint64N(size+50)
		var want []uint64
		for seq := from; seq < min(to, size); seq++ {
			if matches(f, &headers[seq]) {
				want = append(want, seq)
			}
		}
		reverse := rng.IntN(2) == 0
		if reverse {
			slices.Reverse(want)
		}
		if got := collect(t, s, records, f, from, to, reverse); !slices.Equal(got, want) {
			t.Fatalf("Scan(%+v, %d, %d, %t) = %d, want %d", f, from, to, reverse, got, want)
		}
	}
}

func TestScan(t *testing.T) {
	s, m, b := create(t, vfs.NewCrashableMem()), ledgertest.NewMemory(), ledgertest.NewBuilder(1)
	rng := rand.New(rand.NewPCG(3, 3))
	for range 60 {
		u := b.NextN(2+rng.IntN(60), rng.IntN(3000))
		u.Redact = []chain.Redaction{{Sequence: 1 + rng.Uint64N(b.Head.Size-1)}}
		must(t, s.Commit(u), m.Commit(u))
	}
	checkScans(t, s, m, rng, 100)
}

// TestScanWhileMoving scans a store whose middle is staged: the mover runs
// beside the scans.
func TestScanWhileMoving(t *testing.T) {
	s, m, b := create(t, vfs.NewCrashableMem()), ledgertest.NewMemory(), ledgertest.NewBuilder(1)
	rng := rand.New(rand.NewPCG(4, 4))
	for range 5 {
		u := b.NextN(100, 30)
		must(t, s.Commit(u), m.Commit(u))
		for range 20 {
			u := b.NextN(rng.IntN(100), 800)
			u.Redact = []chain.Redaction{{Sequence: 1 + rng.Uint64N(b.Head.Size-1)}}
			must(t, s.Stage(u), m.Stage(u))
		}
		must(t, s.Promote(nil, b.Index, 1, 0), m.Promote(nil, b.Index, 1, 0))
		u = b.NextN(50, 30)
		must(t, s.Commit(u), m.Commit(u))
		checkScans(t, s, m, rng, 20)
	}
}

func TestScanStops(t *testing.T) {
	s, b := create(t, vfs.NewCrashableMem()), ledgertest.NewBuilder(1)
	must(t, s.Commit(b.NextN(1000, 10)))
	n := 0
	for _, err := range s.Scan(everything, 0, 1000, false) {
		must(t, err)
		// Entries that come during a scan are not part of it.
		must(t, s.Commit(b.NextN(1, 10)))
		n++
	}
	if n != 1000 {
		t.Errorf("a scan beside a writer yields %d entries, want 1000", n)
	}
	for range s.Scan(everything, 0, 1000, true) {
		break
	}
}

// TestScanLargePayloads reads more bytes than a scan takes at a time.
func TestScanLargePayloads(t *testing.T) {
	s, m, b := create(t, vfs.NewCrashableMem()), ledgertest.NewMemory(), ledgertest.NewBuilder(1)
	for i := range 12 {
		u := b.NextN(1, 400_000)
		if i%2 == 1 {
			u.Entries[0].Beside = u.Entries[0].Envelope
		}
		must(t, s.Commit(u), m.Commit(u))
	}
	checkScans(t, s, m, rand.New(rand.NewPCG(5, 5)), 20)
}

func TestSeekTime(t *testing.T) {
	s, b := create(t, vfs.NewCrashableMem()), ledgertest.NewBuilder(1)
	u := b.NextN(300, 10)
	if seq, err := s.SeekTime(1); seq != 0 || err != nil {
		t.Errorf("SeekTime in an empty store: %d, %v", seq, err)
	}
	must(t, s.Commit(u))
	for i := range u.Entries {
		e := &u.Entries[i]
		for _, c := range []struct {
			time int64
			want uint64
		}{{e.Time - 1, e.Sequence}, {e.Time, e.Sequence}, {e.Time + 1, e.Sequence + 1}} {
			if got, err := s.SeekTime(c.time); got != c.want || err != nil {
				t.Fatalf("SeekTime(%d) = %d, %v, want %d", c.time, got, err, c.want)
			}
		}
	}
}

func TestProofs(t *testing.T) {
	disk := vfs.NewCrashableMem()
	s, b := create(t, disk), ledgertest.NewBuilder(1)
	var leaves []chain.Hash
	roots := map[uint64]chain.Hash{0: chain.EmptyRoot()}
	add := func(u *chain.Update, apply func(*chain.Update) error) {
		must(t, apply(u))
		for i := range u.Entries {
			leaves = append(leaves, chain.LeafHash(u.Entries[i].Header))
		}
	}
	rng := rand.New(rand.NewPCG(6, 6))
	for range 20 {
		add(b.NextN(1+rng.IntN(200), 10), s.Commit)
		roots[s.Meta().Head.Size] = s.Meta().Root
	}
	staged := 70_000
	if testing.Short() {
		staged = 3000
	}
	add(b.NextN(staged, 1), s.Stage)
	must(t, s.Promote(nil, 1, 1, 0))
	add(b.NextN(100, 10), s.Commit)
	roots[s.Meta().Head.Size] = s.Meta().Root
	check := func(s *ledger.Store) {
		for to, root := range roots {
			if got, err := s.RootAt(to); got != root || err != nil {
				t.Fatalf("RootAt(%d) = %v, %v, want %v", to, got, err, root)
			}
			for range 5 {
				if to == 0 {
					break
				}
				seq := rng.Uint64N(to)
				proof, err := s.InclusionProof(seq, to)
				must(t, err, chain.VerifyInclusion(leaves[seq], seq, to, root, proof))
			}
			for from, old := range roots {
				if from <= to {
					proof, err := s.ConsistencyProof(from, to)
					must(t, err, chain.VerifyConsistency(from, to, old, root, proof))
				}
			}
		}
	}
	check(s)
	size := s.Meta().Head.Size
	_, inclusion := s.InclusionProof(size, size)
	_, beyond := s.InclusionProof(0, size+1)
	_, consistency := s.ConsistencyProof(1, size+1)
	_, backwards := s.ConsistencyProof(2, 1)
	_, root := s.RootAt(size + 1)
	for _, err := range []error{inclusion, beyond, consistency, backwards, root} {
		if !errors.Is(err, chain.ErrBeyond) {
			t.Errorf("%v, want ErrBeyond", err)
		}
	}
	must(t, s.Err(), s.Close())
	check(reopen(t, disk))
}

// TestKinds puts kinds side by side whose bytes tempt a wrong order.
func TestKinds(t *testing.T) {
	s, b := create(t, vfs.NewCrashableMem()), ledgertest.NewBuilder(1)
	kinds := []string{"a", "a.b", "a-b", "a.b.c", "ab", "a.b0", "b"}
	var events []chain.Event
	for i := range 70 {
		e := ledgertest.Event(uint64(i), 1)
		e.Kind = kinds[i%len(kinds)]
		events = append(events, e)
	}
	must(t, s.Commit(b.Next(events...)))
	for filter, want := range map[string]int{"a": 9, "a*": 59, "a.*": 30, "a.b*": 30, "a.b.c": 10, "b": 10, "c*": 1, "d*": 0} {
		n := 0
		for rec, err := range s.Scan(chain.Filter{Kind: filter}, 0, 70, false) {
			must(t, err)
			h, err := chain.DecodeHeader(rec.Header)
			must(t, err)
			if !matches(chain.Filter{Kind: filter}, &h) {
				t.Errorf("filter %q yields kind %q", filter, h.Kind)
			}
			n++
		}
		if n != want {
			t.Errorf("filter %q yields %d entries, want %d", filter, n, want)
		}
	}
}
