package checkpoint_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"filippo.io/mldsa"
	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/chain/checkpoint"
)

var update = flag.Bool("update", false, "write the golden files anew")

// vectors are testdata/vectors.json: each step of making and reading a note.
type vectors struct {
	Note            string       `json:"about"`
	Keys            []keyVector  `json:"keys"`
	Text            string       `json:"checkpoint"`
	CosignedText    string       `json:"ed25519_cosigned_message"`
	CosignedMessage string       `json:"mldsa44_cosigned_message_hex"`
	Signed          string       `json:"note"`
	Policy          string       `json:"policy"`
	Signatures      []signVector `json:"signatures"`
}

type keyVector struct {
	Seed   string             `json:"seed_hex"`
	Public string             `json:"public_hex"`
	ID     string             `json:"key_id_hex"`
	VKey   string             `json:"vkey"`
	Type   checkpoint.KeyType `json:"type"`
}

type signVector struct {
	Name  string `json:"name"`
	Time  uint64 `json:"time"`
	Bytes string `json:"hex"`
}

func makeVectors(t *testing.T) vectors {
	t.Helper()
	n, cosigned, message := goldenNote(t)
	v := vectors{
		Note: "One checkpoint with the three types of signature. Seeds are of Ed25519 (RFC 8032) and of ML-DSA-44 " +
			"(FIPS 204, algorithm 1's xi); the ML-DSA-44 signature is the deterministic one, signers may draw others.",
		Text: n.Checkpoint.Text(), CosignedText: string(cosigned), CosignedMessage: hex.EncodeToString(message), Signed: string(n.Bytes()),
	}
	for i, s := range []*checkpoint.Signer{logSigner(t, origin, 1), cosigner(t, "node-1.example/cosign", 2), mldsaCosigner(t, "node-1.example/mldsa", 3)} {
		k := s.Key()
		b := n.Signatures[i].Bytes
		sv := signVector{Name: k.Name, Bytes: hex.EncodeToString(b)}
		if k.Type != checkpoint.Log {
			sv.Time, sv.Bytes = signedAt, hex.EncodeToString(b[8:])
		}
		id := hex.EncodeToString([]byte{byte(k.ID() >> 24), byte(k.ID() >> 16), byte(k.ID() >> 8), byte(k.ID())})
		v.Keys = append(v.Keys, keyVector{Seed: hex.EncodeToString(seed(byte(i + 1))), Public: hex.EncodeToString(k.Public), ID: id, VKey: k.String(), Type: k.Type})
		v.Signatures = append(v.Signatures, sv)
	}
	v.Policy = strings.NewReplacer("%LOG%", v.Keys[0].VKey, "%COSIGNER%", v.Keys[1].VKey, "%MLDSA%", v.Keys[2].VKey).Replace(goldenPolicy)
	return v
}

func TestGolden(t *testing.T) {
	const file = "testdata/vectors.json"
	made := makeVectors(t)
	if *update {
		b, err := json.MarshalIndent(made, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var stored vectors
	if err := json.Unmarshal(b, &stored); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored, made); diff != "" {
		t.Fatalf("differs from %s (-stored +made):\n%s", file, diff)
	}
	c := must(checkpoint.Parse(stored.Text))(t)
	if got := base64.StdEncoding.EncodeToString(c.Root[:]); got != rootBase64 {
		t.Errorf("root %s, want %s", got, rootBase64)
	}
	policy := must(checkpoint.ParsePolicy([]byte(stored.Policy)))(t)
	j, err := policy.Verify(must(checkpoint.ParseNote([]byte(stored.Signed)))(t))
	if err != nil {
		t.Fatal(err)
	}
	if j.Log.Key.Name != origin || len(j.Cosigned) != 2 || j.Cosigned[0].Time != signedAt || j.Cosigned[1].Time != signedAt {
		t.Errorf("judgement %+v", j)
	}
}

// TestSignersMatchGolden: what is put together by hand from the specifications is what
// the signers sign.
func TestSignersMatchGolden(t *testing.T) {
	n, cosigned, message := goldenNote(t)
	if !ed25519.Verify(ed25519.NewKeyFromSeed(seed(2)).Public().(ed25519.PublicKey), cosigned, n.Signatures[1].Bytes[8:]) {
		t.Error("the Ed25519 cosignature is not over the specification's text")
	}
	s := mldsaCosigner(t, "node-1.example/mldsa", 3)
	signed := must(s.Sign(&n.Checkpoint, signedAt))(t)
	public := must(mldsa.NewPublicKey(mldsa.MLDSA44(), s.Key().Public))(t)
	if err := mldsa.Verify(public, message, signed.Bytes[8:], nil); err != nil {
		t.Errorf("the ML-DSA-44 cosignature is not over the specification's message: %v", err)
	}
}

// TestMLDSAKnownAnswers holds the ML-DSA-44 module to vectors that others published;
// the file names them.
func TestMLDSAKnownAnswers(t *testing.T) {
	type answer struct {
		ID                                                int `json:"tcId"`
		Comment, Msg, Sig, Result, PublicKey, PrivateSeed string
		Ctx                                               string
	}
	var file struct{ Sign, Verify []answer }
	b, err := os.ReadFile("testdata/mldsa44-wycheproof.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Sign) < 3 || len(file.Verify) < 7 {
		t.Fatalf("%d and %d vectors", len(file.Sign), len(file.Verify))
	}
	unhex := func(s string) []byte { return must(hex.DecodeString(s))(t) }
	for _, a := range file.Sign {
		key := must(mldsa.NewPrivateKey(mldsa.MLDSA44(), unhex(a.PrivateSeed)))(t)
		if got := key.PublicKey().Bytes(); !bytes.Equal(got, unhex(a.PublicKey)) {
			t.Errorf("sign %d (%s): another public key", a.ID, a.Comment)
		}
		got := must(key.SignDeterministic(unhex(a.Msg), &mldsa.Options{Context: string(unhex(a.Ctx))}))(t)
		if !bytes.Equal(got, unhex(a.Sig)) {
			t.Errorf("sign %d (%s): another signature", a.ID, a.Comment)
		}
	}
	for _, a := range file.Verify {
		key := must(mldsa.NewPublicKey(mldsa.MLDSA44(), unhex(a.PublicKey)))(t)
		err := mldsa.Verify(key, unhex(a.Msg), unhex(a.Sig), &mldsa.Options{Context: string(unhex(a.Ctx))})
		if (err == nil) != (a.Result == "valid") {
			t.Errorf("verify %d (%s): %v, want %s", a.ID, a.Comment, err, a.Result)
		}
	}
}
