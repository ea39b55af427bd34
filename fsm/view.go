package fsm

import (
	"slices"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/gates"
)

// View is what has been applied, as of one moment. It is immutable: callers
// must not change what it returns.
type View struct {
	meta  Meta
	state state
}

// Meta returns head, root and applied index.
func (v *View) Meta() Meta { return v.meta }

// Head returns the chain's head.
func (v *View) Head() chain.Head { return v.meta.Head }

// Epoch returns the chain's epoch, which counts recoveries and restores.
func (v *View) Epoch() uint64 { return v.state.epoch }

// Origin names the log that the chain is in this epoch, as its checkpoints do; "" before
// the chain began.
func (v *View) Origin() string {
	g := v.state.genesis
	if g == nil {
		return ""
	}
	return originAt(g.Origin, g.ChainID, v.state.epoch)
}

// Genesis returns what is kept of entry 0; nil before the chain began.
func (v *View) Genesis() *GenesisFacts { return v.state.genesis }

// Configuration returns the newest raft configuration that was applied, also
// one that waits for genesis.
func (v *View) Configuration() Configuration { return *v.state.latest() }

// Gates returns the governance state, which knows policy and catalog.
func (v *View) Gates() gates.State { return v.state.gates }

// Revision returns the governance revision.
func (v *View) Revision() uint64 { return v.state.gates.Revision() }

// Evaluate evaluates the gate of a proposal's kind for a leader. It returns nil
// where the kind has no gate, or the chain no policy yet.
func (v *View) Evaluate(p *Proposal) *chain.Verdict {
	verdict, gated, err := v.state.gates.Evaluate(p.Workspace, p.Kind, (*gates.Effect)(p.DeclaredEffect))
	if err != nil || !gated {
		// Without a policy the chain has not begun, and Apply refuses.
		return nil
	}
	return sealable(verdict)
}

// sealable returns a verdict as a header holds it.
func sealable(v gates.Verdict) *chain.Verdict {
	return &chain.Verdict{
		Gate:       v.Gate,
		Decision:   chain.Decision(v.Decision),
		Revision:   v.Revision,
		PolicyHash: v.PolicyHash,
		Declared:   (*chain.Effect)(v.Declared),
		Effective:  chain.Effect(v.Effective),
		Profile:    v.Profile,
		Reasons:    v.Reasons,
	}
}

// Node returns what the chain says of a node.
func (v *View) Node(id string) (Node, bool) {
	i, ok := slices.BinarySearchFunc(v.state.nodes, id, compareNode)
	if !ok {
		return Node{}, false
	}
	return v.state.nodes[i], true
}

// Nodes returns all node records, sorted by id.
func (v *View) Nodes() []Node { return v.state.nodes }

// Removed reports whether a node was removed from the cluster and not added
// again: nothing may be accepted from it.
func (v *View) Removed(nodeID string) bool {
	_, ok := slices.BinarySearch(v.state.removed, nodeID)
	return ok
}

// RemovedNodes returns the ids of all nodes for which Removed is true, sorted.
func (v *View) RemovedNodes() []string { return v.state.removed }

// GenesisFacts are what the state keeps of entry 0.
type GenesisFacts struct {
	ChainID     chain.ID
	ClusterName string
	Origin      string
	// Hash is GenesisHash of the document.
	Hash chain.Hash
	// LogKey is the log's public key (Ed25519): the first one, or the one that the
	// newest chain.rotate names.
	LogKey [32]byte
}
