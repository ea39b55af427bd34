package check

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exonode/exonode/chaos/history"
)

// Calm is the kind of the time before the first fault.
const Calm = "calm"

// phase is the time from one fault, or what mends it, to the next.
type phase struct {
	kind, text string
	from, to   time.Duration
}

// phases divides the run by its faults.
func (r *run) phases() []phase {
	p := phase{kind: Calm, text: "before the first fault", to: r.h.Length}
	var all []phase
	faults := slices.Clone(r.h.Faults)
	slices.SortStableFunc(faults, func(a, b history.Fault) int { return cmp.Compare(a.At, b.At) })
	for _, f := range faults {
		p.to = min(f.At, r.h.Length)
		if p.to > p.from {
			all = append(all, p)
		}
		p = phase{kind: f.Kind, text: f.Text, from: f.At, to: r.h.Length}
	}
	if p.to > p.from {
		all = append(all, p)
	}
	return all
}

// pace is how writes went for a time.
type pace struct {
	rate    float64 // acknowledged appends a second
	silence time.Duration
	since   time.Duration // when the silence began
}

// paceOf looks at the acknowledgements from one time to another; acks are the times of
// all, in order. The ends count: what is silent until the end was silent.
func paceOf(acks []time.Duration, from, to time.Duration) pace {
	lo, _ := slices.BinarySearch(acks, from)
	hi, _ := slices.BinarySearch(acks, to)
	p := pace{rate: float64(hi-lo) / (to - from).Seconds()}
	last := from
	for _, t := range append(acks[lo:hi:hi], to) {
		if t-last > p.silence {
			p.silence, p.since = t-last, last
		}
		last = t
	}
	return p
}

// shortest is how long a fault must last for its rate to mean something.
const shortest = time.Second

// progress checks that the cluster took writes, over all and under each fault: what does
// nothing is safe.
func (r *run) progress(l Limits) history.Verdict {
	f := find(Progress, "Writes go on: at no less than the least rate, and with no longer silence than the limits, over the whole run and under each fault.")
	var acks []time.Duration
	for i := range r.h.Ops {
		if op := &r.h.Ops[i]; op.Kind == history.Append && op.Outcome == history.OK {
			acks = append(acks, op.Return)
		}
	}
	f.Checked = len(acks)
	if r.h.Length <= 0 {
		f.wrong("the run has no length")
		return f.verdict()
	}
	slices.Sort(acks)
	over := paceOf(acks, 0, r.h.Length)
	f.hold("the whole run", phase{to: r.h.Length}, over, l.Overall)
	f.note("over all: %s appends/s, at most %v without one (from %s)", trim(over.rate), over.silence.Round(time.Millisecond), at(over.since))

	type worst struct {
		times   int
		rate    float64 // of those that lasted long enough
		held    int
		silence time.Duration
	}
	kinds := make(map[string]*worst)
	var order []string
	for _, ph := range r.phases() {
		p := paceOf(acks, ph.from, ph.to)
		f.hold(strings.TrimSpace(ph.kind+" ("+ph.text+")"), ph, p, l.ByKind[ph.kind].or(l.Fault))
		w := kinds[ph.kind]
		if w == nil {
			w = new(worst)
			kinds[ph.kind] = w
			order = append(order, ph.kind)
		}
		if ph.to-ph.from >= shortest {
			if w.held == 0 || p.rate < w.rate {
				w.rate = p.rate
			}
			w.held++
		}
		w.times++
		w.silence = max(w.silence, p.silence)
	}
	for _, kind := range order {
		w := kinds[kind]
		rate := "too short for a rate"
		if w.held > 0 {
			rate = trim(w.rate) + " appends/s at least"
		}
		f.note("%s, %d times: %s, at most %v without one", kind, w.times, rate, w.silence.Round(time.Millisecond))
	}
	return f.verdict()
}

// hold compares a time's pace with its bound.
func (f *finding) hold(what string, ph phase, p pace, b Bound) {
	if p.silence > b.Silence {
		f.wrong("%s, from %s to %s: no append was acknowledged for %v from %s on; the limit is %v", what, at(ph.from), at(ph.to), p.silence, at(p.since), b.Silence)
	}
	if ph.to-ph.from >= shortest && p.rate < b.Rate {
		f.wrong("%s, from %s to %s: %s appends/s were acknowledged; the least is %s", what, at(ph.from), at(ph.to), trim(p.rate), trim(b.Rate))
	}
}

// recovery checks that the cluster came back once everything was mended.
func (r *run) recovery() history.Verdict {
	f := find(Recovery, "Once everything is mended all nodes serve again, and a last event is taken.")
	f.Checked = len(r.f.Replicas) + len(r.f.Troubles)
	for _, trouble := range r.f.Troubles {
		f.wrong("%s", trouble)
	}
	f.note("%d nodes", len(r.f.Replicas))
	return f.verdict()
}

// trim writes a rate with one decimal.
func trim(rate float64) string { return strconv.FormatFloat(rate, 'f', 1, 64) }

// workload checks that there was enough of everything for the other checkers to judge.
func (r *run) workload(l Limits) history.Verdict {
	f := find(Workload, "Operations of each kind went well, as many as the limits ask for, and what was planned to go wrong did, at least half of it.")
	f.suffered(r.h)
	type count struct{ ok, failed, unknown int }
	counts := make(map[history.Kind]*count)
	reads := make(map[history.Consistency]int)
	for i := range r.h.Ops {
		op := &r.h.Ops[i]
		c := counts[op.Kind]
		if c == nil {
			c = new(count)
			counts[op.Kind] = c
		}
		switch op.Outcome {
		case history.OK:
			f.Checked++
			c.ok++
			if op.Consistency != "" {
				reads[op.Consistency]++
			}
		case history.Failed:
			c.failed++
		default:
			c.unknown++
		}
	}
	for _, kind := range history.Kinds() {
		var c count
		if counts[kind] != nil {
			c = *counts[kind]
		}
		if c.ok < l.Least[kind] {
			f.wrong("%s: %d went well, %d failed, %d are of unknown outcome; at least %d should go well", kind, c.ok, c.failed, c.unknown, l.Least[kind])
		}
		f.note("%s: %d went well, %d failed, %d of unknown outcome", kind, c.ok, c.failed, c.unknown)
	}
	f.note("reads: %d linearizable, %d session, %d stale", reads[history.Linearizable], reads[history.Session], reads[history.Stale])
	return f.verdict()
}

// suffered holds a run against its plan: it fails where no planned fault came to pass, or
// where fewer than half were done. A crash whose node did not come to its point was done,
// and did not come to pass; a change of the members that another one was in the way of is
// no part of the plan.
func (f *finding) suffered(h *history.History) {
	missed := make(map[history.Reason]int)
	first := ""
	for _, m := range h.Missed {
		missed[m.Reason]++
		if first == "" && m.Reason != history.Busy {
			first = m.Text + ": " + m.Why
		}
	}
	planned := h.Planned - missed[history.Busy]
	notDone, never := missed[history.NotDone], missed[history.NeverReached]
	switch {
	case planned <= 0:
		return
	case notDone+never >= planned:
		f.wrong("none of the %d planned faults came to pass; the first: %s", planned, first)
	case 2*notDone > planned:
		f.wrong("%d of the %d planned faults were not done, more than half; the first: %s", notDone, planned, first)
	}
	f.note("faults: %d planned, %d not done, %d crashes at points that no node came to, %d changes of the members beside another", h.Planned, notDone, never, missed[history.Busy])
}
