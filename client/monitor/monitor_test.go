package monitor_test

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/evidence"
	"github.com/exonode/exonode/client/monitor"
)

// TestGrowth follows a log through sizes around those of tiles, with a restart before
// each round, and without.
func TestGrowth(t *testing.T) {
	for name, restart := range map[string]bool{"running": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, policy(base+"/0"))
			l, from := newLog(1), uint64(0)
			for _, size := range []int{1, 2, 3, 255, 256, 257, 511, 512, 513, 1000} {
				l = l.grown(size - len(l.entries))
				if restart {
					f.restart()
				}
				r := f.good(l)
				if r.From != from || !r.Headers || r.Dropped != 0 || len(r.Epochs) != 0 || len(r.By.Cosigned) != 1 {
					t.Fatalf("%+v", r)
				}
				from = uint64(size)
				if r := f.good(l); r.From != from {
					t.Fatalf("again: %+v", r)
				}
			}
		})
	}
}

// TestLevels: a tree with hashes on three levels of tiles. Its leaves are not ours.
func TestLevels(t *testing.T) {
	f := follow(t, policy(foreign))
	l := testLog{base: foreign}
	for _, size := range []int{0, 65_535, 65_537, 66_000} {
		l = l.grown(size - len(l.entries))
		f.restart()
		if r := f.good(l); r.Headers {
			t.Fatal("opaque leaves taken for headers")
		}
	}
	f.fails(testLog{base: foreign}.grown(65_536).files(), monitor.ErrStale)
	f.fails(testLog{base: foreign}.files(), monitor.ErrStale)
	fork := testLog{base: foreign}.grown(100).with(65_600, "fork")
	f.caught(fork.files(), evidence.Fork, l, fork)
}

// TestForks: each pair of trees of which the later one is not the older one grown.
func TestForks(t *testing.T) {
	common := newLog(40)
	for name, test := range map[string]struct{ seen, shown testLog }{
		"same size":                 {common.grown(1), common.with(1, "fork")},
		"larger":                    {common.grown(1), common.with(300, "fork")},
		"larger, a perfect tree":    {newLog(64), newLog(63).with(400, "fork")},
		"smaller":                   {common.grown(400), common.with(20, "fork")},
		"smaller, a perfect tree":   {common.grown(400), common.with(24, "fork")},
		"smaller, after a restart":  {common.grown(400), common.with(2, "fork")},
		"all of it, from the start": {common, func() testLog { l := newLog(1); return l.with(99, "fork") }()},
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, policy(base+"/0"))
			f.good(test.seen)
			if strings.Contains(name, "restart") {
				f.restart()
			}
			e := f.caught(test.shown.files(), evidence.Fork, test.seen, test.shown)
			// It is found again, and the file stays as it is.
			f.caught(test.shown.files(), evidence.Fork, test.seen, test.shown)
			// Without the quorum, the log is bound by its own signature alone.
			uncosigned := test.shown.files()
			n := *e.Second
			n.Signatures = n.Signatures[:1]
			uncosigned["checkpoint"] = n.Bytes()
			f.caught(uncosigned, evidence.Fork)
			// And the log may go on as it was.
			f.good(test.seen.grown(3))
		})
	}
}

// TestStale: an older checkpoint that is consistent proves nothing, and changes nothing.
func TestStale(t *testing.T) {
	f := follow(t, policy(base+"/0"))
	l := newLog(600)
	f.good(l)
	for _, size := range []int{1, 2, 255, 256, 300, 599} {
		f.fails(files{"checkpoint": l.cut(size).note().Bytes()}, monitor.ErrStale)
	}
	f.good(l.grown(1))
}

// TestAltered: files that are not those of the signed tree.
func TestAltered(t *testing.T) {
	seen := newLog(300)
	l := seen.grown(300)
	good := l.files()
	middle := len(good["tile/entries/001"]) / 2
	for name, now := range map[string]files{
		"leaf":               good.change("tile/entries/001", middle),
		"length of a leaf":   good.change("tile/entries/002.p/88", 1),
		"tile":               good.change("tile/0/001", 33),
		"tile above":         good.change("tile/1/000.p/2", 1),
		"bundle is missing":  without(good, "tile/entries/002.p/88"),
		"tile is missing":    without(good, "tile/0/001"),
		"bundle is another":  with(good, "tile/entries/002.p/88", good["tile/entries/001"]),
		"bundle is short":    with(good, "tile/entries/002.p/88", seen.files()["tile/entries/001.p/44"]),
		"tile is short":      with(good, "tile/0/001", good["tile/0/001"][:100]),
		"tile is very large": with(good, "tile/0/001", make([]byte, 1<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, policy(base+"/0"))
			f.good(seen)
			want := monitor.ErrTiles
			if name == "tile is very large" {
				want = monitor.ErrUnreachable // as this source has it
			}
			f.fails(now, want)
			if want == monitor.ErrTiles {
				// What the log signed is kept, to hold it to that.
				names, err := f.disk.List()
				if err != nil {
					t.Fatal(err)
				}
				i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, "unmatched-") })
				if i < 0 {
					t.Fatalf("no checkpoint is kept: %v", names)
				}
				if b, err := f.disk.ReadFile(names[i]); err != nil || string(b) != string(good["checkpoint"]) {
					t.Fatalf("kept: %q, %v", b, err)
				}
			}
			f.restart()
			f.good(l)
			if names, err := f.disk.List(); err != nil || slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "unmatched-") }) {
				t.Errorf("what proved true is still there: %v, %v", names, err)
			}
		})
	}
	t.Run("leaf, at the first round", func(t *testing.T) {
		f := follow(t, policy(base+"/0"))
		f.fails(good.change("tile/entries/001", middle), monitor.ErrTiles)
		f.fails(without(good, "tile/entries/002.p/88"), monitor.ErrTiles)
		f.good(l)
	})
}

// TestKept: a checkpoint whose tree the log never showed is evidence once it shows
// another one.
func TestKept(t *testing.T) {
	seen := newLog(40)
	hidden := newLog(45).with(30, "fork")
	for name, restart := range map[string]bool{"running": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, policy(base+"/0"))
			f.good(seen)
			f.fails(files{"checkpoint": hidden.note().Bytes()}, monitor.ErrTiles)
			f.good(newLog(60)) // it is not known yet
			if restart {
				f.restart()
			}
			f.caught(newLog(80).files(), evidence.Fork, hidden, newLog(80))
			// The evidence has it now, and the log may go on.
			f.restart()
			f.good(newLog(81))
		})
	}
}

// TestAlteredLeaf: leaves that no rule of a chain holds in place are held by the root.
func TestAlteredLeaf(t *testing.T) {
	for name, l := range map[string]testLog{"opaque": testLog{base: foreign}.grown(300), "the last header": newLog(300)} {
		t.Run(name, func(t *testing.T) {
			other := l.cutAny(299).with(1, "other").files()
			now := with(l.files(), "tile/entries/001.p/44", other["tile/entries/001.p/44"])
			f := follow(t, policy(l.origin()))
			f.fails(now, monitor.ErrTiles)
			f.good(l.cutAny(299))
			f.fails(now, monitor.ErrTiles)
			f.good(l)
		})
	}
}

func without(f files, path string) files {
	f = maps.Clone(f)
	delete(f, path)
	return f
}

func with(f files, path string, b []byte) files {
	f = maps.Clone(f)
	f[path] = b
	return f
}

// TestFullForPartial: a log may drop a partial tile once the full one is there.
func TestFullForPartial(t *testing.T) {
	l := newLog(300)
	now := l.grown(300).files()
	now["checkpoint"] = l.note().Bytes()
	now["tile/1/000.p/1"] = l.files()["tile/1/000.p/1"]
	if now["tile/0/001.p/44"] != nil || now["tile/entries/001.p/44"] != nil {
		t.Fatal("the partial tiles are there")
	}
	f := follow(t, policy(base+"/0"))
	f.good(newLog(10))
	if _, err := f.round(now); err != nil {
		t.Fatal(err)
	}
}

// TestSignatures: checkpoints that the policy refuses.
func TestSignatures(t *testing.T) {
	l := newLog(5)
	n := l.note()
	change := func(c func(n *checkpoint.Note)) files {
		m := *n
		m.Signatures = slices.Clone(n.Signatures)
		c(&m)
		return with(l.files(), "checkpoint", m.Bytes())
	}
	other := testLog{base: "exonode/ffffffffffffffffffffffffffffffff"}.files()
	for name, test := range map[string]struct {
		now  files
		want error
	}{
		"no checkpoint":       {files{}, monitor.ErrUnreachable},
		"garbage":             {files{"checkpoint": []byte("hello\n")}, monitor.ErrCheckpoint},
		"no log signature":    {change(func(n *checkpoint.Note) { n.Signatures = n.Signatures[1:] }), monitor.ErrUnsigned},
		"no quorum":           {change(func(n *checkpoint.Note) { n.Signatures = n.Signatures[:1] }), checkpoint.ErrQuorum},
		"signature is false":  {change(func(n *checkpoint.Note) { n.Checkpoint.Size++ }), checkpoint.ErrSignature},
		"another log, signed": {other, monitor.ErrUnsigned},
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, policy(base+"/0"))
			f.fails(test.now, test.want)
			f.good(newLog(3))
			f.fails(test.now, test.want)
			f.good(l)
		})
	}
}

// TestOtherLog: the policy knows two logs, and the state is of one.
func TestOtherLog(t *testing.T) {
	p := policy(base + "/0")
	key := checkpoint.Key{Name: foreign, Type: checkpoint.Log, Public: p.Logs[0].Key.Public}
	p.Logs = append(p.Logs, checkpoint.PolicyLog{Key: key})
	f := follow(t, p)
	f.good(newLog(3))
	f.fails(testLog{base: foreign}.grown(4).files(), monitor.ErrOtherLog)
	g := follow(t, p)
	g.good(testLog{base: foreign}.grown(4))
	g.fails(newLog(3).files(), monitor.ErrOtherLog)
}

// TestRules: the log signs a chain that breaks its own rules.
func TestRules(t *testing.T) {
	for name, change := range map[string]func(h *chain.Header){
		"link":           func(h *chain.Header) { h.Previous[0]++ },
		"sequence":       func(h *chain.Header) { h.Sequence++ },
		"time":           func(h *chain.Header) { h.Time -= 2 },
		"chain id":       func(h *chain.Header) { h.ChainID[0]++ },
		"epoch":          func(h *chain.Header) { h.Epoch++ },
		"second genesis": func(h *chain.Header) { h.Workspace, h.Kind, h.SealingNode = "system", "chain.genesis", "" },
		"recovery without an epoch": func(h *chain.Header) {
			h.Workspace, h.Kind, h.SealingNode = "system", "chain.recover", ""
		},
	} {
		for where, seen := range map[string]int{"in the first round": 0, "in a later one": 20, "first of a round": 256} {
			t.Run(name+" "+where, func(t *testing.T) {
				f := follow(t, policy(base+"/0"))
				l := newLog(256)
				if seen > 0 {
					f.good(l.cut(seen))
				}
				l.entries = slices.Clone(l.entries)
				l.seal("test.event", "default", "bad", change)
				e := f.caught(l.grown(20).files(), evidence.Entry)
				if e.First != nil || e.Leaves[1].Index != 256 {
					t.Fatalf("%+v", e)
				}
			})
		}
	}
	t.Run("not a header", func(t *testing.T) {
		f := follow(t, policy(base+"/0"))
		l := newLog(20)
		l.entries = append(l.entries, []byte("hello"))
		f.caught(l.files(), evidence.Entry)
	})
	t.Run("entry 0", func(t *testing.T) {
		f := follow(t, policy(base+"/0"))
		f.caught(testLog{base: base}.grown(2).files(), evidence.Entry)
	})
	// A log whose origin was configured is held to the rules by its genesis, and nobody
	// else can know that it has to keep them.
	t.Run("configured origin", func(t *testing.T) {
		f := follow(t, policy("audit.example/0"))
		l := newLog(20)
		l.base = "audit.example"
		if r := f.good(l); !r.Headers {
			t.Fatal("leaves not taken for headers")
		}
		l.seal("test.event", "default", "bad", func(h *chain.Header) { h.Previous[0]++ })
		_, err := f.round(l.files())
		var m *monitor.MisbehaviourError
		if !errors.As(err, &m) || m.File != "" || m.Finding.Kind != evidence.Entry {
			t.Fatal(err)
		}
	})
}

// TestEpochs: recoveries that the chain declares.
func TestEpochs(t *testing.T) {
	old := newLog(300)
	for name, test := range map[string]struct {
		seen, shown testLog
		dropped     uint64
	}{
		"right at the end":       {old, old.recovered(300).grown(5), 0},
		"nothing behind it":      {old, old.recovered(300), 0},
		"after unseen entries":   {old.cut(200), old.recovered(300).grown(5), 0},
		"entries left behind":    {old, old.recovered(250).grown(100), 50},
		"and fewer than before":  {old, old.recovered(250).grown(3), 50},
		"left behind in a tile":  {old, old.recovered(256).grown(3), 44},
		"only genesis is kept":   {old, old.recovered(1).grown(700), 299},
		"two recoveries at once": {old, old.recovered(290).grown(20).recovered(300).grown(5), 10},
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, policy(base+"/0"))
			f.good(test.seen)
			r := f.good(test.shown)
			if r.Dropped != test.dropped || len(r.Epochs) != int(test.shown.epoch) {
				t.Fatalf("%+v", r)
			}
			f.restart()
			f.good(test.shown.grown(300))
			f.restart()
			// What an older node still shows of the epoch that ended is no fork of it.
			f.fails(old.cut(240).files(), monitor.ErrStale)
			f.fails(old.files(), monitor.ErrStale)
			f.fails(old.grown(40).files(), monitor.ErrStale)
			if len(test.seen.entries) == 300 && test.dropped < 299 {
				fork := old.cut(100).with(120, "fork")
				f.caught(fork.files(), evidence.Fork, fork, test.shown.grown(300))
				larger := old.cut(100).with(400, "fork")
				f.caught(larger.files(), evidence.Fork, larger, test.shown.grown(300))
			}
		})
	}
	t.Run("an epoch is left behind", func(t *testing.T) {
		f := follow(t, policy(base+"/0"))
		f.good(old)
		first := old.recovered(290).grown(50)
		f.good(first)
		again := old
		again.epoch = 1 // the survivor has seen no entry of that epoch
		again = again.recovered(280).grown(5)
		if r := f.good(again); r.Dropped != 61 || len(r.Epochs) != 1 || r.Epochs[0] != 2 {
			t.Fatalf("%+v", r)
		}
		f.fails(old.files(), monitor.ErrStale)
		f.fails(first.files(), monitor.ErrStale)
		f.good(again.grown(300))
	})
	t.Run("from the later epoch on", func(t *testing.T) {
		f := follow(t, policy(base+"/1"))
		f.good(old.recovered(250).grown(100))
		f.fails(old.cut(240).files(), monitor.ErrStale)
	})
}

// TestUndeclaredEpochs: checkpoints of a later epoch that the chain does not declare.
func TestUndeclaredEpochs(t *testing.T) {
	old := newLog(300)
	renamed := func(l testLog, epoch uint64) testLog { l.epoch = epoch; return l }
	silent := old.cut(200)
	silent.epoch = 1
	silent = silent.with(1, "silent") // of epoch 1, by its own word alone
	for name, test := range map[string]struct {
		shown testLog
		kind  evidence.Kind
	}{
		"the same tree":         {renamed(old, 1), evidence.Epoch},
		"a larger one":          {renamed(old.grown(10), 1), evidence.Epoch},
		"a smaller one":         {renamed(old.cut(100), 1), evidence.Epoch},
		"a fork":                {renamed(old.cut(100).with(300, "fork"), 1), evidence.Epoch},
		"declared too late":     {old.cut(100).with(250, "fork").recovered(350).grown(3), evidence.Fork},
		"forked before it":      {old.cut(100).with(100, "fork").recovered(200).grown(3), evidence.Fork},
		"another number":        {renamed(old.recovered(250), 2), evidence.Epoch},
		"without chain.recover": {silent.with(200, "silent"), evidence.Entry},
		"a chain that begins so": {func() testLog {
			l := testLog{base: base, epoch: 1}
			l.seal("chain.genesis", "system", "g", nil)
			return l
		}(), evidence.Fork},
		"recover, two epochs, it": {renamed(old.recovered(250).grown(3).recovered(252), 1), evidence.Epoch},
	} {
		t.Run(name, func(t *testing.T) {
			f := follow(t, policy(base+"/0"))
			f.good(old)
			if test.kind == evidence.Fork {
				f.caught(test.shown.files(), test.kind, old, test.shown)
			} else {
				f.caught(test.shown.files(), test.kind)
			}
			f.restart()
			f.good(old.grown(1))
		})
	}
	t.Run("at the first round", func(t *testing.T) {
		f := follow(t, policy(base+"/0"))
		f.caught(renamed(old, 1).files(), evidence.Epoch)
	})
}
