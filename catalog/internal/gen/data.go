package main

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A gate is one row of gates.tsv.
type gate struct {
	name    string
	effect  [5]uint16 // ten-thousandths
	purpose string
}

// A kind is one row of kinds.tsv.
type kind struct {
	name, subsystem, item, gate string
	version                     uint64
	fields                      []field
}

// A field is one element of a kind's payload column: name:type, where type is
// a JSON type, array[type] for an array whose elements are checked too, and a
// trailing "?" marks what may be absent.
type field struct {
	name, typ, elem string
	optional        bool
}

var (
	gateColumns = []string{"gate", "risk", "fairness", "privacy", "novelty", "security", "purpose"}
	kindColumns = []string{"kind", "version", "subsystem", "item", "gate", "payload"}

	namePattern  = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$`)
	fieldPattern = regexp.MustCompile(`^([a-z][a-z0-9_]*):(string|integer|number|boolean|object|array)(?:\[(string|integer|number|boolean|object)\])?(\?)?$`)
)

// maxFields is how many fields a kind may have: validation keeps one bit each.
const maxFields = 64

func parseGates(tsv []byte) ([]gate, error) {
	rows, err := table("gates.tsv", tsv, gateColumns)
	if err != nil {
		return nil, err
	}
	var gates []gate
	for i, row := range rows {
		g := gate{name: row[0], purpose: row[6]}
		if !namePattern.MatchString(g.name) {
			return nil, fmt.Errorf("gates.tsv:%d: bad gate name %q", i+2, g.name)
		}
		for d := range g.effect {
			if g.effect[d], err = tenThousandths(row[1+d]); err != nil {
				return nil, fmt.Errorf("gates.tsv:%d: %s: %w", i+2, gateColumns[1+d], err)
			}
		}
		gates = append(gates, g)
	}
	return gates, sortUnique("gates.tsv", gates, func(g gate) string { return g.name })
}

func parseKinds(tsv []byte, gates []gate) ([]kind, error) {
	rows, err := table("kinds.tsv", tsv, kindColumns)
	if err != nil {
		return nil, err
	}
	var kinds []kind
	for i, row := range rows {
		k, err := parseKind(row)
		if err != nil {
			return nil, fmt.Errorf("kinds.tsv:%d: %w", i+2, err)
		}
		known := func(g gate) bool { return g.name == k.gate }
		if k.gate != "" && !slices.ContainsFunc(gates, known) {
			return nil, fmt.Errorf("kinds.tsv:%d: unknown gate %q", i+2, k.gate)
		}
		kinds = append(kinds, k)
	}
	return kinds, sortUnique("kinds.tsv", kinds, func(k kind) string { return k.name })
}

func parseKind(row []string) (kind, error) {
	k := kind{name: row[0], subsystem: row[2], item: row[3], gate: row[4]}
	if !namePattern.MatchString(k.name) {
		return kind{}, fmt.Errorf("bad kind name %q", k.name)
	}
	var err error
	if k.version, err = strconv.ParseUint(row[1], 10, 32); err != nil || k.version == 0 {
		return kind{}, fmt.Errorf("bad version %q", row[1])
	}
	seen := map[string]bool{}
	for f := range strings.SplitSeq(row[5], ",") {
		m := fieldPattern.FindStringSubmatch(f)
		if m == nil || m[3] != "" && m[2] != "array" {
			return kind{}, fmt.Errorf("bad field %q", f)
		}
		if seen[m[1]] {
			return kind{}, fmt.Errorf("field %q twice", m[1])
		}
		seen[m[1]] = true
		k.fields = append(k.fields, field{name: m[1], typ: m[2], elem: m[3], optional: m[4] != ""})
	}
	if len(k.fields) > maxFields {
		return kind{}, fmt.Errorf("%d fields, at most %d", len(k.fields), maxFields)
	}
	return k, nil
}

// table splits a TSV file with a header line into its rows.
func table(name string, tsv []byte, columns []string) ([][]string, error) {
	text, ok := strings.CutSuffix(string(tsv), "\n")
	if !ok {
		return nil, fmt.Errorf("%s: no newline at its end", name)
	}
	lines := strings.Split(text, "\n")
	if lines[0] != strings.Join(columns, "\t") {
		return nil, fmt.Errorf("%s:1: want the columns %q", name, columns)
	}
	var rows [][]string
	for i, line := range lines[1:] {
		row := strings.Split(line, "\t")
		if len(row) != len(columns) {
			return nil, fmt.Errorf("%s:%d: %d columns, want %d", name, i+2, len(row), len(columns))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

func sortUnique[T any](file string, list []T, name func(T) string) error {
	slices.SortFunc(list, func(a, b T) int { return strings.Compare(name(a), name(b)) })
	for i := 1; i < len(list); i++ {
		if name(list[i-1]) == name(list[i]) {
			return fmt.Errorf("%s: %q twice", file, name(list[i]))
		}
	}
	return nil
}

// tenThousandths reads a decimal of 0 to 1 with at most four places exactly.
func tenThousandths(s string) (uint16, error) {
	whole, frac, _ := strings.Cut(s, ".")
	if len(whole) != 1 || len(frac) > 4 {
		return 0, fmt.Errorf("%q is not a decimal of 0 to 1 with at most four places", s)
	}
	n, err := strconv.ParseUint(whole+frac+strings.Repeat("0", 4-len(frac)), 10, 16)
	if err != nil || n > 10_000 {
		return 0, fmt.Errorf("%q is not a decimal of 0 to 1 with at most four places", s)
	}
	return uint16(n), nil
}
