package check

import (
	"maps"
	"slices"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
)

// heads checks every hash and root that a client was told, at any consistency, against
// the final chain: there never was another.
func (r *run) heads() history.Verdict {
	f := find(Heads, "Every head, entry, checkpoint and root that any client was told, at any consistency, is of the chain that all hold in the end.")
	told := make(map[uint64]int32) // of each size: the operation that told its root first
	for i := range r.h.Ops {
		op := &r.h.Ops[i]
		if op.Code == history.Disbelieved {
			f.Checked++
			f.wrong("the client itself refused the answer: %s", tell(op))
			continue
		}
		n, hash := shows(op), op.Hash
		if op.Kind == history.Head {
			hash = op.HeadHash
			if n > 0 && !op.Root.IsZero() {
				r.root(&f, told, i)
			}
		}
		if n == 0 {
			continue
		}
		f.Checked++
		if op.Kind == history.Checkpoint { // of which the root is all that it tells
			hash = r.hashAt(n)
			r.root(&f, told, i)
		}
		switch {
		case n > r.size():
			f.wrong("beyond the end: %s; the chain has %d entries", tell(op), r.size())
		case hash != r.f.Entries[n-1].Hash:
			f.wrong("another chain: %s with hash %s; entry %d of the final chain has %s", tell(op), short(hash), n-1, short(r.f.Entries[n-1].Hash))
		}
	}
	r.roots(&f, told)
	f.note("%d heads, entries, checkpoints and acknowledgements; roots at %d sizes", f.Checked, len(told))
	return f.verdict()
}

// hashAt is the hash of the last of n entries; zero where there are fewer.
func (r *run) hashAt(n uint64) (hash chain.Hash) {
	if n > 0 && n <= r.size() {
		hash = r.f.Entries[n-1].Hash
	}
	return hash
}

// root compares the root that a head told with the one that was told first.
func (r *run) root(f *finding, told map[uint64]int32, i int) {
	op := &r.h.Ops[i]
	first, known := told[op.Size]
	switch {
	case !known:
		told[op.Size] = int32(i)
	case r.h.Ops[first].Root != op.Root:
		f.wrong("two roots: %s told %s, and %s told %s", tell(&r.h.Ops[first]), short(r.h.Ops[first].Root), tell(op), short(op.Root))
	}
}

// roots compares what was told first with the final tree.
func (r *run) roots(f *finding, told map[uint64]int32) {
	if len(told) > 0 && r.f.RootAt == nil {
		f.wrong("roots were told at %d sizes, and there is no tree to compare them with", len(told))
		return
	}
	for _, size := range slices.Sorted(maps.Keys(told)) {
		if size > r.size() {
			continue // said already
		}
		op := &r.h.Ops[told[size]]
		root, err := r.f.RootAt(size)
		switch {
		case err != nil:
			f.wrong("no root at size %d to compare with: %v", size, err)
		case root != op.Root:
			f.wrong("another tree: %s told root %s; the final tree has %s", tell(op), short(op.Root), short(root))
		}
	}
}

// watches checks what was delivered. Entries beyond a watch's Until may come, in order.
func (r *run) watches() history.Verdict {
	f := find(Watches, "A watch delivers each entry once, in order, over failures of nodes and changes of the leader.")
	type state struct {
		from, until, next uint64
		recorded          bool
	}
	states := make(map[int]*state)
	for _, w := range r.h.Watches {
		states[w.ID] = &state{from: w.From, until: w.Until, next: w.From, recorded: true}
		for _, why := range w.Disbelieved {
			f.wrong("disbelieved: a node sent watch %d what its client refused: %s", w.ID, why)
		}
	}
	for i := range r.h.Deliveries {
		d := &r.h.Deliveries[i]
		f.Checked++
		w := states[d.Watch]
		if w == nil {
			w = &state{from: d.Sequence, next: d.Sequence}
			states[d.Watch] = w
		}
		switch {
		case d.Sequence < w.next:
			f.wrong("again: watch %d delivered entry %d at %s, and was at %d already", d.Watch, d.Sequence, at(d.At), w.next)
		case d.Sequence > w.next:
			f.wrong("skipped: watch %d delivered entry %d at %s, where entry %d is next", d.Watch, d.Sequence, at(d.At), w.next)
		}
		w.next = max(w.next, d.Sequence+1)
		switch {
		case d.Sequence >= r.size():
			f.wrong("beyond the end: watch %d delivered entry %d at %s; the chain has %d entries", d.Watch, d.Sequence, at(d.At), r.size())
		case d.Hash != r.f.Entries[d.Sequence].Hash:
			f.wrong("another chain: watch %d delivered entry %d at %s with hash %s; the final chain has %s", d.Watch, d.Sequence, at(d.At), short(d.Hash), short(r.f.Entries[d.Sequence].Hash))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(states)) {
		switch w := states[id]; {
		case !w.recorded:
			f.wrong("watch %d delivered entries %d to %d, and it was not recorded how far it was to come", id, w.from, w.next-1)
		case w.next < w.until:
			f.wrong("stopped short: watch %d of entries from %d on came as far as %d of %d", id, w.from, w.next, w.until)
		}
	}
	f.note("%d watches, %d deliveries", len(states), f.Checked)
	return f.verdict()
}
