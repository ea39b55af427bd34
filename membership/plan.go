package membership

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Kinds of the entries that witness changes.
const (
	KindPeerAdd    = "cluster.peer.add"
	KindPeerRemove = "cluster.peer.remove"
	KindPeerState  = "cluster.peer.state"
	KindPromote    = "cluster.promote"
	KindDemote     = "cluster.demote"
	KindTransfer   = "cluster.transfer"
)

// PlanInput is all that the leader plans from. Every slice may be in any order.
type PlanInput struct {
	Now time.Time `json:"now"`
	// Self is this node's server id.
	Self string `json:"self"`
	// LeaderSince is when this node became leader; zero where it is not.
	LeaderSince time.Time `json:"leader_since"`
	// GossipSince is when this node began to listen to gossip.
	GossipSince time.Time `json:"gossip_since"`
	// Servers is the latest raft configuration.
	Servers []Server       `json:"servers"`
	Gossip  []GossipMember `json:"gossip"`
	// Removed are node ids that are locked out, as folded.
	Removed []string `json:"removed"`
	// Noted is the newest cluster.peer.state of a node, as folded; none is
	// alive.
	Noted map[string]PeerState `json:"noted"`
	// Full is, of each node that was noted as failed, how many voters the
	// cluster had then, itself included.
	Full map[string]int `json:"full,omitempty"`
	// Joins are nodes that asked to be let in. Removals are node ids that
	// asked to leave or that an operator removes.
	Joins    []Member  `json:"joins"`
	Removals []Removal `json:"removals"`
	Policy   Policy    `json:"policy"`
}

// Server is a server of the raft configuration.
type Server struct {
	ServerID string `json:"server_id"`
	NodeID   string `json:"node_id"`
	Voter    bool   `json:"voter"`
	// Contact is how long ago raft heard of it; negative where it has not
	// since this node leads.
	Contact time.Duration `json:"contact"`
}

// Removal is a request to take a node out for good.
type Removal struct {
	NodeID string `json:"node_id"`
	// Reason is "leave", or what the operator gave.
	Reason string `json:"reason"`
}

// PeerState is a server's condition.
type PeerState string

// The states.
const (
	PeerAlive PeerState = "alive"
	// PeerFailed: gossip and raft were both silent for the period.
	PeerFailed PeerState = "failed"
	// PeerReplaced: an older incarnation of a node that came back with an
	// empty disk.
	PeerReplaced PeerState = "replaced"
)

// Do is what an action does.
type Do string

// The actions.
const (
	DoAdd      Do = "add_nonvoter"
	DoPromote  Do = "promote"
	DoDemote   Do = "demote"
	DoRemove   Do = "remove"
	DoTransfer Do = "transfer" // leadership, to this server
	DoNote     Do = "note"     // seal the witness entry, no more
	DoHold     Do = "hold"     // nothing yet: the reason may pass
	DoRefuse   Do = "refuse"   // never: drop the request
)

// Action is one step of a plan.
type Action struct {
	Do       Do     `json:"do"`
	NodeID   string `json:"node_id"`
	ServerID string `json:"server_id,omitempty"`
	// Witness is the kind of the entry to seal first; "" where none is
	// due, or it was sealed before.
	Witness string `json:"witness,omitempty"`
	// From and To are states, for KindPeerState.
	From PeerState `json:"from,omitempty"`
	To   PeerState `json:"to,omitempty"`
	// Reason is for people.
	Reason string `json:"reason"`
}

// Plan returns what the leader should do now: notes first, then at most one
// change of the configuration, as each alters what the next is judged by.
// Requests that can't be met yet or at all are held or refused, with the
// reason. On any other node the plan is empty.
func Plan(in PlanInput) []Action {
	if in.LeaderSince.IsZero() {
		return nil
	}
	p := planner{in: in}
	p.sort()
	p.note()
	// In this order: finish what is sealed, then what was asked for.
	p.lockedOut()
	p.removals()
	p.joins()
	return p.actions
}

type planner struct {
	in      PlanInput
	actions []Action
	changed bool
}

func (p *planner) sort() {
	p.in.Servers = slices.Clone(p.in.Servers)
	slices.SortFunc(p.in.Servers, func(a, b Server) int { return cmp.Compare(a.ServerID, b.ServerID) })
	p.in.Joins = slices.Clone(p.in.Joins)
	slices.SortFunc(p.in.Joins, func(a, b Member) int { return cmp.Compare(a.NodeID, b.NodeID) })
	p.in.Removals = slices.Clone(p.in.Removals)
	slices.SortStableFunc(p.in.Removals, func(a, b Removal) int { return cmp.Compare(a.NodeID, b.NodeID) })
}

// change adds a change of configuration or leadership, of which a plan has one.
func (p *planner) change(a Action) {
	if !p.changed {
		p.actions = append(p.actions, a)
		p.changed = true
	}
}

func (p *planner) say(a Action) { p.actions = append(p.actions, a) }

func (p *planner) note() {
	for _, s := range p.in.Servers {
		if s.ServerID == p.in.Self {
			continue
		}
		from := cmp.Or(p.in.Noted[s.NodeID], PeerAlive)
		state, why := assess(p.in, s)
		if state == from {
			continue
		}
		p.say(Action{
			Do: DoNote, NodeID: s.NodeID, ServerID: s.ServerID,
			Witness: KindPeerState, From: from, To: state, Reason: why,
		})
	}
}

// lockedOut removes servers whose removal was sealed, but not yet done when the
// leader changed.
func (p *planner) lockedOut() {
	for _, s := range p.in.Servers {
		if slices.Contains(p.in.Removed, s.NodeID) {
			p.remove(s, Action{
				Do: DoRemove, NodeID: s.NodeID, ServerID: s.ServerID,
				Reason: "its removal is sealed",
			})
		}
	}
}

func (p *planner) removals() {
	for _, r := range p.in.Removals {
		if slices.Contains(p.in.Removed, r.NodeID) {
			continue // see lockedOut
		}
		i := slices.IndexFunc(p.in.Servers, func(s Server) bool { return s.NodeID == r.NodeID })
		if i < 0 {
			p.say(Action{Do: DoRefuse, NodeID: r.NodeID, Reason: "the node is not in the configuration"})
			continue
		}
		s := p.in.Servers[i]
		p.remove(s, Action{
			Do: DoRemove, NodeID: s.NodeID, ServerID: s.ServerID,
			Witness: KindPeerRemove, Reason: r.Reason,
		})
	}
}

// remove plans a removal where the rest can go on without the server; the
// leader first hands over.
func (p *planner) remove(s Server, a Action) {
	if do, why := mayRemove(p.in, s); do != DoRemove {
		p.say(Action{Do: do, NodeID: s.NodeID, ServerID: s.ServerID, Reason: why})
		return
	}
	if s.ServerID != p.in.Self {
		p.change(a)
		return
	}
	to := p.successor()
	p.change(Action{
		Do: DoTransfer, NodeID: to.NodeID, ServerID: to.ServerID, Witness: KindTransfer,
		Reason: "the leader is to be removed",
	})
}

// successor is the voter that raft heard of last. mayRemove has found one.
func (p *planner) successor() Server {
	var best Server
	for _, s := range p.in.Servers {
		if !s.Voter || s.ServerID == p.in.Self {
			continue
		}
		if best.ServerID == "" || silence(p.in, s) < silence(p.in, best) {
			best = s
		}
	}
	return best
}

func (p *planner) joins() {
	for _, j := range p.in.Joins {
		switch old, same, ok := p.configured(j); {
		case slices.Contains(p.in.Removed, j.NodeID):
			p.say(Action{Do: DoRefuse, NodeID: j.NodeID, ServerID: j.ServerID, Reason: "the node was removed"})
		case same: // done
		case ok:
			// Raft allows one server an address, and the old one's
			// vote must not count beside the new one's.
			p.remove(old, Action{
				Do: DoRemove, NodeID: old.NodeID, ServerID: old.ServerID,
				Witness: KindPeerState, From: cmp.Or(p.in.Noted[old.NodeID], PeerAlive), To: PeerReplaced,
				Reason: "the node came back with an empty disk",
			})
		default:
			p.change(Action{
				Do: DoAdd, NodeID: j.NodeID, ServerID: j.ServerID,
				Witness: KindPeerAdd, Reason: "the node asked to join",
			})
		}
	}
}

// configured finds a server of the joiner's node; same where it is the joiner.
func (p *planner) configured(j Member) (s Server, same, ok bool) {
	for _, s := range p.in.Servers {
		if s.NodeID == j.NodeID {
			return s, s.ServerID == j.ServerID, true
		}
	}
	return Server{}, false, false
}

// silence is how long raft has not heard of a server.
func silence(in PlanInput, s Server) time.Duration {
	switch {
	case s.ServerID == in.Self:
		return 0
	case s.Contact < 0:
		return in.Now.Sub(in.LeaderSince)
	default:
		return s.Contact
	}
}

// assess judges a server by gossip and raft together: either alone proves
// nothing.
func assess(in PlanInput, s Server) (PeerState, string) {
	quiet := silence(in, s)
	if quiet < in.Policy.FailedAfter {
		return PeerAlive, "raft hears it"
	}
	said, since := "not heard of", in.GossipSince
	for _, g := range in.Gossip {
		if g.NodeID != s.NodeID {
			continue
		}
		if g.State == GossipAlive {
			return PeerAlive, "gossip hears it"
		}
		said, since = string(g.State), g.Since
	}
	gone := in.Now.Sub(since)
	if gone < in.Policy.FailedAfter {
		return PeerAlive, "gossip heard it lately"
	}
	return PeerFailed, fmt.Sprintf("gossip: %s for %s, raft: silent for %s", said, gone.Round(time.Second), quiet.Round(time.Second))
}

// mayRemove reports DoRemove where the rest keeps a quorum of servers that raft
// hears, else what to tell.
func mayRemove(in PlanInput, s Server) (Do, string) {
	if !s.Voter {
		return DoRemove, ""
	}
	rest, heard := 0, 0
	for _, o := range in.Servers {
		if !o.Voter || o.ServerID == s.ServerID {
			continue
		}
		rest++
		if silence(in, o) <= in.Policy.LastContact {
			heard++
		}
	}
	switch {
	case rest == 0:
		return DoRefuse, "it is the last voter"
	case heard < rest/2+1:
		return DoHold, fmt.Sprintf("of the %d voters left, raft hears %d: no quorum", rest, heard)
	default:
		return DoRemove, ""
	}
}

// MayRemoveDead decides whether a server that autopilot wants to remove goes: a
// failed voter in whose place another one stands, so that there are as many healthy
// voters as there were voters when it failed. A removal locks the node out for good:
// one that is only restarted, or cut off for a while, must find its place when it
// comes back. A dead non-voter costs no quorum and stays; its node may come back.
func MayRemoveDead(in PlanInput, serverID string) (Action, bool) {
	if in.LeaderSince.IsZero() || !in.Policy.RemoveDead {
		return Action{}, false
	}
	i := slices.IndexFunc(in.Servers, func(s Server) bool { return s.ServerID == serverID })
	if i < 0 || !in.Servers[i].Voter || serverID == in.Self {
		return Action{}, false
	}
	s := in.Servers[i]
	state, why := assess(in, s)
	if state != PeerFailed {
		return Action{}, false
	}
	healthy := 0
	for _, o := range in.Servers {
		if o.Voter && o.ServerID != serverID && silence(in, o) <= in.Policy.LastContact {
			healthy++
		}
	}
	full, noted := in.Full[s.NodeID]
	if do, _ := mayRemove(in, s); do != DoRemove || !noted || healthy < max(full, in.Policy.MinVoters) {
		return Action{}, false
	}
	return Action{Do: DoRemove, NodeID: s.NodeID, ServerID: s.ServerID, Witness: KindPeerRemove, Reason: why}, true
}
