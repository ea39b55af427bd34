package chain_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"github.com/exonode/exonode/chain"
)

func TestRedaction(t *testing.T) {
	redact := func(c *testChain, target uint64) {
		c.add(t, chain.SealInput{Event: systemEvent("chain.redact", fmt.Sprintf("redact-%d", target),
			fmt.Sprintf(`{"target_seq":%d,"reason":"law"}`, target))})
	}
	c := newTestChain(t, 600)
	redact(c, 500)
	redact(c, 3)
	c.addEvents(t, 10)
	c.records[3].Envelope, c.records[500].Envelope = nil, nil
	r, err := verify(t, c, chain.VerifyOptions{Head: &c.head, Tiles: c.tiles})
	if err != nil || r.Redacted != 2 {
		t.Errorf("redacted %d: %v", r.Redacted, err)
	}
	// A redaction whose envelope is still there is not an error.
	redact(c, 4)
	if r, err := verify(t, c, chain.VerifyOptions{}); err != nil || r.Redacted != 2 {
		t.Errorf("redacted %d: %v", r.Redacted, err)
	}
	d := c.copy()
	d.records[77].Envelope, d.records[400].Envelope = nil, nil
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 77, chain.PartEnvelope)
	// Before its redaction a missing envelope is not valid.
	d = c.copy()
	d.records = d.records[:600]
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 3, chain.PartEnvelope)
	// The system's own can't be redacted, whether or not the envelope is there.
	redact(c, 0)
	_, err = verify(t, c, chain.VerifyOptions{})
	wantBad(t, err, c.head.Size-1, chain.PartEnvelope)
	c.records[0].Envelope = nil
	_, err = verify(t, c, chain.VerifyOptions{})
	wantBad(t, err, 0, chain.PartEnvelope)
}

// TestLeastMissing: of entries without an envelope that lie far apart, the first is
// named.
func TestLeastMissing(t *testing.T) {
	if testing.Short() {
		t.Skip("131,073 entries")
	}
	c := newTestChain(t, 1)
	for c.head.Size <= 2<<16 {
		e := chain.Event{Workspace: "w", Source: "s", ID: fmt.Sprint(c.head.Size), Kind: "k"}
		c.add(t, chain.SealInput{Event: &e})
	}
	for _, seq := range []int{2 << 16, 70_000, 80_000} {
		c.records[seq].Envelope = nil
	}
	_, err := verify(t, c, chain.VerifyOptions{})
	wantBad(t, err, 70_000, chain.PartEnvelope)
}

func TestBadRedactions(t *testing.T) {
	for name, payload := range map[string]string{
		"not JSON": "{", "no target": `{}`, "other case": `{"TARGET_SEQ":1}`, "text": `{"target_seq":"1"}`,
		"fraction": `{"target_seq":1.0}`, "negative": `{"target_seq":-1}`, "itself": `{"target_seq":3}`, "array": `[1]`,
	} {
		c := newTestChain(t, 3)
		c.add(t, chain.SealInput{Event: systemEvent("chain.redact", "r", payload)})
		_, err := verify(t, c, chain.VerifyOptions{})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		wantBad(t, err, 3, chain.PartEnvelope)
	}
	// Outside workspace system the kind means nothing.
	c := newTestChain(t, 3)
	e := systemEvent("chain.redact", "r", `{"target_seq":1}`)
	e.Workspace = "default"
	c.add(t, chain.SealInput{Event: e})
	c.records[1].Envelope = nil
	_, err := verify(t, c, chain.VerifyOptions{})
	wantBad(t, err, 1, chain.PartEnvelope)
}

func TestBeside(t *testing.T) {
	c := newTestChain(t, 3)
	env := chain.Envelope{Payload: []byte("held back"), Salt: [32]byte{9}}
	beside, err := env.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	h := chain.EnvelopeHash(beside)
	payload := `{"envelope_hash":"` + hex.EncodeToString(h[:]) + `"}`
	c.add(t, chain.SealInput{Event: systemEvent("governance.escalate", "e", payload)}).Beside = beside
	c.addEvents(t, 2)
	if _, err := verify(t, c, chain.VerifyOptions{Check: func(e *chain.Entry) error {
		if (e.Beside != nil) != (e.Header.Sequence == 3) {
			return errors.New("beside the wrong entry")
		}
		return nil
	}}); err != nil {
		t.Error(err)
	}
	d := c.copy()
	d.records[3].Beside[5] ^= 1
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 3, chain.PartBeside)
	d = c.copy()
	d.records[4].Beside = beside
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 4, chain.PartBeside)
	d = c.copy()
	d.records[3].Envelope, d.records[3].Beside = nil, nil
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 3, chain.PartEnvelope)
	d = c.copy()
	d.records[3].Envelope = nil
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 3, chain.PartBeside)
	d = c.copy()
	d.records[3].Beside = nil
	_, err = verify(t, d, chain.VerifyOptions{})
	wantBad(t, err, 3, chain.PartEnvelope)
	d.add(t, chain.SealInput{Event: systemEvent("chain.redact", "r", `{"target_seq":3}`)})
	if r, err := verify(t, d, chain.VerifyOptions{}); err != nil || r.Redacted != 1 {
		t.Errorf("redacted %d: %v", r.Redacted, err)
	}
}
