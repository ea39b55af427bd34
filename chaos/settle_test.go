package chaos

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chaos/history"
)

// TestStartsMended: a node that crashed as it was told is started again with a plan that
// does not tell it so any more; that it takes its time to listen is no trouble.
func TestStartsMended(t *testing.T) {
	l, c := fake(t, 1)
	a, err := ParseAction("crash n1 before-vote")
	if err != nil {
		t.Fatal(err)
	}
	act := &Active{Action: a, ID: 1, Nodes: []string{"n1"}, groups: a.Groups}
	c.active, c.crashed[1] = []*Active{act}, []string{"n1"}
	if _, err := c.arrange(); err != nil || l.Running("n1") {
		t.Fatalf("a node that an action has crash: runs %v, %v", l.Running("n1"), err)
	}
	if err := c.Undo(t.Context(), act); err != nil {
		t.Error(err)
	}
	for give := time.Now().Add(time.Minute); ; {
		b, err := os.ReadFile(l.LogFile("n1"))
		if strings.Contains(string(b), "before-vote") {
			t.Fatal("it starts with the plan to crash")
		}
		if strings.Contains(string(b), "that is all") {
			return
		}
		if time.Now().After(give) {
			t.Fatalf("it does not start: %q, %v", b, err)
		}
	}
}

// TestCovers: what was delivered is of the chain that is judged, and no less than it was.
func TestCovers(t *testing.T) {
	for _, test := range []struct {
		size uint64
		seen []uint64
		want uint64
	}{{5, nil, 5}, {5, []uint64{0, 4}, 5}, {5, []uint64{3, 6, 5}, 7}} {
		var delivered []history.Delivery
		for _, seq := range test.seen {
			delivered = append(delivered, history.Delivery{Sequence: seq})
		}
		if got := covers(test.size, delivered); got != test.want {
			t.Errorf("%d entries, and %v delivered: %d, want %d", test.size, test.seen, got, test.want)
		}
	}
}
