package api

import (
	"encoding/json"
	"time"
	"unicode/utf8"

	"github.com/exonode/exonode/chain"
)

// EntryJSON is an entry as plain JSON for people and scripts: what the HTTP
// routes answer and the command line prints. It is a view and not the truth:
// JSON payloads stand in it as JSON, without their white space.
type EntryJSON struct {
	Sequence  uint64         `json:"sequence"`
	Hash      chain.Hash     `json:"hash"`
	Time      string         `json:"time"`
	Workspace string         `json:"workspace"`
	Source    string         `json:"source"`
	ID        string         `json:"id"`
	Kind      string         `json:"kind"`
	Subject   string         `json:"subject,omitempty"`
	Principal string         `json:"principal"`
	Payload   PayloadJSON    `json:"payload"`
	Verdict   *VerdictJSON   `json:"verdict,omitempty"`
	Causes    []uint64       `json:"causes,omitempty"`
	Extra     EntryExtraJSON `json:"extra"`
}

// PayloadJSON is an entry's payload.
type PayloadJSON struct {
	// Data is the payload where it is JSON, or as a JSON string where it is
	// other text.
	Data json.RawMessage `json:"data,omitempty"`
	// Base64 is the payload where it is neither.
	Base64      []byte     `json:"data_base64,omitempty"`
	ContentType string     `json:"content_type,omitempty"`
	DataSchema  string     `json:"data_schema,omitempty"`
	Size        uint64     `json:"size"`
	Redacted    bool       `json:"redacted,omitempty"`
	Hash        chain.Hash `json:"envelope_hash"`
}

// EntryExtraJSON is what of an entry most people do not look at.
type EntryExtraJSON struct {
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
	RaftIndex     uint64         `json:"raft_index,omitempty"`
}

// VerdictJSON is a verdict. Effects are decimals.
type VerdictJSON struct {
	Gate      string            `json:"gate"`
	Decision  string            `json:"decision"`
	Reasons   []string          `json:"reasons,omitempty"`
	Effective *EffectJSON       `json:"effective,omitempty"`
	Declared  *EffectJSON       `json:"declared,omitempty"`
	Revision  uint64            `json:"revision"`
	Policy    chain.Hash        `json:"policy_hash"`
	Profile   string            `json:"profile,omitempty"`
	Rules     []RuleJSON        `json:"rules,omitempty"`
	Counts    map[string]uint64 `json:"counts,omitempty"`
	Request   uint64            `json:"request,omitempty"`
	Permit    uint64            `json:"permit,omitempty"`
	Emergency uint64            `json:"emergency,omitempty"`
}

// RuleJSON is a rule that fired or failed.
type RuleJSON struct {
	ID       string `json:"id"`
	Severity string `json:"severity"`
	Failed   bool   `json:"failed,omitempty"`
}

// EffectJSON is an effect vector, as decimals.
type EffectJSON struct {
	Risk     json.Number `json:"risk"`
	Fairness json.Number `json:"fairness"`
	Privacy  json.Number `json:"privacy"`
	Novelty  json.Number `json:"novelty"`
	Security json.Number `json:"security"`
}

// JSON returns the entry as plain JSON.
func (d *Decoded) JSON() EntryJSON {
	h := &d.Header
	e := EntryJSON{
		Sequence:  h.Sequence,
		Hash:      d.Hash,
		Time:      FormatTime(h.Time),
		Workspace: h.Workspace,
		Source:    h.Source,
		ID:        h.ID,
		Kind:      h.Kind,
		Subject:   h.Subject,
		Principal: h.Principal,
		Payload: PayloadJSON{
			ContentType: h.Envelope.ContentType,
			DataSchema:  h.Envelope.DataSchema,
			Size:        h.Envelope.Size,
			Redacted:    d.Redacted,
			Hash:        h.Envelope.Hash,
		},
		Verdict: NewVerdictJSON(h.Verdict),
		Causes:  h.Causes,
		Extra: EntryExtraJSON{
			Previous:      h.Previous,
			Chain:         h.ChainID,
			Epoch:         h.Epoch,
			Format:        h.Version,
			SchemaVersion: h.SchemaVersion,
			Credential:    h.Credential,
			OnBehalfOf:    h.OnBehalfOf,
			Priority:      h.Priority,
			Traceparent:   h.Traceparent,
			ClientKeyID:   h.ClientKeyID,
			SealingNode:   h.SealingNode,
			RaftIndex:     h.RaftIndex,
		},
	}
	if h.ClientTime != 0 {
		e.Extra.ClientTime = FormatTime(h.ClientTime)
	}
	if len(h.Extensions) != 0 {
		e.Extra.Extensions = make(map[string]any, len(h.Extensions))
		for _, x := range h.Extensions {
			e.Extra.Extensions[x.Name] = x.Value
		}
	}
	e.Payload.fill(d.Envelope.Payload)
	return e
}

func (p *PayloadJSON) fill(payload []byte) {
	switch {
	case len(payload) == 0:
	case isJSON(p.ContentType) && utf8.Valid(payload) && json.Valid(payload):
		p.Data = payload
	case isText(p.ContentType) && utf8.Valid(payload):
		// Marshalling a valid string can't fail.
		p.Data, _ = json.Marshal(string(payload))
	default:
		p.Base64 = payload
	}
}

// FormatTime writes Unix nanoseconds as RFC 3339 in UTC with nine decimal
// places, so that texts sort as times do.
func FormatTime(unixNano int64) string {
	return time.Unix(0, unixNano).UTC().Format("2006-01-02T15:04:05.000000000Z07:00")
}

// NewVerdictJSON returns v as JSON; nil for nil.
func NewVerdictJSON(v *chain.Verdict) *VerdictJSON {
	if v == nil {
		return nil
	}
	j := &VerdictJSON{
		Gate:      v.Gate,
		Decision:  DecisionName(v.Decision),
		Reasons:   v.Reasons,
		Effective: newEffectJSON(&v.Effective),
		Declared:  newEffectJSON(v.Declared),
		Revision:  v.Revision,
		Policy:    v.PolicyHash,
		Profile:   v.Profile,
		Request:   v.Request,
		Permit:    v.Permit,
		Emergency: v.Emergency,
	}
	for _, r := range v.Rules {
		j.Rules = append(j.Rules, RuleJSON{ID: r.ID, Severity: r.Severity, Failed: r.Failed})
	}
	if len(v.Counts) != 0 {
		j.Counts = make(map[string]uint64, len(v.Counts))
		for _, c := range v.Counts {
			j.Counts[c.Name] = c.Value
		}
	}
	return j
}

// DecisionName names a decision: "permit", "warn", "escalate", "deny",
// "emergency".
func DecisionName(d chain.Decision) string {
	name := []string{"unknown", "permit", "warn", "escalate", "deny", "emergency"}
	if int(d) >= len(name) {
		return name[0]
	}
	return name[d]
}

func newEffectJSON(e *chain.Effect) *EffectJSON {
	if e == nil {
		return nil
	}
	number := func(i int) json.Number { return json.Number(FormatDecimal(e[i])) }
	return &EffectJSON{Risk: number(0), Fairness: number(1), Privacy: number(2), Novelty: number(3), Security: number(4)}
}

// ErrorJSON is an error as plain JSON.
type ErrorJSON struct {
	Code             Code    `json:"code"`
	Message          string  `json:"message"`
	Hint             string  `json:"hint,omitempty"`
	Field            string  `json:"field,omitempty"`
	Sequence         *uint64 `json:"sequence,omitempty"`
	RetryAfterMillis int64   `json:"retry_after_millis,omitempty"`
}

// JSON returns e as plain JSON.
func (e *Error) JSON() ErrorJSON {
	j := ErrorJSON{Code: e.Code, Message: e.Message, Hint: e.Hint, Field: e.Field, RetryAfterMillis: e.RetryAfterMillis}
	if e.HasSequence {
		j.Sequence = new(e.Sequence)
	}
	return j
}
