package check_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/internal/planted"
)

// Every bug that can be planted has checkers that must catch it, and every checker has a
// bug.
func TestPlanted(t *testing.T) {
	if diff := cmp.Diff(slices.Sorted(maps.Keys(check.Planted)), planted.Bugs); diff != "" {
		t.Error(diff)
	}
	var names []string
	for _, v := range check.All(new(history.History), nil, check.Limits{}) {
		names = append(names, v.Name)
	}
	caught := make(map[string]bool)
	for bug, checkers := range check.Planted {
		for _, name := range checkers {
			if !slices.Contains(names, name) {
				t.Errorf("%s: there is no checker %q", bug, name)
			}
			caught[name] = true
		}
	}
	for _, name := range names {
		if !caught[name] {
			t.Errorf("there is no bug that %s must catch", name)
		}
	}
}
