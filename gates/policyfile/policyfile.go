// Package policyfile reads the form of a policy that people write: a YAML
// document. The command line reads files with it; what goes into the chain is
// gates' own canonical form.
//
// A document names an environment and what differs from its built-in values:
//
//	environment: production        # development, staging or production
//	elevate:                       # one number for all, or all five
//	  {risk: 0.5, fairness: 0.5, privacy: 0.4, novelty: 0.5, security: 0.6}
//	norm: 0.75
//	reject: 0.75
//	unknown_kinds: refuse          # or accept
//	overrides:                     # added to the built-in ones; one with the
//	  - gate: tool.execute         # same gate, or workspace and kind, replaces
//	    elevate: 0.2
//	  - workspace: payments        # no workspace: in all of them
//	    kind: shell.exec
//	    at_least: escalate         # or warn, or deny
//
// Numbers have at most four decimals. The names rules, approvals, separation
// and read_logging are reserved and may only be empty. All problems are
// reported at once, each with its line.
package policyfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/exonode/exonode/gates"
)

// MaxSize is the most bytes that a document may have.
const MaxSize = 1 << 20

// Problem is one thing that is wrong with a document.
type Problem struct {
	// Line counts from 1; 0 is unknown.
	Line int
	// Path names the field ("overrides[2].norm"); "" is the document.
	Path string
	Text string
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	return b.String() + p.Text
}

// Error is all that is wrong with a document, in the order of its lines.
type Error struct{ Problems []Problem }

// Error implements error, one problem a line.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return "policy: " + strings.Join(lines, "\npolicy: ")
}

// Parse reads a policy. The error is an *Error.
func Parse(text []byte) (gates.Policy, error) {
	if len(text) > MaxSize {
		return gates.Policy{}, &Error{[]Problem{{Text: fmt.Sprintf("%d bytes, at most %d", len(text), MaxSize)}}}
	}
	root, err := document(text)
	if err != nil {
		return gates.Policy{}, &Error{[]Problem{{Text: err.Error()}}}
	}
	r := &reader{}
	p := r.policy(root)
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return a.Line - b.Line })
		return gates.Policy{}, &Error{r.problems}
	}
	if err := p.Check(); err != nil {
		return gates.Policy{}, &Error{[]Problem{{Text: err.Error()}}}
	}
	return p, nil
}

// document returns the root of the one document in text.
func document(text []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("the document is empty")
	case err != nil:
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	return doc.Content[0], nil
}

// A reader walks over a document and gathers what is wrong with it.
type reader struct{ problems []Problem }

func (r *reader) problem(n *yaml.Node, path, format string, args ...any) {
	r.problems = append(r.problems, Problem{Line: n.Line, Path: path, Text: fmt.Sprintf(format, args...)})
}

func (r *reader) policy(root *yaml.Node) gates.Policy {
	m := r.mapping(root, "", "version", "environment", "elevate", "norm", "reject", "unknown_kinds", "overrides",
		"rules", "approvals", "separation", "read_logging")
	if n, ok := m["version"]; ok && n.Value != strconv.Itoa(gates.PolicyVersion) {
		r.problem(n, "version", "want %d", gates.PolicyVersion)
	}
	var p gates.Policy
	if n, ok := m["environment"]; !ok {
		r.problem(root, "environment", "missing: want development, staging or production")
	} else {
		var err error
		if p, err = gates.BuiltIn(gates.Environment(r.text(n, "environment"))); err != nil {
			r.problem(n, "environment", "want development, staging or production")
		}
	}
	if n, ok := m["elevate"]; ok {
		p.Elevate = r.effect(n, "elevate")
	}
	if n, ok := m["norm"]; ok {
		p.Norm = r.decimal(n, "norm", gates.MaxNorm)
	}
	if n, ok := m["reject"]; ok {
		p.Reject = r.effect(n, "reject")
	}
	if n, ok := m["unknown_kinds"]; ok {
		p.UnknownKinds = gates.UnknownKinds(r.text(n, "unknown_kinds"))
		if p.UnknownKinds != gates.AcceptUnknown && p.UnknownKinds != gates.RefuseUnknown {
			r.problem(n, "unknown_kinds", "want accept or refuse")
		}
	}
	if n, ok := m["overrides"]; ok {
		p.Overrides = r.overrides(n, p.Overrides)
	}
	for _, name := range []string{"rules", "approvals", "separation", "read_logging"} {
		if n, ok := m[name]; ok && (n.Kind == yaml.ScalarNode && n.Tag != "!!null" || len(n.Content) > 0) {
			r.problem(n, name, "not supported by this version")
		}
	}
	return p
}

// overrides reads a sequence of overrides and merges it into base.
func (r *reader) overrides(n *yaml.Node, base []gates.Override) []gates.Override {
	if n.Kind != yaml.SequenceNode {
		r.problem(n, "overrides", "want a sequence")
		return nil
	}
	var own []gates.Override
	for i, item := range n.Content {
		path := fmt.Sprintf("overrides[%d]", i)
		before := len(r.problems)
		o := r.override(item, path)
		if len(r.problems) > before {
			continue
		}
		if err := o.Check(); err != nil {
			r.problem(item, path, "%v", err)
			continue
		}
		at, found := slices.BinarySearchFunc(own, o, gates.CompareOverrides)
		if found {
			r.problem(item, path, "selects the same as an earlier one")
			continue
		}
		own = slices.Insert(own, at, o)
	}
	merged := slices.Clone(base)
	for _, o := range own {
		at, found := slices.BinarySearchFunc(merged, o, gates.CompareOverrides)
		if found {
			merged[at] = o
		} else {
			merged = slices.Insert(merged, at, o)
		}
	}
	return merged
}

func (r *reader) override(n *yaml.Node, path string) gates.Override {
	m := r.mapping(n, path, "gate", "workspace", "kind", "elevate", "norm", "reject", "at_least")
	var o gates.Override
	if n, ok := m["gate"]; ok {
		o.Gate = r.text(n, path+".gate")
	}
	if n, ok := m["workspace"]; ok {
		o.Workspace = r.text(n, path+".workspace")
	}
	if n, ok := m["kind"]; ok {
		o.Kind = r.text(n, path+".kind")
	}
	if n, ok := m["elevate"]; ok {
		e := r.effect(n, path+".elevate")
		o.Elevate = &e
	}
	if n, ok := m["norm"]; ok {
		v := r.decimal(n, path+".norm", gates.MaxNorm)
		o.Norm = &v
	}
	if n, ok := m["reject"]; ok {
		e := r.effect(n, path+".reject")
		o.Reject = &e
	}
	if n, ok := m["at_least"]; ok {
		var err error
		if o.AtLeast, err = gates.ParseAtLeast(r.text(n, path+".at_least")); err != nil {
			r.problem(n, path+".at_least", "want warn, escalate or deny")
		}
	}
	return o
}

// effect reads one number for all dimensions, or a mapping of all five.
func (r *reader) effect(n *yaml.Node, path string) (e gates.Effect) {
	names := gates.Dimensions()
	if n.Kind == yaml.ScalarNode {
		v := r.decimal(n, path, gates.Scale)
		for i := range e {
			e[i] = v
		}
		return e
	}
	m := r.mapping(n, path, names[:]...)
	for i, name := range names {
		v, ok := m[name]
		if !ok {
			if n.Kind == yaml.MappingNode {
				r.problem(n, path+"."+name, "missing: give one number, or all of %s", strings.Join(names[:], ", "))
			}
			continue
		}
		e[i] = r.decimal(v, path+"."+name, gates.Scale)
	}
	return e
}

// mapping returns a mapping's values by key and reports keys that are unknown
// or come twice.
func (r *reader) mapping(n *yaml.Node, path string, known ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		r.problem(n, path, "want a mapping")
		return nil
	}
	m := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := key.Value
		if path != "" {
			name = path + "." + name
		}
		_, twice := m[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode || !slices.Contains(known, key.Value):
			r.problem(key, name, "unknown field: want one of %s", strings.Join(known, ", "))
		case twice:
			r.problem(key, name, "comes twice")
		case value.Kind == yaml.AliasNode || value.Anchor != "":
			r.problem(value, name, "anchors and aliases are not allowed")
		default:
			m[key.Value] = value
		}
	}
	return m
}

func (r *reader) text(n *yaml.Node, path string) string {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		r.problem(n, path, "want a text")
		return ""
	}
	return n.Value
}

func (r *reader) decimal(n *yaml.Node, path string, limit uint16) uint16 {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!int" && n.Tag != "!!float" {
		r.problem(n, path, "want a number")
		return 0
	}
	v, err := gates.ParseDecimal(n.Value, limit)
	if err != nil {
		r.problem(n, path, "%v", err)
	}
	return v
}
