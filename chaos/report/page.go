package report

import (
	"bufio"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
)

var (
	//go:embed page.gohtml
	pageText string
	//go:embed page.css
	pageStyle string
	//go:embed page.js
	pageScript string

	pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
		"style":     func() template.CSS { return template.CSS(pageStyle) },
		"script":    func() template.JS { return template.JS(pageScript) },
		"thousands": thousands,
		"count":     func(n uint64) string { return thousands(int(n)) },
		"plural":    plural,
		"clock":     func(s Seconds) string { return clock(s.Duration(), true) },
		"span":      func(s Seconds) string { return span(s.Duration()) },
		"lasted":    func(i Interval) string { return span(i.Duration()) },
		"rate":      rate,
		"short":     func(h chain.Hash) string { return h.String()[:12] },
	}).Parse(pageText))
)

const (
	// maxShown is how much evidence of a checker a page shows; JSON has all.
	maxShown = 100
	// maxMatrices is how many pictures of the links are open from the start.
	maxMatrices = 40
)

// page is what the template shows.
type page struct {
	*Summary
	Name     string
	Word     string // the verdict, in a word or two
	Class    string // its colour
	Lead     string // and in a sentence
	Bad      []history.Verdict
	Checks   []check
	Timeline *drawing
	Links    []matrix // shown, and
	More     []matrix // where there are very many
	Hover    hover
	Drawn    []picture
}

// check is a verdict with as much evidence as is shown.
type check struct {
	history.Verdict
	Shown []string
	More  int
}

// picture is a page that a checker drew.
type picture struct{ Name, Page string }

// hover is what the page's script reads out of: the timeline, without its drawing.
type hover struct {
	Length float64   `json:"length"`
	Left   float64   `json:"left"`
	Right  float64   `json:"right"`
	Width  float64   `json:"width"`
	Bucket float64   `json:"bucket"`
	Events []string  `json:"events"` // what to say of each bucket
	Faults []moments `json:"faults"`
	Leads  []moments `json:"leads"`
	Cuts   []moments `json:"cuts"`
}

// moments say something of a time.
type moments struct {
	From  Seconds `json:"from"`
	Until Seconds `json:"until"`
	Say   string  `json:"say"`
}

// HTML writes the report of a run as one HTML file that refers to nothing outside
// of itself. What checkers drew is shown in frames that may run scripts, but can
// neither reach the page nor load anything.
func HTML(w io.Writer, r *history.Result) error {
	s := Summarise(r)
	b := bufio.NewWriter(w)
	if err := pageTemplate.Execute(b, newPage(&s, r.Pictures)); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func newPage(s *Summary, pictures map[string][]byte) *page {
	p := &page{Summary: s, Name: s.name(), Bad: s.failed(), Timeline: timeline(s), Links: matrices(s), Hover: newHover(s)}
	switch {
	case s.Held:
		p.Word, p.Class = "Held", "good"
		p.Lead = plural(len(s.Verdicts), "checker") + " found nothing wrong."
		if len(s.Verdicts) > 1 {
			p.Lead = "All " + p.Lead
		}
	case len(s.Verdicts) == 0:
		p.Word, p.Class = "Nothing was checked", "bad"
		p.Lead = "No checker ran: this shows nothing."
	default:
		p.Word, p.Class = "Did not hold", "bad"
		p.Lead = fmt.Sprintf("%d of %s found something wrong.", len(p.Bad), plural(len(s.Verdicts), "checker"))
	}
	for _, v := range s.Verdicts {
		c := check{Verdict: v, Shown: v.Evidence}
		if len(v.Evidence) > maxShown {
			c.Shown, c.More = v.Evidence[:maxShown], len(v.Evidence)-maxShown
		}
		p.Checks = append(p.Checks, c)
	}
	if len(p.Links) > maxMatrices {
		p.Links, p.More = p.Links[:maxMatrices], p.Links[maxMatrices:]
	}
	for _, name := range s.Pictures {
		p.Drawn = append(p.Drawn, picture{name, string(pictures[name])})
	}
	return p
}

func newHover(s *Summary) hover {
	h := hover{
		Length: s.Run.Length.Duration().Seconds(), Left: plotLeft, Right: plotRight, Width: chartWidth,
		Bucket: s.Series.Bucket.Duration().Seconds(),
	}
	for i, n := range s.Series.Acknowledged {
		say := plural(n, "event")
		if n > 0 {
			say += fmt.Sprintf(", half in %s, 99 of 100 in %s, longest %s", span(s.Series.P50[i].Duration()), span(s.Series.P99[i].Duration()), span(s.Series.Max[i].Duration()))
		}
		for _, other := range []struct {
			n    int
			what string
		}{{s.Series.Unknown[i], "unknown"}, {s.Series.Failed[i], "failed"}} {
			if other.n > 0 {
				say += fmt.Sprintf(", %s %s", thousands(other.n), other.what)
			}
		}
		h.Events = append(h.Events, say)
	}
	for i := range s.Faults {
		f := &s.Faults[i]
		h.Faults = append(h.Faults, moments{f.From, f.Until, f.Kind + ": " + f.Text})
	}
	for i := range s.States {
		if st := &s.States[i]; st.State == Leads {
			h.Leads = append(h.Leads, moments{st.From, st.Until, fmt.Sprintf("%s leads in term %d", st.Node, st.Term)})
		}
	}
	for i := range s.Cuts {
		c := &s.Cuts[i]
		h.Cuts = append(h.Cuts, moments{c.From, c.Until, plural(c.Links, "link") + " cut"})
	}
	return h
}

// What says in words what an operation was.
func (o Operation) What() string {
	var how []string
	if o.Consistency != "" {
		how = append(how, string(o.Consistency))
	}
	if o.Stream {
		how = append(how, "on a stream")
	}
	if len(how) == 0 {
		return string(o.Kind)
	}
	return string(o.Kind) + ", " + strings.Join(how, ", ")
}

// When says when the run began; a simulation has no such time.
func (r Run) When() string {
	if r.Began.IsZero() {
		return ""
	}
	return r.Began.UTC().Format(time.DateTime) + " UTC"
}
