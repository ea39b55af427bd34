package membership

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite golden files")

// Inputs are testdata/plan/*.json, outputs stand beside them.
func TestPlan(t *testing.T) {
	inputs, err := filepath.Glob("testdata/plan/*.json")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, name := range inputs {
		t.Run(filepath.Base(name), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var in PlanInput
			d := json.NewDecoder(bytes.NewReader(data))
			d.DisallowUnknownFields()
			if err := d.Decode(&in); err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(Plan(in), "", " ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			golden := strings.TrimSuffix(name, ".json") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("plan differs (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever the input: at most one change, only by a leader, never one that
// leaves less than a quorum that raft hears, and never by gossip alone.
func TestPlanIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(10_000, 0)
		second := rapid.Map(rapid.IntRange(-1, 120), func(s int) time.Duration { return time.Duration(s) * time.Second })
		in := PlanInput{Now: now, Self: "s0", LeaderSince: now.Add(-time.Hour), GossipSince: now.Add(-time.Hour), Policy: DefaultPolicy()}
		in.Policy.MinVoters = rapid.IntRange(0, 4).Draw(t, "min")
		if rapid.Bool().Draw(t, "follower") {
			in.LeaderSince = time.Time{}
		}
		var nodes []string
		for i := range rapid.IntRange(1, 6).Draw(t, "servers") {
			id := string(rune('0' + i))
			nodes = append(nodes, "n"+id)
			in.Servers = append(in.Servers, Server{ServerID: "s" + id, NodeID: "n" + id, Voter: i == 0 || rapid.Bool().Draw(t, "voter"), Contact: second.Draw(t, "contact")})
			if rapid.Bool().Draw(t, "heard of") {
				state := rapid.SampledFrom([]GossipState{GossipAlive, GossipDead, GossipLeft}).Draw(t, "state")
				in.Gossip = append(in.Gossip, GossipMember{NodeID: "n" + id, State: state, Since: now.Add(-second.Draw(t, "since"))})
			}
		}
		in.Full = rapid.MapOf(rapid.SampledFrom(nodes), rapid.IntRange(1, 6)).Draw(t, "full")
		pick := rapid.SliceOf(rapid.SampledFrom(append(nodes, "n8", "n9")))
		in.Removed = pick.Draw(t, "removed")
		for _, n := range pick.Draw(t, "removals") {
			in.Removals = append(in.Removals, Removal{NodeID: n, Reason: "operator"})
		}
		for _, n := range pick.Draw(t, "joins") {
			in.Joins = append(in.Joins, Member{NodeID: n, ServerID: "s" + n[1:] + rapid.SampledFrom([]string{"", "b"}).Draw(t, "incarnation")})
		}
		changes := 0
		actions := Plan(in)
		for _, a := range actions {
			switch a.Do {
			case DoAdd, DoTransfer:
				changes++
			case DoRemove:
				changes++
				checkRemoval(t, in, a.ServerID)
			}
		}
		if changes > 1 || in.LeaderSince.IsZero() && len(actions) > 0 {
			t.Fatalf("plan %+v", actions)
		}
		for _, s := range in.Servers {
			if a, ok := MayRemoveDead(in, s.ServerID); ok {
				checkRemoval(t, in, a.ServerID)
				if healthy := healthyBeside(in, s); healthy < in.Full[s.NodeID] || in.Full[s.NodeID] == 0 {
					t.Fatalf("removes %+v while %d voters are healthy, there were %d", s, healthy, in.Full[s.NodeID])
				}
				if !s.Voter || in.LeaderSince.IsZero() || silence(in, s) < in.Policy.FailedAfter {
					t.Fatalf("removes %+v", s)
				}
				for _, g := range in.Gossip {
					if g.NodeID == s.NodeID && (g.State == GossipAlive || now.Sub(g.Since) < in.Policy.FailedAfter) {
						t.Fatalf("removes %+v against gossip %+v", s, g)
					}
				}
			}
		}
	})
}

func checkRemoval(t *rapid.T, in PlanInput, serverID string) {
	rest, heard := 0, 0
	for _, s := range in.Servers {
		if s.ServerID == serverID {
			if s.ServerID == in.Self {
				t.Fatalf("the leader removes itself")
			}
			if !s.Voter {
				return
			}
			continue
		}
		if s.Voter {
			rest++
			if s.ServerID == in.Self || s.Contact >= 0 && s.Contact <= in.Policy.LastContact {
				heard++
			}
		}
	}
	if heard <= rest/2 {
		t.Fatalf("removal of %s leaves %d of %d voters", serverID, heard, rest)
	}
}

// healthyBeside is how many voters but s raft hears.
func healthyBeside(in PlanInput, s Server) (n int) {
	for _, o := range in.Servers {
		if o.Voter && o.ServerID != s.ServerID && silence(in, o) <= in.Policy.LastContact {
			n++
		}
	}
	return n
}

// TestDeadVoterIsReplaced: a dead voter goes once another has taken its place, and
// not because the rest bears as many failures without it: it may only be restarting.
func TestDeadVoterIsReplaced(t *testing.T) {
	for _, tc := range []struct {
		name                string
		voters, dead, full  int
		notNoted, wantsGone bool
	}{
		{name: "one of three", voters: 3, dead: 1, full: 3},
		{name: "one of three, a fourth took its place", voters: 4, dead: 1, full: 3, wantsGone: true},
		{name: "one of four", voters: 4, dead: 1, full: 4},
		{name: "one of four, a fifth took its place", voters: 5, dead: 1, full: 4, wantsGone: true},
		{name: "one of six", voters: 6, dead: 1, full: 6},
		{name: "two of five, one replaced", voters: 6, dead: 2, full: 5},
		{name: "two of five, both replaced", voters: 7, dead: 2, full: 5, wantsGone: true},
		{name: "one of two, a third came: below the least", voters: 3, dead: 1, full: 2},
		{name: "not noted yet", voters: 4, dead: 1, full: 3, notNoted: true},
	} {
		now := time.Unix(1e6, 0)
		in := PlanInput{
			Now: now, Self: "s0", LeaderSince: now.Add(-time.Hour), GossipSince: now.Add(-time.Hour), Policy: DefaultPolicy(),
			Full: map[string]int{},
		}
		for i := range tc.voters {
			s := Server{ServerID: "s" + string(rune('0'+i)), NodeID: "n" + string(rune('0'+i)), Voter: true}
			if i >= tc.voters-tc.dead {
				s.Contact = time.Hour
				if !tc.notNoted {
					in.Full[s.NodeID] = tc.full
				}
			}
			in.Servers = append(in.Servers, s)
		}
		if _, gone := MayRemoveDead(in, in.Servers[tc.voters-1].ServerID); gone != tc.wantsGone {
			t.Errorf("%s: goes %v", tc.name, gone)
		}
	}
}
