package e2e

import (
	"sync"
	"testing"

	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
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
	l, o := c.startLoad("kill", 6), c.observe()
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
	o.check()
	c.checkIdentical()
	c.checkDisks()
}

// TestReadAfterElection kills the leader of an idle cluster the moment that it
// acknowledged an event: the others have it in their logs and do not know that
// it is committed. The first linearizable read of the next leader tells of it.
func TestReadAfterElection(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{})
	for round := range 3 {
		victim := c.leader()
		ack, err := c.newClient(c.index(victim)).Append(c.ctx, testEvent("last words", round))
		must(t, err)
		c.kill(victim)
		var wg sync.WaitGroup
		for _, name := range c.running() {
			reader := c.on(name).At(client.Linearizable)
			wg.Go(func() {
				head, err := reader.Head(c.ctx)
				if err != nil || head.Size <= ack.Sequence {
					t.Errorf("%s has %d entries after entry %d was acknowledged: %v", name, head.Size, ack.Sequence, err)
				}
			})
			wg.Go(func() {
				found, err := reader.Lookup(c.ctx, ack.Key)
				if err != nil || found.Entry == nil || found.Entry.Sequence != ack.Sequence {
					t.Errorf("%s does not know entry %d: %+v, %v", name, ack.Sequence, found, err)
				}
			})
		}
		wg.Wait()
		c.start(victim)
	}
}
