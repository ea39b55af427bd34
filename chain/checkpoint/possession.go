package checkpoint

import (
	"bytes"
	"crypto/ed25519"
	"fmt"

	"filippo.io/mldsa"

	"github.com/exonode/exonode/chain"
)

// possessionLabel is the first line of what a key signs to show that its private half is
// there. No checkpoint and no cosigned message begins like it: an origin has no space,
// and the others have their own labels.
const possessionLabel = "exonode key possession v1"

// possession is the message: the label, the chain's id in hexadecimal, the node's id, and
// all the keys that the node names, each a line.
func possession(id chain.ID, node string, keys []Key) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s\n%s\n", possessionLabel, id, node)
	for i := range keys {
		fmt.Fprintln(&b, keys[i].String())
	}
	return b.Bytes()
}

// ProvePossession signs, with this signer's key, that a node of a chain has all these
// keys: nobody can name another's key as its own, nor one that nobody has. keys are in
// the order in which the node names them, and this one's is among them.
func (s *Signer) ProvePossession(id chain.ID, node string, keys ...Key) ([]byte, error) {
	message := possession(id, node, keys)
	if s.mldsa == nil {
		return ed25519.Sign(s.ed25519, message), nil
	}
	proof, err := s.mldsa.Sign(nil, message, nil)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: sign with ML-DSA-44: %w", err)
	}
	return proof, nil
}

// VerifyPossession reports whether proof is what ProvePossession makes of k and the same
// arguments.
func (k *Key) VerifyPossession(proof []byte, id chain.ID, node string, keys ...Key) bool {
	message := possession(id, node, keys)
	if k.Type != MLDSACosigner {
		return len(k.Public) == ed25519.PublicKeySize && ed25519.Verify(k.Public, message, proof)
	}
	public, err := mldsa.NewPublicKey(mldsa.MLDSA44(), k.Public)
	return err == nil && mldsa.Verify(public, message, proof, nil) == nil
}
