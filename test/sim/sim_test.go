package sim

import (
	"flag"
	"fmt"
	"io"
	"os"
	"testing"
	"time"
)

var (
	length = flag.Duration("length", 0, "how long faults are made, of the bubble's time")
	seeds  = flag.String("seeds", "", "seeds to run, first-last")
	verb   = flag.Bool("nodelog", false, "show what nodes log")
)

func TestOne(t *testing.T) {
	var out io.Writer
	if *verb {
		out = os.Stderr
	}
	first, last := uint64(1), uint64(1)
	if *seeds != "" {
		if _, err := fmt.Sscanf(*seeds, "%d-%d", &first, &last); err != nil {
			t.Fatal(err)
		}
	}
	for seed := first; seed <= last; seed++ {
		o := Run(t, Config{Seed: seed, Length: *length, Dir: t.TempDir(), Log: out})
		t.Logf("seed %d: virtual %v real %v (%.0fx) faults %d elections %d events %d ops %d acked %d unanswered %d", seed, o.Virtual, o.Real.Round(time.Millisecond), o.Virtual.Seconds()/o.Real.Seconds(), o.Faults, o.Elections, o.Events, o.Operations, o.Acknowledged, o.Unanswered)
		for _, p := range o.Problems {
			t.Errorf("seed %d: %s", seed, p)
		}
	}
}
