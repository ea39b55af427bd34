package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// exonode is the binary exonode under test, built once for each run.
var exonode string

func TestMain(m *testing.M) {
	if faultyNode() {
		return // it was: this process was a node
	}
	flag.Parse()
	if !parallelSet() {
		// The tests wait more than they work.
		_ = flag.Set("test.parallel", "5")
	}
	os.Exit(run(m))
}

func parallelSet() (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	return set
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "exonode-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	exonode = filepath.Join(dir, "exonode")
	build := exec.Command("go", "build", "-o", exonode, "github.com/exonode/exonode/cmd/exonode")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build exonode: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
