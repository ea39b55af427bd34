package client_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestGuide: the code of docs/CLIENT.md is code of example_test.go, which
// compiles.
func TestGuide(t *testing.T) {
	guide, err := os.ReadFile("../docs/CLIENT.md")
	if err != nil {
		t.Fatal(err)
	}
	examples, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), " ") }
	code := squeeze(string(examples))
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(guide, -1)
	if len(blocks) == 0 {
		t.Fatal("the guide has no code")
	}
	for _, b := range blocks {
		if !strings.Contains(code, squeeze(string(b[1]))) {
			t.Errorf("not in example_test.go:\n%s", b[1])
		}
	}
}
