package cloudevents

import (
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/exonode/exonode/api"
)

// headerPrefix is what HTTP names of attributes begin with in binary mode, as
// net/http writes it.
const headerPrefix = "Ce-"

// ModeOf tells how events stand in a message with these headers. The error is
// an *api.Error with Field "content-type".
func ModeOf(h http.Header) (Mode, error) {
	contentType := h.Get("Content-Type")
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return 0, badType("it is no media type")
	}
	var mode Mode
	switch {
	case media == ContentType:
		mode = Structured
	case media == BatchContentType:
		mode = Batched
	case strings.HasPrefix(media, "application/cloudevents"):
		return 0, badType(media + " is not supported: only the JSON event format is")
	case h.Get(headerPrefix+"Specversion") != "":
		return Binary, nil
	default:
		return 0, &api.Error{
			Code:    api.Malformed,
			Field:   "content-type",
			Message: "the request is no CloudEvent",
			Hint:    "use content type " + ContentType + " or " + BatchContentType + ", or the headers ce-specversion, ce-type, ce-source and ce-id",
		}
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return 0, badType("charset " + charset + " is not supported: use utf-8")
	}
	return mode, nil
}

func badType(message string) *api.Error {
	return &api.Error{Code: api.Malformed, Field: "content-type", Message: message}
}

// FromHTTP decodes the events of a message: one in the modes Structured and
// Binary, any number in Batched. It keeps body. workspace is for events that
// name none. The error is an *api.Error about the message as a whole.
func FromHTTP(h http.Header, body []byte, workspace string) (Mode, []Result, error) {
	mode, err := ModeOf(h)
	if err != nil {
		return 0, nil, err
	}
	switch mode {
	case Batched:
		results, err := DecodeBatch(body, workspace)
		return mode, results, err
	case Structured:
		e, err := decode(body, workspace)
		return mode, []Result{{Event: e, Err: err}}, nil
	default:
		return mode, []Result{fromBinary(h, body, workspace)}, nil
	}
}

func fromBinary(h http.Header, body []byte, workspace string) Result {
	var b builder
	for key, values := range h {
		name, ok := strings.CutPrefix(key, headerPrefix)
		if !ok {
			continue
		}
		name = strings.ToLower(name)
		if name == "datacontenttype" {
			return Result{Err: bad(name, "in binary mode the Content-Type header says it")}
		}
		if len(values) != 1 {
			return Result{Err: bad(name, "the header is there twice")}
		}
		value, err := unescape(name, values[0])
		if err != nil {
			return Result{Err: err}
		}
		if err := b.attribute(name, value); err != nil {
			return Result{Err: err}
		}
	}
	if len(body) != 0 {
		b.event.Payload, b.hasData = body, true
	}
	if contentType := h.Get("Content-Type"); contentType != "" {
		b.event.ContentType = contentType
	}
	e, err := b.finish(workspace)
	return Result{Event: e, Err: err}
}

// unescape decodes a header's value as section 3.1.3.2 of the HTTP binding says:
// first a double-quoted string, then one round of percent-decoding.
func unescape(name, value string) (string, *api.Error) {
	if strings.HasPrefix(value, `"`) {
		inner, ok := unquote(value)
		if !ok {
			return "", bad(name, "the quoted string does not end")
		}
		value = inner
	}
	decoded, err := url.PathUnescape(value)
	if err != nil {
		return "", bad(name, "the percent-encoding is wrong: write a percent sign as %25")
	}
	if !utf8.ValidString(decoded) {
		return "", bad(name, "the value is not UTF-8")
	}
	return decoded, nil
}

// unquote reads an RFC 9110 quoted-string that takes up all of s.
func unquote(s string) (string, bool) {
	var out strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return out.String(), i == len(s)-1
		case '\\':
			if i++; i == len(s) {
				return "", false
			}
		}
		out.WriteByte(s[i])
	}
	return "", false
}
