package signing

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"testing"

	"pgregory.net/rapid"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/membership"
)

// disk is a file system of one directory that stops at an operation, as a machine does
// that loses power. What WriteFile wrote is durable, names are once the directory was
// synced.
type disk struct {
	names, durable map[string][]byte
	// stopAt is the operation that is not done any more; late says that it is done, and
	// nobody hears of it. 0 is never.
	stopAt, ops int
	late        bool
}

var _ membership.FS = (*disk)(nil)

func newDisk() *disk { return &disk{names: map[string][]byte{}, durable: map[string][]byte{}} }

var errPower = errors.New("power is gone")

func (d *disk) step(do func()) error {
	d.ops++
	if d.stopAt == 0 || d.ops < d.stopAt {
		do()
		return nil
	}
	if d.ops == d.stopAt && d.late {
		do()
	}
	return errPower
}

func (d *disk) ReadFile(name string) ([]byte, error) {
	if b, ok := d.names[name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (d *disk) WriteFile(name string, b []byte) error {
	return d.step(func() { d.names[name] = bytes.Clone(b) })
}

func (d *disk) Rename(from, to string) error {
	return d.step(func() { d.names[to] = d.names[from]; delete(d.names, from) })
}

func (d *disk) Remove(name string) error { return d.step(func() { delete(d.names, name) }) }

func (d *disk) SyncDir(string) error { return d.step(func() { d.durable = maps.Clone(d.names) }) }

// restart returns the disk as the next start finds it: with what was synced, or where
// lucky with all that was written.
func (d *disk) restart(lucky bool) *disk {
	if lucky {
		return &disk{names: maps.Clone(d.names), durable: maps.Clone(d.durable)}
	}
	return &disk{names: maps.Clone(d.durable), durable: maps.Clone(d.durable)}
}

// log is an append-only log whose i-th tree has a root that follows from i and fork.
func tree(size uint64, fork byte) Head {
	return Head{Size: size, Root: chain.LeafHash(fmt.Appendf(nil, "%d of fork %d", size, fork))}
}

// extends answers for logs of tree: two trees are consistent where they are of one fork.
func extends(fork byte) func(Head) error {
	return func(last Head) error {
		if last != tree(last.Size, fork) {
			return fmt.Errorf("%w: another fork", chain.ErrProof)
		}
		return nil
	}
}

func openAt(t interface {
	Helper()
	Fatal(...any)
}, d *disk) *Memory {
	t.Helper()
	m, err := OpenMemory("dir/signed.json", d)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMemoryRefuses(t *testing.T) {
	m := openAt(t, newDisk())
	advance := func(origin string, h Head, fork byte, want error) {
		t.Helper()
		if err := m.Advance(origin, h, extends(fork)); !errors.Is(err, want) {
			t.Errorf("%s: %d entries of fork %d: %v, want %v", origin, h.Size, fork, err, want)
		}
	}
	advance("a", tree(5, 1), 1, nil)
	advance("a", tree(5, 1), 1, nil) // the same again
	advance("a", tree(9, 1), 1, nil)
	advance("a", tree(8, 1), 1, ErrOlder)
	advance("a", tree(9, 2), 2, ErrContradicts)
	advance("a", tree(12, 2), 2, ErrContradicts)
	advance("b", tree(3, 2), 2, nil) // another log has its own
	unread := errors.New("can't read")
	if err := m.Advance("a", tree(10, 1), func(Head) error { return unread }); !errors.Is(err, unread) || errors.Is(err, ErrContradicts) {
		t.Errorf("what can't be read: %v", err)
	}
	if got, ok := m.Last("a"); !ok || got != tree(9, 1) {
		t.Errorf("last: %v, %t", got, ok)
	}
}

// Whatever is asked, wherever the power goes and whatever the disk then has: what was
// allowed to be signed, over all lives of a node, are trees of one fork, each at least as
// large as what was allowed before it.
func TestMemorySurvivesCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := newDisk()
		m := openAt(t, d)
		var signed Head
		fork := byte(0)
		for range rapid.IntRange(1, 30).Draw(t, "requests") {
			d.ops, d.stopAt = 0, rapid.IntRange(0, 4).Draw(t, "the power goes at operation")
			d.late = rapid.Bool().Draw(t, "done, and nobody hears of it")
			h := tree(rapid.Uint64Range(1, 20).Draw(t, "size"), rapid.ByteRange(1, 2).Draw(t, "fork"))
			of := byte(1)
			if h == tree(h.Size, 2) {
				of = 2
			}
			err := m.Advance("log", h, extends(of))
			if err == nil {
				if fork != 0 && fork != of {
					t.Fatalf("fork %d is signed after fork %d", of, fork)
				}
				if h.Size < signed.Size {
					t.Fatalf("%d entries are signed after %d", h.Size, signed.Size)
				}
				fork, signed = of, h
			}
			if errors.Is(err, errPower) {
				if again := m.Advance("log", tree(100, of), extends(of)); !errors.Is(again, ErrBroken) {
					t.Fatalf("after a write that failed: %v", again)
				}
				d = d.restart(rapid.Bool().Draw(t, "what was not synced is there"))
				m = openAt(t, d)
			}
			if last, _ := m.Last("log"); last.Size < signed.Size {
				t.Fatalf("%d entries are remembered, %d were signed", last.Size, signed.Size)
			}
		}
	})
}

func TestDamagedMemory(t *testing.T) {
	d := newDisk()
	if err := openAt(t, d).Advance("log", tree(7, 1), extends(1)); err != nil {
		t.Fatal(err)
	}
	whole := d.names["dir/signed.json"]
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1
		if heads, err := decodeMemory(b); err == nil && heads["log"] != tree(7, 1) {
			t.Errorf("bit %d: read as %v", i*8, heads)
		}
	}
	for n := range whole {
		d.names["dir/signed.json"] = whole[:n]
		if _, err := OpenMemory("dir/signed.json", d); err == nil {
			t.Errorf("the first %d bytes are read", n)
		}
	}
}

func FuzzMemory(f *testing.F) {
	d := newDisk()
	if err := openMemoryForFuzz(d); err != nil {
		f.Fatal(err)
	}
	f.Add(d.names["dir/signed.json"])
	f.Fuzz(func(t *testing.T, b []byte) {
		heads, err := decodeMemory(b)
		if err != nil {
			return
		}
		d := newDisk()
		m := &Memory{path: "dir/signed.json", fs: d}
		if err := m.write(heads); err != nil {
			t.Fatal(err)
		}
		again, err := decodeMemory(d.names["dir/signed.json"])
		if err != nil || !maps.Equal(again, heads) {
			t.Fatalf("%v came back as %v (%v)", heads, again, err)
		}
	})
}

func openMemoryForFuzz(d *disk) error {
	m, err := OpenMemory("dir/signed.json", d)
	if err != nil {
		return err
	}
	return m.Advance("log", tree(7, 1), extends(1))
}
