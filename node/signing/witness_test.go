package signing

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogwitness"
)

// sealed is a log with real leaves, for consistency proofs.
type sealed struct {
	tree   chain.Tree
	roots  []chain.Hash
	signer *checkpoint.Signer
}

func newSealed(t testing.TB, leaves int, fork byte) *sealed {
	t.Helper()
	signer, err := checkpoint.NewLogSigner(origin, key(1))
	if err != nil {
		t.Fatal(err)
	}
	s := &sealed{signer: signer}
	s.roots = append(s.roots, s.tree.Root())
	for i := range leaves {
		leaf := []byte{byte(i), 0}
		if i >= 5 {
			leaf[1] = fork
		}
		s.tree.Append(leaf, nil)
		s.roots = append(s.roots, s.tree.Root())
	}
	return s
}

// request asks to cosign the tree of a size, from an earlier one.
func (s *sealed) request(t testing.TB, old, size uint64) *tlogwitness.Request {
	t.Helper()
	r := &tlogwitness.Request{Old: old, Note: s.note(t, size)}
	if old > 0 && old < size {
		part := new(chain.Tree)
		for i := range size {
			leaf := []byte{byte(i), 0}
			if i >= 5 && s.roots[6] != newSealed(t, 6, 0).roots[6] {
				leaf[1] = 1
			}
			part.Append(leaf, nil)
		}
		if part.Root() != s.roots[size] {
			t.Fatal("the tree is not the one that was meant")
		}
		var err error
		if r.Proof, err = chain.ConsistencyProof(old, size, part.Reader(nil)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (s *sealed) note(t testing.TB, size uint64) *checkpoint.Note {
	t.Helper()
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: origin, Size: size, Root: s.roots[size]}}
	signature, err := s.signer.Sign(&n.Checkpoint, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.Add(signature)
	return n
}

func newWitness(t testing.TB, d *disk) *Witness {
	t.Helper()
	ed, err := checkpoint.NewCosigner("witness.example/w", key(9))
	if err != nil {
		t.Fatal(err)
	}
	ml, err := checkpoint.NewMLDSACosigner("witness.example/w", bytes.Repeat([]byte{8}, 32))
	if err != nil {
		t.Fatal(err)
	}
	m, err := OpenMemory("dir/witness.json", d)
	if err != nil {
		t.Fatal(err)
	}
	log := newSealed(t, 0, 0).signer.Key()
	w, err := NewWitness(m, []checkpoint.Key{log}, func() time.Time { return time.Unix(1_700_000_000, 0) }, ed, ml)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWitness(t *testing.T) {
	d := newDisk()
	w, log := newWitness(t, d), newSealed(t, 20, 0)
	for _, step := range [][2]uint64{{0, 0}, {0, 7}, {7, 7}, {7, 8}, {8, 20}} {
		r := log.request(t, step[0], step[1])
		signatures, err := w.Add(r)
		if err != nil {
			t.Fatalf("%v: %v", step, err)
		}
		n := r.Note
		for _, s := range signatures {
			n.Add(s)
		}
		by, err := n.Verify(w.Keys()...)
		if err != nil || len(by) != 2 || by[0].Time != 1_700_000_000 {
			t.Errorf("%v: %v, %v", step, by, err)
		}
	}
	// It remembers, also after a crash that lost what was not synced.
	again := newWitness(t, d.restart(false))
	var size *SizeError
	if _, err := again.Add(log.request(t, 0, 20)); !errors.As(err, &size) || size.Size != 20 {
		t.Errorf("after its restart: %v", err)
	}
}

func TestWitnessRefuses(t *testing.T) {
	log, forked := newSealed(t, 20, 0), newSealed(t, 20, 1)
	for name, test := range map[string]struct {
		change func(r *tlogwitness.Request)
		// from and to are of the request, after 8 entries were cosigned.
		from, to uint64
		log      *sealed
		want     error
	}{
		"another log":      {func(r *tlogwitness.Request) { r.Note.Checkpoint.Origin = "example.org" }, 8, 10, log, ErrUnknownLog},
		"unsigned":         {func(r *tlogwitness.Request) { r.Note.Signatures = nil }, 8, 10, log, ErrNotTheLog},
		"a false root":     {func(r *tlogwitness.Request) { r.Note.Checkpoint.Root[0]++ }, 8, 10, log, ErrNotTheLog},
		"backwards":        {nil, 8, 7, log, ErrRequest},
		"a fork":           {nil, 8, 10, forked, chain.ErrProof},
		"a fork, in place": {nil, 8, 8, forked, ErrContradicts},
		"no proof":         {func(r *tlogwitness.Request) { r.Proof = nil }, 8, 10, log, chain.ErrProof},
		"a longer proof":   {func(r *tlogwitness.Request) { r.Proof = append(r.Proof, chain.Hash{}) }, 8, 10, log, chain.ErrProof},
		"another proof":    {func(r *tlogwitness.Request) { r.Proof[0][0]++ }, 8, 10, log, chain.ErrProof},
		"a proof in place": {func(r *tlogwitness.Request) { r.Proof = []chain.Hash{{}} }, 8, 8, log, ErrRequest},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWitness(t, newDisk())
			if _, err := w.Add(log.request(t, 0, 8)); err != nil {
				t.Fatal(err)
			}
			r := test.log.request(t, test.from, test.to)
			if test.change != nil {
				test.change(r)
			}
			if s, err := w.Add(r); !errors.Is(err, test.want) || s != nil {
				t.Errorf("%v (%d signatures), want %v", err, len(s), test.want)
			}
			if last, _ := w.memory.Last(origin); last.Size != 8 {
				t.Errorf("it remembers %+v", last)
			}
		})
	}
	for _, old := range []uint64{0, 7, 9} {
		w := newWitness(t, newDisk())
		if _, err := w.Add(log.request(t, 0, 8)); err != nil {
			t.Fatal(err)
		}
		var size *SizeError
		if _, err := w.Add(log.request(t, old, 10)); !errors.As(err, &size) || size.Size != 8 {
			t.Errorf("from %d: %v", old, err)
		}
	}
	if _, err := NewWitness(nil, nil, nil, log.signer); err == nil {
		t.Error("a log's key cosigns")
	}
}

// TestWitnessOnce: of two requests from the same size to different trees, one is cosigned.
func TestWitnessOnce(t *testing.T) {
	log, forked := newSealed(t, 20, 0), newSealed(t, 20, 1)
	w := newWitness(t, newDisk())
	if _, err := w.Add(log.request(t, 0, 4)); err != nil {
		t.Fatal(err)
	}
	requests := []*tlogwitness.Request{log.request(t, 4, 10), forked.request(t, 4, 10)}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards signed
	signed := 0
	for _, r := range requests {
		wg.Go(func() {
			if _, err := w.Add(r); err == nil {
				mu.Lock()
				defer mu.Unlock()
				signed++
			}
		})
	}
	wg.Wait()
	if signed != 1 {
		t.Errorf("%d of two contradicting trees were cosigned", signed)
	}
}
