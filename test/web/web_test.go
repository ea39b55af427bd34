// Package web runs the verifier for browsers, as `make web` builds it, in Node.js and in a
// headless Chromium: receipts and their alterations, and logs that grow, fork and go back.
package web

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const origin = "log.example"

// result is what a step came to, with the fields of any kind of step.
type result struct {
	OK       bool   `json:"ok"`
	Code     string `json:"code"`
	Message  string `json:"message"`
	Origin   string `json:"origin"`
	Size     uint64 `json:"size"`
	Root     string `json:"root"`
	Cosigned []struct {
		Witness, Key string
		Time         uint64
	} `json:"cosigned"`
	Grown    bool      `json:"grown"`
	Evidence *evidence `json:"evidence"`
	Again    *result   `json:"again"`
	State    *struct {
		Note     string    `json:"note"`
		Evidence *evidence `json:"evidence"`
	} `json:"state"`

	ChainID     string  `json:"chainId"`
	Epoch       uint64  `json:"epoch"`
	Sequence    uint64  `json:"sequence"`
	Hash        string  `json:"hash"`
	Time        string  `json:"time"`
	Workspace   string  `json:"workspace"`
	Source      string  `json:"source"`
	ID          string  `json:"id"`
	Kind        string  `json:"kind"`
	Subject     string  `json:"subject"`
	Principal   string  `json:"principal"`
	ContentType string  `json:"contentType"`
	Decision    *string `json:"decision"`
	Payload     []byte  `json:"payload"`

	Codes            []string `json:"codes"`
	Genuine, Refused string
}

type evidence struct {
	Trusted string   `json:"trusted"`
	Note    string   `json:"note"`
	Root    string   `json:"root"`
	Proof   []string `json:"proof"`
}

// step is something for the driver to do, and what must come of it.
type step struct {
	Op       string `json:"op"`
	Data     []byte `json:"data,omitempty"`
	Policy   string `json:"policy"`
	Follower string `json:"follower,omitempty"`
	Log      string `json:"log,omitempty"`

	name  string
	check func(t *testing.T, r *result)
}

// golden is chain/receipt/testdata/receipts.json.
type golden struct {
	Policy   string            `json:"policy"`
	Receipts map[string]string `json:"receipts"`
}

func readGolden(t *testing.T) *golden {
	t.Helper()
	b, err := os.ReadFile("../../chain/receipt/testdata/receipts.json")
	if err != nil {
		t.Fatal(err)
	}
	g := new(golden)
	if err := json.Unmarshal(b, g); err != nil {
		t.Fatal(err)
	}
	return g
}

// refused says that a step is refused with a code.
func refused(code string) func(*testing.T, *result) {
	return func(t *testing.T, r *result) {
		if r.OK || r.Code != code || r.Message == "" {
			t.Errorf("ok %v, code %q, message %q, want code %q", r.OK, r.Code, r.Message, code)
		}
	}
}

func receiptSteps(t *testing.T) []step {
	g := readGolden(t)
	stranger := newLog(t, "stranger.example", 3).policy
	whole, alone := []byte(g.Receipts["entry 7 of 300"]), []byte(g.Receipts["entry 299 of 300, header alone"])
	for name, b := range map[string][]byte{"entry 7 of 300": whole, "entry 299 of 300, header alone": alone} {
		if len(b) == 0 {
			t.Fatalf("receipts.json has no %q", name)
		}
	}
	genuine := func(sequence uint64, payload string) func(*testing.T, *result) {
		return func(t *testing.T, r *result) {
			if !r.OK || r.Sequence != sequence || r.Size != 300 || r.Origin != "exonode/e0e1e2e30405060708090a0b0c0d0e0f/0" ||
				r.ChainID != "e0e1e2e30405060708090a0b0c0d0e0f" || r.Epoch != 0 || r.Kind != "test.event" || r.Source != "urn:test" ||
				r.Workspace != "default" || r.ID != fmt.Sprint("event-", sequence) || r.Subject != "" || r.Principal != "local" ||
				r.ContentType != "application/json" || r.Decision != nil || string(r.Payload) != payload ||
				r.Time != time.Unix(1_780_000_000, int64(sequence)).UTC().Format(time.RFC3339Nano) ||
				r.Root != "fa399978b29ea0d995d7ac09899f8678e0e7efe1ce0f1a22bb35ffe0320a91ea" || len(r.Hash) != 64 ||
				len(r.Cosigned) != 1 || r.Cosigned[0].Witness != "node-1" || r.Cosigned[0].Key != "node-1.example" || r.Cosigned[0].Time != 1_780_000_000 {
				t.Errorf("%+v", r)
			}
		}
	}
	altered := func(t *testing.T, r *result) {
		if len(r.Codes) < 800 {
			t.Errorf("%d bytes were changed", len(r.Codes))
		}
		known := []string{"format", "signature", "quorum", "proof", "entry"}
		for i, code := range r.Codes {
			if !slices.Contains(known, code) {
				t.Errorf("byte %d changed: %q", i, code)
			}
		}
		// Some of each, so that not everything is refused for its form alone.
		for _, code := range known[:4] {
			if !slices.Contains(r.Codes, code) {
				t.Errorf("no change was refused with %q", code)
			}
		}
	}
	steps := []step{
		{name: "genuine", Op: "receipt", Data: whole, Policy: g.Policy, check: genuine(7, `{"number":7}`)},
		{name: "without envelope", Op: "receipt", Data: alone, Policy: g.Policy, check: genuine(299, "")},
		{name: "each byte changed", Op: "flip", Data: whole, Policy: g.Policy, check: altered},
		{name: "each byte changed, without envelope", Op: "flip", Data: alone, Policy: g.Policy, check: func(t *testing.T, r *result) {
			if len(r.Codes) != len(alone) || slices.Contains(r.Codes, "ok") {
				t.Errorf("of %d bytes: %q", len(alone), r.Codes)
			}
		}},
		{name: "without header", Op: "receipt", Data: []byte(g.Receipts["entry 255 of 256, leaf alone"]), Policy: g.Policy, check: refused("entry")},
		{name: "another log's policy", Op: "receipt", Data: whole, Policy: stranger, check: refused("quorum")},
		{name: "no policy", Op: "receipt", Data: whole, Policy: "", check: refused("policy")},
		{name: "policy of no log", Op: "receipt", Data: whole, Policy: "quorum none\n", check: refused("quorum")},
		{name: "cut off", Op: "receipt", Data: whole[:len(whole)-1], Policy: g.Policy, check: refused("format")},
		{name: "empty", Op: "receipt", Data: nil, Policy: g.Policy, check: refused("format")},
		{name: "misuse", Op: "misuse", Data: newLog(t, origin, 3).note(t, 3), Policy: g.Policy, check: func(t *testing.T, r *result) {
			want := []string{"argument", "argument", "argument", "argument", "fetch", "TypeError", ""}
			if diff := cmp.Diff(want, r.Codes); diff != "" {
				t.Error(diff)
			}
		}},
	}
	return append(steps, vectorSteps(t)...)
}

// vectorSteps holds chain/checkpoint/testdata's note, which has all types of signatures,
// against its policy.
func vectorSteps(t *testing.T) []step {
	b, err := os.ReadFile("../../chain/checkpoint/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Note, Policy string
	}
	if err := json.Unmarshal(b, &v); err != nil || v.Note == "" || v.Policy == "" {
		t.Fatalf("vectors.json: note of %d bytes, policy of %d: %v", len(v.Note), len(v.Policy), err)
	}
	changed := []byte(v.Note)
	if at := len(changed) - 10; changed[at] == 'A' {
		changed[at] = 'B'
	} else {
		changed[at] = 'A'
	}
	return []step{
		{name: "note", Op: "note", Data: []byte(v.Note), Policy: v.Policy, check: func(t *testing.T, r *result) {
			if !r.OK || r.Origin == "" || len(r.Cosigned) != 2 || r.Payload != nil {
				t.Errorf("%+v", r)
			}
		}},
		{name: "note with a changed ML-DSA-44 signature", Op: "note", Data: changed, Policy: v.Policy, check: refused("signature")},
		{name: "note of 2^53 entries", Op: "note", Data: hugeNote(t, 1<<53), Policy: newLog(t, origin, 3).policy, check: refused("size")},
		{name: "note of 2^53-1 entries", Op: "note", Data: hugeNote(t, 1<<53-1), Policy: newLog(t, origin, 3).policy, check: func(t *testing.T, r *result) {
			if !r.OK || r.Size != 1<<53-1 {
				t.Errorf("%+v", r)
			}
		}},
	}
}

// server serves the steps, the verifier in dir and the sites, and hands over what the
// driver posts.
func server(t *testing.T, dir string, steps []step, sites map[string]*site) (base string, posted <-chan []byte) {
	t.Helper()
	mux := http.NewServeMux()
	results := make(chan []byte, 1)
	post := func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err == nil && strings.HasSuffix(r.URL.Path, "/failed") {
			b, err = json.Marshal(map[string]string{"failed": string(b)})
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		select {
		case results <- b:
		default: // one is enough
		}
	}
	mux.HandleFunc("POST /results", post)
	mux.HandleFunc("POST /failed", post)
	mux.HandleFunc("GET /steps.json", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(steps)
	})
	mux.Handle("GET /web/", http.StripPrefix("/web", http.FileServer(http.Dir(dir))))
	for _, name := range []string{"browser.html", "driver.mjs"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", map[string]string{".html": "text/html", ".mjs": "text/javascript"}[filepath.Ext(name)])
			_, _ = w.Write(b)
		})
	}
	for name, s := range sites {
		mux.Handle("/log/"+name+"/", http.StripPrefix("/log/"+name, s))
	}
	ts := httptest.NewServer(mux)
	t.Cleanup(ts.Close)
	return ts.URL + "/", results
}

// judge holds what was posted to the steps.
func judge(t *testing.T, steps []step, posted []byte) {
	t.Helper()
	var results []result
	if err := json.Unmarshal(posted, &results); err != nil || len(results) != len(steps) {
		t.Fatalf("%d results of %d steps: %v: %.2000s", len(results), len(steps), err, posted)
	}
	for i, s := range steps {
		t.Run(s.name, func(t *testing.T) { s.check(t, &results[i]) })
	}
}

func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "../../scripts/web.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("scripts/web.sh: %v\n%s", err, out)
	}
	return dir
}

var must = flag.String("must", "", "`programs`, separated by commas, without which a test fails rather than skips: node, chromium")

// program is where a program is; a test without it skips, or fails where it must not.
func program(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if slices.Contains(strings.Split(*must, ","), name) {
		t.Fatalf("%v: apt-get install %s", err, debian)
	}
	t.Skipf("%v: apt-get install %s", err, debian)
	return ""
}

func TestNode(t *testing.T) {
	if testing.Short() {
		t.Skip("builds WebAssembly")
	}
	node := program(t, "node", "nodejs")
	dir := build(t)
	steps, sites := followSteps(t)
	steps = append(receiptSteps(t), steps...)
	base, posted := server(t, dir, steps, sites)
	if out, err := exec.CommandContext(t.Context(), node, "testdata/node.mjs", dir, base).CombinedOutput(); err != nil {
		t.Fatalf("node: %v\n%s", err, out)
	}
	select {
	case b := <-posted:
		judge(t, steps, b)
	default:
		t.Fatal("node ended, and posted nothing")
	}
}

func TestChromium(t *testing.T) {
	if testing.Short() {
		t.Skip("builds WebAssembly")
	}
	chromium := program(t, "chromium", "chromium")
	dir := build(t)
	steps, sites := followSteps(t)
	steps = append(receiptSteps(t), steps...)
	g := readGolden(t)
	steps = append(steps, step{name: "the page", Op: "page", Data: []byte(g.Receipts["entry 7 of 300"]), Policy: g.Policy, check: func(t *testing.T, r *result) {
		if !strings.Contains(r.Genuine, "Genuine: entry 7") || !strings.Contains(r.Genuine, `{"number":7}`) || !strings.Contains(r.Refused, "Refused (") || strings.Contains(r.Refused, "number") {
			t.Errorf("the page showed %q, then %q", r.Genuine, r.Refused)
		}
	}})
	base, posted := server(t, dir, steps, sites)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	// Without its sandbox, which needs what root and containers don't give it.
	cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--user-data-dir="+t.TempDir(), base+"browser.html")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // its processes, too
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case b := <-posted:
		judge(t, steps, b)
		cancel()
		<-ended
	case err := <-ended:
		t.Fatalf("chromium ended, and posted nothing: %v\n%s", err, out.Bytes())
	}
}
