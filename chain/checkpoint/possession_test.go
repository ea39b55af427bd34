package checkpoint_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

var possessionChain = chain.ID{0xc0, 15: 0xee}

// TestPossessionGolden: the Ed25519 signatures over the messages that docs/FORMAT.md
// gives, written out here by hand.
func TestPossessionGolden(t *testing.T) {
	s, err := checkpoint.NewCosigner("exonode/node/n1", ed25519.NewKeyFromSeed(seed(1)))
	if err != nil {
		t.Fatal(err)
	}
	key := s.Key()
	message := "exonode key possession v1\nc00000000000000000000000000000ee\nn1\n" + key.String() + "\n"
	want := ed25519.Sign(ed25519.NewKeyFromSeed(seed(1)), []byte(message))
	const golden = "cc5772e17d8b7b3f3eb17dd3bd626196d869b05a8f94a4b6a744524c7925d1d27d4736a517c770ebb1df559c337a5f4fdcd6cd4404e12449a1a6242f779ad20a"
	got, err := s.ProvePossession(possessionChain, "n1", key)
	if err != nil || !bytes.Equal(got, want) || hex.EncodeToString(got) != golden {
		t.Errorf("%x (%v), want %x, golden %s", got, err, want, golden)
	}
	old, next := ed25519.NewKeyFromSeed(seed(1)), ed25519.NewKeyFromSeed(seed(2))
	was, is := old.Public().(ed25519.PublicKey), next.Public().(ed25519.PublicKey)
	message = "exonode log key rotation v1\nc00000000000000000000000000000ee\n" + hex.EncodeToString(was) + "\n" + hex.EncodeToString(is) + "\n"
	const rotated = "d3ac02f6ef74b4a3bcb67c65fa93ddd036c6023cbde06c7159a051cf36223ef056ed4cfd40ae8782b058daef5e56f919a59d67c8bccd140c026686cbcbda520b"
	if got := checkpoint.SignRotation(old, possessionChain, was, is); !bytes.Equal(got, ed25519.Sign(old, []byte(message))) || hex.EncodeToString(got) != rotated {
		t.Errorf("rotation: %x, golden %s", got, rotated)
	}
}

// TestPossession: a proof is of one key, one node, one chain, and all keys that are named.
func TestPossession(t *testing.T) {
	ed, err := checkpoint.NewCosigner("exonode/node/n1", ed25519.NewKeyFromSeed(seed(1)))
	if err != nil {
		t.Fatal(err)
	}
	ml, err := checkpoint.NewMLDSACosigner("exonode/node/n1", seed(2))
	if err != nil {
		t.Fatal(err)
	}
	keys := []checkpoint.Key{ed.Key(), ml.Key()}
	for i, s := range []*checkpoint.Signer{ed, ml} {
		proof, err := s.ProvePossession(possessionChain, "n1", keys...)
		if err != nil {
			t.Fatal(err)
		}
		key, other := keys[i], keys[1-i]
		if !key.VerifyPossession(proof, possessionChain, "n1", keys...) {
			t.Errorf("key %d: its own proof does not verify", i)
		}
		for name, ok := range map[string]bool{
			"another chain":   key.VerifyPossession(proof, chain.ID{1}, "n1", keys...),
			"another node":    key.VerifyPossession(proof, possessionChain, "n2", keys...),
			"fewer keys":      key.VerifyPossession(proof, possessionChain, "n1", keys[i]),
			"another order":   key.VerifyPossession(proof, possessionChain, "n1", keys[1], keys[0]),
			"the other key's": other.VerifyPossession(proof, possessionChain, "n1", keys...),
			"none":            key.VerifyPossession(nil, possessionChain, "n1", keys...),
			"cut":             key.VerifyPossession(proof[1:], possessionChain, "n1", keys...),
		} {
			if ok {
				t.Errorf("key %d: a proof verifies for %s", i, name)
			}
		}
	}
}

// TestRotation: both keys must have signed, for this chain and in this order.
func TestRotation(t *testing.T) {
	old, next := ed25519.NewKeyFromSeed(seed(1)), ed25519.NewKeyFromSeed(seed(2))
	was, is := old.Public().(ed25519.PublicKey), next.Public().(ed25519.PublicKey)
	byOld, byNext := checkpoint.SignRotation(old, possessionChain, was, is), checkpoint.SignRotation(next, possessionChain, was, is)
	if !checkpoint.VerifyRotation(possessionChain, was, is, byOld, byNext) {
		t.Error("a genuine one does not verify")
	}
	for name, ok := range map[string]bool{
		"another chain": checkpoint.VerifyRotation(chain.ID{1}, was, is, byOld, byNext),
		"turned around": checkpoint.VerifyRotation(possessionChain, is, was, byNext, byOld),
		"no old":        checkpoint.VerifyRotation(possessionChain, was, is, byNext, byNext),
		"no new":        checkpoint.VerifyRotation(possessionChain, was, is, byOld, byOld),
		"a short key":   checkpoint.VerifyRotation(possessionChain, was[1:], is, byOld, byNext),
		"no key":        checkpoint.VerifyRotation(possessionChain, was, nil, byOld, byNext),
	} {
		if ok {
			t.Errorf("%s: verifies", name)
		}
	}
}
