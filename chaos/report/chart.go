package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// The timeline's measures, in pixels of a wide screen.
const (
	chartWidth  = 1200.0
	plotLeft    = 92.0
	plotRight   = chartWidth - 8
	laneHeight  = 18.0
	panelGap    = 30.0 // above a panel, with its title
	labelSize   = 11.0
	maxNameSize = 13 // characters of a name in the margin
)

// chart draws the timeline: panels below one another on one axis of time.
type chart struct {
	*drawing
	s      *Summary
	length time.Duration
	y      float64 // where the next panel begins
	panels []panel
}

// panel is where one lies, without its title.
type panel struct{ top, bottom float64 }

// timeline draws all that has a time.
func timeline(s *Summary) *drawing {
	c := &chart{drawing: newDrawing("timeline", "Timeline of faults, leaders, throughput and latency", chartWidth, 0), s: s, length: s.Run.Length.Duration()}
	c.faults()
	c.nodes()
	c.throughput()
	c.refused()
	c.byNode()
	c.latency()
	c.links()
	return c.finish()
}

// x is where a moment lies.
func (c *chart) x(at Seconds) float64 {
	if c.length <= 0 {
		return plotLeft
	}
	f := math.Min(1, math.Max(0, float64(at)/float64(c.length)))
	return plotLeft + f*(plotRight-plotLeft)
}

// panel begins one of that height, and returns its top.
func (c *chart) panel(title, unit string, height float64) float64 {
	top := c.y + panelGap
	c.text("title", plotLeft, top-8, "start", title)
	c.Shapes[len(c.Shapes)-1].Aside = unit
	c.y = top + height
	c.panels = append(c.panels, panel{top, c.y})
	return top
}

// key is an entry of a legend: a mark and what it means.
type key struct{ mark, say string }

// legend writes keys beside a panel's title, ending at the right.
func (c *chart) legend(top float64, keys ...key) {
	const mark, gap = 19.0, 16.0
	x := plotRight + gap
	for _, k := range keys {
		x -= mark + textWidth(k.say, labelSize+0.5) + gap
	}
	for _, k := range keys {
		if strings.HasPrefix(k.mark, "line") {
			c.line(k.mark, x, top-12, x+14, top-12)
		} else {
			c.rect(k.mark, x, top-17, 14, 10, "")
		}
		c.text("muted", x+mark, top-8, "start", k.say)
		x += mark + textWidth(k.say, labelSize+0.5) + gap
	}
}

// name writes a name in the margin.
func (c *chart) name(say string, middle float64) {
	c.text("name", plotLeft-10, middle+4, "end", shorten(say, maxNameSize))
}

// bar draws what lasted, with as much of what it says as there is room for.
func (c *chart) bar(class string, in Interval, y, h float64, tip string, say ...string) {
	x1, x2 := c.x(in.From), c.x(in.Until)
	c.rect(class, x1, y, math.Max(1.5, x2-x1-0.5), h, tip)
	for _, s := range say {
		if s != "" && textWidth(s, labelSize)+8 < x2-x1 {
			c.text("on "+class, (x1+x2)/2, y+h/2+4, "middle", s)
			return
		}
	}
}

// times says when something was and for how long.
func times(in Interval) string {
	return fmt.Sprintf("%s, for %s", clock(in.From.Duration(), true), span(in.Duration()))
}

// faults draws the faults, a lane for each kind, or more where they overlap.
func (c *chart) faults() {
	type placed struct{ fault, lane int }
	var (
		all   []placed
		lanes int
		kinds = faultKinds(c.s.Faults)
		first = make([]int, len(kinds))
	)
	for k, kind := range kinds {
		first[k] = lanes
		var ends []Seconds
		for i := range c.s.Faults {
			f := &c.s.Faults[i]
			if f.Kind != kind {
				continue
			}
			lane := slices.IndexFunc(ends, func(end Seconds) bool { return end <= f.From })
			if lane < 0 {
				lane = len(ends)
				ends = append(ends, 0)
			}
			ends[lane] = f.Until
			all = append(all, placed{i, lanes + lane})
		}
		lanes += len(ends)
	}
	if lanes == 0 {
		top := c.panel("Faults", "", laneHeight)
		c.text("muted", plotLeft, top+12, "start", "none")
		return
	}
	top := c.panel("Faults", "from injection to heal", laneHeight*float64(lanes))
	for k, kind := range kinds {
		c.name(kind, top+laneHeight*float64(first[k])+laneHeight/2)
		if k > 0 {
			c.line("grid", plotLeft, top+laneHeight*float64(first[k]), plotRight, top+laneHeight*float64(first[k]))
		}
	}
	for _, p := range all {
		f := &c.s.Faults[p.fault]
		tip := f.Text + " (" + times(f.Interval) + ")"
		if !f.Mended {
			tip += ", not mended"
		}
		c.bar("fault", f.Interval, top+laneHeight*float64(p.lane)+2, laneHeight-4, tip, f.Text, strings.Join(f.Nodes, " "))
	}
}

// nodeClass is the colour of a node.
func (c *chart) nodeClass(name string) string {
	if i := slices.Index(c.s.Run.Nodes, name); i >= 0 {
		return fmt.Sprintf("n%d", i%15)
	}
	return "nobody"
}

// nodes draws what each node was, with the terms of those that led.
func (c *chart) nodes() {
	if len(c.s.States) == 0 {
		return
	}
	top := c.panel("Nodes", "", laneHeight*float64(len(c.s.Run.Nodes)))
	c.legend(top, key{"lead neutral", "leads, in its term"}, key{"line follows neutral", "follows"}, key{"silent neutral", "does not answer"}, key{"down", "down or paused"})
	for i, name := range c.s.Run.Nodes {
		c.name(name, top+laneHeight*(float64(i)+0.5))
	}
	for i := range c.s.States {
		st := &c.s.States[i]
		row := slices.Index(c.s.Run.Nodes, st.Node)
		y := top + laneHeight*float64(row) + 2
		class := c.nodeClass(st.Node)
		tip := st.Node + " "
		switch st.State {
		case Leads:
			tip += fmt.Sprintf("leads in term %d (%s)", st.Term, times(st.Interval))
			c.bar("lead "+class, st.Interval, y, laneHeight-4, tip, fmt.Sprintf("term %d", st.Term), fmt.Sprint(st.Term))
		case Silent:
			c.bar("silent "+class, st.Interval, y+3, laneHeight-10, tip+"does not answer ("+times(st.Interval)+")")
		case Down:
			c.bar("down", st.Interval, y, laneHeight-4, tip+"is down or paused ("+times(st.Interval)+")", "down")
		default:
			c.line("line follows "+class, c.x(st.From), y+laneHeight/2-2, c.x(st.Until), y+laneHeight/2-2)
		}
	}
}

// rates are counts by bucket as a rate.
func (c *chart) rates(counts []int) []float64 {
	r := make([]float64, len(counts))
	w := c.s.Series.Bucket.Duration()
	for i, n := range counts {
		// A short last bucket would jump about.
		lasted := max(w/4, min(w, c.length-time.Duration(i)*w))
		r[i] = float64(n) / lasted.Seconds()
	}
	return r
}

// bucketWidth is how wide a bucket is drawn.
func (c *chart) bucketWidth() float64 {
	if c.length <= 0 {
		return 0
	}
	return float64(c.s.Series.Bucket) / float64(c.length) * (plotRight - plotLeft)
}

// area fills the columns of a rate that reaches the panel's top at most.
func (c *chart) area(class string, rates []float64, top, height, most float64) {
	tops := make([]float64, len(rates))
	for i, r := range rates {
		tops[i] = top + height*(1-math.Min(1, r/most))
		if r == 0 {
			tops[i] = math.NaN()
		}
	}
	c.path(class, steps(plotLeft, c.bucketWidth(), tops, plotRight, top+height, true))
}

// scale draws a linear scale of a rate from 0 in so many parts.
func (c *chart) scale(top, height, most float64, parts int) {
	for i := range parts + 1 {
		y := top + height*(1-float64(i)/float64(parts))
		c.line("grid", plotLeft, y, plotRight, y)
		c.text("tick", plotLeft-8, y+4, "end", rate(most*float64(i)/float64(parts)))
	}
}

// rate writes a rate without its unit.
func rate(f float64) string {
	if f >= 100 || f == math.Trunc(f) {
		return thousands(int(math.Round(f)))
	}
	return trimZero(fmt.Sprintf("%.1f", f))
}

func maxOf(rates ...[]float64) float64 {
	most := 0.0
	for _, r := range rates {
		for _, f := range r {
			most = math.Max(most, f)
		}
	}
	return most
}

// perBucket says what a bucket is.
func (c *chart) perBucket() string {
	return "in each " + span(c.s.Series.Bucket.Duration())
}

// usual is what a scale has to show: the highest rate, unless that is far above what
// nearly all are, as where everything that waited for a leader ends at once.
func usual(rates ...[]float64) (most float64, beyond bool) {
	var all []float64
	for _, r := range rates {
		all = append(all, r...)
	}
	slices.Sort(all)
	if len(all) == 0 {
		return 0, false
	}
	highest, nearly := all[len(all)-1], all[len(all)*95/100]
	if nearly > 0 && highest > 2.5*nearly {
		return 1.5 * nearly, true
	}
	return highest, false
}

func (c *chart) throughput() {
	const height = 110.0
	rates := c.rates(c.s.Series.Acknowledged)
	shown, beyond := usual(rates)
	most, parts := roundUp(shown)
	unit := "per second, " + c.perBucket()
	if beyond {
		unit += ", up to " + rate(maxOf(rates))
	}
	top := c.panel("Events acknowledged", unit, height)
	if l := c.s.Longest; l.Duration() > 0 {
		say := fmt.Sprintf("longest without a write: %s, at %s", span(l.Duration()), clock(l.From.Duration(), true))
		c.legend(top, key{"gap", say})
		c.rect("gap", c.x(l.From), top, math.Max(1.5, c.x(l.Until)-c.x(l.From)), height, say)
	}
	c.scale(top, height, most, parts)
	c.area("area", rates, top, height, most)
}

// refused draws appends that were not acknowledged, where there are.
func (c *chart) refused() {
	unknown, failed := c.rates(c.s.Series.Unknown), c.rates(c.s.Series.Failed)
	both := make([]float64, len(unknown))
	for i := range both {
		both[i] = unknown[i] + failed[i]
	}
	if maxOf(both) == 0 {
		return
	}
	const height = 48.0
	top := c.panel("Events not acknowledged", "per second", height)
	c.legend(top, key{"failed", "failed: certainly without effect"}, key{"unknown", "unknown: may have had its effect"})
	most, _ := roundUp(maxOf(both))
	c.scale(top, height, most, 1)
	c.area("unknown", both, top, height, most)
	c.area("failed", failed, top, height, most)
}

// byNode draws what each node that was asked acknowledged, on one scale.
func (c *chart) byNode() {
	var names []string
	var all [][]float64
	for _, name := range c.s.Run.Nodes {
		if counts, asked := c.s.Series.ByNode[name]; asked {
			names, all = append(names, name), append(all, c.rates(counts))
		}
	}
	if len(names) == 0 {
		return
	}
	const row, height = 26.0, 22.0
	shown, beyond := usual(all...)
	most, _ := roundUp(shown)
	full := "a full row is " + rate(most) + " per second"
	if beyond {
		full += ", or more"
	}
	top := c.panel("Events acknowledged by the node that was asked", "", row*float64(len(names)))
	c.legend(top, key{"full", full})
	for i, name := range names {
		y := top + row*float64(i)
		c.name(name, y+row/2+2)
		c.line("grid", plotLeft, y+row, plotRight, y+row)
		c.area("lead "+c.nodeClass(name), all[i], y+row-height, height, most)
	}
}

// latency draws percentiles on a logarithmic scale.
func (c *chart) latency() {
	low, high := math.Inf(1), math.Inf(-1)
	for i, p := range c.s.Series.P50 {
		if p >= 0 {
			// Virtual clocks have operations that take no time.
			low = math.Min(low, math.Max(1e-6, p.Duration().Seconds()))
			high = math.Max(high, c.s.Series.Max[i].Duration().Seconds())
		}
	}
	if math.IsInf(low, 1) {
		return
	}
	const height = 130.0
	from := math.Floor(math.Log10(low))
	to := math.Max(from+1, math.Ceil(math.Log10(math.Max(high, 1e-6))))
	top := c.panel("Latency of acknowledged events", "logarithmic, "+c.perBucket(), height)
	c.legend(top, key{"line most", "longest"}, key{"line p99", "99 of 100 below"}, key{"line p50", "half below (median)"})
	for e := from; e <= to; e++ {
		y := top + height*(1-(e-from)/(to-from))
		c.line("grid", plotLeft, y, plotRight, y)
		c.text("tick", plotLeft-8, y+4, "end", span(time.Duration(math.Round(math.Pow(10, e)*1e9))))
	}
	draw := func(class string, values []Seconds) {
		tops := make([]float64, len(values))
		for i, v := range values {
			tops[i] = math.NaN()
			if v >= 0 {
				tops[i] = top + height*(1-(math.Log10(math.Max(1e-6, v.Duration().Seconds()))-from)/(to-from))
			}
		}
		c.path(class, steps(plotLeft, c.bucketWidth(), tops, plotRight, 0, false))
	}
	draw("line most", c.s.Series.Max)
	draw("line p99", c.s.Series.P99)
	draw("line p50", c.s.Series.P50)
}

// links draws how many links were cut, where any were.
func (c *chart) links() {
	if len(c.s.Cuts) == 0 {
		return
	}
	const height = 40.0
	n := len(c.s.Run.Nodes)
	most := n * (n - 1)
	for _, cut := range c.s.Cuts {
		most = max(most, cut.Links)
	}
	top := c.panel("Links cut", fmt.Sprintf("of %d, each way counted", n*(n-1)), height)
	c.scale(top, height, float64(most), 1)
	for _, cut := range c.s.Cuts {
		h := height * float64(cut.Links) / float64(most)
		c.rect("fault flat", c.x(cut.From), top+height-h, math.Max(1.5, c.x(cut.Until)-c.x(cut.From)), h,
			fmt.Sprintf("%s (%s)", plural(cut.Links, "link"), times(cut.Interval)))
	}
}

// finish draws the axis, and behind everything its grid and where something was at
// fault.
func (c *chart) finish() *drawing {
	front := c.Shapes
	c.Shapes = nil
	step := timeStep(c.length)
	bottom := c.y
	for _, p := range c.panels[1:] {
		for _, in := range union(c.s.Faults) {
			c.rect("shade", c.x(in.From), p.top, c.x(in.Until)-c.x(in.From), p.bottom-p.top, "")
		}
	}
	var grid strings.Builder
	for at := time.Duration(0); at <= c.length; at += step {
		for _, p := range c.panels {
			grid.WriteString("M" + num(c.x(Seconds(at))) + " " + num(p.top) + "V" + num(p.bottom))
		}
		if c.length <= 0 {
			break
		}
	}
	c.path("grid", grid.String())
	c.Shapes = append(c.Shapes, front...)
	for at := time.Duration(0); at <= c.length; at += step {
		x, anchor := c.x(Seconds(at)), "middle"
		if x > plotRight-14 {
			x, anchor = plotRight, "end"
		}
		c.text("tick", x, bottom+18, anchor, clock(at, step < time.Second && c.length > 0))
	}
	unit := "min:s"
	if c.length >= time.Hour {
		unit = "h:min:s"
	}
	c.text("muted", plotLeft-22, bottom+18, "end", unit)
	c.Height = num(bottom + 26)
	return c.drawing
}

// union are the times in which there was any fault.
func union(faults []Fault) []Interval {
	var all []Interval
	for i := range faults { // in order of their beginning
		in := faults[i].Interval
		if k := len(all) - 1; k >= 0 && in.From <= all[k].Until {
			all[k].Until = max(all[k].Until, in.Until)
			continue
		}
		all = append(all, in)
	}
	return all
}
