package chaos

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chaos/lab"
)

// idle stands in for the program: it makes an empty cluster file, or tells the plan that
// it has at its start and lives until its standard input ends, without listening.
const idle = `#!/bin/sh
if [ "$1" = init ]; then : > "$3"; exit; fi
while [ $# -gt 0 ]; do
	if [ "$1" = --chaos-plan ]; then cat "$2"; echo; echo "that is all"; fi
	shift
done
exec cat
`

// TestStartsMended: a node that crashed as it was told is started again with a plan that
// does not tell it so any more; that it takes its time to listen is no trouble.
func TestStartsMended(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "idle")
	if err := os.WriteFile(binary, []byte(idle), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(t.Context(), lab.Config{Binary: binary, Nodes: 1, Dir: filepath.Join(dir, "lab"), Chaos: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := NewController(l, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := ParseAction("crash n1 before-vote")
	if err != nil {
		t.Fatal(err)
	}
	act := &Active{Action: a, Nodes: []string{"n1"}, groups: a.Groups}
	c.active = []*Active{act}
	if err := c.settle(t.Context()); err != nil || l.Running("n1") {
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
