package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFresh fails where the generated files of package catalog are not what
// the data files give.
func TestFresh(t *testing.T) {
	dir := filepath.Join("..", "..")
	files, err := generateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is stale: run go generate ./catalog", name)
		}
	}
}

func TestBadData(t *testing.T) {
	const (
		gateHead = "gate\trisk\tfairness\tprivacy\tnovelty\tsecurity\tpurpose\n"
		kindHead = "kind\tversion\tsubsystem\titem\tgate\tpayload\n"
		goodGate = gateHead + "a.b\t0.3\t0\t0\t0\t1\tSomething\n"
	)
	if _, err := generate([]byte(kindHead+"x.y\t1\tx\t\ta.b\tf:string,g:array[integer]?\n"), []byte(goodGate)); err != nil {
		t.Fatalf("good data: %v", err)
	}
	for name, c := range map[string]struct{ kinds, gates, want string }{
		"columns":       {kindHead, "gate\n", "columns"},
		"no newline":    {kindHead, strings.TrimSuffix(goodGate, "\n"), "newline"},
		"effect range":  {kindHead, gateHead + "a.b\t1.1\t0\t0\t0\t0\tx\n", "risk"},
		"effect places": {kindHead, gateHead + "a.b\t0.00001\t0\t0\t0\t0\tx\n", "risk"},
		"gate twice":    {kindHead, goodGate + "a.b\t0\t0\t0\t0\t0\tx\n", "twice"},
		"gate unknown":  {kindHead + "x.y\t1\tx\t\ta.c\tf:string\n", goodGate, "unknown gate"},
		"kind twice":    {kindHead + strings.Repeat("x.y\t1\tx\t\t\tf:string\n", 2), goodGate, "twice"},
		"kind name":     {kindHead + "xy\t1\tx\t\t\tf:string\n", goodGate, "bad kind name"},
		"version":       {kindHead + "x.y\t0\tx\t\t\tf:string\n", goodGate, "bad version"},
		"field type":    {kindHead + "x.y\t1\tx\t\t\tf:text\n", goodGate, "bad field"},
		"element":       {kindHead + "x.y\t1\tx\t\t\tf:string[string]\n", goodGate, "bad field"},
		"field twice":   {kindHead + "x.y\t1\tx\t\t\tf:string,f:string\n", goodGate, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := generate([]byte(c.kinds), []byte(c.gates))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}
