package api

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// DefaultWorkspace is the workspace of events and lookups that name none.
const DefaultWorkspace = "default"

// DefaultContentType is the content type of payloads that name none.
const DefaultContentType = "application/json"

// effectMax is 1 in ten-thousandths.
const effectMax = 10_000

// EventFromProto returns p as a chain.Event, with the defaults of the schema
// filled in. It shares p's byte slices: p must not be changed afterwards. It
// checks what chain.Event can't hold; the node checks the rest. Errors are
// *Error, with the field's path relative to the event.
func EventFromProto(p *exonodev1.Event) (chain.Event, error) {
	var e chain.Event
	err := FillEvent(&e, p)
	return e, err
}

// FillEvent is EventFromProto into a zero Event that the caller owns, which
// spares a copy of it where events are many.
func FillEvent(e *chain.Event, p *exonodev1.Event) error {
	if p == nil {
		return &Error{Code: BadField, Field: "event", Message: "no event", Hint: "set event"}
	}
	e.Workspace = p.Workspace
	if e.Workspace == "" {
		e.Workspace = DefaultWorkspace
	}
	e.Source = p.Source
	e.ID = p.Id
	e.Kind = p.Kind
	e.SchemaVersion = p.SchemaVersion
	e.Subject = p.Subject
	e.Payload = p.Data
	if p.Text != "" {
		if len(p.Data) != 0 {
			return &Error{Code: BadField, Field: "text", Message: "both data and text are set", Hint: "set one of them"}
		}
		e.Payload = []byte(p.Text)
	}
	e.ContentType = p.ContentType
	if e.ContentType == "" && len(e.Payload) != 0 {
		e.ContentType = DefaultContentType
	}
	e.DataSchema = p.DataSchema
	if p.Effect != nil {
		effect, err := effectFromProto(p.Effect)
		if err != nil {
			return err
		}
		e.DeclaredEffect = effect
	}
	e.Causes = p.Causes
	e.Priority = uint64(p.Priority)
	e.ClientTime = p.ClientTimeUnixNano
	e.Traceparent = p.Traceparent
	if len(p.Extensions) != 0 {
		extensions, err := extensionsFromProto(p.Extensions)
		if err != nil {
			return err
		}
		e.Extensions = extensions
	}
	if len(p.Salt) != 0 {
		if len(p.Salt) != chain.SaltSize {
			return &Error{Code: BadField, Field: "salt", Message: fmt.Sprintf("salt has %d bytes, want %d", len(p.Salt), chain.SaltSize), Hint: "leave it out to let the leader draw one"}
		}
		e.Salt = (*[chain.SaltSize]byte)(p.Salt)
	}
	e.ClientKeyID = p.ClientKeyId
	if len(p.ClientSignature) != 0 {
		e.ClientSignature = p.ClientSignature
	}
	return nil
}

// EventToProto returns e as a message. It shares e's byte slices.
func EventToProto(e *chain.Event) *exonodev1.Event {
	p := &exonodev1.Event{
		Workspace:          e.Workspace,
		Source:             e.Source,
		Id:                 e.ID,
		Kind:               e.Kind,
		SchemaVersion:      e.SchemaVersion,
		Subject:            e.Subject,
		Data:               e.Payload,
		ContentType:        e.ContentType,
		DataSchema:         e.DataSchema,
		Causes:             e.Causes,
		Priority:           uint32(min(e.Priority, math.MaxUint32)),
		ClientTimeUnixNano: e.ClientTime,
		Traceparent:        e.Traceparent,
		ClientKeyId:        e.ClientKeyID,
		ClientSignature:    e.ClientSignature,
	}
	if e.DeclaredEffect != nil {
		p.Effect = effectToProto(*e.DeclaredEffect)
	}
	if len(e.Extensions) != 0 {
		p.Extensions = extensionsToProto(e.Extensions)
	}
	if e.Salt != nil {
		p.Salt = e.Salt[:]
	}
	return p
}

func effectFromProto(p *exonodev1.Effect) (*chain.Effect, error) {
	values := [...]uint32{p.Risk, p.Fairness, p.Privacy, p.Novelty, p.Security}
	e := new(chain.Effect)
	for i, v := range values {
		if v > effectMax {
			return nil, &Error{
				Code:    EffectRange,
				Field:   "effect." + effectNames[i],
				Message: fmt.Sprintf("effect %s is %d ten-thousandths", effectNames[i], v),
				Hint:    "an effect is 0 to 10,000 ten-thousandths",
			}
		}
		e[i] = uint16(v)
	}
	return e, nil
}

func effectToProto(e chain.Effect) *exonodev1.Effect {
	return &exonodev1.Effect{
		Risk:     uint32(e[0]),
		Fairness: uint32(e[1]),
		Privacy:  uint32(e[2]),
		Novelty:  uint32(e[3]),
		Security: uint32(e[4]),
	}
}

func extensionsFromProto(m map[string]*exonodev1.Value) ([]chain.Extension, error) {
	list := make([]chain.Extension, 0, len(m))
	for name, v := range m {
		x := chain.Extension{Name: name}
		switch k := v.GetKind().(type) {
		case *exonodev1.Value_Text:
			x.Value = k.Text
		case *exonodev1.Value_Integer:
			x.Value = int64(k.Integer)
		case *exonodev1.Value_Boolean:
			x.Value = k.Boolean
		default:
			return nil, &Error{Code: BadField, Field: "extensions." + name, Message: fmt.Sprintf("extension %q has no value", name), Hint: "set text, integer or boolean, or leave it out"}
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b chain.Extension) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

func extensionsToProto(list []chain.Extension) map[string]*exonodev1.Value {
	m := make(map[string]*exonodev1.Value, len(list))
	for _, x := range list {
		v := new(exonodev1.Value)
		switch k := x.Value.(type) {
		case string:
			v.Kind = &exonodev1.Value_Text{Text: k}
		case int64:
			// An integer that does not fit stays a value without a kind, which
			// every node refuses: it must not arrive as another number.
			if int64(int32(k)) == k {
				v.Kind = &exonodev1.Value_Integer{Integer: int32(k)}
			}
		case bool:
			v.Kind = &exonodev1.Value_Boolean{Boolean: k}
		}
		m[x.Name] = v
	}
	return m
}

// VerdictToProto returns v as a message; nil for nil.
func VerdictToProto(v *chain.Verdict) *exonodev1.Verdict {
	if v == nil {
		return nil
	}
	p := &exonodev1.Verdict{
		Gate:       v.Gate,
		Decision:   exonodev1.Decision(v.Decision),
		Revision:   v.Revision,
		PolicyHash: v.PolicyHash[:],
		Effective:  effectToProto(v.Effective),
		Profile:    v.Profile,
		Request:    v.Request,
		Permit:     v.Permit,
		Reasons:    v.Reasons,
		Emergency:  v.Emergency,
	}
	if v.Declared != nil {
		p.Declared = effectToProto(*v.Declared)
	}
	for _, r := range v.Rules {
		p.Rules = append(p.Rules, &exonodev1.RuleOutcome{Id: r.ID, Severity: r.Severity, Failed: r.Failed})
	}
	for _, c := range v.Counts {
		p.Counts = append(p.Counts, &exonodev1.Count{Name: c.Name, Value: c.Value})
	}
	return p
}

// VerdictFromProto is the inverse of VerdictToProto.
func VerdictFromProto(p *exonodev1.Verdict) (*chain.Verdict, error) {
	if p == nil {
		return nil, nil
	}
	v := &chain.Verdict{
		Gate:      p.Gate,
		Decision:  chain.Decision(p.Decision),
		Revision:  p.Revision,
		Profile:   p.Profile,
		Request:   p.Request,
		Permit:    p.Permit,
		Reasons:   p.Reasons,
		Emergency: p.Emergency,
	}
	var err error
	if v.PolicyHash, err = HashFromProto("verdict.policy_hash", p.PolicyHash); err != nil {
		return nil, err
	}
	if p.Declared != nil {
		if v.Declared, err = effectFromProto(p.Declared); err != nil {
			return nil, err
		}
	}
	if p.Effective != nil {
		effective, err := effectFromProto(p.Effective)
		if err != nil {
			return nil, err
		}
		v.Effective = *effective
	}
	for _, r := range p.Rules {
		v.Rules = append(v.Rules, chain.RuleOutcome{ID: r.GetId(), Severity: r.GetSeverity(), Failed: r.GetFailed()})
	}
	for _, c := range p.Counts {
		v.Counts = append(v.Counts, chain.Count{Name: c.GetName(), Value: c.GetValue()})
	}
	return v, nil
}

// HashFromProto returns b as a Hash; field names it in the error. Empty bytes
// are the zero hash.
func HashFromProto(field string, b []byte) (chain.Hash, error) {
	switch len(b) {
	case len(chain.Hash{}):
		return chain.Hash(b), nil
	case 0:
		return chain.Hash{}, nil
	default:
		return chain.Hash{}, &Error{Code: Malformed, Field: field, Message: fmt.Sprintf("%s has %d bytes, want %d", field, len(b), len(chain.Hash{}))}
	}
}

// FilterFromProto returns p as a Filter; an unset p does not restrict.
func FilterFromProto(p *exonodev1.Filter) (chain.Filter, error) {
	f := chain.Filter{
		Workspace: p.GetWorkspace(),
		Kind:      p.GetKind(),
		Source:    p.GetSource(),
		Principal: p.GetPrincipal(),
	}
	if i := strings.IndexByte(f.Kind, '*'); i >= 0 && i != len(f.Kind)-1 {
		return f, &Error{Code: BadField, Field: "kind", Message: fmt.Sprintf("kind is %q: a * may only stand at the end", f.Kind)}
	}
	var err error
	if f.TimeFrom, err = nanos("filter.time_from", p.GetTimeFrom()); err != nil {
		return f, err
	}
	if f.TimeTo, err = nanos("filter.time_to", p.GetTimeTo()); err != nil {
		return f, err
	}
	return f, nil
}

// FilterToProto is the inverse of FilterFromProto.
func FilterToProto(f chain.Filter) *exonodev1.Filter {
	if f == (chain.Filter{}) {
		return nil
	}
	p := &exonodev1.Filter{Workspace: f.Workspace, Kind: f.Kind, Source: f.Source, Principal: f.Principal}
	if f.TimeFrom != 0 {
		p.TimeFrom = timestamppb.New(time.Unix(0, f.TimeFrom))
	}
	if f.TimeTo != 0 {
		p.TimeTo = timestamppb.New(time.Unix(0, f.TimeTo))
	}
	return p
}

// nanos returns t in Unix nanoseconds; 0 where unset. Times beyond what int64
// holds (the years 1678 to 2262) are refused, not wrapped.
func nanos(field string, t *timestamppb.Timestamp) (int64, error) {
	if t == nil {
		return 0, nil
	}
	if err := t.CheckValid(); err != nil {
		return 0, &Error{Code: BadField, Field: field, Message: err.Error()}
	}
	at := t.AsTime()
	ns := at.UnixNano()
	if !time.Unix(0, ns).Equal(at) {
		return 0, &Error{Code: BadField, Field: field, Message: fmt.Sprintf("%s is %s", field, at.Format(time.RFC3339)), Hint: "use a time between the years 1678 and 2262"}
	}
	return ns, nil
}
