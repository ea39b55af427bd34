package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/client"
)

// Events as the documentation writes them: the command line, a plain line or a
// CloudEvent, and Go.
var (
	documentedLine    = regexp.MustCompile(`(?s)(\{\s*"(?:kind|specversion)":.*?\})[\x60'\n,\]]*\n`)
	documentedGo      = regexp.MustCompile(`(?s)Kind:\s*"([a-z.]+)",[^}]*?Payload:\s*\[\]byte\(\x60([^\x60]*)\x60\)`)
	documentedCommand = regexp.MustCompile(`exonode submit --kind (\S+)(?:[^\n]*--data '([^']*)')?`)
	documentedFile    = regexp.MustCompile(`exonode submit [^\n]*--file \S+ --kind (\S+)`)
)

// TestDocumentedEvents: the catalog takes the events that the documentation shows.
func TestDocumentedEvents(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, filepath.Join("..", "..", "README.md"), filepath.Join("..", "..", "client", "example_test.go"), "dev.go")
	found := 0
	check := func(file, kind, payload string) {
		t.Helper()
		found++
		k, ok := catalog.Lookup(kind)
		if !ok {
			t.Errorf("%s: kind %s is not in the catalog", file, kind)
			return
		}
		if payload == "" {
			return
		}
		if err := k.Validate("application/json", []byte(payload)); err != nil {
			t.Errorf("%s: %v: %s", file, err, payload)
		}
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for _, m := range documentedCommand.FindAllStringSubmatch(text, -1) {
			check(file, m[1], m[2])
		}
		for _, m := range documentedFile.FindAllStringSubmatch(text, -1) {
			check(file, m[1], "")
		}
		for _, m := range documentedGo.FindAllStringSubmatch(text, -1) {
			check(file, m[1], m[2])
		}
		for _, m := range documentedLine.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "…") {
				continue
			}
			e, err := client.DecodeLine([]byte(m[1]), client.LineOptions{})
			if err != nil {
				t.Errorf("%s: %v: %s", file, err, m[1])
				continue
			}
			check(file, e.Kind, string(e.Payload))
		}
	}
	if found < 10 {
		t.Errorf("%d events found: the expressions are out of date", found)
	}
}
