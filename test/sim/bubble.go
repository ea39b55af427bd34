package sim

import (
	"bytes"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
)

// stuck are goroutines that raft is known to leave behind; they are let pass, and
// counted. It may drop a future without an answer when it ends: what waits for it,
// node.instance.wait, stays for as long as the process runs, as its comment says. And
// the second transfer of leadership to a follower whose replication hangs never ends,
// where the leader steps down before it goes on (raft.go:1002).
var stuck = []string{"node.(*instance).wait.func1", "raft.(*Raft).leadershipTransfer", "raft.(*Raft).leaderLoop.func2"}

// inBubble runs f in a bubble and returns what is wrong with the goroutines that it
// leaves.
func inBubble(t *testing.T, f func(*testing.T)) (unanswered int, problem string) {
	var id []byte
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if id == nil || !regexp.MustCompile("^deadlock: main bubble goroutine has exited").MatchString(fmt.Sprint(r)) {
			panic(r)
		}
		for _, stack := range bubbleStacks(id) {
			if slices.ContainsFunc(stuck, func(s string) bool { return bytes.Contains(stack, []byte(s)) }) {
				unanswered++
				continue
			}
			problem += fmt.Sprintf("a goroutine is left:\n%s\n", stack)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		id = bubbleOf(stacks(false)[0])
		f(t)
	})
	return 0, ""
}

var bubbleName = regexp.MustCompile(`synctest bubble \d+\]`)

func bubbleOf(stack []byte) []byte { return bubbleName.Find(stack) }

// bubbleStacks are those of all goroutines in a bubble.
func bubbleStacks(id []byte) (in [][]byte) {
	for _, s := range stacks(true) {
		if bytes.Contains(bytes.SplitN(s, []byte("\n"), 2)[0], id) {
			in = append(in, s)
		}
	}
	return in
}

func stacks(all bool) [][]byte {
	for size := 1 << 16; ; size *= 2 {
		b := make([]byte, size)
		if n := runtime.Stack(b, all); n < size {
			return bytes.Split(b[:n], []byte("\n\n"))
		}
	}
}
