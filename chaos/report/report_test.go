package report_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/net/html"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/report"
)

var (
	update = flag.Bool("update", false, "write the golden files anew")
	look   = flag.String("look", "", "write reports to look at into this directory")
)

func render(t testing.TB, r *history.Result) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func asJSON(t testing.TB, r *history.Result) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := report.JSON(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestLook writes what a person looks at: go test -run Look -look /tmp/reports
func TestLook(t *testing.T) {
	if *look == "" {
		t.Skip("no -look")
	}
	held := makeUp(plan{nodes: 5, faults: 40, ops: 200_000, length: 3 * time.Minute, seed: 7})
	failed := makeUp(plan{nodes: 3, faults: 5, ops: 20_000, length: 20 * time.Second, seed: 8})
	broken := makeUp(plan{nodes: 5, faults: 40, ops: 200_000, length: 3 * time.Minute, seed: 9})
	breakIt(broken)
	large := makeUp(plan{nodes: 15, faults: 120, ops: 200_000, length: 90 * time.Minute, seed: 10})
	for name, r := range map[string]*history.Result{"held": held, "short": failed, "broken": broken, "large": large, "empty": {}} {
		for ext, b := range map[string][]byte{"html": []byte(render(t, r)), "json": asJSON(t, r)} {
			if err := os.WriteFile(filepath.Join(*look, name+"."+ext), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fmt.Println(report.Line(r))
	}
}

// small is a run that a person can check by hand.
func small() *history.Result {
	const s, ms = time.Second, time.Millisecond
	key := func(id string) chain.Key { return chain.Key{Workspace: "lab", Source: "c1", ID: id} }
	nodes := func(leader string, term uint64, down string) []history.NodeSample {
		var list []history.NodeSample
		for _, n := range []string{"n1", "n2", "n3"} {
			list = append(list, history.NodeSample{Name: n, Up: n != down, Answered: n != down, Leads: n == leader, Term: term, Applied: 10 * term})
		}
		return list
	}
	split := map[string][]string{"n1": {"n2", "n3"}, "n2": {"n1"}, "n3": {"n1"}}
	h := &history.History{
		Length: 10 * s,
		Ops: []history.Op{
			{Client: 1, Node: "n1", Kind: history.Append, Call: 500 * ms, Return: 504 * ms, Outcome: history.OK, Key: key("1"), Sequence: 1},
			{Client: 1, Node: "n2", Kind: history.Append, Call: 1 * s, Return: 1008 * ms, Outcome: history.OK, Key: key("2"), Sequence: 2},
			{Client: 1, Node: "n1", Kind: history.Append, Call: 2100 * ms, Return: 4100 * ms, Outcome: history.Unknown, Code: "deadline_exceeded", Key: key("3")},
			{Client: 2, Node: "n2", Kind: history.Append, Stream: true, Call: 3 * s, Return: 3900 * ms, Outcome: history.OK, Key: key("4"), Sequence: 3},
			{Client: 1, Node: "n2", Kind: history.Append, Call: 4200 * ms, Return: 4206 * ms, Outcome: history.OK, Key: key("3"), Sequence: 4, Duplicate: true},
			{Client: 3, Node: "n3", Kind: history.Append, Call: 6500 * ms, Return: 6501 * ms, Outcome: history.Failed, Code: "unavailable", Key: key("5")},
			{Client: 3, Node: "n1", Kind: history.Head, Consistency: history.Linearizable, Call: 7 * s, Return: 7003 * ms, Outcome: history.OK, Size: 5},
			{Client: 3, Node: "n1", Kind: history.Append, Call: 9 * s, Return: 9005 * ms, Outcome: history.OK, Key: key("5"), Sequence: 5},
		},
		Watches:    []history.Watch{{ID: 1, Until: 6}},
		Deliveries: []history.Delivery{{Watch: 1, At: s, Sequence: 1}},
		Faults: []history.Fault{
			{At: 2 * s, Kind: "partition", Text: "n1 cut from n2 and n3", Nodes: []string{"n1"}},
			{At: 5 * s, Kind: "heal", Text: "all links whole"},
			{At: 6 * s, Kind: "kill", Text: "n3 killed", Nodes: []string{"n3"}},
			{At: 8 * s, Kind: "restart", Text: "n3 started", Nodes: []string{"n3"}},
			{At: 9500 * ms, Kind: "pause", Text: "n2 stopped", Nodes: []string{"n2"}},
		},
		Samples: []history.Sample{
			{At: 0, Nodes: nodes("n1", 2, "")},
			{At: 2 * s, Nodes: nodes("n1", 2, ""), Cut: split},
			{At: 3 * s, Nodes: nodes("n2", 4, ""), Cut: split},
			{At: 5 * s, Nodes: nodes("n2", 4, "")},
			{At: 6 * s, Nodes: nodes("n2", 4, "n3")},
			{At: 8 * s, Nodes: nodes("n2", 4, "")},
		},
	}
	r := &history.Result{
		Title: "partition, kill", Command: "exonode chaos run --seed 7", Seed: 7, Version: "test", Nodes: []string{"n1", "n2", "n3"},
		Began: time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC), History: h,
		Final: &history.Final{Size: 6},
		Verdicts: []history.Verdict{
			{Name: "exactly once", Claim: "Each acknowledged event is in the chain once.", OK: true, Checked: 5, Notes: []string{"1 duplicate"}},
			{Name: "replicas", Claim: "All replicas are equal.", OK: false, Checked: 3, Evidence: []string{"n3 differs at 4", "n3 differs at 5"}},
		},
		Pictures: map[string][]byte{"window 1": []byte("<!DOCTYPE html><p>a picture</p>")},
	}
	for i, n := range r.Nodes {
		r.Final.Replicas = append(r.Final.Replicas, history.Replica{Node: n, Size: 6, Digest: chain.Hash{byte(i / 2)}, Verdicts: 6})
	}
	return r
}

func TestGolden(t *testing.T) {
	for name, got := range map[string][]byte{"small.html": []byte(render(t, small())), "small.json": asJSON(t, small())} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got; -update where it is meant):\n%s", name, diff)
		}
	}
}

func TestSummarise(t *testing.T) {
	s := report.Summarise(small())
	want := report.Counts{Acknowledged: 5, Duplicates: 1, Unknown: 1, Failed: 1, Reads: 1, Watches: 1, Deliveries: 1, Faults: 3, Elections: 1, Terms: 2, Chain: 6}
	if diff := cmp.Diff(want, s.Counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	interval := func(from, until time.Duration) report.Interval {
		return report.Interval{From: report.Seconds(from * time.Millisecond), Until: report.Seconds(until * time.Millisecond)}
	}
	if want := interval(4206, 9005); s.Longest != want {
		t.Errorf("longest without a write %v, want %v", s.Longest, want)
	}
	type fault struct {
		Interval     report.Interval
		Mended       bool
		Acknowledged int
		Longest      time.Duration
	}
	var faults []fault
	for _, f := range s.Faults {
		faults = append(faults, fault{f.Interval, f.Mended, f.Acknowledged, f.Longest.Duration()})
	}
	wantFaults := []fault{
		{interval(2000, 5000), true, 2, 4799 * time.Millisecond},
		{interval(6000, 8000), true, 0, 4799 * time.Millisecond},
		{interval(9500, 10000), false, 0, 995 * time.Millisecond},
	}
	if diff := cmp.Diff(wantFaults, faults); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
	if len(s.Cuts) != 1 || s.Cuts[0].Interval != interval(2000, 5000) || s.Cuts[0].Links != 4 {
		t.Errorf("cuts %+v, want one of four links from 2 s to 5 s", s.Cuts)
	}
	if equal := []bool{s.Replicas[0].Equal, s.Replicas[1].Equal, s.Replicas[2].Equal}; !cmp.Equal(equal, []bool{true, true, false}) {
		t.Errorf("replicas are equal: %v, want all but n3", equal)
	}
}

// What did not come to pass is no fault, and is told of; nor are nodes that joined among
// those that there were.
func TestMissed(t *testing.T) {
	r := small()
	line := report.Line(r)
	if !strings.Contains(line, " 3 nodes · ") || !strings.Contains(line, " 3 faults · ") {
		t.Errorf("where all came to pass: %s", line)
	}
	r.Joined = 1
	r.History.Missed = []history.Missed{
		{At: 4 * time.Second, Text: "kill n9", Why: "there is no <node> n9", Reason: history.NotDone},
		{At: 5 * time.Second, Text: "replace n2", Why: "another change", Reason: history.Busy},
		{At: 6 * time.Second, Text: "crash n1 before-vote", Why: "no node came there", Reason: history.NeverReached},
	}
	line = report.Line(r)
	if !strings.Contains(line, " 2 nodes (+1 joined) · ") || !strings.Contains(line, " 3 faults (2 not done, 1 crash point never reached) · ") {
		t.Error(line)
	}
	s := report.Summarise(r)
	if s.Counts.Faults != 3 || s.Counts.NotDone != 2 || s.Counts.NeverReached != 1 || len(s.Missed) != 3 {
		t.Errorf("%+v", s.Counts)
	}
	if b := asJSON(t, r); !bytes.Contains(b, []byte(`"at": 4,`)) {
		t.Error("JSON does not have the time in seconds")
	}
	page := render(t, r)
	for _, want := range []string{"faults not done", "crash points never reached", "3 faults planned that did not come to pass", "0:04.0", "there is no &lt;node&gt; n9", "2 nodes (&#43;1 joined)"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(render(t, small()), "did not come to pass") {
		t.Error("where all came to pass the page says that some did not")
	}
}

// What the series say is what the operations are, whatever the order in which they
// were recorded.
func TestSeriesAddUp(t *testing.T) {
	r := makeUp(plan{nodes: 5, faults: 12, ops: 20_000, length: 45 * time.Second, seed: 3})
	s := report.Summarise(r)
	sum := func(counts []int) (n int) {
		for _, c := range counts {
			n += c
		}
		return n
	}
	byNode := 0
	for _, counts := range s.Series.ByNode {
		byNode += sum(counts)
	}
	if n := sum(s.Series.Acknowledged); n != s.Counts.Acknowledged || n != byNode {
		t.Errorf("%d acknowledged, %d in the series, %d by node", s.Counts.Acknowledged, n, byNode)
	}
	if sum(s.Series.Unknown) != s.Counts.Unknown || sum(s.Series.Failed) != s.Counts.Failed {
		t.Errorf("%d unknown and %d failed, %d and %d in the series", s.Counts.Unknown, s.Counts.Failed, sum(s.Series.Unknown), sum(s.Series.Failed))
	}
	for i := range s.Series.P50 {
		if l := s.Series; l.P50[i] > l.P99[i] || l.P99[i] > l.Max[i] {
			t.Errorf("bucket %d: p50 %v, p99 %v, max %v", i, l.P50[i], l.P99[i], l.Max[i])
		}
	}
	// The longest time without a write, found as the definition says.
	var longest time.Duration
	ended := make(map[time.Duration]bool)
	for _, op := range r.History.Ops {
		if op.Kind == history.Append && op.Outcome == history.OK {
			ended[op.Return] = true
		}
	}
	last := time.Duration(0)
	for _, at := range sorted(ended, r.History.Length) {
		longest = max(longest, at-last)
		last = at
	}
	if s.Longest.Duration() != longest {
		t.Errorf("longest without a write %v, want %v", s.Longest.Duration(), longest)
	}
}

// sorted are the times, and the end.
func sorted(times map[time.Duration]bool, end time.Duration) []time.Duration {
	return append(slices.Sorted(maps.Keys(times)), end)
}

func TestLine(t *testing.T) {
	held := small()
	held.Verdicts = held.Verdicts[:1]
	hostile := small()
	hostile.Verdicts[1].Evidence = []string{"a\nb\x1b[2Jc" + strings.Repeat("x", 500)}
	none := small()
	none.Verdicts = nil
	const rest = "partition, kill · 10s · 3 nodes · seed 7 · 5 events · 3 faults · 1 election · longest without a write 4.8s"
	for _, tt := range []struct {
		name string
		r    *history.Result
		want string
	}{
		{"held", held, "held: " + rest},
		{"failed", small(), "FAILED: replicas: n3 differs at 4 · " + rest},
		{"hostile", hostile, "FAILED: replicas: a b [2Jc" + strings.Repeat("x", 151) + "… · " + rest},
		{"no checkers", none, "nothing was checked: " + rest},
		{"empty", &history.Result{}, "nothing was checked: no faults · 0s · 0 nodes · seed 0 · 0 events · 0 faults · 0 elections · longest without a write 0s"},
	} {
		if got := report.Line(tt.r); got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.name, got, tt.want)
		}
	}
}

var (
	// approximately: JSON has times to the microsecond.
	approximately = cmp.Comparer(func(a, b report.Seconds) bool {
		return a == b || max(a-b, b-a) <= report.Seconds(time.Microsecond)
	})
	emptyIsNil = cmpopts.EquateEmpty()
)

// JSON comes back as the summary that it was written from.
func TestJSONRoundTrip(t *testing.T) {
	for name, r := range edges() {
		want := report.Summarise(r)
		var got report.Summary
		if err := json.Unmarshal(asJSON(t, r), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got, approximately, emptyIsNil); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// edges are histories with little in them, or strange things.
func edges() map[string]*history.Result {
	const hostile = `"><script>alert(1)</script><img src=https://example.com/x onerror=alert(1)>'</title></svg></style>{{.}}` + "\x00\u2028"
	sample := history.Sample{At: time.Second, Nodes: []history.NodeSample{{Name: "n1", Up: true, Answered: true, Leads: true, Term: 1}}}
	nasty := small()
	nasty.Title, nasty.Command, nasty.Version = hostile, hostile, hostile
	nasty.Nodes = []string{hostile, "n1", "n2", "n3"}
	nasty.Verdicts[0].Name, nasty.Verdicts[0].Claim, nasty.Verdicts[0].Notes = hostile, hostile, []string{hostile}
	nasty.Verdicts[1].Evidence = []string{hostile}
	nasty.Pictures[hostile] = []byte(hostile)
	nasty.Final.Replicas[0].Node, nasty.Final.Replicas[0].Problems = hostile, []string{hostile}
	h := nasty.History
	h.Faults = append(h.Faults, history.Fault{At: -time.Second, Kind: hostile, Text: hostile, Nodes: []string{hostile}}, history.Fault{At: time.Hour, Kind: "late", Text: hostile})
	h.Samples = append(h.Samples, history.Sample{At: 9 * time.Second, Nodes: []history.NodeSample{{Name: hostile, Up: true, Answered: true, Leads: true, Term: 1 << 63}}, Cut: map[string][]string{hostile: {"n1"}, "n1": {hostile}}})
	h.Ops = append(h.Ops,
		history.Op{Node: hostile, Kind: history.Kind(hostile), Outcome: history.Failed, Code: hostile, Consistency: history.Consistency(hostile)},
		history.Op{Node: hostile, Kind: history.Append, Outcome: history.OK, Call: 5 * time.Hour, Return: 2 * time.Hour, Key: chain.Key{ID: hostile}},
		history.Op{Node: hostile, Kind: history.Append, Outcome: history.OK, Call: -3 * time.Hour, Return: -2 * time.Hour})
	return map[string]*history.Result{
		"nothing":      {},
		"no history":   {Title: "x", Nodes: []string{"n1"}, Verdicts: []history.Verdict{{Name: "v", OK: true, Checked: 1}}},
		"no length":    {History: &history.History{Ops: []history.Op{{Kind: history.Append, Outcome: history.OK}}, Faults: []history.Fault{{Kind: "kill"}}, Samples: []history.Sample{sample}}},
		"one sample":   {Nodes: []string{"n1"}, History: &history.History{Length: 2 * time.Second, Samples: []history.Sample{sample}}},
		"no ops":       {Nodes: []string{"n1", "n2"}, History: &history.History{Length: time.Minute, Faults: []history.Fault{{At: time.Second, Kind: "kill", Text: "n1", Nodes: []string{"n1"}}}}},
		"one op":       {History: &history.History{Length: time.Minute, Ops: []history.Op{{Kind: history.Append, Outcome: history.OK, Call: time.Second, Return: time.Second}}}},
		"no time":      {History: &history.History{Length: -time.Second, Faults: []history.Fault{{At: time.Second, Kind: "kill"}, {At: time.Second, Kind: "heal"}}}},
		"a long time":  {History: &history.History{Length: 3000 * time.Hour, Ops: []history.Op{{Kind: history.Append, Outcome: history.OK, Call: time.Second, Return: 2000 * time.Hour}}}},
		"empty final":  {Final: &history.Final{}, History: &history.History{Length: time.Second}},
		"nasty":        nasty,
		"small":        small(),
		"fifteen":      makeUp(plan{nodes: 15, faults: 30, ops: 1000, length: 2 * time.Hour, seed: 5}),
		"a short time": makeUp(plan{nodes: 3, faults: 3, ops: 100, length: time.Second, seed: 5}),
	}
}

// What a page may have in it: nothing that a history brought is markup, and nothing
// is loaded from elsewhere.
func TestPageIsContained(t *testing.T) {
	elements := map[string]bool{}
	for _, e := range strings.Fields("html head meta title style body header p h1 h2 h3 b ul ol li dl div dt dd section span table thead tbody tr th td br details summary svg rect path text tspan figure figcaption pre code iframe script") {
		elements[e] = true
	}
	coordinate := regexp.MustCompile(`^[-MLHVZ0-9. ]*$`)
	for name, r := range edges() {
		t.Run(name, func(t *testing.T) {
			page := render(t, r)
			scripts := 0
			for z := html.NewTokenizer(strings.NewReader(page)); ; {
				kind := z.Next()
				if kind == html.ErrorToken {
					if err := z.Err(); err != io.EOF {
						t.Fatal(err)
					}
					break
				}
				if kind != html.StartTagToken && kind != html.SelfClosingTagToken {
					continue
				}
				token := z.Token()
				if !elements[token.Data] {
					t.Errorf("element %s", token)
				}
				if token.Data == "script" {
					scripts++
				}
				for _, a := range token.Attr {
					switch key := a.Key; {
					case strings.HasPrefix(key, "on"), key == "src", key == "href", key == "style", key == "action":
						t.Errorf("attribute %s in %s", key, token)
					case key == "x" || key == "y" || key == "width" || key == "height" || key == "d":
						if !coordinate.MatchString(a.Val) {
							t.Errorf("%s is not a coordinate in %s", key, token)
						}
					}
				}
			}
			if scripts != 2 {
				t.Errorf("%d scripts, want the data and the page's own", scripts)
			}
			if i := strings.Index(page, "ZgotmplZ"); i >= 0 {
				t.Errorf("a template refused a value: …%s", page[max(0, i-100):i+8])
			}
			if name != "nasty" && strings.Contains(page, "://") {
				t.Error("it refers to something outside of it")
			}
		})
	}
}

func BenchmarkSummarise(b *testing.B) {
	r := makeUp(plan{nodes: 5, faults: 40, ops: 2_000_000, length: 3 * time.Minute, seed: 7})
	b.ReportAllocs()
	for b.Loop() {
		report.Summarise(r)
	}
	b.ReportMetric(float64(len(r.History.Ops))*float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func BenchmarkHTML(b *testing.B) {
	r := makeUp(plan{nodes: 5, faults: 40, ops: 200_000, length: 3 * time.Minute, seed: 7})
	for b.Loop() {
		if err := report.HTML(io.Discard, r); err != nil {
			b.Fatal(err)
		}
	}
}

// A fault ends when what mends it does.
func TestFaultsEnd(t *testing.T) {
	fault := func(at int, kind string, nodes ...string) history.Fault {
		return history.Fault{At: time.Duration(at) * time.Second, Kind: kind, Nodes: nodes}
	}
	for _, tt := range []struct {
		name     string
		recorded []history.Fault
		want     []string
	}{
		{"heal mends everything", []history.Fault{fault(1, "kill", "n1"), fault(2, "partition", "n1", "n2"), fault(3, "heal")}, []string{"kill 1-3", "partition 2-3"}},
		{"heal of nodes mends what concerns no others", []history.Fault{fault(1, "disk", "n1"), fault(2, "disk", "n2"), fault(3, "slow"), fault(4, "heal", "n1", "n3")}, []string{"disk 1-4", "disk 2-", "slow 3-"}},
		{"restart mends a kill and a crash", []history.Fault{fault(1, "kill", "n1"), fault(2, "crash", "n2"), fault(3, "disk", "n1"), fault(4, "restart", "n1"), fault(5, "restart", "n2")}, []string{"kill 1-4", "crash 2-5", "disk 3-"}},
		{"resume mends a pause", []history.Fault{fault(1, "pause", "n1"), fault(2, "resume", "n1")}, []string{"pause 1-2"}},
		{"the same again takes its place", []history.Fault{fault(1, "slow", "n1"), fault(2, "slow", "n1"), fault(3, "slow", "n2")}, []string{"slow 1-2", "slow 2-", "slow 3-"}},
		{"not in order", []history.Fault{fault(3, "heal"), fault(1, "kill", "n1")}, []string{"kill 1-3"}},
		{"nothing to mend", []history.Fault{fault(3, "heal"), fault(4, "resume", "n1")}, nil},
	} {
		s := report.Summarise(&history.Result{History: &history.History{Length: 10 * time.Second, Faults: tt.recorded}})
		var got []string
		for _, f := range s.Faults {
			text := fmt.Sprintf("%s %.0f-", f.Kind, f.From.Duration().Seconds())
			if f.Mended {
				text += fmt.Sprintf("%.0f", f.Until.Duration().Seconds())
			}
			got = append(got, text)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
