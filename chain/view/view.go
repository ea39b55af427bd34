// Package view renders an entry as JSON for people and scripts: effects as
// decimals, hashes in hex, times in RFC 3339, a JSON payload as JSON. It is a
// view and not the truth: it can't be turned back into the entry's bytes, and
// nothing is ever hashed in this form. Package export writes it beside those
// bytes; whoever prints entries may use it. It must not depend on what kinds
// mean.
package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/exonode/exonode/chain"
)

// Entry is an entry as JSON.
type Entry struct {
	Sequence  uint64     `json:"sequence"`
	Hash      chain.Hash `json:"hash"`
	Time      string     `json:"time"`
	Workspace string     `json:"workspace"`
	Source    string     `json:"source"`
	ID        string     `json:"id"`
	Kind      string     `json:"kind"`
	Subject   string     `json:"subject,omitempty"`
	Principal string     `json:"principal"`
	Payload   Payload    `json:"payload"`
	// Beside is the payload of the event that an escalation holds back.
	Beside  *Data    `json:"beside,omitempty"`
	Verdict *Verdict `json:"verdict,omitempty"`
	Causes  []uint64 `json:"causes,omitempty"`
	Extra   Extra    `json:"extra"`
}

// Data is a payload's content.
type Data struct {
	// JSON is the payload where it is JSON, or as a JSON string where it is
	// other text.
	JSON json.RawMessage `json:"data,omitempty"`
	// Base64 is the payload where it is neither.
	Base64 []byte `json:"data_base64,omitempty"`
}

// Payload is an entry's payload and what the header says of it.
type Payload struct {
	Data
	ContentType  string     `json:"content_type,omitempty"`
	DataSchema   string     `json:"data_schema,omitempty"`
	Size         uint64     `json:"size"`
	Redacted     bool       `json:"redacted,omitempty"`
	EnvelopeHash chain.Hash `json:"envelope_hash"`
}

// Extra is what of an entry most people do not look at.
type Extra struct {
	Previous      chain.Hash     `json:"previous"`
	Chain         chain.ID       `json:"chain"`
	Epoch         uint64         `json:"epoch"`
	Format        uint64         `json:"format"`
	SchemaVersion uint64         `json:"schema_version,omitempty"`
	Credential    string         `json:"credential,omitempty"`
	OnBehalfOf    string         `json:"on_behalf_of,omitempty"`
	Priority      uint64         `json:"priority,omitempty"`
	ClientTime    string         `json:"client_time,omitempty"`
	Traceparent   string         `json:"traceparent,omitempty"`
	Extensions    map[string]any `json:"extensions,omitempty"`
	ClientKeyID   string         `json:"client_key_id,omitempty"`
	SealingNode   string         `json:"sealing_node,omitempty"`
	Attestation   []byte         `json:"attestation,omitempty"`
	RaftIndex     uint64         `json:"raft_index,omitempty"`
}

// Verdict is a gate's decision.
type Verdict struct {
	Gate      string            `json:"gate"`
	Decision  string            `json:"decision"`
	Reasons   []string          `json:"reasons,omitempty"`
	Effective Effect            `json:"effective"`
	Declared  *Effect           `json:"declared,omitempty"`
	Revision  uint64            `json:"revision"`
	Policy    chain.Hash        `json:"policy_hash"`
	Profile   string            `json:"profile,omitempty"`
	Rules     []Rule            `json:"rules,omitempty"`
	Counts    map[string]uint64 `json:"counts,omitempty"`
	Request   uint64            `json:"request,omitempty"`
	Permit    uint64            `json:"permit,omitempty"`
	Emergency uint64            `json:"emergency,omitempty"`
}

// Rule is a rule that fired or failed.
type Rule struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Failed   bool   `json:"failed,omitempty"`
}

// Effect is an effect vector, as decimals.
type Effect struct {
	Risk     json.Number `json:"risk"`
	Fairness json.Number `json:"fairness"`
	Privacy  json.Number `json:"privacy"`
	Novelty  json.Number `json:"novelty"`
	Security json.Number `json:"security"`
}

// New returns the view of an entry. It keeps parts of e.
func New(e *chain.Entry) Entry {
	h := &e.Header
	v := Entry{
		Sequence: h.Sequence, Hash: e.Hash, Time: Time(h.Time),
		Workspace: h.Workspace, Source: h.Source, ID: h.ID, Kind: h.Kind, Subject: h.Subject,
		Principal: h.Principal,
		Payload: Payload{
			ContentType: h.Envelope.ContentType, DataSchema: h.Envelope.DataSchema, Size: h.Envelope.Size,
			Redacted: e.Envelope == nil, EnvelopeHash: h.Envelope.Hash,
		},
		Causes: h.Causes,
		Extra: Extra{
			Previous: h.Previous, Chain: h.ChainID, Epoch: h.Epoch, Format: h.Version,
			SchemaVersion: h.SchemaVersion, Credential: h.Credential, OnBehalfOf: h.OnBehalfOf,
			Priority: h.Priority, Traceparent: h.Traceparent, ClientKeyID: h.ClientKeyID,
			SealingNode: h.SealingNode, Attestation: h.Attestation, RaftIndex: h.RaftIndex,
		},
	}
	if e.Envelope != nil {
		v.Payload.Data = data(e.Envelope.Payload, h.Envelope.ContentType)
	}
	if e.Beside != nil {
		// Its content type stands in the escalation's payload; what looks
		// like JSON is shown as such, and other text as text.
		media := "text/plain"
		if json.Valid(e.Beside.Payload) {
			media = "application/json"
		}
		beside := data(e.Beside.Payload, media)
		v.Beside = &beside
	}
	v.Verdict = NewVerdict(h.Verdict)
	if h.ClientTime != 0 {
		v.Extra.ClientTime = Time(h.ClientTime)
	}
	if len(h.Extensions) > 0 {
		v.Extra.Extensions = make(map[string]any, len(h.Extensions))
		for _, x := range h.Extensions {
			v.Extra.Extensions[x.Name] = x.Value
		}
	}
	return v
}

// NewVerdict returns the view of a verdict; nil for nil.
func NewVerdict(v *chain.Verdict) *Verdict {
	if v == nil {
		return nil
	}
	j := &Verdict{
		Gate: v.Gate, Decision: v.Decision.String(), Reasons: v.Reasons, Effective: newEffect(&v.Effective),
		Revision: v.Revision, Policy: v.PolicyHash, Profile: v.Profile,
		Request: v.Request, Permit: v.Permit, Emergency: v.Emergency,
	}
	if v.Declared != nil {
		declared := newEffect(v.Declared)
		j.Declared = &declared
	}
	for _, r := range v.Rules {
		j.Rules = append(j.Rules, Rule{ID: r.ID, Severity: r.Severity, Failed: r.Failed})
	}
	if len(v.Counts) > 0 {
		j.Counts = make(map[string]uint64, len(v.Counts))
		for _, c := range v.Counts {
			j.Counts[c.Name] = c.Value
		}
	}
	return j
}

func newEffect(e *chain.Effect) Effect {
	n := func(i int) json.Number { return json.Number(Decimal(e[i])) }
	return Effect{Risk: n(0), Fairness: n(1), Privacy: n(2), Novelty: n(3), Security: n(4)}
}

// Time writes Unix nanoseconds as RFC 3339 in UTC, always with nine places, so
// that texts sort as times do.
func Time(unixNano int64) string {
	return time.Unix(0, unixNano).UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
}

// Decimal writes ten-thousandths as a decimal: 3000 is "0.3".
func Decimal(n uint16) string {
	s := fmt.Sprintf("%d.%04d", n/chain.MaxEffect, n%chain.MaxEffect)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// data shows a payload by its media type: JSON as it is, text as a string. What
// claims to be JSON and is not would look like a string that is: it is shown in
// base64.
func data(payload []byte, contentType string) Data {
	media, _, _ := strings.Cut(contentType, ";")
	media = strings.ToLower(strings.TrimSpace(media))
	isJSON := media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json")
	switch {
	case len(payload) == 0:
		return Data{}
	case !utf8.Valid(payload):
	case isJSON && json.Valid(payload):
		return Data{JSON: payload}
	case !isJSON && strings.HasPrefix(media, "text/"):
		return Data{JSON: quote(string(payload))}
	}
	return Data{Base64: payload}
}

// quote writes text as a JSON string, without the escapes that HTML needs.
func quote(text string) json.RawMessage {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	// A string can always be encoded.
	_ = enc.Encode(text)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
}
