package checkpoint

import (
	"crypto/ed25519"
	"encoding/hex"
	"fmt"

	"github.com/exonode/exonode/chain"
)

// rotationLabel is the first line of what both keys of a log sign where one follows the
// other. No checkpoint begins like it: an origin has no space.
const rotationLabel = "exonode log key rotation v1"

// rotation is the message: the label, the chain's id, and the old and the new public key,
// in hexadecimal, each a line.
func rotation(id chain.ID, old, next ed25519.PublicKey) []byte {
	return fmt.Appendf(nil, "%s\n%s\n%s\n%s\n", rotationLabel, id, hex.EncodeToString(old), hex.EncodeToString(next))
}

// SignRotation signs, with the old key or with the new one, that the new one follows the
// old one as a chain's log key.
func SignRotation(key ed25519.PrivateKey, id chain.ID, old, next ed25519.PublicKey) []byte {
	return ed25519.Sign(key, rotation(id, old, next))
}

// VerifyRotation reports whether both keys signed that the new one follows the old one.
func VerifyRotation(id chain.ID, old, next ed25519.PublicKey, byOld, byNext []byte) bool {
	if len(old) != ed25519.PublicKeySize || len(next) != ed25519.PublicKeySize {
		return false
	}
	message := rotation(id, old, next)
	return ed25519.Verify(old, message, byOld) && ed25519.Verify(next, message, byNext)
}
