package fsm_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
)

func TestGenesisDocument(t *testing.T) {
	g := testGenesis(t, gates.Staging)
	document, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := fsm.ParseGenesis(document)
	if err != nil {
		t.Fatal(err)
	}
	if back.ChainID != g.ChainID || string(back.Policy) != string(g.Policy) || !back.Created.Equal(g.Created) ||
		back.Grants == nil || back.Keys == nil {
		t.Errorf("came back as %+v", back)
	}
	if got, want := back.OriginAt(2), "exonode/"+testID.String()+"/2"; got != want {
		t.Errorf("origin %q, want %q", got, want)
	}
	back.Origin = "example.org/log"
	if got := back.OriginAt(0); got != "example.org/log/0" {
		t.Errorf("origin %q", got)
	}
}

func TestGenesisRefuses(t *testing.T) {
	good := string(testDocument(t, gates.Production))
	edit := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, document := range map[string]string{
		"nothing":          "",
		"null":             "null",
		"array":            "[]",
		"cut":              good[:len(good)-2],
		"more":             good + "{}",
		"not UTF-8":        edit("test", "te\xffst"),
		"unknown field":    edit(`"format"`, `"x": 1, "format"`),
		"field twice":      edit(`"format"`, `"cluster_name": "test", "format"`),
		"deep field twice": edit(`"norm"`, `"environment": "production", "norm"`),
		"another format":   edit("exonode-genesis/1", "exonode-genesis/2"),
		"short chain id":   edit(testID.String(), testID.String()[2:]),
		"no chain id":      edit(testID.String(), strings.Repeat("0", 32)),
		"no name":          edit(`"cluster_name": "test"`, `"cluster_name": ""`),
		"long name":        edit(`"cluster_name": "test"`, `"cluster_name": "`+strings.Repeat("x", 65)+`"`),
		"no time":          edit(`"created": "2023-11-14T22:13:20Z"`, `"created": "0001-01-01T00:00:00Z"`),
		"bad time":         edit(`"created": "2023-11-14T22:13:20Z"`, `"created": 5`),
		"environments":     edit(`"environment": "production"`, `"environment": "staging"`),
		"policy":           edit(`"norm": 0.75`, `"norm": 7.5`),
		"policy's form":    edit(`"norm": 0.75`, `"norm": 0.750`),
		"grants":           edit(`"grants": []`, `"grants": {}`),
		"no keys":          edit(`"keys": []`, `"keys": null`),
	} {
		if _, err := fsm.ParseGenesis([]byte(document)); !errors.Is(err, fsm.ErrGenesis) {
			t.Errorf("%s: %v", name, err)
		}
	}
	g := testGenesis(t, gates.Production)
	g.Policy = nil
	if _, err := g.Encode(); !errors.Is(err, fsm.ErrGenesis) {
		t.Errorf("encode without a policy: %v", err)
	}
	g = testGenesis(t, gates.Production)
	g.Origin = strings.Repeat("x", 201)
	if _, err := g.Encode(); !errors.Is(err, fsm.ErrGenesis) {
		t.Errorf("encode with a long origin: %v", err)
	}
}

func TestGenesisIsEncodedInUTC(t *testing.T) {
	g := testGenesis(t, gates.Production)
	document, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	g.Created = g.Created.In(time.FixedZone("x", 3600))
	again, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(document), string(again)); diff != "" {
		t.Error(diff)
	}
}
