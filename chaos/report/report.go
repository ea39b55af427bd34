// Package report shows a run of the chaos lab to people and programs: as one HTML
// file that needs nothing besides itself, as JSON, and as a line for a terminal.
//
// It draws what was recorded and what the checkers found, and judges nothing: whether
// the cluster held is the verdicts' word. It is a function of the history alone: no
// clock, no network, no file. What is in a history came from a cluster in trouble, or
// from somebody else's, and is not trusted: all of it is escaped.
//
// `exonode chaos` writes its reports with it, and so does the simulation.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/exonode/exonode/chaos/history"
)

// maxEvidence is how many characters of evidence stand in a line.
const maxEvidence = 160

// JSON writes the summary of a run as one JSON object. Its shape is that of Summary:
// names stay what they are, times are seconds as decimal numbers from the run's
// beginning, and null is a time that there is none of. The series have one element
// for each bucket of time, not one for each operation.
func JSON(w io.Writer, r *history.Result) error {
	e := json.NewEncoder(w)
	e.SetIndent("", " ")
	if err := e.Encode(Summarise(r)); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// Line says how a run went in one line, without its end: whoever wrote a file may go
// on with its name. What does not hold comes first, with the first evidence.
func Line(r *history.Result) string {
	s := Summarise(r)
	var b strings.Builder
	switch failed := s.failed(); {
	case s.Held:
		b.WriteString("held: ")
	case len(failed) == 0:
		b.WriteString("nothing was checked: ")
	default:
		b.WriteString("FAILED: " + failed[0].Name)
		if n := len(failed) - 1; n > 0 {
			fmt.Fprintf(&b, " and %d more", n)
		}
		if len(failed[0].Evidence) > 0 {
			b.WriteString(": " + shorten(failed[0].Evidence[0], maxEvidence))
		} else if failed[0].Checked == 0 {
			b.WriteString(": had nothing to check")
		}
		b.WriteString(" · ")
	}
	parts := []string{
		s.name(),
		s.Run.Length.Duration().Round(time.Second).String(),
		s.Run.Size(),
		fmt.Sprintf("seed %d", s.Run.Seed),
		plural(s.Counts.Acknowledged, "event"),
		plural(s.Counts.Faults, "fault") + s.Counts.missed(),
		plural(s.Counts.Elections, "election"),
		"longest without a write " + strings.ReplaceAll(span(s.Longest.Duration()), "\u00a0", ""),
	}
	b.WriteString(strings.Join(parts, " · "))
	return printable(b.String())
}

// missed says what faults did not come to pass, where some did not.
func (c *Counts) missed() string {
	var parts []string
	if c.NotDone > 0 {
		parts = append(parts, thousands(c.NotDone)+" not done")
	}
	if c.NeverReached > 0 {
		parts = append(parts, plural(c.NeverReached, "crash point")+" never reached")
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// Size says how many nodes there were at first, and how many more joined.
func (r Run) Size() string {
	size := plural(len(r.Nodes)-r.Joined, "node")
	if r.Joined > 0 {
		size += fmt.Sprintf(" (+%d joined)", r.Joined)
	}
	return size
}

// name is what people call the run: its scenario, else the faults that it had.
func (s *Summary) name() string {
	if s.Run.Title != "" {
		return s.Run.Title
	}
	if kinds := faultKinds(s.Faults); len(kinds) > 0 {
		return strings.Join(kinds, ", ")
	}
	return "no faults"
}

// failed are the verdicts that are not OK.
func (s *Summary) failed() []history.Verdict {
	var failed []history.Verdict
	for _, v := range s.Verdicts {
		if !v.OK {
			failed = append(failed, v)
		}
	}
	return failed
}

// printable leaves nothing in s that moves a terminal's cursor or ends its line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// shorten cuts s to so many characters.
func shorten(s string, limit int) string {
	runes := []rune(s)
	if len(runes) <= limit {
		return s
	}
	return string(runes[:limit-1]) + "…"
}

// plural is a number and what it counts.
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return thousands(n) + " " + what + "s"
}

// thousands writes n with commas.
func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// span writes a duration with one unit below a minute, to three digits at most; the
// space before the unit does not break.
func span(d time.Duration) string {
	const nbsp = "\u00a0"
	switch {
	case d < 0:
		return "–"
	case d == 0:
		return "0" + nbsp + "s"
	case d < time.Millisecond:
		return fmt.Sprintf("%d%sµs", d.Microseconds(), nbsp)
	case d < 10*time.Millisecond:
		return trimZero(fmt.Sprintf("%.1f", d.Seconds()*1e3)) + nbsp + "ms"
	case d < 999500*time.Microsecond:
		return fmt.Sprintf("%.0f%sms", d.Seconds()*1e3, nbsp)
	case d < 59950*time.Millisecond:
		return trimZero(fmt.Sprintf("%.1f", d.Seconds())) + nbsp + "s"
	}
	d = d.Round(time.Second)
	h, m, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case h > 0:
		return fmt.Sprintf("%d%sh %d%smin", h, nbsp, m, nbsp)
	case s == 0:
		return fmt.Sprintf("%d%smin", m, nbsp)
	}
	return fmt.Sprintf("%d%smin %d%ss", m, nbsp, s, nbsp)
}

func trimZero(s string) string { return strings.TrimSuffix(s, ".0") }

// clock writes a moment of the run as minutes and seconds, with tenths where fine.
func clock(d time.Duration, fine bool) string {
	if fine {
		d = d.Round(100 * time.Millisecond)
	}
	h, m, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	text := fmt.Sprintf("%d:%02d", m, s)
	if h > 0 {
		text = fmt.Sprintf("%d:%02d:%02d", h, m, s)
	}
	if fine {
		text += fmt.Sprintf(".%d", d.Milliseconds()/100%10)
	}
	return text
}
