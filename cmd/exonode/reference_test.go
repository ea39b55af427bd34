package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/CLI.md anew")

const referenceHead = `# Command line

<!-- Written from the program's own help by "go test ./cmd/exonode -run TestReference -update". -->

Every command prints text for people and, with ` + "`-o json`" + `, JSON for programs;
lists and streams print one object a line. Results go to standard output, notes,
progress and errors to standard error. An error says what is wrong, its code in
parentheses, and what to do next; with ` + "`-o json`" + ` it is
` + "`{\"error\":{\"code\":…,\"message\":…,\"hint\":…,\"field\":…}}`" + `.

## Exit status

| status | meaning |
| --- | --- |
| 0 | success |
| 1 | the command failed, or what it checked is wrong |
| 2 | the command line or the configuration is wrong |
| 3 | a node's store failed; the process ended at once |

## Error codes

Beside the codes of the API ([docs/API.md](API.md)):

| code | meaning |
| --- | --- |
%CODES%
## Settings

A flag marked *setting* may also come from the environment or from a YAML file:
` + "`--api-listen`" + ` is ` + "`EXONODE_API_LISTEN`" + ` there and ` + "`api-listen:`" + ` here. Flags win over the
environment, the environment over the file. The file is the one that ` + "`--config`" + `
names, else ` + "`exonode/config.yaml`" + ` in the user's configuration directory, where
there is one. One file may hold the settings of several commands; a key that is
no command's setting is refused. Flags without the mark say what one command is
about and are taken from the command line alone.

## Completion

` + "`exonode completion bash`" + ` (or zsh, fish, powershell) prints a script that completes
commands, flags, kinds, gates and the names of nodes; its ` + "`--help`" + ` says how to load it.
`

// TestReference holds docs/CLI.md against the commands.
func TestReference(t *testing.T) {
	root := (&app{}).command()
	var b strings.Builder
	var table strings.Builder
	for _, c := range slices.Sorted(maps.Keys(meanings)) {
		fmt.Fprintf(&table, "| `%s` | %s |\n", c, meanings[c])
	}
	b.WriteString(strings.Replace(referenceHead, "%CODES%", table.String(), 1))
	b.WriteString("\n## Flags of every command\n\n")
	flagTable(&b, root.PersistentFlags())
	describe(&b, root)
	path := filepath.Join("..", "..", "docs", "CLI.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("docs/CLI.md is stale; write it anew with -update:\n%s", diff)
	}
}

// TestCodesHaveMeanings finds codes that no one documents.
func TestCodesHaveMeanings(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[code]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); ok && typ.Name == "code" {
			for _, v := range spec.Values {
				name, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				declared[code(name)] = true
			}
		}
		return true
	})
	documented := map[code]bool{}
	for c := range meanings {
		documented[c] = true
	}
	if diff := cmp.Diff(declared, documented); diff != "" || len(declared) == 0 {
		t.Errorf("codes without a meaning, or meanings without a code:\n%s", diff)
	}
}

// describe writes the sections of a command's subcommands.
func describe(b *strings.Builder, parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
		text := c.Long
		if text == "" {
			text = c.Short + "."
		}
		fmt.Fprintf(b, "%s\n", text)
		if !c.HasSubCommands() {
			fmt.Fprintf(b, "\n```\n%s\n```\n", c.UseLine())
		}
		if c.Example != "" {
			fmt.Fprintf(b, "\nExamples:\n\n```\n%s\n```\n", strings.ReplaceAll(strings.TrimPrefix(c.Example, "  "), "\n  ", "\n"))
		}
		if flags := c.LocalNonPersistentFlags(); flags.HasAvailableFlags() {
			b.WriteString("\n")
			flagTable(b, flags)
		}
		describe(b, c)
	}
}

func flagTable(b *strings.Builder, flags *pflag.FlagSet) {
	b.WriteString("| flag | what | default | |\n| --- | --- | --- | --- |\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if kind != "" {
			name += " " + kind
		}
		value := ""
		if !slices.Contains([]string{"", "false", "[]"}, f.DefValue) {
			value = "`" + f.DefValue + "`"
		}
		setting := ""
		if !isOperand(f) && f.Name != "config" {
			setting = "setting"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", name, strings.ReplaceAll(usage, "|", "\\|"), value, setting)
	})
}
