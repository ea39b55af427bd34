package fsm

import (
	"slices"

	"github.com/exonode/exonode/chain"
)

// View is what has been applied, as of one moment. It is immutable and shared:
// callers must not change what it holds.
type View struct {
	Meta
	// Epoch is the chain's: it counts recoveries and restores.
	Epoch uint64
	// Genesis is nil before the chain began.
	Genesis *GenesisFacts
	// Configuration is the newest raft configuration that was applied, also
	// where it waits for genesis.
	Configuration Configuration

	nodes   []Node
	removed []string
}

// Node returns what the chain says of a node.
func (v *View) Node(id string) (Node, bool) {
	i, ok := slices.BinarySearchFunc(v.nodes, id, compareNode)
	if !ok {
		return Node{}, false
	}
	return v.nodes[i], true
}

// Nodes returns all node records, sorted by id.
func (v *View) Nodes() []Node { return v.nodes }

// Removed reports whether a node was removed from the cluster and not added
// again: nothing may be accepted from it.
func (v *View) Removed(nodeID string) bool {
	_, ok := slices.BinarySearch(v.removed, nodeID)
	return ok
}

// GenesisFacts are what the state keeps of entry 0.
type GenesisFacts struct {
	ChainID     chain.ID
	ClusterName string
	Origin      string
	// Hash is GenesisHash of the document.
	Hash chain.Hash
	// LogKey is the log's first public key (Ed25519).
	LogKey [32]byte
}
