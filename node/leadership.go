package node

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/pipeline"
)

// leadership is what a node knows of who leads, and what it does while it does.
type leadership struct {
	observed chan raft.Observation
	// poke asks the leader's loop to plan now.
	poke chan struct{}

	mu sync.Mutex // guards the fields below
	// silent are peers whose heartbeats fail, with when they last answered.
	silent map[raft.ServerID]time.Time
	since  time.Time // this node leads since; zero where it does not
	// joins and removals are what somebody asked for and waits for, by node
	// id; waiting counts who does. What nobody waits for any more is not
	// done: it was answered with an error.
	joins    map[string]membership.Member
	removals map[string]membership.Removal
	waiting  map[string]int
	refused  map[string]string // by node id: why the plan refuses its request
	noted    map[string]membership.PeerState
	// full is, of each node that is noted as failed, how many voters there
	// were then.
	full map[string]int
}

func (l *leadership) init() {
	l.observed = make(chan raft.Observation, 256)
	l.poke = make(chan struct{}, 1)
	l.silent = make(map[raft.ServerID]time.Time)
	l.joins = make(map[string]membership.Member)
	l.removals = make(map[string]membership.Removal)
	l.waiting = make(map[string]int)
	l.refused = make(map[string]string)
}

// ask records a request about a node. The caller calls the returned function
// when it does not wait any more.
func (l *leadership) ask(nodeID string, record func()) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.refused, nodeID)
	l.waiting[nodeID]++
	record()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.waiting[nodeID]--; l.waiting[nodeID] > 0 {
			return
		}
		delete(l.waiting, nodeID)
		delete(l.joins, nodeID)
		delete(l.removals, nodeID)
		delete(l.refused, nodeID)
	}
}

func (l *leadership) wake() {
	select {
	case l.poke <- struct{}{}:
	default:
	}
}

const (
	// observeEvery is how often leadership is looked at without news: raft
	// drops observations rather than wait.
	observeEvery = 500 * time.Millisecond
	// planEvery is how often a leader plans without being asked.
	planEvery = time.Second
	// barrierTimeout bounds one attempt of a new leader's barrier.
	barrierTimeout = 10 * time.Second
	// stuckTransfer is for how many election timeouts a new leader is refused for
	// the sake of a transfer that an earlier term began: the transfer's own time
	// and its RPC are over by then, unless it never ends.
	stuckTransfer = 5
)

// watchRaft hears of every raft instance before it is current.
func (n *Node) watchRaft(r *instance) {
	r.RegisterObserver(raft.NewObserver(n.leadership.observed, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState, raft.FailedHeartbeatObservation, raft.ResumedHeartbeatObservation:
			return true
		}
		return false
	}))
}

// runLeadership follows who leads, and leads while it is this node. What it
// does is decided from raft's state, not from the observations: those only say
// when to look.
func (n *Node) runLeadership(ctx context.Context) error {
	tick := time.NewTicker(observeEvery)
	defer tick.Stop()
	var term uint64
	stop := func() {}
	defer func() { stop() }()
	for {
		r := n.host.get()
		leading := r.State() == raft.Leader
		switch {
		case leading && r.CurrentTerm() != term:
			stop()
			term = r.CurrentTerm()
			stop = n.startLeading(ctx, r, term)
		case !leading:
			stop()
			stop, term = func() {}, 0
			n.follow(r)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case o := <-n.leadership.observed:
			n.observe(o)
		}
	}
}

func (n *Node) observe(o raft.Observation) {
	l := &n.leadership
	l.mu.Lock()
	defer l.mu.Unlock()
	switch d := o.Data.(type) {
	case raft.FailedHeartbeatObservation:
		l.silent[d.PeerID] = d.LastContact
	case raft.ResumedHeartbeatObservation:
		delete(l.silent, d.PeerID)
	}
}

// follow tells the pipeline who leads now.
func (n *Node) follow(r *instance) {
	_, id := r.LeaderWithID()
	role := pipeline.Role{Leader: fsm.NodeID(string(id)), Term: r.CurrentTerm()}
	if role.Leader == n.identity.NodeID() {
		role.Leader = "" // raft says so just before it knows that it leads
	}
	n.pipeline.SetRole(role)
}

// startLeading runs lead for one term; the returned function stops and joins.
// Where it fails and raft still leads, it tries again: else nobody would lead.
func (n *Node) startLeading(ctx context.Context, r *instance, term uint64) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			err := n.lead(ctx, r, term)
			if ctx.Err() != nil {
				return
			}
			n.log.Warn("leading ended", "term", term, "error", err)
			if !r.leads() || r.CurrentTerm() != term || !sleep(ctx, observeEvery) {
				return
			}
		}
	}()
	return func() {
		n.pipeline.SetRole(pipeline.Role{})
		cancel()
		<-done
	}
}

// lead is what this node does while it leads one term. A new leader evaluates
// nothing before its barrier: until then it may not have applied what earlier
// leaders committed.
func (n *Node) lead(ctx context.Context, r *instance, term uint64) error {
	began := time.Now()
	for {
		err := r.Barrier(barrierTimeout).Error()
		if err == nil {
			break
		}
		if errors.Is(err, raft.ErrLeadershipTransferInProgress) && time.Since(began) > stuckTransfer*n.cfg.Timing.Election {
			n.endTransfer()
			return err
		}
		if ctx.Err() != nil || errors.Is(err, raft.ErrLeadershipLost) || errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrRaftShutdown) {
			return fmt.Errorf("barrier: %w", err)
		}
		if !sleep(ctx, observeEvery) {
			return ctx.Err()
		}
	}
	if n.fsm.View().Genesis() == nil {
		if err := n.beginChain(r); err != nil {
			return err
		}
	}
	noted, full, err := n.loadNoted(ctx)
	if err != nil {
		return err
	}
	l := &n.leadership
	l.mu.Lock()
	l.since = time.Now()
	l.noted, l.full = noted, full
	clear(l.silent)
	l.mu.Unlock()
	defer func() {
		n.pipeline.SetRole(pipeline.Role{})
		l.mu.Lock()
		l.since = time.Time{}
		l.mu.Unlock()
	}()
	n.pipeline.SetRole(pipeline.Role{Leading: true, Term: term})
	n.log.Info("leading", "term", term)
	if err := n.witness.write(catalog.KindClusterLeader, fmt.Sprintf("leader/%d", term), "", catalog.ClusterLeader{
		NodeID: n.identity.NodeID(), Term: int64(term),
	}); err != nil {
		return err
	}
	return n.runPlans(ctx, r)
}

// endTransfer has raft restarted in place. A second transfer to a follower whose
// replication hangs waits for that, and for ever where the leader steps down meanwhile
// and so ends the replication (raft.go:1002). Raft then takes a transfer to be in
// progress for as long as it lives: where it leads again, it refuses every command, and
// its heartbeats keep others from being elected.
func (n *Node) endTransfer() {
	if !n.cfg.Ground.Without.TransferMend {
		n.restartRaft("it waits for a transfer of leadership that never ends")
	}
}

// beginChain proposes entry 0. Where another leader began the chain before, the
// state machine does nothing.
func (n *Node) beginChain(r *instance) error {
	key, err := n.checkpoints.BeginLog()
	if err != nil {
		return err
	}
	command := fsm.Command{Genesis: &fsm.GenesisCommand{
		Stamp: n.faults.Now().UnixNano(), Node: n.identity.NodeID(), Document: n.cfg.Cluster.Document, LogKey: key,
	}}
	b, err := command.AppendBinary(nil)
	if err != nil {
		return fmt.Errorf("encode genesis: %w", err)
	}
	future := r.Apply(b, barrierTimeout)
	if err := future.Error(); err != nil {
		return fmt.Errorf("begin the chain: %w", err)
	}
	result, ok := future.Response().(*fsm.GenesisResult)
	if !ok {
		return fmt.Errorf("begin the chain: the state machine answered %T", future.Response())
	}
	return result.Err
}

// runPlans carries out membership plans until ctx ends.
func (n *Node) runPlans(ctx context.Context, r *instance) error {
	changer, err := membership.NewChanger(r, n.sealChange, n.log)
	if err != nil {
		return err
	}
	pilot, err := membership.NewAutopilot(membership.AutopilotConfig{
		Changer: changer, Input: n.planInput, Stats: n.serverStats, Log: n.log,
	})
	if err != nil {
		return err
	}
	l := &n.leadership
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = pilot.Run(ctx) }) // its error is always nil
	tick := time.NewTicker(planEvery)
	defer tick.Stop()
	for {
		for _, a := range membership.Plan(n.planInput()) {
			n.carryOut(ctx, changer, a)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-l.poke:
		}
	}
}

func (n *Node) carryOut(ctx context.Context, changer *membership.Changer, a membership.Action) {
	l := &n.leadership
	if a.Do == membership.DoRefuse || a.Do == membership.DoHold {
		l.mu.Lock()
		if l.waiting[a.NodeID] > 0 {
			l.refused[a.NodeID] = a.Reason
		}
		if a.Do == membership.DoRefuse {
			delete(l.joins, a.NodeID)
			delete(l.removals, a.NodeID)
		}
		l.mu.Unlock()
		return
	}
	voters := n.members.voters()
	if err := changer.Apply(ctx, a); err != nil {
		if ctx.Err() == nil {
			n.log.Warn("cluster change not made", "change", string(a.Do), "server", a.ServerID, "error", err)
		}
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.Witness == membership.KindPeerState {
		l.noted[a.NodeID] = a.To
		delete(l.full, a.NodeID)
		if a.To == membership.PeerFailed {
			l.full[a.NodeID] = voters
		}
	}
	switch a.Do {
	case membership.DoAdd:
		delete(l.joins, a.NodeID)
	case membership.DoRemove:
		if a.To != membership.PeerReplaced {
			delete(l.removals, a.NodeID)
		}
	}
}

// sealChange is membership.Witness: the entry that explains a change.
func (n *Node) sealChange(ctx context.Context, a membership.Action) error {
	l := &n.leadership
	l.mu.Lock()
	joiner, joins := l.joins[a.NodeID]
	l.mu.Unlock()
	var payload any
	switch a.Witness {
	case membership.KindPeerAdd:
		if !joins {
			return errors.New("it does not ask any more")
		}
		payload = peerAdded(joiner, n.gossipMeta(a.NodeID))
	case membership.KindPeerRemove:
		payload = catalog.ClusterPeerRemove{NodeID: a.NodeID, Name: n.nameOf(a.NodeID)}
	case membership.KindPeerState:
		payload = catalog.ClusterPeerState{NodeID: a.NodeID, From: string(a.From), To: string(a.To)}
	case membership.KindPromote:
		payload = catalog.ClusterPromote{NodeID: a.NodeID}
	case membership.KindDemote:
		payload = catalog.ClusterDemote{NodeID: a.NodeID}
	case membership.KindTransfer:
		payload = catalog.ClusterTransfer{FromNode: n.identity.NodeID(), ToNode: a.NodeID}
	default:
		return fmt.Errorf("no entry is known for %q", a.Witness)
	}
	var cause [8]byte
	random(cause[:])
	return n.sealNow(ctx, a.Witness, "change/"+hex.EncodeToString(cause[:]), a.NodeID, payload)
}

// planInput gathers what the leader plans from.
func (n *Node) planInput() membership.PlanInput {
	l := &n.leadership
	view := n.fsm.View()
	in := membership.PlanInput{
		Now: time.Now(), Self: string(n.host.id), GossipSince: n.started,
		Gossip: n.gossip.Members(), Removed: view.RemovedNodes(),
		Policy: membership.DefaultPolicy(),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	in.LeaderSince = l.since
	in.Noted, in.Full = maps.Clone(l.noted), maps.Clone(l.full)
	for _, s := range n.members.configuration().Servers {
		server := membership.Server{ServerID: string(s.ID), NodeID: fsm.NodeID(string(s.ID)), Voter: s.Suffrage == raft.Voter}
		if last, ok := l.silent[s.ID]; ok {
			server.Contact = in.Now.Sub(last)
			if last.Before(l.since) {
				server.Contact = -1
			}
		}
		in.Servers = append(in.Servers, server)
	}
	for _, j := range l.joins {
		in.Joins = append(in.Joins, j)
	}
	for _, r := range l.removals {
		in.Removals = append(in.Removals, r)
	}
	return in
}
