package chain

import (
	"fmt"
	"slices"

	"github.com/exonode/exonode/chain/cbor"
)

// AppendBinary appends the encoded header to b. It returns a *FieldError where
// a field breaks its rules, and b as it was.
func (h *Header) AppendBinary(b []byte) ([]byte, error) {
	if err := h.Validate(); err != nil {
		return b, fmt.Errorf("chain: encode header: %w", err)
	}
	start := len(b)
	out := h.append(b)
	if n := len(out) - start; n > MaxHeaderSize {
		// Not reached while the limits of the fields add up to less.
		err := &FieldError{Field: "header", Reason: TooLong, Got: uint64(n), Limit: MaxHeaderSize}
		return b, fmt.Errorf("chain: encode header: %w", err)
	}
	return out, nil
}

// MarshalBinary implements encoding.BinaryMarshaler.
func (h *Header) MarshalBinary() ([]byte, error) { return h.AppendBinary(nil) }

func (h *Header) append(b []byte) []byte {
	b = cbor.AppendMap(b, h.pairs())
	b = cbor.AppendUint(append(b, 0), h.Version)
	b = cbor.AppendBytes(append(b, 1), h.ChainID[:])
	b = cbor.AppendUint(append(b, 2), h.Epoch)
	b = cbor.AppendUint(append(b, 3), h.Sequence)
	b = cbor.AppendBytes(append(b, 4), h.Previous[:])
	b = cbor.AppendUint(append(b, 5), uint64(h.Time))
	b = cbor.AppendText(append(b, 6), h.Workspace)
	b = cbor.AppendText(append(b, 7), h.Source)
	b = cbor.AppendText(append(b, 8), h.ID)
	b = cbor.AppendText(append(b, 9), h.Kind)
	b = appendOptionalUint(b, 10, h.SchemaVersion)
	b = appendOptionalText(b, 11, h.Subject)
	b = cbor.AppendText(append(b, 12), h.Principal)
	b = appendOptionalText(b, 13, h.Credential)
	b = appendOptionalText(b, 14, h.OnBehalfOf)
	b = h.Envelope.append(append(b, 15))
	if h.Verdict != nil {
		b = h.Verdict.append(append(b, 16))
	}
	if len(h.Causes) > 0 {
		b = appendUints(append(b, 17), h.Causes)
	}
	b = appendOptionalUint(b, 18, h.Priority)
	b = appendOptionalUint(b, 19, uint64(h.ClientTime))
	b = appendOptionalText(b, 20, h.Traceparent)
	if len(h.Extensions) > 0 {
		b = appendExtensions(append(b, 21), h.Extensions)
	}
	b = appendOptionalText(b, 22, h.ClientKeyID)
	b = appendOptionalText(b, 23, h.SealingNode)
	if len(h.Attestation) > 0 {
		b = cbor.AppendBytes(cbor.AppendUint(b, 24), h.Attestation)
	}
	return appendOptionalUint(b, 25, h.RaftIndex)
}

// pairs counts the keys that append writes.
func (h *Header) pairs() int {
	return 12 + one(h.SchemaVersion != 0) + one(h.Subject != "") + one(h.Credential != "") +
		one(h.OnBehalfOf != "") + one(h.Verdict != nil) + one(len(h.Causes) > 0) +
		one(h.Priority != 0) + one(h.ClientTime != 0) + one(h.Traceparent != "") +
		one(len(h.Extensions) > 0) + one(h.ClientKeyID != "") + one(h.SealingNode != "") +
		one(len(h.Attestation) > 0) + one(h.RaftIndex != 0)
}

func (r *EnvelopeRef) append(b []byte) []byte {
	b = cbor.AppendMap(b, 2+one(r.ContentType != "")+one(r.DataSchema != ""))
	b = cbor.AppendBytes(append(b, 0), r.Hash[:])
	b = cbor.AppendUint(append(b, 1), r.Size)
	b = appendOptionalText(b, 2, r.ContentType)
	return appendOptionalText(b, 3, r.DataSchema)
}

// AppendBinary appends the encoded verdict to b, as it stands in a header. It
// returns a *FieldError where a field breaks its rules, and b as it was.
func (v *Verdict) AppendBinary(b []byte) ([]byte, error) {
	var c checker
	v.check(&c)
	if c.err != nil {
		return b, fmt.Errorf("chain: encode verdict: %w", c.err)
	}
	return v.append(b), nil
}

func (v *Verdict) append(b []byte) []byte {
	b = cbor.AppendMap(b, 5+one(v.Declared != nil)+one(len(v.Rules) > 0)+one(len(v.Counts) > 0)+
		one(v.Profile != "")+one(v.Request != 0)+one(v.Permit != 0)+one(len(v.Reasons) > 0)+
		one(v.Emergency != 0))
	b = cbor.AppendText(append(b, 0), v.Gate)
	b = cbor.AppendUint(append(b, 1), uint64(v.Decision))
	b = cbor.AppendUint(append(b, 2), v.Revision)
	b = cbor.AppendBytes(append(b, 3), v.PolicyHash[:])
	if v.Declared != nil {
		b = appendEffect(append(b, 4), v.Declared)
	}
	b = appendEffect(append(b, 5), &v.Effective)
	if len(v.Rules) > 0 {
		b = cbor.AppendArray(append(b, 6), len(v.Rules))
		for i := range v.Rules {
			b = v.Rules[i].append(b)
		}
	}
	if len(v.Counts) > 0 {
		b = cbor.AppendArray(append(b, 7), len(v.Counts))
		for i := range v.Counts {
			b = cbor.AppendMap(b, 2)
			b = cbor.AppendText(append(b, 0), v.Counts[i].Name)
			b = cbor.AppendUint(append(b, 1), v.Counts[i].Value)
		}
	}
	b = appendOptionalText(b, 8, v.Profile)
	b = appendOptionalUint(b, 9, v.Request)
	b = appendOptionalUint(b, 10, v.Permit)
	if len(v.Reasons) > 0 {
		b = cbor.AppendArray(append(b, 11), len(v.Reasons))
		for _, s := range v.Reasons {
			b = cbor.AppendText(b, s)
		}
	}
	return appendOptionalUint(b, 12, v.Emergency)
}

func (r *RuleOutcome) append(b []byte) []byte {
	b = cbor.AppendMap(b, 2+one(r.Failed))
	b = cbor.AppendText(append(b, 0), r.ID)
	b = cbor.AppendText(append(b, 1), r.Severity)
	if r.Failed {
		b = cbor.AppendBool(append(b, 2), true)
	}
	return b
}

// AppendBinary appends the encoded envelope to b. It returns a *FieldError where
// the signature has the wrong size, and b as it was.
func (e *Envelope) AppendBinary(b []byte) ([]byte, error) {
	var c checker
	c.signature(e.ClientSignature)
	if c.err != nil {
		return b, fmt.Errorf("chain: encode envelope: %w", c.err)
	}
	b = cbor.AppendMap(b, 2+one(len(e.ClientSignature) > 0))
	b = cbor.AppendBytes(append(b, 0), e.Payload)
	b = cbor.AppendBytes(append(b, 1), e.Salt[:])
	if len(e.ClientSignature) > 0 {
		b = cbor.AppendBytes(append(b, 2), e.ClientSignature)
	}
	return b, nil
}

// MarshalBinary implements encoding.BinaryMarshaler.
func (e *Envelope) MarshalBinary() ([]byte, error) {
	return e.AppendBinary(make([]byte, 0, len(e.Payload)+len(e.ClientSignature)+64))
}

// AppendExtensions appends extensions as the CBOR map that a header holds them
// in: its keys stand in CBOR's order (the shorter first), exts' in that of
// names. exts are valid.
func appendExtensions(b []byte, exts []Extension) []byte {
	b = cbor.AppendMap(b, len(exts))
	var buf [8]int
	order := buf[:0]
	for i := range exts {
		order = append(order, i)
	}
	slices.SortFunc(order, func(i, j int) int { return cbor.CompareText(exts[i].Name, exts[j].Name) })
	for _, i := range order {
		b = cbor.AppendText(b, exts[i].Name)
		switch v := exts[i].Value.(type) {
		case string:
			b = cbor.AppendText(b, v)
		case int64:
			b = cbor.AppendInt(b, v)
		case bool:
			b = cbor.AppendBool(b, v)
		}
	}
	return b
}

func appendEffect(b []byte, e *Effect) []byte {
	b = cbor.AppendArray(b, len(e))
	for _, v := range e {
		b = cbor.AppendUint(b, uint64(v))
	}
	return b
}

func appendUints(b []byte, vs []uint64) []byte {
	b = cbor.AppendArray(b, len(vs))
	for _, v := range vs {
		b = cbor.AppendUint(b, v)
	}
	return b
}

func appendOptionalText(b []byte, key uint64, s string) []byte {
	if s == "" {
		return b
	}
	return cbor.AppendText(cbor.AppendUint(b, key), s)
}

func appendOptionalUint(b []byte, key, v uint64) []byte {
	if v == 0 {
		return b
	}
	return cbor.AppendUint(cbor.AppendUint(b, key), v)
}

// one counts a key that is present.
func one(present bool) int {
	if present {
		return 1
	}
	return 0
}
