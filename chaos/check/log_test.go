package check_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
)

// These tests' log is as good as a cluster can be: what it answers is right, at whatever
// moment between call and return, and what fails is retried or left.

func hashOf(seq uint64) (h chain.Hash) {
	binary.BigEndian.PutUint64(h[:], seq+1)
	return h
}

func rootOf(size uint64) (h chain.Hash) {
	h[0] = 0xff
	binary.BigEndian.PutUint64(h[8:], size)
	return h
}

func keyOf(n int) chain.Key {
	return chain.Key{Workspace: "w", Source: "s", ID: fmt.Sprint("e", n)}
}

// want is an operation under way: it takes effect in one of the steps between its call
// and its return, or, where its client gave it up, afterwards.
type want struct {
	op   history.Op
	done bool
}

// machine makes histories.
type machine struct {
	draw    func(n int) int // a number below n
	now     time.Duration
	h       history.History
	f       history.Final
	keys    int
	busy    []*want // by client
	seen    []uint64
	loose   []*want // given up, and to take effect yet
	retries []chain.Key
	places  map[chain.Key]uint64
	next    uint64 // the watch's
}

const clients = 4

func newMachine(draw func(n int) int) *machine {
	m := &machine{draw: draw, busy: make([]*want, clients), seen: make([]uint64, clients), places: map[chain.Key]uint64{}}
	m.seal(chain.Key{Workspace: "system", Source: "exonode", ID: "genesis"})
	return m
}

func (m *machine) seal(k chain.Key) uint64 {
	seq := uint64(len(m.f.Entries))
	m.f.Entries = append(m.f.Entries, history.Entry{Sequence: seq, Hash: hashOf(seq), Key: k, Kind: "note"})
	m.places[k] = seq
	return seq
}

// run takes so many steps and ends the history.
func (m *machine) run(steps int) (*history.History, *history.Final) {
	for range steps {
		m.now += time.Duration(m.draw(3)) * 10 * time.Millisecond // often none: instants are shared
		m.step()
	}
	for c, w := range m.busy {
		if w != nil {
			m.end(c, history.Unknown)
		}
	}
	return m.finish()
}

func (m *machine) finish() (*history.History, *history.Final) {
	for ; m.next < uint64(len(m.f.Entries)); m.next++ {
		m.deliver()
	}
	m.h.Watches = []history.Watch{{ID: 1, From: 0, Until: uint64(len(m.f.Entries))}}
	m.h.Length = m.now + time.Millisecond
	f := &m.f
	f.Size = uint64(len(f.Entries))
	f.RootAt = func(n uint64) (chain.Hash, error) { return rootOf(n), nil }
	for _, node := range []string{"n1", "n2", "n3"} {
		f.Replicas = append(f.Replicas, history.Replica{Node: node, Size: f.Size, Hash: hashOf(f.Size - 1), Root: rootOf(f.Size), Digest: chain.Hash{7}, Verdicts: 3})
	}
	return &m.h, f
}

func (m *machine) deliver() {
	m.h.Deliveries = append(m.h.Deliveries, history.Delivery{Watch: 1, At: m.now, Sequence: m.next, Hash: hashOf(m.next)})
}

func (m *machine) step() {
	switch m.draw(12) {
	case 0:
		m.seal(chain.Key{Workspace: "system", Source: "exonode", ID: fmt.Sprint(m.now, len(m.f.Entries))})
		return
	case 1:
		if m.next < uint64(len(m.f.Entries)) {
			m.deliver()
			m.next++
		}
		return
	case 2:
		if len(m.loose) > 0 {
			m.apply(m.loose[0])
			m.loose = m.loose[1:]
		}
		return
	}
	c := m.draw(clients)
	w := m.busy[c]
	switch {
	case w == nil:
		m.busy[c] = m.begin(c)
	case !w.done:
		if w.op.Kind != history.Append || m.draw(5) > 0 {
			m.apply(w)
			return
		}
		if m.draw(2) == 0 {
			m.end(c, history.Failed)
			return
		}
		m.loose = append(m.loose, w)
		m.end(c, history.Unknown)
	case w.op.Kind == history.Append && m.draw(6) == 0:
		m.end(c, history.Unknown) // it stands, and nobody heard
	default:
		m.end(c, history.OK)
	}
}

func (m *machine) begin(c int) *want {
	w := &want{op: history.Op{Client: c, Call: m.now}}
	op := &w.op
	op.Kind = []history.Kind{history.Append, history.Append, history.Append, history.Head, history.Lookup, history.Get}[m.draw(6)]
	if op.Kind == history.Append {
		if len(m.retries) > 0 && m.draw(2) == 0 {
			op.Key, m.retries = m.retries[0], m.retries[1:]
			return w
		}
		m.keys++
		op.Key = keyOf(m.keys)
		return w
	}
	op.Consistency = []history.Consistency{history.Linearizable, history.Linearizable, history.Session, history.Stale}[m.draw(4)]
	op.Key = keyOf(1 + m.draw(m.keys+1))
	op.Sequence = uint64(m.draw(len(m.f.Entries) + 2))
	return w
}

// apply has an operation take effect now.
func (m *machine) apply(w *want) {
	w.done = true
	op := &w.op
	size := uint64(len(m.f.Entries))
	if op.Kind == history.Append {
		seq, known := m.places[op.Key]
		if !known {
			seq = m.seal(op.Key)
		}
		op.Sequence, op.Hash, op.Duplicate = seq, hashOf(seq), known
		return
	}
	// What is not linearizable is answered from the past: a session's from no
	// earlier than its client has seen.
	switch op.Consistency {
	case history.Session:
		size = m.seen[op.Client] + uint64(m.draw(int(size-m.seen[op.Client])+1))
	case history.Stale:
		size = uint64(m.draw(int(size) + 1))
	}
	switch op.Kind {
	case history.Head:
		op.Key, op.Sequence, op.Size = chain.Key{}, 0, size
		if size > 0 {
			op.HeadHash, op.Root = hashOf(size-1), rootOf(size)
		}
	case history.Lookup:
		op.Sequence = 0
		if seq, known := m.places[op.Key]; known && seq < size {
			op.Found, op.Sequence, op.Hash = true, seq, hashOf(seq)
		}
	case history.Get:
		op.Key = chain.Key{}
		if op.Sequence < size {
			op.Hash = hashOf(op.Sequence)
		} else {
			op.Code = "not_found"
		}
	}
}

// end returns an operation to its client.
func (m *machine) end(c int, as history.Outcome) {
	op := m.busy[c].op
	m.busy[c] = nil
	op.Outcome, op.Return = as, m.now
	if as != history.OK {
		op.Sequence, op.Hash, op.Duplicate, op.Found, op.Size, op.HeadHash, op.Root, op.Code = 0, chain.Hash{}, false, false, 0, chain.Hash{}, chain.Hash{}, ""
		if op.Kind == history.Append {
			m.retries = append(m.retries, op.Key)
		}
	} else {
		switch {
		case op.Code == "not_found":
			op.Outcome = history.Failed
		case op.Kind == history.Head:
			m.seen[c] = max(m.seen[c], op.Size)
		case op.Kind == history.Append || op.Kind == history.Get || op.Found:
			m.seen[c] = max(m.seen[c], op.Sequence+1)
		}
	}
	m.h.Ops = append(m.h.Ops, op)
}

// random makes a correct history out of rapid's numbers.
func random(t *rapid.T, steps int) (*history.History, *history.Final) {
	n := rapid.IntRange(0, 1<<20)
	return newMachine(func(k int) int { return n.Draw(t, "n") % k }).run(steps)
}

// small asks for little, so that short histories pass.
var small = check.Limits{Least: map[history.Kind]int{}}

// failed returns the names of the verdicts that say no, but for those that looked at
// nothing.
func failed(vs []history.Verdict) (names []string) {
	for _, v := range vs {
		if !v.OK && (v.Checked > 0 || len(v.Evidence) > 1) {
			names = append(names, v.Name)
		}
	}
	return names
}

func TestCorrectHistoriesPass(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h, f := random(t, rapid.IntRange(1, 400).Draw(t, "steps"))
		for _, v := range check.All(h, f, small) {
			if !v.OK && v.Checked > 0 && v.Name != check.Progress {
				t.Errorf("%s: %v", v.Name, v.Evidence)
			}
		}
	})
}

func TestPorcupineAgrees(t *testing.T) {
	tally := make(map[porcupine.CheckResult]int)
	rapid.Check(t, func(t *rapid.T) {
		h, f := random(t, rapid.IntRange(40, 160).Draw(t, "steps"))
		h.Deliveries = nil // Porcupine is not told of them
		n := rapid.IntRange(0, 1<<20)
		for range n.Draw(t, "changes") % 12 {
			if len(h.Ops) == 0 {
				return
			}
			op := &h.Ops[n.Draw(t, "which")%len(h.Ops)]
			by := time.Duration(n.Draw(t, "by")%30) * 10 * time.Millisecond
			switch n.Draw(t, "how") % 4 {
			case 0:
				if op.Kind == history.Head {
					op.Size = uint64(n.Draw(t, "size") % (len(f.Entries) + 1))
				}
			case 1:
				op.Found = false
			case 2:
				op.Call += by
				op.Return += by
			case 3:
				op.Call = max(0, op.Call-by)
				op.Return = max(op.Call, op.Return-by)
			}
		}
		slices.SortStableFunc(h.Ops, func(a, b history.Op) int { return int(a.Return - b.Return) })
		ours, theirs := check.Judges(h, f)
		tally[theirs]++
		if ours != (theirs == porcupine.Ok) {
			t.Fatalf("we say %v, Porcupine says %v", ours, theirs)
		}
	})
	if tally[porcupine.Ok] == 0 || tally[porcupine.Illegal] == 0 {
		t.Errorf("all histories are alike: %v", tally)
	}
	t.Log(tally)
}
