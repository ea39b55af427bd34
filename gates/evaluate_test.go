package gates_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/gates"
)

func environments() []gates.Environment {
	return []gates.Environment{gates.Development, gates.Staging, gates.Production}
}

func builtIn(t testing.TB, env gates.Environment) *gates.Policy {
	t.Helper()
	p, err := gates.BuiltIn(env)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	return &p
}

func evaluate(p *gates.Policy, gate catalog.Gate, declared *gates.Effect) gates.Verdict {
	return gates.Evaluate(gates.Input{Policy: p, Gate: gate, Workspace: "w", Kind: "x.y", Declared: declared})
}

// TestDefaultVerdicts holds all gates in all environments against what the
// built-in policies are documented to do.
func TestDefaultVerdicts(t *testing.T) {
	reasons := map[gates.Environment]map[string]string{
		gates.Development: {},
		gates.Staging: {
			catalog.GateChainEmergency:  "norm>elevate risk>elevate security>elevate",
			catalog.GateGovernanceAmend: "norm>elevate risk>elevate",
			catalog.GateGovernanceVeto:  "fairness>elevate",
		},
		gates.Production: {
			catalog.GateAgentElevate:    "norm>elevate risk>elevate",
			catalog.GateAuthGrant:       "norm>elevate privacy>elevate security>elevate",
			catalog.GateChainEmergency:  "norm>elevate risk>elevate security>elevate",
			catalog.GateGovernanceAmend: "fairness>elevate norm>elevate risk>elevate",
			catalog.GateGovernanceVeto:  "fairness>elevate norm>elevate",
		},
	}
	for _, env := range environments() {
		p := builtIn(t, env)
		for _, gate := range catalog.Gates() {
			want := gates.Permit
			if reasons[env][gate.Name] != "" {
				want = gates.Escalate
			}
			v := evaluate(p, gate, nil)
			if v.Decision != want || strings.Join(v.Reasons, " ") != reasons[env][gate.Name] {
				t.Errorf("%s in %s: %s %v, want %s %s", gate.Name, env, v.Decision, v.Reasons, want, reasons[env][gate.Name])
			}
		}
	}
}

// TestEveryGateSaysNo raises the declared effect of every gate above each
// threshold, in every environment and dimension, and just not above it.
func TestEveryGateSaysNo(t *testing.T) {
	for _, env := range environments() {
		p := builtIn(t, env)
		for _, gate := range catalog.Gates() {
			thresholds := p.Thresholds
			if env == gates.Production && slices.Contains([]string{catalog.GateChainEmergency, catalog.GateGovernanceAmend, catalog.GateGovernanceVeto}, gate.Name) {
				thresholds.Reject = gates.Effect{9500, 9000, 7500, 7500, 9000}
			}
			for d, name := range gates.Dimensions() {
				check := func(value uint16, code string, want bool) {
					t.Helper()
					if value > gates.Scale || value < gate.Effect[d] {
						return // can't be declared, or is no raise
					}
					declared := gates.Effect{}
					declared[d] = value
					v := evaluate(p, gate, &declared)
					if got := slices.Contains(v.Reasons, code); got != want {
						t.Errorf("%s in %s with %s %d: %s %v, want %s: %t", gate.Name, env, name, value, v.Decision, v.Reasons, code, want)
					}
					least := gates.Permit
					if want {
						least = gates.Escalate
					}
					if want && strings.HasSuffix(code, ">reject") {
						least = gates.Deny
					}
					if v.Decision < least {
						t.Errorf("%s in %s with %s %d: %s, want at least %s", gate.Name, env, name, value, v.Decision, least)
					}
				}
				check(thresholds.Elevate[d], name+">elevate", false)
				check(thresholds.Elevate[d]+1, name+">elevate", true)
				check(thresholds.Reject[d], name+">reject", false)
				check(thresholds.Reject[d]+1, name+">reject", true)
			}
			if env == gates.Development {
				continue // nothing in range is above 1
			}
			v := evaluate(p, gate, &gates.Effect{gates.Scale, gates.Scale, gates.Scale, gates.Scale, gates.Scale})
			if v.Decision != gates.Deny || len(v.Reasons) != 11 {
				t.Errorf("%s in %s with all ones: %s %v", gate.Name, env, v.Decision, v.Reasons)
			}
		}
	}
}

func TestNorm(t *testing.T) {
	p := builtIn(t, gates.Production)
	gate := catalog.Gate{Name: "x.y"}
	// 0.45² + 0.45² + 0.4² = 0.565 > 0.75² = 0.5625; 0.45² + 0.6² = 0.5625.
	over := evaluate(p, gate, &gates.Effect{4500, 4500, 4000, 0, 0})
	if over.Decision != gates.Escalate || !slices.Equal(over.Reasons, []string{"norm>elevate"}) {
		t.Errorf("above the norm: %s %v", over.Decision, over.Reasons)
	}
	at := evaluate(p, gate, &gates.Effect{4500, 0, 0, 0, 6000})
	if at.Decision != gates.Permit || at.Reasons != nil {
		t.Errorf("at the norm: %s %v", at.Decision, at.Reasons)
	}
}

func TestOverrides(t *testing.T) {
	p := builtIn(t, gates.Production)
	norm := uint16(gates.MaxNorm)
	low := gates.Effect{1000, 1000, 1000, 1000, 1000}
	high := gates.Effect{gates.Scale, gates.Scale, gates.Scale, gates.Scale, gates.Scale}
	p.Overrides = append(p.Overrides,
		gates.Override{Kind: "shell.exec", Elevate: &low},
		gates.Override{Kind: "w.warned", AtLeast: gates.Warn},
		gates.Override{Gate: catalog.GateAuthGrant, Elevate: &high, Norm: &norm},
		gates.Override{Workspace: "lab", Kind: "shell.exec", Elevate: &high, AtLeast: gates.Warn},
		gates.Override{Workspace: "vault", Kind: "shell.exec", AtLeast: gates.Deny},
	)
	slices.SortFunc(p.Overrides, gates.CompareOverrides)
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		gate, workspace, kind string
		want                  gates.Decision
		reasons               string
	}{
		{catalog.GateAuthGrant, "any", "auth.grant", gates.Permit, ""},
		{catalog.GateToolExecute, "any", "tool.execute", gates.Permit, ""},
		{catalog.GateToolExecute, "any", "shell.exec", gates.Escalate, "risk>elevate"},
		{catalog.GateToolExecute, "lab", "shell.exec", gates.Warn, "override"},
		{catalog.GateToolExecute, "vault", "shell.exec", gates.Deny, "override risk>elevate"},
		{catalog.GateToolExecute, "lab", "w.warned", gates.Warn, "override"},
		{catalog.GateAgentElevate, "lab", "w.warned", gates.Escalate, "norm>elevate risk>elevate"},
	} {
		gate, _ := catalog.LookupGate(test.gate)
		v := gates.Evaluate(gates.Input{Policy: p, Gate: gate, Workspace: test.workspace, Kind: test.kind})
		if v.Decision != test.want || strings.Join(v.Reasons, " ") != test.reasons {
			t.Errorf("%s, %s in %s: %s %v, want %s %s", test.gate, test.kind, test.workspace, v.Decision, v.Reasons, test.want, test.reasons)
		}
	}
}

func TestVerdictCarriesInputs(t *testing.T) {
	gate, _ := catalog.LookupGate(catalog.GateConfigMutate)
	declared := gates.Effect{1000, 9000}
	v := gates.Evaluate(gates.Input{
		Policy: builtIn(t, gates.Staging), PolicyHash: [32]byte{1, 2}, Revision: 7, Gate: gate, Declared: &declared,
	})
	want := gates.Verdict{
		Gate: catalog.GateConfigMutate, Decision: gates.Escalate, Revision: 7, PolicyHash: [32]byte{1, 2},
		Declared: &gates.Effect{1000, 9000}, Effective: gates.Effect{3000, 9000}, Profile: "thresholds/1",
		Reasons: []string{"fairness>elevate"},
	}
	if diff := gocmp.Diff(want, v); diff != "" {
		t.Errorf("verdict (-want +got):\n%s", diff)
	}
	declared[0] = 0
	if v.Declared[0] != 1000 {
		t.Error("the verdict shares the declared effect with its caller")
	}
}

// Generators of properties.

func effects() *rapid.Generator[gates.Effect] {
	return rapid.Custom(func(t *rapid.T) (e gates.Effect) {
		for i := range e {
			e[i] = rapid.Uint16Range(0, gates.Scale).Draw(t, "element")
		}
		return e
	})
}

func policies() *rapid.Generator[gates.Policy] {
	return rapid.Custom(func(t *rapid.T) gates.Policy {
		p := gates.Policy{
			Environment:  rapid.SampledFrom(environments()).Draw(t, "environment"),
			UnknownKinds: rapid.SampledFrom([]gates.UnknownKinds{gates.AcceptUnknown, gates.RefuseUnknown}).Draw(t, "unknown"),
			Thresholds: gates.Thresholds{
				Elevate: effects().Draw(t, "elevate"),
				Norm:    rapid.Uint16Range(0, gates.MaxNorm).Draw(t, "norm"),
				Reject:  effects().Draw(t, "reject"),
			},
		}
		for range rapid.IntRange(0, 4).Draw(t, "overrides") {
			p.Overrides = append(p.Overrides, overrides().Draw(t, "override"))
		}
		slices.SortFunc(p.Overrides, gates.CompareOverrides)
		p.Overrides = slices.CompactFunc(p.Overrides, func(a, b gates.Override) bool { return gates.CompareOverrides(a, b) == 0 })
		return p
	})
}

func overrides() *rapid.Generator[gates.Override] {
	return rapid.Custom(func(t *rapid.T) gates.Override {
		var o gates.Override
		if rapid.Bool().Draw(t, "by gate") {
			o.Gate = rapid.SampledFrom(catalog.Gates()).Draw(t, "gate").Name
		} else {
			o.Kind = rapid.SampledFrom([]string{"x.y", "x.z"}).Draw(t, "kind")
			o.Workspace = rapid.SampledFrom([]string{"", "v", "w"}).Draw(t, "workspace")
		}
		o.AtLeast = gates.Decision(rapid.SampledFrom([]int{0, 2, 3, 4}).Draw(t, "at least"))
		if e := effects().Draw(t, "elevate"); o.AtLeast == 0 || e[0]%2 == 0 {
			o.Elevate = &e
		}
		if e := effects().Draw(t, "reject"); e[0]%2 == 0 {
			o.Reject = &e
		}
		if n := rapid.Uint16Range(0, gates.MaxNorm).Draw(t, "norm"); n%2 == 0 {
			o.Norm = &n
		}
		return o
	})
}

// input draws everything but the policy.
func input(t *rapid.T, p *gates.Policy) gates.Input {
	declared := effects().Draw(t, "declared")
	return gates.Input{
		Policy: p, Gate: rapid.SampledFrom(catalog.Gates()).Draw(t, "gate"),
		Workspace: rapid.SampledFrom([]string{"v", "w"}).Draw(t, "workspace"),
		Kind:      rapid.SampledFrom([]string{"x.y", "x.z"}).Draw(t, "kind"),
		Declared:  &declared,
	}
}

// TestRaisingNeverLowers: a higher declared effect never gives a lower verdict,
// and declaring none never a higher one.
func TestRaisingNeverLowers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policies().Draw(t, "policy")
		in := input(t, &p)
		lower := gates.Evaluate(in)
		raised := in.Declared.Max(effects().Draw(t, "raise"))
		none := in
		none.Declared = nil
		in.Declared = &raised
		higher := gates.Evaluate(in)
		if higher.Decision < lower.Decision || lower.Decision < gates.Evaluate(none).Decision {
			t.Fatalf("raised from %s to %s", lower.Decision, higher.Decision)
		}
	})
}

// TestStricterNeverPermitsMore: lowering any threshold never lowers a verdict.
func TestStricterNeverPermitsMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policies().Draw(t, "policy")
		in := input(t, &p)
		before := gates.Evaluate(in)
		lower := func(e gates.Effect) gates.Effect {
			by := effects().Draw(t, "by")
			for i := range e {
				e[i] = min(e[i], by[i])
			}
			return e
		}
		p.Elevate, p.Reject = lower(p.Elevate), lower(p.Reject)
		p.Norm = min(p.Norm, rapid.Uint16Range(0, gates.MaxNorm).Draw(t, "norm"))
		for i := range p.Overrides {
			o := &p.Overrides[i]
			o.AtLeast = max(o.AtLeast, gates.Decision(rapid.SampledFrom([]int{0, 2, 3, 4}).Draw(t, "at least")))
			if o.Elevate != nil {
				e := lower(*o.Elevate)
				o.Elevate = &e
			}
			if o.Reject != nil {
				e := lower(*o.Reject)
				o.Reject = &e
			}
		}
		after := gates.Evaluate(in)
		if cmp.Compare(after.Decision, before.Decision) < 0 {
			t.Fatalf("stricter, and %s became %s", before.Decision, after.Decision)
		}
	})
}

// TestVerdictFollowsFromReasons: the decision is the most severe that its
// reasons stand for.
func TestVerdictFollowsFromReasons(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policies().Draw(t, "policy")
		v := gates.Evaluate(input(t, &p))
		least, override := gates.Permit, false
		for _, r := range v.Reasons {
			switch {
			case strings.HasSuffix(r, ">reject"):
				least = gates.Deny
			case strings.HasSuffix(r, ">elevate"):
				least = max(least, gates.Escalate)
			default:
				override = true
			}
		}
		if v.Decision < least || v.Decision > least != override || !slices.IsSorted(v.Reasons) || (len(v.Reasons) == 0) != (v.Decision == gates.Permit) {
			t.Fatalf("%s for %v", v.Decision, v.Reasons)
		}
	})
}

func TestDecisionNames(t *testing.T) {
	var names []string
	for d := range gates.Emergency + 1 {
		names = append(names, fmt.Sprintf("%d:%s", d, d))
	}
	want := []string{"0:none", "1:permit", "2:warn", "3:escalate", "4:deny", "5:emergency"}
	if diff := gocmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkEvaluate(b *testing.B) {
	for _, env := range environments() {
		b.Run("policy="+string(env), func(b *testing.B) {
			in := gates.Input{Policy: builtIn(b, env), Workspace: "w", Kind: "tool.execute", Declared: &gates.Effect{3500}}
			in.Gate, _ = catalog.LookupGate(catalog.GateToolExecute)
			b.ReportAllocs()
			for b.Loop() {
				if gates.Evaluate(in).Decision != gates.Permit {
					b.Fatal("not permitted")
				}
			}
		})
	}
}
