//go:build linux && netns

package netns_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/test/netns"
)

// program is the exonode under test, built once by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// Whoever gives the build tag wants the tests to run: no skipping.
	if err := netns.Check(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "exonode-netns-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "exonode")
	args := []string{"build", "-o", program}
	if os.Getenv("EXONODE_PLANTED") != "" { // the processes have it of us, and the bug: the tests must fail
		args = append(args, "-tags", "planted")
	}
	build := exec.Command("go", append(args, "github.com/exonode/exonode/cmd/exonode")...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build exonode: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// tick is how often eventually looks.
const tick = 50 * time.Millisecond

// eventually calls f until it returns nil, and fails the test with its last
// error when ctx ends. These tests watch processes from outside, where no event
// tells of a changed state: here, and only here, a test may poll.
func eventually(ctx context.Context, t *testing.T, what string, f func(context.Context) error) {
	t.Helper()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v (last: %v)", what, ctx.Err(), err)
		case <-time.After(tick):
		}
	}
}

// bounded is a context for one test, or one step of it.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// tailOf returns the last lines of a log, for a failed test.
func tailOf(lines []string, n int) string {
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
