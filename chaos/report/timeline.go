package report

import (
	"slices"
	"time"

	"github.com/exonode/exonode/chaos/history"
)

// mends says which kinds of fault end a fault of which other kind, of the same nodes.
// heal is not here: it ends all that it concerns.
var mends = map[string][]string{
	"start":   {"kill", "crash"},
	"restart": {"kill", "crash"},
	"resume":  {"pause"},
	"cont":    {"pause"},
}

const heal = "heal"

// pair finds when each fault was mended. A heal ends what it says that it mends; else
// everything, or where it names nodes what concerns no others; a restart ends a kill or crash, and a resume a pause,
// of the nodes that it names. A fault of the same kind and the same nodes takes the
// place of the one before it.
func pair(recorded []history.Fault, length time.Duration) []Fault {
	recorded = slices.Clone(recorded)
	slices.SortStableFunc(recorded, func(a, b history.Fault) int { return int(a.At - b.At) })
	faults := []Fault{}
	var open []int
	var ids []int // history's, of the faults
	for _, r := range recorded {
		at := Seconds(min(max(0, r.At), max(0, length)))
		kinds, mending := mends[r.Kind]
		mending = mending || r.Kind == heal
		open = slices.DeleteFunc(open, func(i int) bool {
			f := &faults[i]
			var ends bool
			switch {
			case r.Mends > 0:
				ends = ids[i] == r.Mends
			case r.Moment:
			case r.Kind == heal:
				ends = len(r.Nodes) == 0 || len(f.Nodes) > 0 && subset(f.Nodes, r.Nodes)
			case mending:
				ends = slices.Contains(kinds, f.Kind) && (len(r.Nodes) == 0 || subset(f.Nodes, r.Nodes))
			default:
				ends = f.Kind == r.Kind && slices.Equal(f.Nodes, r.Nodes)
			}
			if ends {
				f.Until, f.Mended = at, true
			}
			return ends
		})
		if mending {
			continue
		}
		f := Fault{Interval: Interval{at, Seconds(max(0, length))}, Kind: r.Kind, Text: r.Text, Nodes: r.Nodes}
		if r.Moment {
			f.Until, f.Mended = at, true
		} else {
			open = append(open, len(faults))
		}
		faults, ids = append(faults, f), append(ids, r.ID)
	}
	return faults
}

// subset reports whether all of a are in b.
func subset(a, b []string) bool {
	for _, s := range a {
		if !slices.Contains(b, s) {
			return false
		}
	}
	return true
}

// faultKinds are the kinds of faults, in the order in which they came first.
func faultKinds(faults []Fault) []string {
	var kinds []string
	for i := range faults {
		if !slices.Contains(kinds, faults[i].Kind) {
			kinds = append(kinds, faults[i].Kind)
		}
	}
	return kinds
}

// sampleInterval is the time that sample i stands for: until the next one.
func sampleInterval(samples []history.Sample, i int, length time.Duration) Interval {
	until := max(length, samples[i].At)
	if i+1 < len(samples) {
		until = samples[i+1].At
	}
	return Interval{Seconds(samples[i].At), Seconds(until)}
}

// states are what the nodes were, from samples in order of time.
func states(samples []history.Sample, length time.Duration) []State {
	byNode := make(map[string][]State)
	var order []string
	for i := range samples {
		in := sampleInterval(samples, i, length)
		for _, n := range samples[i].Nodes {
			now := State{Interval: in, Node: n.Name, State: Follows}
			switch {
			case !n.Up:
				now.State = Down
			case !n.Answered:
				now.State = Silent
			case n.Leads:
				now.State, now.Term = Leads, n.Term
			}
			list, known := byNode[n.Name]
			if !known {
				order = append(order, n.Name)
			}
			if k := len(list) - 1; k >= 0 && list[k].Until == in.From && list[k].State == now.State && list[k].Term == now.Term {
				list[k].Until = in.Until
				continue
			}
			byNode[n.Name] = append(list, now)
		}
	}
	all := []State{}
	for _, name := range order {
		all = append(all, byNode[name]...)
	}
	return all
}

// cuts are the times in which the same links were cut.
func cuts(samples []history.Sample, length time.Duration) []Cut {
	list := []Cut{}
	for i := range samples {
		in := sampleInterval(samples, i, length)
		links := 0
		for _, to := range samples[i].Cut {
			links += len(to)
		}
		if links == 0 {
			continue
		}
		if k := len(list) - 1; k >= 0 && list[k].Until == in.From && list[k].Links == links && sameCut(list[k].Cut, samples[i].Cut) {
			list[k].Until = in.Until
			continue
		}
		list = append(list, Cut{Interval: in, Cut: samples[i].Cut, Links: links})
	}
	return list
}

// sameCut reports whether a and b, which cut as many links, cut the same.
func sameCut(a, b map[string][]string) bool {
	for from, to := range a {
		if !subset(to, b[from]) {
			return false
		}
	}
	return true
}

// terms counts the terms that somebody was seen to lead, but for the first, and by
// how much the term grew.
func terms(samples []history.Sample) (elections int, grew uint64) {
	led := make(map[uint64]bool)
	var low, high uint64
	for i := range samples {
		for _, n := range samples[i].Nodes {
			if !n.Answered || n.Term == 0 {
				continue
			}
			if low == 0 || n.Term < low {
				low = n.Term
			}
			high = max(high, n.Term)
			if n.Leads {
				led[n.Term] = true
			}
		}
	}
	return max(0, len(led)-1), high - low
}
