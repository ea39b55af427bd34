package fsm

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/zeebo/blake3"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/internal/planted"
)

// What the entries that the state machine itself seals have in common. None of
// it may change once a chain exists.
const (
	sourceGenesis    = "exonode:genesis"
	sourceCluster    = "exonode:cluster"
	sourceGovernance = "exonode:governance"
	// clusterPrincipal acts where no caller does.
	clusterPrincipal = "cluster"
	contentTypeJSON  = "application/json"
	// sealedSchema is the schema version of their payloads.
	sealedSchema = 1
	// contextSalt is BLAKE3's derive-key context of their salts.
	contextSalt = "exonode 2026 v1 derived salt"
)

// deriveSalt returns the salt of an entry that the state machine seals: nothing
// in Apply is random, and these payloads are no secret.
func deriveSalt(previous chain.Hash, n uint64) (salt [chain.SaltSize]byte) {
	var material [len(previous) + 8]byte
	copy(material[:], previous[:])
	binary.BigEndian.PutUint64(material[len(previous):], n)
	blake3.DeriveKey(contextSalt, material[:], salt[:])
	return salt
}

// own seals an event as its own entry.
func (a *applier) own(b *Batch, p *Proposal) error {
	return a.seal(b.input(p, &p.Event), nil)
}

// input returns what sealing an event, or what stands for it, needs of its
// command.
func (b *Batch) input(p *Proposal, e *chain.Event) *chain.SealInput {
	return &chain.SealInput{
		Stamp:       b.Stamp,
		Event:       e,
		Principal:   p.Principal,
		Credential:  p.Credential,
		OnBehalfOf:  p.OnBehalfOf,
		Attestation: p.Attestation,
		Verdict:     p.Verdict,
		SealingNode: b.Node,
	}
}

// seal appends an entry: it completes in with where the chain stands, folds the
// entry and keeps it for the commit. On an error nothing has changed.
func (a *applier) seal(in *chain.SealInput, beside []byte) error {
	in.ChainID, in.Epoch, in.Prev = a.f.cfg.ChainID, a.state.epoch, a.head
	sealed, err := chain.Seal(in)
	if err != nil {
		return err
	}
	e := in.Event
	var folded effects
	if e.Workspace == catalog.SystemWorkspace {
		// The fold takes what the entry's bytes say, as everywhere else.
		h, err := chain.DecodeHeader(sealed.Header)
		if err != nil {
			return err
		}
		if folded, err = a.state.fold(fact{header: &h, payload: e.Payload, earlier: a.earlier}); err != nil {
			return err
		}
	}
	a.changed = a.changed || folded.changed
	sealed.Beside = beside
	if planted.Fork && in.SealingNode == a.f.cfg.NodeID && sealed.Sequence%64 == 63 {
		sealed.Envelope[len(sealed.Envelope)-1]++ // bug: only this node has this salt
	}
	key := e.Key()
	a.update.Entries = append(a.update.Entries, Sealing{
		Record: sealed.Record, Hash: sealed.Head.Hash, Time: sealed.Head.Time,
		Key: key, Kind: e.Kind, Principal: in.Principal,
	})
	a.overlay[key] = Slot{State: Sealed, Sequence: sealed.Sequence}
	for _, c := range folded.slots {
		a.overlay[c.Key] = c.Slot
	}
	a.update.Slots = append(a.update.Slots, folded.slots...)
	a.update.Redact = append(a.update.Redact, folded.redact...)
	a.head = sealed.Head
	return nil
}

// earlier returns the header of an entry that this update or the store has.
func (a *applier) earlier(seq uint64) (*chain.Header, error) {
	record, err := a.record(seq)
	if err != nil {
		return nil, &fatalError{err}
	}
	h, err := chain.DecodeHeader(record.Header)
	if err != nil {
		return nil, &fatalError{fmt.Errorf("entry %d: %w", seq, err)}
	}
	return &h, nil
}

// systemEvent returns an event that the state machine itself makes. Its salt is
// derived from the head that it goes on.
func (a *applier) systemEvent(source, id, kind string, payload []byte, causes []uint64, salt uint64) *chain.Event {
	derived := deriveSalt(a.head.Hash, salt)
	return &chain.Event{
		Workspace:     catalog.SystemWorkspace,
		Source:        source,
		ID:            id,
		Kind:          kind,
		SchemaVersion: sealedSchema,
		Payload:       payload,
		ContentType:   contentTypeJSON,
		Causes:        causes,
		Salt:          &derived,
	}
}

// deny seals a governance.deny entry instead of the event's own: nobody may
// mistake an attempt for an operation. It names the event, without its payload.
func (a *applier) deny(b *Batch, p *Proposal) error {
	payload, err := a.decisionPayload(p, nil)
	if err != nil {
		return err
	}
	return a.governance(b, p, catalog.KindGovernanceDeny, "deny-", payload, nil)
}

// escalate seals a governance.escalate entry, which reserves the event's key
// and keeps its envelope beside it.
func (a *applier) escalate(b *Batch, p *Proposal) error {
	envelope := chain.Envelope{Payload: p.Payload, Salt: *p.Salt, ClientSignature: p.ClientSignature}
	beside, err := envelope.MarshalBinary()
	if err != nil {
		return err
	}
	payload, err := a.decisionPayload(p, beside)
	if err != nil {
		return err
	}
	return a.governance(b, p, catalog.KindGovernanceEscalate, "escalate-", payload, beside)
}

// governance seals the entry that stands for an event which is not sealed, with
// the fields that the event's own header would have.
func (a *applier) governance(b *Batch, p *Proposal, kind, idPrefix string, payload, beside []byte) error {
	e := a.systemEvent(sourceGovernance, idPrefix+p.Key().Hash().String(), kind, payload, p.Causes, a.head.Size)
	e.Subject, e.Priority, e.ClientTime = p.Subject, p.Priority, p.ClientTime
	e.Traceparent, e.Extensions, e.ClientKeyID = p.Traceparent, p.Extensions, p.ClientKeyID
	return a.seal(b.input(p, e), beside)
}

// decisionPayload is the payload of governance.deny, and, where beside is the
// event's encoded envelope, of governance.escalate.
func (a *applier) decisionPayload(p *Proposal, beside []byte) ([]byte, error) {
	if err := p.Validate(math.MaxInt); err != nil {
		return nil, err
	}
	digest, err := chain.EventDigest(a.f.cfg.ChainID, a.state.epoch, &p.Event)
	if err != nil {
		return nil, err
	}
	v := p.Verdict
	j := new(frozenJSON)
	j.open('{')
	j.text("gate", v.Gate)
	j.text("action", p.Kind)
	j.text("actor", p.Principal)
	j.effect("effect", v.Effective)
	j.uint("policy_revision", v.Revision)
	if beside != nil {
		// Requests are named by their own sequence. What a request
		// needs, and until when, comes with them.
		j.text("request_id", fmt.Sprint(a.head.Size))
		j.texts("needs", nil)
		j.uint("expires_at", 0)
	}
	j.texts("reasons", v.Reasons)
	j.text("workspace", p.Workspace)
	j.text("source", p.Source)
	j.text("id", p.ID)
	j.text("kind", p.Kind)
	j.text("digest", digest.String())
	if beside != nil {
		j.escalated(p, chain.EnvelopeHash(beside))
	}
	j.close('}')
	return j.b, nil
}

// escalated writes the fields of the event that its header would have.
func (j *frozenJSON) escalated(p *Proposal, envelope chain.Hash) {
	j.text("envelope_hash", envelope.String())
	j.uint("payload_size", uint64(len(p.Payload)))
	if p.SchemaVersion != 0 {
		j.uint("schema_version", p.SchemaVersion)
	}
	j.optional("subject", p.Subject)
	j.optional("content_type", p.ContentType)
	j.optional("data_schema", p.DataSchema)
	j.optional("credential", p.Credential)
	j.optional("on_behalf_of", p.OnBehalfOf)
	if p.DeclaredEffect != nil {
		j.effect("declared_effect", *p.DeclaredEffect)
	}
	if len(p.Causes) > 0 {
		j.name("causes")
		j.open('[')
		for _, c := range p.Causes {
			j.number(c)
		}
		j.close(']')
	}
	if p.Priority != 0 {
		j.uint("priority", p.Priority)
	}
	if p.ClientTime != 0 {
		j.int("client_time", p.ClientTime)
	}
	j.optional("traceparent", p.Traceparent)
	if len(p.Extensions) > 0 {
		j.name("extensions")
		j.open('{')
		for i := range p.Extensions {
			e := &p.Extensions[i]
			switch v := e.Value.(type) {
			case string:
				j.text(e.Name, v)
			case int64:
				j.int(e.Name, v)
			case bool:
				j.bool(e.Name, v)
			}
		}
		j.close('}')
	}
	j.optional("client_key_id", p.ClientKeyID)
	if len(p.Attestation) > 0 {
		j.text("attestation", fmt.Sprintf("%x", p.Attestation))
	}
}
