// Package check judges a run: from what clients did and saw, and what the nodes
// hold in the end, to a verdict for each promise that the cluster makes.
//
// Its checkers are functions of their arguments, but for the time that Porcupine is
// given. Each takes time and memory linear in the history, or nearly, so that millions of
// operations are judged in seconds. A checker that found nothing to look at has
// proved nothing, and says no. It runs nothing and draws nothing but Porcupine's
// pages: who records a run calls Judge, and shows what it returns.
package check

import (
	"time"

	"github.com/exonode/exonode/chaos/history"
)

// The checkers, as history.Verdict names them.
const (
	Acknowledged  = "acknowledged"
	AtMostOnce    = "at-most-once"
	RealTimeOrder = "real-time-order"
	Linearizable  = "linearizable"
	Porcupine     = "porcupine"
	Session       = "session"
	Heads         = "heads"
	Watches       = "watches"
	Replicas      = "replicas"
	Verdicts      = "verdicts"
	Progress      = "progress"
	Recovery      = "recovery"
	Workload      = "workload"
)

// Limits are what progress is held against. A zero field has its comment's default.
type Limits struct {
	// Replicas is how many nodes must be found alike in the end: 1.
	Replicas int `yaml:"replicas"`
	// Overall is for the whole run: 1 append a second, 30 s of silence.
	Overall Bound `yaml:"overall"`
	// Fault is for each time between two faults, or a fault and what mends it,
	// and ByKind instead of it for those that begin with a fault of a kind: no
	// rate, 30 s of silence.
	Fault  Bound            `yaml:"fault"`
	ByKind map[string]Bound `yaml:"by_kind"`
	// Least is how many operations of each kind must have gone well: one append,
	// head, lookup and get.
	Least map[history.Kind]int `yaml:"least"`
}

// Bound is how little progress is enough.
type Bound struct {
	// Rate is the least number of acknowledged appends a second. It is not held
	// against a fault that lasted less than a second.
	Rate float64 `yaml:"rate"`
	// Silence is the longest time without an acknowledged append.
	Silence time.Duration `yaml:"silence"`
}

func (b Bound) or(d Bound) Bound {
	if b.Rate == 0 {
		b.Rate = d.Rate
	}
	if b.Silence == 0 {
		b.Silence = d.Silence
	}
	return b
}

func (l Limits) withDefaults() Limits {
	if l.Replicas == 0 {
		l.Replicas = 1
	}
	l.Overall = l.Overall.or(Bound{Rate: 1, Silence: 30 * time.Second})
	l.Fault = l.Fault.or(Bound{Silence: 30 * time.Second})
	if l.Least == nil {
		l.Least = map[history.Kind]int{history.Append: 1, history.Head: 1, history.Lookup: 1, history.Get: 1}
	}
	return l
}

// All returns the verdicts of all checkers.
func All(h *history.History, f *history.Final, l Limits) []history.Verdict {
	verdicts, _ := Judge(h, f, l)
	return verdicts
}

// Judge returns the verdicts of all checkers, and the pages that Porcupine drew, by
// name: history.Result has a place for both. It changes neither h nor f.
func Judge(h *history.History, f *history.Final, l Limits) ([]history.Verdict, map[string][]byte) {
	l = l.withDefaults()
	r := read(h, f)
	linear, conflict := r.linearizable()
	windows, pictures := r.porcupine(conflict)
	return []history.Verdict{
		r.acknowledged(), r.atMostOnce(), r.realTimeOrder(), linear, windows, r.session(),
		r.heads(), r.watches(), r.replicas(l), r.verdicts(), r.progress(l), r.recovery(), r.workload(l),
	}, pictures
}
