package client

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/exonode/exonode/chain"
)

// Field numbers of exonode.v1, which TestFrameDecodes holds against the
// generated code.
const (
	fieldEvents = 1 // AppendStreamRequest.events

	fieldWorkspace       = 1
	fieldSource          = 2
	fieldID              = 3
	fieldKind            = 4
	fieldSubject         = 5
	fieldData            = 6
	fieldContentType     = 8
	fieldDataSchema      = 9
	fieldSchemaVersion   = 10
	fieldEffect          = 11
	fieldCauses          = 12
	fieldPriority        = 13
	fieldClientTime      = 14
	fieldTraceparent     = 15
	fieldExtensions      = 16
	fieldSalt            = 17
	fieldClientKeyID     = 18
	fieldClientSignature = 19

	fieldMapKey   = 1
	fieldMapValue = 2

	fieldValueText    = 1
	fieldValueInteger = 2
	fieldValueBoolean = 3
)

// framePrefix is room for an element's tag and length before its bytes.
const framePrefix = 1 + 10

// appendFrame encodes ev as an element of AppendStreamRequest.events. It uses
// buf's memory where it suffices and returns the frame, and the memory for the
// next call. An event is encoded once, by its Append, and the bytes are what
// every attempt sends: a caller that goes on to change its payload changes
// nothing that is under way.
func appendFrame(buf []byte, ev *chain.Event) (frame, memory []byte, err error) {
	var prefix [framePrefix]byte
	b := append(buf[:0], prefix[:]...)
	b = appendText(b, fieldWorkspace, ev.Workspace)
	b = appendText(b, fieldSource, ev.Source)
	b = appendText(b, fieldID, ev.ID)
	b = appendText(b, fieldKind, ev.Kind)
	b = appendText(b, fieldSubject, ev.Subject)
	b = appendBytes(b, fieldData, ev.Payload)
	b = appendText(b, fieldContentType, ev.ContentType)
	b = appendText(b, fieldDataSchema, ev.DataSchema)
	b = appendVarint(b, fieldSchemaVersion, ev.SchemaVersion)
	if ev.DeclaredEffect != nil {
		b = appendEffect(b, ev.DeclaredEffect)
	}
	if len(ev.Causes) > 0 {
		size := 0
		for _, c := range ev.Causes {
			size += protowire.SizeVarint(c)
		}
		b = protowire.AppendTag(b, fieldCauses, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
		for _, c := range ev.Causes {
			b = protowire.AppendVarint(b, c)
		}
	}
	b = appendVarint(b, fieldPriority, ev.Priority)
	b = appendVarint(b, fieldClientTime, uint64(ev.ClientTime))
	b = appendText(b, fieldTraceparent, ev.Traceparent)
	for i := range ev.Extensions {
		if b, err = appendExtension(b, &ev.Extensions[i]); err != nil {
			return nil, b, err
		}
	}
	if ev.Salt != nil {
		b = appendBytes(b, fieldSalt, ev.Salt[:])
	}
	b = appendText(b, fieldClientKeyID, ev.ClientKeyID)
	b = appendBytes(b, fieldClientSignature, ev.ClientSignature)

	head := protowire.AppendTag(prefix[:0], fieldEvents, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(b)-framePrefix))
	start := framePrefix - len(head)
	copy(b[start:], head)
	return b[start:], b, nil
}

func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendEffect(b []byte, e *chain.Effect) []byte {
	var room [64]byte
	inner := room[:0]
	for i, v := range e {
		inner = appendVarint(inner, protowire.Number(i+1), uint64(v))
	}
	return protowire.AppendBytes(protowire.AppendTag(b, fieldEffect, protowire.BytesType), inner)
}

func appendExtension(b []byte, x *chain.Extension) ([]byte, error) {
	var value []byte
	switch v := x.Value.(type) {
	case string:
		value = protowire.AppendString(protowire.AppendTag(nil, fieldValueText, protowire.BytesType), v)
	case int64:
		if v != int64(int32(v)) {
			return b, fmt.Errorf("extension %q: %d does not fit CloudEvents' 32 bits: send it as text", x.Name, v)
		}
		value = protowire.AppendVarint(protowire.AppendTag(nil, fieldValueInteger, protowire.VarintType), uint64(v))
	case bool:
		value = protowire.AppendVarint(protowire.AppendTag(nil, fieldValueBoolean, protowire.VarintType), protowire.EncodeBool(v))
	default:
		return b, fmt.Errorf("extension %q: a %T can't be an attribute: want string, int64 or bool", x.Name, x.Value)
	}
	inner := protowire.AppendString(protowire.AppendTag(nil, fieldMapKey, protowire.BytesType), x.Name)
	inner = protowire.AppendBytes(protowire.AppendTag(inner, fieldMapValue, protowire.BytesType), value)
	return protowire.AppendBytes(protowire.AppendTag(b, fieldExtensions, protowire.BytesType), inner), nil
}

// rawRequest is an AppendStreamRequest that is already encoded.
type rawRequest struct{ bytes []byte }

// codec is Connect's binary protobuf codec, but for rawRequest.
type codec struct{}

// Name implements connect.Codec.
func (codec) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (c codec) Marshal(m any) ([]byte, error) { return c.MarshalAppend(nil, m) }

// MarshalAppend is the method that Connect prefers where a codec has it.
func (codec) MarshalAppend(dst []byte, m any) ([]byte, error) {
	switch m := m.(type) {
	case *rawRequest:
		return append(dst, m.bytes...), nil
	case proto.Message:
		return proto.MarshalOptions{}.MarshalAppend(dst, m)
	}
	return nil, fmt.Errorf("%T is not a protobuf message", m)
}

// Unmarshal implements connect.Codec.
func (codec) Unmarshal(b []byte, m any) error {
	p, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is not a protobuf message", m)
	}
	return proto.Unmarshal(b, p)
}
