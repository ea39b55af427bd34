package catalog_test

import (
	"encoding/json"
	"testing"

	"github.com/exonode/exonode/catalog"
)

// FuzzRead holds the readers of payloads against encoding/json, which takes what
// they refuse: keys that come twice, deep nesting, other than UTF-8.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		`{"a":1,"b":[true,null],"":"\u00e9\ud83d\ude00"}`, `{"a":1,"a":2}`, ` [1, "a" ,{"b":-0.5e+7}, [] ] `,
		`"\ud800 \" \/ \b"`, "\"\u2028\"", `{}`, `[]x`, `{"a":01}`, "\"\x00\"",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := catalog.ReadObject(data); err == nil {
			var want map[string]json.RawMessage
			if err := json.Unmarshal(data, &want); err != nil || len(got) != len(want) {
				t.Fatalf("read %d members, encoding/json %d (%v)", len(got), len(want), err)
			}
			for name, value := range want {
				if string(got[name]) != string(value) {
					t.Errorf("member %q is %q, want %q", name, got[name], value)
				}
			}
		}
		if got, err := catalog.ReadArray(data); err == nil {
			var want []json.RawMessage
			if err := json.Unmarshal(data, &want); err != nil || len(got) != len(want) {
				t.Fatalf("read %d elements, encoding/json %d (%v)", len(got), len(want), err)
			}
			for i, value := range want {
				if string(got[i]) != string(value) {
					t.Errorf("element %d is %q, want %q", i, got[i], value)
				}
			}
		}
		if got, err := catalog.ReadString(data); err == nil {
			var want string
			if err := json.Unmarshal(data, &want); err != nil || got != want {
				t.Errorf("read %q, encoding/json %q (%v)", got, want, err)
			}
		}
	})
}
