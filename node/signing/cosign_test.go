package signing

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

// grown is a log in memory.
type grown struct{ roots []chain.Hash } // of 0, 1, … leaves

func grow(leaves int, fork byte) *grown {
	g, tree := new(grown), new(chain.Tree)
	g.roots = append(g.roots, tree.Root())
	for i := range leaves {
		leaf := []byte{byte(i), 0}
		if i >= 5 {
			leaf[1] = fork
		}
		tree.Append(leaf, nil)
		g.roots = append(g.roots, tree.Root())
	}
	return g
}

func (g *grown) Size() uint64 { return uint64(len(g.roots) - 1) }

var errNotHere = errors.New("not here")

func (g *grown) RootAt(size uint64) (chain.Hash, error) {
	if size >= uint64(len(g.roots)) {
		return chain.Hash{}, errNotHere
	}
	return g.roots[size], nil
}

const origin = "exonode/test/0"

func key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

type parties struct {
	log      *Log
	keys     []checkpoint.Key
	cosigner *Cosigner
	cosigns  []checkpoint.Key
	judged   error
	disk     *disk
}

func newParties(t *testing.T) *parties {
	t.Helper()
	p := &parties{disk: newDisk()}
	logSigner, err := checkpoint.NewLogSigner(origin, key(1))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := OpenMemory("dir/log.json", p.disk)
	if err != nil {
		t.Fatal(err)
	}
	if p.log, err = NewLog(memory, logSigner); err != nil {
		t.Fatal(err)
	}
	first, err := checkpoint.NewCosigner("n1", key(2))
	if err != nil {
		t.Fatal(err)
	}
	second, err := checkpoint.NewMLDSACosigner("n1", bytes.Repeat([]byte{3}, 32))
	if err != nil {
		t.Fatal(err)
	}
	p.keys, p.cosigns = []checkpoint.Key{logSigner.Key()}, []checkpoint.Key{first.Key(), second.Key()}
	clock := func() time.Time { return time.Unix(1_700_000_000, 0) }
	if p.cosigner, err = NewCosigner(openAt(t, p.disk), func(uint64) error { return p.judged }, clock, first, second); err != nil {
		t.Fatal(err)
	}
	if _, err := NewCosigner(memory, nil, nil, logSigner); err == nil {
		t.Error("a log's key cosigns")
	}
	if _, err := NewLog(memory, first); err == nil {
		t.Error("a cosigner's key signs as a log")
	}
	return p
}

func (p *parties) sign(t *testing.T, g *grown) *checkpoint.Note {
	t.Helper()
	n, err := p.log.Sign(g)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestCosign(t *testing.T) {
	p := newParties(t)
	g := grow(10, 0)
	n := p.sign(t, g)
	signatures, err := p.cosigner.Cosign(n, p.keys, g)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range signatures {
		n.Add(s)
	}
	verified, err := n.Verify(append(p.keys, p.cosigns...)...)
	if err != nil || len(verified) != 3 {
		t.Fatalf("%v, %v", verified, err)
	}
	for _, v := range verified[1:] {
		if v.Time != 1_700_000_000 {
			t.Errorf("%s: time %d", v.Key.Name, v.Time)
		}
	}
}

func TestCosignRefuses(t *testing.T) {
	g := grow(10, 0)
	for name, test := range map[string]struct {
		note func(t *testing.T, p *parties) *checkpoint.Note
		tree *grown
		want error
	}{
		"not signed by the log": {func(t *testing.T, p *parties) *checkpoint.Note {
			n := p.sign(t, g)
			n.Signatures = nil
			return n
		}, g, ErrNotTheLog},
		"changed after it was signed": {func(t *testing.T, p *parties) *checkpoint.Note {
			n := p.sign(t, g)
			n.Checkpoint.Size--
			return n
		}, g, ErrNotTheLog},
		"not that far":                   {func(t *testing.T, p *parties) *checkpoint.Note { return p.sign(t, g) }, grow(9, 0), ErrBehind},
		"another chain than this node's": {func(t *testing.T, p *parties) *checkpoint.Note { return p.sign(t, grow(10, 1)) }, g, ErrContradicts},
		"the judge says no": {func(t *testing.T, p *parties) *checkpoint.Note {
			p.judged = errNotHere
			return p.sign(t, g)
		}, g, errNotHere},
		"older than what was cosigned": {func(t *testing.T, p *parties) *checkpoint.Note {
			older := p.sign(t, grow(8, 0))
			if _, err := p.cosigner.Cosign(p.sign(t, g), p.keys, g); err != nil {
				t.Fatal(err)
			}
			return older
		}, g, ErrOlder},
		// The node's own store was made anew: what it has fits the checkpoint, and not
		// what it signed.
		"a store that was doctored": {func(t *testing.T, p *parties) *checkpoint.Note {
			if _, err := p.cosigner.Cosign(p.sign(t, grow(8, 0)), p.keys, g); err != nil {
				t.Fatal(err)
			}
			p.log.memory = &Memory{path: "dir/other.json", fs: p.disk, heads: map[string]Head{}}
			return p.sign(t, grow(12, 1))
		}, grow(12, 1), ErrContradicts},
		"a disk that fails": {func(t *testing.T, p *parties) *checkpoint.Note {
			n := p.sign(t, g)
			p.disk.ops, p.disk.stopAt = 0, 1
			return n
		}, g, ErrBroken},
	} {
		t.Run(name, func(t *testing.T) {
			p := newParties(t)
			n := test.note(t, p)
			before, _ := p.cosigner.memory.Last(origin)
			if s, err := p.cosigner.Cosign(n, p.keys, test.tree); !errors.Is(err, test.want) || s != nil {
				t.Errorf("%v (%d signatures), want %v", err, len(s), test.want)
			}
			if after, _ := p.cosigner.memory.Last(origin); after != before {
				t.Errorf("it remembers %v", after)
			}
		})
	}
}

// A log never signs two trees that are not one log's.
func TestLogRefuses(t *testing.T) {
	p := newParties(t)
	p.sign(t, grow(8, 0))
	if _, err := p.log.Sign(grow(9, 1)); !errors.Is(err, ErrContradicts) {
		t.Errorf("a fork: %v", err)
	}
	if _, err := p.log.Sign(grow(8, 1)); !errors.Is(err, ErrContradicts) {
		t.Errorf("a fork of the same size: %v", err)
	}
	if _, err := p.log.Sign(grow(7, 0)); !errors.Is(err, ErrOlder) {
		t.Errorf("an older one: %v", err)
	}
	p.sign(t, grow(8, 0))
	p.sign(t, grow(20, 0))
}
