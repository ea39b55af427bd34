package crash_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/node/raftstore"
)

var (
	seeds = flag.Uint64("seeds", 2, "how many seeds, from 1")
	seed  = flag.Uint64("seed", 0, "one seed only")
	cuts  = flag.Int("cuts", 25, "power cuts looked at in each record")
	must  = flag.Bool("must", false, "fail where strace does not work, rather than skip")
)

// generations is how often the power is cut and what it left is worked on.
const generations = 3

// TestPowerCut works on real stores, kills the process that does, lets another go on,
// cuts the power, and begins again on what is left.
func TestPowerCut(t *testing.T) {
	needStrace(t)
	from, to := uint64(1), *seeds
	if *seed != 0 {
		from, to = *seed, *seed
	}
	for s := from; s <= to; s++ {
		for _, backend := range []raftstore.Backend{raftstore.WAL, raftstore.BoltDB} {
			t.Run(fmt.Sprintf("%s/%d", backend, s), func(t *testing.T) {
				h := newHistory(t, backend, s)
				for range generations {
					h.generation(nil)
				}
				if h.failures > 0 {
					t.Errorf("seed %d: %d of %d power cuts lost something", s, h.failures, h.looks)
				}
			})
		}
	}
}

// TestFirstStart cuts the power after every call of a first start: whatever is left of
// it, the next one comes up.
func TestFirstStart(t *testing.T) {
	needStrace(t)
	for _, backend := range []raftstore.Backend{raftstore.WAL, raftstore.BoltDB} {
		t.Run(string(backend), func(t *testing.T) {
			h := newHistory(t, backend, 1)
			d, err := loadDisk(h.base)
			h.must(err)
			said := filepath.Join(h.dir(), "said")
			m := newMachine(d, said, h.heard)
			calls, err := parse(h.child(said, 0, false))
			h.must(err)
			for _, c := range calls {
				h.must(m.play(c))
				if len(m.files) == 0 || c.name == "close" {
					continue
				}
				for range 4 * *seeds {
					h.cut(d, false)
				}
			}
			if h.looks == 0 {
				t.Error("no power cut was looked at")
			}
		})
	}
}

// TestForgottenSync leaves out syncs of one kind: the test above then finds that
// something is lost.
func TestForgottenSync(t *testing.T) {
	needStrace(t)
	for _, test := range []struct {
		name    string
		backend raftstore.Backend
		forget  func(path string) bool
	}{
		{"segments", raftstore.WAL, func(p string) bool { return strings.HasSuffix(p, ".wal") }},
		{"segments' meta store", raftstore.WAL, func(p string) bool { return strings.Contains(p, "wal-meta.db") }},
		{"names of segments", raftstore.WAL, func(p string) bool { return strings.HasSuffix(p, "/wal") }},
		{"raft.db", raftstore.BoltDB, func(p string) bool { return strings.Contains(p, "/raft.db") }},
		{"manifests", raftstore.BoltDB, func(p string) bool { return strings.Contains(p, "/manifests/") }},
		{"names of manifests", raftstore.BoltDB, func(p string) bool { return strings.HasSuffix(p, "/manifests") }},
		{"outbox", raftstore.BoltDB, func(p string) bool { return strings.HasSuffix(filepath.Dir(p), "/outbox") }},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newHistory(t, test.backend, 1)
			h.quiet = true
			h.generation(test.forget)
			if h.failures == 0 {
				t.Errorf("%d power cuts, and nothing was lost", h.looks)
			}
		})
	}
}

// history is a node's stores over several lives.
type history struct {
	t       *testing.T
	backend raftstore.Backend
	seed    uint64
	r       *rand.Rand
	base    string // the files that the next child works on
	runs    int
	// acked is what was acknowledged; under is with the operation that is under way, the
	// same where there is none. found is what a child finds when it opens the stores,
	// from when on that counts.
	acked, under, found *picture
	opening             bool
	quiet               bool // failures are counted and not shown

	looks, failures int
}

func newHistory(t *testing.T, backend raftstore.Backend, seed uint64) *history {
	p := newPicture()
	h := &history{t: t, backend: backend, seed: seed, r: rand.New(rand.NewPCG(seed, 0)), acked: p, under: p, found: p}
	h.base = h.dir()
	return h
}

// generation runs a child that is killed somewhere, and one after it, and looks at power
// cuts all along. From one of them the next generation starts.
func (h *history) generation(forget func(string) bool) {
	h.t.Helper()
	d, err := loadDisk(h.base)
	h.must(err)
	said := filepath.Join(h.dir(), "said")
	m := newMachine(d, said, h.heard)
	m.forget = forget

	h.play(m, h.child(said, 20+h.r.IntN(40), true), -1)
	// The kernel still has what was written.
	after := h.dir()
	h.must(os.CopyFS(after, os.DirFS(h.base)))
	if h.found, err = h.look(after); err != nil {
		h.t.Fatalf("seed %d, after a kill: %v", h.seed, err)
	}
	m.files, m.syncs = map[string]*open{}, map[int]syncing{} // another process
	left, found := h.play(m, h.child(said, 40, false), h.r.IntN(*cuts))
	if forget == nil && left == "" {
		h.t.Fatalf("seed %d: nothing to go on with", h.seed)
	}
	h.base, h.acked, h.under, h.found = left, found, found, found
}

// play plays a record and looks at power cuts. It returns what that of the given number
// left, and what that holds.
func (h *history) play(m *machine, record string, chosen int) (left string, found *picture) {
	h.t.Helper()
	calls, err := parse(record)
	h.must(err)
	at := make([]int, len(calls))
	for range *cuts {
		at[h.r.IntN(len(calls))]++
	}
	for i, c := range calls {
		h.must(m.play(c))
		if h.quiet && h.failures > 0 {
			at[i] = 0 // one is enough, and one that does not end takes its time
		}
		for ; at[i] > 0; at[i]-- {
			dir, p := h.cut(m.disk, chosen == 0)
			if p != nil && chosen == 0 {
				left, found = dir, p
			}
			chosen--
		}
	}
	return left, found
}

// cut cuts the power, and looks at what is left. It returns the directory as it was
// before anything opened it, where it is kept, and what it holds, nil where that is not
// what was acknowledged.
func (h *history) cut(d *disk, keep bool) (dir string, found *picture) {
	h.t.Helper()
	h.looks++
	lot := h.r.Uint64()
	write := func() string {
		dir := h.dir()
		h.must(d.write(dir, newLuck(rand.New(rand.NewPCG(lot, 0)))))
		return dir
	}
	opened := write()
	found, err := h.look(opened)
	if err != nil {
		h.failures++
		if !h.quiet {
			h.t.Errorf("seed %d, power cut %d, %s: %v", h.seed, h.looks, newLuck(rand.New(rand.NewPCG(lot, 0))), err)
		}
	}
	h.must(os.RemoveAll(opened))
	if keep {
		dir = write()
	}
	return dir, found
}

// lookLimit is far more than a look takes.
const lookLimit = 30 * time.Second

// look is look, which must end: bbolt goes round in circles where pages of a tree that
// were not synced come to name each other.
func (h *history) look(dir string) (*picture, error) {
	type seen struct {
		p   *picture
		err error
	}
	done := make(chan seen, 1)
	before, after := h.acked, h.under
	go func() { // one that does not end is left to the end of the process
		var s seen
		defer func() {
			if p := recover(); p != nil {
				s = seen{err: fmt.Errorf("reading panics: %v", p)}
			}
			done <- s
		}()
		debug.SetPanicOnFault(true) // a database that is cut short faults where it is read
		s.p, s.err = look(dir, h.backend, before, after)
	}()
	select {
	case s := <-done:
		return s.p, s.err
	case <-time.After(lookLimit):
		return nil, fmt.Errorf("reading does not end within %v", lookLimit)
	}
}

// dir makes a directory, in memory where it can: what is to be on disk is what the
// record says, and no disk is needed for it.
func (h *history) dir() string {
	h.t.Helper()
	parent := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "exonode-crash-")
	h.must(err)
	h.t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// must ends the test on an error of the test itself.
func (h *history) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// heard is told what the child announces.
func (h *history) heard(line string) error {
	if line == "done\n" {
		if h.opening {
			h.under = h.found
		}
		h.acked, h.opening = h.under, false
		return nil
	}
	o, err := parseOrder(line)
	if h.opening = o.Op == "open"; !h.opening {
		h.under = h.acked.with(o)
	}
	return err
}

// child runs one, and returns strace's record.
func (h *history) child(said string, orders int, kill bool) string {
	h.t.Helper()
	h.runs++
	text, err := json.Marshal(task{
		Dir: h.base, Said: said, Backend: h.backend, Orders: orders,
		Seed: h.seed<<16 + uint64(h.runs), N: uint64(h.runs) * 1000,
	})
	h.must(err)
	self, err := os.Executable()
	h.must(err)
	record := filepath.Join(h.dir(), "strace")
	args := []string{"-f", "--seccomp-bpf", "-xx", "-s", "4000000", "-o", record, "-e", "trace=" + traced}
	if kill {
		// On its way into a call, which is not done.
		what := []string{"pwrite64", "fdatasync", "fsync", "unlinkat"}[h.r.IntN(4)]
		args = append(args, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", what, 1+h.r.IntN(40)))
	}
	cmd := exec.Command("strace", append(args, self)...)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	out, err := cmd.CombinedOutput()
	if err != nil && (!kill || cmd.ProcessState.Exited()) {
		h.t.Fatalf("seed %d, child: %v\n%s", h.seed, err, out)
	}
	return record
}
