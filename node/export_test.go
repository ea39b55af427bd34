package node

import (
	"context"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/transport"
)

// Fetched is how many entries the node fetched from others to catch up.
func (n *Node) Fetched() uint64 { return n.catchup.Fetched() }

// Snapshot takes a snapshot now, of what is applied here.
func (n *Node) Snapshot() error {
	return n.host.snapshot(n.cfg.Storage.SnapshotBytes, n.cfg.Storage.SnapshotLogs)
}

// Leads reports whether raft leads here.
func (n *Node) Leads() bool { return n.host.get().leads() }

// AwaitSize returns once the chain here has a size.
func (n *Node) AwaitSize(ctx context.Context, size uint64) error { return n.growth.await(ctx, size) }

// FirstLog is where raft's log begins.
func (n *Node) FirstLog() (uint64, error) { return n.stores.Log.FirstIndex() }

// Incarnation tells raft's instances apart: it changes when raft is restarted.
func (n *Node) Incarnation() any { return n.host.get() }

// RecoverOn has a recovery stand on g, and tell reached of each step that is done.
func (c RecoverConfig) RecoverOn(g Ground, reached func(step string) error) RecoverConfig {
	c.ground, c.reached = g, reached
	return c
}

// Source is the node's chain.
func (n *Node) Source() chain.Source { return n.ledger.Source() }

// RaftStats are the transport's counters of raft's RPCs.
func (n *Node) RaftStats() transport.ClassStats { return n.trans.Stats().Classes[0] }

// PeerAddr is where peers reach the node.
func (n *Node) PeerAddr() string { return n.self.PeerAddr }
