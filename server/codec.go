package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/exonode/exonode/api"
)

// refusals has why request messages could not be decoded, by message, until the
// interceptor takes it. Connect answers what its codec refuses before any
// interceptor sees the call, with an error of its own that has no ErrorDetail:
// so the codecs below never refuse.
type refusals struct{ messages sync.Map }

func (r *refusals) note(message any, err *api.Error) { r.messages.Store(message, err) }

// take returns why a message could not be decoded; nil where it was.
func (r *refusals) take(message any) error {
	if err, ok := r.messages.LoadAndDelete(message); ok {
		return err.(*api.Error)
	}
	return nil
}

// checked is a stream whose messages are decoded, or refused.
type checked struct {
	connect.StreamingHandlerConn
	refused *refusals
}

// Receive implements connect.StreamingHandlerConn.
func (c checked) Receive(message any) error {
	if err := c.StreamingHandlerConn.Receive(message); err != nil {
		return err
	}
	return c.refused.take(message)
}

// decoding is what a node's codecs share.
type decoding struct {
	refused *refusals
	limit   int
}

// into decodes a message, or notes why that can't be.
func (d decoding) into(message any, body []byte, decode func(proto.Message) error) error {
	m, err := protoMessage(message)
	if err != nil {
		return err
	}
	if len(body) > d.limit {
		d.refused.note(message, errTooLarge(d.limit))
		return nil
	}
	if err := decode(m); err != nil {
		proto.Reset(m)
		d.refused.note(message, notDecoded(err))
	}
	return nil
}

func errTooLarge(limit int) *api.Error {
	return &api.Error{Code: api.TooLarge, Message: fmt.Sprintf("the request is larger than %d bytes", limit), Hint: "send fewer events at once"}
}

func notDecoded(err error) *api.Error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	// The library marks its texts, with a space of one kind or another.
	text := strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
	return &api.Error{Code: api.Malformed, Message: "the body is not a request of this call: " + text}
}

// strictProto is Connect's protobuf codec.
type strictProto struct{ decoding }

// Name implements connect.Codec.
func (strictProto) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (c strictProto) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend saves Connect a copy.
func (strictProto) MarshalAppend(b []byte, message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(b, m)
}

// Unmarshal implements connect.Codec.
func (c strictProto) Unmarshal(body []byte, message any) error {
	return c.into(message, body, func(m proto.Message) error { return proto.Unmarshal(body, m) })
}

// strictJSON is Connect's JSON codec, but for unknown fields: it refuses them.
// A misspelt "effect" must not pass as none.
type strictJSON struct {
	decoding
	name string
}

// Name implements connect.Codec.
func (c strictJSON) Name() string { return c.name }

// Marshal implements connect.Codec.
func (c strictJSON) Marshal(message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(m)
}

// MarshalAppend saves Connect a copy.
func (c strictJSON) MarshalAppend(b []byte, message any) ([]byte, error) {
	m, err := protoMessage(message)
	if err != nil {
		return nil, err
	}
	return protojson.MarshalOptions{}.MarshalAppend(b, m)
}

// Unmarshal implements connect.Codec.
func (c strictJSON) Unmarshal(text []byte, message any) error {
	return c.into(message, text, func(m proto.Message) error {
		if len(text) == 0 {
			return errors.New("empty body: send at least {}")
		}
		err := protojson.Unmarshal(text, m)
		if err != nil {
			if outside := effectOutside(text); outside != nil {
				return outside
			}
		}
		return err
	})
}

// effectOutside finds, in a request that was refused, an effect that no message
// can hold: below 0, or no whole number.
func effectOutside(text []byte) error {
	type event struct {
		Effect map[string]json.Number `json:"effect"`
	}
	var request struct {
		Event  event   `json:"event"`
		Events []event `json:"events"`
	}
	if json.Unmarshal(text, &request) != nil {
		return nil
	}
	for _, e := range append(request.Events, request.Event) {
		for name, n := range e.Effect {
			if strings.ContainsAny(string(n), "-.eE") {
				return &api.Error{
					Code: api.EffectRange, Field: "effect", Message: fmt.Sprintf("effect %s: %s is not a whole number from 0 to 10000", name, n),
					Hint: "effects of this call are ten-thousandths: 3000 is 0.3",
				}
			}
		}
	}
	return nil
}

func protoMessage(message any) (proto.Message, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", message)
	}
	return m, nil
}
