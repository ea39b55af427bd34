package cloudevents

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
)

// Decode decodes one event in the JSON event format. workspace is for an event
// that names none; "" is "default". Errors are *api.Error.
func Decode(text []byte, workspace string) (chain.Event, error) {
	e, err := decode(text, workspace)
	if err != nil {
		return chain.Event{}, err
	}
	return e, nil
}

// DecodeBatch decodes a JSON array of events. What is wrong with one event
// stands in its Result; the error is for a text that is no array at all.
func DecodeBatch(text []byte, workspace string) ([]Result, error) {
	if !utf8.Valid(text) {
		return nil, malformed("the text is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := delim(dec, '['); err != nil {
		return nil, err
	}
	var results []Result
	for dec.More() {
		if len(results) == MaxBatch {
			return nil, &api.Error{Code: api.TooLarge, Message: "the batch has more than " + strconv.Itoa(MaxBatch) + " events", Hint: "send several batches"}
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, syntax(err)
		}
		e, err := decode(raw, workspace)
		results = append(results, Result{Event: e, Err: err})
	}
	if err := end(dec, ']'); err != nil {
		return nil, err
	}
	return results, nil
}

func decode(text []byte, workspace string) (chain.Event, *api.Error) {
	if !utf8.Valid(text) {
		return chain.Event{}, malformed("the text is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if err := delim(dec, '{'); err != nil {
		return chain.Event{}, err
	}
	var b builder
	var data, base64Data json.RawMessage
	for dec.More() {
		name, raw, err := member(dec)
		if err != nil {
			return chain.Event{}, err
		}
		switch name {
		case "data", "data_base64":
			into := &data
			if name == "data_base64" {
				into = &base64Data
			}
			if *into != nil {
				return chain.Event{}, bad(name, "the member is there twice")
			}
			*into = raw
		default:
			value, set, err := scalar(name, raw)
			if err != nil {
				return chain.Event{}, err
			}
			if !set {
				continue // null is the same as unset
			}
			if err := b.attribute(name, value); err != nil {
				return chain.Event{}, err
			}
		}
	}
	if err := end(dec, '}'); err != nil {
		return chain.Event{}, err
	}
	if err := b.data(data, base64Data); err != nil {
		return chain.Event{}, err
	}
	return b.finish(workspace)
}

// data sets the payload: the JSON value's own bytes, the text of a string where
// the content type is not JSON's, or what base64 stands for.
func (b *builder) data(data, base64Data json.RawMessage) *api.Error {
	hasData := data != nil && string(data) != "null"
	hasBase64 := base64Data != nil && string(base64Data) != "null"
	switch {
	case hasData && hasBase64:
		return bad("data", "both data and data_base64 are there")
	case hasBase64:
		text, err := str("data_base64", base64Data)
		if err != nil {
			return err
		}
		payload, cause := base64.StdEncoding.Strict().DecodeString(text)
		if cause != nil || strings.ContainsAny(text, "\r\n") {
			return bad("data_base64", "not base64 of RFC 4648, section 4")
		}
		b.event.Payload, b.hasData = payload, true
	case hasData && isJSON(b.event.ContentType):
		b.event.Payload, b.hasData = data, true
	case hasData:
		if data[0] != '"' {
			return bad("data", "with content type "+b.event.ContentType+" it must be a string; or use data_base64")
		}
		text, err := str("data", data)
		if err != nil {
			return err
		}
		b.event.Payload, b.hasData = []byte(text), true
	}
	return nil
}

// member reads the next name and value of an object.
func member(dec *json.Decoder) (string, json.RawMessage, *api.Error) {
	token, err := dec.Token()
	if err != nil {
		return "", nil, syntax(err)
	}
	name, ok := token.(string)
	if !ok {
		return "", nil, malformed("an object's member has no name")
	}
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return "", nil, syntax(err)
	}
	return name, raw, nil
}

// scalar returns the value of an attribute, and whether it is set.
func scalar(name string, raw json.RawMessage) (value any, set bool, _ *api.Error) {
	switch raw[0] {
	case '"':
		s, err := str(name, raw)
		return s, true, err
	case 't', 'f':
		return raw[0] == 't', true, nil
	case 'n':
		return nil, false, nil
	case '{', '[':
		return nil, false, bad(name, "attributes are strings, integers or booleans")
	default:
		if string(raw) == "-0" {
			return nil, false, bad(name, "-0 is not an integer")
		}
		n, cause := strconv.ParseInt(string(raw), 10, 64)
		if cause != nil {
			return nil, false, bad(name, string(raw[:min(len(raw), 40)])+" is not a 32-bit integer: send it as a string")
		}
		n, err := integer(name, n)
		return n, true, err
	}
}

// str decodes a JSON string. Escapes that stand for no character (half of a
// surrogate pair) are refused: encoding/json would replace them silently.
func str(name string, raw json.RawMessage) (string, *api.Error) {
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", bad(name, "want a string")
	}
	if halfSurrogate(raw) {
		return "", bad(name, "the string has half of a surrogate pair")
	}
	return s, nil
}

// halfSurrogate reports whether a valid JSON string has an escape of half of a
// surrogate pair without the other half.
func halfSurrogate(raw json.RawMessage) bool {
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		i++ // at the escaped character
		if raw[i] != 'u' {
			continue
		}
		r := hex4(raw[i+1:])
		i += 4
		if !utf16.IsSurrogate(r) {
			continue
		}
		if i+6 >= len(raw) || raw[i+1] != '\\' || raw[i+2] != 'u' ||
			utf16.DecodeRune(r, hex4(raw[i+3:])) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// hex4 returns the number that four hexadecimal digits stand for.
func hex4(digits []byte) rune {
	n, err := strconv.ParseUint(string(digits[:4]), 16, 16)
	if err != nil {
		return 0 // can't be: the string was decoded before
	}
	return rune(n)
}

// delim reads an opening delimiter.
func delim(dec *json.Decoder, want json.Delim) *api.Error {
	token, err := dec.Token()
	if err != nil {
		return syntax(err)
	}
	if token != want {
		if want == '[' {
			return malformed("want a JSON array of events")
		}
		return malformed("want a JSON object")
	}
	return nil
}

// end reads the closing delimiter and makes sure that nothing follows.
func end(dec *json.Decoder, want json.Delim) *api.Error {
	token, err := dec.Token()
	if err != nil {
		return syntax(err)
	}
	if token != want {
		return malformed("want %s", want)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return malformed("something follows the end of the JSON text")
	}
	return nil
}

func syntax(err error) *api.Error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("the JSON text ends too early")
	}
	if se, ok := errors.AsType[*json.SyntaxError](err); ok {
		return malformed("malformed JSON at byte %d: %s", se.Offset, se.Error())
	}
	return malformed("malformed JSON: %v", err)
}
