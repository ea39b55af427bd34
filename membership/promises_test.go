package membership

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/exonode/exonode/chain"
)

func proposal(nonce byte, ids ...string) Proposal {
	p := Proposal{Genesis: chain.Hash{1}, Nonce: chain.ID{nonce}}
	for _, id := range ids {
		p.Members = append(p.Members, Member{NodeID: "node-" + id, ServerID: id, PeerAddr: id + ":1"})
	}
	return p
}

// crashFS is a file system of one directory that can fail at any operation and
// lose what was not synced. A file's content is durable once written (WriteFile
// syncs); names are durable once the directory was synced.
type crashFS struct {
	names   map[string][]byte // as seen
	durable map[string][]byte // as a crash leaves them
	// failAt makes the n-th operation from now fail; 0 is never. late says
	// that the operation takes effect all the same.
	failAt int
	late   bool
	ops    int
}

func newCrashFS() *crashFS {
	return &crashFS{names: map[string][]byte{}, durable: map[string][]byte{}}
}

var errDisk = errors.New("disk failed")

func (c *crashFS) step(do func()) error {
	c.ops++
	if c.failAt > 0 && c.ops >= c.failAt {
		if c.ops == c.failAt && c.late {
			do()
		}
		return errDisk
	}
	do()
	return nil
}

func (c *crashFS) ReadFile(name string) ([]byte, error) {
	data, ok := c.names[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return data, nil
}

func (c *crashFS) WriteFile(name string, data []byte) error {
	return c.step(func() { c.names[name] = data })
}

func (c *crashFS) Rename(oldName, newName string) error {
	return c.step(func() {
		c.names[newName] = c.names[oldName]
		delete(c.names, oldName)
	})
}

func (c *crashFS) Remove(name string) error {
	if _, ok := c.names[name]; !ok {
		return fs.ErrNotExist
	}
	return c.step(func() { delete(c.names, name) })
}

func (c *crashFS) SyncDir(string) error {
	return c.step(func() { c.durable = maps.Clone(c.names) })
}

// crash returns what a restart finds: the durable names, or (where lucky) all
// that was seen.
func (c *crashFS) crash(lucky bool) *crashFS {
	if lucky {
		return &crashFS{names: maps.Clone(c.names), durable: maps.Clone(c.durable)}
	}
	return &crashFS{names: maps.Clone(c.durable), durable: maps.Clone(c.durable)}
}

func open(t *testing.T, f FS) *Promises {
	t.Helper()
	p, err := OpenPromises("d", f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// At whatever operation the disk fails, and whatever a crash then keeps: what
// was answered stands, and the store never invents a promise.
func TestPromisesSurviveCrashes(t *testing.T) {
	first, second := proposal(1, "a", "b"), proposal(2, "a", "b")
	for failAt := 1; failAt < 12; failAt++ {
		for _, late := range []bool{false, true} {
			for _, lucky := range []bool{false, true} {
				t.Run(fmt.Sprintf("op%d late=%t lucky=%t", failAt, late, lucky), func(t *testing.T) {
					disk := newCrashFS()
					p := open(t, disk)
					disk.ops, disk.failAt, disk.late = 0, failAt, late

					// may are the digests that a restart may find; zero is none.
					may := map[chain.Hash]bool{{}: true}
					run := func(do func() error, after chain.Hash) bool {
						before := maps.Clone(may)
						may[after] = true
						if do() != nil {
							may = map[chain.Hash]bool{after: true}
							maps.Copy(may, before)
							return false
						}
						may = map[chain.Hash]bool{after: true}
						return true
					}
					_ = run(func() error { _, err := p.Promise(first); return err }, first.Digest()) &&
						run(func() error { return p.Release(first.Digest()) }, chain.Hash{}) &&
						run(func() error { _, err := p.Promise(second); return err }, second.Digest())

					// And it stays so over one more crash.
					for range 2 {
						disk = disk.crash(lucky)
						again := open(t, disk)
						var got chain.Hash
						if h := again.Held(); h != nil {
							got = h.Digest()
						}
						if !may[got] {
							t.Fatalf("found %s, want one of %v", got, may)
						}
						may = map[chain.Hash]bool{got: true}
					}
				})
			}
		}
	}
}

// After a failed write nobody knows what the disk holds: nothing is promised or
// released any more.
func TestPromisesStopAfterAFailure(t *testing.T) {
	disk := newCrashFS()
	p := open(t, disk)
	disk.failAt = disk.ops + 3 // the sync after the rename
	if _, err := p.Promise(proposal(1, "a")); !errors.Is(err, errDisk) {
		t.Fatalf("error %v", err)
	}
	disk.failAt = 0
	if _, err := p.Promise(proposal(2, "a")); !errors.Is(err, errDisk) {
		t.Errorf("another promise after a failure: %v", err)
	}
	if err := p.Release(proposal(1, "a").Digest()); !errors.Is(err, errDisk) {
		t.Errorf("release after a failure: %v", err)
	}
}

func TestOnePromiseAtATime(t *testing.T) {
	p := open(t, newCrashFS())
	first, second := proposal(1, "a", "b"), proposal(2, "a", "b")
	if _, err := p.Promise(first); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Promise(first); err != nil {
		t.Errorf("the same again: %v", err)
	}
	held, err := p.Promise(second)
	if !errors.Is(err, ErrPromised) || held.Digest() != first.Digest() {
		t.Errorf("a second promise: %v, %v", held, err)
	}
	if err := p.Close(); !errors.Is(err, ErrPromised) {
		t.Errorf("close with a promise: %v", err)
	}
	if err := p.Release(second.Digest()); err != nil {
		t.Errorf("release of another: %v", err)
	}
	if p.Held() == nil {
		t.Fatal("released by another's digest")
	}
	if err := p.Release(first.Digest()); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Promise(second); !errors.Is(err, ErrRefused) {
		t.Errorf("promise after close: %v", err)
	}
	unsorted := proposal(1, "b", "a")
	if _, err := open(t, newCrashFS()).Promise(unsorted); !errors.Is(err, ErrMalformed) {
		t.Errorf("unsorted proposal: %v", err)
	}
}

// On the real file system: written, read, damaged, reset.
func TestPromiseFile(t *testing.T) {
	dir := t.TempDir()
	p, err := OpenPromises(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := proposal(1, "a", "b")
	if _, err := p.Promise(want); err != nil {
		t.Fatal(err)
	}
	p, err = OpenPromises(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if h := p.Held(); h == nil || h.Digest() != want.Digest() {
		t.Fatalf("read back %+v", h)
	}
	if _, err := ResetPromise(dir, nil, true); !errors.Is(err, ErrHasState) {
		t.Errorf("reset with raft state: %v", err)
	}
	name := filepath.Join(dir, promiseFile)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		bad := append([]byte(nil), data...)
		bad[i] ^= 0x01
		if err := os.WriteFile(name, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := OpenPromises(dir, nil)
		if err == nil && p.Held().Digest() != want.Digest() {
			t.Fatalf("byte %d changed: read as another promise", i)
		}
	}
	if was, err := ResetPromise(dir, nil, false); !was || err != nil {
		t.Errorf("reset: %t, %v", was, err)
	}
	if was, err := ResetPromise(dir, nil, false); was || err != nil {
		t.Errorf("reset of nothing: %t, %v", was, err)
	}
	if p, err := OpenPromises(dir, nil); err != nil || p.Held() != nil {
		t.Errorf("after reset: %v", err)
	}
}

// The digest is frozen: promises on disk must keep their meaning.
func TestProposalDigest(t *testing.T) {
	const want = "ed9fa87414f48e47863264972491462cb144cfc11087040631f1b306d44e10cf"
	p := Proposal{Genesis: chain.Hash{1, 2}, Nonce: chain.ID{3}, Members: []Member{{NodeID: "n1", ServerID: "s1"}, {NodeID: "n2", ServerID: "s2", PeerAddr: "h:1"}}}
	if got := p.Digest().String(); got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
	seen := map[chain.Hash]bool{p.Digest(): true}
	for name, change := range map[string]func(*Proposal){
		"genesis":  func(p *Proposal) { p.Genesis[0]++ },
		"nonce":    func(p *Proposal) { p.Nonce[0]++ },
		"server":   func(p *Proposal) { p.Members[0].ServerID = "s0" },
		"node":     func(p *Proposal) { p.Members[0].NodeID = "n0" },
		"boundary": func(p *Proposal) { p.Members[0].ServerID, p.Members[0].NodeID = "s1n", "1" },
		"fewer":    func(p *Proposal) { p.Members = p.Members[:1] },
	} {
		q := p
		q.Members = append([]Member(nil), p.Members...)
		change(&q)
		if seen[q.Digest()] {
			t.Errorf("%s: the digest does not change", name)
		}
		seen[q.Digest()] = true
	}
	q := p
	q.Members = append([]Member(nil), p.Members...)
	q.Members[0].PeerAddr = "elsewhere:1"
	if q.Digest() != p.Digest() {
		t.Error("an address changes the digest")
	}
}
