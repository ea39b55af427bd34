package fsm

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/gates"
)

// state is the fold of the entries. Its slices are never changed in place, so a
// copy of the struct (a View) stays what it was.
type state struct {
	// epoch is the chain's.
	epoch   uint64
	genesis *GenesisFacts
	// waiting are raft's configurations from before genesis, oldest first.
	// They are the one part that no entry holds yet.
	waiting []Configuration
	// config is that of the newest cluster.config entry.
	config Configuration
	// witnesses are sorted by (kind, nodeID).
	witnesses []witness
	// removed are the removed nodes, sorted.
	removed []string
	// nodes are sorted by id.
	nodes []Node
	// trusted are the voters, with their keys, that the newest chain.checkpoint was
	// final under: what they sign counts also before newer voters are confirmed.
	trusted []string
	gates   gates.State
}

func newState() state { return state{gates: gates.NewState(policyHash)} }

// policyHash is how the chain's format hashes a policy, as package gates takes
// it.
func policyHash(policy []byte) [32]byte { return chain.PolicyHash(policy) }

// Governs reports whether an entry of the kind, in workspace system, moves the
// governance revision: a command with one travels alone.
func Governs(kind string) bool { return gates.Bumps(catalog.SystemWorkspace, kind) }

// latest returns the newest configuration, one that waits for genesis included.
func (s *state) latest() *Configuration {
	if n := len(s.waiting); n > 0 {
		return &s.waiting[n-1]
	}
	return &s.config
}

// fact is what the fold takes of an entry.
type fact struct {
	header *chain.Header
	// payload is nil where it is redacted, which system's entries never are.
	payload []byte
	// earlier returns the header of an entry before this one. It is nil in a
	// replay, of which package chain checks redactions.
	earlier func(seq uint64) (*chain.Header, error)
}

// effects are what an entry changes besides the state.
type effects struct {
	slots  []SlotChange
	redact []Redaction
	// changed is whether the state did.
	changed bool
}

// ErrNotRedactable: a chain.redact names an entry of workspace system, whose
// envelopes stay, but for the one beside an escalation. Name another.
var ErrNotRedactable = errors.New("entry keeps its envelope")

// ErrFold is wrapped by errors of entries that can't be folded: they must not be
// sealed, and a chain that holds one does not verify.
var ErrFold = errors.New("entry can't be folded")

// fold takes one entry into the state. It is the one fold: Apply, catch-up and
// replay all use it. Payloads are folded from workspace system alone. On an
// error the state is as before.
func (s *state) fold(f fact) (effects, error) {
	h := f.header
	if h.Workspace != catalog.SystemWorkspace {
		return effects{}, nil
	}
	next := *s
	e, err := next.foldSystem(f)
	if err == nil && gates.Bumps(h.Workspace, h.Kind) {
		e.changed = true
		next.gates, err = next.gates.Fold(gates.Fact{
			Sequence:  h.Sequence,
			Time:      h.Time,
			Workspace: h.Workspace,
			Kind:      h.Kind,
			Source:    h.Source,
			ID:        h.ID,
			Principal: h.Principal,
			Payload:   f.payload,
		})
	}
	if err != nil {
		return effects{}, fmt.Errorf("fsm: %w: entry %d, kind %s: %w", ErrFold, h.Sequence, h.Kind, err)
	}
	*s = next
	return e, nil
}

func (s *state) foldSystem(f fact) (effects, error) {
	h := f.header
	switch h.Kind {
	case catalog.KindChainGenesis:
		return s.foldGenesis(f)
	case catalog.KindClusterConfig:
		return s.foldConfig(f)
	case catalog.KindClusterPeerAdd, catalog.KindClusterPeerRemove, catalog.KindClusterPromote, catalog.KindClusterDemote:
		return s.foldPeer(f)
	case catalog.KindClusterPeerState:
		return s.foldPeerState(f)
	case catalog.KindBootNetwork:
		return s.foldAddresses(f)
	case catalog.KindChainCheckpoint:
		return s.foldCheckpoint(f)
	case catalog.KindChainRotate:
		return s.foldRotate(f)
	case catalog.KindClusterPeerKeys:
		return s.foldKeys(f)
	case catalog.KindGovernanceDeny:
		return slotOf(f, Denied)
	case catalog.KindGovernanceEscalate:
		return slotOf(f, Pending)
	case catalog.KindChainRedact:
		return foldRedact(f)
	case catalog.KindChainRecover:
		return s.foldRecover(f)
	}
	return effects{}, nil
}

func (s *state) foldGenesis(f fact) (effects, error) {
	if f.header.Sequence != 0 {
		return effects{}, errors.New("the chain has begun")
	}
	facts, _, err := parseGenesisPayload(f.payload)
	if err != nil {
		return effects{}, err
	}
	if facts.ChainID != f.header.ChainID {
		return effects{}, fmt.Errorf("the document is of chain %s", facts.ChainID)
	}
	s.genesis, s.epoch, s.waiting = facts, f.header.Epoch, nil
	return effects{changed: true}, nil
}

func (s *state) foldConfig(f fact) (effects, error) {
	c, _, err := parseConfigPayload(f.payload)
	if err != nil {
		return effects{}, err
	}
	if c.RaftIndex != f.header.RaftIndex {
		return effects{}, fmt.Errorf("raft index %d, the header's is %d", c.RaftIndex, f.header.RaftIndex)
	}
	// What explained the change is used up.
	kept := make([]witness, 0, len(s.witnesses))
	for _, w := range s.witnesses {
		if !slices.Contains(f.header.Causes, w.sequence) {
			kept = append(kept, w)
		}
	}
	s.config, s.witnesses = c, kept
	return effects{changed: true}, nil
}

func (s *state) foldPeer(f fact) (effects, error) {
	m, err := readMembers(f.payload)
	if err != nil {
		return effects{}, err
	}
	id := m.text("node_id")
	n := Node{
		ID: id, Name: m.text("name"), Platform: m.text("platform"),
		PeerAddr: m.text("peer_addr"), APIAddr: m.text("api_addr"),
		TLSKey: m.text("tls_key"), CosignKey: m.text("cosign_key"), MLDSAKey: m.text("mldsa_key"),
		Sequence: f.header.Sequence, Added: true,
	}
	if err := m.result(); err != nil {
		return effects{}, err
	}
	if id == "" {
		return effects{}, errors.New("node_id is missing")
	}
	change := change{f.header.Kind, id}
	s.witnesses = put(s.witnesses, witness{change, f.header.Sequence}, change, compareWitness)
	at, known := slices.BinarySearchFunc(s.nodes, id, compareNode)
	gone, removed := slices.BinarySearch(s.removed, id)
	switch f.header.Kind {
	case catalog.KindClusterPeerAdd:
		if known {
			// What it announced stays where the record is silent.
			old := s.nodes[at]
			n.PeerAddr = orElse(n.PeerAddr, old.PeerAddr)
			n.APIAddr = orElse(n.APIAddr, old.APIAddr)
			n.GossipAddr = old.GossipAddr
			n.CosignKey, n.MLDSAKey = orElse(n.CosignKey, old.CosignKey), orElse(n.MLDSAKey, old.MLDSAKey)
		}
		s.nodes = put(s.nodes, n, id, compareNode)
		if removed {
			s.removed = slices.Delete(slices.Clone(s.removed), gone, gone+1)
		}
	case catalog.KindClusterPeerRemove:
		if known {
			s.nodes = slices.Delete(slices.Clone(s.nodes), at, at+1)
		}
		if !removed {
			s.removed = slices.Insert(slices.Clone(s.removed), gone, id)
		}
	}
	return effects{changed: true}, nil
}

// peerReplaced is the state of a node's older incarnation once the node came
// back with an empty disk (membership.PeerReplaced).
const peerReplaced = "replaced"

// foldPeerState takes the word that a node was replaced for the witness of its
// old server's removal: cluster.peer.remove would lock the node out.
func (s *state) foldPeerState(f fact) (effects, error) {
	m, err := readMembers(f.payload)
	if err != nil {
		return effects{}, err
	}
	id, to := m.text("node_id"), m.text("to")
	if err := m.result(); err != nil {
		return effects{}, err
	}
	if to != peerReplaced {
		return effects{}, nil
	}
	if id == "" {
		return effects{}, errors.New("node_id is missing")
	}
	change := change{catalog.KindClusterPeerRemove, id}
	s.witnesses = put(s.witnesses, witness{change, f.header.Sequence}, change, compareWitness)
	return effects{changed: true}, nil
}

// foldAddresses keeps what a node announced about itself at boot.
func (s *state) foldAddresses(f fact) (effects, error) {
	m, err := readMembers(f.payload)
	if err != nil {
		return effects{}, err
	}
	id, peer, api, gossip := m.text("node_id"), m.text("peer_addr"), m.text("api_addr"), m.text("gossip_addr")
	if err := m.result(); err != nil {
		return effects{}, err
	}
	if id == "" {
		return effects{}, errors.New("node_id is missing")
	}
	var n Node
	if at, known := slices.BinarySearchFunc(s.nodes, id, compareNode); known {
		n = s.nodes[at]
		if n.PeerAddr == peer && n.APIAddr == api && n.GossipAddr == gossip {
			return effects{}, nil
		}
	}
	if _, removed := slices.BinarySearch(s.removed, id); removed {
		return effects{}, nil
	}
	n.ID, n.PeerAddr, n.APIAddr, n.GossipAddr = id, peer, api, gossip
	s.nodes = put(s.nodes, n, id, compareNode)
	return effects{changed: true}, nil
}

// foldKeys keeps with which keys a node cosigns, where the node itself says so and
// shows that it has them. The newest word counts.
func (s *state) foldKeys(f fact) (effects, error) {
	m, err := readMembers(f.payload)
	if err != nil {
		return effects{}, err
	}
	id, cosign, mldsa := m.text("node_id"), m.text("cosign_key"), m.text("mldsa_key")
	proofs := []string{m.text("cosign_proof"), m.text("mldsa_proof")}
	if err := m.result(); err != nil {
		return effects{}, err
	}
	if want := NodePrincipal(id); f.header.Principal != want {
		return effects{}, fmt.Errorf("keys of %s, named by %s", want, f.header.Principal)
	}
	if err := checkKeys(f.header.ChainID, id, []string{cosign, mldsa}, proofs); err != nil {
		return effects{}, err
	}
	at, known := slices.BinarySearchFunc(s.nodes, id, compareNode)
	if !known {
		if _, removed := slices.BinarySearch(s.removed, id); removed {
			return effects{}, nil
		}
		s.nodes = put(s.nodes, Node{ID: id, CosignKey: cosign, MLDSAKey: mldsa}, id, compareNode)
		return effects{changed: true}, nil
	}
	n := s.nodes[at]
	n.CosignKey, n.MLDSAKey = cosign, mldsa
	s.nodes = put(s.nodes, n, id, compareNode)
	return effects{changed: true}, nil
}

// checkKeys checks the keys of a node, by type, and what each shows of itself. The
// ML-DSA key may be missing.
func checkKeys(chainID chain.ID, node string, vkeys, proofs []string) error {
	if vkeys[1] == "" && proofs[1] == "" {
		vkeys = vkeys[:1]
	}
	types := []checkpoint.KeyType{checkpoint.Cosigner, checkpoint.MLDSACosigner}
	var keys []checkpoint.Key
	for i, vkey := range vkeys {
		k, err := checkpoint.ParseKey(vkey)
		if err != nil {
			return err
		}
		if k.Type != types[i] || k.Name != CosignerName(node) {
			return fmt.Errorf("key %s of type 0x%02x, want %s of type 0x%02x", k.Name, byte(k.Type), CosignerName(node), byte(types[i]))
		}
		keys = append(keys, k)
	}
	for i := range keys {
		proof, err := hex.DecodeString(proofs[i])
		if err != nil || !keys[i].VerifyPossession(proof, chainID, node, keys...) {
			return fmt.Errorf("the proof that node %s has key %s does not verify", node, vkeys[i])
		}
	}
	return nil
}

// CosignerName is the name of a node's cosigning keys.
func CosignerName(nodeID string) string { return "exonode/node/" + nodeID }

// put returns a copy of a sorted list with an element inserted or replaced.
func put[E, K any](list []E, e E, key K, compare func(E, K) int) []E {
	i, found := slices.BinarySearchFunc(list, key, compare)
	list = slices.Clone(list)
	if found {
		list[i] = e
		return list
	}
	return slices.Insert(list, i, e)
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// slotOf reads which event a denial or an escalation is about.
func slotOf(f fact, to SlotState) (effects, error) {
	m, err := readMembers(f.payload)
	if err != nil {
		return effects{}, err
	}
	key := chain.Key{Workspace: m.text("workspace"), Source: m.text("source"), ID: m.text("id")}
	if err := m.result(); err != nil {
		return effects{}, err
	}
	if key.Workspace == "" || key.Source == "" || key.ID == "" {
		return effects{}, errors.New("workspace, source or id is missing")
	}
	return effects{slots: []SlotChange{{Key: key, Slot: Slot{State: to, Sequence: f.header.Sequence}}}}, nil
}

// redactTarget reads which entry a redaction is of.
func redactTarget(h *chain.Header, payload []byte) (uint64, error) {
	m, err := readMembers(payload)
	if err != nil {
		return 0, err
	}
	target := m.uint("target_seq")
	if err := m.result(); err != nil {
		return 0, err
	}
	if target >= h.Sequence {
		return 0, fmt.Errorf("target_seq %d is not below the entry's own sequence", target)
	}
	return target, nil
}

func foldRedact(f fact) (effects, error) {
	target, err := redactTarget(f.header, f.payload)
	if err != nil || f.earlier == nil {
		return effects{}, err
	}
	redaction := Redaction{Sequence: target}
	h, err := f.earlier(target)
	if err != nil {
		return effects{}, err
	}
	if h.Workspace == catalog.SystemWorkspace {
		if redaction.Beside = h.Kind == catalog.KindGovernanceEscalate; !redaction.Beside {
			return effects{}, fmt.Errorf("target_seq %d: %w", target, ErrNotRedactable)
		}
	}
	return effects{redact: []Redaction{redaction}}, nil
}

// members reads members of a payload; absent texts are "". It keeps the first
// error.
type members struct {
	m   map[string][]byte
	err error
}

func readMembers(payload []byte) (*members, error) {
	m, err := catalog.ReadObject(payload)
	if err != nil {
		return nil, err
	}
	return &members{m: m}, nil
}

func (m *members) result() error { return m.err }

func (m *members) fail(name string, err error) {
	if m.err == nil && err != nil {
		m.err = fmt.Errorf("%s: %w", name, err)
	}
}

func (m *members) text(name string) string {
	raw, ok := m.m[name]
	if !ok {
		return ""
	}
	s, err := catalog.ReadString(raw)
	m.fail(name, err)
	return s
}

func (m *members) uint(name string) uint64 {
	raw, ok := m.m[name]
	if !ok {
		m.fail(name, errors.New("is missing"))
		return 0
	}
	// JSON knows no sign but "-" and no base but ten; ParseUint takes
	// neither "+" nor "_" in base ten.
	v, err := strconv.ParseUint(string(raw), 10, 64)
	if err == nil && v > math.MaxInt64 {
		err = strconv.ErrRange
	}
	m.fail(name, err)
	return v
}
