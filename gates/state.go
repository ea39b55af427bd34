package gates

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/exonode/exonode/catalog"
)

// Hasher hashes a policy's canonical form. The chain's format says how; gates
// does not know.
type Hasher func(policy []byte) [32]byte

// State is the governance state of a chain: the fold of its entries. It is a
// value: Fold returns a changed copy and leaves the receiver as it is, so a
// State may be read while the next one is made. Use NewState or DecodeState;
// the zero State folds no policy.
type State struct {
	hash Hasher
	// policy is in force, nil before governance.genesis; what it points to
	// is never changed.
	policy     *Policy
	policyHash [32]byte
	revision   uint64
	catalog    catalog.Set
}

// NewState returns the state of the empty chain.
func NewState(hash Hasher) State { return State{hash: hash} }

// Fact is what the fold takes of an entry.
type Fact struct {
	Sequence        uint64
	Time            int64 // Unix nanoseconds
	Workspace, Kind string
	Source, ID      string
	Principal       string
	Payload         []byte
}

// Errors of a State.
var (
	// ErrNoPolicy: the chain has no policy yet. Wait for governance.genesis.
	ErrNoPolicy = errors.New("no policy in force")
	// ErrReservedWorkspace: only nodes write to workspace system. Choose
	// another workspace.
	ErrReservedWorkspace = errors.New("reserved workspace")
	// ErrFold: an entry can't be folded. It must not be sealed; where it
	// is, the chain does not verify.
	ErrFold = errors.New("entry can't be folded")
)

// Policy returns the policy in force, nil before governance.genesis. Callers
// must not change it.
func (s State) Policy() *Policy { return s.policy }

// PolicyHash returns the hash of the policy in force, zero where there is none.
func (s State) PolicyHash() [32]byte { return s.policyHash }

// Revision returns the governance revision: how many entries so far changed
// what verdicts are decided from.
func (s State) Revision() uint64 { return s.revision }

// Catalog returns the chain's kinds.
func (s State) Catalog() catalog.Set { return s.catalog }

// Kind returns a kind that events may have.
func (s State) Kind(kind string) (catalog.Kind, bool) { return s.catalog.Lookup(kind) }

// Gate returns the name of the gate that a kind passes, "" where none.
func (s State) Gate(kind string) string {
	k, _ := s.catalog.Lookup(kind)
	return k.Gate
}

// Bumps reports whether an entry changes what verdicts are decided from: such
// an entry raises the revision, and a verdict that was evaluated before it is
// stale after it.
func Bumps(workspace, kind string) bool {
	return workspace == catalog.SystemWorkspace && folder(kind) != nil
}

// folder returns how the payloads of a kind are folded, nil for those that
// governance does not read. Amendments, grants, keys, suspensions, requests and
// approvals join here.
func folder(kind string) func(*State, map[string][]byte) error {
	switch kind {
	case catalog.KindGovernanceGenesis:
		return (*State).foldGenesis
	case catalog.KindCatalogRegister:
		return (*State).foldRegister
	case catalog.KindCatalogRetire:
		return (*State).foldRetire
	}
	return nil
}

// Fold returns the state after an entry. Payloads are folded from workspace
// system alone. An error wraps ErrFold, and the state is s.
//
// What Fold does with given bytes never changes: replicas of different versions
// fold the same chain. So it checks forms, which are frozen, and leaves to
// Admit what depends on the version of the program.
func (s State) Fold(f Fact) (State, error) {
	if !Bumps(f.Workspace, f.Kind) {
		return s, nil
	}
	next := s
	members, err := catalog.ReadObject(f.Payload)
	if err == nil {
		err = folder(f.Kind)(&next, members)
	}
	if err != nil {
		return s, fmt.Errorf("gates: %w: sequence %d, kind %s: %w", ErrFold, f.Sequence, f.Kind, err)
	}
	next.revision++
	return next, nil
}

func (s *State) foldGenesis(members map[string][]byte) error {
	if s.policy != nil {
		return errors.New("the chain has its first policy already")
	}
	if s.hash == nil {
		return errors.New("no hash for policies")
	}
	p, err := DecodePolicy(members["policy"])
	if err != nil {
		return err
	}
	r := memberReader{members: members}
	environment, hash := r.text("environment"), r.text("policy_hash")
	if r.err != nil {
		return r.err
	}
	s.policy, s.policyHash = &p, s.hash(members["policy"])
	switch {
	case environment != string(p.Environment):
		return fmt.Errorf("environment is %.20q, the policy's is %s", environment, p.Environment)
	case hash != fmt.Sprintf("%x", s.policyHash):
		return fmt.Errorf("policy_hash is %.64q, the policy's is %x", hash, s.policyHash)
	case string(members["rules"]) != "[]":
		return errors.New("rules is not the empty array")
	}
	return nil
}

func (s *State) foldRegister(members map[string][]byte) error {
	kind, gate, schema, err := readRegister(members)
	if err != nil {
		return err
	}
	s.catalog, err = s.catalog.Register(kind, gate, schema)
	return err
}

func (s *State) foldRetire(members map[string][]byte) error {
	kind, err := catalog.ReadString(members["kind"])
	if err != nil {
		return fmt.Errorf("kind: %w", err)
	}
	s.catalog, err = s.catalog.Retire(kind)
	return err
}

// readRegister reads the payload of catalog.register. The schema is a copy.
func readRegister(members map[string][]byte) (kind, gate string, schema []byte, err error) {
	r := memberReader{members: members}
	for _, name := range [...]string{"kind", "schema", "gate"} {
		if _, ok := members[name]; !ok {
			return "", "", nil, errors.New("no field " + strconv.Quote(name))
		}
	}
	kind, gate = r.text("kind"), r.text("gate")
	if r.err != nil {
		return "", "", nil, r.err
	}
	if _, err := catalog.ReadObject(members["schema"]); err != nil {
		return "", "", nil, fmt.Errorf("schema: %w", err)
	}
	return kind, gate, append([]byte(nil), members["schema"]...), nil
}

// GenesisPayload returns the payload of governance.genesis for a policy, which
// must have passed Check.
func GenesisPayload(p *Policy, hash Hasher) catalog.GovernanceGenesis {
	policy := p.Encode()
	return catalog.GovernanceGenesis{
		PolicyHash:  fmt.Sprintf("%x", hash(policy)),
		Environment: string(p.Environment),
		Policy:      policy,
	}
}

// Evaluate evaluates the gate of a kind over s. Gated is false, and the verdict
// empty, where the kind has no gate. The error is ErrNoPolicy.
func (s State) Evaluate(workspace, kind string, declared *Effect) (v Verdict, gated bool, err error) {
	name := s.Gate(kind)
	if name == "" {
		return Verdict{}, false, nil
	}
	if s.policy == nil {
		return Verdict{}, true, fmt.Errorf("gates: evaluate %s: %w", kind, ErrNoPolicy)
	}
	gate, known := catalog.LookupGate(name)
	gate.Name = name
	v = Evaluate(Input{
		Policy: s.policy, PolicyHash: s.policyHash, Revision: s.revision,
		Gate: gate, Workspace: workspace, Kind: kind, Declared: declared,
	})
	if !known {
		// A later version registered a kind with a gate that this one
		// lacks. Nobody here can weigh it.
		v.raise(Deny, ReasonGateUnknown)
	}
	return v, true, nil
}
