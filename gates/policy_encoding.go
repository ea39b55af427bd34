package gates

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/exonode/exonode/catalog"
)

// PolicyVersion is the version of the policy's encoding.
const PolicyVersion = 1

// Encode returns the policy's canonical form, which is hashed and stands in
// governance.genesis and governance.amend. It is frozen: JSON without white
// space, keys in this order and no others,
//
//	{"version":1,"environment":ENV,"elevate":EFFECT,"norm":DECIMAL,"reject":EFFECT,
//	 "unknown_kinds":"accept"|"refuse","overrides":[OVERRIDE...]}
//
// (here on two lines) where EFFECT is an object of all five dimensions in
// order, DECIMAL the shortest decimal of at most four places, and OVERRIDE
//
//	{"gate":NAME | ["workspace":NAME,] "kind":NAME,
//	 ["elevate":EFFECT,] ["norm":DECIMAL,] ["reject":EFFECT,] ["at_least":DECISION]}
//
// sorted by (gate, workspace, kind), what is absent empty. No string in it
// needs an escape. Members that later versions bring are absent where empty.
func (p *Policy) Encode() []byte {
	b := make([]byte, 0, 512)
	b = append(b, `{"version":`...)
	b = strconv.AppendUint(b, PolicyVersion, 10)
	b = appendString(b, `,"environment":`, string(p.Environment))
	b = append(b, `,"elevate":`...)
	b = p.Elevate.appendJSON(b, true)
	b = append(b, `,"norm":`...)
	b = appendDecimal(b, p.Norm)
	b = append(b, `,"reject":`...)
	b = p.Reject.appendJSON(b, true)
	b = appendString(b, `,"unknown_kinds":`, string(p.UnknownKinds))
	b = append(b, `,"overrides":[`...)
	for i := range p.Overrides {
		if i > 0 {
			b = append(b, ',')
		}
		b = p.Overrides[i].append(b)
	}
	return append(b, "]}"...)
}

func (o *Override) append(b []byte) []byte {
	switch {
	case o.Gate != "":
		b = appendString(b, `{"gate":`, o.Gate)
	case o.Workspace != "":
		b = appendString(b, `{"workspace":`, o.Workspace)
		b = appendString(b, `,"kind":`, o.Kind)
	default:
		b = appendString(b, `{"kind":`, o.Kind)
	}
	if o.Elevate != nil {
		b = append(b, `,"elevate":`...)
		b = o.Elevate.appendJSON(b, true)
	}
	if o.Norm != nil {
		b = append(b, `,"norm":`...)
		b = appendDecimal(b, *o.Norm)
	}
	if o.Reject != nil {
		b = append(b, `,"reject":`...)
		b = o.Reject.appendJSON(b, true)
	}
	if o.AtLeast != 0 {
		b = appendString(b, `,"at_least":`, o.AtLeast.String())
	}
	return append(b, '}')
}

// appendString appends a key with its colon, and a string that needs no escape.
func appendString(b []byte, key, value string) []byte {
	b = append(b, key...)
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}

// DecodePolicy reads what Encode wrote, and nothing else. The error wraps
// ErrPolicy.
func DecodePolicy(text []byte) (Policy, error) {
	p, err := decodePolicy(text)
	if err != nil {
		return Policy{}, fmt.Errorf("gates: %w: %w", ErrPolicy, err)
	}
	if err := p.Check(); err != nil {
		return Policy{}, err
	}
	// Whatever was read loosely (order, white space, escapes, other forms
	// of a decimal, unknown members, absent ones) shows here.
	if !bytes.Equal(p.Encode(), text) {
		return Policy{}, fmt.Errorf("gates: %w: not in canonical form", ErrPolicy)
	}
	return p, nil
}

func decodePolicy(text []byte) (Policy, error) {
	m, err := catalog.ReadObject(text)
	if err != nil {
		return Policy{}, err
	}
	r := memberReader{members: m}
	if v := string(m["version"]); v != strconv.Itoa(PolicyVersion) {
		return Policy{}, fmt.Errorf("version is %.20q, want %d", v, PolicyVersion)
	}
	p := Policy{
		Environment:  Environment(r.text("environment")),
		UnknownKinds: UnknownKinds(r.text("unknown_kinds")),
	}
	if e := r.effect("elevate"); e != nil {
		p.Elevate = *e
	}
	if e := r.effect("reject"); e != nil {
		p.Reject = *e
	}
	if n := r.decimal("norm"); n != nil {
		p.Norm = *n
	}
	if r.err != nil {
		return Policy{}, r.err
	}
	list, err := catalog.ReadArray(m["overrides"])
	if err != nil {
		return Policy{}, fmt.Errorf("overrides: %w", err)
	}
	for i, text := range list {
		o, err := decodeOverride(text)
		if err != nil {
			return Policy{}, fmt.Errorf("overrides[%d]: %w", i, err)
		}
		p.Overrides = append(p.Overrides, o)
	}
	return p, nil
}

func decodeOverride(text []byte) (Override, error) {
	m, err := catalog.ReadObject(text)
	if err != nil {
		return Override{}, err
	}
	r := memberReader{members: m}
	o := Override{
		Gate:      r.text("gate"),
		Workspace: r.text("workspace"),
		Kind:      r.text("kind"),
		Elevate:   r.effect("elevate"),
		Norm:      r.decimal("norm"),
		Reject:    r.effect("reject"),
	}
	if name := r.text("at_least"); name != "" {
		o.AtLeast, err = ParseAtLeast(name)
	}
	if r.err != nil {
		return Override{}, r.err
	}
	return o, err
}

// ParseAtLeast returns the decision that an override's at_least names.
func ParseAtLeast(name string) (Decision, error) {
	for d := Warn; d <= Deny; d++ {
		if d.String() == name {
			return d, nil
		}
	}
	return 0, fmt.Errorf("at_least is %.20q, want warn, escalate or deny", name)
}

// A memberReader reads members of an object; absent ones are zero. It keeps the
// first error.
type memberReader struct {
	members map[string][]byte
	err     error
}

// fail keeps the first error.
func (r *memberReader) fail(name string, err error) {
	if r.err == nil && err != nil {
		r.err = fmt.Errorf("%s: %w", name, err)
	}
}

func (r *memberReader) text(name string) string {
	value, ok := r.members[name]
	if !ok {
		return ""
	}
	s, err := catalog.ReadString(value)
	r.fail(name, err)
	return s
}

func (r *memberReader) effect(name string) *Effect {
	value, ok := r.members[name]
	if !ok {
		return nil
	}
	var e Effect
	r.fail(name, e.UnmarshalJSON(value))
	return &e
}

func (r *memberReader) decimal(name string) *uint16 {
	value, ok := r.members[name]
	if !ok {
		return nil
	}
	n, err := ParseDecimal(string(value), MaxNorm)
	r.fail(name, err)
	return &n
}
