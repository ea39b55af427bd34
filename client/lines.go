package client

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/api/cloudevents"
	"github.com/exonode/exonode/chain"
)

// LineOptions say how lines become events.
type LineOptions struct {
	// Workspace and Source are for lines that name none.
	Workspace, Source string
	// Kind is for plain lines that name none.
	Kind string
	// Stream names the input where its lines have no ids: a line's id is
	// then derived from Stream, the line's number and its text, so that
	// reading the same input again gives the same ids. "" leaves ids empty.
	Stream string
	// MaxLine is the most bytes that a line may have; 2 MiB where it is 0.
	MaxLine int
	// At, where not nil, is called with a line's number, from 1, before what
	// became of the line is yielded.
	At func(line uint64)
}

const defaultMaxLine = 2 << 20

// EventLines reads events from JSON lines: CloudEvents 1.0 (a line with
// "specversion") or plain events, one object a line, blank lines skipped. What
// is wrong with a line is yielded in its event's place, as an *api.Error that
// names the line; reading goes on after it. An error of r itself ends the
// sequence.
//
// A plain event has the members kind, and optionally workspace, source, id,
// subject, data or data_base64, content_type, data_schema, schema_version,
// effect ({"risk": 0.3}), causes ([12, 15]), priority, time (RFC 3339),
// traceparent and extensions ({"name": value}). The payload is data's own bytes
// as they stand in the line; where content_type is not JSON's, the text of
// the string that data is.
func EventLines(r io.Reader, opt LineOptions) iter.Seq2[chain.Event, error] {
	if opt.MaxLine <= 0 {
		opt.MaxLine = defaultMaxLine
	}
	return func(yield func(chain.Event, error) bool) {
		br := bufio.NewReaderSize(r, 64<<10)
		var buf []byte
		for number := uint64(1); ; number++ {
			line, end := readLine(br, buf[:0], opt.MaxLine)
			buf = line
			line = bytes.TrimSpace(line)
			tooLong := errors.Is(end, bufio.ErrTooLong)
			if end != nil && !tooLong && !errors.Is(end, io.EOF) {
				yield(chain.Event{}, fmt.Errorf("read line %d: %w", number, end))
				return
			}
			if len(line) > 0 || tooLong {
				if opt.At != nil {
					opt.At(number)
				}
				ev, err := decodeNumbered(line, tooLong, number, opt)
				if !yield(ev, err) {
					return
				}
			}
			if errors.Is(end, io.EOF) {
				return
			}
		}
	}
}

// decodeNumbered decodes a line of EventLines. The event does not share line's
// memory.
func decodeNumbered(line []byte, tooLong bool, number uint64, opt LineOptions) (chain.Event, error) {
	if tooLong {
		return chain.Event{}, &LineError{Line: number, Err: &api.Error{
			Code: api.TooLarge, Message: fmt.Sprintf("the line has more than %d bytes", opt.MaxLine), Hint: "put one event on a line",
		}}
	}
	ev, err := DecodeLine(bytes.Clone(line), opt)
	if err != nil {
		return chain.Event{}, &LineError{Line: number, Err: err}
	}
	if ev.ID == "" && opt.Stream != "" {
		ev.ID = lineID(opt.Stream, number, line)
	}
	return ev, nil
}

// readLine appends the next line to buf, without its end. What follows the first
// limit bytes of a longer one is dropped, and bufio.ErrTooLong returned; io.EOF
// comes with the last line, which may be empty.
func readLine(r *bufio.Reader, buf []byte, limit int) ([]byte, error) {
	tooLong := false
	for {
		part, err := r.ReadSlice('\n')
		n := len(bytes.TrimRight(part, "\r\n"))
		if tooLong = tooLong || len(buf)+n > limit; !tooLong {
			buf = append(buf, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case tooLong && (err == nil || errors.Is(err, io.EOF)):
			return buf, bufio.ErrTooLong
		default:
			return buf, err
		}
	}
}

// LineError says which line of an input is no event, and why.
type LineError struct {
	Line uint64 // from 1
	Err  error
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %v", e.Line, e.Err) }

// Unwrap returns Err.
func (e *LineError) Unwrap() error { return e.Err }

// lineID derives the id of a line that has none.
func lineID(stream string, number uint64, line []byte) string {
	h := sha256.New()
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(stream)))
	h.Write([]byte("exonode event line id 1\x00"))
	h.Write(n[:])
	h.Write([]byte(stream))
	binary.BigEndian.PutUint64(n[:], number)
	h.Write(n[:])
	h.Write(line)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// DecodeLine decodes one event from a JSON object, a CloudEvent or a plain
// event as EventLines describes it. The event shares line's memory. Errors are
// *api.Error. MaxLine and Stream have no part in it.
func DecodeLine(line []byte, opt LineOptions) (chain.Event, error) {
	if !utf8.Valid(line) {
		return chain.Event{}, &api.Error{Code: api.Malformed, Message: "the text is not valid UTF-8"}
	}
	members, err := objectMembers(line)
	if err != nil {
		return chain.Event{}, err
	}
	for _, m := range members {
		if m.name == "specversion" {
			return cloudevents.Decode(line, opt.Workspace)
		}
	}
	ev, err := plainEvent(members)
	if err != nil {
		return chain.Event{}, err
	}
	if ev.Workspace == "" {
		ev.Workspace = opt.Workspace
	}
	if ev.Source == "" {
		ev.Source = opt.Source
	}
	if ev.Kind == "" {
		ev.Kind = opt.Kind
	}
	if ev.Kind == "" {
		return chain.Event{}, &api.Error{Code: api.BadField, Field: "kind", Message: "kind is missing", Hint: `a plain event has at least "kind"; a CloudEvent has "specversion"`}
	}
	return ev, nil
}

// member is one member of a JSON object, its value as it stands.
type member struct {
	name  string
	value json.RawMessage
}

// objectMembers splits a JSON object. A name that stands there twice is
// refused: readers would differ in which one they take.
func objectMembers(text []byte) ([]member, error) {
	malformed := func(format string, args ...any) error {
		return &api.Error{Code: api.Malformed, Message: fmt.Sprintf(format, args...)}
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, malformed("want a JSON object: %s", jsonProblem(err))
	}
	var out []member
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, malformed("%s", jsonProblem(err))
		}
		name, ok := t.(string)
		if !ok {
			return nil, malformed("a member has no name")
		}
		if slices.ContainsFunc(out, func(m member) bool { return m.name == name }) {
			return nil, &api.Error{Code: api.BadField, Field: name, Message: fmt.Sprintf("%q is there twice", name)}
		}
		m := member{name: name}
		if err := dec.Decode(&m.value); err != nil {
			return nil, malformed("%s", jsonProblem(err))
		}
		out = append(out, m)
	}
	if _, err := dec.Token(); err != nil {
		return nil, malformed("%s", jsonProblem(err))
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, malformed("something follows the object")
	}
	return out, nil
}

func jsonProblem(err error) string {
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return "it is another value"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the JSON text ends too early"
	case errors.As(err, &syntax):
		return fmt.Sprintf("malformed JSON at byte %d: %v", syntax.Offset, syntax)
	}
	return err.Error()
}

// plainEvent builds an event of a plain object's members.
func plainEvent(members []member) (chain.Event, error) {
	var ev chain.Event
	var data, base64Data json.RawMessage
	for _, m := range members {
		if string(m.value) == "null" {
			continue // the same as leaving it out
		}
		var err error
		switch m.name {
		case "kind":
			err = text(m, &ev.Kind)
		case "workspace":
			err = text(m, &ev.Workspace)
		case "source":
			err = text(m, &ev.Source)
		case "id":
			err = text(m, &ev.ID)
		case "subject":
			err = text(m, &ev.Subject)
		case "content_type":
			err = text(m, &ev.ContentType)
		case "data_schema":
			err = text(m, &ev.DataSchema)
		case "traceparent":
			err = text(m, &ev.Traceparent)
		case "schema_version":
			err = decodeMember(m, &ev.SchemaVersion, "a whole number")
		case "priority":
			err = decodeMember(m, &ev.Priority, "0 or 1")
		case "causes":
			err = decodeMember(m, &ev.Causes, "an array of sequences")
		case "time":
			var at string
			if err = text(m, &at); err == nil {
				if ev.ClientTime, err = cloudevents.ParseTime(at); err != nil {
					err = badMember(m, err.Error())
				}
			}
		case "effect":
			ev.DeclaredEffect, err = plainEffect(m)
		case "extensions":
			ev.Extensions, err = plainExtensions(m)
		case "data":
			data = m.value
		case "data_base64":
			base64Data = m.value
		default:
			err = &api.Error{
				Code: api.BadField, Field: m.name, Message: fmt.Sprintf("unknown member %q", m.name),
				Hint: `what belongs to the payload goes into "data", other attributes into "extensions"`,
			}
		}
		if err != nil {
			return ev, err
		}
	}
	return ev, plainPayload(&ev, data, base64Data)
}

func plainPayload(ev *chain.Event, data, base64Data json.RawMessage) error {
	switch {
	case data != nil && base64Data != nil:
		return badMember(member{name: "data"}, "both data and data_base64 are there")
	case base64Data != nil:
		var encoded string
		m := member{"data_base64", base64Data}
		if err := text(m, &encoded); err != nil {
			return err
		}
		payload, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil || strings.ContainsAny(encoded, "\r\n") {
			return badMember(m, "not base64 of RFC 4648, section 4")
		}
		ev.Payload = payload
	case data != nil && jsonType(ev.ContentType):
		ev.Payload = data
	case data != nil:
		var s string
		m := member{"data", data}
		if err := text(m, &s); err != nil {
			return badMember(m, "with content_type "+ev.ContentType+" it must be a string; or use data_base64")
		}
		ev.Payload = []byte(s)
	}
	return nil
}

// plainEffect reads {"risk": 0.3, "privacy": 0.1}, or "risk=0.3,privacy=0.1".
func plainEffect(m member) (*chain.Effect, error) {
	var s string
	if m.value[0] == '{' {
		members, err := objectMembers(m.value)
		if err != nil {
			return nil, err
		}
		parts := make([]string, len(members))
		for i, x := range members {
			parts[i] = x.name + "=" + string(x.value)
		}
		s = strings.Join(parts, ",")
		if s == "" {
			return new(chain.Effect), nil
		}
	} else if err := text(m, &s); err != nil {
		return nil, badMember(m, `want {"risk": 0.3} or "risk=0.3"`)
	}
	e, err := api.ParseEffect(s)
	if err != nil {
		return nil, err
	}
	return &e, nil
}

func plainExtensions(m member) ([]chain.Extension, error) {
	if m.value[0] != '{' {
		return nil, badMember(m, "want an object")
	}
	members, err := objectMembers(m.value)
	if err != nil {
		return nil, err
	}
	var out []chain.Extension
	for _, x := range members {
		full := member{"extensions." + x.name, x.value}
		e := chain.Extension{Name: x.name}
		switch x.value[0] {
		case '"':
			var s string
			if err := text(full, &s); err != nil {
				return nil, err
			}
			e.Value = s
		case 't', 'f':
			e.Value = x.value[0] == 't'
		case '{', '[', 'n':
			return nil, badMember(full, "want a string, a 32-bit integer or a boolean")
		default:
			var n int32
			if err := decodeMember(full, &n, "a 32-bit integer (send another number as a string)"); err != nil {
				return nil, err
			}
			e.Value = int64(n)
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b chain.Extension) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// jsonType reports whether data of a content type stands in a line as a JSON
// value; none is JSON.
func jsonType(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return contentType == "" || err == nil && (strings.HasSuffix(media, "/json") || strings.HasSuffix(media, "+json"))
}

// text reads a JSON string. Escapes of half a surrogate pair, which
// encoding/json would replace, are refused: the text would not be the one that
// was written.
func text(m member, into *string) error {
	if m.value[0] != '"' || json.Unmarshal(m.value, into) != nil {
		return badMember(m, "want a string")
	}
	replaced := strings.Count(*into, string(utf8.RuneError)) - bytes.Count(m.value, []byte(string(utf8.RuneError)))
	for rest := m.value; replaced > 0; {
		i := bytes.IndexByte(rest, '\\')
		if i < 0 {
			break
		}
		if len(rest) > i+5 && strings.EqualFold(string(rest[i+1:i+6]), "ufffd") {
			replaced-- // it was written so
		}
		rest = rest[i+2:]
	}
	if replaced > 0 {
		return badMember(m, "the string has half of a surrogate pair")
	}
	return nil
}

func decodeMember(m member, into any, want string) error {
	if err := json.Unmarshal(m.value, into); err != nil {
		return badMember(m, "want "+want)
	}
	return nil
}

func badMember(m member, problem string) error {
	return &api.Error{Code: api.BadField, Field: m.name, Message: m.name + ": " + problem}
}
