package fsm

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/zeebo/blake3"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
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

// arena holds the encoded headers and envelopes of one update in few blocks.
// What it returned is never moved or written again.
type arena struct{ free []byte }

// arenaBlock is the size of a block in bytes.
const arenaBlock = 64 << 10

// room returns an empty slice with room for size bytes.
func (a *arena) room(size int) []byte {
	if cap(a.free)-len(a.free) < size {
		a.free = make([]byte, 0, max(arenaBlock, size))
	}
	return a.free[len(a.free):]
}

// took keeps what was appended to a slice that room returned.
func (a *arena) took(b []byte) []byte {
	if n := len(a.free) + len(b); n <= cap(a.free) {
		a.free = a.free[:n]
	}
	// Else append moved it out of the block, which stays as it was.
	return b[:len(b):len(b)]
}

func (a *arena) envelope(e *chain.Envelope) ([]byte, error) {
	b, err := e.AppendBinary(a.room(len(e.Payload) + len(e.ClientSignature) + 64))
	if err != nil {
		return nil, err
	}
	return a.took(b), nil
}

func (a *arena) header(h *chain.Header) ([]byte, error) {
	b, err := h.AppendBinary(a.room(1024))
	if err != nil {
		return nil, err
	}
	return a.took(b), nil
}

// own seals an event as its own entry.
func (a *applier) own(b *Batch, p *Proposal) error {
	h := a.header(b.Stamp)
	fillHeader(&h, p)
	h.Workspace, h.Source, h.ID, h.Kind, h.SchemaVersion = p.Workspace, p.Source, p.ID, p.Kind, p.SchemaVersion
	h.Envelope.ContentType, h.Envelope.DataSchema = p.ContentType, p.DataSchema
	h.SealingNode = b.Node
	return a.seal(&h, &chain.Envelope{Payload: p.Payload, Salt: *p.Salt, ClientSignature: p.ClientSignature}, nil)
}

// fillHeader sets what the entry of an event, its denial and its escalation
// have in common.
func fillHeader(h *chain.Header, p *Proposal) {
	h.Subject = p.Subject
	h.Principal, h.Credential, h.OnBehalfOf = p.Principal, p.Credential, p.OnBehalfOf
	h.Verdict = p.Verdict
	h.Causes, h.Priority = p.Causes, p.Priority
	h.ClientTime, h.Traceparent = p.ClientTime, p.Traceparent
	h.Extensions = p.Extensions
	h.ClientKeyID, h.Attestation = p.ClientKeyID, p.Attestation
}

// header returns the fields that depend on the chain alone.
func (a *applier) header(stamp int64) chain.Header {
	return chain.Header{
		Version:  chain.FormatVersion,
		ChainID:  a.f.cfg.ChainID,
		Epoch:    a.state.epoch,
		Sequence: a.head.Size,
		Previous: a.head.Hash,
		Time:     max(a.head.Time+1, stamp),
	}
}

// seal appends an entry: it commits the header to the envelope, encodes both,
// folds the entry and keeps it for the commit. On an error nothing has changed.
func (a *applier) seal(h *chain.Header, e *chain.Envelope, beside []byte) error {
	envelope, err := a.arena.envelope(e)
	if err != nil {
		return err
	}
	h.Envelope.Hash, h.Envelope.Size = chain.EnvelopeHash(envelope), uint64(len(e.Payload))
	header, err := a.arena.header(h)
	if err != nil {
		return err
	}
	folded, err := a.state.fold(fact{header: h, payload: e.Payload})
	if err != nil {
		return err
	}
	a.changed = a.changed || folded.changed
	s := Sealing{
		Record: chain.Record{Sequence: h.Sequence, Header: header, Envelope: envelope, Beside: beside},
		Hash:   chain.HeaderHash(header),
		Time:   h.Time,
		Key:    h.Key(), Kind: h.Kind, Principal: h.Principal,
	}
	a.update.Entries = append(a.update.Entries, s)
	a.overlay[s.Key] = Slot{State: Sealed, Sequence: h.Sequence}
	for _, c := range folded.slots {
		a.overlay[c.Key] = c.Slot
	}
	a.update.Slots = append(a.update.Slots, folded.slots...)
	a.update.Redact = append(a.update.Redact, folded.redact...)
	a.head = chain.Head{Size: h.Sequence + 1, Hash: s.Hash, Time: h.Time}
	return nil
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
	beside, err := a.arena.envelope(&chain.Envelope{Payload: p.Payload, Salt: *p.Salt, ClientSignature: p.ClientSignature})
	if err != nil {
		return err
	}
	payload, err := a.decisionPayload(p, beside)
	if err != nil {
		return err
	}
	return a.governance(b, p, catalog.KindGovernanceEscalate, "escalate-", payload, beside)
}

func (a *applier) governance(b *Batch, p *Proposal, kind, idPrefix string, payload, beside []byte) error {
	h := a.header(b.Stamp)
	fillHeader(&h, p)
	h.Workspace, h.Source, h.ID = catalog.SystemWorkspace, sourceGovernance, idPrefix+p.Key().Hash().String()
	h.Kind, h.SchemaVersion = kind, sealedSchema
	h.Envelope.ContentType = contentTypeJSON
	h.SealingNode = b.Node
	return a.seal(&h, &chain.Envelope{Payload: payload, Salt: deriveSalt(a.head.Hash, a.head.Size)}, beside)
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
