package report_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
)

// plan says what run to make up.
type plan struct {
	nodes, faults, ops int
	length             time.Duration
	seed               uint64
}

// maker makes up a run: faults one after the other, some at once; elections where the
// leader is hit; clients that wait meanwhile.
type maker struct {
	plan
	rng    *rand.Rand
	h      *history.History
	names  []string
	term   uint64
	leader int
	// down, cut and slow are times in which something is so.
	down, silent []during
	cuts         []cut
	slow         []during
	noWrites     []during
	reigns       []reign
}

type during struct {
	node        int
	from, until time.Duration
}

type cut struct {
	during
	cut map[string][]string
}

type reign struct {
	during
	term uint64
}

// makeUp makes up a run in which everything held.
func makeUp(p plan) *history.Result {
	m := &maker{plan: p, rng: rand.New(rand.NewPCG(p.seed, 1)), h: &history.History{Length: p.length}, term: 3}
	for i := range p.nodes {
		m.names = append(m.names, fmt.Sprintf("n%d", i+1))
	}
	m.reigns = []reign{{during{0, 0, p.length}, m.term}}
	m.makeFaults()
	m.makeSamples()
	m.makeOps()

	f := &history.Final{Size: uint64(p.ops)}
	for _, name := range m.names {
		f.Replicas = append(f.Replicas, history.Replica{Node: name, Size: f.Size, Hash: chain.Hash{1, 2}, Root: chain.Hash{3, 4}, Digest: chain.Hash{0xc4, 0x1e, 0x77, 0x90, 0x5b, 0xd2}, Verdicts: f.Size})
	}
	r := &history.Result{
		Title: "a made-up run: partition, one-way, kill, pause, disk, clock", Seed: p.seed, Version: "none",
		Command: fmt.Sprintf("exonode chaos run --nodes %d --duration %s --seed %d --faults partition,oneway,kill,pause,disk,clock", p.nodes, p.length, p.seed),
		Began:   time.Date(2026, 9, 14, 9, 30, 0, 0, time.UTC),
		Nodes:   m.names, History: m.h, Final: f,
		Pictures: map[string][]byte{"linearizable reads, 1:00 to 1:05": []byte(`<!DOCTYPE html><title>picture</title><body style="font:14px sans-serif"><svg width="300" height="60"><rect x="10" y="10" width="120" height="18" fill="#9bd"/><rect x="90" y="32" width="160" height="18" fill="#9bd"/></svg>`)},
	}
	for _, c := range [][2]string{
		{"exactly once", "Each acknowledged event is in the chain exactly once, and what was not acknowledged at most once."},
		{"real time", "An event that was acknowledged before another was sent comes before it in the chain."},
		{"replicas", "All replicas hold the same bytes once everything was mended."},
		{"prefix", "Each head, root and entry that a client saw is one of the chain in the end."},
		{"linearizable", "Reads that were asked to be linearizable are."},
		{"session", "What one client reads never goes back."},
		{"watches", "A watch delivers every entry once, in order."},
		{"verdicts", "Verdicts in the chain are those that its entries give."},
	} {
		r.Verdicts = append(r.Verdicts, history.Verdict{Name: c[0], Claim: c[1], OK: true, Checked: p.ops / (1 + len(c[0])%3), Notes: []string{"4 windows of 5 s were checked as a whole"}})
	}
	return r
}

// breakIt has two checkers find something.
func breakIt(r *history.Result) {
	v := &r.Verdicts[0]
	v.OK = false
	for i := range 7 {
		v.Evidence = append(v.Evidence, fmt.Sprintf("lab/client-%d/%06d was acknowledged at sequence %d by n4 at 1:12.%d, and is not in the chain", i, 4711+i, 81200+i, i))
	}
	r.Verdicts[2].OK = false
	r.Verdicts[2].Evidence = []string{"n4 has another digest than n1, n2, n3 and n5; the first entry that differs is 81200"}
	r.Final.Replicas[3].Digest[0]++
	r.Final.Replicas[3].Problems = []string{"entry 81200: hash does not follow from the one before"}
}

// without are the nodes but those.
func (m *maker) without(nodes ...string) []string {
	return slices.DeleteFunc(slices.Clone(m.names), func(n string) bool { return slices.Contains(nodes, n) })
}

func (m *maker) makeFaults() {
	gap := m.length / time.Duration(m.faults+1)
	kinds := []string{"partition", "kill", "oneway", "pause", "disk", "clock"}
	for i := range m.faults {
		at := gap*time.Duration(i) + gap/2 + time.Duration(m.rng.Int64N(int64(gap/3)))
		lasts := gap/2 + time.Duration(m.rng.Int64N(int64(gap*3/4)))
		until := min(at+lasts, m.length)
		kind := kinds[m.rng.IntN(len(kinds))]
		hit := m.rng.IntN(m.nodes)
		name := m.names[hit]
		add := func(at time.Duration, kind, text string, nodes ...string) {
			m.h.Faults = append(m.h.Faults, history.Fault{At: at, Kind: kind, Text: text, Nodes: nodes})
		}
		mended := "heal"
		switch kind {
		case "partition":
			other := m.names[(hit+1)%m.nodes]
			rest := m.without(name, other)
			links := map[string][]string{name: rest, other: rest}
			for _, r := range rest {
				links[r] = []string{name, other}
			}
			add(at, kind, fmt.Sprintf("%s and %s cut from %s", name, other, strings.Join(rest, ", ")), name, other)
			m.cuts = append(m.cuts, cut{during{hit, at, until}, links})
			m.elect(at, hit, (hit+1)%m.nodes)
		case "oneway":
			other := m.names[(hit+1)%m.nodes]
			add(at, kind, fmt.Sprintf("what %s sends does not reach %s", name, other), name, other)
			m.cuts = append(m.cuts, cut{during{hit, at, until}, map[string][]string{name: {other}}})
		case "kill":
			mended = "restart"
			add(at, kind, name+" killed", name)
			m.down = append(m.down, during{hit, at, until})
			m.silent = append(m.silent, during{hit, until, until + 600*time.Millisecond})
			m.elect(at, hit)
		case "pause":
			mended = "resume"
			add(at, kind, name+" stopped", name)
			m.down = append(m.down, during{hit, at, until})
			m.elect(at, hit)
		case "disk":
			add(at, kind, "fsync takes 200 ms on "+name, name)
			m.slow = append(m.slow, during{hit, at, until})
		case "clock":
			add(at, kind, "the clock of "+name+" is 3 s ahead", name)
		}
		if until < m.length {
			nodes := []string{name}
			if kind == "partition" || kind == "oneway" {
				nodes = append(nodes, m.names[(hit+1)%m.nodes])
			}
			add(until, mended, name+" mended", nodes...)
		}
	}
}

// elect has another node lead, where one of those does.
func (m *maker) elect(at time.Duration, hit ...int) {
	last := &m.reigns[len(m.reigns)-1]
	if !slices.Contains(hit, m.leader) {
		return
	}
	takes := 400*time.Millisecond + time.Duration(m.rng.Int64N(int64(1500*time.Millisecond)))
	last.until = at + 250*time.Millisecond
	for slices.Contains(hit, m.leader) {
		m.leader = (m.leader + 1 + m.rng.IntN(m.nodes-1)) % m.nodes
	}
	m.term += 1 + uint64(m.rng.IntN(2))
	m.noWrites = append(m.noWrites, during{0, at, at + takes})
	m.reigns = append(m.reigns, reign{during{m.leader, at + takes, m.length}, m.term})
}

func within(list []during, node int, at time.Duration) bool {
	return slices.ContainsFunc(list, func(d during) bool { return (node < 0 || d.node == node) && d.from <= at && at < d.until })
}

func (m *maker) makeSamples() {
	for at := time.Duration(0); at < m.length; at += 200 * time.Millisecond {
		s := history.Sample{At: at, Cut: map[string][]string{}}
		term := uint64(3)
		for _, r := range m.reigns {
			if r.from <= at {
				term = r.term
			}
		}
		for i, name := range m.names {
			n := history.NodeSample{Name: name, Up: !within(m.down, i, at), Term: term, Applied: uint64(at / time.Millisecond)}
			n.Answered = n.Up && !within(m.silent, i, at)
			for _, r := range m.reigns {
				if r.node == i && r.from <= at && at < r.until && n.Up {
					n.Leads, n.Term = true, r.term
				}
			}
			s.Nodes = append(s.Nodes, n)
		}
		for _, c := range m.cuts {
			if c.from <= at && at < c.until {
				for from, to := range c.cut {
					s.Cut[from] = append(slices.Clone(s.Cut[from]), m.fresh(s.Cut[from], to)...)
				}
			}
		}
		m.h.Samples = append(m.h.Samples, s)
	}
}

// fresh are those of to that are not in has.
func (m *maker) fresh(has, to []string) []string {
	return slices.DeleteFunc(slices.Clone(to), func(n string) bool { return slices.Contains(has, n) })
}

func (m *maker) makeOps() {
	m.h.Ops = make([]history.Op, 0, m.ops)
	for i := range m.ops {
		at := time.Duration(m.rng.Int64N(int64(m.length)))
		node := m.rng.IntN(m.nodes)
		took := time.Duration(float64(3*time.Millisecond) * (0.5 + m.rng.ExpFloat64()))
		op := history.Op{Client: i % 64, Node: m.names[node], Kind: history.Append, Outcome: history.OK, Sequence: uint64(i), Key: chain.Key{Workspace: "lab", Source: "client", ID: fmt.Sprint(i)}}
		switch m.rng.IntN(10) {
		case 0:
			op.Kind, op.Consistency = history.Head, history.Linearizable
		case 1:
			op.Kind, op.Consistency = history.Lookup, history.Session
		case 2, 3:
			op.Stream = true
		}
		switch {
		case within(m.down, node, at):
			op.Outcome, op.Code = history.Failed, "unavailable"
			if m.rng.IntN(4) == 0 {
				op.Outcome = history.Unknown
			}
			if m.rng.IntN(4) > 0 { // clients go elsewhere
				op.Outcome, op.Code, op.Node = history.OK, "", m.names[(node+1)%m.nodes]
			}
		case within(m.slow, node, at):
			took += time.Duration(m.rng.Int64N(int64(220 * time.Millisecond)))
		}
		if within(m.noWrites, -1, at) && op.Outcome == history.OK {
			for _, d := range m.noWrites {
				if d.from <= at && at < d.until {
					took += d.until - at
				}
			}
			if m.rng.IntN(8) == 0 {
				op.Outcome, op.Code = history.Unknown, "deadline_exceeded"
			}
		}
		op.Call, op.Return = at, min(at+took, m.length)
		m.h.Ops = append(m.h.Ops, op)
	}
}
