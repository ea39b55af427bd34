package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exonode/exonode/chaos"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/lab"
)

// typed runs a command line and returns its exit status and what it printed.
func typed(t *testing.T, words ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), words, strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

// supervised is the directory of a lab whose supervisor takes every action, and what it
// was told last.
func supervised(t *testing.T) (dir string, told func() string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // the system does otherwise
	listener, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	words := make(chan string, 1)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body) // what is missing shows
		words <- string(b)
	})}
	served := make(chan struct{})
	go func() { // joined by the cleanup
		defer close(served)
		_ = s.Serve(listener) // until it is closed
	}()
	t.Cleanup(func() {
		_ = s.Close() // the test is over
		<-served
	})
	return dir, func() string {
		select {
		case text := <-words:
			return text
		default:
			return "nothing"
		}
	}
}

// TestFlagsAmongWords: the flags of a fault command may stand anywhere, and a clock may
// all the same go back.
func TestFlagsAmongWords(t *testing.T) {
	dir, told := supervised(t)
	for _, test := range []struct{ words, want string }{
		{"chaos partition n1 n2,n3 --dir DIR", "partition n1 n2,n3"},
		{"chaos partition n1 --dir DIR n2,n3 -o json", "partition n1 n2,n3"},
		{"chaos --dir DIR kill n1 -o json", "kill n1"},
		{"chaos clock n1 -5s --dir DIR", "clock n1 -5s"},
		{"chaos clock --dir DIR n1 -1h30m -o json", "clock n1 -1h30m0s"},
		{"-o json chaos clock n1 -.5s --dir DIR", "clock n1 -500ms"},
		{"chaos clock --dir DIR -- n1 -5s", "clock n1 -5s"},
		{"chaos clock n1 5s --dir=DIR", "clock n1 5s"},
	} {
		status, out, errs := typed(t, strings.Fields(strings.ReplaceAll(test.words, "DIR", dir))...)
		if got := told(); status != exitOK || got != test.want {
			t.Errorf("%s: %q, status %d, %s%s", test.words, got, status, out, errs)
		}
		if strings.Contains(test.words, "json") != json.Valid([]byte(out)) {
			t.Errorf("%s prints %q", test.words, out)
		}
	}
	// What a flag has for a value is no word.
	if status, _, errs := typed(t, "chaos", "clock", "n1", "1s", "--dir", dir, "--timeout", "-5s"); status != exitUsage || !strings.Contains(errs, "--timeout is -5s") {
		t.Errorf("status %d: %s", status, errs)
	}
}

// TestChaosRefuses: what can't be run is refused before anything runs, by its name.
func TestChaosRefuses(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	faulty := filepath.Join(dir, "faulty.yaml")
	if err := os.WriteFile(faulty, []byte(`steps: [{at: 1s, do: partition n1 n9}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for words, want := range map[string]string{
		"run --duration -5s":                   "--duration is -5s",
		"run --duration 0s":                    "--duration is 0s",
		"run --duration 1s":                    "no fault comes within 1s",
		"run crashes --duration 500ms":         "no fault comes within 500ms",
		"run --nodes 0":                        "--nodes is 0",
		"run --nodes 10":                       "--nodes is 10",
		"run --nodes 1 --faults partition":     "with 1 node there is no partition",
		"run --faults foo":                     `"foo" is none of`,
		"run trap-removed-node --nodes 3":      "of 3 nodes there is no n5",
		"run " + faulty:                        "there is no n9",
		"run partitions --against":             "scenario partitions has faults",
		"run --against --faults kill":          "leave out --faults",
		"run calm --report " + dir:             "choose another file with --report",
		"run calm --report " + dir + "/none/x": "choose another file with --report",
		"run --against --addr 127.0.0.1:1":     "(unreachable)",
		"up -n 0 --dir " + dir + "/lab":        "--nodes is 0",
		"up -n -2 --dir " + dir + "/lab":       "--nodes is -2",
		"up --nodes 16 --dir " + dir + "/lab":  "--nodes is 16",
		"throttle n1 0 --dir " + dir + "/lab":  "want at least 1",
		"isolate all --dir " + dir + "/lab":    "there are no others",
	} {
		status, out, errs := typed(t, append([]string{"chaos"}, strings.Fields(words)...)...)
		if status != exitUsage || !strings.Contains(errs, want) {
			t.Errorf("chaos %s: status %d, want %q in %s%s", words, status, want, out, errs)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "lab")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lab's directory: %v", err)
	}
	if left, err := filepath.Glob("*"); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestAgainstSilence: --timeout bounds the wait for the first answer, and nothing is run
// without one.
func TestAgainstSilence(t *testing.T) {
	t.Chdir(t.TempDir())
	listener, err := net.Listen("tcp", "127.0.0.1:0") // connections wait in its queue
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	status, _, errs := typed(t, "chaos", "run", "--against", "--addr", listener.Addr().String(), "--timeout", "50ms")
	if status != exitUsage || !strings.Contains(errs, "(unreachable)") || !strings.Contains(errs, "nothing was run") {
		t.Errorf("status %d: %s", status, errs)
	}
}

// TestWritable: to see whether a report can be written leaves what is there.
func TestWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.html")
	if err := writable(path); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
	if err := os.WriteFile(path, []byte("an older one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writable(path); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); string(b) != "an older one" {
		t.Errorf("it has become %q, %v", b, err)
	}
}

// TestNotStarted: an error of the supervisor is told once, with its own code.
func TestNotStarted(t *testing.T) {
	err := notStarted([]byte("a warning\n" + errorJSON(failf(codeAddressInUse, "stop it", "a port is taken")) + "\n"))
	if text := (&app{output: "text"}).explain(err); text != "exonode: the lab did not start: a port is taken (address_in_use)\n  stop it" {
		t.Error(text)
	}
	if err := notStarted([]byte("a panic\n")); codeOf(err) != string(codeFailed) || !strings.Contains(err.Error(), "a panic") {
		t.Error(err)
	}
}

// TestLabStatus: a node that is paused is shown as such.
func TestLabStatus(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out, output: "text"}
	s := chaos.LabStatus{Nodes: []lab.Node{{Name: "n1"}, {Name: "n2"}}, Sample: history.Sample{Nodes: []history.NodeSample{{Name: "n1", Paused: true}, {Name: "n2"}}}}
	if err := a.printLabStatus(s); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if !strings.Contains(lines[1], "paused") || !strings.Contains(lines[2], "down") || !strings.Contains(out.String(), "- is down or paused") {
		t.Error(out.String())
	}
}
