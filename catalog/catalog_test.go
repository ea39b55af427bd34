package catalog_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "github.com/exonode/exonode/catalog"
)

// TestTables checks what holds for all kinds and gates.
func TestTables(t *testing.T) {
	gates := Gates()
	if len(gates) != 21 {
		t.Errorf("%d gates, want 21", len(gates))
	}
	for _, g := range gates {
		found, ok := LookupGate(g.Name)
		if !ok || found != g || !ValidName(g.Name) || g.Purpose == "" || g.Effect == [5]uint16{} {
			t.Errorf("gate %+v (found %+v, %t)", g, found, ok)
		}
	}
	kinds := Kinds()
	if len(kinds) != 169 {
		t.Errorf("%d kinds, want 169", len(kinds))
	}
	names := func(k Kind) string { return k.Name }
	if !slices.IsSortedFunc(kinds, func(a, b Kind) int { return strings.Compare(names(a), names(b)) }) {
		t.Error("kinds are not sorted")
	}
	for _, k := range kinds {
		found, ok := Lookup(k.Name)
		if !ok || found.Name != k.Name || !ValidName(k.Name) || k.SchemaVersion == 0 || len(k.Fields) == 0 {
			t.Errorf("kind %+v (found %+v, %t)", k, found, ok)
		}
		if _, ok := LookupGate(k.Gate); k.Gate != "" && !ok {
			t.Errorf("%s has unknown gate %q", k.Name, k.Gate)
		}
	}
	if _, ok := Lookup("agent.fly"); ok {
		t.Error("agent.fly is known")
	}
	if _, ok := LookupGate(""); ok {
		t.Error("the empty gate is known")
	}
}

// TestFrozen pins what entries of the cluster's own kinds must contain.
func TestFrozen(t *testing.T) {
	for kind, want := range map[string]string{
		KindGovernanceDeny: "gate:string action:string actor:string effect:object policy_revision:integer reasons:array " +
			"workspace:string source:string id:string kind:string digest:string",
		KindGovernanceGenesis: "policy_hash:string environment:string rules:array policy:object",
		KindCatalogRegister:   "kind:string schema:object gate:string",
		KindChainGenesis: "chain_id:string format:string constitution_hash:string origin:string " +
			"document:string log_key:string",
		KindClusterConfig: "raft_index:integer voters:array nonvoters:array cause_seq:integer? flagged:boolean?",
	} {
		k, _ := Lookup(kind)
		var got []string
		for _, f := range k.Fields {
			s := f.Name + ":" + f.Type.String()
			if f.Optional {
				s += "?"
			}
			got = append(got, s)
		}
		if diff := cmp.Diff(strings.Fields(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
}

// TestPayloadTypes checks that the zero value of each payload type, written by
// encoding/json, is valid, and that each field that must be there is asked for.
func TestPayloadTypes(t *testing.T) {
	if len(payloads) != len(Kinds()) {
		t.Errorf("%d payload types for %d kinds", len(payloads), len(Kinds()))
	}
	for _, p := range payloads {
		text, err := json.Marshal(p.zero)
		if err != nil {
			t.Fatal(err)
		}
		if err := (Set{}).Validate(p.kind, "", text); err != nil {
			t.Errorf("%s: %s: %v", p.kind, text, err)
		}
		if err := json.Unmarshal(text, p.zero); err != nil {
			t.Errorf("%s: %v", p.kind, err)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(text, &members); err != nil {
			t.Fatal(err)
		}
		k, _ := Lookup(p.kind)
		for _, f := range k.Fields {
			if f.Optional {
				continue
			}
			without := map[string]json.RawMessage{}
			for name, value := range members {
				if name != f.Name {
					without[name] = value
				}
			}
			text, err := json.Marshal(without)
			if err != nil {
				t.Fatal(err)
			}
			err = Set{}.Validate(p.kind, "", text)
			if want := (&FieldError{p.kind, f.Name, f.Type.String(), "nothing"}); !cmp.Equal(err, error(want)) {
				t.Errorf("%s without %s: %v", p.kind, f.Name, err)
			}
		}
	}
}

const goodSpawn = `{"agent_id":"a","pid":1,"parent_pid":0,"program":"/bin/true"}`

func TestValidate(t *testing.T) {
	deep := strings.Repeat("[", 63) + strings.Repeat("]", 63)
	deepObject := strings.Repeat(`{"a":`, 62) + "{}" + strings.Repeat("}", 62)
	tests := []struct {
		name, kind, content, payload string
		field, want, got             string // want "" is valid
	}{
		{"good", KindAgentSpawn, "", goodSpawn, "", "", ""},
		{"json", KindAgentSpawn, "application/json", goodSpawn, "", "", ""},
		{"json with charset", KindAgentSpawn, "application/json; charset=utf-8", goodSpawn, "", "", ""},
		{"suffix", KindAgentSpawn, "application/vnd.x+json", goodSpawn, "", "", ""},
		{"space and more", KindAgentSpawn, "", " {\n\"more\" : [1, 2.5e3, {\"a\":null}, \"\\u00e9\\n\"],\t" + goodSpawn[1:] + "\r\n", "", "", ""},
		{"escaped key", KindAgentSpawn, "", `{"agent_id":"a","p\u0069d":1,"parent_pid":0,"program":"x"}`, "", "", ""},
		{"least integer", KindAgentSpawn, "", `{"agent_id":"a","pid":-9223372036854775808,"parent_pid":-0,"program":"x"}`, "", "", ""},
		{"integer as number", KindTickDrift, "", `{"interval_ms":1,"actual_ms":2}`, "", "", ""},
		{"number", KindEMLDrift, "", `{"model_name":"m","predicted":1,"actual":-0.5e-3,"drift_pct":2.5E+1}`, "", "", ""},
		{"optional", KindClusterConfig, "", `{"raft_index":1,"voters":[{}],"nonvoters":[],"flagged":true}`, "", "", ""},
		{"as deep as may be", KindArtifactRemove, "", `{"hash":"h","x":` + deep + `}`, "", "", ""},
		{"objects as deep as may be", KindArtifactRemove, "", `{"hash":"h","x":` + deepObject + `}`, "", "", ""},

		{"content type", KindAgentSpawn, "text/plain", goodSpawn, "", "content type application/json", "another content type"},
		{"no content type", KindAgentSpawn, ";;", goodSpawn, "", "content type application/json", "another content type"},
		{"empty", KindAgentSpawn, "", "", "", "a JSON object", "no payload"},
		{"array", KindAgentSpawn, "", "[]", "", "a JSON object", "array"},
		{"null", KindAgentSpawn, "", "null", "", "a JSON object", "null"},
		{"latin 1", KindAgentSpawn, "", "{\"agent_id\":\"\xe9\"}", "", "UTF-8", "other bytes"},
		{"missing", KindAgentSpawn, "", `{"agent_id":"a","pid":1,"program":"x"}`, "parent_pid", "integer", "nothing"},
		{"wrong type", KindAgentSpawn, "", `{"agent_id":"a","pid":"1"}`, "pid", "integer", "string"},
		{"null field", KindAgentSpawn, "", `{"agent_id":null}`, "agent_id", "string", "null"},
		{"fraction", KindAgentSpawn, "", `{"pid":1.0}`, "pid", "integer", "number"},
		{"exponent", KindAgentSpawn, "", `{"pid":1e3}`, "pid", "integer", "number"},
		{"large", KindAgentSpawn, "", `{"pid":9223372036854775808}`, "pid", "an integer of 64 bits", "a larger one"},
		{"large number", KindEMLDrift, "", `{"actual":1e999}`, "actual", "a number of double precision", "a larger one"},
		{"boolean", KindAuthAttempt, "", `{"success":"true"}`, "success", "boolean", "string"},
		{"twice", KindAgentSpawn, "", `{"pid":1,"pid":1}`, "pid", "one value", "the field twice"},
		{"twice, once escaped", KindAgentSpawn, "", `{"pid":1,"\u0070id":1}`, "pid", "one value", "the field twice"},
		{"element", KindGovernanceDeny, "", `{"reasons":["a",2]}`, "reasons[1]", "string", "integer"},
		{"element too large", KindGovernanceEscalate, "", `{"causes":[1,99999999999999999999]}`, "causes[1]", "an integer of 64 bits", "a larger one"},
		{"optional of wrong type", KindClusterConfig, "", `{"flagged":1}`, "flagged", "boolean", "integer"},
		{"object for array", KindGovernanceDeny, "", `{"reasons":{}}`, "reasons", "array", "object"},

		{"cut", KindAgentSpawn, "", goodSpawn[:len(goodSpawn)-1], "", "well-formed JSON", "unexpected end at offset 60"},
		{"cut value", KindAgentSpawn, "", `{"pid":`, "pid", "well-formed JSON", "unexpected end at offset 7"},
		{"tail", KindAgentSpawn, "", goodSpawn + "x", "", "well-formed JSON", "text after the value at offset 61"},
		{"trailing comma", KindAgentSpawn, "", `{"pid":1,}`, "", "well-formed JSON", "no object key at offset 9"},
		{"leading zero", KindAgentSpawn, "", `{"pid":01}`, "", "well-formed JSON", "no comma or brace after an object member at offset 8"},
		{"plus", KindAgentSpawn, "", `{"pid":+1}`, "pid", "well-formed JSON", "no value at offset 7"},
		{"bare minus", KindAgentSpawn, "", `{"pid":-}`, "pid", "well-formed JSON", "no digit at offset 8"},
		{"no fraction", KindAgentSpawn, "", `{"pid":1.}`, "pid", "well-formed JSON", "no digit at offset 9"},
		{"control character", KindAgentSpawn, "", "{\"agent_id\":\"\n\"}", "agent_id", "well-formed JSON", "control character in a string at offset 13"},
		{"bad escape", KindAgentSpawn, "", `{"agent_id":"\x"}`, "agent_id", "well-formed JSON", "unknown escape at offset 14"},
		{"bad unicode", KindAgentSpawn, "", `{"agent_id":"\u12g4"}`, "agent_id", "well-formed JSON", "no hexadecimal digit at offset 17"},
		{"bad literal", KindAuthAttempt, "", `{"success":truth}`, "success", "well-formed JSON", "no value at offset 14"},
		{"unquoted key", KindAuthAttempt, "", `{success:true}`, "", "well-formed JSON", "no object key at offset 1"},
		{"no colon", KindAuthAttempt, "", `{"success" true}`, "", "well-formed JSON", "no colon after an object key at offset 11"},
		{"element malformed", KindGovernanceDeny, "", `{"reasons":["a",]}`, "reasons[1]", "well-formed JSON", "no value at offset 16"},
		{"objects too deep", KindArtifactRemove, "", `{"x":{"a":` + deepObject + `}}`, "", "well-formed JSON", "nesting too deep at offset 320"},
		{"too deep", KindArtifactRemove, "", `{"x":[` + deep + `]}`, "", "well-formed JSON", "nesting too deep at offset 68"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Set{}.Validate(test.kind, test.content, []byte(test.payload))
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			want := &FieldError{Kind: test.kind, Field: test.field, Want: test.want, Got: test.got}
			if diff := cmp.Diff(error(want), err); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
			if !strings.Contains(err.Error(), test.kind) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("the text hides something: %v", err)
			}
		})
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"a.b": true, "git.commit": true, "com.example.order-placed.v2": true, "a.1": true, "a_b.c_": true,
		"": false, "a": false, "a.": false, ".a": false, "a..b": false, "A.b": false, "a.b c": false,
		"a.-b": false, "_a.b": false, "a/b.c": false, "é.b": false,
		"a." + strings.Repeat("b", 126): true, "a." + strings.Repeat("b", 127): false,
	} {
		if got := ValidName(name); got != want {
			t.Errorf("ValidName(%q) is %t", name, got)
		}
	}
}

func TestReserved(t *testing.T) {
	for kind, want := range map[string]bool{
		"chain.genesis": true, "governance.x": true, "chains.x": false, "catalog.register": false, "chain": false,
	} {
		if got := Reserved(kind); got != want {
			t.Errorf("Reserved(%q) is %t", kind, got)
		}
	}
}

// FuzzValidate holds the scanner against encoding/json: what it accepts is
// valid JSON, and it accepts all valid JSON that is not too deep.
func FuzzValidate(f *testing.F) {
	f.Add([]byte(goodSpawn))
	f.Add([]byte(`{"a":[1,-0.5e+7,"\ud83d\ude00\u0000",{"b":null}],"a":true}`))
	f.Add([]byte(`[[[[]]]]`))
	f.Add([]byte(`"\ud83d"`))
	k := Kind{Name: "test.any"}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := k.Validate("", data)
		valid := json.Valid(data) && len(data) == len(strings.ToValidUTF8(string(data), ""))
		if err == nil && !valid {
			t.Fatalf("accepted %q", data)
		}
		var object map[string]json.RawMessage
		if valid && json.Unmarshal(data, &object) == nil && object != nil && err != nil && !strings.Contains(err.Error(), "deep") {
			t.Fatalf("refused %q: %v", data, err)
		}
		members, err := ReadObject(data)
		if err != nil {
			return
		}
		if len(members) != len(object) {
			t.Fatalf("%q has %d members, encoding/json finds %d", data, len(members), len(object))
		}
		for name, value := range members {
			if string(object[name]) != string(value) {
				t.Fatalf("%q: member %q is %q, encoding/json finds %q", data, name, value, object[name])
			}
			var want string
			if json.Unmarshal(value, &want) == nil && value[0] == '"' {
				if got, err := ReadString(value); err != nil || got != want {
					t.Fatalf("string %q is %q (%v), encoding/json finds %q", value, got, err, want)
				}
			}
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	payloads := map[string]string{
		KindAgentSpawn:  goodSpawn,
		KindToolExecute: fmt.Sprintf(`{"tool":"t","args_hash":%q,"agent_id":"a","args":{"x":[1,2,3],"text":%q}}`, strings.Repeat("0", 64), strings.Repeat("y", 150)),
		"git.commit":    `{"hash":"0123456789abcdef","author":"someone","message":"a change"}`,
	}
	set, err := Set{}.Register("git.commit", "", []byte(`{"type":"object","required":["hash","author"],"properties":{"hash":{"type":"string"},"author":{"type":"string"}}}`))
	if err != nil {
		b.Fatal(err)
	}
	for _, kind := range []string{KindAgentSpawn, KindToolExecute, "git.commit"} {
		payload := []byte(payloads[kind])
		b.Run("kind="+kind, func(b *testing.B) {
			b.SetBytes(int64(len(payload)))
			b.ReportAllocs()
			for b.Loop() {
				if err := set.Validate(kind, "application/json", payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
