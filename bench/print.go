package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Text writes the report as tables.
func (r *Report) Text(w io.Writer) error {
	p := &printer{w: tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)}
	p.line("%d nodes, payloads of %d bytes, %g s a cell; %d CPUs, %s, %s, file system %s; load before %s, after %s",
		r.Config.Nodes, r.Config.Payload, r.Config.Duration, r.Machine.CPUs, r.Machine.OS, r.Machine.Go,
		orDash(r.Machine.FileSystem), orDash(r.Machine.LoadBefore), orDash(r.Machine.LoadAfter))
	if len(r.Limits) > 0 {
		p.line("\nThe machine's limits, measured in this run:\n")
		p.row("limit", "per second", "MB/s", "p50 ms", "p99 ms", "")
		for _, l := range r.Limits {
			p.row(strings.TrimPrefix(l.Name, "limit="), number(l.PerSecond), fmt.Sprintf("%.1f", l.PerSecond*float64(l.Bytes)/1e6), l.P50.text(), l.P99.text(), "")
		}
	}
	if len(r.Rows) > 0 {
		p.line("\nThe cluster; an event counts once a quorum has synced it:\n")
		p.row("client", "to", "gate", "writers", "events/s", "p50 ms", "p99 ms", "max ms", "CPU µs: leader", "others", "clients", "")
		for _, c := range r.Rows {
			p.row(c.cells()...)
		}
	}
	if len(r.Processes) > 0 {
		p.line("\nThe processes, from their start to the last cell:\n")
		p.row("process", "", "CPU s", "memory MB", "peak MB", "written MB", "")
		for _, u := range r.Processes {
			role := ""
			if u.Leader {
				role = "leader"
			}
			p.row(u.Name, role, fmt.Sprintf("%.1f", u.CPUSeconds), megabytes(u.Resident), megabytes(u.Peak), megabytes(u.Written), "")
		}
	}
	if c := r.Check; c != nil {
		p.line("\nChecked: %d events acknowledged, %d in the chain; %d read back by id; %d nodes with the same head of %d entries.",
			c.Acknowledged, c.InChain, c.ReadBack, c.Heads, c.Size)
		if c.Verified != "" {
			p.line("Verified: %s", c.Verified)
		}
	}
	for _, text := range r.Warnings {
		p.line("Warning: %s", text)
	}
	if p.err == nil {
		p.err = p.w.Flush()
	}
	return p.err
}

// printer writes lines and rows; the first error stays.
type printer struct {
	w   *tabwriter.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		p.err = p.w.Flush() // a line ends the table before it
	}
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

func (p *printer) row(columns ...string) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, strings.Join(columns, "\t"))
	}
}

func (row Row) cells() []string {
	gate := "no"
	if row.Gated {
		gate = "yes"
	}
	out := []string{string(row.Client), string(row.Target), gate, fmt.Sprint(row.Writers), number(row.PerSecond), row.P50.text(), row.P99.text(), row.Max.text()}
	if row.CPU == nil {
		return append(out, "-", "-", "-", "")
	}
	return append(out, fmt.Sprintf("%.1f", row.CPU.Leader), fmt.Sprintf("%.1f", row.CPU.Followers), fmt.Sprintf("%.1f", row.CPU.Clients), "")
}

// Line is a row in a few words, for progress.
func (row Row) Line() string {
	return fmt.Sprintf("%-50s %9s events/s  p50 %s ms  p99 %s ms", row.Name, number(row.PerSecond), row.P50.text(), row.P99.text())
}

func (m Millis) text() string { return fmt.Sprintf("%.2f", float64(m)/float64(time.Millisecond)) }

func megabytes(n uint64) string { return fmt.Sprintf("%.0f", float64(n)/1e6) }

// number is a rate with commas.
func number(v float64) string {
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Benchstat writes the report in the format of Go's benchmarks, one line for
// each cell and limit, which benchstat compares between runs.
func (r *Report) Benchstat(w io.Writer) error {
	goos, goarch, _ := strings.Cut(r.Machine.OS, "/")
	if _, err := fmt.Fprintf(w, "goos: %s\ngoarch: %s\npkg: github.com/exonode/exonode/bench\n", goos, goarch); err != nil {
		return err
	}
	line := func(name string, n int64, perSecond float64, p50, p99 Millis, more string) error {
		_, err := fmt.Fprintf(w, "BenchmarkExonode/%s-%d\t%d\t%.0f ns/op\t%.0f events/s\t%d p50-ns\t%d p99-ns%s\n",
			name, r.Machine.CPUs, n, 1e9/perSecond, perSecond, p50, p99, more)
		return err
	}
	for _, l := range r.Limits {
		if err := line(l.Name, int64(l.PerSecond), l.PerSecond, l.P50, l.P99, ""); err != nil {
			return err
		}
	}
	for _, c := range r.Rows {
		more := ""
		if c.CPU != nil {
			more = fmt.Sprintf("\t%.0f cpu-ns/event", 1e3*(c.CPU.Leader+c.CPU.Followers+c.CPU.Clients))
		}
		if err := line(c.Name, c.Events, c.PerSecond, c.P50, c.P99, more); err != nil {
			return err
		}
	}
	return nil
}
