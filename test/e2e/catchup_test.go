package e2e

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/node/raftstore"
)

// shortLogs makes raft's log as short as it gets. Space comes back in segments
// of 16 MiB, and within one what was truncated can still be read: a node that
// missed as much, and some hundred commands, needs a manifest.
var shortLogs = []string{"--snapshot-logs", "50", "--snapshot-bytes", "4096"}

// TestCatchUp has a follower catch up by manifest, after the others truncated
// the log that it would need: in peace, while the cluster goes on committing,
// and while the node that it fetches from is killed.
func TestCatchUp(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{Args: shortLogs})
	c.pump("before", 2000, 100)

	c.catchUpQuietly()
	c.catchUpBusily()
	c.catchUpFromTwo()
	c.checkDisks()
}

func (c *cluster) catchUpQuietly() {
	t := c.t
	a := c.sendAway("quiet")
	a.load.stop()
	c.start(a.name)
	fetched, installs := a.fetched()
	a.checkFetched(fetched, installs)
	t.Logf("%s had %d entries, and fetched the %d to %d", a.name, a.size, fetched, installs[0])
	a.load.check()
}

func (c *cluster) catchUpBusily() {
	t := c.t
	a := c.sendAway("busy")
	c.start(a.name)
	fetched, installs := a.fetched()
	a.load.progress(60) // it is ready, and takes part
	a.load.stop()
	// What came between two manifests may have come by the log.
	if first, last := installs[0]-a.size, installs[len(installs)-1]-a.size; fetched+a.inLog < first || fetched > last {
		t.Fatalf("%d entries fetched for manifests of %v entries, %d to %d were missing", fetched, installs, first, last)
	}
	t.Logf("%s had %d entries, and fetched %d for manifests of %v while the cluster went on", a.name, a.size, fetched, installs)
	a.load.check()
}

func (c *cluster) catchUpFromTwo() {
	t := c.t
	a := c.sendAway("source")
	a.load.stop()
	// Enough to be interrupted.
	c.pump("large", 500, bulkSize)
	c.snapshots()
	// Nodes are asked in the order of their ids, the leader last where it is
	// known.
	up := c.running()
	slices.SortFunc(up, func(a, b string) int { return strings.Compare(c.ids[a], c.ids[b]) })
	source, leader := up[0], up[1]
	c.lead(leader, up...)
	missing := c.metric(leader, "exonode_chain_entries") - float64(a.size)
	must(t, c.Start(a.name))
	var before float64
	c.await("some entries to be fetched", func(ctx context.Context) (bool, error) {
		var err error
		before, err = c.tryMetric(ctx, a.name, fetchedMetric)
		return before > 0, err
	})
	c.kill(source)
	if before >= missing {
		t.Fatalf("%v of %v entries were fetched before %s was killed: too late", before, missing, source)
	}
	must(t, c.WaitReady(c.ctx, a.name))
	fetched, installs := a.fetched()
	a.checkFetched(fetched, installs)
	if !strings.Contains(a.log(), "from "+c.ids[source]) {
		t.Fatalf("%s does not say that it lost %s while it fetched", a.name, source)
	}
	t.Logf("%s fetched %d entries; %s was killed after %v of them", a.name, fetched, source, before)
	c.start(source)
	c.checkIdentical()
}

const fetchedMetric = "exonode_catchup_fetched_entries_total"

// bulkSize is that of events of which some fill a segment.
const bulkSize = 48 << 10

// absence is that of a node that can only come back by a manifest.
type absence struct {
	c    *cluster
	name string
	// size is how many entries it has, and inLog how many more its own log
	// may bring: it left before it heard that they are committed.
	size, inLog uint64
	// load is what the others get meanwhile.
	load *load
	// logged is how much it had logged when it left.
	logged int
}

// sendAway stops a follower and has the others truncate the log behind it.
func (c *cluster) sendAway(source string) *absence {
	c.t.Helper()
	a := &absence{c: c}
	leader := c.leader()
	for _, name := range c.running() {
		if name != leader {
			a.name = name
		}
	}
	c.stop(a.name)
	store, err := ledger.OpenReadOnly(c.DataDir(a.name)+"/ledger", ledger.Options{})
	must(c.t, err)
	a.size = store.Meta().Head.Size
	a.logged, a.inLog = len(a.log()), c.inLog(a.name, store.Meta().Applied)
	must(c.t, store.Close())
	c.pump(source+"-bulk", 18*(1<<20)/bulkSize, bulkSize)
	a.load = c.startLoad(source, 6)
	c.snapshots()
	return a
}

// inLog returns how many events a stopped node's raft log has beyond an index.
func (c *cluster) inLog(name string, applied uint64) (n uint64) {
	c.t.Helper()
	stores, err := raftstore.Open(raftstore.Config{
		Dir: c.DataDir(name) + "/raft", Backend: raftstore.WAL, WriteTimeout: patience,
		Fatal: func(err error) { c.t.Error(err) }, Logger: slog.New(slog.DiscardHandler),
	})
	must(c.t, err)
	defer stores.Close()
	last, err := stores.Log.LastIndex()
	must(c.t, err)
	for index := applied + 1; index <= last; index++ {
		var l raft.Log
		must(c.t, stores.Log.GetLog(index, &l))
		if l.Type != raft.LogCommand {
			n++
			continue
		}
		var command fsm.Command
		must(c.t, command.UnmarshalBinary(l.Data))
		if command.Batch != nil {
			n += uint64(len(command.Batch.Events))
		}
	}
	return n
}

// checkFetched holds what was fetched for one manifest against what was missing.
func (a *absence) checkFetched(fetched uint64, installs []uint64) {
	a.c.t.Helper()
	if want := installs[0] - a.size; len(installs) != 1 || fetched > want || fetched+a.inLog < want {
		a.c.t.Fatalf("%d entries fetched for manifests of %v entries, %d were missing, of which its log had %d", fetched, installs, want, a.inLog)
	}
}

// snapshots waits until every running node has taken another snapshot.
func (c *cluster) snapshots() {
	c.t.Helper()
	const metric = "exonode_snapshot_seconds_count"
	before := make(map[string]float64)
	for _, name := range c.running() {
		before[name] = c.metric(name, metric)
	}
	l := c.startLoad(fmt.Sprintf("snapshots-%d", time.Now().UnixNano()), 3)
	c.await("a snapshot on every node", func(ctx context.Context) (bool, error) {
		for name, count := range before {
			if now, err := c.tryMetric(ctx, name, metric); err != nil || now <= count {
				return false, fmt.Errorf("%s has taken %v: %w", name, now, err)
			}
		}
		return true, nil
	})
	l.stop()
}

func (a *absence) log() string {
	a.c.t.Helper()
	b, err := os.ReadFile(a.c.LogFile(a.name))
	must(a.c.t, err)
	return string(b[a.logged:])
}

var restored = regexp.MustCompile(`msg="snapshot restored" .*entries=(\d+)`)

// installed returns how many entries the manifests have that a node's log tells
// of.
func installed(t *testing.T, log string) (sizes []uint64) {
	t.Helper()
	for _, m := range restored.FindAllStringSubmatch(log, -1) {
		size, err := strconv.ParseUint(m[1], 10, 64)
		must(t, err)
		sizes = append(sizes, size)
	}
	return sizes
}

// fetched returns how many entries the node has fetched since it came back, and
// how many entries the manifests name that it installed.
func (a *absence) fetched() (n uint64, installs []uint64) {
	a.c.t.Helper()
	installs = installed(a.c.t, a.log())
	if len(installs) == 0 {
		a.c.t.Fatalf("%s came back without a manifest", a.name)
	}
	return uint64(a.c.metric(a.name, fetchedMetric)), installs
}

// pump submits n events with payloads of about a size, on one stream.
func (c *cluster) pump(source string, n, size int) {
	c.t.Helper()
	stats, err := c.client.Pump(c.ctx, bulk(source, 0, n, size), client.PumpOptions{})
	must(c.t, err)
	// A duplicate was sealed before its first answer was lost.
	if stats.Sealed+stats.Duplicates != uint64(n) {
		c.t.Fatalf("pumped %+v, want %d", stats, n)
	}
}

// bulk are events k to k+n-1 of a source.
func bulk(source string, k, n, size int) iter.Seq2[chain.Event, error] {
	filler := strings.Repeat("x", size)
	return func(yield func(chain.Event, error) bool) {
		for i := range n {
			e := testEvent(source, 3*(k+i))
			e.Payload = fmt.Appendf(nil, `{"hash":"%d%s","size":%d,"content_type":"text/plain"}`, k+i, filler, k+i)
			if !yield(e, nil) {
				return
			}
		}
	}
}
