package e2e

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/ledger"
)

// long skips a test that takes minutes, unless EXONODE_LONG is 1.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("EXONODE_LONG") != "1" {
		t.Skip("takes minutes: set EXONODE_LONG=1")
	}
}

const (
	few  = 10_000
	many = 1_000_000
	// step is how many events make the next snapshot due.
	step = 10_000
	// maxMemory is what a node may have resident, at any size of the chain.
	maxMemory = 1 << 30
	// maxGrowth is how much larger a snapshot may be for a chain a hundred
	// times as long: the numbers in it have more digits.
	maxGrowth = 64
)

// TestMillionEntries compares what a snapshot costs at 10,000 and 1,000,000
// entries, and restarts the nodes with the latter. The times are printed; what
// is held is the work done, and memory.
func TestMillionEntries(t *testing.T) {
	long(t)
	c := startCluster(t, lab.Config{Args: []string{"--snapshot-bytes", "1048576"}})
	c.grow(0, few)
	small := c.snapshotCost(few)
	began := time.Now()
	have := few + (1+snapshotsTaken)*step
	c.grow(have, many-have)
	t.Logf("%d events of 256 bytes in %v", many-have, time.Since(began).Round(time.Millisecond))
	c.checkMemory("running")
	for _, name := range c.running() {
		c.kill(name)
	}
	c.restartAll("killed")
	// After a restart, so that no snapshot shares the disk with the compaction of
	// what was written in half a minute.
	large := c.snapshotCost(many)
	for name, s := range small {
		l := large[name]
		t.Logf("%s: snapshots took %v and %v bytes at %d entries, %v and %v bytes at %d", name, s.took, s.bytes, few, l.took, l.bytes, many)
		if l.bytes > s.bytes+maxGrowth {
			t.Errorf("%s: a snapshot has %v bytes at %d entries, and %v at %d", name, s.bytes, few, l.bytes, many)
		}
	}
	for _, name := range c.running() {
		c.stop(name)
	}
	c.restartAll("stopped")
	c.checkDisks()
	c.checkSameRoots()
}

// grow submits events k to k+n-1 of one source.
func (c *cluster) grow(k, n int) {
	c.t.Helper()
	stats, err := c.newClient(0).Pump(c.ctx, bulk("million", k, n, 200), client.PumpOptions{})
	must(c.t, err)
	// A duplicate was sealed before its first answer was lost.
	if stats.Sealed+stats.Duplicates != uint64(n) {
		c.t.Fatalf("%+v, want %d", stats, n)
	}
}

// cost is what a node's snapshots took: each, and the bytes of the last.
type cost struct {
	took  []time.Duration
	bytes float64
}

// snapshotsTaken is how many snapshots snapshotCost looks at.
const snapshotsTaken = 5

// snapshotCost has every node take some snapshots, each after as many more
// events. The times are those of a busy machine; the smallest says most.
func (c *cluster) snapshotCost(k int) map[string]*cost {
	c.t.Helper()
	const count, sum = "exonode_snapshot_seconds_count", "exonode_snapshot_seconds_sum"
	costs := make(map[string]*cost)
	for _, name := range c.running() {
		costs[name] = new(cost)
	}
	for i := range 1 + snapshotsTaken {
		n, took := make(map[string]float64), make(map[string]float64)
		for name := range costs {
			n[name], took[name] = c.metric(name, count), c.metric(name, sum)
		}
		c.grow(k+i*step, step)
		for name, s := range costs {
			var taken float64
			c.await("a snapshot of "+name, func(ctx context.Context) (bool, error) {
				v, err := c.tryMetric(ctx, name, count)
				taken = v - n[name]
				return taken > 0, err
			})
			mean := (c.metric(name, sum) - took[name]) / taken
			if i > 0 { // the first one flushed what came before, however much it was
				s.took = append(s.took, time.Duration(mean*float64(time.Second)).Round(10*time.Microsecond))
			}
			s.bytes = c.metric(name, "exonode_snapshot_bytes")
		}
	}
	for _, s := range costs {
		slices.Sort(s.took)
	}
	return costs
}

func (c *cluster) checkMemory(state string) {
	c.t.Helper()
	for _, name := range c.running() {
		rss := c.metric(name, "process_resident_memory_bytes")
		c.t.Logf("%s, %s: %.0f MiB resident", name, state, rss/(1<<20))
		if rss > maxMemory {
			c.t.Errorf("%s, %s: %.0f MiB resident, want at most %d", name, state, rss/(1<<20), maxMemory>>20)
		}
	}
}

func (c *cluster) restartAll(state string) {
	c.t.Helper()
	for _, n := range c.Nodes() {
		must(c.t, c.Start(n.Name))
	}
	began := time.Now()
	must(c.t, c.WaitReady(c.ctx))
	c.t.Logf("%s with %d entries, all nodes were ready after %v", state, many, time.Since(began).Round(time.Millisecond))
	for _, n := range c.Nodes() {
		c.t.Logf("%s: %s", n.Name, strings.Join(c.phases(n.Name), ", "))
	}
	c.checkMemory("after they were " + state)
}

var phase = regexp.MustCompile(`msg=phase .*name=(\w+) elapsed=(\S+)`)

// phases returns when a node entered the phases of its last start.
func (c *cluster) phases(name string) (phases []string) {
	c.t.Helper()
	b, err := os.ReadFile(c.LogFile(name))
	must(c.t, err)
	for _, m := range phase.FindAllStringSubmatch(string(b), -1) {
		if m[1] == "INIT" {
			phases = nil
		}
		phases = append(phases, m[1]+" "+m[2])
	}
	return phases
}

// checkSameRoots compares the trees on the disks of all stopped nodes.
func (c *cluster) checkSameRoots() {
	c.t.Helper()
	var stores []*ledger.Store
	size := ^uint64(0)
	for _, n := range c.Nodes() {
		s, err := ledger.OpenReadOnly(c.DataDir(n.Name)+"/ledger", ledger.Options{})
		must(c.t, err)
		defer s.Close()
		stores = append(stores, s)
		size = min(size, s.Meta().Head.Size)
	}
	if size < many {
		c.t.Errorf("a node has %d entries, want %d", size, many)
	}
	var first chain.Hash
	for i, s := range stores {
		root, err := s.RootAt(size)
		must(c.t, err)
		if i == 0 {
			first = root
		} else if root != first {
			c.t.Errorf("%s: the root of %d entries is %v, that of %s %v", c.Nodes()[i].Name, size, root, c.Nodes()[0].Name, first)
		}
	}
}
