package check

import (
	"fmt"
	"math"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chaos/history"
)

// The complete check of an append-only log.
//
// A history is linearizable if each operation can be given one moment between its call
// and its return, such that the answers are those of a log on which the operations
// happened one by one. The final chain says in which order the entries came, so all that
// is open is when: a moment x[q] for each entry q, x[0] <= x[1] <= and so on. What
// clients were told bounds them:
//
//   - an append of entry q that was called at c, and acknowledged at r: c <= x[q] <= r;
//   - an answer that shows entry q (a head of size q+1, an entry, a lookup that found it,
//     an acknowledgement of a duplicate), which came at r: x[q] <= r;
//   - an answer to a linearizable read that does not show entry q (a head of size q, no
//     such entry, a lookup that found nothing), which was called at c: c <= x[q].
//
// They suffice. A read that saw q+1 entries and no more needs a moment in [c, r] that is
// neither before x[q] nor after x[q+1]; as x[q] <= x[q+1] there is one just where
// x[q] <= r and c <= x[q+1]. So the history is linearizable if and only if there are
// x in order within their bounds, and there are if and only if no entry's latest moment
// is before the earliest moment of an entry that stands before it, or of itself: one pass.
//
// Session and stale reads, and watches, may be answered from the past, so that what they
// do not show bounds nothing; but what they show was there.
//
// An interval includes its ends: two operations that touch are concurrent.

// bound is when an entry was there at the latest, or not yet at the earliest, and what
// told so: an operation, or, with op none, a delivery.
type bound struct {
	at           time.Duration
	op, delivery int32
}

// bounds has those of each entry.
type bounds struct {
	earliest, latest []bound
}

func newBounds(n uint64) bounds {
	b := bounds{make([]bound, n), make([]bound, n)}
	for q := range b.earliest {
		b.earliest[q] = bound{math.MinInt64, none, none}
		b.latest[q] = bound{math.MaxInt64, none, none}
	}
	return b
}

// absentAt says that an entry was not there before a time.
func (b bounds) absentAt(q uint64, t time.Duration, op int) {
	if q < uint64(len(b.earliest)) && t > b.earliest[q].at {
		b.earliest[q] = bound{t, int32(op), none}
	}
}

// thereBy says that an entry was there by a time.
func (b bounds) thereBy(q uint64, by bound) {
	if q < uint64(len(b.latest)) && by.at < b.latest[q].at {
		b.latest[q] = by
	}
}

// conflict is two bounds that no order of the operations satisfies: entry later was
// there by the time early, and entry earlier, which stands before it or is it, came after
// that.
type conflict struct {
	earlier, later uint64
	late, early    bound
}

// conflicts calls found for bounds that contradict one another, once for each entry that
// came too late.
func (b bounds) conflicts(found func(conflict)) {
	late, earlier, told := bound{at: math.MinInt64}, uint64(0), false
	for q := range b.latest {
		if b.earliest[q].at > late.at {
			late, earlier, told = b.earliest[q], uint64(q), false
		}
		if early := b.latest[q]; late.at > early.at && !told {
			told = true
			found(conflict{earlier, uint64(q), late, early})
		}
	}
}

// appends bounds the entries by the appends of clients.
func (r *run) appends() bounds {
	b := newBounds(r.size())
	for i := range r.events {
		e := &r.events[i]
		if e.first == absent {
			continue
		}
		if e.tried != none {
			b.absentAt(e.first, r.h.Ops[e.tried].Call, int(e.tried))
		}
		if e.acked != none {
			b.thereBy(e.first, bound{r.h.Ops[e.acked].Return, e.acked, none})
		}
	}
	return b
}

// realTimeOrder checks the order of appends. An event's append is over once the first of
// its tries is acknowledged, and begins with the first that may have had an effect.
func (r *run) realTimeOrder() history.Verdict {
	f := find(RealTimeOrder, "An event that was acknowledged before another was sent stands before it.")
	for i := range r.events {
		if r.events[i].acked != none {
			f.Checked++
		}
	}
	r.appends().conflicts(func(c conflict) {
		f.wrong("entry %d, %s, began after entry %d, %s, was acknowledged", c.earlier, tell(&r.h.Ops[c.late.op]), c.later, tell(&r.h.Ops[c.early.op]))
	})
	return f.verdict()
}

// linearizable checks linearizable reads, beside what all answers show. It also returns
// the first conflict.
func (r *run) linearizable() (history.Verdict, *conflict) {
	f := find(Linearizable, "Linearizable reads see all that was acknowledged or seen before them, and nothing that was not sent yet.")
	b := r.appends()
	counts := make(map[history.Kind]int)
	for i := range r.h.Ops {
		op := &r.h.Ops[i]
		if n := shows(op); n > 0 && op.Kind != history.Append {
			r.shown(&f, i, n)
			b.thereBy(n-1, bound{op.Return, int32(i), none})
		} else if n > 0 {
			b.thereBy(n-1, bound{op.Return, int32(i), none})
		}
		if op.Consistency != history.Linearizable || op.Kind == history.Append || op.Kind == history.Member {
			continue
		}
		if op.Outcome != history.OK && !missing(op) {
			continue
		}
		f.Checked++
		counts[op.Kind]++
		if n := r.hides(i); n != absent {
			b.absentAt(n, op.Call, i)
		}
	}
	for i := range r.h.Deliveries {
		d := &r.h.Deliveries[i]
		b.thereBy(d.Sequence, bound{d.At, none, int32(i)})
	}
	var first *conflict
	b.conflicts(func(c conflict) {
		if first == nil {
			first = &c
		}
		f.wrong("entry %d was not there before %s, by %s; yet entry %d was there by %s, by %s",
			c.earlier, at(c.late.at), r.source(c.late), c.later, at(c.early.at), r.source(c.early))
	})
	f.note("%d heads, %d lookups, %d entries read", counts[history.Head], counts[history.Lookup], counts[history.Get])
	return f.verdict(), first
}

// shown holds a read of any consistency to the final chain, where it shows more than the
// chain has, or another event than the one that was asked for.
func (r *run) shown(f *finding, i int, n uint64) {
	op := &r.h.Ops[i]
	if n > r.size() {
		f.wrong("%s; the chain has %d entries in the end", tell(op), r.size())
		return
	}
	if op.Kind != history.Lookup {
		return
	}
	// Of an event that was denied, or waits, a lookup finds the entry that says so.
	if e := &r.f.Entries[n-1]; e.Key != op.Key && !governance(e.Kind) {
		f.wrong("%s; that is %s", tell(op), name(e.Key))
	}
}

func (r *run) source(b bound) string {
	if b.op != none {
		return tell(&r.h.Ops[b.op])
	}
	d := &r.h.Deliveries[b.delivery]
	return fmt.Sprintf("watch %d (entry %d delivered at %s)", d.Watch, d.Sequence, at(d.At))
}

// governance reports whether entries of a kind stand for events that were not let in.
func governance(kind string) bool {
	return kind == catalog.KindGovernanceDeny || kind == catalog.KindGovernanceEscalate
}
