package sim

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/transport"
)

// Config says what to simulate. The zero value of a field is its comment's default.
type Config struct {
	Seed uint64
	// Length is how long faults are made: two minutes of the bubble's time.
	Length time.Duration
	// Pace is the mean time between two faults: two seconds.
	Pace time.Duration
	// Think is the mean time between two operations of a client: 500 ms.
	Think time.Duration
	// Clients append and read: 6.
	Clients int
	// Kinds are the faults that are made; nil are all.
	Kinds []string
	// Bug is planted, so that the checks show that they find it.
	Bug Bug
	// Steps, where not nil, are done instead of faults that the seed draws; a trap's.
	Steps func(*cluster)
	// Silence is the longest time without an acknowledged append: 80 s.
	Silence time.Duration
	// Checkpoints is how often a leader makes a checkpoint: every 10 s.
	Checkpoints time.Duration
	// WriteTimeout is the deadline of a write of raft's log: 3 s.
	WriteTimeout time.Duration
	// SnapshotLogs is after how many log entries a snapshot is taken: 100, so that
	// followers fall behind what the log keeps, in minutes.
	SnapshotLogs uint64
	// NoLatch has raft's log fail without an end of the node.
	NoLatch bool
	// Without are guards of the node that are left out.
	Without node.Without
	// Dir is a directory for what nodes write once.
	Dir string
	// Log takes what the nodes log; nil is nobody.
	Log io.Writer
}

// Bug is something that a simulation must find.
type Bug string

// The bugs.
const (
	// UnsyncedLog has raft's log answer before what it wrote is durable.
	UnsyncedLog Bug = "unsynced-log"
	// StaleReads has linearizable reads answered by what the node has.
	StaleReads Bug = "stale-reads"
	// LostSession has reads of a session not wait for what it has seen.
	LostSession Bug = "lost-session"
	// NewIDs has clients try again under another id, and call it the same.
	NewIDs Bug = "new-ids"
)

// Outcome is what came of a simulation.
type Outcome struct {
	Seed    uint64
	History *history.History
	Final   *history.Final
	// Verdicts are those of the lab's checkers, with their pictures.
	Verdicts []history.Verdict
	Pictures map[string][]byte
	// Problems are why it failed; none is good.
	Problems []string
	// Virtual is the bubble's time that it took, Real the machine's.
	Virtual, Real time.Duration
	// Passed counts what nodes came through, by what they logged of it.
	Passed map[string]int
	// Faults, Elections, Events and Operations count.
	Faults, Elections, Events, Operations, Acknowledged int
	// Unanswered are goroutines that raft left, of which it is known.
	Unanswered int
}

// cluster is what one simulation holds.
type cluster struct {
	cfg    Config
	dir    string
	file   *node.ClusterFile
	seeds  []string
	timing node.Timing
	// rec records from when the cluster serves.
	rec   *history.Recorder
	net   *network
	began time.Time
	// lives are the goroutines of nodes.
	lives sync.WaitGroup
	// still is full while somebody waits for the bubble to be still.
	still chan struct{}
	seen  *seen

	mu       sync.Mutex // guards the fields below
	machines []*machine
	problems []string
	bursts   int
}

const size = 5

// Run simulates one cluster, in a bubble of its own.
func Run(t *testing.T, cfg Config) *Outcome {
	t.Helper()
	cfg = cfg.withDefaults()
	out := &Outcome{Seed: cfg.Seed}
	began := time.Now()
	unanswered, left := inBubble(t, func(t *testing.T) {
		c, err := newCluster(cfg)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		c.run(out)
		out.Virtual = time.Since(start)
		c.mu.Lock()
		out.Problems = append(out.Problems, c.problems...)
		c.mu.Unlock()
		out.Passed = c.seen.counts
	})
	if out.History != nil {
		out.verdicts(cfg.limits())
	}
	out.Real, out.Unanswered = time.Since(began), unanswered
	if left != "" {
		out.Problems = append(out.Problems, left)
	}
	return out
}

func (c Config) withDefaults() Config {
	if c.Length == 0 {
		c.Length = 2 * time.Minute
	}
	if c.Pace == 0 {
		c.Pace = 2 * time.Second
	}
	if c.Think == 0 {
		c.Think = 500 * time.Millisecond
	}
	if c.Silence == 0 {
		c.Silence = 2 * longest
	}
	if c.SnapshotLogs == 0 {
		c.SnapshotLogs = 100
	}
	if c.Checkpoints == 0 {
		c.Checkpoints = 10 * time.Second
	}
	if c.WriteTimeout == 0 {
		c.WriteTimeout = writeTimeout
	}
	if c.Clients == 0 {
		c.Clients = 6
	}
	return c
}

// newFile makes the file of a cluster, another each time.
func newFile() (*node.ClusterFile, error) {
	secret, err := transport.NewSecret()
	if err != nil {
		return nil, err
	}
	policy, err := gates.BuiltIn(gates.Development)
	if err != nil {
		return nil, err
	}
	var id chain.ID
	rand.Read(id[:])
	g := fsm.Genesis{
		Format: fsm.GenesisFormat, ChainID: id, ClusterName: "sim", Created: time.Now(),
		Environment: string(gates.Development), Policy: policy.Encode(),
	}
	document, err := g.Encode()
	if err != nil {
		return nil, err
	}
	return node.NewClusterFile(secret, document)
}

func newCluster(cfg Config) (*cluster, error) {
	file, err := newFile()
	if err != nil {
		return nil, err
	}
	c := &cluster{
		cfg: cfg, file: file, dir: cfg.Dir, timing: timing(),
		net: newNetwork(newSource(cfg.Seed, 1)), began: time.Now(), still: make(chan struct{}, 1), seen: newSeen(),
	}
	for range size {
		m := c.addMachine()
		c.seeds = append(c.seeds, m.host+":"+peerPort)
	}
	return c, nil
}

// timing is a LAN's, but for how often an idle leader tells what is committed: that is
// most of what an idle cluster does, and followers that learn it late have more to
// catch up with.
func timing() node.Timing {
	t := node.LAN()
	t.Commit = 250 * time.Millisecond
	return t
}

func (c *cluster) addMachine() *machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &machine{
		c: c, booting: make(chan struct{}, 1), name: fmt.Sprintf("n%d", len(c.machines)+1), host: c.net.add(), at: len(c.machines),
		disk: newDisk(newSource(c.cfg.Seed, 100+uint64(len(c.machines))), c.cfg.Bug),
	}
	c.machines = append(c.machines, m)
	return m
}

// all are the machines.
func (c *cluster) all() []*machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]*machine(nil), c.machines...)
}

// members are the machines that were not removed.
func (c *cluster) members() []*machine {
	return slices.DeleteFunc(c.all(), func(m *machine) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.gone || m.lives == 0
	})
}

func (c *cluster) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, fmt.Sprintf("%v: ", c.now())+fmt.Sprintf(format, args...))
}

// now is how long the bubble has gone on.
func (c *cluster) now() time.Duration { return time.Since(c.began).Round(time.Millisecond) }

// quiet runs f while nothing else runs in the bubble: everybody waits for time to pass.
func (c *cluster) quiet(f func()) {
	c.still <- struct{}{}
	synctest.Wait()
	f()
	<-c.still
}

// run is one simulation from beginning to end.
func (c *cluster) run(out *Outcome) {
	defer c.down()
	for _, m := range c.all() {
		if err := m.boot(); err != nil {
			c.problem("%v", err)
			return
		}
	}
	if !c.settled(time.Minute) {
		c.problem("the cluster does not form")
		return
	}
	c.rec = history.NewRecorder()
	load := c.startLoad()
	defer load.stop()
	if c.cfg.Steps != nil {
		c.cfg.Steps(c)
	} else {
		c.suffer(c.schedule())
	}
	c.heal()
	time.Sleep(3 * time.Second) // what was said under faults comes to an end
	if !c.settled(2 * time.Minute) {
		c.problem("two minutes after everything was mended the cluster is not well")
		c.describe()
		load.end()
		out.History = c.rec.End()
		return
	}
	load.end()
	length := c.rec.Now()
	out.Final = c.end(load)
	out.History = c.rec.End()
	out.History.Length = length // nobody writes after that
}

// settled waits until every node that is to run serves a linearizable read.
func (c *cluster) settled(within time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for _, m := range c.all() {
		for ctx.Err() == nil {
			if l := m.running(); l != nil && l.node.Ready() == nil && c.serves(ctx, l) {
				break
			}
			m.mu.Lock()
			gone := m.gone
			m.mu.Unlock()
			if gone {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return ctx.Err() == nil
}

// describe adds to the problems how the nodes stand.
func (c *cluster) describe() {
	for _, m := range c.all() {
		l := m.running()
		if l == nil {
			m.mu.Lock()
			last := m.last
			m.mu.Unlock()
			c.problem("%s is down: %s", m.name, last)
			continue
		}
		s, err := l.node.Status(context.Background())
		c.problem("%s: %s of term %d, leader %.9s, applied %d of %d, log to %d, %d entries, ready: %v, catching up: %v %v",
			m.name, s.State, s.Term, s.Leader, s.AppliedIndex, s.CommitIndex, s.LastLogIndex, s.Head.Size, l.node.Ready(), s.CatchUp, err)
	}
}

// down ends all nodes and joins them.
func (c *cluster) down() {
	for _, m := range c.all() {
		m.stop()
	}
	c.lives.Wait()
	_ = os.RemoveAll(c.dir)
	// A probe of memberlist's outlives its end by seconds.
	time.Sleep(time.Minute)
}
