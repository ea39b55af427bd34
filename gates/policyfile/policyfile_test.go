package policyfile_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/gates/policyfile"
)

func TestEnvironmentAlone(t *testing.T) {
	for _, env := range []gates.Environment{gates.Development, gates.Staging, gates.Production} {
		want, err := gates.BuiltIn(env)
		if err != nil {
			t.Fatal(err)
		}
		got, err := policyfile.Parse([]byte("environment: " + string(env)))
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v\n%s", env, err, cmp.Diff(want, got))
		}
		// The canonical form is YAML too.
		got, err = policyfile.Parse(want.Encode())
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v\n%s", env, err, cmp.Diff(want, got))
		}
	}
}

func TestDocument(t *testing.T) {
	got, err := policyfile.Parse([]byte(`# What we run by.
version: 1
environment: production
elevate: {risk: 0.5, fairness: 0.4, privacy: 0.3, novelty: 0.2, security: 0.1}
norm: 1
reject: 0.7001
unknown_kinds: accept
overrides:
  - workspace: payments
    kind: shell.exec
    at_least: escalate
  - kind: shell.exec
    norm: 2.2361
  - gate: governance.veto
    elevate: 0.05
rules: []
approvals: {}
separation:
`))
	if err != nil {
		t.Fatal(err)
	}
	want, err := gates.BuiltIn(gates.Production)
	if err != nil {
		t.Fatal(err)
	}
	norm := uint16(gates.MaxNorm)
	want.Elevate = gates.Effect{5000, 4000, 3000, 2000, 1000}
	want.Norm = 10_000
	want.Reject = gates.Effect{7001, 7001, 7001, 7001, 7001}
	want.UnknownKinds = gates.AcceptUnknown
	builtIn := want.Overrides
	want.Overrides = []gates.Override{
		{Kind: "shell.exec", Norm: &norm},
		{Workspace: "payments", Kind: "shell.exec", AtLeast: gates.Escalate},
		builtIn[0],
		builtIn[1],
		{Gate: catalog.GateGovernanceVeto, Elevate: &gates.Effect{500, 500, 500, 500, 500}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("policy (-want +got):\n%s", diff)
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct{ name, document, want string }{
		{"all at once", `environment: moon
elevate: {risk: 1.5, zeal: 0.1, fairness: 0.1, privacy: "0.1", novelty: 1e-1}
norm: [1]
colour: red
overrides:
  - gate: tool.execute
  - kind: a.b
    at_least: often
  - kind: a.b
    at_least: deny
  - {kind: a.b, at_least: warn}
rules: [x]
norm: 2
`, `line 1: environment: want development, staging or production
line 2: elevate.zeal: unknown field: want one of risk, fairness, privacy, novelty, security
line 2: elevate.risk: out of range: 1.5 is not in 0 to 1
line 2: elevate.privacy: want a number
line 2: elevate.novelty: malformed: "1e-1" is not a decimal with at most four places
line 2: elevate.security: missing: give one number, or all of risk, fairness, privacy, novelty, security
line 3: norm: want a number
line 4: colour: unknown field: want one of version, environment, elevate, norm, reject, unknown_kinds, overrides, rules, approvals, separation, read_logging
line 6: overrides[0]: changes nothing
line 8: overrides[1].at_least: want warn, escalate or deny
line 11: overrides[3]: selects the same as an earlier one
line 12: rules: not supported by this version
line 13: norm: comes twice`},
		{"empty", "", "the document is empty"},
		{"comment", "# nothing", "the document is empty"},
		{"two documents", "environment: staging\n---\nenvironment: staging\n", "more than one document"},
		{"list", "- environment", "line 1: want a mapping\nline 1: environment: missing: want development, staging or production"},
		{"not yaml", "a: [", "yaml: line 1: did not find expected node content"},
		{"version", "version: 2\nenvironment: staging", "line 1: version: want 1"},
		{"alias", "environment: staging\nreject: &x 0.5\nelevate: *x", "line 2: reject: anchors and aliases are not allowed\nline 3: elevate: anchors and aliases are not allowed"},
		{"overrides", "environment: staging\noverrides: {a: 1}", "line 2: overrides: want a sequence"},
		{"override", "environment: staging\noverrides: [7]", "line 2: overrides[0]: want a mapping"},
		{"gate name", "environment: staging\noverrides:\n- {gate: X, at_least: warn}", `line 3: overrides[0]: bad gate name "X"`},
		{"unknown kinds", "environment: staging\nunknown_kinds: maybe", "line 2: unknown_kinds: want accept or refuse"},
		{"too large", "environment: staging\n#" + strings.Repeat("x", policyfile.MaxSize), "1048598 bytes, at most 1048576"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := policyfile.Parse([]byte(test.document))
			var problems *policyfile.Error
			if !errors.As(err, &problems) {
				t.Fatalf("got %v, want an Error", err)
			}
			var got []string
			for _, p := range problems.Problems {
				got = append(got, p.String())
			}
			if diff := cmp.Diff(strings.Split(test.want, "\n"), got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if n := strings.Count(err.Error(), "policy: "); n != len(got) {
				t.Errorf("the text has %d lines for %d problems: %v", n, len(got), err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("environment: production\noverrides:\n- {gate: a.b, at_least: warn}\n"))
	f.Add([]byte("? {a: b}\n: [c]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := policyfile.Parse(text)
		if err != nil {
			return
		}
		if got, err := gates.DecodePolicy(p.Encode()); err != nil || !cmp.Equal(got, p) {
			t.Fatalf("%q is no policy: %v", text, err)
		}
	})
}
