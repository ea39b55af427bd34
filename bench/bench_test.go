package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/bench"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

var update = flag.Bool("update", false, "rewrite golden files")

// serve runs real servers over ledgers in memory and returns their addresses.
func serve(t *testing.T, nodes ...*servertest.Node) (addrs []string) {
	t.Helper()
	for _, n := range nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s, err := server.New(server.Config{Node: n, Listener: l})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

func config(addrs []string) bench.Config {
	return bench.Config{Addresses: addrs, Duration: 40 * time.Millisecond, Writers: []int{1, 3}, Payload: 256}
}

// TestEveryCell runs all clients against a ledger that is there, and finds every
// event again.
func TestEveryCell(t *testing.T) {
	ledger := servertest.NewLedger(nil)
	n1, n2 := ledger.Node("n1"), ledger.Node("n2")
	n2.SetStatus(server.Status{State: "Leader"})
	cfg := config(serve(t, n1, n2))
	var told []string
	cfg.Progress = func(done, total int, name string) { told = append(told, name) }
	report, err := bench.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	counted := int64(0)
	for _, r := range report.Rows {
		got = append(got, r.Name)
		if r.Events == 0 || r.P50 == 0 || r.P99 < r.P50 || r.Max < r.P99 {
			t.Errorf("%s: %+v", r.Name, r)
		}
		counted += r.Events
	}
	want := []string{
		"client=go/to=leader/gate=yes/writers=1", "client=go/to=leader/gate=yes/writers=3",
		"client=go/to=all/gate=yes/writers=1", "client=go/to=all/gate=yes/writers=3",
		"client=go-stream/to=leader/gate=yes/writers=1", "client=go-stream/to=all/gate=yes/writers=2",
		"client=go/to=leader/gate=no/writers=3", "client=go-stream/to=leader/gate=no/writers=1",
		"client=grpc/to=leader/gate=yes/writers=1", "client=grpc/to=leader/gate=yes/writers=3", "client=grpc/to=all/gate=yes/writers=3",
		"client=http/to=leader/gate=yes/writers=1", "client=http/to=leader/gate=yes/writers=3", "client=http/to=all/gate=yes/writers=3",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("cells (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want, told); d != "" {
		t.Errorf("progress (-want +got):\n%s", d)
	}
	c := report.Check
	if c == nil || int64(c.Acknowledged) < counted || c.InChain != c.Acknowledged || c.ReadBack == 0 || c.Heads != 2 {
		t.Errorf("%d events were counted, and the check says %+v", counted, c)
	}
	if want := len(ledger.Records()) - 1; c != nil && uint64(want) != c.InChain {
		t.Errorf("the ledger has %d events, the check %d", want, c.InChain)
	}
}

func TestOnly(t *testing.T) {
	ledger := servertest.NewLedger(nil)
	cfg := config(serve(t, ledger.Node("n1")))
	cfg.Only = []string{"client=http", "to=leader/gate=no/writers=3"}
	report, err := bench.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range report.Rows {
		got = append(got, r.Name)
	}
	want := []string{
		"client=go/to=leader/gate=no/writers=3",
		"client=http/to=leader/gate=yes/writers=1", "client=http/to=leader/gate=yes/writers=3",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("cells (-want +got):\n%s", d)
	}
	cfg.Only = []string{"carrier pigeon"}
	if _, err := bench.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "carrier pigeon") {
		t.Errorf("a name that nothing has: %v", err)
	}
}

// TestForkIsFound benches two ledgers that pretend to be one.
func TestForkIsFound(t *testing.T) {
	a, b := servertest.New(), servertest.New()
	a.SetStatus(server.Status{State: "Leader"})
	addrs := serve(t, a, b)
	longer := config(addrs[1:])
	longer.Only = []string{"client=go-stream"}
	if _, err := bench.Run(t.Context(), longer); err != nil {
		t.Fatal(err)
	}
	cfg := config(addrs)
	cfg.Duration, cfg.Only = time.Millisecond, []string{"client=http/to=leader/gate=yes/writers=1"}
	_, err := bench.Run(t.Context(), cfg)
	var broken *bench.LostError
	if !errors.As(err, &broken) {
		t.Fatalf("two chains passed for one: %v", err)
	}
}

func TestRefusedConfig(t *testing.T) {
	for name, change := range map[string]func(*bench.Config){
		"no duration":   func(c *bench.Config) { c.Duration = 0 },
		"no writers":    func(c *bench.Config) { c.Writers = nil },
		"zero writers":  func(c *bench.Config) { c.Writers = []int{0} },
		"tiny payload":  func(c *bench.Config) { c.Payload = 10 },
		"large payload": func(c *bench.Config) { c.Payload = 2 << 20 },
	} {
		cfg := config([]string{"127.0.0.1:1"})
		change(&cfg)
		if report, err := bench.Run(t.Context(), cfg); err == nil || report != nil {
			t.Errorf("%s: %v, %v", name, report, err)
		}
	}
}

// TestPrint holds the three forms of a report against golden files.
func TestPrint(t *testing.T) {
	ms := func(v float64) bench.Millis { return bench.Millis(v * float64(time.Millisecond)) }
	r := &bench.Report{
		Machine: bench.Machine{CPUs: 2, Go: "go1.26.0", OS: "linux/amd64", FileSystem: "ext4", LoadBefore: "0.10 0.20 0.30"},
		Limits: []bench.Limit{
			{Name: "limit=fdatasync/block=4KiB", PerSecond: 4725.4, Bytes: 4096, P50: ms(.19), P99: ms(.51), Max: ms(3)},
			{Name: "limit=raft/group-commit=true/writers=1024", PerSecond: 119_123, Bytes: 256, P50: ms(8.6), P99: ms(14), Max: ms(20)},
		},
		Rows: []bench.Row{
			{Cell: bench.Cell{Client: bench.GoClient, Target: bench.Leader, Gated: true, Writers: 64}, Name: "client=go/to=leader/gate=yes/writers=64",
				Events: 55_000, Seconds: 5, PerSecond: 11_000, P50: ms(5.5), P99: ms(9.25), Max: ms(40), CPU: &bench.CPU{Leader: 35.6, Followers: 50.9, Clients: 9.7}},
			{Cell: bench.Cell{Client: bench.HTTP, Target: bench.All, Writers: 1}, Name: "client=http/to=all/gate=no/writers=1",
				Events: 500, Seconds: 5, PerSecond: 100, P50: ms(9), P99: ms(12), Max: ms(12.5)},
		},
		Processes: []bench.ProcessUse{{Name: "n1", Leader: true, CPUSeconds: 8.25, Resident: 81e6, Peak: 170e6, Written: 251e6}},
		Check:     &bench.Check{Acknowledged: 55_500, InChain: 55_500, ReadBack: 120, Heads: 3, Size: 55_532, Verified: "n3: verified", Seconds: 1.5},
		Warnings:  []string{"the leader changed"},
		Took:      12 * time.Second,
	}
	r.Config.Nodes, r.Config.Payload, r.Config.Duration = 3, 256, 5
	var text, lines, object bytes.Buffer
	e := json.NewEncoder(&object)
	e.SetIndent("", "  ")
	if err := errors.Join(r.Text(&text), r.Benchstat(&lines), e.Encode(r)); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]*bytes.Buffer{"report.txt": &text, "report.bench": &lines, "report.json": &object} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got.String()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
