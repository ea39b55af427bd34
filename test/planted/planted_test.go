// Package planted runs the chaos lab on a binary that has a bug planted, and holds that
// the checkers of the lab catch it.
package planted

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chaos/check"
)

// scenarios are those of the bugs that need more than a calm cluster.
var scenarios = map[string]string{"stall": "transfers"}

const calm = "calm"

// limit is for one run: a cluster that does not come back is waited for.
const limit = 5 * time.Minute

var bugs = flag.String("bugs", "", "planted `bugs`, separated by commas; all is all of them")

// TestPlanted has the lab find each planted bug by the checkers that are there for it. The
// same binary, without a bug, is well by the same scenario.
func TestPlanted(t *testing.T) {
	var names []string
	switch *bugs {
	case "":
		t.Skip("it takes minutes: `make planted` runs it")
	case "all":
		names = slices.Sorted(maps.Keys(check.Planted))
	default:
		names = strings.Split(*bugs, ",")
	}
	binary := build(t)
	for _, scenario := range append(slices.Sorted(maps.Values(scenarios)), calm) {
		for name, ok := range play(t, binary, "", scenario, 0) {
			if !ok {
				t.Errorf("%s, without a bug: %s fails", scenario, name)
			}
		}
	}
	for _, bug := range names {
		t.Run(bug, func(t *testing.T) {
			scenario := calm
			if s, ok := scenarios[bug]; ok {
				scenario = s
			}
			verdicts := play(t, binary, bug, scenario, 1)
			for _, name := range check.Planted[bug] {
				if ok, there := verdicts[name]; ok || !there {
					t.Errorf("%s does not catch it", name)
				}
			}
		})
	}
}

// build builds the program with all bugs in it.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "exonode")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "planted", "-o", binary, "github.com/exonode/exonode/cmd/exonode")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return binary
}

// play runs a scenario with a bug, or "" for none, and returns which checkers were
// content. The program must exit with the status wanted.
func play(t *testing.T, binary, bug, scenario string, status int) map[string]bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "chaos", "run", scenario, "--duration", "6s", "--seed", "1", "-o", "json")
	cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), "EXONODE_PLANTED="+bug)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != status {
		t.Errorf("exit status %d, want %d", got, status)
		if exit != nil {
			t.Logf("%s", exit.Stderr)
		}
	}
	var verdicts []struct {
		Name     string   `json:"name"`
		OK       bool     `json:"ok"`
		Evidence []string `json:"evidence"`
	}
	if err := json.Unmarshal(out, &verdicts); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	held := make(map[string]bool)
	for _, v := range verdicts {
		held[v.Name] = v.OK
		if len(v.Evidence) > 0 {
			t.Logf("%s fails: %s", v.Name, v.Evidence[0])
		}
	}
	return held
}
