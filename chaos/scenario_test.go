package chaos_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chaos"
)

func TestBuiltInScenarios(t *testing.T) {
	names, err := chaos.Scenarios()
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		s, err := chaos.LoadScenario(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := s.Schedule(1); err != nil || s.Title == "" {
			t.Errorf("%s: %q, %v", name, s.Title, err)
		}
	}
}

// TestScenariosRefused: what can't happen is refused when it is read, by the field's name.
func TestScenariosRefused(t *testing.T) {
	for text, want := range map[string]string{
		`steps: [{at: 1s, do: partition n1 n9}]`:                    `steps[0].do: partition n1 n9: of 5 nodes there is no n9`,
		`steps: [{at: 1s, do: kill leader}, {at: 1s, do: kill n6}]`: `steps[1].do: kill n6: of 5 nodes there is no n6`,
		`steps: [{at: 9s, do: join}, {at: 9s, do: kill n6}]`:        `there is no n6`,
		`steps: [{at: 1s, do: join}, {at: 30s, do: kill n7}]`:       `of 6 nodes there is no n7`,
		`steps: [{at: 1s, do: kill laeder}]`:                        `"laeder" is neither a node`,
		`steps: [{at: 1s, do: kill n01}]`:                           `"n01" is neither a node`,
		`{nodes: 2, steps: [{at: 1s, do: pause minority}]}`:         `of 2 nodes there is no minority`,
		`{nodes: 1, steps: [{at: 1s, do: transfer}]}`:               `of 1 node there is no follower`,
		`{nodes: 1, steps: [{at: 1s, do: slow all 5ms}]}`:           `slow is between nodes`,
		`steps: [{at: 99m, do: kill leader}]`:                       `steps[0].at is 1h39m0s, which never comes: length is 1m0s`,
		`steps: [{at: 60s, do: kill leader}]`:                       `steps[0].at`,
		`{nodes: 1, random: {faults: [partition]}}`:                 `random.faults: with 1 node there is no partition, which takes at least 2`,
		`limits: {least: {foo: 1}}`:                                 `limits.least: "foo" is none of append, head, lookup, get, checkpoint, member`,
		`limits: {least: {append: -1}}`:                             `limits.least`,
		`limits: {by_kind: {foo: {silence: 1s}}}`:                   `limits.by_kind: "foo" is none of calm, clock, crash`,
		`limits: {by_kind: {replace: {silence: 1s}}}`:               `limits.by_kind: "replace" is none of`,
		`limits: {overall: {rate: -1}}`:                             `limits: rate`,
		`limits: {replicas: -1}`:                                    `limits.replicas`,
		`limits: {lest: {append: 1}}`:                               `lest`,
	} {
		if _, err := chaos.ParseScenario([]byte(text)); !errors.Is(err, chaos.ErrScenario) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n is %v\n want %s", text, err, want)
		}
	}
	for _, text := range []string{
		`steps: [{at: 1s, do: join}, {at: 30s, do: kill n6}]`,
		`steps: [{at: 1s, every: 20s, do: replace any}, {at: 50s, do: kill n8}]`,
		`steps: [{at: 1s, every: 20s, do: kill n6}, {at: 10s, do: join}]`,
		`{random: {faults: [members]}, steps: [{at: 50s, do: kill n7}]}`,
		`{nodes: 1, random: {faults: [kill, disk, members]}}`,
		`limits: {by_kind: {members: {silence: 1s}, heal: {rate: 1}, calm: {rate: 9}, restart: {rate: 1}, kill: {rate: 1}}}`,
	} {
		if _, err := chaos.ParseScenario([]byte(text)); err != nil {
			t.Errorf("%s is refused: %v", text, err)
		}
	}
}

// TestFewNodes: what comes by chance can be done with the nodes that there are.
func TestFewNodes(t *testing.T) {
	for nodes, never := range map[int]string{1: "partition oneway isolate slow drop reorder throttle transfer follower minority", 2: "minority"} {
		s := &chaos.Scenario{Nodes: nodes, Length: time.Hour, Random: &chaos.Random{Every: 100 * time.Millisecond}}
		plan, err := s.Schedule(7)
		if err != nil || len(plan) < 1000 {
			t.Fatal(len(plan), err)
		}
		for _, p := range plan {
			for _, word := range append(slices.Concat(p.Groups...), p.Verb) {
				if strings.Contains(" "+never+" ", " "+word+" ") {
					t.Fatalf("with %d nodes: %s", nodes, p.Action)
				}
			}
		}
	}
}

func TestSetLength(t *testing.T) {
	s, err := chaos.ParseScenario([]byte(`{length: 1m, steps: [{at: 5s, do: kill any}, {at: 20s, do: kill any}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if dropped := s.SetLength(10 * time.Second); dropped != 1 || len(s.Steps) != 1 || s.Validate() != nil {
		t.Errorf("%d steps dropped, %v left, %v", dropped, s.Steps, s.Validate())
	}
	if dropped := s.SetLength(time.Second); dropped != 1 || s.Breaks() {
		t.Errorf("%d steps dropped, %v left", dropped, s.Steps)
	}
}

func FuzzParseScenario(f *testing.F) {
	f.Add([]byte(`{nodes: 3, length: 10s, steps: [{at: 1s, every: 2s, do: "partition n1 n2,n3", for: 1s}], limits: {least: {append: 1}}}`))
	f.Add([]byte(`{nodes: 1, random: {faults: [kill, members], every: 5s}}`))
	f.Add([]byte(`limits: {by_kind: {foo: {rate: 1}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := chaos.ParseScenario(b)
		if err != nil || s.Length > time.Hour {
			return
		}
		plan, err := s.Schedule(1)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range plan {
			if p.At < 0 || p.At >= s.Length {
				t.Errorf("%s comes at %v of %v", p.Action, p.At, s.Length)
			}
		}
	})
}
