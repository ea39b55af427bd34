// Package web runs the verifier for browsers, as `make web` builds it, in Node.js and in a
// headless Chromium: receipts and their alterations, and logs that grow, fork and go back.
package web

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
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

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogtiles"
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

// testLog is a tree of numbered leaves, of another history from leaf fork on.
type testLog struct {
	tree    chain.Tree
	tiles   map[[2]uint64][]byte
	log, by *checkpoint.Signer
	policy  string
}

func newFork(t *testing.T, name string, size, fork uint64) *testLog {
	t.Helper()
	l := &testLog{tiles: map[[2]uint64][]byte{}}
	for i := range size {
		text := fmt.Sprint("leaf ", i)
		if i >= fork {
			text = fmt.Sprint("other ", i)
		}
		l.tree.AppendLeaf(sha256.Sum256([]byte(text)), func(level int, index uint64, tile []byte) { l.tiles[[2]uint64{uint64(level), index}] = tile })
	}
	seed := sha256.Sum256([]byte(name))
	var err error
	if l.log, err = checkpoint.NewLogSigner(name, ed25519.NewKeyFromSeed(seed[:])); err != nil {
		t.Fatal(err)
	}
	if l.by, err = checkpoint.NewCosigner("witness.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))); err != nil {
		t.Fatal(err)
	}
	lk, wk := l.log.Key(), l.by.Key()
	l.policy = "log " + lk.String() + "\nwitness w " + wk.String() + "\nquorum w\n"
	return l
}

func newLog(t *testing.T, name string, size uint64) *testLog { return newFork(t, name, size, size) }

func (l *testLog) ReadTile(level int, index uint64, width int) ([]byte, error) {
	tile, ok := l.tiles[[2]uint64{uint64(level), index}]
	if !ok {
		return nil, chain.ErrNotFound
	}
	return tile[:32*width], nil
}

// sign returns a note with the log's signature and the given ones.
func (l *testLog) sign(t *testing.T, size uint64, root chain.Hash, by ...*checkpoint.Signer) []byte {
	t.Helper()
	log := l.log.Key()
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: log.Name, Size: size, Root: root}}
	for _, s := range append([]*checkpoint.Signer{l.log}, by...) {
		signature, err := s.Sign(&n.Checkpoint, 1_780_000_000)
		if err != nil {
			t.Fatal(err)
		}
		n.Add(signature)
	}
	return n.Bytes()
}

func (l *testLog) root(t *testing.T, size uint64) chain.Hash {
	t.Helper()
	root, err := chain.RootAt(size, l.tree.Reader(l))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func (l *testLog) note(t *testing.T, size uint64) []byte {
	return l.sign(t, size, l.root(t, size), l.by)
}

func hugeNote(t *testing.T, size uint64) []byte {
	l := newLog(t, origin, 3)
	return l.sign(t, size, chain.Hash{1}, l.by)
}

// site is a log as it is served under some path.
type site struct {
	log  *testLog
	note []byte
	// change alters what is served of a tile; nil where it is not found.
	change func(path string, tile []byte) []byte
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	if path == tlogtiles.CheckpointPath && s.note != nil {
		_, _ = w.Write(s.note)
		return
	}
	tile, err := tlogtiles.Parse(path)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	b, err := s.log.tree.Reader(s.log).ReadTile(tile.Level, tile.Index, tile.Width)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	b = slices.Clone(b[:32*tile.Width])
	if s.change != nil {
		b = s.change(path, b)
	}
	if b == nil {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(b)
}

// followSteps are the steps, and the sites that they follow.
func followSteps(t *testing.T) ([]step, map[string]*site) {
	l, other := newLog(t, origin, 66_000), newFork(t, origin, 66_000, 255)
	sites := map[string]*site{}
	for _, size := range []uint64{0, 1, 200, 256, 300, 65_536, 66_000} {
		sites[fmt.Sprint("log-", size)] = &site{log: l, note: l.note(t, size)}
		sites[fmt.Sprint("fork-", size)] = &site{log: other, note: other.note(t, size)}
	}
	sites["none"] = &site{log: l}
	sites["long-note"] = &site{log: l, note: bytes.Repeat([]byte("x"), checkpoint.MaxNote+1)}
	sites["no-witness"] = &site{log: l, note: l.sign(t, 300, l.root(t, 300))}
	sites["bad-tiles"] = &site{log: l, note: l.note(t, 300), change: func(_ string, b []byte) []byte { b[0] ^= 1; return b }}
	sites["short-tiles"] = &site{log: l, note: l.note(t, 300), change: func(_ string, b []byte) []byte { return b[:32] }}
	sites["long-tiles"] = &site{log: l, note: l.note(t, 300), change: func(_ string, _ []byte) []byte { return make([]byte, chain.TileSize+1) }}
	sites["no-tiles"] = &site{log: l, note: l.note(t, 300), change: func(string, []byte) []byte { return nil }}
	// A log that has grown since, and deleted its partial tiles.
	sites["full-tiles"] = &site{log: l, note: l.note(t, 300), change: func(path string, b []byte) []byte {
		if strings.Contains(path, ".p/") && !strings.HasPrefix(path, "tile/1/") {
			return nil
		}
		return b
	}}
	elsewhere := newLog(t, "other.example", 300)
	sites["other-log"] = &site{log: elsewhere, note: elsewhere.note(t, 300)}
	otherKey := elsewhere.log.Key()
	both := "log " + otherKey.String() + "\n" + l.policy

	trusted := map[string]string{} // by follower: the note that must be trusted after each step
	var steps []step
	follow := func(follower, name string, check func(*testing.T, *result)) {
		policy := l.policy
		if name == "other-log" {
			policy = both
		}
		steps = append(steps, step{name: follower + " follows " + name, Op: "follow", Follower: follower, Log: "log/" + name + "/", Policy: policy, check: check})
	}
	accepted := func(follower, name string, size uint64, grown bool) {
		note := string(sites[name].note)
		trusted[follower] = note
		follow(follower, name, func(t *testing.T, r *result) {
			if !r.OK || r.Size != size || r.Origin != origin || r.Grown != grown || len(r.Cosigned) != 1 || r.Again == nil || !r.Again.OK || r.Again.Grown {
				t.Errorf("%+v, want %d entries, grown %v; then %+v, not grown", r, size, grown, r.Again)
			}
			if r.State == nil || r.State.Note != note || r.State.Evidence != nil {
				t.Errorf("state %+v, want the note", r.State)
			}
		})
	}
	rejected := func(follower, name, code string) {
		note := trusted[follower]
		follow(follower, name, func(t *testing.T, r *result) {
			refused(code)(t, r)
			if note == "" && r.State != nil || note != "" && (r.State == nil || r.State.Note != note || r.State.Evidence != nil) {
				t.Errorf("state %+v, want the note from before: %q", r.State, note)
			}
		})
	}
	// saying adds to the last step what the message must have.
	saying := func(text string) {
		check := steps[len(steps)-1].check
		steps[len(steps)-1].check = func(t *testing.T, r *result) {
			check(t, r)
			if !strings.Contains(r.Message, text) {
				t.Errorf("message %q, want %q in it", r.Message, text)
			}
		}
	}
	forked := func(follower, name string, newNote []byte) {
		note := trusted[follower]
		follow(follower, name, func(t *testing.T, r *result) {
			refused("equivocation")(t, r)
			if r.Again == nil || r.Again.Code != "equivocation" || r.State == nil || r.State.Note != note || r.Evidence == nil {
				t.Fatalf("%+v, then %+v", r, r.Again)
			}
			for _, e := range []*evidence{r.Again.Evidence, r.State.Evidence} {
				if diff := cmp.Diff(r.Evidence, e); diff != "" {
					t.Errorf("evidence differs: %s", diff)
				}
			}
			if r.Evidence.Trusted != note || r.Evidence.Note != string(newNote) {
				t.Errorf("evidence %+v", r.Evidence)
			}
			proves(t, l.policy, r.Evidence)
		})
	}

	rejected("a", "none", "fetch")
	rejected("a", "long-note", "fetch")
	saying("more than 262144 bytes")
	rejected("a", "no-witness", "quorum")
	accepted("a", "log-0", 0, true)
	accepted("a", "log-1", 1, true)
	accepted("a", "log-200", 200, true)
	accepted("a", "log-200", 200, false)
	rejected("a", "bad-tiles", "proof")
	rejected("a", "short-tiles", "tiles")
	rejected("a", "long-tiles", "fetch")
	saying("more than 8192 bytes")
	rejected("a", "no-tiles", "fetch")
	rejected("a", "no-witness", "quorum")
	rejected("a", "other-log", "origin")
	accepted("a", "full-tiles", 300, true)
	rejected("a", "log-200", "stale")
	rejected("a", "log-0", "stale")
	rejected("a", "fork-200", "stale")
	accepted("a", "log-65536", 65_536, true)
	accepted("a", "log-66000", 66_000, true)

	for i, from := range []uint64{256, 300} {
		for j, to := range []uint64{from, 65_536, 66_000} {
			follower, name := fmt.Sprint("b", i, j), fmt.Sprint("fork-", to)
			accepted(follower, fmt.Sprint("log-", from), from, true)
			forked(follower, name, sites[name].note)
			// Whatever it shows afterwards.
			forked(follower, fmt.Sprint("log-", 66_000), sites[name].note)
		}
	}
	// Who saw the fork first finds the other one to be it.
	accepted("c", "fork-300", 300, true)
	forked("c", "log-65536", sites["log-65536"].note)
	// A fork that begins behind what is trusted can't be seen.
	accepted("d", "log-200", 200, true)
	accepted("d", "fork-300", 300, true)
	return steps, sites
}

// proves checks evidence with nothing but itself and the policy.
func proves(t *testing.T, policyText string, e *evidence) {
	t.Helper()
	policy, err := checkpoint.ParsePolicy([]byte(policyText))
	if err != nil {
		t.Fatal(err)
	}
	var notes [2]*checkpoint.Note
	for i, text := range []string{e.Trusted, e.Note} {
		if notes[i], err = checkpoint.ParseNote([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if _, err := policy.Verify(notes[i]); err != nil {
			t.Errorf("note %d of the evidence: %v", i, err)
		}
	}
	hash := func(text string) (h chain.Hash) {
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(h) {
			t.Fatalf("%q is not a hash", text)
		}
		return chain.Hash(b)
	}
	var proof []chain.Hash
	for _, text := range e.Proof {
		proof = append(proof, hash(text))
	}
	old, now := &notes[0].Checkpoint, &notes[1].Checkpoint
	if err := chain.VerifyConsistency(old.Size, now.Size, hash(e.Root), now.Root, proof); err != nil {
		t.Errorf("evidence: %v", err)
	}
	if hash(e.Root) == old.Root {
		t.Error("evidence: the roots are the same")
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
