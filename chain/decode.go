package chain

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/exonode/exonode/chain/cbor"
)

// UnmarshalBinary decodes a header and refuses everything that AppendBinary
// would not have written. The texts share one copy of data, so that keeping one
// of them keeps all; strings.Clone what outlives the header. data itself is not
// kept. After an error h is undefined.
//
// The error wraps a *cbor.Error (with the offset) or a *FieldError.
func (h *Header) UnmarshalBinary(data []byte) error {
	if len(data) > MaxHeaderSize {
		err := &FieldError{Field: "header", Reason: TooLong, Got: uint64(len(data)), Limit: MaxHeaderSize}
		return fmt.Errorf("chain: decode header: %w", err)
	}
	*h = Header{}
	r := cbor.NewSharedReader(data)
	h.read(&r)
	if err := r.Done(); err != nil {
		return fmt.Errorf("chain: decode header: %w", err)
	}
	if err := h.Validate(); err != nil {
		return fmt.Errorf("chain: decode header: %w", err)
	}
	return nil
}

// DecodeHeader decodes a header as UnmarshalBinary does.
func DecodeHeader(data []byte) (Header, error) {
	var h Header
	err := h.UnmarshalBinary(data)
	return h, err
}

func (h *Header) read(r *cbor.Reader) {
	m := openMap(r, headerRequired)
	for m.next() {
		switch m.Key() {
		case 0:
			h.Version = r.Uint()
		case 1:
			r.Fixed(h.ChainID[:])
		case 2:
			h.Epoch = r.Uint()
		case 3:
			h.Sequence = r.Uint()
		case 4:
			r.Fixed(h.Previous[:])
		case 5:
			h.Time = m.time()
		case 6:
			h.Workspace = m.text()
		case 7:
			h.Source = m.text()
		case 8:
			h.ID = m.text()
		case 9:
			h.Kind = m.text()
		case 10:
			h.SchemaVersion = m.uint()
		case 11:
			h.Subject = m.text()
		case 12:
			h.Principal = m.text()
		case 13:
			h.Credential = m.text()
		case 14:
			h.OnBehalfOf = m.text()
		case 15:
			h.Envelope.read(r)
		default:
			h.readRest(&m)
		}
	}
}

// readRest reads the fields that most headers don't have.
func (h *Header) readRest(m *mapReader) {
	r := m.r
	switch m.Key() {
	case 16:
		h.Verdict = new(Verdict)
		h.Verdict.read(r)
	case 17:
		h.Causes = make([]uint64, m.array(MaxCauses))
		for i := range h.Causes {
			h.Causes[i] = r.Uint()
		}
	case 18:
		h.Priority = m.uint()
	case 19:
		h.ClientTime = m.time()
	case 20:
		h.Traceparent = m.text()
	case 21:
		h.Extensions = m.extensions()
	case 22:
		h.ClientKeyID = m.text()
	case 23:
		h.SealingNode = m.text()
	case 24:
		h.Attestation = slices.Clone(m.bytes())
	case 25:
		h.RaftIndex = m.uint()
	default:
		m.Unknown()
	}
}

func (e *EnvelopeRef) read(r *cbor.Reader) {
	m := openMap(r, refRequired)
	for m.next() {
		switch m.Key() {
		case 0:
			r.Fixed(e.Hash[:])
		case 1:
			e.Size = r.Uint()
		case 2:
			e.ContentType = m.text()
		case 3:
			e.DataSchema = m.text()
		default:
			m.Unknown()
		}
	}
}

// UnmarshalBinary decodes a verdict as it stands in a header, and refuses
// everything that AppendBinary would not have written.
func (v *Verdict) UnmarshalBinary(data []byte) error {
	*v = Verdict{}
	r := cbor.NewSharedReader(data)
	v.read(&r)
	if err := r.Done(); err != nil {
		return fmt.Errorf("chain: decode verdict: %w", err)
	}
	var c checker
	if v.check(&c); c.err != nil {
		return fmt.Errorf("chain: decode verdict: %w", c.err)
	}
	return nil
}

func (v *Verdict) read(r *cbor.Reader) {
	m := openMap(r, verdictRequired)
	for m.next() {
		switch m.Key() {
		case 0:
			v.Gate = m.text()
		case 1:
			v.Decision = Decision(min(r.Uint(), math.MaxUint8))
		case 2:
			v.Revision = r.Uint()
		case 3:
			r.Fixed(v.PolicyHash[:])
		case 4:
			v.Declared = new(Effect)
			m.effect(v.Declared)
		case 5:
			m.effect(&v.Effective)
		case 6:
			v.Rules = make([]RuleOutcome, m.array(MaxVerdictItems))
			for i := range v.Rules {
				v.Rules[i].read(r)
			}
		case 7:
			v.Counts = make([]Count, m.array(MaxVerdictItems))
			for i := range v.Counts {
				v.Counts[i].read(r)
			}
		case 8:
			v.Profile = m.text()
		case 9:
			v.Request = m.uint()
		case 10:
			v.Permit = m.uint()
		case 11:
			v.Reasons = make([]string, m.array(MaxVerdictItems))
			for i := range v.Reasons {
				v.Reasons[i] = r.Text()
			}
		case 12:
			v.Emergency = m.uint()
		default:
			m.Unknown()
		}
	}
}

func (o *RuleOutcome) read(r *cbor.Reader) {
	m := openMap(r, ruleRequired)
	for m.next() {
		switch m.Key() {
		case 0:
			o.ID = m.text()
		case 1:
			o.Severity = m.text()
		case 2:
			o.Failed = r.Bool()
			m.notEmpty(o.Failed)
		default:
			m.Unknown()
		}
	}
}

func (c *Count) read(r *cbor.Reader) {
	m := openMap(r, countRequired)
	for m.next() {
		switch m.Key() {
		case 0:
			c.Name = m.text()
		case 1:
			c.Value = r.Uint()
		default:
			m.Unknown()
		}
	}
}

// UnmarshalBinary decodes an envelope and refuses everything that AppendBinary
// would not have written. Payload and ClientSignature are parts of data.
func (e *Envelope) UnmarshalBinary(data []byte) error {
	*e = Envelope{}
	r := cbor.NewReader(data)
	m := openMap(&r, envelopeRequired)
	for m.next() {
		switch m.Key() {
		case 0:
			e.Payload = r.Bytes()
		case 1:
			r.Fixed(e.Salt[:])
		case 2:
			e.ClientSignature = m.bytes()
		default:
			m.Unknown()
		}
	}
	if err := r.Done(); err != nil {
		return fmt.Errorf("chain: decode envelope: %w", err)
	}
	var c checker
	if c.signature(e.ClientSignature); c.err != nil {
		return fmt.Errorf("chain: decode envelope: %w", c.err)
	}
	return nil
}

// DecodeEnvelope decodes an envelope as UnmarshalBinary does.
func DecodeEnvelope(data []byte) (Envelope, error) {
	var e Envelope
	err := e.UnmarshalBinary(data)
	return e, err
}

// mapReader walks over a map, remembers which keys came, and reads optional
// values, which are never empty.
type mapReader struct {
	r *cbor.Reader
	cbor.Fields
	at       int // offset of the map
	required uint64
	seen     uint64
}

// openMap reads the head of a map. The result is returned, not stored through a
// pointer, so that the reader stays on the stack.
func openMap(r *cbor.Reader, required uint64) mapReader {
	at := r.Offset()
	return mapReader{r: r, Fields: r.Map(), at: at, required: required}
}

// next reads the next key; at the end of the map it checks that no required one
// is missing.
func (m *mapReader) next() bool {
	if m.Next() {
		m.seen |= 1 << min(m.Key(), 63)
		return true
	}
	if missing := m.required &^ m.seen; missing != 0 && m.r.Err() == nil {
		key := 0
		for missing>>key&1 == 0 {
			key++
		}
		m.r.Fail(m.at, fmt.Sprintf("map without key %d", key))
	}
	return false
}

func (m *mapReader) notEmpty(ok bool) {
	if !ok && m.r.Err() == nil {
		m.r.Fail(m.r.Offset(), fmt.Sprintf("key %d is present but empty", m.Key()))
	}
}

func (m *mapReader) text() string {
	s := m.r.Text()
	m.notEmpty(s != "")
	return s
}

func (m *mapReader) bytes() []byte {
	b := m.r.Bytes()
	m.notEmpty(len(b) > 0)
	return b
}

func (m *mapReader) uint() uint64 {
	v := m.r.Uint()
	m.notEmpty(v != 0)
	return v
}

// time reads positive nanoseconds.
func (m *mapReader) time() int64 {
	at := m.r.Offset()
	v := m.uint()
	if v > math.MaxInt64 {
		m.r.Fail(at, "time does not fit 63 bits")
	}
	return int64(v)
}

// array reads the head of an array of 1 to limit elements.
func (m *mapReader) array(limit int) int {
	at := m.r.Offset()
	n := m.r.Array()
	m.notEmpty(n > 0)
	if n > limit {
		m.r.Fail(at, fmt.Sprintf("%d elements, limit %d", n, limit))
	}
	if m.r.Err() != nil {
		return 0
	}
	return n
}

func (m *mapReader) effect(e *Effect) {
	at := m.r.Offset()
	if n := m.r.Array(); n != len(e) {
		m.r.Fail(at, fmt.Sprintf("effect of %d elements, want %d", n, len(e)))
		return
	}
	for i := range e {
		at := m.r.Offset()
		v := m.r.Uint()
		if v > MaxEffect {
			m.r.Fail(at, fmt.Sprintf("effect of %d, limit %d", v, MaxEffect))
		}
		e[i] = uint16(v)
	}
}

func (m *mapReader) extensions() []Extension {
	at, r := m.r.Offset(), m.r
	attrs := r.TextMap()
	n := attrs.Len()
	m.notEmpty(n > 0)
	if n > MaxExtensions {
		r.Fail(at, fmt.Sprintf("%d elements, limit %d", n, MaxExtensions))
	}
	if r.Err() != nil {
		return nil
	}
	exts := make([]Extension, 0, n)
	for attrs.Next() {
		x := Extension{Name: attrs.Key()}
		switch r.Peek() {
		case cbor.Text:
			x.Value = r.Text()
		case cbor.Bool:
			x.Value = r.Bool()
		default:
			x.Value = r.Int()
		}
		exts = append(exts, x)
	}
	slices.SortFunc(exts, func(a, b Extension) int { return strings.Compare(a.Name, b.Name) })
	return exts
}
