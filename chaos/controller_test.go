package chaos

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/exonode/exonode/chaos/lab"
)

// mustDo carries an action out.
func mustDo(t *testing.T, c *Controller, text string) *Active {
	t.Helper()
	a, err := ParseAction(text)
	if err != nil {
		t.Fatal(err)
	}
	act, _, err := c.Do(t.Context(), a)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return act
}

// texts are what is wrong, as status tells it.
func texts(c *Controller) (list []string) {
	for _, a := range c.Active() {
		list = append(list, a.Text)
	}
	return list
}

// TestUndoBesideAWaitingAction: an action that waits for a leader keeps nothing else from
// being mended, or looked at.
func TestUndoBesideAWaitingAction(t *testing.T) {
	l, c := running(t, 3)
	killed := mustDo(t, c, "kill n1,n2,n3")
	ctx, cancel := context.WithCancel(t.Context())
	begun, done := make(chan struct{}, 2), make(chan error, 1)
	go func() { // ends with done
		_, _, err := c.do(ctx, Action{Verb: "crash", Groups: [][]string{{Leader}}, Point: "before-apply"}, func() { begun <- struct{}{} })
		done <- err
	}()
	<-begun
	c.Sample(t.Context())
	if err := c.Undo(t.Context(), killed); err != nil {
		t.Error(err)
	}
	for _, n := range c.Names() {
		if !l.Running(n) {
			t.Errorf("%s does not run again", n)
		}
	}
	select {
	case err := <-done:
		t.Fatalf("the action has ended (%v): what was undone waited for it", err)
	default:
	}
	cancel()
	if err := <-done; !errors.Is(err, errNoLeader) {
		t.Errorf("the action that waited: %v", err)
	}
}

// TestMajority: a majority is more than half and, where there are more than two nodes, not
// all; a minority is what was drawn until another one is.
func TestMajority(t *testing.T) {
	for nodes, want := range map[int][]int{1: {1}, 2: {2}, 3: {2}, 5: {3, 4}, 7: {4, 5, 6}} {
		for range 20 {
			_, c := fake(t, nodes)
			groups, err := c.resolve(&Action{Verb: "kill", Groups: [][]string{{Majority}}}, "")
			if err != nil {
				t.Fatal(err)
			}
			if n := len(groups[0]); !slices.Contains(want, n) {
				t.Errorf("a majority of %d nodes is %v", nodes, groups[0])
			}
		}
	}
	_, c := fake(t, 5)
	draw := func(verb string, group ...string) []string {
		t.Helper()
		groups, err := c.resolve(&Action{Verb: verb, Groups: [][]string{group}}, "")
		if err != nil {
			t.Fatal(err)
		}
		return groups[0]
	}
	if _, err := c.resolve(&Action{Verb: "start", Groups: [][]string{{Minority}}}, ""); !errors.Is(err, ErrAction) {
		t.Errorf("to start a minority that was never drawn: %v", err)
	}
	for range 20 {
		paused := slices.Clone(draw("pause", Minority))
		if got := draw("start", Minority); !slices.Equal(got, paused) {
			t.Errorf("%v were paused, %v are started", paused, got)
		}
		if others := draw("kill", Majority); len(others)+len(paused) != 5 || slices.ContainsFunc(others, func(n string) bool { return slices.Contains(paused, n) }) {
			t.Errorf("of a minority %v the majority is %v", paused, others)
		}
		groups, err := c.resolve(&Action{Verb: "partition", Groups: [][]string{{Majority}, {Minority}}}, "")
		if err != nil || len(groups[0]) < 3 || len(groups[0])+len(groups[1]) != 5 {
			t.Errorf("a majority and a minority: %v, %v", groups, err)
		}
	}
	// Once most of the others are gone, what is left of them is no majority.
	c.minority = []string{"n1", "n2"}
	c.gone["n3"], c.gone["n4"] = true, true
	if got := draw("kill", Majority); len(got) != 2 {
		t.Errorf("the majority of n1, n2 and n5 is %v", got)
	}
}

// TestNoFaultOfThese: what selectors mean may make an action one that does nothing.
func TestNoFaultOfThese(t *testing.T) {
	_, c := fake(t, 3)
	for _, a := range []Action{
		{Verb: "partition", Groups: [][]string{{Leader}, {"n1", "n2"}}},
		{Verb: "isolate", Groups: [][]string{{Leader, "n2", "n3"}}},
		{Verb: "oneway", Groups: [][]string{{Leader}, {"n1"}}},
		{Verb: "kill", Groups: [][]string{{"n4"}}},
	} {
		if groups, err := c.resolve(&a, "n1"); !errors.Is(err, ErrAction) {
			t.Errorf("%s with leader n1 is %v, %v", a, groups, err)
		}
	}
	if _, err := c.resolve(&Action{Verb: "oneway", Groups: [][]string{{Leader}, {All}}}, "n1"); err != nil {
		t.Error(err)
	}
}

// TestStartedAgain: what start undid is wrong no more.
func TestStartedAgain(t *testing.T) {
	l, c := running(t, 3)
	mustDo(t, c, "pause n2")
	mustDo(t, c, "kill n1,n3")
	if s := c.Sample(t.Context()); !s.Nodes[1].Paused || s.Nodes[1].Up || s.Nodes[0].Paused {
		t.Errorf("with n2 paused and n1 killed: %+v", s.Nodes)
	}
	mustDo(t, c, "start n3")
	if got := texts(c); !slices.Equal(got, []string{"n2 paused", "n1 killed"}) {
		t.Errorf("after start n3: %q", got)
	}
	mustDo(t, c, "start all")
	if got := texts(c); len(got) > 0 {
		t.Errorf("after start all: %q", got)
	}
	if !l.Running("n1") || !l.Running("n3") {
		t.Error("n1 and n3 do not run again")
	}
}

// crash ends a node's process as its own crash does, and waits until that was seen.
func crash(t *testing.T, l *lab.Lab, name string) {
	t.Helper()
	pid, err := l.PID(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e := <-l.Ended(); e.Name != name {
		t.Fatalf("%s ended, want %s", e.Name, name)
	}
}

// TestCrashed: a crash is armed until its node has ended by it, and not by something else.
func TestCrashed(t *testing.T) {
	l, c := running(t, 3)
	crash(t, l, "n3")
	act := mustDo(t, c, "crash n1,n2,n3 before-append 2")
	if got := texts(c); len(got) != 1 || !strings.HasPrefix(got[0], "armed: ") || len(c.Crashed(act)) > 0 {
		t.Errorf("before anybody comes there: %q", got)
	}
	mustDo(t, c, "kill n2")
	if down := c.Crashed(act); len(down) > 0 {
		t.Errorf("n2 was killed, n3 was down before: %v", down)
	}
	crash(t, l, "n1")
	if got := texts(c); !strings.HasPrefix(got[0], "n1 crashed before-append") || !slices.Equal(c.Crashed(act), []string{"n1"}) {
		t.Errorf("once n1 came there: %q", got)
	}
	// What is down for another reason comes up, and n1 does not.
	if started, err := c.Revive(t.Context()); err != nil || !slices.Equal(started, []string{"n3"}) || !l.Running("n3") || l.Running("n1") {
		t.Errorf("%v are started, %v", started, err)
	}
	// It is started again by name as others are, and its like stay armed.
	mustDo(t, c, "start n1")
	if !l.Running("n1") {
		t.Error("n1 is not started again")
	}
	if err := c.Undo(t.Context(), act); err != nil {
		t.Error(err)
	}
	if !slices.Equal(c.Crashed(act), []string{"n1"}) {
		t.Error("once it is undone nobody remembers the crash")
	}
}
