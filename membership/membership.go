// Package membership decides who belongs to the cluster: gossip and the raft
// configuration go in, a plan comes out, and the leader applies it.
//
// Exactly one decision maker exists for each kind of change:
//
//	first configuration       Form: the lowest server id proposes, all promise
//	add a non-voter           Plan, on a join request
//	remove, on request        Plan: a leave, an operator, a removed node that
//	                          is still configured, an older incarnation
//	remove a dead server      Autopilot, where the policy asks for it
//	promote to voter          Autopilot
//	demote                    nobody by itself
//	note a peer's state       Plan
//
// Every change goes through one Changer, which has its witness entry sealed
// before it asks raft. Gossip alone never removes a server: it counts as failed
// only where gossip and raft have both been silent for Policy.FailedAfter.
//
// The package must not open raft, seal entries, or decide who is authentic:
// those are given to it as functions. Package node wires it.
package membership

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/exonode/exonode/chain"
)

// Member is a server of a configuration and where it was last known to listen.
// Addresses are hints: raft's server address is the node id.
type Member struct {
	NodeID   string `json:"node_id"`
	ServerID string `json:"server_id"`
	// PeerAddr is host:port of the peer listener; "" where only the
	// address that was dialled is known.
	PeerAddr string `json:"peer_addr,omitempty"`
	// GossipAddr is host:port for gossip; "" where unknown.
	GossipAddr string `json:"gossip_addr,omitempty"`
}

// Limits of what peers may send.
const (
	maxID      = 256
	maxAddr    = 300
	maxMembers = 128
	maxPeers   = 64
)

func (m Member) validate() error {
	switch {
	case m.NodeID == "" || len(m.NodeID) > maxID:
		return fmt.Errorf("node_id: want 1 to %d bytes, got %d", maxID, len(m.NodeID))
	case m.ServerID == "" || len(m.ServerID) > maxID:
		return fmt.Errorf("server_id: want 1 to %d bytes, got %d", maxID, len(m.ServerID))
	case len(m.PeerAddr) > maxAddr:
		return fmt.Errorf("peer_addr: want at most %d bytes, got %d", maxAddr, len(m.PeerAddr))
	case len(m.GossipAddr) > maxAddr:
		return fmt.Errorf("gossip_addr: want at most %d bytes, got %d", maxAddr, len(m.GossipAddr))
	}
	return nil
}

// hasServer reports whether a server id is among ms.
func hasServer(ms []Member, serverID string) bool {
	return slices.ContainsFunc(ms, func(m Member) bool { return m.ServerID == serverID })
}

// Policy is how patient the leader is with servers.
type Policy struct {
	// FailedAfter is how long gossip and raft must both be silent before
	// a server counts as failed.
	FailedAfter time.Duration `json:"failed_after"`
	// Stabilization is how long a non-voter must be healthy before it is
	// promoted.
	Stabilization time.Duration `json:"stabilization"`
	// LastContact is raft silence after which a server is unhealthy.
	LastContact time.Duration `json:"last_contact"`
	// MaxTrailingLogs is how far a healthy server may lag, in log entries.
	MaxTrailingLogs uint64 `json:"max_trailing_logs"`
	// RemoveDead has failed servers removed once enough healthy voters
	// remain.
	RemoveDead bool `json:"remove_dead"`
	// MinVoters is the number of healthy voters below which a dead voter
	// is kept in any case.
	MinVoters int `json:"min_voters"`
}

// DefaultPolicy suits nodes on one network.
func DefaultPolicy() Policy {
	return Policy{
		FailedAfter:     30 * time.Second,
		Stabilization:   10 * time.Second,
		LastContact:     2 * time.Second,
		MaxTrailingLogs: 2048,
		RemoveDead:      true,
		MinVoters:       3,
	}
}

// Errors that a peer's refusal or one's own state lead to.
var (
	// ErrRemoved: the node was removed from this cluster for good. It needs
	// a new key and an empty data directory.
	ErrRemoved = errors.New("membership: this node was removed from the cluster")
	// ErrForeignCluster: the peer belongs to another cluster. The operator
	// checks cluster file and seeds.
	ErrForeignCluster = errors.New("membership: the peer belongs to another cluster")
	// ErrWrongSecret: the peer did not accept the join proof. A Call wraps
	// its own error in it; the operator checks the cluster file.
	ErrWrongSecret = errors.New("membership: the peer does not accept this cluster secret")
	// ErrUnavailable: the peer can't help now. Try again, or ask another.
	ErrUnavailable = errors.New("membership: the peer can't answer this now")
	// ErrRefused: the peer understood and said no; the text says why.
	ErrRefused = errors.New("membership: refused")
	// ErrMalformed: a message is not what its method takes; a bug, or
	// versions that don't fit.
	ErrMalformed = errors.New("membership: malformed message")
	// ErrHasState: the node has raft state already: it starts from that.
	ErrHasState = errors.New("membership: raft state exists")
	// ErrPromised: the node holds a promise for another configuration.
	ErrPromised = errors.New("membership: promised to another configuration")
)

// Proposal is a first configuration that its members promise to start with.
type Proposal struct {
	Genesis chain.Hash `json:"genesis"`
	// Nonce tells attempts at the same configuration apart, so that a
	// delayed withdrawal can't hit a later attempt.
	Nonce chain.ID `json:"nonce"`
	// Members are sorted by server id; the first one proposes.
	Members []Member `json:"members"`
}

// Proposer is the member that proposes, and alone bootstraps.
func (p Proposal) Proposer() Member { return p.Members[0] }

// validate checks what every proposal must be.
func (p Proposal) validate() error {
	if len(p.Members) == 0 || len(p.Members) > maxMembers {
		return fmt.Errorf("members: want 1 to %d, got %d", maxMembers, len(p.Members))
	}
	nodes := make(map[string]bool, len(p.Members))
	for i, m := range p.Members {
		if err := m.validate(); err != nil {
			return fmt.Errorf("members[%d].%w", i, err)
		}
		if i > 0 && m.ServerID <= p.Members[i-1].ServerID {
			return fmt.Errorf("members[%d]: not sorted by server id", i)
		}
		if nodes[m.NodeID] {
			return fmt.Errorf("members[%d]: node %s is listed twice", i, m.NodeID)
		}
		nodes[m.NodeID] = true
	}
	return nil
}
