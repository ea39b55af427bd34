package check

import (
	"fmt"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
)

// run is a history and its end, read once for all checkers.
type run struct {
	h *history.History
	f *history.Final
	// events are the distinct keys that were appended or looked up; eventOf has
	// the place there of an operation's key, -1 where it has none, and standing
	// that of an entry's, -1 where no client named it.
	events   []event
	eventOf  []int32
	standing []int32
}

// event is all that was done under one key: one append, tried by any number of
// operations. A try that failed says nothing of the others.
type event struct {
	// first and second are the lowest sequences that the key stands at, absent
	// where there is none.
	first, second uint64
	// times is how often it stands in the chain.
	times int
	// tried is the try with the earliest call of those that may have had an
	// effect: the entry can't be older. acked is the acknowledged one with the
	// earliest return: the entry can't be younger. fresh is one that was told
	// that it appended, and failed one that certainly did not. -1 is none.
	tried, acked, fresh, failed int32
	// again is another that was told that it appended.
	again int32
}

const (
	absent = ^uint64(0)
	none   = int32(-1)
)

func read(h *history.History, f *history.Final) *run {
	if f == nil {
		f = new(history.Final)
	}
	r := &run{h: h, f: f, eventOf: make([]int32, len(h.Ops)), standing: make([]int32, len(f.Entries))}
	places := make(map[chain.Key]int32, len(h.Ops)/2)
	for i := range h.Ops {
		op := &h.Ops[i]
		if op.Kind != history.Append && op.Kind != history.Lookup {
			r.eventOf[i] = none
			continue
		}
		at, known := places[op.Key]
		if !known {
			at = int32(len(r.events))
			places[op.Key] = at
			r.events = append(r.events, event{first: absent, second: absent, tried: none, acked: none, fresh: none, failed: none, again: none})
		}
		r.eventOf[i] = at
		if op.Kind == history.Append {
			r.events[at].try(h.Ops, int32(i))
		}
	}
	for i := range f.Entries {
		at, known := places[f.Entries[i].Key]
		if !known {
			r.standing[i] = none
			continue
		}
		r.standing[i] = at
		e := &r.events[at]
		switch e.times++; e.times {
		case 1:
			e.first = uint64(i)
		case 2:
			e.second = uint64(i)
		}
	}
	return r
}

// try takes in one operation that appends the event.
func (e *event) try(ops []history.Op, i int32) {
	op := &ops[i]
	if op.Outcome == history.Failed {
		e.failed = i
		return
	}
	if e.tried == none || op.Call < ops[e.tried].Call {
		e.tried = i
	}
	if op.Outcome != history.OK {
		return
	}
	if e.acked == none || op.Return < ops[e.acked].Return {
		e.acked = i
	}
	switch {
	case op.Duplicate:
	case e.fresh == none:
		e.fresh = i
	default:
		e.again = i
	}
}

// size is how long the final chain is.
func (r *run) size() uint64 { return uint64(len(r.f.Entries)) }

// missing reports whether an operation is a Get that was told that the chain does not
// go so far.
func missing(op *history.Op) bool {
	return op.Kind == history.Get && op.Hash.IsZero() && (op.Outcome == history.OK || op.Outcome == history.Failed && op.Code == string(api.NotFound))
}

// shows returns how many entries the chain had, at least, as an operation was told.
func shows(op *history.Op) uint64 {
	switch {
	case op.Outcome != history.OK:
		return 0
	case op.Kind == history.Head, op.Kind == history.Checkpoint:
		return op.Size
	case op.Kind == history.Append, op.Kind == history.Lookup && op.Found, op.Kind == history.Get && !missing(op):
		return op.Sequence + 1
	}
	return 0
}

// hides returns how many entries the state that a read was answered from had at most,
// by the final chain; absent where it does not say.
func (r *run) hides(i int) uint64 {
	op := &r.h.Ops[i]
	switch {
	case missing(op):
		return op.Sequence
	case op.Outcome != history.OK:
		return absent
	case op.Kind == history.Head:
		return op.Size
	case op.Kind == history.Lookup && !op.Found:
		return r.events[r.eventOf[i]].first // absent where it never stood
	}
	return absent
}

// finding collects what a checker says.
type finding struct {
	history.Verdict
	more int
}

// maxEvidence is how many lines of evidence a verdict has; the first ones of a bug are
// the ones that explain it.
const maxEvidence = 20

func find(name, claim string) finding {
	return finding{Verdict: history.Verdict{Name: name, Claim: claim}}
}

// wrong adds a line of evidence.
func (f *finding) wrong(format string, args ...any) {
	if len(f.Evidence) == maxEvidence {
		f.more++
		return
	}
	f.Evidence = append(f.Evidence, fmt.Sprintf(format, args...))
}

// note adds a figure for people.
func (f *finding) note(format string, args ...any) {
	f.Notes = append(f.Notes, fmt.Sprintf(format, args...))
}

func (f *finding) verdict() history.Verdict {
	v := f.Verdict
	if f.more > 0 {
		v.Evidence = append(v.Evidence, fmt.Sprintf("and %d more", f.more))
	}
	if v.Checked == 0 {
		v.Evidence = append(v.Evidence, "there was nothing to look at")
	}
	v.OK = len(v.Evidence) == 0
	return v
}

// tell says what an operation was, for evidence.
func tell(op *history.Op) string {
	s := fmt.Sprintf("client %d's %s", op.Client, op.Kind)
	switch {
	case op.Kind == history.Append:
		s += " of " + name(op.Key)
	case op.Kind == history.Lookup:
		s = fmt.Sprintf("client %d's %s lookup of %s", op.Client, op.Consistency, name(op.Key))
	case op.Consistency != "":
		s = fmt.Sprintf("client %d's %s %s", op.Client, op.Consistency, op.Kind)
	}
	if op.Node != "" {
		s += " at " + op.Node
	}
	return fmt.Sprintf("%s (%s to %s: %s)", s, at(op.Call), at(op.Return), became(op))
}

// became says what an operation's client was told.
func became(op *history.Op) string {
	switch {
	case missing(op):
		return fmt.Sprintf("no entry %d", op.Sequence)
	case op.Outcome != history.OK && op.Code != "":
		return string(op.Outcome) + ", " + op.Code
	case op.Outcome != history.OK:
		return string(op.Outcome)
	case op.Kind == history.Head, op.Kind == history.Checkpoint:
		return fmt.Sprintf("size %d", op.Size)
	case op.Kind == history.Lookup && !op.Found:
		return "not found"
	case op.Duplicate:
		return fmt.Sprintf("entry %d, a duplicate", op.Sequence)
	case op.Kind == history.Member:
		return "ok"
	}
	return fmt.Sprintf("entry %d", op.Sequence)
}

func name(k chain.Key) string { return fmt.Sprintf("%s/%s/%s", k.Workspace, k.Source, k.ID) }

// at is a time of the run as people read it; a millionth of a second decides nothing
// for them, but the order of two operations.
func at(d time.Duration) string { return fmt.Sprintf("%.6fs", d.Seconds()) }

// short is the beginning of a hash.
func short(h chain.Hash) string { return h.String()[:12] }
