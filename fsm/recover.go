package fsm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
)

// Recovery is how a node whose cluster has lost its quorum for good goes on alone.
type Recovery struct {
	// Index is the raft index that the forced configuration takes: beyond all that
	// raft's log has here. Term is that of the last of those.
	Index, Term uint64
	// Survivor is the one server that stays, a voter, under an id that no
	// configuration had before: no server of the older epoch can take it for the
	// one that it knows.
	Survivor Server
	// Reason is the operator's, for the record.
	Reason string
}

// ErrNotRecoverable: the node has no place in the configuration that it would
// replace, or no chain yet. Choose another survivor.
var ErrNotRecoverable = errors.New("the cluster can't be recovered from this node")

// Recover seals, as one Update, a chain.recover entry, with which the chain's next
// epoch begins, and the configuration that it forces, and begins the next raft
// epoch. Raft must not run, and all of its log is to be applied before. Everything
// is derived from the state and r, so that a second attempt, after a crash that lost
// the first, makes the same entries. It is durable once the store is flushed.
//
// The epoch is raised always. A recovery whose chain extends the highest checkpoint
// that any survivor, witness or anchor knows has lost nothing that was final, and
// could keep the epoch: where checkpoints are kept, that is decided before Recover.
func (f *FSM) Recover(r Recovery) error {
	if err := f.Halted(); err != nil {
		return fmt.Errorf("fsm: recover a halted node: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.newApplier()
	defer clear(f.overlay)
	lost, err := a.state.checkRecovery(&r)
	if err != nil {
		return err
	}
	if r.Index <= a.meta.Applied {
		return fmt.Errorf("fsm: recover at raft index %d, applied is %d", r.Index, a.meta.Applied)
	}
	a.meta.Applied, a.meta.AppliedTerm = r.Index, r.Term
	a.meta.RaftEpoch++
	if err := a.recover(&r, lost); err != nil {
		return fmt.Errorf("fsm: recover: %w", err)
	}
	return a.commit()
}

// checkRecovery returns the node ids that a recovery gives up.
func (s *state) checkRecovery(r *Recovery) ([]string, error) {
	id := NodeID(r.Survivor.ID)
	switch {
	case s.genesis == nil:
		return nil, fmt.Errorf("%w: the chain has not begun", ErrNotRecoverable)
	case !s.config.has(id):
		return nil, fmt.Errorf("%w: node %s is not in the newest configuration", ErrNotRecoverable, id)
	case !r.Survivor.Voter || r.Survivor.Address != id:
		return nil, fmt.Errorf("fsm: recover with server %+v", r.Survivor)
	case slices.ContainsFunc(s.config.Servers, func(o Server) bool { return o.ID == r.Survivor.ID }):
		return nil, fmt.Errorf("fsm: recover under the old server id %s", r.Survivor.ID)
	}
	return s.config.Others(id), nil
}

// has reports whether a node has a server in the configuration.
func (c *Configuration) has(nodeID string) bool {
	return slices.ContainsFunc(c.Servers, func(s Server) bool { return NodeID(s.ID) == nodeID })
}

// nodes returns the node ids of the servers, sorted.
func (c *Configuration) nodes() []string {
	var ids []string
	for _, s := range c.Servers {
		ids = append(ids, NodeID(s.ID))
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Others returns the ids, sorted, of the nodes in the configuration but one.
func (c *Configuration) Others(nodeID string) []string {
	return slices.DeleteFunc(c.nodes(), func(id string) bool { return id == nodeID })
}

// recover seals the two entries.
func (a *applier) recover(r *Recovery, lost []string) error {
	a.state.epoch++
	payload := recoverPayload(a.state.epoch, a.head, lost, r.Reason)
	e := a.systemEvent(sourceCluster, recoverID(a.state.epoch), catalog.KindChainRecover, payload, nil, r.Index)
	if err := a.seal(&chain.SealInput{Event: e, Principal: clusterPrincipal, RaftIndex: r.Index}, nil); err != nil {
		return err
	}
	return a.sealConfiguration(&Configuration{RaftIndex: r.Index, Servers: []Server{r.Survivor}})
}

// RecoveryKey is the key of the entry with which a recovered chain's epoch begins.
func (v *View) RecoveryKey() (key chain.Key, ok bool) {
	epoch := v.Epoch()
	return chain.Key{Workspace: catalog.SystemWorkspace, Source: sourceCluster, ID: recoverID(epoch)}, epoch > 0
}

func recoverID(epoch uint64) string { return fmt.Sprintf("recover-%d", epoch) }

// recoverPayload is the payload of chain.recover, which names the last entry that
// was kept.
func recoverPayload(epoch uint64, kept chain.Head, lost []string, reason string) []byte {
	j := new(frozenJSON)
	j.open('{')
	j.uint("epoch", epoch)
	j.uint("last_seq", kept.Size-1)
	j.text("head_hash", kept.Hash.String())
	j.texts("lost_peers", lost)
	j.text("reason", reason)
	j.close('}')
	return j.b
}

// foldRecover begins an epoch. The entry explains whatever the forced configuration
// changes; what was to change before it does not. The nodes that are given up are
// not locked out: with an empty disk they may come back.
func (s *state) foldRecover(f fact) (effects, error) {
	lost, err := readRecovery(f.header, f.payload)
	if err != nil {
		return effects{}, err
	}
	s.epoch = f.header.Epoch
	s.witnesses, s.trusted = nil, nil
	for _, kind := range []string{catalog.KindClusterPeerAdd, catalog.KindClusterPeerRemove} {
		for _, id := range s.config.nodes() {
			s.witnesses = append(s.witnesses, witness{change{kind, id}, f.header.Sequence})
		}
	}
	s.nodes = slices.DeleteFunc(slices.Clone(s.nodes), func(n Node) bool { return slices.Contains(lost, n.ID) })
	return effects{changed: true}, nil
}

// readRecovery returns the node ids that a chain.recover gives up. What it says
// besides must be so.
func readRecovery(h *chain.Header, payload []byte) ([]string, error) {
	m, err := readMembers(payload)
	if err != nil {
		return nil, err
	}
	epoch, last, hash, lost := m.uint("epoch"), m.uint("last_seq"), m.text("head_hash"), m.texts("lost_peers")
	if err := m.result(); err != nil {
		return nil, err
	}
	if epoch != h.Epoch || last+1 != h.Sequence || hash != h.Previous.String() {
		return nil, fmt.Errorf("it says epoch %d after entry %d with hash %s, and is of epoch %d after entry %d with hash %v",
			epoch, last, hash, h.Epoch, h.Sequence-1, h.Previous)
	}
	return lost, nil
}

func (m *members) texts(name string) []string {
	list, err := catalog.ReadArray(m.m[name])
	m.fail(name, err)
	var texts []string
	for _, raw := range list {
		s, err := catalog.ReadString(raw)
		m.fail(name, err)
		texts = append(texts, s)
	}
	return texts
}
