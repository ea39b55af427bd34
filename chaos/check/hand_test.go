package check_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
)

// of makes a history of operations on a chain of a genesis and the events numbered.
func of(events []int, ops ...history.Op) (*history.History, *history.Final) {
	m := newMachine(nil)
	for _, n := range events {
		m.seal(keyOf(n))
	}
	h, f := m.finish()
	h.Deliveries, h.Watches = nil, nil
	h.Ops = ops
	h.Length = time.Second
	return h, f
}

const ms = time.Millisecond

func appended(client, n int, call, ret time.Duration, seq uint64) history.Op {
	return history.Op{Client: client, Kind: history.Append, Key: keyOf(n), Call: call, Return: ret, Outcome: history.OK, Sequence: seq, Hash: hashOf(seq)}
}

func tried(client, n int, call, ret time.Duration, as history.Outcome) history.Op {
	return history.Op{Client: client, Kind: history.Append, Key: keyOf(n), Call: call, Return: ret, Outcome: as}
}

func head(client int, at history.Consistency, call, ret time.Duration, size uint64) history.Op {
	op := history.Op{Client: client, Kind: history.Head, Consistency: at, Call: call, Return: ret, Outcome: history.OK, Size: size}
	if size > 0 {
		op.HeadHash = hashOf(size - 1)
	}
	return op
}

func duplicate(op history.Op) history.Op {
	op.Duplicate = true
	return op
}

func stream(op history.Op) history.Op {
	op.Stream = true
	return op
}

func TestByHand(t *testing.T) {
	lin, ses := history.Linearizable, history.Session
	for _, test := range []struct {
		name   string
		events []int
		ops    []history.Op
		want   []string
	}{
		{"a failed try beside one of unknown outcome says nothing", []int{1}, []history.Op{
			tried(1, 1, 0, 10*ms, history.Unknown), tried(1, 1, 20*ms, 30*ms, history.Failed),
		}, nil},
		{"a failed try after an acknowledged one", []int{1}, []history.Op{
			appended(1, 1, 0, 10*ms, 1), tried(1, 1, 20*ms, 30*ms, history.Failed),
		}, nil},
		{"all tries failed, and it stands", []int{1}, []history.Op{
			tried(1, 1, 0, 10*ms, history.Failed), tried(1, 1, 20*ms, 30*ms, history.Failed),
		}, []string{check.AtMostOnce}},
		{"the first try that did not fail may be the one: its entry is old", []int{1, 2}, []history.Op{
			tried(1, 1, 0, 10*ms, history.Unknown), appended(2, 2, 20*ms, 30*ms, 2), duplicate(appended(1, 1, 40*ms, 50*ms, 1)),
		}, nil},
		{"a try that failed is not the one: its entry is too old", []int{1, 2}, []history.Op{
			tried(1, 1, 0, 10*ms, history.Failed), appended(2, 2, 20*ms, 30*ms, 2), appended(1, 1, 40*ms, 50*ms, 1),
		}, []string{check.RealTimeOrder, check.Linearizable, check.Porcupine}},
		{"given up, and written later", []int{2, 1}, []history.Op{
			tried(1, 1, 0, 10*ms, history.Unknown), appended(2, 2, 20*ms, 30*ms, 1), head(1, lin, 40*ms, 50*ms, 2), head(1, lin, 60*ms, 70*ms, 3),
		}, nil},
		{"operations that touch are concurrent", []int{2, 1}, []history.Op{
			appended(1, 1, 0, 10*ms, 2), appended(2, 2, 10*ms, 20*ms, 1),
		}, nil},
		{"a moment later they are not", []int{2, 1}, []history.Op{
			appended(1, 1, 0, 10*ms, 2), appended(2, 2, 10*ms+1, 20*ms, 1),
		}, []string{check.RealTimeOrder, check.Linearizable, check.Porcupine}},
		{"reads overlap an append and disagree", []int{1}, []history.Op{
			appended(1, 1, 0, 100*ms, 1), head(2, lin, 10*ms, 60*ms, 2), head(3, lin, 20*ms, 50*ms, 1),
		}, nil},
		{"reads in turn disagree", []int{1}, []history.Op{
			appended(1, 1, 0, 100*ms, 1), head(2, lin, 10*ms, 20*ms, 2), head(3, lin, 30*ms, 40*ms, 1),
		}, []string{check.Linearizable, check.Porcupine}},
		{"a stale read may go back", []int{1}, []history.Op{
			appended(1, 1, 0, 10*ms, 1), head(2, history.Stale, 30*ms, 40*ms, 1),
		}, nil},
		{"what a stale read shows is there", []int{1}, []history.Op{
			tried(1, 1, 0, 100*ms, history.Unknown), head(2, history.Stale, 10*ms, 20*ms, 2), head(3, lin, 30*ms, 40*ms, 1),
		}, []string{check.Linearizable, check.Porcupine}},
		{"a session may be behind others", []int{1}, []history.Op{
			appended(1, 1, 0, 10*ms, 1), head(2, ses, 30*ms, 40*ms, 1),
		}, nil},
		{"a session is not behind itself", []int{1}, []history.Op{
			appended(1, 1, 0, 10*ms, 1), head(1, ses, 30*ms, 40*ms, 1),
		}, []string{check.Session}},
		{"nor in the same instant", []int{1}, []history.Op{
			appended(1, 1, 0, 10*ms, 1), head(1, ses, 10*ms, 10*ms, 1),
		}, []string{check.Session}},
		{"but for what was on a stream", []int{1}, []history.Op{
			stream(appended(1, 1, 0, 10*ms, 1)), head(1, ses, 10*ms, 10*ms, 1),
		}, nil},
		{"nor behind its stream", []int{1}, []history.Op{
			stream(appended(1, 1, 0, 10*ms, 1)), head(1, ses, 11*ms, 20*ms, 1),
		}, []string{check.Session}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, f := of(test.events, test.ops...)
			limits := small
			limits.Overall.Rate = 0.1
			got := slices.DeleteFunc(failed(check.All(h, f, limits)), func(name string) bool { return name == check.Progress })
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestProgressByFault(t *testing.T) {
	h, f := of([]int{1, 2, 3})
	h.Length = 20 * time.Second
	seq := uint64(0)
	for at := time.Duration(0); at < h.Length; at += 100 * ms {
		// Nothing is written for 3 s after the leader is killed.
		if at < 5*time.Second || at >= 8*time.Second {
			h.Ops = append(h.Ops, appended(1, int(seq), at, at+ms, seq))
			seq++
		}
	}
	h.Faults = []history.Fault{
		{At: 5 * time.Second, Kind: "kill", Text: "n1"},
		{At: 10 * time.Second, Kind: "heal", Text: "n1 again"},
		{At: 15 * time.Second, Kind: "pause", Text: "n2"},
		{At: 15*time.Second + 10*ms, Kind: "heal", Text: "n2 again"},
	}
	verdict := func(l check.Limits) history.Verdict {
		for _, v := range check.All(h, f, l) {
			if v.Name == check.Progress {
				return v
			}
		}
		return history.Verdict{}
	}
	if v := verdict(check.Limits{}); !v.OK {
		t.Errorf("by default: %v", v.Evidence)
	}
	for name, l := range map[string]check.Limits{
		"silence":         {Overall: check.Bound{Silence: 2 * time.Second}},
		"rate":            {Overall: check.Bound{Rate: 9}},
		"silence of any":  {Fault: check.Bound{Silence: 2 * time.Second}},
		"silence of kind": {ByKind: map[string]check.Bound{"kill": {Silence: 2 * time.Second}}},
		"rate of kind":    {ByKind: map[string]check.Bound{"kill": {Rate: 5}}},
	} {
		if v := verdict(l); v.OK || len(v.Evidence) != 1 {
			t.Errorf("%s: %v", name, v.Evidence)
		}
	}
	// A pause of 10 ms has no rate; what other kinds are held to says nothing of it.
	for name, l := range map[string]check.Limits{
		"of another kind": {ByKind: map[string]check.Bound{"pause": {Rate: 500}, "heal": {Silence: time.Second}}},
		"of its kind":     {Fault: check.Bound{Silence: time.Second}, ByKind: map[string]check.Bound{"kill": {Silence: 4 * time.Second}}},
	} {
		if v := verdict(l); !v.OK {
			t.Errorf("%s: %v", name, v.Evidence)
		}
	}
	want := "kill, 1 times: 4.0 appends/s at least, at most 3.001s without one"
	if v := verdict(check.Limits{}); !slices.Contains(v.Notes, want) {
		t.Errorf("no note %q in %q", want, v.Notes)
	}
}

// A run in which what was planned did not come to pass shows nothing.
func TestWorkloadSuffers(t *testing.T) {
	h, f := of([]int{1, 2, 3})
	h.Length = time.Second
	h.Ops = append(h.Ops, appended(1, 0, 0, ms, 0))
	for _, test := range []struct {
		planned, notDone, never, busy int
		ok                            bool
	}{
		{planned: 0, ok: true},
		{planned: 4, ok: true},
		{planned: 4, notDone: 2, ok: true},
		{planned: 4, notDone: 3},
		{planned: 1, notDone: 1},
		{planned: 1, never: 1},
		{planned: 4, never: 3, ok: true},
		{planned: 4, never: 2, notDone: 2},
		{planned: 4, busy: 3, ok: true},
		{planned: 4, busy: 3, notDone: 1},
	} {
		h.Planned, h.Missed = test.planned, nil
		for reason, n := range map[history.Reason]int{history.NotDone: test.notDone, history.NeverReached: test.never, history.Busy: test.busy} {
			for range n {
				h.Missed = append(h.Missed, history.Missed{Text: "kill n9", Why: "there is no node n9", Reason: reason})
			}
		}
		for _, v := range check.All(h, f, small) {
			if v.Name == check.Workload && v.OK != test.ok {
				t.Errorf("%+v: %v, %q", test, v.OK, v.Evidence)
			}
		}
	}
}
