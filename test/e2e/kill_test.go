package e2e

import (
	"testing"

	"github.com/exonode/exonode/chaos/lab"
)

// TestKillLeader kills the leader ten times in a row under load, then all nodes
// at once. Each comes back from its own disk.
func TestKillLeader(t *testing.T) {
	t.Parallel()
	killLeader(t, 10)
}

// TestKillLeaderBoltDB does so with the other store of raft's log.
func TestKillLeaderBoltDB(t *testing.T) {
	t.Parallel()
	killLeader(t, 2, "--raft-log", "boltdb")
}

func killLeader(t *testing.T, times int, args ...string) {
	c := startCluster(t, lab.Config{Args: args})
	l := c.startLoad("kill", 6)
	for range times {
		l.progress(60)
		victim := c.leader()
		c.kill(victim)
		l.progress(20) // the others carry on
		c.start(victim)
	}
	l.progress(60)
	for _, name := range c.running() {
		c.kill(name)
	}
	for _, n := range c.Nodes() {
		must(t, c.Start(n.Name))
	}
	must(t, c.WaitReady(c.ctx))
	l.progress(20) // the writers' clients find them again
	l.stop()
	l.check()
	c.checkIdentical()
	c.checkDisks()
}
