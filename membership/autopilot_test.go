package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// fakeRaft is a leader whose changes commit at once. It records them with what
// was witnessed, in order.
type fakeRaft struct {
	mu      sync.Mutex
	servers []raft.Server
	done    []string
	// refuse makes changes fail.
	refuse error
	// unseal makes witnesses fail; hang makes them wait for their context.
	unseal error
	hang   bool
}

var _ autopilot.Raft = (*fakeRaft)(nil)

type configFuture struct {
	decided
	servers []raft.Server
}

func (c configFuture) Configuration() raft.Configuration {
	return raft.Configuration{Servers: c.servers}
}

func newFakeRaft(voters string, nonvoters string) *fakeRaft {
	f := new(fakeRaft)
	for _, id := range voters {
		f.servers = append(f.servers, raft.Server{ID: raft.ServerID("s" + string(id)), Address: raft.ServerAddress("n" + string(id))})
	}
	for _, id := range nonvoters {
		f.servers = append(f.servers, raft.Server{ID: raft.ServerID("s" + string(id)), Address: raft.ServerAddress("n" + string(id)), Suffrage: raft.Nonvoter})
	}
	return f
}

func (f *fakeRaft) witness(ctx context.Context, a Action) error {
	f.mu.Lock()
	hang, err := f.hang, f.unseal
	if err == nil && !hang {
		f.done = append(f.done, fmt.Sprintf("seal %s %s", a.Witness, a.NodeID))
	}
	f.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (f *fakeRaft) change(text string, id raft.ServerID, do func(i int)) raft.IndexFuture {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return decided{err: f.refuse}
	}
	f.done = append(f.done, text+" "+string(id))
	do(slices.IndexFunc(f.servers, func(s raft.Server) bool { return s.ID == id }))
	return decided{}
}

func (f *fakeRaft) AddNonvoter(id raft.ServerID, addr raft.ServerAddress, _ uint64, _ time.Duration) raft.IndexFuture {
	return f.change("add", id, func(int) {
		f.servers = append(f.servers, raft.Server{ID: id, Address: addr, Suffrage: raft.Nonvoter})
	})
}

func (f *fakeRaft) AddVoter(id raft.ServerID, addr raft.ServerAddress, _ uint64, _ time.Duration) raft.IndexFuture {
	return f.change("promote", id, func(i int) {
		if f.servers[i].Address != addr {
			panic("promoted under another address")
		}
		f.servers[i].Suffrage = raft.Voter
	})
}

func (f *fakeRaft) DemoteVoter(id raft.ServerID, _ uint64, _ time.Duration) raft.IndexFuture {
	return f.change("demote", id, func(i int) { f.servers[i].Suffrage = raft.Nonvoter })
}

func (f *fakeRaft) RemoveServer(id raft.ServerID, _ uint64, _ time.Duration) raft.IndexFuture {
	return f.change("remove", id, func(i int) { f.servers = slices.Delete(f.servers, i, i+1) })
}

func (f *fakeRaft) LeadershipTransferToServer(id raft.ServerID, _ raft.ServerAddress) raft.Future {
	return f.change("transfer", id, func(int) {})
}

func (f *fakeRaft) GetConfiguration() raft.ConfigurationFuture {
	f.mu.Lock()
	defer f.mu.Unlock()
	return configFuture{servers: slices.Clone(f.servers)}
}

func (f *fakeRaft) LastIndex() uint64          { return 100 }
func (f *fakeRaft) Leader() raft.ServerAddress { return "n1" }
func (f *fakeRaft) Stats() map[string]string   { return map[string]string{"last_log_term": "4"} }
func (f *fakeRaft) State() raft.RaftState      { return raft.Leader }

func (f *fakeRaft) want(t *testing.T, want ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.done, want) {
		t.Errorf("did  %q\nwant %q", f.done, want)
	}
}

func newTestChanger(t *testing.T, f *fakeRaft) *Changer {
	t.Helper()
	c, err := NewChanger(f, f.witness, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestChangesAreSealedFirst(t *testing.T) {
	f := newFakeRaft("123", "")
	c := newTestChanger(t, f)
	apply := func(want error, do Do, id, witness string) {
		t.Helper()
		if err := c.Apply(t.Context(), Action{Do: do, NodeID: "n" + id, ServerID: "s" + id, Witness: witness}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", do, err, want)
		}
	}
	apply(nil, DoAdd, "4", KindPeerAdd)
	apply(nil, DoAdd, "4", KindPeerAdd) // is so already
	apply(nil, DoPromote, "4", KindPromote)
	apply(nil, DoDemote, "4", KindDemote)
	apply(nil, DoRemove, "4", KindPeerRemove)
	apply(nil, DoRemove, "4", KindPeerRemove)
	apply(nil, DoRemove, "3", "") // sealed before
	apply(nil, DoNote, "2", KindPeerState)
	apply(nil, DoTransfer, "2", KindTransfer)
	apply(nil, DoHold, "2", "")
	apply(nil, DoRefuse, "2", "")
	want := []string{
		"seal cluster.peer.add n4", "add s4", "seal cluster.promote n4", "promote s4",
		"seal cluster.demote n4", "demote s4", "seal cluster.peer.remove n4", "remove s4",
		"remove s3", "seal cluster.peer.state n2", "seal cluster.transfer n2", "transfer s2",
	}
	f.want(t, want...)

	f.unseal = errors.New("denied by a gate")
	apply(f.unseal, DoRemove, "2", KindPeerRemove)
	f.want(t, want...) // raft was not asked
	f.unseal, f.refuse = nil, raft.ErrNotLeader
	apply(raft.ErrNotLeader, DoRemove, "2", KindPeerRemove)
}

// pilot is a leader with its autopilot, in a bubble.
type pilot struct {
	raft *fakeRaft
	// mu guards what the test changes.
	mu   sync.Mutex
	in   PlanInput
	mute map[raft.ServerID]bool // do not answer
	lag  map[raft.ServerID]uint64
	ap   *Autopilot
}

func newPilot(t *testing.T, f *fakeRaft) *pilot {
	t.Helper()
	p := &pilot{raft: f, mute: map[raft.ServerID]bool{}, lag: map[raft.ServerID]uint64{}}
	p.in = PlanInput{Self: "s1", LeaderSince: time.Now(), GossipSince: time.Now(), Policy: DefaultPolicy()}
	ap, err := NewAutopilot(AutopilotConfig{
		Changer: newTestChanger(t, f), Input: p.input, Stats: p.stats, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.ap = ap
	return p
}

func (p *pilot) input() PlanInput {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.in
	in.Now = time.Now()
	for _, s := range p.raft.GetConfiguration().(configFuture).servers {
		contact := time.Duration(0)
		if p.mute[s.ID] {
			contact = -1
		}
		in.Servers = append(in.Servers, Server{
			ServerID: string(s.ID), NodeID: string(s.Address), Voter: s.Suffrage == raft.Voter, Contact: contact,
		})
	}
	return in
}

func (p *pilot) stats(_ context.Context, ids []raft.ServerID) map[raft.ServerID]autopilot.ServerStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[raft.ServerID]autopilot.ServerStats)
	for _, id := range ids {
		if !p.mute[id] {
			out[id] = autopilot.ServerStats{LastTerm: 4, LastIndex: 100 - p.lag[id]}
		}
	}
	return out
}

func (p *pilot) change(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
}

// lead runs the autopilot while do runs, as one leadership.
func (p *pilot) lead(t *testing.T, do func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.ap.Run(ctx) }()
	synctest.Wait()
	do()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestPromotion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPilot(t, newFakeRaft("1", "23"))
		p.in.Policy.Stabilization = 30 * time.Second
		p.in.Policy.MaxTrailingLogs = 10
		p.lag["s3"] = 11
		p.lead(t, func() {
			pass(29 * time.Second) // not before, although the leader is new
			p.raft.want(t)
			pass(12 * time.Second)
			want := []string{"seal cluster.promote n2", "promote s2"}
			p.raft.want(t, want...)
			pass(time.Hour) // s3 lags
			p.raft.want(t, want...)
			if healthy, _, ok := p.ap.Healthy(); !ok || !healthy["s2"] || healthy["s3"] {
				t.Errorf("health %v, %t", healthy, ok)
			}
			p.change(func() { delete(p.lag, "s3"); p.mute["s3"] = true })
			pass(time.Hour) // caught up once, but silent now: its old statistics do not count
			p.raft.want(t, want...)
			p.change(func() { delete(p.mute, "s3") })
			pass(45 * time.Second)
			p.raft.want(t, append(want, "seal cluster.promote n3", "promote s3")...)
		})
		if _, _, ok := p.ap.Healthy(); ok {
			t.Error("knows of health without leading")
		}
	})
}

// Nothing is removed by gossip alone, by raft alone, by one's absence from
// gossip, nor before enough others stand in its place.
func TestDeadServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPilot(t, newFakeRaft("123", ""))
		gossip := func(id string, state GossipState) {
			p.change(func() {
				p.in.Gossip = append(slices.Clone(p.in.Gossip), GossipMember{NodeID: id, State: state, Since: time.Now()})
			})
		}
		p.lead(t, func() {
			pass(time.Hour)
			p.raft.want(t) // nobody is in gossip, but raft hears all
			gossip("n2", GossipAlive)
			p.change(func() { p.mute["s2"] = true })
			pass(time.Hour)
			p.raft.want(t) // raft alone
			p.change(func() { p.in.Gossip = nil })
			gossip("n2", GossipDead)
			p.change(func() { p.in.Full = map[string]int{"n2": 3} })
			pass(time.Hour)
			p.raft.want(t) // dead, but only two are left
			p.raft.mu.Lock()
			p.raft.servers = append(p.raft.servers, raft.Server{ID: "s4", Address: "n4", Suffrage: raft.Nonvoter})
			p.raft.mu.Unlock()
			pass(2 * time.Minute)
			p.raft.want(t, "seal cluster.promote n4", "promote s4", "seal cluster.peer.remove n2", "remove s2")
			// A dead non-voter stays.
			p.raft.mu.Lock()
			p.raft.servers = append(p.raft.servers, raft.Server{ID: "s5", Address: "n5", Suffrage: raft.Nonvoter})
			p.raft.mu.Unlock()
			p.change(func() { p.mute["s5"] = true })
			gossip("n5", GossipDead)
			pass(time.Hour)
			p.raft.want(t, "seal cluster.promote n4", "promote s4", "seal cluster.peer.remove n2", "remove s2")
		})
	})
}

// The end of a leadership ends a witness that can't be sealed, and joins all.
func TestRunEndsWithLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPilot(t, newFakeRaft("1", "2"))
		p.raft.hang = true
		for range 5 {
			p.lead(t, func() { pass(time.Minute) })
		}
		p.raft.want(t)
		p.raft.hang = false
		p.lead(t, func() { pass(time.Minute) })
		p.raft.mu.Lock()
		did := strings.Join(p.raft.done, ", ")
		p.raft.mu.Unlock()
		if did != "seal cluster.promote n2, promote s2" {
			t.Errorf("did %s", did)
		}
	})
}
