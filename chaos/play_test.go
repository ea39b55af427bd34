package chaos

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/lab"
)

// plays plays actions at the beginning of a long run until stop says of a line of its
// progress that it is the last, and returns what was recorded by then.
func plays(t *testing.T, l *lab.Lab, c *Controller, plan []Planned, stop func(text string) bool) *history.History {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stopped atomic.Bool
	r := &run{rec: history.NewRecorder(), lab: l, control: c}
	r.cfg.Scenario = &Scenario{Length: time.Minute}
	r.cfg.Progress = func(_ time.Duration, text string) {
		t.Log(text)
		if !stopped.Load() && stop(text) {
			stopped.Store(true)
			cancel()
		}
	}
	_ = r.play(ctx, plan) // stopped, or at its end
	if !stopped.Load() {
		t.Error("the run has come to its end")
	}
	for _, a := range r.armedNow() {
		r.disarm(a)
	}
	return r.rec.End()
}

func planned(t *testing.T, text string, after time.Duration) Planned {
	t.Helper()
	a, err := ParseAction(text)
	if err != nil {
		t.Fatal(err)
	}
	return Planned{Action: a, For: after}
}

// TestMendedInTime: what waits for a leader that there is not holds up no mending, and is
// told of as not done.
func TestMendedInTime(t *testing.T) {
	l, c := running(t, 3)
	waiting := planned(t, "crash leader before-apply 18", time.Second)
	h := plays(t, l, c, []Planned{planned(t, "kill all", 10*time.Millisecond), waiting, planned(t, "start n1", 0)}, func(text string) bool {
		if strings.HasPrefix(text, "not done") {
			t.Errorf("before anything is mended: %s", text)
		}
		return text == "mended: all nodes killed"
	})
	for _, n := range c.Names() {
		if !l.Running(n) {
			t.Errorf("%s does not run again", n)
		}
	}
	want := []history.Missed{{Text: waiting.String(), Why: errNoLeader.Error(), Reason: history.NotDone}}
	if diff := cmp.Diff(want, h.Missed, cmpopts.IgnoreFields(history.Missed{}, "At")); diff != "" || h.Planned != 2 {
		t.Errorf("%d planned, missed (-want +got):\n%s", h.Planned, diff)
	}
}

// TestArmedIsNoFault: a crash counts once its node has ended by it.
func TestArmedIsNoFault(t *testing.T) {
	l, c := running(t, 3)
	h := plays(t, l, c, []Planned{planned(t, "crash n1 before-append", 0), planned(t, "crash n2 after-vote 3", 0)}, func(text string) bool {
		if strings.HasPrefix(text, "armed: n1") {
			crash(t, l, "n1")
		}
		return text == "n1 crashed before-append"
	})
	wantFaults := []history.Fault{
		{Kind: "crash", Text: "n1 crashed before-append", Nodes: []string{"n1"}, ID: 1},
		{Kind: "heal", Text: "mended: n1 crashed before-append", Nodes: []string{"n1"}, Mends: 1},
	}
	if diff := cmp.Diff(wantFaults, h.Faults, cmpopts.IgnoreFields(history.Fault{}, "At")); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	wantMissed := []history.Missed{{Text: "crash n2 after-vote 3", Why: "no node came there", Reason: history.NeverReached}}
	if diff := cmp.Diff(wantMissed, h.Missed, cmpopts.IgnoreFields(history.Missed{}, "At")); diff != "" || h.Planned != 2 {
		t.Errorf("%d planned, missed (-want +got):\n%s", h.Planned, diff)
	}
}
