package fsm

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
)

func TestFrozenJSONForm(t *testing.T) {
	j := new(frozenJSON)
	j.open('{')
	j.text("a", "q\" b\\ n\n t\t e\x1b ü \u2028 <>& \xff")
	j.optional("absent", "")
	j.uint("u", 1<<63)
	j.int("i", -5)
	j.bool("t", true)
	j.effect("effect", chain.Effect{10_000, 0, 3_000, 1, 1_050})
	j.texts("none", nil)
	j.texts("two", []string{"x", "y"})
	j.name("list")
	j.open('[')
	j.open('{')
	j.raw("r", []byte(`{"k":[1, 2]}`))
	j.close('}')
	j.open('{')
	j.close('}')
	j.close(']')
	j.close('}')
	const want = `{"a":"q\" b\\ n\u000a t\u0009 e\u001b ü ` + "\u2028" + ` <>& ` + "\uFFFD" +
		`","u":9223372036854775808,"i":-5,"t":true,` +
		`"effect":{"risk":1,"fairness":0,"privacy":0.3,"novelty":0.0001,"security":0.105},` +
		`"none":[],"two":["x","y"],"list":[{"r":{"k":[1, 2]}},{}]}`
	if got := string(j.b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFrozenStringDecodesToItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.String().Draw(t, "s")
		var got string
		if err := json.Unmarshal(appendFrozenString(nil, want), &got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("%q came back as %q", want, got)
		}
	})
}

func TestDecimalDecodesToItself(t *testing.T) {
	for v := range uint16(10_001) {
		var got float64
		if err := json.Unmarshal(appendDecimal(nil, v), &got); err != nil {
			t.Fatal(err)
		}
		if uint16(got*10_000+0.5) != v {
			t.Fatalf("%d is written as %s", v, appendDecimal(nil, v))
		}
	}
}
