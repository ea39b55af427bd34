package report

import (
	"cmp"
	"maps"
	"slices"
	"sort"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
)

const (
	// maxBuckets is how many elements a series has at most.
	maxBuckets = 600
	// minCell and maxCells say how exactly times without a write are found: to
	// 10 ms, unless the run is longer than three quarters of an hour.
	minCell  = 10 * time.Millisecond
	maxCells = 1 << 18
	// maxLatency is the longest that is told from longer ones in percentiles.
	maxLatency = time.Hour
)

// widths are those that a bucket may have.
var widths = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute, time.Hour,
}

// Summarise computes what a report shows. It looks at each operation once, and
// changes nothing of r, but shares its slices.
func Summarise(r *history.Result) Summary {
	h := r.History
	if h == nil {
		h = &history.History{}
	}
	s := Summary{
		Format:   Format,
		Held:     r.Held(),
		Run:      Run{Title: r.Title, Command: r.Command, Seed: r.Seed, Version: r.Version, Began: r.Began, Length: Seconds(max(0, h.Length)), Nodes: nodeNames(r.Nodes, h.Samples), Joined: r.Joined},
		Verdicts: nonNil(r.Verdicts),
		Missed:   []Missed{},
		Pictures: slices.Sorted(maps.Keys(r.Pictures)),
		States:   states(h.Samples, h.Length),
		Cuts:     cuts(h.Samples, h.Length),
		Replicas: replicas(r.Final, h.Samples),
	}
	s.Pictures = nonNil(s.Pictures)

	t := newTally(h.Length)
	for i := range h.Ops {
		t.add(&h.Ops[i])
	}
	s.Series = t.series()
	s.Operations, s.Codes = t.operations(), t.codeList()
	gaps := t.gaps()
	s.Longest = longest(gaps)
	s.Faults = t.faults(h.Faults, gaps, s.Series)

	s.Counts.Duplicates = t.duplicates
	for _, o := range s.Operations {
		switch o.Kind {
		case history.Append:
			s.Counts.Acknowledged += o.OK
			s.Counts.Unknown += o.Unknown
			s.Counts.Failed += o.Failed
		case history.Head, history.Lookup, history.Get, history.Checkpoint:
			s.Counts.Reads += o.OK
		}
	}
	s.Counts.Watches, s.Counts.Deliveries = len(h.Watches), len(h.Deliveries)
	s.Counts.Faults = len(s.Faults)
	for _, m := range h.Missed {
		s.Missed = append(s.Missed, Missed{Seconds(m.At), m.Text, m.Why, m.Reason})
		if m.Reason == history.NeverReached {
			s.Counts.NeverReached++
		} else {
			s.Counts.NotDone++
		}
	}
	s.Counts.Elections, s.Counts.Terms = terms(h.Samples)
	if r.Final != nil {
		s.Counts.Chain = r.Final.Size
	}
	return s
}

// nodeNames are the run's nodes, and then those that only samples name.
func nodeNames(nodes []string, samples []history.Sample) []string {
	names := slices.Clone(nonNil(nodes))
	known := make(map[string]bool, len(names))
	for _, name := range names {
		known[name] = true
	}
	for i := range samples {
		for _, n := range samples[i].Nodes {
			if !known[n.Name] {
				known[n.Name] = true
				names = append(names, n.Name)
			}
		}
	}
	return names
}

// nonNil has JSON say [] rather than null.
func nonNil[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// tally collects operations.
type tally struct {
	length time.Duration
	width  time.Duration // of a bucket
	acked  []bucket
	// unknown and failed count appends, bucket by bucket; byNode acknowledged
	// ones.
	unknown, failed []int
	byNode          map[string][]int
	duplicates      int
	kinds           map[kind]*outcomes
	codes           map[string]int

	cellWidth time.Duration
	cells     []cell
}

// bucket has the latencies of one bucket's acknowledged appends.
type bucket struct {
	count   int
	latency *histogram
}

// cell is a short time in which appends succeeded: how many, and when the first and
// the last.
type cell struct {
	count       int
	first, last time.Duration
}

// kind is what operations are counted by.
type kind struct {
	kind        history.Kind
	stream      bool
	consistency history.Consistency
}

type outcomes struct {
	ok, unknown, failed int
	latency             *histogram
}

// histogram is of latencies.
type histogram struct {
	h   *hdrhistogram.Histogram
	max time.Duration
}

func newHistogram() *histogram {
	return &histogram{h: hdrhistogram.New(1, maxLatency.Microseconds(), 2)}
}

func (h *histogram) add(d time.Duration) {
	d = max(0, d)
	h.max = max(h.max, d)
	// It refuses only what is beyond its range.
	_ = h.h.RecordValue(min(d, maxLatency).Microseconds())
}

func (h *histogram) latency() Latency {
	if h == nil || h.h.TotalCount() == 0 {
		return Latency{None, None, None}
	}
	at := func(q float64) Seconds {
		// The histogram answers with the upper end of its step.
		return Seconds(min(h.max, time.Duration(h.h.ValueAtQuantile(q))*time.Microsecond))
	}
	return Latency{P50: at(50), P99: at(99), Max: Seconds(h.max)}
}

func newTally(length time.Duration) *tally {
	length = max(0, length)
	t := &tally{
		length: length, width: bucketWidth(length), byNode: make(map[string][]int),
		kinds: make(map[kind]*outcomes), codes: make(map[string]int),
		cellWidth: max(minCell, length/maxCells+1),
	}
	n := int((length + t.width - 1) / t.width)
	t.acked, t.unknown, t.failed = make([]bucket, n), make([]int, n), make([]int, n)
	t.cells = make([]cell, int(length/t.cellWidth)+1)
	return t
}

// bucketWidth is a second, but shorter where a run is, and longer where there would
// be too many.
func bucketWidth(length time.Duration) time.Duration {
	if length <= 30*time.Second {
		return 100 * time.Millisecond
	}
	for _, w := range widths {
		if length <= maxBuckets*w {
			return w
		}
	}
	return (length/maxBuckets + time.Hour).Truncate(time.Hour)
}

// add counts one operation.
func (t *tally) add(op *history.Op) {
	k := kind{op.Kind, op.Stream, op.Consistency}
	o := t.kinds[k]
	if o == nil {
		o = &outcomes{latency: newHistogram()}
		t.kinds[k] = o
	}
	switch op.Outcome {
	case history.OK:
		o.ok++
		o.latency.add(op.Return - op.Call)
	case history.Unknown:
		o.unknown++
	default:
		o.failed++
	}
	if op.Outcome != history.OK {
		t.codes[op.Code]++
	}
	if op.Kind == history.Append {
		t.addAppend(op)
	}
}

func (t *tally) addAppend(op *history.Op) {
	if op.Duplicate && op.Outcome == history.OK {
		t.duplicates++
	}
	if len(t.acked) == 0 {
		return
	}
	at := min(max(0, op.Return), t.length)
	i := min(int(at/t.width), len(t.acked)-1)
	switch op.Outcome {
	case history.OK:
	case history.Unknown:
		t.unknown[i]++
		return
	default:
		t.failed[i]++
		return
	}
	b := &t.acked[i]
	if b.latency == nil {
		b.latency = newHistogram()
	}
	b.count++
	b.latency.add(op.Return - op.Call)
	counts := t.byNode[op.Node]
	if counts == nil {
		counts = make([]int, len(t.acked))
		t.byNode[op.Node] = counts
	}
	counts[i]++

	c := &t.cells[int(at/t.cellWidth)]
	if c.count == 0 {
		c.first, c.last = at, at
	}
	c.count++
	c.first, c.last = min(c.first, at), max(c.last, at)
}

func (t *tally) series() Series {
	n := len(t.acked)
	s := Series{
		Bucket: Seconds(t.width), Unknown: t.unknown, Failed: t.failed, ByNode: t.byNode,
		Acknowledged: make([]int, n), P50: make([]Seconds, n), P99: make([]Seconds, n), Max: make([]Seconds, n),
	}
	for i := range t.acked {
		b := &t.acked[i]
		l := b.latency.latency()
		s.Acknowledged[i], s.P50[i], s.P99[i], s.Max[i] = b.count, l.P50, l.P99, l.Max
	}
	return s
}

// kindOrder is how kinds are listed.
var kindOrder = history.Kinds()

func (t *tally) operations() []Operation {
	ops := make([]Operation, 0, len(t.kinds))
	for k, o := range t.kinds {
		ops = append(ops, Operation{Kind: k.kind, Stream: k.stream, Consistency: k.consistency, OK: o.ok, Unknown: o.unknown, Failed: o.failed, Latency: o.latency.latency()})
	}
	rank := func(o *Operation) int {
		if i := slices.Index(kindOrder, o.Kind); i >= 0 {
			return i
		}
		return len(kindOrder)
	}
	slices.SortFunc(ops, func(a, b Operation) int {
		return cmp.Or(
			cmp.Compare(rank(&a), rank(&b)), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Consistency, b.Consistency), compareBool(a.Stream, b.Stream))
	})
	return ops
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func (t *tally) codeList() []Code {
	codes := make([]Code, 0, len(t.codes))
	for code, n := range t.codes {
		codes = append(codes, Code{code, n})
	}
	slices.SortFunc(codes, func(a, b Code) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Code, b.Code))
	})
	return codes
}

// gaps are the times without a successful append, in order, but for those that are
// shorter than a cell.
func (t *tally) gaps() []Interval {
	var gaps []Interval
	last := time.Duration(0)
	for i := range t.cells {
		c := &t.cells[i]
		if c.count == 0 {
			continue
		}
		if c.first > last {
			gaps = append(gaps, Interval{Seconds(last), Seconds(c.first)})
		}
		last = c.last
	}
	if t.length > last {
		gaps = append(gaps, Interval{Seconds(last), Seconds(t.length)})
	}
	return gaps
}

func longest(gaps []Interval) Interval {
	var l Interval
	for _, g := range gaps {
		if g.Duration() > l.Duration() {
			l = g
		}
	}
	return l
}

// faults are the faults with what writes came to while they lasted.
func (t *tally) faults(recorded []history.Fault, gaps []Interval, s Series) []Fault {
	// before[i] is how many appends succeeded in the cells before i.
	before := make([]int, len(t.cells)+1)
	for i := range t.cells {
		before[i+1] = before[i] + t.cells[i].count
	}
	faults := pair(recorded, t.length)
	for i := range faults {
		f := &faults[i]
		f.Acknowledged = before[int(f.Until.Duration()/t.cellWidth)] - before[int(f.From.Duration()/t.cellWidth)]
		if d := f.Duration(); d > 0 {
			f.PerSecond = float64(f.Acknowledged) / d.Seconds()
		}
		f.Lowest = lowest(f.Interval, s)
		first := sort.Search(len(gaps), func(i int) bool { return gaps[i].Until > f.From })
		for _, g := range gaps[first:] {
			if g.From >= f.Until {
				break
			}
			f.Longest = max(f.Longest, Seconds(g.Duration()))
		}
	}
	return faults
}

// lowest is the lowest rate of a whole bucket in i.
func lowest(i Interval, s Series) *float64 {
	from, until := int((i.From+s.Bucket-1)/s.Bucket), int(i.Until/s.Bucket)
	if from >= until {
		return nil
	}
	rate := float64(slices.Min(s.Acknowledged[from:until])) / s.Bucket.Duration().Seconds()
	return &rate
}

// replicas are what the nodes hold, beside what samples last saw of them.
func replicas(f *history.Final, samples []history.Sample) []Replica {
	if f == nil {
		return []Replica{}
	}
	applied := make(map[string]uint64)
	for i := range samples {
		for _, n := range samples[i].Nodes {
			if n.Answered {
				applied[n.Name] = n.Applied
			}
		}
	}
	type state struct{ hash, root, digest chain.Hash }
	of := func(r *history.Replica) state { return state{r.Hash, r.Root, r.Digest} }
	votes := make(map[state]int)
	var most state
	for i := range f.Replicas {
		st := of(&f.Replicas[i])
		votes[st]++
		if votes[st] > votes[most] {
			most = st
		}
	}
	list := make([]Replica, 0, len(f.Replicas))
	for i := range f.Replicas {
		r := &f.Replicas[i]
		list = append(list, Replica{
			Node: r.Node, Size: r.Size, Applied: applied[r.Node], Digest: r.Digest, Root: r.Root,
			Verdicts: r.Verdicts, Equal: of(r) == most, Problems: r.Problems,
		})
	}
	return list
}
