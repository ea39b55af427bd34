package check_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
)

var plantedTag = regexp.MustCompile(`(?m)^//go:build (planted_\w+)$`)

// Every bug that can be planted has checkers that must catch it, and the other way
// about.
func TestPlanted(t *testing.T) {
	files, err := filepath.Glob("../../internal/planted/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if m := plantedTag.FindSubmatch(text); m != nil {
			tags = append(tags, string(m[1]))
		}
	}
	slices.Sort(tags)
	if diff := cmp.Diff(slices.Sorted(maps.Keys(check.Planted)), tags); diff != "" {
		t.Error(diff)
	}
	var names []string
	for _, v := range check.All(new(history.History), nil, check.Limits{}) {
		names = append(names, v.Name)
	}
	for tag, checkers := range check.Planted {
		for _, name := range checkers {
			if !slices.Contains(names, name) {
				t.Errorf("%s: there is no checker %q", tag, name)
			}
		}
	}
}
