// Package arch holds the rules about the whole tree: who may import whom.
package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/exonode/exonode/"

// may says which top-level packages a top-level package may import, besides
// itself and what those may import. What is missing here may import nothing of
// ours. docs/ARCHITECTURE.md draws it.
var may = map[string][]string{
	"cmd":        {"node", "client", "chaos", "bench"},
	"scripts":    {"client", "chaos"},
	"examples":   {"client"},
	"bench":      {"client", "chaos"},
	"node":       {"fsm", "ledger", "transport", "discovery", "membership", "server", "outbox", "faults"},
	"server":     {"api", "chain", "catalog", "internal"},
	"client":     {"api", "chain", "catalog", "outbox"},
	"api":        {"chain"},
	"chaos":      {"client", "faults"},
	"fsm":        {"chain", "gates", "catalog", "internal"},
	"ledger":     {"chain"},
	"gates":      {"catalog"},
	"membership": {"chain"},
	"transport":  {"chain"},
	"chain":      nil,
	"catalog":    nil,
	"discovery":  nil,
	"outbox":     nil,
	"faults":     nil,
	"internal":   nil,
	// Tests may use everything.
	"test": {"cmd", "bench", "scripts"},
}

// foreign says which top-level packages alone may import a dependency.
var foreign = map[string][]string{
	"google.golang.org/protobuf":          {"api", "server", "client"},
	"connectrpc.com":                      {"api", "server", "client", "bench"},
	"github.com/hashicorp/raft":           {"fsm", "node", "transport", "membership", "bench"},
	"github.com/hashicorp/memberlist":     {"membership"},
	"github.com/cockroachdb/pebble":       {"ledger"},
	"github.com/spf13/cobra":              {"cmd"},
	"github.com/hashicorp/raft-wal":       {"node", "bench"},
	"github.com/hashicorp/raft-boltdb":    {"node"},
	"github.com/prometheus/client_golang": {"server", "node"},
	"github.com/anishathalye/porcupine":   {"chaos"},
}

// pure packages are functions of their arguments: no clock, no randomness, no
// I/O, and they compile to WebAssembly.
var pure = []string{"chain", "gates"}

var impure = []string{"os", "net", "net/http", "math/rand", "math/rand/v2", "crypto/rand", "syscall", "os/exec", "io/ioutil"}

type listed struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", module+"...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []listed
	for d := json.NewDecoder(out); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("go list names %d packages: something is wrong", len(all))
	}
	return all
}

// top returns the top-level directory of one of our packages.
func top(path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, module)
	if !ok {
		return "", false
	}
	dir, _, _ := strings.Cut(rest, "/")
	return dir, true
}

// reach is everything that a top-level package may import of ours.
func reach(from string) map[string]bool {
	seen := map[string]bool{from: true}
	queue := []string{from}
	for len(queue) > 0 {
		for _, next := range may[queue[0]] {
			if !seen[next] {
				seen[next] = true
				queue = append(queue, next)
			}
		}
		queue = queue[1:]
	}
	return seen
}

func TestImports(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := top(p.ImportPath)
		allowed := reach(from)
		for _, imported := range p.Imports {
			if to, ours := top(imported); ours && !allowed[to] {
				t.Errorf("%s imports %s: %s may import %v", p.ImportPath, imported, from, may[from])
			}
			for dependency, users := range foreign {
				if (imported == dependency || strings.HasPrefix(imported, dependency+"/")) && from != "test" && !slices.Contains(users, from) {
					t.Errorf("%s imports %s, which is for %v alone", p.ImportPath, imported, users)
				}
			}
		}
	}
}

// TestBrowser holds what is for browsers, which the other tests don't see since it is built
// for them alone, to the chain.
func TestBrowser(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", module+"client/web/wasm")
	cmd.Env = append(cmd.Environ(), "GOOS=js", "GOARCH=wasm")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var chain int
	for path := range strings.FieldsSeq(string(out)) {
		to, ours := top(path)
		switch {
		case to == "chain":
			chain++
		case ours && path != module+"client/web/wasm":
			t.Errorf("client/web/wasm needs %s: it may import chain alone", path)
		case slices.Contains([]string{"net", "net/http"}, path):
			t.Errorf("client/web/wasm needs %s: exonode.js fetches", path)
		}
	}
	if chain == 0 {
		t.Error("client/web/wasm needs no package of chain: something is wrong")
	}
}

func TestPure(t *testing.T) {
	for _, p := range packages(t) {
		from, _ := top(p.ImportPath)
		if !slices.Contains(pure, from) || strings.Contains(p.ImportPath, "/internal/") {
			continue
		}
		for _, imported := range p.Imports {
			if slices.Contains(impure, imported) {
				t.Errorf("%s imports %s, and is to be pure", p.ImportPath, imported)
			}
		}
	}
}
