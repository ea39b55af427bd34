package transport_test

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/transport"
)

// words is a state machine that keeps what it is given.
type words struct {
	mu  sync.Mutex
	all []string
}

func (w *words) Apply(l *raft.Log) any {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, string(l.Data))
	return nil
}

func (w *words) get() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

func (w *words) Snapshot() (raft.FSMSnapshot, error) { return wordsSnapshot(w.get()), nil }

func (w *words) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = strings.Split(string(b), "\n")
	return nil
}

type wordsSnapshot []string

func (s wordsSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := io.WriteString(sink, strings.Join(s, "\n")); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

func (wordsSnapshot) Release() {}

// server is a node with a raft over its transport.
type server struct {
	*node
	store *raft.InmemStore
	snaps *raft.InmemSnapshotStore
	log   io.Writer
	fsm   *words
	live  *liveMembers
	raft  *raft.Raft
}

// liveMembers is Members over a raft, as package node makes it.
type liveMembers struct {
	pinned raft.Configuration
	mu     sync.Mutex
	r      *raft.Raft
}

func (m *liveMembers) set(r *raft.Raft) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.r = r
}

func (m *liveMembers) find(nodeID string) (raft.Server, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	servers := slices.Clone(m.pinned.Servers)
	if m.r != nil {
		servers = append(servers, m.r.GetConfiguration().Configuration().Servers...)
	}
	for _, s := range slices.Backward(servers) {
		if string(s.Address) == nodeID {
			return s, true
		}
	}
	return raft.Server{}, false
}

func (m *liveMembers) Member(nodeID string) (raft.ServerID, bool) {
	s, ok := m.find(nodeID)
	return s.ID, ok
}

func (m *liveMembers) Voter(nodeID string) bool {
	s, ok := m.find(nodeID)
	return ok && s.Suffrage == raft.Voter
}

func (m *liveMembers) Leader() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.r == nil {
		return ""
	}
	addr, _ := m.r.LeaderWithID()
	return string(addr)
}

func (*liveMembers) Removed(string) bool { return false }

func raftConfig(s *server) *raft.Config {
	cfg := raft.DefaultConfig()
	cfg.LocalID = s.ServerID()
	cfg.MaxAppendEntries = 16
	cfg.Logger = hclog.New(&hclog.LoggerOptions{Output: s.log, Level: hclog.Debug})
	return cfg
}

// boot runs a raft on a fresh session.
func (s *server) boot(tb testing.TB) {
	tb.Helper()
	session, err := s.AttachRaft()
	if err != nil {
		tb.Fatal(err)
	}
	s.fsm = &words{}
	if s.raft, err = raft.NewRaft(raftConfig(s), s.fsm, s.store, s.store, s.snaps, session); err != nil {
		tb.Fatal(err)
	}
	s.live.set(s.raft)
}

func (s *server) halt(tb testing.TB) {
	tb.Helper()
	if err := s.raft.Shutdown().Error(); err != nil {
		tb.Error(err)
	}
	s.live.set(nil)
}

// cluster starts n servers that are voters of one configuration.
func cluster(tb testing.TB, w *world, n int) []*server {
	tb.Helper()
	var servers []*server
	var conf raft.Configuration
	for i := range n {
		s := newServer(tb, w, fmt.Sprintf("n%d", i), raft.Configuration{})
		conf.Servers = append(conf.Servers, raft.Server{ID: s.ServerID(), Address: raft.ServerAddress(s.NodeID())})
		servers = append(servers, s)
	}
	for _, s := range servers {
		if err := raft.BootstrapCluster(raftConfig(s), s.store, s.store, s.snaps, nil, conf); err != nil {
			tb.Fatal(err)
		}
		s.boot(tb)
	}
	tb.Cleanup(func() {
		for _, s := range servers {
			s.halt(tb)
		}
	})
	return servers
}

// newServer starts a node that answers for pinned members until its raft knows
// better.
func newServer(tb testing.TB, w *world, host string, pinned raft.Configuration) *server {
	live := &liveMembers{pinned: pinned}
	s := &server{store: raft.NewInmemStore(), snaps: raft.NewInmemSnapshotStore(), live: live, log: io.Discard}
	s.node = w.start(tb, host, func(c *transport.Config) { c.Members = live })
	return s
}

// within waits, in the bubble's time, until what is true.
func within(tb testing.TB, d time.Duration, what string, true func() bool) {
	tb.Helper()
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if true() {
			return
		}
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", d, what)
		}
	}
}

func leaderOf(tb testing.TB, servers []*server) *server {
	tb.Helper()
	var leader *server
	within(tb, time.Minute, "one leader that all follow", func() bool {
		leader = nil
		for _, s := range servers {
			if s.raft.State() == raft.Leader {
				leader = s
			}
		}
		for _, s := range servers {
			if leader == nil || s.live.Leader() != leader.NodeID() {
				return false
			}
		}
		return true
	})
	return leader
}

func others(servers []*server, s *server) (rest []*server, hosts []string) {
	for _, o := range servers {
		if o != s {
			rest, hosts = append(rest, o), append(hosts, o.host)
		}
	}
	return rest, hosts
}

func put(tb testing.TB, s *server, from, to int) {
	tb.Helper()
	var futures []raft.ApplyFuture
	for i := from; i < to; i++ {
		futures = append(futures, s.raft.Apply([]byte(fmt.Sprint(i)), time.Minute))
	}
	for _, f := range futures {
		if err := f.Error(); err != nil {
			tb.Fatal(err)
		}
	}
}

func agree(tb testing.TB, servers []*server, n int) {
	tb.Helper()
	within(tb, time.Minute, fmt.Sprintf("%d words everywhere", n), func() bool {
		for _, s := range servers {
			if len(s.fsm.get()) != n {
				return false
			}
		}
		return true
	})
	for _, s := range servers[1:] {
		if !slices.Equal(s.fsm.get(), servers[0].fsm.get()) {
			tb.Errorf("%s differs from %s", s.host, servers[0].host)
		}
	}
}

func TestRaftElectsAppliesAndTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers := cluster(t, newWorld(t), 3)
		leader := leaderOf(t, servers)
		put(t, leader, 0, 300)
		agree(t, servers, 300)
		followers, _ := others(servers, leader)
		next := followers[1]
		if err := leader.raft.LeadershipTransferToServer(next.ServerID(), raft.ServerAddress(next.NodeID())).Error(); err != nil {
			t.Fatal(err)
		}
		if got := leaderOf(t, servers); got != next {
			t.Errorf("%s leads, not %s", got.host, next.host)
		}
		put(t, next, 300, 400)
		agree(t, servers, 400)
	})
}

func TestRaftSurvivesPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		servers := cluster(t, w, 3)
		total := 0
		for range 5 {
			leader := leaderOf(t, servers)
			rest, hosts := others(servers, leader)
			w.net.Isolate(leader.host, hosts...)
			next := leaderOf(t, rest)
			put(t, next, total, total+10)
			total += 10
			w.net.Join(leader.host, hosts...)
			agree(t, servers, total)
		}
	})
}

// TestPreVoteIsOn: a follower that was cut off comes back without having
// raised its term, so nobody loses the leadership. Without pre-vote its term
// rises with every election that it holds alone.
func TestPreVoteIsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		servers := cluster(t, w, 3)
		leader := leaderOf(t, servers)
		term := leader.raft.CurrentTerm()
		rest, _ := others(servers, leader)
		away := rest[0]
		_, hosts := others(servers, away)
		w.net.Isolate(away.host, hosts...)
		within(t, time.Minute, "the follower stands for election", func() bool { return away.raft.State() == raft.Candidate })
		time.Sleep(5 * time.Minute) // in the bubble
		if got := away.raft.CurrentTerm(); got != term {
			t.Errorf("the lone candidate is in term %d, the cluster in %d", got, term)
		}
		w.net.Join(away.host, hosts...)
		put(t, leader, 0, 10)
		agree(t, servers, 10)
		if got := leaderOf(t, servers); got != leader || leader.raft.CurrentTerm() != term {
			t.Errorf("%s leads in term %d", got.host, leader.raft.CurrentTerm())
		}
	})
}

// TestRaftRestartsInPlace: raft stops and starts over the same transport, and
// what it missed meanwhile comes by snapshot.
func TestRaftRestartsInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers := cluster(t, newWorld(t), 3)
		leader := leaderOf(t, servers)
		put(t, leader, 0, 50)
		agree(t, servers, 50)
		rest, _ := others(servers, leader)
		away := rest[0]
		away.halt(t)
		put(t, leader, 50, 100)
		if err := leader.raft.ReloadConfig(raft.ReloadableConfig{
			TrailingLogs: 1, SnapshotInterval: time.Hour, SnapshotThreshold: 1 << 30,
			HeartbeatTimeout: time.Second, ElectionTimeout: time.Second,
		}); err != nil {
			t.Fatal(err)
		}
		if err := leader.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		away.boot(t)
		agree(t, servers, 100)
		if meta, err := away.snaps.List(); err != nil || len(meta) != 1 || meta[0].Index < 100 {
			t.Errorf("snapshots of the restarted server: %v, %v", meta, err)
		}
		put(t, leader, 100, 110)
		agree(t, servers, 110)
	})
}

// TestRaftTakesInANewServer: a node that knows nobody's configuration yet pins
// the members that its join told it of.
func TestRaftTakesInANewServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		servers := cluster(t, w, 3)
		leader := leaderOf(t, servers)
		put(t, leader, 0, 20)
		late := newServer(t, w, "late", leader.raft.GetConfiguration().Configuration())
		late.boot(t)
		t.Cleanup(func() { late.halt(t) })
		if err := leader.raft.AddNonvoter(late.ServerID(), raft.ServerAddress(late.NodeID()), 0, time.Minute).Error(); err != nil {
			t.Fatal(err)
		}
		all := append(slices.Clone(servers), late)
		agree(t, all, 20)
		if err := leader.raft.AddVoter(late.ServerID(), raft.ServerAddress(late.NodeID()), 0, time.Minute).Error(); err != nil {
			t.Fatal(err)
		}
		put(t, leader, 20, 30)
		agree(t, all, 30)
	})
}
