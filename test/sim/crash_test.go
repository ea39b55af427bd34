package sim

import (
	"context"
	"testing"
	"time"

	"github.com/exonode/exonode/faults"
)

// Leader and followers crash where they cosign a checkpoint, losing what was not synced,
// and start again: all cosign on, and none is refused for what it signed before.
func TestCrashAtCosign(t *testing.T) {
	if *seeds != "" {
		t.Skip("TestSim runs")
	}
	t.Parallel()
	o := Run(t, Config{Seed: 1, Dir: t.TempDir(), Steps: cosignCrashes, Silence: 10 * time.Second, Checkpoints: time.Second})
	for _, p := range o.Problems {
		t.Error(p)
	}
	if n := o.Passed["crashes where it cosigns"]; n != 8 {
		t.Errorf("%d crashes, want 8", n)
	}
}

func cosignCrashes(c *cluster) {
	c.cosigned()
	for range 2 {
		for _, point := range []faults.Point{faults.BeforeCosign, faults.AfterCosign} {
			for _, leader := range []bool{true, false} {
				l := c.lead()
				if !leader {
					l = c.without(l.m)[0].running()
				}
				c.note("crash-point", l.m.name+" crashes "+string(point))
				l.change(func(p *faults.Plan) { p.Crash = faults.Crash{Point: point} })
				select {
				case <-l.over:
					c.seen.add("crashes where it cosigns")
				case <-time.After(30 * time.Second):
					c.problem("%s does not come to %s", l.m.name, point)
					return
				}
				l.m.start()
				c.cosigned()
			}
		}
	}
}

// cosigned waits until a checkpoint is final that is larger than any before, and that all
// nodes cosigned.
func (c *cluster) cosigned() {
	head := uint64(0)
	for give := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		s, err := c.lead().node.Status(context.Background())
		must(err)
		if head == 0 {
			head = s.Head.Size
		}
		switch p := s.Checkpoint; {
		case p.Size >= head && p.Cosigned == size:
			return
		case time.Now().After(give):
			c.problem("of %d entries, a checkpoint of %d is final, cosigned by %d: %s %v", s.Head.Size, p.Size, p.Cosigned, p.Problem, p.Refusals)
			return
		}
	}
}
