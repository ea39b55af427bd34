package sim

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/transport"
)

// trap is a known trap of the parts that the node is made of: fixed steps, under a
// workload, judged as everything is.
type trap struct {
	name string
	cfg  Config
	// before is the same without our fix, and harm what is then found, a part of
	// the first problem; nil where the trap can't be shown without.
	before func(*Config)
	harm   string
	// reached reports whether the steps brought about what the trap is of.
	reached func(*Outcome) bool
}

var traps = []trap{
	{
		name: "second-transfer-to-a-dead-follower",
		cfg:  Config{Steps: secondTransfer, Think: 100 * time.Millisecond, Silence: 20 * time.Second},
		before: func(c *Config) {
			c.Without.TransferMend = true
		},
		harm:    "the cluster is not well",
		reached: func(o *Outcome) bool { return o.Passed["rafts restarted in place"] > 0 },
	},
	{
		name:    "hung-leader-disk",
		cfg:     Config{Steps: hungLeaderDisk, Silence: 10 * time.Second},
		before:  func(c *Config) { c.WriteTimeout = time.Hour },
		harm:    "progress: the whole run",
		reached: func(o *Outcome) bool { return o.Passed["nodes ended by themselves"] > 0 },
	},
	{
		name:    "flapping-one-way-link",
		cfg:     Config{Steps: flappingLink, Silence: 10 * time.Second},
		before:  func(c *Config) { c.Without.PreVote = true },
		harm:    "the term went from",
		reached: func(o *Outcome) bool { return true },
	},
	{
		name:    "partitioned-leader-serves-reads",
		cfg:     Config{Steps: partitionedReads, Think: 50 * time.Millisecond, Silence: 10 * time.Second},
		before:  func(c *Config) { c.Bug = StaleReads },
		harm:    "linearizable: ",
		reached: func(o *Outcome) bool { return o.Passed["reads refused by the leader that was cut off"] > 0 },
	},
	{
		name:    "forwarded-answer-lost",
		cfg:     Config{Steps: lostAnswers, Silence: 10 * time.Second},
		before:  func(c *Config) { c.Bug = NewIDs },
		harm:    "acknowledged: ",
		reached: func(o *Outcome) bool { return duplicates(o) > 0 },
	},
	{
		name:    "unreadable-snapshot",
		cfg:     Config{Steps: unreadableSnapshot, SnapshotLogs: 300, Think: 5 * time.Second, Silence: 30 * time.Second},
		before:  func(c *Config) { c.Without.SnapshotMend = true },
		harm:    "does not catch up",
		reached: func(o *Outcome) bool { return o.Passed["manifests made anew"] > 0 && o.Passed["installs"] > 0 },
	},
	{
		name: "install-over-another-end",
		cfg:  Config{Steps: anotherEnd, SnapshotLogs: 300, Think: 5 * time.Second, Silence: 30 * time.Second},
		before: func(c *Config) {
			c.Without.InstallRestart = true
		},
		harm: "does not catch up",
		reached: func(o *Outcome) bool {
			return o.Passed["installs"] > 1 && o.Passed["rafts restarted in place"] > 1
		},
	},
	{
		name:    "removed-node-calls-elections",
		cfg:     Config{Steps: removedNode, Silence: 10 * time.Second},
		before:  func(c *Config) { c.Without.Standing = true },
		harm:    "the node that was removed goes on",
		reached: func(o *Outcome) bool { return o.Passed["nodes removed"] == 1 },
	},
	{
		name:    "failing-store",
		cfg:     Config{Steps: failingStore, Silence: 10 * time.Second},
		reached: func(o *Outcome) bool { return o.Passed["nodes ended by themselves"] == 5 },
	},
	{
		name:    "failing-store-keeps-winning",
		cfg:     Config{Steps: storeThatWins, Think: 50 * time.Millisecond, Silence: 20 * time.Second},
		before:  func(c *Config) { c.NoLatch = true },
		harm:    "a node whose log fails is elected for nothing",
		reached: func(o *Outcome) bool { return o.Passed["nodes ended by themselves"] == 1 },
	},
	{
		name:    "gossip-keys-differ",
		cfg:     Config{Steps: keysDiffer, Silence: 10 * time.Second},
		reached: func(o *Outcome) bool { return o.Passed["strangers refused"] == 1 },
	},
	{
		name:    "another-clusters-data",
		cfg:     Config{Steps: otherData, Silence: 10 * time.Second},
		reached: func(o *Outcome) bool { return o.Passed["strangers refused"] == 2 },
	},
	{
		name:    "transfer-under-load",
		cfg:     Config{Steps: transferUnderLoad, Think: 20 * time.Millisecond, Clients: 10, Silence: 10 * time.Second},
		reached: func(o *Outcome) bool { return o.Elections > 5 },
	},
}

// Each trap is survived, and where the fix is ours, harms who is without it.
func TestTrap(t *testing.T) {
	if *seeds != "" {
		t.Skip("TestSim runs")
	}
	if testing.Short() {
		t.Skip("a minute of two cores under the race detector")
	}
	for _, trap := range traps {
		t.Run(trap.name, func(t *testing.T) {
			t.Parallel()
			cfg := trap.cfg
			cfg.Seed, cfg.Dir = 1, t.TempDir()
			o := Run(t, cfg)
			for _, p := range o.Problems {
				t.Error(p)
			}
			if !trap.reached(o) {
				t.Errorf("the steps did not come to the trap: %v, %d elections", o.Passed, o.Elections)
			}
			if trap.before == nil || !*before {
				return
			}
			cfg = trap.cfg
			cfg.Seed, cfg.Dir = 1, t.TempDir()
			trap.before(&cfg)
			o = Run(t, cfg)
			if all := strings.Join(o.Problems, "\n"); !strings.Contains(all, trap.harm) {
				t.Errorf("without the fix, there is no %q:\n%s", trap.harm, all)
			} else {
				t.Logf("without the fix: %.200s", all[strings.Index(all, trap.harm):])
			}
		})
	}
}

// lead waits until a node leads that is none of some, and returns its life.
func (c *cluster) lead(not ...*machine) *life {
	for {
		if m := c.leading(); m != nil && !contains(not, m) {
			if l := m.running(); l != nil && c.serves(context.Background(), l) {
				return l
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func contains(ms []*machine, m *machine) bool {
	for _, o := range ms {
		if o == m {
			return true
		}
	}
	return false
}

// note records a step.
func (c *cluster) note(kind, text string) { c.tell(fault{kind: kind}, nil, "%s", text) }

// secondTransfer hands leadership twice to a follower that is down, isolates the leader while the second transfer hangs, and then makes it lead again.
func secondTransfer(c *cluster) {
	l := c.lead()
	follower := c.without(l.m)[0].running()
	c.note("crash", "a follower crashes: an append waits for it for ten seconds")
	follower.m.crash(follower)
	time.Sleep(500 * time.Millisecond) // something is appended that it lacks
	for range 2 {
		if err := l.node.Transfer(context.Background(), follower.node.NodeID()); err == nil {
			c.problem("leadership was handed to a node that is down")
		}
	}
	c.note("isolate-leader", "the leader is cut from all")
	c.during(fault{length: 4 * time.Second}, &wrong{cut: both([]*machine{l.m}, c.without(l.m))})
	follower.m.start()
	time.Sleep(2 * time.Second)
	c.note("transfer", "it leads again")
	for give := time.Now().Add(20 * time.Second); time.Now().Before(give); time.Sleep(200 * time.Millisecond) {
		if m := c.leading(); m == l.m {
			break
		} else if m != nil {
			_ = m.running().node.Transfer(context.Background(), l.node.NodeID()) // tried again
		}
	}
	time.Sleep(15 * time.Second)
}

// hungLeaderDisk hangs the disk of the leader, whose heartbeats go on.
func hungLeaderDisk(c *cluster) {
	l := c.lead()
	c.note("hung-disk", "the disk of the leader hangs")
	l.change(func(p *faults.Plan) { p.Disk = faults.Disk{Hang: true, Stores: raftStores} })
	select {
	case <-l.over:
		c.seen.add("nodes ended by themselves")
	case <-time.After(30 * time.Second):
	}
	time.Sleep(10 * time.Second)
}

// flappingLink cuts what the leader sends to one follower, for longer than it waits for
// its leader, again and again.
func flappingLink(c *cluster) {
	l := c.lead()
	before := c.term(l)
	w := &wrong{cut: between([]*machine{l.m}, c.without(l.m)[:1])}
	for range 6 {
		c.note("flap", "nothing from the leader comes to one follower")
		c.during(fault{length: 5 * time.Second}, w)
		time.Sleep(2 * time.Second)
	}
	if after := c.term(c.lead()); after != before {
		c.problem("the term went from %d to %d", before, after)
	}
}

func (c *cluster) term(l *life) uint64 {
	s, err := l.node.Status(context.Background())
	must(err)
	return s.Term
}

// partitionedReads asks a leader that is cut off for linearizable reads, while the others
// elect another and go on.
func partitionedReads(c *cluster) {
	l := c.lead()
	c.note("isolate-leader", "the leader is cut from all, and asked")
	w := &wrong{cut: both([]*machine{l.m}, c.without(l.m))}
	c.net.begin(w)
	for range 40 {
		op := history.Op{Client: 200, Node: l.m.name, Kind: history.Head, Consistency: history.Linearizable, Call: c.rec.Now()}
		cl := &client{c: c, id: 200}
		err := l.call(500*time.Millisecond, func(ctx context.Context) error {
			if _, err := l.node.Await(ctx, cl.level(history.Linearizable)); err != nil {
				return err
			}
			h, err := l.node.Head(ctx)
			op.Size, op.HeadHash, op.Root = h.Size, h.Hash, h.Root
			return err
		})
		if err != nil {
			c.seen.add("reads refused by the leader that was cut off")
		}
		cl.end(op, err)
		time.Sleep(100 * time.Millisecond)
	}
	c.net.end(w)
}

// lostAnswers has events forwarded by a follower, and cuts the way of the answer.
func lostAnswers(c *cluster) {
	for i := range 10 {
		l := c.lead()
		follower := c.without(l.m)[0].running()
		cl := &client{c: c, id: 200 + i, rng: c.rng(200 + i), at: []*life{follower, l}}
		done := make(chan struct{})
		go func() {
			defer close(done)
			cl.append()
		}()
		c.note("oneway", "what the leader answers does not come")
		c.during(fault{length: 5 * time.Second}, &wrong{cut: between([]*machine{l.m}, []*machine{follower.m})})
		<-done
	}
}

func duplicates(o *Outcome) (n int) {
	for _, op := range o.History.Ops {
		if op.Client >= 200 && op.Duplicate {
			n++
		}
	}
	return n
}

// removedNode removes a node that does not hear of it, and lets it come back.
func removedNode(c *cluster) {
	l := c.lead()
	gone := c.without(l.m)[0].running()
	c.note("isolate", "a follower is cut from all")
	w := &wrong{cut: both([]*machine{gone.m}, c.without(gone.m))}
	c.net.begin(w)
	time.Sleep(5 * time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := l.node.Remove(ctx, gone.node.NodeID()); err != nil {
		c.problem("remove: %v", err)
	}
	c.addMachine().start() // five again
	time.Sleep(5 * time.Second)
	before := c.term(c.lead())
	c.note("heal", "it comes back, and calls elections")
	c.net.end(w)
	select {
	case <-gone.done:
	case <-time.After(30 * time.Second):
		c.problem("the node that was removed goes on")
	}
	if after := c.term(c.lead()); after != before {
		c.problem("the term went from %d to %d", before, after)
	}
}

// failingStore lets the log of one leader after the other fail, until all five have
// failed once: none leads again before it is started again with a disk that is well.
func failingStore(c *cluster) {
	for range size {
		l := c.lead()
		c.note("bad-disk", "the disk of the leader fails")
		l.change(func(p *faults.Plan) { p.Disk = faults.Disk{Error: "EIO", Stores: raftStores[:1]} })
		select {
		case <-l.over:
			c.seen.add("nodes ended by themselves")
		case <-time.After(20 * time.Second):
			c.problem("a node whose log fails goes on")
		}
		c.lead(l.m)
		l.m.start()
	}
}

// unreadableSnapshot damages the manifests of a leader, one of which a follower needs.
func unreadableSnapshot(c *cluster) {
	l := c.lead()
	follower := c.without(l.m)[0].running()
	c.note("crash", "a follower is away while the log goes on without it")
	follower.m.crash(follower)
	c.burst(fault{})
	c.burst(fault{})
	time.Sleep(3 * time.Second) // the second snapshot is made, and none is due soon
	files := flat{l.disk.files, manifestDir}
	names, err := files.ReadDir("")
	must(err)
	for _, name := range names {
		b, err := files.ReadFile(name)
		must(err)
		b[len(b)/2] ^= 1
		must(files.WriteFile(name, b))
	}
	if c.leading() != l.m {
		c.problem("another leads by now")
	}
	c.note("bad-disk", "the leader's manifests are damaged, and the follower needs one")
	follower.m.start()
	c.catchesUp(follower.m)
}

// catchesUp waits until a machine's node serves, and reports whether it does within a
// minute.
func (c *cluster) catchesUp(m *machine) bool {
	for give := time.Now().Add(time.Minute); time.Now().Before(give); time.Sleep(time.Second) {
		if l := m.running(); l != nil && l.node.Ready() == nil && c.serves(context.Background(), l) {
			return true
		}
	}
	c.problem("a follower does not catch up within a minute")
	return false
}

// anotherEnd crashes leaders with entries that nobody else has, more than the others
// append while it is down, and has them come back to what a snapshot alone still holds.
// So many can't be in flight: they are put into the log of the one that is down.
func anotherEnd(c *cluster) {
	for range 2 {
		l := c.lead()
		term := c.term(l)
		c.note("crash", "the leader crashes with 5000 entries that nobody else has")
		l.m.crash(l)
		l.m.forge(term, 5000)
		c.lead(l.m)
		for range 3 {
			c.burst(fault{})
		}
		time.Sleep(3 * time.Second) // a snapshot is made, and none is due soon
		l.m.start()
		if !c.catchesUp(l.m) {
			return
		}
	}
}

// forge appends entries of a term to the log of a machine that is down, as its node
// would have.
func (m *machine) forge(term, n uint64) {
	m.mu.Lock()
	log := m.disk.log
	m.mu.Unlock()
	last, err := log.LastIndex()
	must(err)
	logs := make([]*raft.Log, n)
	for i := range logs {
		logs[i] = &raft.Log{Index: last + 1 + uint64(i), Term: term, Type: raft.LogNoop}
	}
	guard, err := raftstore.NewGuard(time.Minute, func(err error) { panic(err) })
	must(err)
	must(raftstore.NewLog(log, guard, raftstore.Key{}).StoreLogs(logs))
}

// storeThatWins fails the log of a leader that has entries which the only two others
// that run lack: for as long as it goes on, nobody else can be elected.
func storeThatWins(c *cluster) {
	l := c.lead()
	others := c.without(l.m)
	c.note("crash", "two followers crash")
	for _, m := range others[2:] {
		m.crash(m.running())
	}
	time.Sleep(2 * time.Second)
	if c.leading() != l.m {
		c.problem("another leads by now")
		return
	}
	c.note("bad-disk", "the leader writes what does not come to the others, and then its disk fails")
	before := c.term(l)
	w := &wrong{cut: between([]*machine{l.m}, others)}
	c.net.begin(w)
	// Once the others have what it wrote, one of them may be elected, and nothing is
	// written since the quorum needs the disk that fails: another harm. So it is cut until
	// it does not lead any more, and what was on its way is lost.
	ahead := c.within(10*time.Second, func() bool {
		return c.last(l) > c.last(others[0].running()) && c.last(l) > c.last(others[1].running())
	})
	l.change(func(p *faults.Plan) { p.Disk = faults.Disk{Error: "EIO", Stores: raftStores[:1]} })
	deposed := c.within(10*time.Second, func() bool { return !l.alive() || c.leading() != l.m })
	if !ahead || !deposed {
		c.problem("the leader has entries that the others lack: %v; it does not lead any more: %v", ahead, deposed)
	}
	c.net.conns.Reset(net.JoinHostPort(l.m.host, peerPort))
	c.net.end(w)
	select {
	case <-l.over:
		c.seen.add("nodes ended by themselves")
	case <-time.After(30 * time.Second):
		if after := c.term(l); after > before+5 {
			c.problem("a node whose log fails is elected for nothing: the term went from %d to %d", before, after)
		}
	}
	l.m.start()
	for _, m := range others[2:] {
		m.start()
	}
}

// within reports whether something comes true within a while.
func (c *cluster) within(limit time.Duration, holds func() bool) bool {
	for give := time.Now().Add(limit); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(give) {
			return false
		}
	}
	return true
}

// last is the index of the last entry in the log of a node.
func (c *cluster) last(l *life) uint64 {
	s, err := l.node.Status(context.Background())
	must(err)
	return s.LastLogIndex
}

// stranger makes a machine that is none of the cluster's, in reach of it.
func (c *cluster) stranger(file *node.ClusterFile) *machine {
	return &machine{
		c: c, booting: make(chan struct{}, 1), name: "stranger", host: c.net.add(), at: size,
		disk: newDisk(newSource(c.cfg.Seed, 200), ""), foreign: file,
	}
}

// refused starts a stranger, who is to end for the sake of an error.
func (c *cluster) refused(m *machine, want error) {
	m.start()
	l := m.running()
	if l == nil {
		return
	}
	select {
	case <-l.done:
	case <-time.After(time.Minute):
		c.problem("a stranger is not refused within a minute; ready: %v", l.node.Ready())
		m.stop()
	}
	if errors.Is(l.err, want) {
		c.seen.add("strangers refused")
	} else {
		c.problem("a stranger ended: %v, want %v", l.err, want)
	}
}

// keysDiffer has a node with the cluster's genesis and another secret, so another key of
// gossip, look for the cluster.
func keysDiffer(c *cluster) {
	before := c.term(c.lead())
	secret, err := transport.NewSecret()
	must(err)
	file, err := node.NewClusterFile(secret, c.file.Document)
	must(err)
	c.note("stranger", "a node with another secret comes")
	c.refused(c.stranger(file), membership.ErrWrongSecret)
	if after := c.term(c.lead()); after != before {
		c.problem("the term went from %d to %d", before, after)
	}
}

// otherData has a node look for the cluster that belongs to another one: by its file, and
// then by its data alone.
func otherData(c *cluster) {
	file, err := newFile()
	must(err)
	c.note("stranger", "a node of another cluster comes")
	c.refused(c.stranger(file), membership.ErrForeignCluster)
	m := c.stranger(file)
	m.alone = true
	m.start()
	for l := m.running(); l != nil && l.node.Ready() != nil; time.Sleep(100 * time.Millisecond) {
	}
	m.stop()
	m.foreign, m.alone = nil, false
	c.note("stranger", "it comes with its data, and the cluster's file")
	if err := m.boot(); errors.Is(err, node.ErrOtherCluster) {
		c.seen.add("strangers refused")
	} else {
		c.problem("a node with another cluster's data starts: %v", err)
		m.stop()
	}
}

// transferUnderLoad hands leadership over and over.
func transferUnderLoad(c *cluster) {
	for i := range 15 {
		l := c.lead()
		c.note("transfer", "leadership is handed over")
		_ = l.node.Transfer(context.Background(), c.without(l.m)[i%4].running().node.NodeID()) // may fail under load
		time.Sleep(time.Second)
	}
}
