package checkpoint_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"testing"

	"filippo.io/mldsa"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

const (
	origin   = "exonode/e0e1e2e30405060708090a0b0c0d0e0f/0"
	signedAt = 1_780_000_000 // Unix seconds
)

// seed is the private key of a test's signer: 32 bytes of b.
func seed(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func logSigner(tb testing.TB, name string, b byte) *checkpoint.Signer {
	tb.Helper()
	return must(checkpoint.NewLogSigner(name, ed25519.NewKeyFromSeed(seed(b))))(tb)
}

func cosigner(tb testing.TB, name string, b byte) *checkpoint.Signer {
	tb.Helper()
	return must(checkpoint.NewCosigner(name, ed25519.NewKeyFromSeed(seed(b))))(tb)
}

func mldsaCosigner(tb testing.TB, name string, b byte) *checkpoint.Signer {
	tb.Helper()
	return must(checkpoint.NewMLDSACosigner(name, seed(b)))(tb)
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func testCheckpoint() checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: origin, Size: 70_000, Root: chain.LeafHash([]byte("root"))}
}

// signedNote is the test checkpoint with a signature of each signer.
func signedNote(tb testing.TB, signers ...*checkpoint.Signer) *checkpoint.Note {
	tb.Helper()
	n := &checkpoint.Note{Checkpoint: testCheckpoint()}
	for _, s := range signers {
		n.Add(must(s.Sign(&n.Checkpoint, signedAt))(tb))
	}
	return n
}

// goldenNote is the note of the golden vectors: the three types, made from seeds,
// with what is signed put together by hand from the specifications.
func goldenNote(tb testing.TB) (n *checkpoint.Note, cosigned, message []byte) {
	tb.Helper()
	n = signedNote(tb, logSigner(tb, origin, 1), cosigner(tb, "node-1.example/cosign", 2))
	k := mldsaCosigner(tb, "node-1.example/mldsa", 3).Key()
	cosigned = []byte("cosignature/v1\ntime 1780000000\n" + origin + "\n70000\n" + rootBase64 + "\n")
	message = append(message, "subtree/v1\n\x00"...)
	message = append(append(message, byte(len(k.Name))), k.Name...)
	message = binary.BigEndian.AppendUint64(message, signedAt)
	message = append(append(message, byte(len(origin))), origin...)
	message = binary.BigEndian.AppendUint64(message, 0)
	message = binary.BigEndian.AppendUint64(message, 70_000)
	message = append(message, n.Checkpoint.Root[:]...)
	private := must(mldsa.NewPrivateKey(mldsa.MLDSA44(), seed(3)))(tb)
	signature := must(private.SignDeterministic(message, nil))(tb)
	n.Add(checkpoint.Signature{Name: k.Name, KeyID: k.ID(), Bytes: append(binary.BigEndian.AppendUint64(nil, signedAt), signature...)})
	return n, cosigned, message
}

// rootBase64 is the golden checkpoint's root: SHA-256 over "\x00root".
const rootBase64 = "PAb5plclr2BSYfY2ZyyWINQJcx2JpFHXRV/pxK4WeCk="

const goldenPolicy = `# The policy of the golden note: both keys of the node count as one.
log %LOG% https://log.example/

witness node-1-ed25519 %COSIGNER%
	witness node-1-mldsa   %MLDSA%  https://node-1.example/
group node-1 any node-1-ed25519 node-1-mldsa
group nodes 1 node-1
quorum nodes
`
