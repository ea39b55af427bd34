package catalog_test

import (
	"encoding/json"
	"testing"

	. "github.com/exonode/exonode/catalog"
)

// TestJSONSchema: a built-in kind's schema, registered under another name, takes
// what the kind takes, and asks for the same fields.
func TestJSONSchema(t *testing.T) {
	for _, p := range payloads {
		k, _ := Lookup(p.kind)
		schema := k.JSONSchema()
		if err := (Set{}).CheckRegister("x.y", "", schema); err != nil {
			t.Fatalf("%s: %s: %v", p.kind, schema, err)
		}
		s := register(t, Set{}, "x.y", "", string(schema))
		text, err := json.Marshal(p.zero)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate("x.y", "", text); err != nil {
			t.Errorf("%s: %s: %v", p.kind, text, err)
		}
		if err := s.Validate("x.y", "", []byte("{}")); err == nil {
			t.Errorf("%s: a payload without fields was accepted", p.kind)
		}
	}
	own, _ := register(t, Set{}, "git.commit", "", commitSchema).Lookup("git.commit")
	if string(own.JSONSchema()) != commitSchema {
		t.Error("a registered kind's schema is another")
	}
}
