package catalog

import (
	"encoding/json"
	"strings"
)

// JSONSchema returns the JSON Schema of the kind's payload: the registered one,
// or, of a built-in kind, one that says the same as its Fields.
func (k *Kind) JSONSchema() json.RawMessage {
	if k.Schema != nil {
		return k.Schema
	}
	var properties, required []string
	for _, f := range k.Fields {
		text := `"` + f.Name + `":{"type":"` + f.Type.String() + `"`
		if f.Elem != 0 {
			text += `,"items":{"type":"` + f.Elem.String() + `"}`
		}
		properties = append(properties, text+"}")
		if !f.Optional {
			required = append(required, `"`+f.Name+`"`)
		}
	}
	return json.RawMessage(`{"type":"object","properties":{` + strings.Join(properties, ",") +
		`},"required":[` + strings.Join(required, ",") + `]}`)
}
