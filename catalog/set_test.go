package catalog_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "github.com/exonode/exonode/catalog"
)

const commitSchema = `{
	"type": "object",
	"required": ["hash", "author"],
	"properties": {
		"hash": {"type": "string", "pattern": "^[0-9a-f]+$", "minLength": 4},
		"author": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}},
		"parents": {"type": "array", "items": {"type": "string"}},
		"lines": {"type": "integer", "multipleOf": 1}
	},
	"additionalProperties": false
}`

func register(t *testing.T, s Set, kind, gate, schema string) Set {
	t.Helper()
	next, err := s.Register(kind, gate, []byte(schema))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestRegisteredKind(t *testing.T) {
	s := register(t, Set{}, "git.commit", GateToolExecute, commitSchema)
	for _, test := range []struct{ name, payload, field, want, got string }{
		{"good", `{"hash":"c0ffee","author":{"name":"x"},"parents":["a"],"lines":10}`, "", "", ""},
		{"missing", `{"hash":"c0ffee"}`, "author", "a value", "nothing"},
		{"nested missing", `{"hash":"c0ffee","author":{}}`, "author.name", "a value", "nothing"},
		{"type", `{"hash":"c0ffee","author":{"name":1}}`, "author.name", "string", "number"},
		{"element", `{"hash":"c0ffee","author":{"name":"x"},"parents":["a",true]}`, "parents[1]", "string", "boolean"},
		{"pattern", `{"hash":"coffee","author":{"name":"x"}}`, "hash", "a string that matches ^[0-9a-f]+$", "another"},
		{"short", `{"hash":"c0","author":{"name":"x"}}`, "hash", "at least 4 characters", "2"},
		{"additional", `{"hash":"c0ffee","author":{"name":"x"},"z":1,"b":1}`, "b", "no such field", "a value"},
		{"not an object", `[]`, "", "object", "array"},
		{"malformed", `{"hash":}`, "", "well-formed JSON", "no value at offset 8"},
		{"a key twice", `{"hash":"c0ffee","author":{"name":"x","name":"y"}}`, "", "well-formed JSON", "an object key twice at offset 45"},
		{"enormous number", `{"hash":"c0ffee","author":{"name":"x"},"lines":1e999999999}`, "", "well-formed JSON", "a number too large at offset 47"},
		{"long number", `{"lines":` + strings.Repeat("9", 401) + `}`, "", "well-formed JSON", "a number too large at offset 9"},
		{"empty", ``, "", "JSON", "no payload"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := s.Validate("git.commit", "application/json", []byte(test.payload))
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			want := &FieldError{Kind: "git.commit", Field: test.field, Want: test.want, Got: test.got}
			if diff := cmp.Diff(error(want), err); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
	if err := s.Validate("git.commit", "text/plain", []byte("{}")); err == nil {
		t.Error("a payload of another content type was accepted")
	}
}

func TestSetIsAValue(t *testing.T) {
	empty := Set{}
	one := register(t, empty, "x.b", "", `{}`)
	two := register(t, one, "x.a", GateCronCreate, `true`)
	again := register(t, two, "x.b", GateAuthGrant, `{"type":"object"}`)
	retired, err := again.Retire("x.b")
	if err != nil {
		t.Fatal(err)
	}
	back := register(t, retired, "x.b", "", `{}`)
	for i, want := range []struct {
		set  Set
		list []Addition
	}{
		{empty, []Addition{}},
		{one, []Addition{{Kind: "x.b", Version: 1, Schema: []byte(`{}`)}}},
		{two, []Addition{{Kind: "x.a", Gate: GateCronCreate, Version: 1, Schema: []byte(`true`)}, {Kind: "x.b", Version: 1, Schema: []byte(`{}`)}}},
		{again, []Addition{{Kind: "x.a", Gate: GateCronCreate, Version: 1, Schema: []byte(`true`)}, {Kind: "x.b", Gate: GateAuthGrant, Version: 2, Schema: []byte(`{"type":"object"}`)}}},
		{retired, []Addition{{Kind: "x.a", Gate: GateCronCreate, Version: 1, Schema: []byte(`true`)}, {Kind: "x.b", Version: 2, Retired: true, Schema: []byte(`{}`)}}},
		{back, []Addition{{Kind: "x.a", Gate: GateCronCreate, Version: 1, Schema: []byte(`true`)}, {Kind: "x.b", Version: 3, Schema: []byte(`{}`)}}},
	} {
		if diff := cmp.Diff(want.list, want.set.Additions()); diff != "" {
			t.Errorf("set %d (-want +got):\n%s", i, diff)
		}
		copied, err := NewSet(want.set.Additions())
		if err != nil || !cmp.Equal(copied.Additions(), want.list) {
			t.Errorf("set %d can't be made again: %v", i, err)
		}
	}
	if k, ok := again.Lookup("x.b"); !ok || k.SchemaVersion != 2 || k.Gate != GateAuthGrant {
		t.Errorf("x.b is %+v, %t", k, ok)
	}
	if _, ok := retired.Lookup("x.b"); ok {
		t.Error("a retired kind is known")
	}
	if err := retired.Validate("x.b", "", []byte(`{}`)); !errors.Is(err, ErrRetiredKind) {
		t.Errorf("got %v, want ErrRetiredKind", err)
	}
	if err := empty.Validate("x.b", "", []byte(`{}`)); !errors.Is(err, ErrUnknownKind) {
		t.Errorf("got %v, want ErrUnknownKind", err)
	}
	if n, builtIn := len(two.Kinds()), len(Kinds()); n != builtIn+2 {
		t.Errorf("%d kinds, want %d", n, builtIn+2)
	}
	if n, builtIn := len(retired.Kinds()), len(Kinds()); n != builtIn+1 {
		t.Errorf("%d kinds, want %d", n, builtIn+1)
	}
}

// TestOwnBeforeBuiltIn: a chain's own kind goes before one of that name that a
// later version of the program builds in.
func TestOwnBeforeBuiltIn(t *testing.T) {
	s := register(t, Set{}, KindAgentSpawn, "", `{"required":["mine"]}`)
	if err := s.Validate(KindAgentSpawn, "", []byte(`{"mine":1}`)); err != nil {
		t.Error(err)
	}
	if k, ok := s.Lookup(KindAgentSpawn); !ok || k.Gate != "" {
		t.Errorf("%+v, %t", k, ok)
	}
	if n := len(s.Kinds()); n != len(Kinds()) {
		t.Errorf("%d kinds, want %d", n, len(Kinds()))
	}
}

func TestRegisterErrors(t *testing.T) {
	large := []byte(`"` + strings.Repeat("x", MaxSchema) + `"`)
	for _, test := range []struct {
		kind, gate string
		schema     []byte
		want       error
	}{
		{"bad", "", nil, ErrBadName},
		{"chain.mine", "", nil, ErrReservedKind},
		{"governance.mine", "", nil, ErrReservedKind},
		{"x.y", "Gate", nil, ErrBadName},
		{"x.y", "", large, ErrLimit},
	} {
		if _, err := (Set{}).Register(test.kind, test.gate, test.schema); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.kind, err, test.want)
		}
	}
	if _, err := (Set{}).Retire("x.y"); !errors.Is(err, ErrUnknownKind) {
		t.Errorf("got %v, want ErrUnknownKind", err)
	}
	if _, err := (Set{}).Retire(KindAgentSpawn); !errors.Is(err, ErrUnknownKind) {
		t.Errorf("got %v, want ErrUnknownKind", err)
	}
	retired, err := register(t, Set{}, "x.y", "", "{}").Retire("x.y")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := retired.Retire("x.y"); !errors.Is(err, ErrRetiredKind) {
		t.Errorf("got %v, want ErrRetiredKind", err)
	}

	var full []Addition
	for i := range MaxAdditions {
		full = append(full, Addition{Kind: fmt.Sprintf("x.k%05d", i), Version: 1})
	}
	s, err := NewSet(full)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Register("x.z", "", nil); !errors.Is(err, ErrLimit) {
		t.Errorf("one kind too many: %v", err)
	}
	for i := range MaxSchemas / MaxSchema {
		full[i].Schema = make([]byte, MaxSchema)
	}
	if s, err = NewSet(full); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Register(full[MaxAdditions-1].Kind, "", []byte("{}")); !errors.Is(err, ErrLimit) {
		t.Errorf("schemas too large: %v", err)
	}
	for _, list := range [][]Addition{
		{{Kind: "x.b", Version: 1}, {Kind: "x.a", Version: 1}},
		{{Kind: "x.a", Version: 1}, {Kind: "x.a", Version: 1}},
		{{Kind: "x.a"}},
		{{Kind: "xa", Version: 1}},
	} {
		if _, err := NewSet(list); err == nil {
			t.Errorf("NewSet(%v) succeeded", list)
		}
	}
}

func TestCheckRegister(t *testing.T) {
	for _, test := range []struct{ name, kind, gate, schema, field string }{
		{"good", "git.commit", "", commitSchema, ""},
		{"with a gate", "git.push", GateToolExecute, `{}`, ""},
		{"older draft", "git.push", "", `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}`, ""},
		{"own reference", "git.push", "", `{"$ref":"#/$defs/a","$defs":{"a":{"type":"object"}}}`, ""},
		{"name", "git", "", `{}`, "kind"},
		{"reserved", "chain.mine", "", `{}`, "kind"},
		{"built in", KindAgentSpawn, "", `{}`, "kind"},
		{"gate", "git.push", "git.gate", `{}`, "gate"},
		{"not an object", "git.push", "", `true`, "schema"},
		{"malformed", "git.push", "", `{`, "schema"},
		{"not UTF-8", "git.push", "", "{\"\xff\":1}", "schema"},
		{"bad keyword", "git.push", "", `{"type":"strange"}`, "schema"},
		{"bad pattern", "git.push", "", `{"pattern":"("}`, "schema"},
		{"file reference", "git.push", "", `{"$ref":"file:///etc/passwd"}`, "schema"},
		{"remote reference", "git.push", "", `{"$ref":"https://example.com/schema"}`, "schema"},
		{"remote dialect", "git.push", "", `{"$schema":"https://example.com/schema"}`, "schema"},
		{"too large", "git.push", "", `{"title":"` + strings.Repeat("x", MaxSchema) + `"}`, "schema"},
		{"enormous number", "git.push", "", `{"minimum":1e999999999}`, "schema"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := Set{}.CheckRegister(test.kind, test.gate, []byte(test.schema))
			if test.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var fe *FieldError
			if !errors.As(err, &fe) || fe.Field != test.field || fe.Kind != KindCatalogRegister {
				t.Errorf("got %v, want an error over %s", err, test.field)
			}
		})
	}
}

// TestBadSchema: a schema that does not compile can be in a chain; no payload
// is valid then, and nothing worse happens.
func TestBadSchema(t *testing.T) {
	s := register(t, Set{}, "x.y", "", `{"type":"strange"}`)
	var fe *FieldError
	if err := s.Validate("x.y", "", []byte(`{}`)); !errors.As(err, &fe) {
		t.Errorf("got %v, want a FieldError", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := register(t, Set{}, "git.commit", "", commitSchema)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 50 {
				if err := s.Validate("git.commit", "", []byte(`{"hash":"c0ffee","author":{"name":"x"}}`)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}

func TestRead(t *testing.T) {
	members, err := ReadObject([]byte(` {"a":1, "b\u0062" : [true , {}] } `))
	want := map[string][]byte{"a": []byte("1"), "bb": []byte("[true , {}]")}
	if err != nil || !cmp.Equal(members, want) {
		t.Errorf("ReadObject: %q, %v", members, err)
	}
	elements, err := ReadArray([]byte(`[1,"x", [2]]`))
	if err != nil || !cmp.Equal(elements, [][]byte{[]byte("1"), []byte(`"x"`), []byte("[2]")}) {
		t.Errorf("ReadArray: %q, %v", elements, err)
	}
	text, err := ReadString([]byte(`"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00\ud83d\u0041"`))
	if want := "\"\\/\b\f\n\r\té😀\ufffdA"; err != nil || text != want {
		t.Errorf("ReadString: %q, %v; want %q", text, err, want)
	}
	for _, bad := range []string{``, `[]`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `{"a":1}x`, "{\"\xff\":1}", `{"a"}`} {
		if _, err := ReadObject([]byte(bad)); err == nil {
			t.Errorf("ReadObject(%q) succeeded", bad)
		}
	}
	for _, bad := range []string{``, `{}`, `[1,]`, `[1]]`} {
		if _, err := ReadArray([]byte(bad)); err == nil {
			t.Errorf("ReadArray(%q) succeeded", bad)
		}
	}
	for _, bad := range []string{``, `1`, `"a`, `"a"b`} {
		if _, err := ReadString([]byte(bad)); err == nil {
			t.Errorf("ReadString(%q) succeeded", bad)
		}
	}
}
