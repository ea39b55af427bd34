package fsm_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

// story is a random raft log as a leader makes it, with what one replica that
// applied it entry by entry answered. Where the cluster was recovered, logs has nil in
// the forced configuration's place.
type story struct {
	logs      []*raft.Log
	responses []any
	// recoveries are by their place in logs.
	recoveries map[int]fsm.Recovery
	leader     *replica
	manifests  []manifestAt
}

type manifestAt struct {
	data  []byte
	index uint64
	// logs is how many entries of the log are in it.
	logs int
}

// tell makes a story: configurations before and after genesis, a second
// genesis, batches with duplicates, conflicts, denials, escalations, stale
// evaluations and entries that change the state, redactions, no-ops, recoveries.
func tell(t *rapid.T) *story {
	s := &story{leader: newReplica(t, ledgertest.NewMemory()), recoveries: map[int]fsm.Recovery{}}
	h := newHistory(t)
	env := rapid.SampledFrom([]gates.Environment{gates.Development, gates.Staging, gates.Production}).Draw(t, "environment")
	add := func(l *raft.Log) {
		s.logs = append(s.logs, l)
		if l == nil {
			s.responses = append(s.responses, nil)
			s.leader.recover(s.recoveries[len(s.logs)-1])
		} else {
			s.responses = append(s.responses, s.leader.apply(l)...)
		}
		if rapid.IntRange(0, 9).Draw(t, "snapshot") == 0 {
			for range rapid.IntRange(0, 2).Draw(t, "no-ops") {
				h.skip()
			}
			s.manifests = append(s.manifests, manifestAt{s.leader.snapshot(), h.index, len(s.logs)})
		}
	}
	nodes := []string{"n1"}
	add(h.servers(nodes...))
	begins := rapid.IntRange(0, 4).Draw(t, "begins")
	for i := range rapid.IntRange(8, 30).Draw(t, "length") {
		if i == begins {
			add(h.genesis(env))
			continue
		}
		switch rapid.IntRange(0, 10).Draw(t, "log") {
		case 10:
			if s.leader.store.Meta().Head.Size == 0 {
				continue
			}
			if rapid.Bool().Draw(t, "a no-op before a recovery") {
				h.skip()
			}
			s.recoveries[len(s.logs)] = h.recovery(rapid.SampledFrom([]string{"", "both \"discs\" died"}).Draw(t, "reason"))
			nodes = []string{"n1"}
			add(nil)
		case 0:
			nodes = slices.Clone(nodes)
			if n := fmt.Sprint("n", 2+rapid.IntRange(0, 3).Draw(t, "node")); slices.Contains(nodes, n) {
				nodes = slices.DeleteFunc(nodes, func(s string) bool { return s == n })
			} else if i := slices.Index(nodes, "-"+n); i >= 0 {
				nodes[i] = n
			} else {
				nodes = append(nodes, "-"+n)
			}
			add(h.servers(nodes...))
		case 1:
			h.skip()
		case 2:
			add(h.genesis(env))
		default:
			add(batchOf(t, h, s.leader))
		}
	}
	return s
}

func batchOf(t *rapid.T, h *history, leader *replica) *raft.Log {
	v := leader.View()
	var events []fsm.Proposal
	for range rapid.IntRange(0, 6).Draw(t, "events") {
		id := fmt.Sprint(rapid.IntRange(0, 25).Draw(t, "id"))
		switch rapid.IntRange(0, 9).Draw(t, "event") {
		case 0:
			node := fmt.Sprint("n", 2+rapid.IntRange(0, 3).Draw(t, "node"))
			kind := rapid.SampledFrom([]string{
				"cluster.peer.add", "cluster.peer.remove", "cluster.promote", "cluster.demote", "boot.network",
			}).Draw(t, "kind")
			events = append(events, h.system(v, id, kind, peer(node)))
		case 1:
			kind := rapid.SampledFrom([]string{"git.commit", "git.tag"}).Draw(t, "kind")
			change := rapid.SampledFrom([]string{"catalog.register", "catalog.retire"}).Draw(t, "change")
			events = append(events, h.system(v, id, change, fmt.Sprintf(`{"kind":%q,"schema":{},"gate":"","reason":"r"}`, kind)))
		case 2, 3:
			events = append(events, h.gated(v, id, uint16(rapid.SampledFrom([]int{0, 6_000, 9_000}).Draw(t, "risk"))))
		case 4:
			if size := v.Head().Size; size > 3 {
				target := rapid.Uint64Range(0, size+2).Draw(t, "target")
				events = append(events, h.system(v, id, "chain.redact", fmt.Sprintf(`{"target_seq":%d}`, target)))
			}
		default:
			p := h.event(id, rapid.SampledFrom([]string{`{"a":1}`, `{"a":2}`, ""}).Draw(t, "payload"))
			if size := v.Head().Size; size > 0 && rapid.Bool().Draw(t, "with a cause") {
				p.Causes = []uint64{rapid.Uint64Range(0, size+1).Draw(t, "cause")}
			}
			events = append(events, p)
		}
	}
	revision := v.Revision()
	if rapid.IntRange(0, 9).Draw(t, "stale") == 0 {
		revision++
	}
	h.stamp += int64(rapid.IntRange(-5000, 5000).Draw(t, "clock"))
	return h.batch(revision, events...)
}

// live applies a story to a replica with random batch splits, crashes that lose
// unsynced steps, and installs of manifests with peers that die. It returns the
// replica as it is in the end.
func (s *story) live(t *rapid.T) *replica {
	r := newReplica(t, ledgertest.NewMemory())
	r.fetcher.peer = s.leader.store
	next := 0 // of s.logs, as raft's last applied index has it
	for next < len(s.logs) {
		switch rapid.IntRange(0, 9).Draw(t, "step") {
		case 0:
			r = r.crash(rapid.IntRange(0, r.store.Unsynced()).Draw(t, "kept"))
			// Raft begins at a snapshot that the node knows to be
			// durable, or at the beginning.
			next = 0
			if rapid.Bool().Draw(t, "skips what is applied") {
				applied := r.store.Meta().Applied
				next = 0
				for next < len(s.logs) && s.index(next) <= applied {
					next++
				}
			}
		case 1:
			r.snapshot()
		case 2:
			if len(s.manifests) == 0 {
				continue
			}
			m := rapid.SampledFrom(s.manifests).Draw(t, "manifest")
			if s.install(t, r, m) {
				next = max(next, m.logs)
			}
		default:
			if s.logs[next] == nil {
				// What a crash takes of it, the next attempt makes again.
				if s.index(next) > r.store.Meta().Applied {
					r.recover(s.recoveries[next])
				}
				next++
				continue
			}
			most := slices.Index(s.logs[next:], nil)
			if most < 0 {
				most = len(s.logs) - next
			}
			n := rapid.IntRange(1, min(8, most)).Draw(t, "batch")
			for i, got := range r.apply(s.logs[next : next+n]...) {
				if _, skipped := got.(*fsm.Skipped); skipped {
					continue
				}
				want := allowRedacted(s.responses[next+i], got)
				if diff := cmp.Diff(want, got, byText); diff != "" {
					t.Fatalf("log entry %d is answered otherwise: %s", s.logs[next+i].Index, diff)
				}
			}
			next += n
		}
	}
	return r
}

// index is the raft index of a place in the log.
func (s *story) index(i int) uint64 {
	if l := s.logs[i]; l != nil {
		return l.Index
	}
	return s.recoveries[i].Index
}

// allowRedacted returns want, but where got says that an event can't be compared:
// a replica that caught up from a peer that was further may lack an envelope
// before it comes to the redaction. No client hears of it: who answers clients
// has applied all that came before.
func allowRedacted(want, got any) any {
	w, ok := want.(*fsm.BatchResult)
	g, same := got.(*fsm.BatchResult)
	if !ok || !same || len(w.Results) != len(g.Results) {
		return want
	}
	allowed := *w
	allowed.Results = slices.Clone(w.Results)
	for i := range allowed.Results {
		r := &allowed.Results[i]
		if g.Results[i].Status == fsm.NotComparable && (r.Status == fsm.Duplicate || r.Status == fsm.Conflict || r.Status == fsm.StillPending) {
			r.Status = fsm.NotComparable
		}
	}
	return &allowed
}

// byText compares errors by their text: those of two replicas are not the same
// values.
var byText = cmp.Comparer(func(a, b error) bool { return a == b || a != nil && b != nil && a.Error() == b.Error() })

// install does what transport and raft do with an InstallSnapshot. It returns
// whether the manifest was restored.
func (s *story) install(t *rapid.T, r *replica, m manifestAt) bool {
	for {
		decision, err := install(r, m.data, m.index)
		switch decision {
		case fsm.AlreadyApplied:
			return false
		case fsm.ReadyToInstall:
			if err := r.Restore(receive(m.data)); err != nil {
				t.Fatalf("restore: %v", err)
			}
			return true
		}
		if _, _, ok := r.catchup.Progress(); !ok {
			of, derr := fsm.DecodeManifest(m.data)
			if derr == nil && of.RaftEpoch < r.store.Meta().RaftEpoch && errors.Is(err, fsm.ErrGoingBack) {
				return false // of before a recovery
			}
			t.Fatalf("admit: %v", err)
		}
		if rapid.IntRange(0, 5).Draw(t, "gives up") == 0 {
			return false
		}
		r.fetcher.dieAfter = rapid.IntRange(0, 40).Draw(t, "dies after")
		if err := r.catchup.Attempt(testContext); err != nil && r.fetcher.dieAfter > 0 {
			return false
		}
	}
}

// However a replica comes to a log entry, it then has the same chain and the
// same state, byte by byte.
func TestAllChainsAreIdentical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := tell(t)
		for range 2 {
			r := s.live(t)
			if got, want := r.everything(), s.leader.everything(); got != want {
				t.Fatalf("a replica differs: %s", cmp.Diff(want, got))
			}
		}
		if s.leader.store.Meta().Head.Size > 0 {
			s.leader.verify()
		}
	})
}

// A state that is decoded and encoded again is the same.
func TestStateEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := tell(t)
		state, err := s.leader.View().EncodeState()
		if err != nil {
			t.Fatal(err)
		}
		again, err := fsm.RecodeState(state)
		if err != nil || string(again) != string(state) {
			t.Fatalf("%x came back as %x (%v)", state, again, err)
		}
		if len(state) > 0 {
			if _, err := fsm.RecodeState(state[:rapid.IntRange(0, len(state)-1).Draw(t, "cut")]); err == nil {
				t.Fatal("a cut state decodes")
			}
		}
	})
}
