package fsm

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/exonode/exonode/chain"
)

// answerKnown answers a proposal whose key is taken. It changes nothing.
func (a *applier) answerKnown(p *Proposal, slot Slot, r *Result) error {
	record, err := a.record(slot.Sequence)
	if err != nil {
		return err
	}
	h, err := chain.DecodeHeader(record.Header)
	if err != nil {
		return fmt.Errorf("entry %d: %w", slot.Sequence, err)
	}
	r.Sequence, r.Hash, r.Time, r.Verdict = h.Sequence, chain.HeaderHash(record.Header), h.Time, h.Verdict
	switch slot.State {
	case Sealed:
		r.Status, err = compareSealed(p, &h, &record)
	case Pending:
		r.Status, err = comparePending(p, &h, &record)
	case Denied, Closed:
		// Nothing was kept to compare with.
		r.Status = NotComparable
	default:
		err = fmt.Errorf("key of entry %d has state %d", slot.Sequence, slot.State)
	}
	return err
}

// compareSealed compares what a submitter says, credential, salt, signature and
// trace context excepted: a retry may come by another way. The schema version
// is the leader's, so it is not compared either; a declared effect is known
// where a gate was evaluated.
func compareSealed(p *Proposal, h *chain.Header, record *chain.Record) (Status, error) {
	same := p.Kind == h.Kind && p.Subject == h.Subject &&
		p.ContentType == h.Envelope.ContentType && p.DataSchema == h.Envelope.DataSchema &&
		uint64(len(p.Payload)) == h.Envelope.Size &&
		p.Principal == h.Principal && p.OnBehalfOf == h.OnBehalfOf &&
		p.Priority == h.Priority && p.ClientTime == h.ClientTime &&
		slices.Equal(p.Causes, h.Causes) &&
		sameExtensions(p.Extensions, h.Extensions) &&
		(h.Verdict == nil || sameEffect(p.DeclaredEffect, h.Verdict.Declared))
	if !same {
		return Conflict, nil
	}
	if record.Envelope == nil {
		return NotComparable, nil
	}
	e, err := chain.DecodeEnvelope(record.Envelope)
	if err != nil {
		return 0, fmt.Errorf("envelope of entry %d: %w", h.Sequence, err)
	}
	// The salt is the stored one and the signature is left out: what
	// remains of the envelope is the payload.
	if string(e.Payload) != string(p.Payload) {
		return Conflict, nil
	}
	return Duplicate, nil
}

// comparePending compares a proposal with one that waits for approval, by the
// digest that the governance.escalate entry names it by.
func comparePending(p *Proposal, h *chain.Header, record *chain.Record) (Status, error) {
	if record.Beside == nil {
		return NotComparable, nil
	}
	beside, err := chain.DecodeEnvelope(record.Beside)
	if err != nil {
		return 0, fmt.Errorf("envelope beside entry %d: %w", h.Sequence, err)
	}
	e, err := chain.DecodeEnvelope(record.Envelope)
	if err != nil {
		return 0, fmt.Errorf("envelope of entry %d: %w", h.Sequence, err)
	}
	m, err := readMembers(e.Payload)
	if err != nil {
		return 0, fmt.Errorf("payload of entry %d: %w", h.Sequence, err)
	}
	want := m.text("digest")
	event := p.Event
	event.Salt, event.ClientKeyID = &beside.Salt, m.text("client_key_id")
	if err := m.result(); err != nil {
		return 0, fmt.Errorf("payload of entry %d: %w", h.Sequence, err)
	}
	// Extensions are compared by their text, and so hashed as they stand in
	// the entry where they agree.
	if sameExtensions(p.Extensions, h.Extensions) {
		event.Extensions = h.Extensions
	}
	digest, err := chain.EventDigest(h.ChainID, h.Epoch, &event)
	if err != nil {
		return 0, fmt.Errorf("entry %d: %w", h.Sequence, err)
	}
	if digest.String() != want || p.Principal != h.Principal || p.OnBehalfOf != h.OnBehalfOf {
		return Conflict, nil
	}
	return StillPending, nil
}

func sameEffect(a, b *chain.Effect) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// sameExtensions compares by canonical text: in some protocols 5 and "5" can't
// be told apart, and a retry may come by another protocol.
func sameExtensions(a, b []chain.Extension) bool {
	return slices.EqualFunc(a, b, func(a, b chain.Extension) bool {
		return a.Name == b.Name && (a.Value == b.Value || extensionText(a.Value) == extensionText(b.Value))
	})
}

func extensionText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}
