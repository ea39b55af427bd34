package fsm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
)

// configuration seals a raft configuration, or, before genesis, keeps it until
// there is a chain to seal it in.
func (a *applier) configuration(c Configuration) (*ConfigurationResult, error) {
	if a.head.Size == 0 {
		a.state.waiting = append(a.state.waiting[:len(a.state.waiting):len(a.state.waiting)], c)
		a.changed = true
		return &ConfigurationResult{}, nil
	}
	if err := a.sealConfiguration(&c); err != nil {
		return nil, err
	}
	return &ConfigurationResult{Sequence: a.head.Size - 1, Sealed: true, Head: a.head}, nil
}

func (a *applier) sealConfiguration(c *Configuration) error {
	causes, flagged := a.state.explain(c)
	id := fmt.Sprintf("config-%d-%d", a.meta.RaftEpoch, c.RaftIndex)
	e := a.systemEvent(sourceCluster, id, catalog.KindClusterConfig, configPayload(c, flagged), causes, c.RaftIndex)
	// Nobody stamped it: its time is the previous one plus one.
	return a.seal(&chain.SealInput{Event: e, Principal: clusterPrincipal, RaftIndex: c.RaftIndex}, nil)
}

// genesis begins the chain with its first three entries.
func (a *applier) genesis(c *GenesisCommand) (*GenesisResult, error) {
	if a.head.Size > 0 {
		return &GenesisResult{Head: a.head}, nil
	}
	g, err := ParseGenesis(c.Document)
	if err != nil {
		return &GenesisResult{Err: err}, nil
	}
	if g.ChainID != a.f.cfg.ChainID {
		// Peers with another chain are kept out by the transport; to
		// refuse it here would be to diverge from those who don't.
		return nil, fmt.Errorf("genesis of chain %v, this node's is %v", g.ChainID, a.f.cfg.ChainID)
	}
	if len(a.state.waiting) == 0 {
		return &GenesisResult{Err: errors.New("fsm: no raft configuration was applied before genesis")}, nil
	}
	before, changed := a.state, a.changed
	if err := a.begin(c, g); err != nil {
		// The chain was empty, so this takes back all there is.
		a.state, a.changed, a.head = before, changed, chain.Head{}
		a.update = Update{}
		clear(a.overlay)
		return &GenesisResult{Err: err}, nil
	}
	return &GenesisResult{Began: true, Head: a.head}, nil
}

func (a *applier) begin(c *GenesisCommand, g *Genesis) error {
	waiting := a.state.waiting
	document := genesisPayload(g, chain.PolicyHash(g.Policy), c.Document, &c.LogKey)
	if err := a.sealGenesis(c, catalog.KindChainGenesis, g.ChainID.String(), document, nil); err != nil {
		return err
	}
	if err := a.sealConfiguration(&waiting[0]); err != nil {
		return err
	}
	if err := a.sealGenesis(c, catalog.KindGovernanceGenesis, "governance", governancePayload(g), []uint64{0}); err != nil {
		return err
	}
	for i := range waiting[1:] {
		if err := a.sealConfiguration(&waiting[1+i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) sealGenesis(c *GenesisCommand, kind, id string, payload []byte, causes []uint64) error {
	e := a.systemEvent(sourceGenesis, id, kind, payload, causes, a.head.Size)
	return a.seal(&chain.SealInput{Stamp: c.Stamp, Event: e, Principal: clusterPrincipal, SealingNode: c.Node}, nil)
}

// governancePayload is the payload of governance.genesis, with the whole policy.
func governancePayload(g *Genesis) []byte {
	j := new(frozenJSON)
	j.open('{')
	j.text("policy_hash", chain.PolicyHash(g.Policy).String())
	j.text("environment", g.Environment)
	j.texts("rules", nil)
	j.raw("policy", g.Policy)
	j.close('}')
	return j.b
}

// explain returns the entries that explain how a configuration differs from the
// one before it, in ascending order, and whether some difference has none.
// Genesis explains the first configuration.
func (s *state) explain(c *Configuration) (causes []uint64, flagged bool) {
	if !s.config.there() {
		return []uint64{0}, false
	}
	for _, change := range changes(&s.config, c) {
		i, found := slices.BinarySearchFunc(s.witnesses, change, compareWitness)
		if !found {
			flagged = true
		} else if len(causes) < chain.MaxCauses {
			causes = append(causes, s.witnesses[i].sequence)
		}
	}
	slices.Sort(causes)
	return slices.Compact(causes), flagged
}
