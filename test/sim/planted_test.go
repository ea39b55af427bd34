package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/internal/planted"
)

// In a binary with a planted bug, some seed soon has the checkers fail that must. Bugs of
// the watch stand in the server, which nobody calls here.
func TestPlanted(t *testing.T) {
	if planted.Bug == "" {
		t.Skip("no bug is planted: `make sim-planted` plants them")
	}
	defer func(began time.Time) { t.Logf("in %v", time.Since(began).Round(time.Millisecond)) }(time.Now())
	want := check.Planted[planted.Bug]
	var found []string
	// Nothing crashes: a node that starts again finds some of the bugs itself, and
	// stays down.
	network := []string{"partition", "pair", "oneway", "isolate-leader", "delay", "flap", "transfer"}
	for seed := uint64(1); seed <= 10; seed++ {
		o := Run(t, Config{Seed: seed, Dir: t.TempDir(), Length: 30 * time.Second, Pace: time.Second, Think: 200 * time.Millisecond, Kinds: network})
		if o.Verdicts == nil {
			for _, p := range o.Problems {
				t.Logf("seed %d, before anything was judged: %.200s", seed, p)
			}
		}
		for _, v := range o.Verdicts {
			if !v.OK && !slices.Contains(found, v.Name) {
				found = append(found, v.Name)
				t.Logf("seed %d: %s: %.200s", seed, v.Name, v.Evidence[0])
			}
		}
		if !slices.ContainsFunc(want, func(name string) bool { return !slices.Contains(found, name) }) {
			t.Logf("planted: %s is found by %s after %d seeds", planted.Bug, strings.Join(found, ", "), seed)
			return
		}
	}
	t.Errorf("planted: %s: %s failed with ten seeds, want %s", planted.Bug, found, want)
}
