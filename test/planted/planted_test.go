// Package planted runs the chaos lab on binaries that have a bug planted, and holds that
// the checkers of the lab catch it.
package planted

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/exonode/exonode/chaos/check"
)

// scenarios are those of the bugs that need more than a calm cluster.
var scenarios = map[string]string{"planted_stall": "transfers"}

const calm = "calm"

// limit is for one run: a cluster that does not come back is waited for.
const limit = 5 * time.Minute

// TestPlanted builds the program with each planted bug, and has the lab find it by the
// checkers that are there for it. The same scenario finds nothing in a plain binary.
func TestPlanted(t *testing.T) {
	if os.Getenv("EXONODE_PLANTED") == "" {
		t.Skip("it builds twelve binaries: `make planted` runs it")
	}
	plain := build(t, "")
	for _, scenario := range append(slices.Sorted(maps.Values(scenarios)), calm) {
		for name, ok := range play(t, plain, scenario, 0) {
			if !ok {
				t.Errorf("%s, without a bug: %s fails", scenario, name)
			}
		}
	}
	for _, tag := range slices.Sorted(maps.Keys(check.Planted)) {
		t.Run(tag, func(t *testing.T) {
			scenario := calm
			if s, ok := scenarios[tag]; ok {
				scenario = s
			}
			verdicts := play(t, build(t, tag), scenario, 1)
			for _, name := range check.Planted[tag] {
				if ok, there := verdicts[name]; ok || !there {
					t.Errorf("%s does not catch it", name)
				}
			}
		})
	}
}

// build builds the program with a tag, or none.
func build(t *testing.T, tag string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "exonode")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", tag, "-o", binary, "github.com/exonode/exonode/cmd/exonode")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with %q: %v\n%s", tag, err, out)
	}
	return binary
}

// play runs a scenario and returns which checkers were content. The program must exit with
// the status wanted.
func play(t *testing.T, binary, scenario string, status int) map[string]bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "chaos", "run", scenario, "--duration", "6s", "--seed", "1", "-o", "json")
	cmd.Dir = t.TempDir()
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
