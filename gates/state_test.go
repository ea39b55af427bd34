package gates_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/gates"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", name, got, want)
	}
}

// TestPolicyGolden pins the canonical form: it is hashed.
func TestPolicyGolden(t *testing.T) {
	for _, env := range environments() {
		golden(t, "policy_"+string(env)+".json", builtIn(t, env).Encode())
	}
	norm := uint16(1)
	low, high := gates.Effect{1, 10, 100, 1000, 10_000}, gates.Effect{9999}
	p := builtIn(t, gates.Development)
	p.UnknownKinds = gates.RefuseUnknown
	p.Overrides = []gates.Override{
		{Kind: "a.b", AtLeast: gates.Warn},
		{Workspace: "w-1", Kind: "a.b", Elevate: &low, Norm: &norm, Reject: &high, AtLeast: gates.Deny},
		{Gate: "tool.execute", Norm: &norm},
	}
	if err := p.Check(); err != nil {
		t.Fatal(err)
	}
	golden(t, "policy_overrides.json", p.Encode())
}

func TestPolicyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policies().Draw(t, "policy")
		if err := p.Check(); err != nil {
			t.Fatal(err)
		}
		text := p.Encode()
		got, err := gates.DecodePolicy(text)
		if err != nil || !gocmp.Equal(got, p) {
			t.Fatalf("%s: %v\n%s", text, err, gocmp.Diff(p, got))
		}
		// It stands in a payload, written by encoding/json, as it is.
		payload, err := json.Marshal(map[string]catalog.Object{"policy": text})
		if err != nil || !bytes.Equal(payload, append(append([]byte(`{"policy":`), text...), '}')) {
			t.Fatalf("encoding/json changes it to %s (%v)", payload, err)
		}
	})
}

func TestDecodePolicyRefuses(t *testing.T) {
	good := string(builtIn(t, gates.Production).Encode())
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, text := range map[string]string{
		"empty":           "",
		"not an object":   "[]",
		"white space":     " " + good,
		"newline":         good + "\n",
		"order":           replace(`"version":1,"environment":"production"`, `"environment":"production","version":1`),
		"version":         replace(`"version":1`, `"version":2`),
		"no version":      replace(`"version":1,`, ``),
		"environment":     replace(`"environment":"production"`, `"environment":"moon"`),
		"escape":          replace(`"production"`, `"p\u0072oduction"`),
		"decimal":         replace(`0.55`, `0.550`),
		"range":           replace(`0.55`, `1.55`),
		"missing element": replace(`"fairness":0.55,`, ``),
		"missing norm":    replace(`"norm":0.75,`, ``),
		"norm too large":  replace(`"norm":0.75`, `"norm":2.2362`),
		"twice":           replace(`"norm":0.75`, `"norm":0.75,"norm":0.75`),
		"unknown member":  replace(`"norm":0.75`, `"norm":0.75,"zeal":1`),
		"rules":           replace(`"norm":0.75`, `"norm":0.75,"rules":[]`),
		"unknown kinds":   replace(`"refuse"`, `"perhaps"`),
		"overrides":       replace(`"overrides":[`, `"overrides":[null,`),
		"no overrides":    replace(good[strings.Index(good, `,"overrides"`):], `}`),
		"override order":  replace(`"gate":"chain.emergency"`, `"gate":"zz.emergency"`),
		"override twice":  replace(`"gate":"governance.amend"`, `"gate":"chain.emergency"`),
		"override name":   replace(`"gate":"chain.emergency"`, `"gate":"Chain"`),
		"override empty":  replace(`,"reject":{"risk":0.95,"fairness":0.9,"privacy":0.75,"novelty":0.75,"security":0.9}`, ``),
		"override both":   replace(`"gate":"chain.emergency"`, `"gate":"chain.emergency","kind":"a.b"`),
		"at least permit": replace(`"gate":"chain.emergency"`, `"gate":"chain.emergency","at_least":"permit"`),
	} {
		if _, err := gates.DecodePolicy([]byte(text)); !errors.Is(err, gates.ErrPolicy) {
			t.Errorf("%s: %v, want ErrPolicy", name, err)
		}
	}
	if _, err := gates.DecodePolicy([]byte(good)); err != nil {
		t.Error(err)
	}
}

func TestPolicyCheck(t *testing.T) {
	zero := gates.Effect{}
	for name, o := range map[string]gates.Override{
		"nothing selected":  {AtLeast: gates.Deny},
		"workspace alone":   {Workspace: "w", AtLeast: gates.Deny},
		"gate and kind":     {Gate: "a.b", Kind: "a.b", AtLeast: gates.Deny},
		"nothing changed":   {Gate: "a.b"},
		"emergency":         {Gate: "a.b", AtLeast: gates.Emergency},
		"permit":            {Gate: "a.b", AtLeast: gates.Permit},
		"workspace name":    {Workspace: "W", Kind: "a.b", AtLeast: gates.Deny},
		"workspace start":   {Workspace: "-w", Kind: "a.b", AtLeast: gates.Deny},
		"long workspace":    {Workspace: strings.Repeat("w", 65), Kind: "a.b", AtLeast: gates.Deny},
		"elevate too large": {Gate: "a.b", Elevate: &gates.Effect{0, 10_001}},
		"reject too large":  {Gate: "a.b", Reject: &gates.Effect{0, 10_001}},
	} {
		p := builtIn(t, gates.Staging)
		p.Overrides = []gates.Override{o}
		if err := p.Check(); !errors.Is(err, gates.ErrPolicy) {
			t.Errorf("%s: %v, want ErrPolicy", name, err)
		}
	}
	p := builtIn(t, gates.Staging)
	for range gates.MaxOverrides + 1 {
		p.Overrides = append(p.Overrides, gates.Override{Gate: "a.b", Elevate: &zero})
	}
	if err := p.Check(); !errors.Is(err, gates.ErrPolicy) {
		t.Errorf("too many overrides: %v", err)
	}
	if _, err := gates.BuiltIn("moon"); !errors.Is(err, gates.ErrPolicy) {
		t.Errorf("got %v, want ErrPolicy", err)
	}
}

func FuzzDecodePolicy(f *testing.F) {
	for _, env := range environments() {
		f.Add(builtIn(f, env).Encode())
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := gates.DecodePolicy(text)
		if err != nil {
			return
		}
		if got := p.Encode(); !bytes.Equal(got, text) {
			t.Fatalf("two forms of one policy:\n%s\n%s", text, got)
		}
	})
}

// The state.

func hash(policy []byte) [32]byte { return sha256.Sum256(policy) }

func marshal(t testing.TB, payload any) []byte {
	t.Helper()
	text, err := json.Marshal(payload)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func fold(t testing.TB, s gates.State, workspace, kind string, payload any) gates.State {
	t.Helper()
	next, err := s.Fold(gates.Fact{Workspace: workspace, Kind: kind, Payload: marshal(t, payload)})
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func genesis(t testing.TB, env gates.Environment) gates.State {
	t.Helper()
	return fold(t, gates.NewState(hash), "system", catalog.KindGovernanceGenesis, gates.GenesisPayload(builtIn(t, env), hash))
}

func TestFold(t *testing.T) {
	empty := gates.NewState(hash)
	if empty.Policy() != nil || empty.Revision() != 0 || empty.PolicyHash() != [32]byte{} {
		t.Error("the empty chain has a policy")
	}
	if _, gated, err := empty.Evaluate("w", "tool.execute", nil); !gated || !errors.Is(err, gates.ErrNoPolicy) {
		t.Errorf("got %v, want ErrNoPolicy", err)
	}
	if _, gated, err := empty.Evaluate("system", catalog.KindChainGenesis, nil); gated || err != nil {
		t.Errorf("chain.genesis: gated %t, %v", gated, err)
	}

	first := genesis(t, gates.Production)
	p := builtIn(t, gates.Production)
	if !gocmp.Equal(first.Policy(), p) || first.PolicyHash() != hash(p.Encode()) || first.Revision() != 1 {
		t.Errorf("policy %+v, revision %d", first.Policy(), first.Revision())
	}

	register := catalog.CatalogRegister{Kind: "git.commit", Schema: catalog.Object(`{"type":"object"}`), Gate: catalog.GateAuthGrant}
	elsewhere := fold(t, first, "w", catalog.KindCatalogRegister, register)
	if _, ok := elsewhere.Kind("git.commit"); ok || elsewhere.Revision() != 1 {
		t.Error("a payload outside workspace system was folded")
	}
	second := fold(t, first, "system", catalog.KindCatalogRegister, register)
	if k, ok := second.Kind("git.commit"); !ok || k.SchemaVersion != 1 || second.Gate("git.commit") != catalog.GateAuthGrant || second.Revision() != 2 {
		t.Errorf("%+v, %t, revision %d", k, ok, second.Revision())
	}
	if _, ok := first.Kind("git.commit"); ok || first.Revision() != 1 {
		t.Error("Fold changed the state it was called on")
	}
	v, gated, err := second.Evaluate("w", "git.commit", nil)
	if err != nil || !gated || v.Decision != gates.Escalate || v.Revision != 2 || v.PolicyHash != first.PolicyHash() {
		t.Errorf("%+v, %t, %v", v, gated, err)
	}
	third := fold(t, second, "system", catalog.KindCatalogRetire, catalog.CatalogRetire{Kind: "git.commit"})
	if _, ok := third.Kind("git.commit"); ok || third.Gate("git.commit") != "" || third.Revision() != 3 {
		t.Errorf("known %t, revision %d", ok, third.Revision())
	}
	fourth := fold(t, third, "system", "boot.ready", map[string]int{})
	if fourth.Revision() != 3 || !gocmp.Equal(encode(t, third), encode(t, fourth)) {
		t.Error("an entry that governance does not read changed the state")
	}
}

func TestBumps(t *testing.T) {
	for kind, want := range map[string]bool{
		catalog.KindGovernanceGenesis: true, catalog.KindCatalogRegister: true, catalog.KindCatalogRetire: true,
		catalog.KindAgentSpawn: false, catalog.KindGovernanceDeny: false, "x.y": false,
	} {
		if got := gates.Bumps("system", kind); got != want {
			t.Errorf("%s: %t", kind, got)
		}
		if gates.Bumps("w", kind) {
			t.Errorf("%s bumps from another workspace", kind)
		}
	}
}

func TestFoldRefuses(t *testing.T) {
	good := gates.GenesisPayload(builtIn(t, gates.Staging), hash)
	change := func(f func(*catalog.GovernanceGenesis)) catalog.GovernanceGenesis {
		p := good
		f(&p)
		return p
	}
	registered := fold(t, genesis(t, gates.Staging), "system", catalog.KindCatalogRegister, catalog.CatalogRegister{Kind: "a.b"})
	retired := fold(t, registered, "system", catalog.KindCatalogRetire, catalog.CatalogRetire{Kind: "a.b"})
	for _, test := range []struct {
		name    string
		state   gates.State
		kind    string
		payload any
	}{
		{"second genesis", genesis(t, gates.Staging), catalog.KindGovernanceGenesis, good},
		{"no hasher", gates.State{}, catalog.KindGovernanceGenesis, good},
		{"hash", gates.NewState(hash), catalog.KindGovernanceGenesis, change(func(p *catalog.GovernanceGenesis) { p.PolicyHash = strings.Repeat("0", 64) })},
		{"environment", gates.NewState(hash), catalog.KindGovernanceGenesis, change(func(p *catalog.GovernanceGenesis) { p.Environment = "production" })},
		{"rules", gates.NewState(hash), catalog.KindGovernanceGenesis, change(func(p *catalog.GovernanceGenesis) { p.Rules = []string{"r"} })},
		{"policy", gates.NewState(hash), catalog.KindGovernanceGenesis, change(func(p *catalog.GovernanceGenesis) { p.Policy = []byte(`{}`) })},
		{"nothing", gates.NewState(hash), catalog.KindGovernanceGenesis, map[string]int{}},
		{"not an object", gates.NewState(hash), catalog.KindCatalogRegister, []int{}},
		{"kind", gates.NewState(hash), catalog.KindCatalogRegister, catalog.CatalogRegister{Kind: "ab"}},
		{"reserved", gates.NewState(hash), catalog.KindCatalogRegister, catalog.CatalogRegister{Kind: "chain.ab"}},
		{"no schema", gates.NewState(hash), catalog.KindCatalogRegister, map[string]string{"kind": "a.b", "gate": ""}},
		{"schema", gates.NewState(hash), catalog.KindCatalogRegister, map[string]string{"kind": "a.b", "gate": "", "schema": "x"}},
		{"gate", gates.NewState(hash), catalog.KindCatalogRegister, catalog.CatalogRegister{Kind: "a.b", Gate: "?"}},
		{"retire unknown", gates.NewState(hash), catalog.KindCatalogRetire, catalog.CatalogRetire{Kind: "a.b"}},
		{"retire twice", retired, catalog.KindCatalogRetire, catalog.CatalogRetire{Kind: "a.b"}},
		{"retire nothing", registered, catalog.KindCatalogRetire, map[string]int{}},
	} {
		before := encode(t, test.state)
		next, err := test.state.Fold(gates.Fact{Sequence: 42, Workspace: "system", Kind: test.kind, Payload: marshal(t, test.payload)})
		if !errors.Is(err, gates.ErrFold) || !strings.Contains(err.Error(), "42") {
			t.Errorf("%s: %v, want ErrFold with the sequence", test.name, err)
		}
		if !bytes.Equal(encode(t, next), before) {
			t.Errorf("%s: the state changed", test.name)
		}
	}
}

// TestFoldIgnoresVersion: what the fold accepts does not depend on the kinds
// and gates that are built in, nor on whether a schema compiles.
func TestFoldIgnoresVersion(t *testing.T) {
	s := genesis(t, gates.Development)
	for _, payload := range []catalog.CatalogRegister{
		{Kind: catalog.KindAgentSpawn},
		{Kind: "x.y", Gate: "gate.of.tomorrow"},
		{Kind: "x.z", Schema: catalog.Object(`{"type":"strange"}`)},
	} {
		s = fold(t, s, "system", catalog.KindCatalogRegister, payload)
	}
	v, gated, err := s.Evaluate("w", "x.y", nil)
	if err != nil || !gated || v.Decision != gates.Deny || v.Gate != "gate.of.tomorrow" || !slices.Equal(v.Reasons, []string{gates.ReasonGateUnknown}) {
		t.Errorf("an unknown gate: %+v, %t, %v", v, gated, err)
	}
}

func encode(t testing.TB, s gates.State) []byte {
	t.Helper()
	b, err := s.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// eventful returns a state with some of everything.
func eventful(t testing.TB) gates.State {
	s := genesis(t, gates.Production)
	for _, kind := range []string{"z.last", "a.first", "m.middle", "a.first"} {
		s = fold(t, s, "system", catalog.KindCatalogRegister, catalog.CatalogRegister{Kind: kind, Schema: catalog.Object(`{"title":"` + kind + `"}`), Gate: catalog.GateToolExecute})
	}
	return fold(t, s, "system", catalog.KindCatalogRetire, catalog.CatalogRetire{Kind: "m.middle"})
}

func TestStateEncoding(t *testing.T) {
	for _, s := range []gates.State{gates.NewState(hash), genesis(t, gates.Staging), eventful(t)} {
		b := encode(t, s)
		got, err := gates.DecodeState(slices.Clone(b), hash)
		if err != nil {
			t.Fatal(err)
		}
		if !gocmp.Equal(got.Policy(), s.Policy()) || got.PolicyHash() != s.PolicyHash() || got.Revision() != s.Revision() ||
			!gocmp.Equal(got.Catalog().Additions(), s.Catalog().Additions()) {
			t.Errorf("%x does not come back", b)
		}
		if !bytes.Equal(encode(t, got), b) {
			t.Errorf("%x is encoded otherwise the second time", b)
		}
		for n := range b {
			if _, err := gates.DecodeState(b[:n], hash); !errors.Is(err, gates.ErrState) {
				t.Fatalf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
		if _, err := gates.DecodeState(append(b, 0), hash); !errors.Is(err, gates.ErrState) {
			t.Errorf("a byte more: %v", err)
		}
	}
	golden(t, "state.bin", encode(t, eventful(t)))
}

func FuzzDecodeState(f *testing.F) {
	f.Add(encode(f, gates.NewState(hash)))
	f.Add(encode(f, eventful(f)))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := gates.DecodeState(b, hash)
		if err != nil {
			return
		}
		if got := encode(t, s); !bytes.Equal(got, b) {
			t.Fatalf("two encodings of one state:\n%x\n%x", b, got)
		}
	})
}

func TestAdmit(t *testing.T) {
	production, development := eventful(t), genesis(t, gates.Development)
	const spawn = `{"agent_id":"a","pid":1,"parent_pid":0,"program":"p"}`
	const deny = `{"gate":"g","action":"a","actor":"x","effect":{},"policy_revision":1,"reasons":[],"workspace":"w","source":"s","id":"i","kind":"k","digest":"d"}`
	register := func(kind, gate, schema string) string {
		return string(marshal(t, catalog.CatalogRegister{Kind: kind, Gate: gate, Schema: catalog.Object(schema)}))
	}
	for _, test := range []struct {
		name                     string
		state                    gates.State
		workspace, kind, payload string
		want                     error // nil where field is "" too
		field                    string
	}{
		{"known", production, "w", catalog.KindAgentSpawn, spawn, nil, ""},
		{"registered", production, "w", "a.first", `{}`, nil, ""},
		{"system", production, "system", catalog.KindGovernanceDeny, deny, nil, ""},
		{"catalog kinds elsewhere", production, "w", catalog.KindCatalogRegister, register("chain.x", "", `{}`), nil, ""},
		{"accepted unknown", development, "w", "x.y", "no JSON", nil, ""},
		{"register", production, "system", catalog.KindCatalogRegister, register("new.kind", "", `{}`), nil, ""},
		{"register again", production, "system", catalog.KindCatalogRegister, register("a.first", "", `{}`), nil, ""},
		{"retire", production, "system", catalog.KindCatalogRetire, `{"kind":"a.first","reason":"r"}`, nil, ""},
		{"before genesis", gates.NewState(hash), "system", catalog.KindClusterConfig, `{"raft_index":1,"voters":[],"nonvoters":[]}`, nil, ""},

		{"field", production, "w", catalog.KindAgentSpawn, `{"pid":"1"}`, nil, "pid"},
		{"reserved", production, "w", catalog.KindGovernanceDeny, deny, catalog.ErrReservedKind, ""},
		{"reserved, unknown", development, "w", "chain.mine", `{}`, catalog.ErrReservedKind, ""},
		{"refused unknown", production, "w", "x.y", `{}`, catalog.ErrUnknownKind, ""},
		{"unknown in system", development, "system", "x.y", `{}`, catalog.ErrUnknownKind, ""},
		{"unknown before genesis", gates.NewState(hash), "w", "x.y", `{}`, catalog.ErrUnknownKind, ""},
		{"retired", production, "w", "m.middle", `{}`, catalog.ErrRetiredKind, ""},
		{"bad name", development, "w", "X Y", `{}`, catalog.ErrBadName, ""},
		{"register built in", production, "system", catalog.KindCatalogRegister, register(catalog.KindAgentSpawn, "", `{}`), nil, "kind"},
		{"register unknown gate", production, "system", catalog.KindCatalogRegister, register("x.y", "no.gate", `{}`), nil, "gate"},
		{"register bad schema", production, "system", catalog.KindCatalogRegister, register("x.y", "", `{"type":"strange"}`), nil, "schema"},
		{"retire built in", production, "system", catalog.KindCatalogRetire, `{"kind":"agent.spawn","reason":"r"}`, nil, "kind"},
		{"retire retired", production, "system", catalog.KindCatalogRetire, `{"kind":"m.middle","reason":"r"}`, nil, "kind"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.state.Admit(test.workspace, test.kind, "application/json", []byte(test.payload))
			var fe *catalog.FieldError
			switch {
			case test.field != "":
				if !errors.As(err, &fe) || fe.Field != test.field {
					t.Errorf("got %v, want a FieldError over %s", err, test.field)
				}
			case !errors.Is(err, test.want):
				t.Errorf("got %v, want %v", err, test.want)
			}
			byClient := test.state.AdmitClient(test.workspace, test.kind, "application/json", []byte(test.payload))
			if test.workspace == "system" {
				if !errors.Is(byClient, gates.ErrReservedWorkspace) {
					t.Errorf("a client's: %v, want ErrReservedWorkspace", byClient)
				}
			} else if (byClient == nil) != (err == nil) {
				t.Errorf("a client's: %v, a node's: %v", byClient, err)
			}
		})
	}
}

// TestAdmittedFolds: what Admit lets into workspace system, Fold takes.
func TestAdmittedFolds(t *testing.T) {
	names := rapid.SampledFrom([]string{"a.first", "m.middle", "x.y", "chain.x", "bad", catalog.KindAgentSpawn})
	gateNames := rapid.SampledFrom([]string{"", catalog.GateAuthGrant, "no.gate", "?"})
	schemas := rapid.SampledFrom([]string{`{}`, `{"type":"object"}`, `{"type":1}`, `[]`, `{"a":1,"a":2}`})
	rapid.Check(t, func(r *rapid.T) {
		s := eventful(t)
		for range 5 {
			kind, payload := catalog.KindCatalogRetire, marshal(t, catalog.CatalogRetire{Kind: names.Draw(r, "kind")})
			if rapid.Bool().Draw(r, "register") {
				kind = catalog.KindCatalogRegister
				payload = []byte(`{"kind":"` + names.Draw(r, "kind") + `","gate":"` + gateNames.Draw(r, "gate") + `","schema":` + schemas.Draw(r, "schema") + `}`)
			}
			if s.Admit("system", kind, "", payload) != nil {
				continue
			}
			next, err := s.Fold(gates.Fact{Workspace: "system", Kind: kind, Payload: payload})
			if err != nil {
				r.Fatalf("%s was admitted: %v", payload, err)
			}
			s = next
		}
	})
}
