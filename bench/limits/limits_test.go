package limits_test

import (
	"os"
	"testing"
	"time"

	"github.com/exonode/exonode/bench/limits"
)

const moment = 40 * time.Millisecond

func TestSync(t *testing.T) {
	dir := t.TempDir()
	r, err := limits.Sync(t.Context(), dir, 4096, moment)
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestRaft(t *testing.T) {
	r, err := limits.NewRaft(t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, grouped := range []bool{false, true} {
		got, err := r.Measure(t.Context(), 8, 256, grouped, moment)
		if err != nil {
			t.Fatal(err)
		}
		check(t, got)
	}
}

// check holds what any result must be; how large it is is the machine's.
func check(t *testing.T, r limits.Result) {
	t.Helper()
	if r.PerSecond <= 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 {
		t.Errorf("result %+v", r)
	}
}
