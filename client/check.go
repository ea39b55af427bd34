package client

import (
	"context"
	"fmt"
	"slices"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// checkEntry decodes an entry from its raw bytes and checks that they say what
// the node says about them. The error is a *VerifyError.
func checkEntry(m *exonodev1.Entry, address string) (Entry, error) {
	seq := m.GetSequence()
	bad := func(problem string) (Entry, error) {
		return Entry{}, &VerifyError{Address: address, Sequence: seq, Problem: problem}
	}
	if m == nil {
		return bad("the answer has no entry")
	}
	e := Entry{Record: chain.Record{
		Sequence: seq, Header: m.GetHeader(), Envelope: nonEmpty(m.GetEnvelope()), Beside: nonEmpty(m.GetBeside()),
	}}
	if err := setHash(&e.Hash, m.GetHash(), "the entry"); err != nil {
		return bad(err.Error())
	}
	if h := chain.HeaderHash(e.Record.Header); h != e.Hash {
		return bad(fmt.Sprintf("its header hashes to %v, not to %v as told", h, e.Hash))
	}
	h, err := chain.DecodeHeader(e.Record.Header)
	if err != nil {
		return bad(fmt.Sprintf("its header can't be decoded: %v", err))
	}
	e.Header = h
	if h.Sequence != seq {
		return bad(fmt.Sprintf("its header says that it is entry %d", h.Sequence))
	}
	if e.Record.Envelope == nil {
		return e, nil
	}
	if got := chain.EnvelopeHash(e.Record.Envelope); got != h.Envelope.Hash {
		return bad(fmt.Sprintf("its envelope hashes to %v, but its header commits to %v", got, h.Envelope.Hash))
	}
	env, err := chain.DecodeEnvelope(e.Record.Envelope)
	if err != nil {
		return bad(fmt.Sprintf("its envelope can't be decoded: %v", err))
	}
	if uint64(len(env.Payload)) != h.Envelope.Size {
		return bad(fmt.Sprintf("its payload has %d bytes, but its header says %d", len(env.Payload), h.Envelope.Size))
	}
	e.Envelope = &env
	return e, nil
}

// nonEmpty returns nil for no bytes: an envelope always has some.
func nonEmpty(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// verifyAck reads an acknowledged entry back and compares it with the event.
func (c *Client) verifyAck(ctx context.Context, ev *chain.Event, ack *Ack) error {
	r := c.At(Session)
	c.observe(ack.Sequence + 1)
	e, err := r.Get(ctx, ack.Sequence)
	if err != nil {
		return fmt.Errorf("event %q is acknowledged as entry %d, which could not be read back: %w", ev.ID, ack.Sequence, err)
	}
	bad := func(problem string) error {
		return &VerifyError{Address: "the cluster", Sequence: ack.Sequence, Problem: problem}
	}
	if e.Hash != ack.Hash {
		return bad(fmt.Sprintf("its hash is %v, but it was acknowledged with %v", e.Hash, ack.Hash))
	}
	if problem := differs(ev, &e); problem != "" {
		return bad("its " + problem + " is not what was submitted")
	}
	return nil
}

// differs names the first field in which an entry is not the event that was
// submitted; "" is none. A redacted payload can't be compared.
func differs(ev *chain.Event, e *Entry) string {
	h := &e.Header
	contentType := ev.ContentType
	if contentType == "" && len(ev.Payload) > 0 {
		contentType = api.DefaultContentType
	}
	switch {
	case h.Workspace != ev.Workspace:
		return "workspace"
	case h.Source != ev.Source:
		return "source"
	case h.ID != ev.ID:
		return "id"
	case h.Kind != ev.Kind:
		return "kind"
	case ev.SchemaVersion != 0 && h.SchemaVersion != ev.SchemaVersion:
		return "schema version"
	case h.Subject != ev.Subject:
		return "subject"
	case h.Envelope.ContentType != contentType:
		return "content type"
	case h.Envelope.DataSchema != ev.DataSchema:
		return "data schema"
	case h.Envelope.Size != uint64(len(ev.Payload)):
		return "payload size"
	case e.Envelope != nil && string(e.Envelope.Payload) != string(ev.Payload):
		return "payload"
	case !slices.Equal(h.Causes, ev.Causes):
		return "causes"
	case h.Priority != ev.Priority:
		return "priority"
	case h.ClientTime != ev.ClientTime:
		return "client time"
	case !slices.Equal(h.Extensions, ev.Extensions):
		return "extensions"
	case ev.DeclaredEffect != nil && h.Verdict != nil && (h.Verdict.Declared == nil || *h.Verdict.Declared != *ev.DeclaredEffect):
		return "declared effect"
	}
	return ""
}
