package check

import (
	"cmp"
	"slices"
	"time"

	"github.com/exonode/exonode/chaos/history"
)

// session checks session reads, of each client by itself: they show all that the client
// was told before, by whatever operation, its own appends included.
func (r *run) session() history.Verdict {
	f := find(Session, "A client's session reads see what it was told before, its own events included, at whatever node it asks.")
	clients := make(map[int][]int32)
	for i := range r.h.Ops {
		if op := &r.h.Ops[i]; op.Consistency == history.Session && (op.Outcome == history.OK || missing(op)) {
			clients[op.Client] = nil
		}
	}
	for i := range r.h.Ops {
		if ops, reads := clients[r.h.Ops[i].Client]; reads {
			clients[r.h.Ops[i].Client] = append(ops, int32(i))
		}
	}
	names := make([]int, 0, len(clients))
	for name := range clients {
		names = append(names, name)
	}
	slices.Sort(names) // the same history gives the same evidence
	for _, name := range names {
		r.sessionOf(clients[name], &f)
	}
	f.note("%d clients", len(names))
	return f.verdict()
}

// most is the longest chain that a client was told of, and by which operation.
type most struct {
	size uint64
	op   int32
}

func (m *most) take(size uint64, op int32) {
	if size > m.size {
		m.size, m.op = size, op
	}
}

// sessionOf checks one client's operations, given in the order in which they were
// recorded.
func (r *run) sessionOf(client []int32, f *finding) {
	ops := r.h.Ops
	// What is on no stream follows what was recorded before it even where both
	// happened in one instant, as they do in a simulation.
	follows := make(map[int32]most)
	var before most
	var last time.Duration
	for _, i := range client {
		if ops[i].Stream {
			continue
		}
		if before.size > 0 && last <= ops[i].Call && ops[i].Consistency == history.Session {
			follows[i] = before
		}
		before.take(shows(&ops[i]), i)
		last = max(last, ops[i].Return)
	}
	byCall := slices.Clone(client)
	slices.SortStableFunc(byCall, func(a, b int32) int { return cmp.Compare(ops[a].Call, ops[b].Call) })
	byReturn := client
	slices.SortStableFunc(byReturn, func(a, b int32) int { return cmp.Compare(ops[a].Return, ops[b].Return) })
	var over most // by operations that returned before the call
	next := 0
	for _, i := range byCall {
		op := &ops[i]
		for ; next < len(byReturn) && ops[byReturn[next]].Return < op.Call; next++ {
			over.take(shows(&ops[byReturn[next]]), byReturn[next])
		}
		if op.Consistency != history.Session || op.Outcome != history.OK && !missing(op) {
			continue
		}
		f.Checked++
		need := over
		if m := follows[i]; m.size > need.size {
			need = m
		}
		if had := r.hides(int(i)); had < need.size {
			f.wrong("%s was answered from at most %d entries, after %s", tell(op), had, tell(&ops[need.op]))
		}
	}
}
