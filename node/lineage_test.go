package node

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWarningEnds: another chain that is not heard of any more is no warning.
func TestWarningEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := new(Node)
		if w := n.warning(); w != "" {
			t.Errorf("at first: %q", w)
		}
		n.split.Store(&split{"two chains", time.Now()})
		time.Sleep(3 * regossip)
		if n.warning() != "two chains" {
			t.Error("no warning, though the other was just there")
		}
		time.Sleep(2 * regossip)
		if w := n.warning(); w != "" {
			t.Errorf("long after: %q", w)
		}
	})
}
