//go:build linux && netns

package netns_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/report"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/test/netns"
)

// clientsHost is the number of the host that the lab's workload runs on. It reaches all
// nodes, unless a node's own link is down or lossy.
const clientsHost = 100

// TestFaults runs the lab's workload from a host of its own against a cluster whose
// network is broken meanwhile, and has the lab's checkers judge what the clients were
// told against what all nodes hold in the end.
func TestFaults(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, s.run)
	}
}

// scenario is a way to break a network.
type scenario struct {
	name string
	// nodes is how many there are, and length how long the workload runs: longer
	// than play takes, which mends what it broke.
	nodes  int
	length time.Duration
	// silence is the longest time without an acknowledged append that is accepted,
	// and rate the least number of them a second.
	silence time.Duration
	rate    float64
	// before, where not nil, breaks the network before the nodes start.
	before func(*stage, ...*netns.Host)
	// play breaks it while the workload runs.
	play func(*stage)
	// quiet says that what play does makes nobody appear dead.
	quiet bool
	// unfiltered says that nothing of it is the packet filter's.
	unfiltered bool
}

var scenarios = []scenario{
	{name: "partition", nodes: 5, length: 22 * time.Second, silence: 15 * time.Second, rate: 5, play: func(s *stage) {
		lead, followers := s.leader()
		s.partition([]*nodeAt{lead, followers[0]}, followers[1:])
		s.hold(7 * time.Second)
		s.mend()
		s.hold(2 * time.Second)
		_, followers = s.leader()
		s.partition(followers[:2], s.but(followers[:2]...))
		s.hold(5 * time.Second)
	}},
	{name: "oneway", nodes: 3, length: 25 * time.Second, silence: 15 * time.Second, rate: 5, play: func(s *stage) {
		lead, followers := s.leader() // they don't hear it
		for _, f := range followers {
			s.must(s.c.net.CutOneWay(s.ctx, lead.name, f.name))
		}
		s.hold(5 * time.Second)
		s.mend()
		s.hold(time.Second)
		lead, followers = s.leader() // it does not hear them
		for _, f := range followers {
			s.must(s.c.net.CutOneWay(s.ctx, f.name, lead.name))
		}
		s.hold(5 * time.Second)
		s.mend()
		s.hold(time.Second)
		lead, followers = s.leader() // a follower has no route to it
		s.must(followers[0].host.Blackhole(s.ctx, lead.host))
		s.hold(5 * time.Second)
	}},
	{name: "interface", nodes: 3, length: 22 * time.Second, silence: 15 * time.Second, rate: 5, unfiltered: true, play: func(s *stage) {
		for range 2 {
			lead, _ := s.leader()
			before := lead.mustStatus(s.ctx).Term
			s.must(lead.host.Link(s.ctx, false))
			s.hold(6 * time.Second)
			s.must(lead.host.Link(s.ctx, true))
			s.hold(2 * time.Second)
			if now, _ := s.leader(); now.mustStatus(s.ctx).Term == before {
				s.t.Errorf("%s was unplugged for six seconds and leads on", lead.name)
			}
		}
	}},
	{name: "half-open", nodes: 3, length: 35 * time.Second, silence: 20 * time.Second, rate: 5, play: func(s *stage) {
		// The connections of now are dead in one direction, and nobody was told;
		// new ones work. First what the leader sends is lost, then what it hears,
		// and what the clients send.
		lead, followers := s.leader()
		s.noticed(s.halfOpen(lead.process, lead.host, peerPort, true, followers...))
		s.hold(2 * time.Second)
		lead, followers = s.leader()
		peers := s.halfOpen(lead.process, lead.host, peerPort, false, followers...)
		clients := s.halfOpen(s.load, s.clients, apiPort, true, s.nodes...)
		s.noticed(peers)
		s.noticed(clients)
	}},
	{name: "gossip-loss", nodes: 3, length: 25 * time.Second, silence: 10 * time.Second, rate: 20, quiet: true, play: func(s *stage) {
		for _, n := range s.nodes {
			s.must(n.host.Lose(s.ctx, 0.3, "-p", "udp", "--dport", strconv.Itoa(gossipPort)))
		}
		s.hold(20 * time.Second)
	}},
	{name: "mdns-loss", nodes: 3, length: 5 * time.Second, silence: 10 * time.Second, rate: 20, quiet: true, before: func(s *stage, hosts ...*netns.Host) {
		for _, h := range hosts {
			s.must(h.Lose(s.ctx, 0.5, "-m", "pkttype", "--pkt-type", "multicast"))
		}
	}, play: func(*stage) {}},
	{name: "loss", nodes: 3, length: 20 * time.Second, silence: 15 * time.Second, rate: 2, quiet: true, play: func(s *stage) {
		for _, n := range s.nodes {
			s.must(n.host.Lose(s.ctx, 0.1, "-i", "eth0"))
		}
		s.hold(15 * time.Second)
	}},
}

// stage is a scenario under way.
type stage struct {
	scenario
	t     *testing.T
	ctx   context.Context
	c     *cluster
	nodes []*nodeAt
	// load is the workload's process, clients its host, and report its file.
	load    *process
	clients *netns.Host
	report  string
	// dropped is how many packets vanished so far.
	dropped int
}

func (sc scenario) run(t *testing.T) {
	t.Parallel() // most of it is waiting, and each has a network of its own
	ctx := bounded(t, 3*time.Minute)
	s := &stage{scenario: sc, t: t, ctx: ctx, c: newCluster(ctx, t, newNet(ctx, t))}
	var hosts []*netns.Host
	for i := range sc.nodes {
		hosts = append(hosts, s.c.host(ctx, i+1))
	}
	if sc.before != nil {
		sc.before(s, hosts...)
	}
	args := []string{
		"--mdns", "--bootstrap-expect", strconv.Itoa(sc.nodes),
		"--api-listen", "0.0.0.0:" + strconv.Itoa(apiPort), "--api-insecure",
	}
	for _, h := range hosts {
		s.nodes = append(s.nodes, s.c.node(h, args...))
	}
	formed(ctx, t, s.nodes...)
	before := s.nodes[0].mustStatus(ctx)
	s.begin()
	sc.play(s)
	s.mend()
	if _, late := s.load.log.find(0, "reading what the nodes hold"); late {
		t.Error("the workload ended before the network was mended: give it more time")
	}
	if err := s.load.ended(ctx); err != nil {
		t.Errorf("the workload ended with %v", err)
	}
	s.judge(before)
	s.unharmed()
}

// begin starts the workload, and returns once it is under way.
func (s *stage) begin() {
	s.t.Helper()
	limits, err := json.Marshal(map[string]any{ // YAML takes JSON
		"title":    "netns: " + s.name,
		"length":   s.length.String(),
		"workload": map[string]any{"writers": 6, "streams": 1, "readers": 6, "watches": 2, "pause": "20ms"},
		"limits": map[string]any{
			"replicas": len(s.nodes),
			"overall":  map[string]any{"rate": s.rate, "silence": s.silence.String()},
			"fault":    map[string]any{"silence": s.silence.String()},
		},
	})
	s.must(err)
	file := filepath.Join(s.c.dir, "scenario.yaml")
	s.must(os.WriteFile(file, limits, 0o644))
	s.report = filepath.Join(s.c.dir, "report.json")
	s.clients = s.c.host(s.ctx, clientsHost)
	var addrs []string
	for _, n := range s.nodes {
		addrs = append(addrs, n.host.At(apiPort))
	}
	from := s.nodes[0].mustStatus(s.ctx).Head.Size
	s.load = s.c.start(s.clients.Name(), "the workload", "chaos", "run", file, "--against", "--addr", strings.Join(addrs, ","), "--seed", "1", "--report", s.report)
	eventually(s.ctx, s.t, "the workload is under way", func(ctx context.Context) error {
		if !s.load.running() {
			return fmt.Errorf("it ended: %w", s.load.err)
		}
		st, err := s.nodes[0].status(ctx)
		if err == nil && st.Head.Size < from+50 {
			err = fmt.Errorf("the chain has %d entries", st.Head.Size)
		}
		return err
	})
}

func (s *stage) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// hold lets the fault be for a while: a schedule's step, that nothing is expected of.
func (s *stage) hold(d time.Duration) {
	s.t.Helper()
	select {
	case <-time.After(d):
	case <-s.load.done:
		s.t.Fatalf("the workload ended while the network was broken: %v", s.load.err)
	case <-s.ctx.Done():
		s.t.Fatal(s.ctx.Err())
	}
}

// mend undoes what the packet filter and routes do, once it is known to have been done.
func (s *stage) mend() {
	s.t.Helper()
	dropped, err := s.c.net.Dropped(s.ctx)
	s.must(err)
	s.dropped += dropped
	s.must(s.c.net.Heal(s.ctx))
}

func (s *stage) leader() (*nodeAt, []*nodeAt) {
	s.t.Helper()
	return leader(s.ctx, s.t, s.nodes...)
}

// but are the nodes without some.
func (s *stage) but(some ...*nodeAt) []*nodeAt {
	return slices.DeleteFunc(slices.Clone(s.nodes), func(n *nodeAt) bool { return slices.Contains(some, n) })
}

// partition cuts every node of one side from every node of the other.
func (s *stage) partition(a, b []*nodeAt) {
	s.t.Helper()
	for _, x := range a {
		for _, y := range b {
			s.must(s.c.net.Cut(s.ctx, x.name, y.name))
		}
	}
}

// tcp is a connection that a process opened, as its kernel knows it.
type tcp struct {
	local uint16 // port
	peer  string // address and port
	// waiting is how many bytes were sent and not acknowledged.
	waiting uint64
}

// established are the IPv4 connections that hold on a process's host, by the kernel's
// word, with ports of its own that are not a node's: those that were opened there.
func established(t *testing.T, p *process) []tcp {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []tcp
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 5 || f[3] != "01" {
			continue
		}
		_, local := endpoint(t, f[1])
		addr, port := endpoint(t, f[2])
		queued, _, _ := strings.Cut(f[4], ":")
		waiting, err := strconv.ParseUint(queued, 16, 64)
		if err != nil {
			t.Fatalf("connection %q: %v", line, err)
		}
		if local != peerPort && local != apiPort && local != gossipPort {
			out = append(out, tcp{local, fmt.Sprintf("%s:%d", addr, port), waiting})
		}
	}
	return out
}

// endpoint reads an address of /proc/net/tcp: a number as it lies in the memory of a
// little-endian machine, and a port.
func endpoint(t *testing.T, s string) (string, uint16) {
	t.Helper()
	addr, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(addr)
	p, perr := strconv.ParseUint(port, 16, 16)
	if err = errors.Join(err, perr); err != nil || len(b) != 4 {
		t.Fatalf("endpoint %q: %v", s, err)
	}
	return fmt.Sprintf("%d.%d.%d.%d", b[3], b[2], b[1], b[0]), uint16(p)
}

// dead are connections that a process opened, and that carry in one direction alone.
type dead struct {
	of    *process
	since time.Time
	conns []tcp
}

// halfOpen makes the connections that a process of a host has to a port of some nodes
// dead in one direction: what it sends does not arrive, or what it should hear does not.
func (s *stage) halfOpen(p *process, on *netns.Host, port uint16, sent bool, to ...*nodeAt) dead {
	s.t.Helper()
	cut := dead{of: p}
	for _, c := range established(s.t, p) {
		i := slices.IndexFunc(to, func(n *nodeAt) bool { return n.host.At(port) == c.peer })
		if i < 0 {
			continue
		}
		local, remote := strconv.Itoa(int(c.local)), strconv.Itoa(int(port))
		if sent {
			s.must(to[i].host.Drop(s.ctx, "-p", "tcp", "--sport", local, "--dport", remote))
		} else {
			s.must(on.Drop(s.ctx, "-p", "tcp", "--sport", remote, "--dport", local))
		}
		cut.conns = append(cut.conns, c)
	}
	if len(cut.conns) == 0 {
		s.t.Fatal("there was no connection to cut")
	}
	cut.since = time.Now()
	return cut
}

// noticed waits until a process has given up dead connections: all but those that it had
// nothing to say on. Its kernel alone would go on for a quarter of an hour.
func (s *stage) noticed(cut dead) {
	s.t.Helper()
	soon, cancel := context.WithTimeout(s.ctx, healed)
	defer cancel()
	left := 0
	eventually(soon, s.t, "dead connections are given up", func(context.Context) error {
		left = 0
		for _, c := range established(s.t, cut.of) {
			if !slices.ContainsFunc(cut.conns, func(d tcp) bool { return d.local == c.local && d.peer == c.peer }) {
				continue
			}
			if left++; c.waiting > 0 {
				return fmt.Errorf("%d bytes wait on the connection from port %d to %s", c.waiting, c.local, c.peer)
			}
		}
		if left == len(cut.conns) {
			return fmt.Errorf("all %d are still taken for good", left)
		}
		return nil
	})
	s.t.Logf("%s gave up %d of %d dead connections within %v; nothing was sent on the others",
		cut.of.name, len(cut.conns)-left, len(cut.conns), time.Since(cut.since).Round(time.Millisecond))
}

// judge logs what was done, and fails the test with the evidence where a checker does.
func (s *stage) judge(before client.Status) {
	s.t.Helper()
	b, err := os.ReadFile(s.report)
	s.must(err)
	var sum report.Summary
	s.must(json.Unmarshal(b, &sum))
	s.t.Logf("%d events acknowledged, %d of unknown outcome, %d failed, %d reads, a chain of %d; at most %v without an acknowledgement; %d packets dropped; terms %d to %d",
		sum.Counts.Acknowledged, sum.Counts.Unknown, sum.Counts.Failed, sum.Counts.Reads, sum.Counts.Chain,
		sum.Longest.Duration().Round(time.Millisecond), s.dropped, before.Term, s.nodes[0].mustStatus(s.ctx).Term)
	if s.dropped == 0 && !s.unfiltered {
		s.t.Error("no packet was dropped: nothing was broken")
	}
	if !sum.Held {
		s.t.Error("the cluster did not keep its word")
	}
	for _, v := range sum.Verdicts {
		if !v.OK {
			s.t.Errorf("%s: %s", v.Name, strings.Join(v.Evidence, "\n"))
		}
	}
}

// unharmed checks that the cluster has its voters as before, and that the chain tells of
// nobody that was removed, demoted or taken for failed: no fault here lasts that long.
func (s *stage) unharmed() {
	s.t.Helper()
	awaitVoters(s.ctx, s.t, s.nodes)
	for _, kind := range []string{catalog.KindClusterPeerRemove, catalog.KindClusterDemote, catalog.KindClusterPeerState} {
		q := client.ListQuery{Filter: chain.Filter{Workspace: "system", Kind: kind}}
		for e, err := range s.nodes[0].At(client.Stale).List(s.ctx, q) {
			s.must(err)
			s.t.Errorf("entry %d: %s: %s", e.Sequence, kind, e.Envelope.Payload)
		}
	}
	if !s.quiet {
		return
	}
	for _, n := range s.nodes {
		if i, ok := n.log.find(0, "suspect timeout reached"); ok {
			s.t.Errorf("%s took a living node for dead: %s", n.name, n.log.all()[i])
		}
		for _, m := range n.mustStatus(s.ctx).Members {
			if m.Gossip != "alive" {
				s.t.Errorf("%s takes %s for %s", n.name, m.Name, m.Gossip)
			}
		}
	}
}
