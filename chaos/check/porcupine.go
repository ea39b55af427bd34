package check

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/exonode/exonode/chaos/history"
)

// Porcupine judges parts of the history that are small enough for it, as somebody
// else's checker beside our own, and draws them. Any selection of operations may be
// judged by itself: what the others did is taken to have happened wherever it helps.

const (
	// windowOps is how many operations Porcupine is given at once, and windowTime
	// for how long it may think.
	windowOps  = 60
	windowTime = 500 * time.Millisecond
	// windowsAtFaults and windowsBetween are how many windows begin at a fault, and
	// at times spread over the run.
	windowsAtFaults, windowsBetween = 6, 4
)

// step is one operation on the log, as the model takes it.
type step struct {
	does action
	// n is the entry that is appended, or the size that is seen.
	n  uint64
	op *history.Op
}

type action int

const (
	appends action = iota // entry n, where the log has n entries
	exactly               // sees a log of n entries
	atLeast               // sees n entries or more
	atMost                // sees n entries or less
)

// model is a log whose state is its length. owned are the entries that operations of the
// window append, sorted: the log grows past any other entry by itself.
func model(start uint64, owned []uint64) porcupine.Model {
	// reach returns whether the log can grow from a size to another by entries
	// that are nobody's.
	reach := func(from, to uint64) bool {
		i, _ := slices.BinarySearch(owned, from)
		return from <= to && (i == len(owned) || owned[i] >= to)
	}
	return porcupine.Model{
		Init: func() any { return start },
		Step: func(state, input, _ any) (bool, any) {
			size, s := state.(uint64), input.(step)
			switch s.does {
			case appends:
				return reach(size, s.n), s.n + 1
			case exactly:
				return reach(size, s.n), s.n
			case atLeast:
				// To grow no further than it must leaves the most open.
				return size >= s.n || reach(size, s.n), max(size, s.n)
			}
			return size <= s.n, size
		},
		DescribeOperation: func(input, _ any) string { return tell(input.(step).op) },
		DescribeState:     func(state any) string { return fmt.Sprintf("%d entries", state) },
	}
}

// steps returns what an operation did on the log, and until when it may have done it;
// false where it says nothing.
func (r *run) step(i int32) (s step, until time.Duration, ok bool) {
	op := &r.h.Ops[i]
	s, until = step{op: op}, op.Return
	if op.Kind == history.Append {
		e := &r.events[r.eventOf[i]]
		switch {
		case e.times != 1:
			return s, 0, false // other checkers say so, or it never happened
		case e.tried == i:
			// Of several tries the first call and the first
			// acknowledgement bound the one append.
			s.does, s.n, until = appends, e.first, math.MaxInt64
			if e.acked != none {
				until = r.h.Ops[e.acked].Return
			}
			return s, until, true
		}
	}
	n, has := r.hides(int(i)), shows(op)
	switch {
	case op.Consistency == history.Linearizable && op.Kind == history.Head && op.Outcome == history.OK:
		s.does, s.n = exactly, op.Size
	case op.Consistency == history.Linearizable && n != absent:
		s.does, s.n = atMost, n
	case has > 0:
		s.does, s.n = atLeast, has
	default:
		return s, 0, false
	}
	return s, until, true
}

// window is a selection of operations, in the order of their calls.
type window struct {
	name string
	ops  []int32
}

// porcupine judges windows at faults, others spread over the run, and one with the
// operations of a conflict, and draws what is wrong, or else the window with the most
// going on.
func (r *run) porcupine(c *conflict) (history.Verdict, map[string][]byte) {
	f := find(Porcupine, "Porcupine finds an order of the operations that a log explains, in each of some windows of the history.")
	pictures := make(map[string][]byte)
	windows := r.windows(c)
	busiest, most := -1, 0
	undecided := 0
	for i, w := range windows {
		m, ops, busy := r.prepare(w)
		if len(ops) == 0 {
			continue
		}
		switch result := porcupine.CheckOperationsTimeout(m, ops, windowTime); result {
		case porcupine.Unknown:
			undecided++
		case porcupine.Illegal:
			f.Checked += len(ops)
			f.wrong("no order explains the %d operations of the window %s", len(ops), w.name)
			if page := draw(m, ops); page != nil && len(pictures) < 3 {
				pictures["porcupine-"+fmt.Sprint(len(pictures)+1)] = page
			}
		default:
			f.Checked += len(ops)
			if busy > most {
				busiest, most = i, busy
			}
		}
	}
	if len(pictures) == 0 && busiest >= 0 {
		m, ops, _ := r.prepare(windows[busiest])
		if page := draw(m, ops); page != nil {
			pictures["porcupine"] = page
		}
		f.note("drawn: the window %s", windows[busiest].name)
	}
	f.note("%d windows of up to %d operations, of which %d took too long to decide", len(windows), windowOps, undecided)
	return f.verdict(), pictures
}

// draw returns Porcupine's page, nil where it draws none in time.
func draw(m porcupine.Model, ops []porcupine.Operation) []byte {
	result, info := porcupine.CheckOperationsVerbose(m, ops, windowTime)
	if result == porcupine.Unknown {
		return nil
	}
	var page bytes.Buffer
	if err := porcupine.Visualize(m, info, &page); err != nil {
		return nil // the verdict stands without its picture
	}
	return page.Bytes()
}

// windows chooses what to judge.
func (r *run) windows(c *conflict) []window {
	var byCall []int32
	for i := range r.h.Ops {
		if _, _, ok := r.step(int32(i)); ok {
			byCall = append(byCall, int32(i))
		}
	}
	call := func(i int32) time.Duration { return r.h.Ops[i].Call }
	slices.SortStableFunc(byCall, func(a, b int32) int { return cmp.Compare(call(a), call(b)) })
	from := func(t time.Duration) int {
		i, _ := slices.BinarySearchFunc(byCall, t, func(i int32, t time.Duration) int { return cmp.Compare(call(i), t) })
		return max(0, min(i, len(byCall)-windowOps))
	}
	cut := func(start, n int) []int32 { return slices.Clone(byCall[start:min(start+n, len(byCall))]) }
	var all []window
	if c != nil {
		w := window{name: "of a conflict"}
		if c.late.op != none {
			w.ops = cut(max(0, from(c.late.at)-windowOps/2), windowOps-2)
			w.ops = append(w.ops, c.late.op)
		}
		if c.early.op != none {
			w.ops = append(w.ops, c.early.op)
		}
		slices.Sort(w.ops)
		w.ops = slices.Compact(w.ops)
		slices.SortStableFunc(w.ops, func(a, b int32) int { return cmp.Compare(call(a), call(b)) })
		all = append(all, w)
	}
	taken := make(map[int]bool)
	add := func(t time.Duration, what string) {
		start := from(t)
		if len(byCall) == 0 || taken[start] {
			return
		}
		taken[start] = true
		ops := cut(start, windowOps)
		all = append(all, window{fmt.Sprintf("from %s on, %s", at(call(ops[0])), what), ops})
	}
	n := len(r.h.Faults)
	for i := range min(n, windowsAtFaults) {
		fault := &r.h.Faults[i*n/min(n, windowsAtFaults)]
		add(fault.At, "at "+fault.Kind)
	}
	for i := range windowsBetween {
		add(r.h.Length*time.Duration(i)/windowsBetween, "by the clock")
	}
	return all
}

// prepare makes Porcupine's operations of a window. busy is how many touch the one
// before them.
func (r *run) prepare(w window) (m porcupine.Model, ops []porcupine.Operation, busy int) {
	if len(w.ops) == 0 {
		return m, nil, 0
	}
	return r.prepareFrom(w, r.before(r.h.Ops[w.ops[0]].Call))
}

// prepareFrom is prepare on a log of so many entries.
func (r *run) prepareFrom(w window, start uint64) (m porcupine.Model, ops []porcupine.Operation, busy int) {
	var end time.Duration
	for _, i := range w.ops {
		end = max(end, r.h.Ops[i].Call, r.h.Ops[i].Return)
	}
	var owned []uint64
	var lanes []lane
	for _, i := range w.ops {
		s, until, ok := r.step(i)
		if !ok {
			continue
		}
		if s.does == appends {
			owned = append(owned, s.n)
		}
		// What may happen yet may happen after all that is in the window.
		until = min(until, end+1)
		if len(ops) > 0 && int64(s.op.Call) <= ops[len(ops)-1].Return {
			busy++
		}
		ops = append(ops, porcupine.Operation{
			ClientId: place(&lanes, s.op, until), Input: s, Call: int64(s.op.Call), Return: int64(until),
		})
	}
	slices.Sort(owned)
	return model(start, owned), ops, busy
}

// before returns how many entries the log had, at least, before a time, by what was
// acknowledged or seen.
func (r *run) before(t time.Duration) uint64 {
	size := uint64(0)
	for i := range r.h.Ops {
		if op := &r.h.Ops[i]; op.Return < t {
			size = max(size, shows(op))
		}
	}
	return size
}

// lane is a line of the picture: a client's, or one more of a client whose operations
// overlap.
type lane struct {
	client int
	until  time.Duration
}

func place(lanes *[]lane, op *history.Op, until time.Duration) int {
	for i := range *lanes {
		if l := &(*lanes)[i]; l.client == op.Client && l.until < op.Call {
			l.until = until
			return i
		}
	}
	*lanes = append(*lanes, lane{op.Client, until})
	return len(*lanes) - 1
}
