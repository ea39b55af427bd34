// Half of a handshake's time is ML-KEM's, which has nothing to show here.

//go:debug tlsmlkem=0
package sim

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The flags of TestSim, which `make sim` runs.
var (
	seeds   = flag.String("seeds", "", "seeds to simulate: first-last, or one")
	length  = flag.Duration("length", 0, "how long faults are made in each, of the bubble's time (default 2m)")
	pace    = flag.Duration("pace", 0, "mean time between two faults (default 2s)")
	think   = flag.Duration("think", 0, "mean time between two operations of a client (default 500ms)")
	kindsOf = flag.String("faults", "", "kinds of faults, separated by commas (default all)")
	nodeLog = flag.Bool("nodelog", false, "show what nodes log")
	before  = flag.Bool("before", false, "run the known traps without our fixes as well, and want the harm")
	trace   = flag.Bool("trace", false, "show faults and operations")
)

// TestSeeds simulates a few dozen seeds for a short while.
func TestSeeds(t *testing.T) {
	if *seeds != "" {
		t.Skip("TestSim runs")
	}
	last := uint64(8)
	if testing.Short() {
		last = 2
	}
	simulate(t, 1, last, Config{Length: 20 * time.Second, Pace: time.Second})
}

// TestBugs plants a bug at a time, which some seed soon finds.
func TestBugs(t *testing.T) {
	if *seeds != "" || testing.Short() {
		t.Skip("TestSim runs, or the short tests")
	}
	for _, bug := range []Bug{UnsyncedLog, StaleReads, LostSession, NewIDs} {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 10; seed++ {
				cfg := Config{Seed: seed, Dir: t.TempDir(), Bug: bug, Length: 30 * time.Second, Pace: time.Second, Think: 200 * time.Millisecond}
				if o := Run(t, cfg); len(o.Problems) > 0 {
					t.Logf("seed %d: %.300s", seed, o.Problems[0])
					return
				}
			}
			t.Error("not found with ten seeds")
		})
	}
}

// TestSim simulates the seeds that -seeds names.
func TestSim(t *testing.T) {
	var first, last uint64
	switch n, _ := fmt.Sscanf(*seeds, "%d-%d", &first, &last); n {
	case 0:
		t.Skip("no -seeds")
	case 1:
		last = first
	}
	cfg := Config{Length: *length, Pace: *pace, Think: *think}
	if *kindsOf != "" {
		cfg.Kinds = strings.Split(*kindsOf, ",")
		for _, k := range cfg.Kinds {
			if !slices.Contains(Kinds(), k) {
				t.Fatalf("fault %q is none of %s", k, strings.Join(Kinds(), ", "))
			}
		}
	}
	if *nodeLog {
		cfg.Log = os.Stdout
	}
	simulate(t, first, last, cfg)
}

// simulate runs seeds, two at a time.
func simulate(t *testing.T, first, last uint64, cfg Config) {
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	p := newProgress(last - first + 1)
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed <= last; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				cfg := cfg
				cfg.Seed, cfg.Dir = seed, t.TempDir()
				watch := time.AfterFunc(10*time.Minute, func() {
					fmt.Fprintf(os.Stderr, "seed %d does not end; its goroutines:\n", seed)
					for _, s := range stacks(true) {
						fmt.Fprintf(os.Stderr, "%s\n\n", s)
					}
					os.Exit(2)
				})
				o := Run(t, cfg)
				watch.Stop()
				if *trace {
					show(os.Stdout, o)
				}
				for _, problem := range o.Problems {
					t.Error(problem)
				}
				if len(o.Problems) > 0 {
					t.Errorf("repeat it with: %s\n%s", command(cfg), repeats)
				}
				p.done(o)
			})
		}
	})
	p.total()
}

// repeats says how far a seed does; docs/decisions/0005 has what was measured.
const repeats = "A seed fixes which faults come and when, of which kind, on which nodes and for how long, " +
	"and what each client wants to do. It does not fix who is elected, how goroutines are scheduled, and keys: " +
	"what depends on those repeats in some of several runs."

// command repeats a seed.
func command(cfg Config) string {
	c := cfg.withDefaults()
	line := fmt.Sprintf("make sim SEEDS=%d LENGTH=%v PACE=%v THINK=%v", c.Seed, c.Length, c.Pace, c.Think)
	if c.Kinds != nil {
		line += " FAULTS=" + strings.Join(c.Kinds, ",")
	}
	return line
}

// show writes what happened in the order in which it did.
func show(w io.Writer, o *Outcome) {
	if o.History == nil {
		return
	}
	type line struct {
		at   time.Duration
		text string
	}
	var lines []line
	for _, f := range o.History.Faults {
		lines = append(lines, line{f.At, fmt.Sprintf("%s: %s", f.Kind, f.Text)})
	}
	for _, op := range o.History.Ops {
		lines = append(lines, line{op.Return, fmt.Sprintf("client %d: %s %s at %s, since %v: %s %s %d", op.Client, op.Consistency, op.Kind, op.Node, op.Call, op.Outcome, op.Code, max(op.Sequence, op.Size))})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return int(a.at - b.at) })
	for _, l := range lines {
		fmt.Fprintf(w, "%v %s\n", l.at, l.text)
	}
}

// progress adds up outcomes, and says from time to time how far it is.
type progress struct {
	began, told time.Time
	seeds       uint64

	mu  sync.Mutex // guards told, n, failed and sum
	n   uint64
	sum Outcome
	bad []uint64
}

func newProgress(seeds uint64) *progress {
	now := time.Now()
	return &progress{began: now, told: now, seeds: seeds, sum: Outcome{Passed: make(map[string]int)}}
}

func (p *progress) done(o *Outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	s := &p.sum
	s.Virtual += o.Virtual
	s.Faults += o.Faults
	s.Elections += o.Elections
	s.Events += o.Events
	s.Operations += o.Operations
	s.Acknowledged += o.Acknowledged
	s.Unanswered += o.Unanswered
	for what, n := range o.Passed {
		s.Passed[what] += n
	}
	if len(o.Problems) > 0 {
		p.bad = append(p.bad, o.Seed)
	}
	if time.Since(p.told) > 10*time.Second {
		p.told = time.Now()
		p.line()
	}
}

// line prints where it is. p.mu is held.
func (p *progress) line() {
	s, took := &p.sum, time.Since(p.began)
	fmt.Printf("%d of %d seeds in %v: %d faults, %d elections, %d events, %d operations (%d appends acknowledged), %.2f cluster-hours (%.1f s a second)",
		p.n, p.seeds, took.Round(time.Second), s.Faults, s.Elections, s.Events, s.Operations, s.Acknowledged, s.Virtual.Hours(), s.Virtual.Seconds()/took.Seconds())
	if len(p.bad) > 0 {
		fmt.Printf(", failed: %v", p.bad)
	}
	fmt.Println()
}

func (p *progress) total() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line()
	for _, what := range slices.Sorted(maps.Keys(p.sum.Passed)) {
		fmt.Printf("  %s: %d\n", what, p.sum.Passed[what])
	}
}
