package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/transport"
)

// Calls between members about membership.
const (
	methodAdmit  = "admit"
	methodRemove = "remove"
	methodStats  = "stats"
)

// Submit implements server.Writer.
func (n *Node) Submit(ctx context.Context, caller server.Caller, events []chain.Event) (server.Pending, error) {
	return n.pipeline.Submit(ctx, caller, events)
}

// clusterView is membership.Cluster.
type clusterView struct{ n *Node }

// HasState implements membership.Cluster.
func (c clusterView) HasState() bool {
	state, err := c.n.stores.State()
	return err != nil || state.Exists() // a store that can't say is not empty
}

// Members implements membership.Cluster.
func (c clusterView) Members() []membership.Member {
	var ms []membership.Member
	for _, s := range c.n.members.configuration().Servers {
		id := fsm.NodeID(string(s.ID))
		m := membership.Member{NodeID: id, ServerID: string(s.ID)}
		if id == c.n.identity.NodeID() {
			m = c.n.self
		} else if addr, ok := c.n.members.resolve(id); ok {
			m.PeerAddr = addr
			m.GossipAddr = c.n.gossipAddr(id)
		}
		ms = append(ms, m)
	}
	return ms
}

// Head implements membership.Cluster.
func (c clusterView) Head() chain.Head { return c.n.head() }

// Admit implements membership.Cluster.
func (c clusterView) Admit(ctx context.Context, m membership.Member) error {
	return c.n.ask(ctx, methodAdmit, m, func(ctx context.Context) error { return c.n.admit(ctx, m) })
}

// ask has the leader do something: here, where this node leads, else over a
// call.
func (n *Node) ask(ctx context.Context, method string, argument any, here func(context.Context) error) error {
	leader := n.members.Leader()
	switch leader {
	case "":
		return fmt.Errorf("%w: no leader is known", membership.ErrUnavailable)
	case n.identity.NodeID():
		return here(ctx)
	}
	b, err := json.Marshal(argument)
	if err != nil {
		return err
	}
	_, _, err = n.trans.Call(ctx, transport.ClassCall, transport.PeerRef{NodeID: leader}, method, b)
	var remote *transport.RemoteError
	if errors.As(err, &remote) {
		switch remote.Code {
		case "refused_by_plan":
			return fmt.Errorf("%w: %s", membership.ErrRefused, remote.Message)
		case "removed":
			return fmt.Errorf("%w: %s", membership.ErrRemoved, remote.Message)
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", membership.ErrUnavailable, err)
	}
	return nil
}

func remoteError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, membership.ErrRemoved):
		return &transport.RemoteError{Code: "removed", Message: err.Error()}
	case errors.Is(err, membership.ErrRefused):
		return &transport.RemoteError{Code: "refused_by_plan", Message: err.Error()}
	}
	return &transport.RemoteError{Code: "unavailable", Message: err.Error()}
}

func (n *Node) serveAdmit(ctx context.Context, _ transport.Peer, request []byte) ([]byte, error) {
	var m membership.Member
	if err := json.Unmarshal(request, &m); err != nil {
		return nil, err
	}
	return nil, remoteError(n.admit(ctx, m))
}

func (n *Node) serveRemove(ctx context.Context, _ transport.Peer, request []byte) ([]byte, error) {
	var r membership.Removal
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, err
	}
	return nil, remoteError(n.remove(ctx, r))
}

// admit waits, on the leader, until a joiner is in the configuration.
func (n *Node) admit(ctx context.Context, m membership.Member) error {
	if !n.host.get().leads() {
		return errNotLeader
	}
	if n.fsm.View().Removed(m.NodeID) {
		return fmt.Errorf("%w: node %s", membership.ErrRemoved, m.NodeID)
	}
	n.members.locate(m.NodeID, m.PeerAddr)
	// The joiner has fetched the chain up to a member's head. It can't go back
	// to a manifest from before that, and would fetch all of it again.
	if _, member := n.members.server(m.NodeID); !member {
		if err := n.host.snapshotAll(n.cfg.Storage.SnapshotBytes, n.cfg.Storage.SnapshotLogs); err != nil {
			n.log.Warn("no snapshot taken for a joining node", "joiner", short(m.NodeID), "error", err)
		}
	}
	l := &n.leadership
	defer l.ask(m.NodeID, func() { l.joins[m.NodeID] = m })()
	return n.until(ctx, m.NodeID, func() bool {
		s, ok := n.members.server(m.NodeID)
		return ok && string(s.ID) == m.ServerID
	})
}

// remove waits, on the leader, until a node is out of the configuration.
func (n *Node) remove(ctx context.Context, r membership.Removal) error {
	if !n.host.get().leads() {
		return errNotLeader
	}
	if _, ok := n.members.server(r.NodeID); !ok {
		if n.members.removed(r.NodeID) {
			return nil // by an earlier attempt of the caller
		}
		return fmt.Errorf("%w: node %s is not a member", membership.ErrRefused, r.NodeID)
	}
	l := &n.leadership
	defer l.ask(r.NodeID, func() { l.removals[r.NodeID] = r })()
	return n.until(ctx, r.NodeID, func() bool {
		_, ok := n.members.server(r.NodeID)
		return !ok
	})
}

// errNotLeader answers what only the leader can do.
var errNotLeader = fmt.Errorf("%w: this node does not lead", membership.ErrUnavailable)

// until pokes the leader's loop and waits for it to bring something about, or
// to refuse it.
func (n *Node) until(ctx context.Context, nodeID string, done func() bool) error {
	l := &n.leadership
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	l.wake()
	for !done() {
		l.mu.Lock()
		why, refused := l.refused[nodeID]
		leading := !l.since.IsZero()
		l.mu.Unlock()
		switch {
		case refused:
			return fmt.Errorf("%w: %s", membership.ErrRefused, why)
		case !leading && !n.host.get().leads():
			return errNotLeader
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", membership.ErrUnavailable, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// apiError answers for errors of membership.
func apiError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, membership.ErrRefused), errors.Is(err, membership.ErrRemoved):
		return &api.Error{Code: api.Precondition, Message: err.Error(), Hint: "`exonode status` shows the cluster as it is"}
	case errors.Is(err, membership.ErrUnavailable):
		return &api.Error{Code: api.NoLeader, Message: err.Error(), Hint: "try again", RetryAfterMillis: 500}
	}
	return err
}

// Remove implements server.Operator.
func (n *Node) Remove(ctx context.Context, nodeID string) error {
	return apiError(n.removeNode(ctx, membership.Removal{NodeID: nodeID, Reason: "removed by an operator"}))
}

func (n *Node) removeNode(ctx context.Context, r membership.Removal) error {
	for {
		err := n.ask(ctx, methodRemove, r, func(ctx context.Context) error { return n.remove(ctx, r) })
		if err != nil && r.NodeID == n.identity.NodeID() && (errors.Is(err, transport.ErrRemoved) || errors.Is(n.expelled(ctx), membership.ErrRemoved)) {
			return nil // the leader's answer went with our connections
		}
		// A leader that is to go hands over first; the next one goes on.
		if err == nil || !errors.Is(err, membership.ErrUnavailable) || !sleep(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// Leave implements server.Operator.
func (n *Node) Leave(ctx context.Context) error {
	n.leaving.Add(1)
	if err := n.removeNode(ctx, membership.Removal{NodeID: n.identity.NodeID(), Reason: "leave"}); err != nil {
		n.leaving.Add(-1)
		return apiError(err)
	}
	n.leaveOnce.Do(func() { close(n.leave) })
	return nil
}

// Transfer implements server.Operator.
func (n *Node) Transfer(ctx context.Context, nodeID string) error {
	r := n.host.get()
	if r == nil || r.State() != raft.Leader {
		return &api.Error{Code: api.Precondition, Message: "this node does not lead", Hint: "ask the leader: " + n.members.Leader()}
	}
	future := r.LeadershipTransfer
	if nodeID != "" {
		s, ok := n.members.server(nodeID)
		if !ok {
			return &api.Error{Code: api.NotFound, Field: "node_id", Message: "no member " + nodeID}
		}
		future = func() raft.Future { return r.LeadershipTransferToServer(s.ID, s.Address) }
	}
	if err := future().Error(); err != nil {
		return &api.Error{Code: api.Precondition, Message: fmt.Sprintf("leadership was not handed over: %v", err), Hint: "try again"}
	}
	return nil
}

// Status implements server.Operator.
func (n *Node) Status(context.Context) (server.Status, error) {
	head, err := n.reader.Head(context.Background())
	if err != nil {
		return server.Status{}, err
	}
	phase, _ := n.phase.Load().(Phase)
	s := server.Status{
		NodeID: n.identity.NodeID(), Version: n.cfg.Version, Phase: string(phase),
		Chain: n.cfg.Cluster.Genesis.ChainID, Head: head, Started: n.started,
		QueueLength: n.pipeline.QueueLen(), AppliedIndex: n.ledger.Meta().Applied, State: "none",
	}
	if have, want, ok := n.catchup.Progress(); ok {
		s.CatchUp = &server.Progress{Have: have, Want: want}
	}
	if r := n.host.get(); r != nil {
		s.State, s.Term = r.State().String(), r.CurrentTerm()
		s.CommitIndex, s.LastLogIndex = r.CommitIndex(), r.LastIndex()
		s.Leader = n.members.Leader()
	}
	s.Members = n.memberList(s.Leader)
	s.Checkpoint = n.checkpointStatus()
	s.Warning = n.warning()
	return s, nil
}

// memberList joins raft's configuration and gossip.
func (n *Node) memberList(leader string) []server.Member {
	var out []server.Member
	seen := make(map[string]bool)
	l := &n.leadership
	l.mu.Lock()
	leading := !l.since.IsZero()
	silent := make(map[raft.ServerID]time.Time, len(l.silent))
	for id, t := range l.silent {
		silent[id] = t
	}
	l.mu.Unlock()
	for _, s := range n.members.configuration().Servers {
		m := server.Member{NodeID: fsm.NodeID(string(s.ID)), ServerID: string(s.ID), Suffrage: "voter", LastContact: -1}
		if s.Suffrage != raft.Voter {
			m.Suffrage = "nonvoter"
		}
		m.Leader = m.NodeID == leader
		if leading {
			m.LastContact = 0
			if t, ok := silent[s.ID]; ok {
				m.LastContact = time.Since(t)
			}
		}
		n.describe(&m)
		seen[m.NodeID] = true
		out = append(out, m)
	}
	for _, g := range n.gossip.Members() {
		if !seen[g.NodeID] {
			m := server.Member{NodeID: g.NodeID, Suffrage: "none", LastContact: -1}
			n.describe(&m)
			out = append(out, m)
		}
	}
	return out
}

// serveStats answers the leader's autopilot: how far this node is.
func (n *Node) serveStats(_ context.Context, _ transport.Peer, _ []byte) ([]byte, error) {
	r := n.host.get()
	if r == nil {
		return nil, &transport.RemoteError{Code: "not_ready", Message: "raft does not run"}
	}
	stats := r.Stats()
	term, err := strconv.ParseUint(stats["last_log_term"], 10, 64)
	if err != nil {
		return nil, err
	}
	contact := time.Since(r.LastContact())
	if r.State() == raft.Leader {
		contact = 0
	}
	return json.Marshal(serverStats{Contact: contact, Term: term, Index: r.LastIndex(), Applied: n.ledger.Meta().Applied, State: r.State().String(), Entries: n.head().Size})
}

type serverStats struct {
	Contact     time.Duration
	Term, Index uint64
	Applied     uint64
	// State and Entries are for people.
	State   string
	Entries uint64
}

// askFor bounds how long AskMembers waits.
const askFor = time.Second

// AskMembers implements server.Operator.
func (n *Node) AskMembers(ctx context.Context, members []server.Member) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	var wg sync.WaitGroup
	for i := range members {
		m := &members[i]
		wg.Go(func() {
			var reply []byte
			var err error
			if m.NodeID == n.identity.NodeID() {
				reply, err = n.serveStats(ctx, transport.Peer{}, nil)
			} else {
				reply, _, err = n.trans.Call(ctx, transport.ClassCall, transport.PeerRef{NodeID: m.NodeID}, methodStats, nil)
			}
			var s serverStats
			if err != nil || json.Unmarshal(reply, &s) != nil {
				return // it shows as one that does not answer
			}
			m.State, m.Applied, m.Entries = s.State, s.Applied, s.Entries
		})
	}
	wg.Wait()
}

// serverStats asks the others, for autopilot.
func (n *Node) serverStats(ctx context.Context, ids []raft.ServerID) map[raft.ServerID]autopilot.ServerStats {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var mu sync.Mutex // guards out
	out := make(map[raft.ServerID]autopilot.ServerStats, len(ids))
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			reply, _, err := n.trans.Call(ctx, transport.ClassCall, transport.PeerRef{NodeID: fsm.NodeID(string(id))}, methodStats, nil)
			var s serverStats
			if err != nil || json.Unmarshal(reply, &s) != nil {
				return // left out: autopilot takes it for unhealthy
			}
			mu.Lock()
			out[id] = autopilot.ServerStats{LastContact: s.Contact, LastTerm: s.Term, LastIndex: s.Index}
			mu.Unlock()
		})
	}
	wg.Wait()
	return out
}
