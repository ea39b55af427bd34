package chain_test

import (
	"errors"
	"testing"

	"github.com/exonode/exonode/chain"
)

// TestConsistencyRoots: a proof leads to both roots by itself, and one of another length
// to none.
func TestConsistencyRoots(t *testing.T) {
	b := &bigTree{tiles: memoryTiles{}}
	b.grow(t, 600)
	for _, to := range []uint64{2, 3, 7, 8, 9, 256, 257, 600} {
		for from := uint64(1); from < to; from++ {
			proof, err := chain.ConsistencyProof(from, to, b.reader())
			if err != nil {
				t.Fatal(err)
			}
			if from&(from-1) == 0 {
				proof = append([]chain.Hash{b.root(t, from)}, proof...)
			}
			old, root, err := chain.ConsistencyRoots(from, to, proof)
			if err != nil || old != b.root(t, from) || root != b.root(t, to) {
				t.Fatalf("%d in %d: %v, %v, %v", from, to, old, root, err)
			}
			for name, bad := range map[string][]chain.Hash{
				"empty": nil, "short": proof[:len(proof)-1], "long": append(proof[:len(proof):len(proof)], chain.Hash{}),
			} {
				if _, _, err := chain.ConsistencyRoots(from, to, bad); !errors.Is(err, chain.ErrProof) {
					t.Fatalf("%d in %d, %s: %v", from, to, name, err)
				}
			}
		}
	}
	for _, sizes := range [][2]uint64{{0, 5}, {5, 5}, {6, 5}, {0, 0}} {
		if _, _, err := chain.ConsistencyRoots(sizes[0], sizes[1], []chain.Hash{{}}); !errors.Is(err, chain.ErrProof) {
			t.Errorf("%d in %d: %v", sizes[0], sizes[1], err)
		}
	}
}
