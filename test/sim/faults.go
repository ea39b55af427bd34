package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/faults"
)

// fault is one thing that is made to go wrong. All but who leads is drawn before the
// cluster runs: the schedule of a seed is always the same.
type fault struct {
	after time.Duration // since the fault before
	kind  string
	// nodes is a permutation of the machines, and count how many are concerned.
	nodes []int
	count int
	// length is how long it lasts, and degree how bad it is: 0 to 1.
	length time.Duration
	degree float64
	point  faults.Point
}

// longest is how long a fault lasts at most, and healed the kind of what mends all.
const (
	longest = 40 * time.Second
	healed  = "heal"
)

// Kinds of faults, with how often each is made, relative to the others.
var kinds = []struct {
	name   string
	weight int
	do     func(*cluster, fault)
}{
	{"partition", 10, (*cluster).partition},
	{"pair", 8, (*cluster).pair},
	{"oneway", 8, (*cluster).oneWay},
	{"isolate-leader", 10, (*cluster).isolateLeader},
	{"delay", 6, (*cluster).delay},
	{"flap", 3, (*cluster).flap},
	{"crash", 10, (*cluster).crashSome},
	{"crash-leader", 8, (*cluster).crashLeader},
	{"crash-all", 2, (*cluster).crashAll},
	{"crash-point", 10, (*cluster).crashPoint},
	{"restart", 4, (*cluster).restart},
	{"pause", 8, (*cluster).pause},
	{"slow-disk", 6, (*cluster).slowDisk},
	{"hung-disk", 4, (*cluster).hungDisk},
	{"bad-disk", 4, (*cluster).badDisk},
	{"clock", 6, (*cluster).clock},
	{"transfer", 8, (*cluster).transfer},
	{"behind", 5, (*cluster).behind},
	{"replace", 2, (*cluster).replace},
}

// Kinds returns the names of all kinds of faults.
func Kinds() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
}

// schedule draws the faults of a seed.
func (c *cluster) schedule() []fault {
	rng := rand.New(rand.NewPCG(c.cfg.Seed, 2))
	total := 0
	for _, k := range kinds {
		if c.wants(k.name) {
			total += k.weight
		}
	}
	var all []fault
	for at := time.Duration(0); total > 0; {
		f := fault{
			after: time.Duration(rng.ExpFloat64() * float64(c.cfg.Pace)), nodes: rng.Perm(size), count: 1 + rng.IntN(size-1),
			length: time.Duration(rng.ExpFloat64() * float64(8*time.Second)), degree: rng.Float64(),
			point: faults.Points()[rng.IntN(len(faults.Points()))],
		}
		draw := rng.IntN(total)
		for _, k := range kinds {
			if !c.wants(k.name) {
				continue
			}
			if draw -= k.weight; draw < 0 {
				f.kind = k.name
				break
			}
		}
		f.length = min(f.length, longest, c.cfg.Length)
		if at += f.after; at > c.cfg.Length {
			break
		}
		all = append(all, f)
	}
	return all
}

func (c *cluster) wants(kind string) bool {
	return c.cfg.Kinds == nil || slices.Contains(c.cfg.Kinds, kind)
}

// suffer makes the faults; they overlap. It returns once all are over.
func (c *cluster) suffer(all []fault) {
	var running sync.WaitGroup
	for _, f := range all {
		time.Sleep(f.after)
		for _, k := range kinds {
			if k.name == f.kind {
				running.Go(func() { k.do(c, f) })
			}
		}
	}
	running.Wait()
}

// heal mends what is left, and starts who is down.
func (c *cluster) heal() {
	c.rec.Fault(history.Fault{Kind: healed, Text: "everything is mended"})
	for _, m := range c.all() {
		if l := m.running(); l != nil {
			l.change(func(p *faults.Plan) { *p = faults.Plan{} })
		}
		m.start()
	}
}

// start starts a machine's node where it is down.
func (m *machine) start() {
	if err := m.boot(); err != nil {
		m.c.problem("%v", err)
	}
}

// tell records a fault.
func (c *cluster) tell(f fault, ms []*machine, format string, args ...any) {
	var names []string
	for _, m := range ms {
		names = append(names, m.name)
	}
	c.rec.Fault(history.Fault{Kind: f.kind, Text: fmt.Sprintf(format, args...), Nodes: names})
}

func names(ms []*machine) string {
	var out []string
	for _, m := range ms {
		out = append(out, m.name)
	}
	return strings.Join(out, ", ")
}

// chosen are the machines that a fault concerns, and the others.
func (c *cluster) chosen(f fault) (these, others []*machine) {
	members := c.members()
	for i, at := range f.nodes {
		switch {
		case at >= len(members):
		case i < f.count:
			these = append(these, members[at])
		default:
			others = append(others, members[at])
		}
	}
	return these, others
}

// leading is the machine whose node leads the newest term; nil where none does.
func (c *cluster) leading() *machine {
	var best *machine
	term := uint64(0)
	for _, m := range c.all() {
		l := m.running()
		if l == nil {
			continue
		}
		s, err := l.node.Status(context.Background())
		if err == nil && s.State == "Leader" && s.Term >= term {
			best, term = m, s.Term
		}
	}
	return best
}

// one is the machine that a fault of one is about: the leader in half of the cases.
func (c *cluster) one(f fault) *machine {
	if f.count%2 == 0 {
		if m := c.leading(); m != nil {
			return m
		}
	}
	return c.other(f)
}

// other is the machine that a fault of one is about, whoever leads.
func (c *cluster) other(f fault) *machine {
	members := c.members()
	return members[f.nodes[0]%len(members)]
}

// during makes a fault of the network, for as long as it lasts.
func (c *cluster) during(f fault, w *wrong) {
	c.net.begin(w)
	time.Sleep(f.length)
	c.net.end(w)
}

// between are the ways from one group to another.
func between(from, to []*machine) map[way]bool {
	ways := make(map[way]bool)
	for _, a := range from {
		for _, b := range to {
			if a != b {
				ways[way{a.at, b.at}] = true
			}
		}
	}
	return ways
}

func both(a, b []*machine) map[way]bool {
	ways := between(a, b)
	for w := range between(b, a) {
		ways[w] = true
	}
	return ways
}

// partition cuts two groups from each other.
func (c *cluster) partition(f fault) {
	these, others := c.chosen(f)
	c.tell(f, these, "%s cut from %s for %v", names(these), names(others), f.length)
	c.during(f, &wrong{cut: both(these, others)})
}

// pair cuts two nodes from each other, which the others reach.
func (c *cluster) pair(f fault) {
	f.count = 2
	these, _ := c.chosen(f)
	c.tell(f, these, "%s cut from each other for %v", names(these), f.length)
	c.during(f, &wrong{cut: both(these, these)})
}

// oneWay lets nothing pass from one group to another.
func (c *cluster) oneWay(f fault) {
	these, others := c.chosen(f)
	c.tell(f, these, "nothing from %s comes to %s for %v", names(these), names(others), f.length)
	c.during(f, &wrong{cut: between(these, others)})
}

func (c *cluster) without(m *machine) []*machine {
	return slices.DeleteFunc(c.members(), func(o *machine) bool { return o == m })
}

// isolateLeader cuts the leader from all others, in both directions or in one.
func (c *cluster) isolateLeader(f fault) {
	m := c.leading()
	if m == nil {
		m = c.one(f)
	}
	one, rest := []*machine{m}, c.without(m)
	switch {
	case f.degree < 0.6:
		c.tell(f, one, "%s cut from all for %v", m.name, f.length)
		c.during(f, &wrong{cut: both(one, rest)})
	case f.degree < 0.8:
		c.tell(f, one, "nothing from %s comes to anybody for %v", m.name, f.length)
		c.during(f, &wrong{cut: between(one, rest)})
	default:
		c.tell(f, one, "nothing comes to %s for %v", m.name, f.length)
		c.during(f, &wrong{cut: between(rest, one)})
	}
}

// delay slows everything that some nodes send.
func (c *cluster) delay(f fault) {
	these, _ := c.chosen(f)
	d := time.Duration(f.degree * f.degree * float64(1500*time.Millisecond))
	w := &wrong{delay: make(map[way]time.Duration), drop: int(30 * f.degree)}
	for at := range between(these, c.members()) {
		w.delay[at] = d
	}
	c.tell(f, these, "what %s send takes %v, and %d %% of gossip is lost, for %v", names(these), d, w.drop, f.length)
	c.during(f, w)
}

// flap cuts one way of the leader's to a node, again and again.
func (c *cluster) flap(f fault) {
	m := c.one(f)
	rest := c.without(m)
	other := rest[f.nodes[1]%len(rest)]
	c.tell(f, []*machine{m, other}, "the way from %s to %s comes and goes for %v", m.name, other.name, f.length)
	w := &wrong{cut: between([]*machine{m}, []*machine{other})}
	for end := time.Now().Add(f.length); time.Now().Before(end); {
		c.net.begin(w)
		time.Sleep(time.Duration(200+1500*f.degree) * time.Millisecond)
		c.net.end(w)
		time.Sleep(time.Duration(200+500*f.degree) * time.Millisecond)
	}
}

// crashFor crashes nodes, and starts them again after a while.
func (c *cluster) crashFor(f fault, ms []*machine, down time.Duration) {
	c.tell(f, ms, "%s crashed, for %v", names(ms), down)
	for _, m := range ms {
		if l := m.running(); l != nil {
			m.crash(l)
		}
	}
	time.Sleep(down)
	for _, m := range ms {
		m.start()
	}
}

// down is how long what crashed stays down: now and then for no longer than a
// supervisor needs, or for so long that raft's log has gone on without it.
func (f fault) down() time.Duration {
	if f.degree < 0.3 {
		return time.Duration(f.degree * float64(time.Second))
	}
	return f.length
}

func (c *cluster) crashSome(f fault) {
	f.count = 1 + f.count/3
	these, _ := c.chosen(f)
	c.crashFor(f, these, f.down())
}

func (c *cluster) crashLeader(f fault) {
	m := c.leading()
	if m == nil {
		m = c.one(f)
	}
	c.crashFor(f, []*machine{m}, f.down())
}

func (c *cluster) crashAll(f fault) { c.crashFor(f, c.members(), f.down()) }

// crashPoint crashes a node when it comes to a point.
func (c *cluster) crashPoint(f fault) {
	m := c.one(f)
	l := m.running()
	if l == nil {
		return
	}
	after := int(5 * f.degree)
	c.tell(f, []*machine{m}, "%s crashes %s, the %dth time", m.name, f.point, after+1)
	l.change(func(p *faults.Plan) { p.Crash = faults.Crash{Point: f.point, After: after} })
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	select {
	case <-l.over:
		time.Sleep(f.down())
		m.start()
	case <-limit.C:
		l.change(func(p *faults.Plan) { p.Crash = faults.Crash{} })
	}
}

// restart stops a node in good order, and starts it again.
func (c *cluster) restart(f fault) {
	m := c.one(f)
	c.tell(f, []*machine{m}, "%s restarted, after %v", m.name, f.down())
	m.stop()
	time.Sleep(f.down())
	m.start()
}

// pause stops a node as SIGSTOP would, as far as others can see: nothing comes from it
// and nothing to it, its disk does nothing, and who called it waits. Its own clocks go
// on.
func (c *cluster) pause(f fault) {
	m := c.one(f)
	l := m.running()
	if l == nil {
		return
	}
	f.length = min(f.length, writeTimeout-200*time.Millisecond)
	c.tell(f, []*machine{m}, "%s paused for %v", m.name, f.length)
	thaw := make(chan struct{})
	if !l.frozen.CompareAndSwap(nil, &thaw) {
		return
	}
	l.change(func(p *faults.Plan) { p.Disk = faults.Disk{Hang: true, Stores: raftStores} })
	c.during(f, &wrong{cut: both([]*machine{m}, c.without(m))})
	l.change(func(p *faults.Plan) { p.Disk = faults.Disk{} })
	l.frozen.Store(nil)
	close(thaw)
}

// raftStores are those whose writers hold no lock while they wait: in a bubble, who
// waits for a lock keeps time from passing.
var raftStores = []faults.Store{faults.RaftLog, faults.RaftVote}

// disk makes a disk bad for as long as the fault lasts; a node that it ends is started
// again after that.
func (c *cluster) disk(f fault, d faults.Disk, what string) {
	m := c.one(f)
	l := m.running()
	if l == nil {
		return
	}
	c.tell(f, []*machine{m}, "the disk of %s %s for %v", m.name, what, f.length)
	l.change(func(p *faults.Plan) { p.Disk = d })
	timer := time.NewTimer(f.length)
	defer timer.Stop()
	select {
	case <-timer.C:
		l.change(func(p *faults.Plan) { p.Disk = faults.Disk{} })
	case <-l.over:
		time.Sleep(f.down())
	}
	m.start()
}

func (c *cluster) slowDisk(f fault) {
	slow := time.Duration(f.degree * float64(800*time.Millisecond))
	c.disk(f, faults.Disk{Slow: faults.Duration(slow), Stores: raftStores}, fmt.Sprintf("takes %v for each write", slow))
}

// hungDisk has the node end itself, where it lasts long enough.
func (c *cluster) hungDisk(f fault) {
	c.disk(f, faults.Disk{Hang: true, Stores: raftStores}, "hangs")
}

func (c *cluster) badDisk(f fault) {
	d := faults.Disk{Error: "EIO", Stores: raftStores[f.nodes[1]%2:][:1]}
	if f.degree < 0.5 {
		d.Error = "ENOSPC"
	}
	c.disk(f, d, "fails with "+d.Error)
}

// clock sets a node's clock wrong, until it restarts or the end.
func (c *cluster) clock(f fault) {
	m := c.one(f)
	l := m.running()
	if l == nil {
		return
	}
	offset := time.Duration((f.degree - 0.5) * float64(2*time.Hour))
	c.tell(f, []*machine{m}, "the clock of %s is off by %v", m.name, offset)
	l.change(func(p *faults.Plan) { p.Clock = faults.Clock{Offset: faults.Duration(offset)} })
}

// transfer hands leadership over, to a node or to whom raft chooses.
func (c *cluster) transfer(f fault) {
	m := c.leading()
	if m == nil {
		return
	}
	l := m.running()
	to := c.other(f)
	id := ""
	if t := to.running(); t != nil && to != m && f.degree < 0.7 {
		id = t.node.NodeID()
	}
	if l == nil {
		return
	}
	c.tell(f, []*machine{m}, "leadership handed over by %s", m.name)
	_ = l.node.Transfer(context.Background(), id) // may fail, as anything may now
}

// behind keeps a node away while as much is appended as has raft's log forget what it
// lacks, so that it has to catch up by a snapshot; now and then it crashes while it does.
func (c *cluster) behind(f fault) {
	m := c.other(f)
	one := []*machine{m}
	c.tell(f, one, "%s is away while %d events are appended", m.name, burstSize)
	w := &wrong{cut: both(one, c.without(m))}
	if f.count%2 == 0 {
		if l := m.running(); l != nil {
			m.crash(l)
		}
	} else {
		c.net.begin(w)
	}
	c.burst(f)
	time.Sleep(3 * time.Second) // the others look every two whether a snapshot is due
	c.net.end(w)
	m.start()
	if f.degree < 0.5 {
		time.Sleep(time.Duration(f.degree * float64(3*time.Second)))
		if l := m.running(); l != nil {
			m.crash(l)
		}
		m.start()
	}
}

// mostReplaced bounds how many nodes one run replaces.
const mostReplaced = 3

// replace removes a node from the cluster, and has a new one join it.
func (c *cluster) replace(f fault) {
	c.mu.Lock()
	full := len(c.machines) >= size+mostReplaced
	c.mu.Unlock()
	if full {
		return
	}
	m := c.other(f)
	l := m.running()
	rest := c.without(m)
	by := rest[f.nodes[1]%len(rest)].running()
	if l == nil || by == nil {
		return
	}
	fresh := c.addMachine()
	c.tell(f, []*machine{m, fresh}, "%s removed by %s, and %s joins", m.name, by.m.name, fresh.name)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err := by.call(20*time.Second, func(inner context.Context) error { return by.node.Remove(inner, l.node.NodeID()) })
	if err == nil {
		select { // it ends itself
		case <-l.done:
		case <-ctx.Done():
		}
	}
	fresh.start()
}
