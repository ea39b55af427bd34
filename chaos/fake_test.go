package chaos

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

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

// fake is a lab of processes that do nothing, and its controller. Nothing runs yet.
func fake(t *testing.T, nodes int) (*lab.Lab, *Controller) {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "idle")
	if err := os.WriteFile(binary, []byte(idle), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(t.Context(), lab.Config{Binary: binary, Nodes: nodes, Dir: filepath.Join(dir, "lab"), Chaos: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // it may have been closed
	c, err := NewController(l, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // nothing of it is under way
	return l, c
}

// running is fake with nodes that run and take their plans, and whose ids are known;
// nobody leads.
func running(t *testing.T, nodes int) (*lab.Lab, *Controller) {
	t.Helper()
	l, c := fake(t, nodes)
	for _, n := range l.Nodes() {
		listener, err := net.Listen("tcp", n.Chaos)
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })}
		served := make(chan struct{})
		go func() { // joined by the cleanup
			defer close(served)
			_ = s.Serve(listener) // until it is closed
		}()
		t.Cleanup(func() {
			_ = s.Close() // the test is over
			<-served
		})
		c.ids[n.Name] = "id of " + n.Name
		if err := l.Start(n.Name); err != nil {
			t.Fatal(err)
		}
	}
	return l, c
}
