package web

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogtiles"
)

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
