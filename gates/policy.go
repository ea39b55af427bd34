package gates

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/exonode/exonode/catalog"
)

// Environment says how strict a policy's built-in values are.
type Environment string

// The environments.
const (
	Development Environment = "development"
	Staging     Environment = "staging"
	Production  Environment = "production"
)

// UnknownKinds says what becomes of events whose kind the catalog lacks.
type UnknownKinds string

// The ways with unknown kinds. Accepted, they have no schema and no gate.
const (
	AcceptUnknown UnknownKinds = "accept"
	RefuseUnknown UnknownKinds = "refuse"
)

// MaxNorm is the largest norm threshold, the norm of the vector of ones rounded
// up; nothing is above it.
const MaxNorm = 22_361

// MaxOverrides is the most overrides that a policy may have.
const MaxOverrides = 1024

// Thresholds are what an effective effect is compared with. Strictly above
// counts; all in ten-thousandths.
type Thresholds struct {
	// Elevate: above it, in any dimension, an operation needs elevated
	// authorization.
	Elevate Effect
	// Norm: above it, the effect's Euclidean norm asks for elevated
	// authorization. At most MaxNorm.
	Norm uint16
	// Reject: above it, in any dimension, an operation is denied.
	Reject Effect
}

// Policy is what verdicts are decided by. It is a value; whoever holds one must
// not change its Overrides.
//
// The document form reserves the names rules, approvals, separation and
// read_logging for what later versions put there; this version refuses them.
type Policy struct {
	Environment Environment
	Thresholds
	UnknownKinds UnknownKinds
	// Overrides are sorted by (Gate, Workspace, Kind), each selector once.
	Overrides []Override
}

// Override changes thresholds for what it selects: a gate; or a kind, in one
// workspace or in all of them.
//
// Where several match, their thresholds apply in the order gate, kind, kind in
// the workspace, the later over the earlier, and AtLeast is the highest.
type Override struct {
	// Gate selects by gate; Workspace and Kind are empty then.
	Gate string
	// Kind selects by kind, and Workspace restricts to a workspace where
	// not empty.
	Workspace, Kind string

	// Elevate, Norm and Reject replace the policy's, where not nil.
	Elevate *Effect
	Norm    *uint16
	Reject  *Effect
	// AtLeast is the least severe verdict, Warn to Deny; 0 is none.
	AtLeast Decision
}

// ErrPolicy: the policy is not one that can be in force; the text says why.
var ErrPolicy = errors.New("invalid policy")

// BuiltIn returns the built-in policy of an environment.
func BuiltIn(env Environment) (Policy, error) {
	switch env {
	case Development:
		return Policy{
			Environment:  Development,
			Thresholds:   Thresholds{Elevate: all(9500), Norm: 15_000, Reject: all(10_000)},
			UnknownKinds: AcceptUnknown,
		}, nil
	case Staging:
		return Policy{
			Environment:  Staging,
			Thresholds:   Thresholds{Elevate: all(7500), Norm: 10_000, Reject: all(9500)},
			UnknownKinds: RefuseUnknown,
		}, nil
	case Production:
		p := Policy{
			Environment:  Production,
			Thresholds:   Thresholds{Elevate: Effect{5500, 5500, 4500, 5500, 6500}, Norm: 7500, Reject: all(7500)},
			UnknownKinds: RefuseUnknown,
		}
		for _, gate := range []string{catalog.GateChainEmergency, catalog.GateGovernanceAmend, catalog.GateGovernanceVeto} {
			p.Overrides = append(p.Overrides, Override{Gate: gate, Reject: &Effect{9500, 9000, 7500, 7500, 9000}})
		}
		return p, nil
	}
	return Policy{}, fmt.Errorf("gates: %w: no environment %q", ErrPolicy, env)
}

func all(v uint16) Effect { return Effect{v, v, v, v, v} }

// Check returns an error that wraps ErrPolicy where p can't be in force.
func (p *Policy) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("gates: %w: "+format, append([]any{ErrPolicy}, args...)...)
	}
	switch p.Environment {
	case Development, Staging, Production:
	default:
		return bad("no environment %q", p.Environment)
	}
	switch p.UnknownKinds {
	case AcceptUnknown, RefuseUnknown:
	default:
		return bad("unknown_kinds is %q, want accept or refuse", p.UnknownKinds)
	}
	if err := checkThresholds(&p.Elevate, &p.Norm, &p.Reject); err != nil {
		return bad("%w", err)
	}
	if len(p.Overrides) > MaxOverrides {
		return bad("%d overrides, at most %d", len(p.Overrides), MaxOverrides)
	}
	for i := range p.Overrides {
		o := &p.Overrides[i]
		if err := o.Check(); err != nil {
			return bad("override %d: %w", i, err)
		}
		if i > 0 && CompareOverrides(p.Overrides[i-1], *o) >= 0 {
			return bad("override %d: not sorted, or its selector comes twice", i)
		}
	}
	return nil
}

// Check returns an error that says why o can't stand in a policy.
func (o *Override) Check() error {
	switch {
	case o.Gate != "" && (o.Workspace != "" || o.Kind != ""):
		return errors.New("selects by gate and by kind")
	case o.Gate == "" && o.Kind == "":
		return errors.New("selects neither a gate nor a kind")
	case o.Gate != "" && !catalog.ValidName(o.Gate):
		return fmt.Errorf("bad gate name %.140q", o.Gate)
	case o.Kind != "" && !catalog.ValidName(o.Kind):
		return fmt.Errorf("bad kind name %.140q", o.Kind)
	case o.Workspace != "" && !validWorkspace(o.Workspace):
		return fmt.Errorf("bad workspace name %.80q", o.Workspace)
	case o.Elevate == nil && o.Norm == nil && o.Reject == nil && o.AtLeast == 0:
		return errors.New("changes nothing")
	case o.AtLeast != 0 && (o.AtLeast < Warn || o.AtLeast > Deny):
		return errors.New("at_least is not warn, escalate or deny")
	}
	return checkThresholds(o.Elevate, o.Norm, o.Reject)
}

func checkThresholds(elevate *Effect, norm *uint16, reject *Effect) error {
	if elevate != nil {
		if err := elevate.Check(); err != nil {
			return fmt.Errorf("elevate: %w", err)
		}
	}
	if norm != nil && *norm > MaxNorm {
		return fmt.Errorf("norm: %w: %s is above %s", ErrRange, FormatDecimal(*norm), FormatDecimal(MaxNorm))
	}
	if reject != nil {
		if err := reject.Check(); err != nil {
			return fmt.Errorf("reject: %w", err)
		}
	}
	return nil
}

// validWorkspace reports whether name has the form of a workspace's name: 1 to
// 64 of [a-z0-9._-], the first of [a-z0-9].
func validWorkspace(name string) bool {
	if len(name) > 64 || name == "" || strings.IndexByte("._-", name[0]) >= 0 {
		return false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && strings.IndexByte("._-", c) < 0 {
			return false
		}
	}
	return true
}

// CompareOverrides orders overrides by (Gate, Workspace, Kind).
func CompareOverrides(a, b Override) int {
	return cmp.Or(strings.Compare(a.Gate, b.Gate), strings.Compare(a.Workspace, b.Workspace), strings.Compare(a.Kind, b.Kind))
}

// at returns the thresholds for a gate, workspace and kind, and the least
// severe verdict.
func (p *Policy) at(gate, workspace, kind string) (Thresholds, Decision) {
	t, atLeast := p.Thresholds, Permit
	for _, selector := range [...]Override{{Gate: gate}, {Kind: kind}, {Workspace: workspace, Kind: kind}} {
		i, ok := slices.BinarySearchFunc(p.Overrides, selector, CompareOverrides)
		if !ok {
			continue
		}
		o := &p.Overrides[i]
		if o.Elevate != nil {
			t.Elevate = *o.Elevate
		}
		if o.Norm != nil {
			t.Norm = *o.Norm
		}
		if o.Reject != nil {
			t.Reject = *o.Reject
		}
		atLeast = max(atLeast, o.AtLeast)
	}
	return t, atLeast
}
