package check

import "github.com/exonode/exonode/chaos/history"

// acknowledged checks each acknowledgement against the chain: that the event stands
// once, where its client was told, under the hash that it was told.
//
// Each of several acknowledged tries of one event is held to the same entry. At most
// one of them may have been told that it appended: the others found it there.
func (r *run) acknowledged() history.Verdict {
	f := find(Acknowledged, "Each acknowledged event stands in the chain exactly once, at the sequence and hash that its client was told.")
	duplicates := 0
	for i := range r.h.Ops {
		op := &r.h.Ops[i]
		if op.Kind != history.Append || op.Outcome != history.OK {
			continue
		}
		f.Checked++
		if op.Duplicate {
			duplicates++
		}
		e := &r.events[r.eventOf[i]]
		switch {
		case e.times == 0 && op.Sequence >= r.size():
			f.wrong("lost: %s; the chain has %d entries, none of them of this key", tell(op), r.size())
		case e.times == 0:
			f.wrong("lost: %s; entry %d is of %s", tell(op), op.Sequence, name(r.f.Entries[op.Sequence].Key))
		case e.times > 1:
			f.wrong("doubled: %s; it stands %d times, at %d and %d first", tell(op), e.times, e.first, e.second)
		case e.first != op.Sequence:
			f.wrong("moved: %s; it stands at %d", tell(op), e.first)
		case r.f.Entries[e.first].Hash != op.Hash:
			f.wrong("another hash: %s; it was told %s, and the chain has %s", tell(op), short(op.Hash), short(r.f.Entries[e.first].Hash))
		}
	}
	for i := range r.events {
		if e := &r.events[i]; e.again != none {
			f.wrong("appended twice: %s and %s; neither was told that it is a duplicate", tell(&r.h.Ops[e.fresh]), tell(&r.h.Ops[e.again]))
		}
	}
	f.note("%d acknowledgements, %d of them of duplicates", f.Checked, duplicates)
	return f.verdict()
}

// atMostOnce checks what clients can't know, against the chain: an event stands once or
// not at all, and not at all where each of its tries certainly failed. A failed try
// beside one whose outcome is unknown, or which was acknowledged, had no effect itself,
// and says nothing of the other.
func (r *run) atMostOnce() history.Verdict {
	f := find(AtMostOnce, "No event stands twice, and none stands that certainly failed each time it was tried.")
	unknown, kept, failed := 0, 0, 0
	for i := range r.events {
		e := &r.events[i]
		if e.tried == none && e.failed == none {
			continue // only looked up
		}
		f.Checked++
		one := e.tried
		switch {
		case e.tried == none:
			failed++
			one = e.failed
			if e.times > 0 {
				f.wrong("failed, and stands: %s; it is entry %d", tell(&r.h.Ops[e.failed]), e.first)
			}
		case e.acked == none:
			unknown++
			if e.times > 0 {
				kept++
			}
		}
		if e.times > 1 {
			f.wrong("doubled: %s; it stands %d times, at %d and %d first", tell(&r.h.Ops[one]), e.times, e.first, e.second)
		}
	}
	f.note("%d events, %d of unknown outcome, of which %d stand; %d certainly failed", f.Checked, unknown, kept, failed)
	return f.verdict()
}
