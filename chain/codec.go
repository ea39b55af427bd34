package chain

import "github.com/exonode/exonode/chain/cbor"

// The codecs of header, verdict and envelope are written by hand, in two files:
// encode.go is used by sealing, decode.go by everybody who reads. Both hold a
// value against the same field rules (below), and a decoder additionally
// refuses fields that are present but empty, so that a value has one encoding.
//
//	header   map  0 version  1 chain id  2 epoch  3 sequence  4 previous
//	              5 time  6 workspace  7 source  8 id  9 kind
//	             10 schema version  11 subject  12 principal  13 credential
//	             14 on behalf of  15 envelope ref  16 verdict  17 causes
//	             18 priority  19 client time  20 traceparent  21 extensions
//	             22 client key id  23 sealing node  24 attestation
//	             25 raft index
//	ref      map  0 hash  1 size  2 content type  3 data schema
//	verdict  map  0 gate  1 decision  2 revision  3 policy hash  4 declared
//	              5 effective  6 rules  7 counts  8 profile  9 request
//	             10 permit  11 reasons  12 emergency
//	rule     map  0 id  1 severity  2 failed
//	count    map  0 name  1 value
//	envelope map  0 payload  1 salt  2 client signature

// required sets of keys, as bit masks.
const (
	headerRequired   = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<9 | 1<<12 | 1<<15
	refRequired      = 1<<0 | 1<<1
	verdictRequired  = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<5
	ruleRequired     = 1<<0 | 1<<1
	countRequired    = 1<<0 | 1<<1
	envelopeRequired = 1<<0 | 1<<1
)

// Validate checks the fields against their limits and forms. It returns a
// *FieldError.
func (h *Header) Validate() error {
	var c checker
	if h.Version != FormatVersion {
		c.fail(FieldError{Field: "version", Reason: Unsupported, Got: h.Version, Limit: FormatVersion})
	}
	c.time(h.Time, h.Sequence)
	c.workspace(h.Workspace)
	c.text("source", h.Source, MaxSource, true)
	c.text("id", h.ID, MaxID, true)
	c.kind("kind", h.Kind)
	c.text("subject", h.Subject, MaxSubject, false)
	c.text("principal", h.Principal, MaxPrincipal, true)
	c.text("credential", h.Credential, MaxCredential, false)
	c.text("on_behalf_of", h.OnBehalfOf, MaxPrincipal, false)
	c.contentType(h.Envelope.ContentType)
	c.text("data_schema", h.Envelope.DataSchema, MaxDataSchema, false)
	if h.Verdict != nil {
		h.Verdict.check(&c)
	}
	c.causes(h.Causes)
	c.number("priority", h.Priority, MaxPriority)
	c.clientTime(h.ClientTime)
	c.traceparent(h.Traceparent)
	c.extensions(h.Extensions)
	c.text("client_key_id", h.ClientKeyID, MaxKeyID, false)
	c.text("sealing_node", h.SealingNode, MaxSealingNode, false)
	c.length("attestation", len(h.Attestation), MaxAttestation, false)
	return c.result()
}

func (v *Verdict) check(c *checker) {
	c.kind("verdict.gate", v.Gate)
	if v.Decision < Permit || v.Decision > Emergency {
		c.fail(FieldError{Field: "verdict.decision", Reason: OutOfRange, Got: uint64(v.Decision), Limit: uint64(Emergency)})
	}
	if v.Declared != nil {
		c.effect("verdict.declared", v.Declared)
	}
	c.effect("verdict.effective", &v.Effective)
	c.count("verdict.rules", len(v.Rules), MaxVerdictItems)
	for i := range v.Rules {
		c.text("verdict.rules.id", v.Rules[i].ID, MaxVerdictName, true)
		switch v.Rules[i].Severity {
		case "advisory", "warning", "blocking", "critical":
		default:
			c.fail(FieldError{Field: "verdict.rules.severity", Reason: BadSyntax, Detail: "advisory, warning, blocking or critical"})
		}
	}
	c.count("verdict.counts", len(v.Counts), MaxVerdictItems)
	for i := range v.Counts {
		c.text("verdict.counts.name", v.Counts[i].Name, MaxVerdictName, true)
		if i > 0 && v.Counts[i-1].Name >= v.Counts[i].Name {
			c.fail(FieldError{Field: "verdict.counts", Reason: BadOrder})
		}
	}
	c.text("verdict.profile", v.Profile, MaxVerdictName, false)
	c.count("verdict.reasons", len(v.Reasons), MaxVerdictItems)
	for i := range v.Reasons {
		c.text("verdict.reasons", v.Reasons[i], MaxVerdictName, true)
		if i > 0 && v.Reasons[i-1] >= v.Reasons[i] {
			c.fail(FieldError{Field: "verdict.reasons", Reason: BadOrder})
		}
	}
}

// Validate checks what a submitter may get wrong: the syntax and size of every
// field. An event that passes can be sealed. maxPayload bounds the payload in
// bytes; 0 means DefaultMaxPayload. It returns a *FieldError.
func (e *Event) Validate(maxPayload int) error {
	if maxPayload == 0 {
		maxPayload = DefaultMaxPayload
	}
	var c checker
	c.workspace(e.Workspace)
	c.text("source", e.Source, MaxSource, true)
	c.text("id", e.ID, MaxID, true)
	c.kind("kind", e.Kind)
	c.text("subject", e.Subject, MaxSubject, false)
	c.length("payload", len(e.Payload), maxPayload, false)
	c.contentType(e.ContentType)
	c.text("data_schema", e.DataSchema, MaxDataSchema, false)
	if e.DeclaredEffect != nil {
		c.effect("declared_effect", e.DeclaredEffect)
	}
	c.causes(e.Causes)
	c.number("priority", e.Priority, MaxPriority)
	c.clientTime(e.ClientTime)
	c.traceparent(e.Traceparent)
	c.extensions(e.Extensions)
	c.text("client_key_id", e.ClientKeyID, MaxKeyID, false)
	c.signature(e.ClientSignature)
	if len(e.ClientSignature) > 0 {
		if e.ClientKeyID == "" {
			c.fail(FieldError{Field: "client_key_id", Reason: Missing})
		}
		if e.Salt == nil {
			c.fail(FieldError{Field: "salt", Reason: Missing})
		}
	}
	return c.result()
}

// Key returns what identifies the event for ever.
func (e *Event) Key() Key { return Key{Workspace: e.Workspace, Source: e.Source, ID: e.ID} }

// Key returns what identifies the entry's event for ever.
func (h *Header) Key() Key { return Key{Workspace: h.Workspace, Source: h.Source, ID: h.ID} }

// Hash returns the key under which a ledger indexes k: the digest of the CBOR
// array [workspace, source, id].
func (k Key) Hash() Hash {
	var buf [256]byte
	b := cbor.AppendArray(buf[:0], 3)
	b = cbor.AppendText(b, k.Workspace)
	b = cbor.AppendText(b, k.Source)
	b = cbor.AppendText(b, k.ID)
	return keyHasher.sum(b)
}
