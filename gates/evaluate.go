package gates

import (
	"slices"

	"github.com/exonode/exonode/catalog"
)

// Decision is what a gate decided, in increasing order of severity; Emergency
// stands apart. The numbers are those of the chain's format.
type Decision uint8

// The decisions.
const (
	Permit    Decision = 1
	Warn      Decision = 2
	Escalate  Decision = 3
	Deny      Decision = 4
	Emergency Decision = 5
)

// String returns the decision's name in documents and answers.
func (d Decision) String() string {
	switch d {
	case Permit:
		return "permit"
	case Warn:
		return "warn"
	case Escalate:
		return "escalate"
	case Deny:
		return "deny"
	case Emergency:
		return "emergency"
	}
	return "none"
}

// Profile names this way of evaluating: thresholds and overrides, no rules.
const Profile = "thresholds/1"

// Input is all that a verdict depends on.
type Input struct {
	Policy *Policy
	// PolicyHash and Revision are carried into the verdict.
	PolicyHash [32]byte
	Revision   uint64
	// Gate is the gate that Kind passes.
	Gate catalog.Gate
	// Workspace and Kind select overrides.
	Workspace, Kind string
	// Declared is the effect that the submitter declared, at most Scale
	// each; nil is none.
	Declared *Effect
}

// Verdict is a gate's decision with its inputs.
type Verdict struct {
	Gate       string
	Decision   Decision
	Revision   uint64
	PolicyHash [32]byte
	Declared   *Effect
	// Effective is the element-wise maximum of the gate's effect and the
	// declared one.
	Effective Effect
	Profile   string
	// Reasons are stable codes, sorted: "risk>elevate", "norm>elevate",
	// "security>reject", "override" (an override's at_least raised the
	// verdict), "gate-unknown".
	Reasons []string
}

// Reason codes that are not of a dimension.
const (
	ReasonNorm        = "norm>elevate"
	ReasonOverride    = "override"
	ReasonGateUnknown = "gate-unknown"
)

// Evaluate decides. It names every threshold that is exceeded, also those that
// a more severe one outweighs.
func Evaluate(in Input) Verdict {
	v := Verdict{
		Gate:       in.Gate.Name,
		Decision:   Permit,
		Revision:   in.Revision,
		PolicyHash: in.PolicyHash,
		Effective:  in.Gate.Effect,
		Profile:    Profile,
	}
	if in.Declared != nil {
		declared := *in.Declared
		v.Declared = &declared
		v.Effective = v.Effective.Max(declared)
	}
	t, atLeast := in.Policy.at(in.Gate.Name, in.Workspace, in.Kind)
	for i, value := range v.Effective {
		if value > t.Elevate[i] {
			v.raise(Escalate, Dimensions()[i]+">elevate")
		}
		if value > t.Reject[i] {
			v.raise(Deny, Dimensions()[i]+">reject")
		}
	}
	if v.Effective.SquaredNorm() > uint64(t.Norm)*uint64(t.Norm) {
		v.raise(Escalate, ReasonNorm)
	}
	// Rules join here, with the folded counters they read.
	if atLeast > v.Decision {
		v.raise(atLeast, ReasonOverride)
	}
	slices.Sort(v.Reasons)
	return v
}

// raise makes the decision at least as severe as d, for a reason.
func (v *Verdict) raise(d Decision, reason string) {
	v.Decision = max(v.Decision, d)
	v.Reasons = append(v.Reasons, reason)
}
