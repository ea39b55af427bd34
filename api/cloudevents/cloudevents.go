// Package cloudevents decodes CloudEvents 1.0 from HTTP messages and from JSON
// into events of the chain: type is kind, time is the client's time, and
// extensions keep their types. It is strict: what it does not understand it
// refuses, and payloads are the bytes as they came, never re-encoded.
//
// It does no I/O and checks no policy. The server calls it for POST /v1/events,
// and programs that read files of CloudEvents call it through Decode.
//
// Four extension attributes are ours and are not kept as extensions: workspace,
// effect ("risk=0.3,privacy=0.1"), causes ("12,15") and priority (0 or 1);
// traceparent becomes the event's own field.
//
// Normative: CloudEvents 1.0.2, its JSON event format and its HTTP binding.
package cloudevents

import (
	"fmt"
	"math"
	"mime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
)

// Media types of the structured modes.
const (
	ContentType      = "application/cloudevents+json"
	BatchContentType = "application/cloudevents-batch+json"
)

// MaxBatch is the most events that a batch may have.
const MaxBatch = 4096

// Mode is how events stand in an HTTP message.
type Mode uint8

// The modes.
const (
	Structured Mode = 1 // the body is the event
	Batched    Mode = 2 // the body is an array of events
	Binary     Mode = 3 // headers are attributes, the body is the data
)

// Result is one event of a message, or why it is none.
type Result struct {
	Event chain.Event
	Err   *api.Error
}

// builder collects the attributes of one event.
type builder struct {
	event   chain.Event
	seen    []string
	hasData bool
}

// Attribute values have the Go types string, int64 and bool.

// attribute sets one context attribute or extension.
func (b *builder) attribute(name string, value any) *api.Error {
	if err := checkName(name); err != nil {
		return err
	}
	if slices.Contains(b.seen, name) {
		return bad(name, "the attribute is there twice")
	}
	b.seen = append(b.seen, name)

	e := &b.event
	text, isText := value.(string)
	switch name {
	case "specversion", "type", "source", "id", "datacontenttype", "dataschema", "subject", "time",
		"workspace", "effect", "causes", "traceparent":
		if !isText {
			return bad(name, "want a string")
		}
		if text == "" {
			return bad(name, "the attribute is empty: leave it out or fill it in")
		}
	}
	switch name {
	case "specversion":
		if text != "1.0" {
			return bad(name, fmt.Sprintf("version %q, want 1.0", text))
		}
	case "type":
		e.Kind = text
	case "source":
		e.Source = text
	case "id":
		e.ID = text
	case "datacontenttype":
		if _, _, err := mime.ParseMediaType(text); err != nil {
			return bad(name, fmt.Sprintf("%q is not a media type", text))
		}
		e.ContentType = text
	case "dataschema":
		e.DataSchema = text
	case "subject":
		e.Subject = text
	case "time":
		t, err := ParseTime(text)
		if err != nil {
			return bad(name, err.Error())
		}
		e.ClientTime = t
	case "traceparent":
		e.Traceparent = text
	case "workspace":
		e.Workspace = text
	case "effect":
		effect, err := api.ParseEffect(text)
		if err != nil {
			return api.AsError(err)
		}
		e.DeclaredEffect = &effect
	case "causes":
		causes, err := parseCauses(text)
		if err != nil {
			return err
		}
		e.Causes = causes
	case "priority":
		switch value {
		case int64(0), "0":
		case int64(1), "1":
			e.Priority = 1
		default:
			return bad(name, "want 0 or 1")
		}
	case "data", "database64":
		return bad(name, "the name is not allowed for an attribute")
	default:
		e.Extensions = append(e.Extensions, chain.Extension{Name: name, Value: value})
	}
	return nil
}

// finish checks what must be there and fills in the defaults.
func (b *builder) finish(workspace string) (chain.Event, *api.Error) {
	for _, name := range []string{"specversion", "type", "source", "id"} {
		if !slices.Contains(b.seen, name) {
			return chain.Event{}, bad(name, "the attribute is missing")
		}
	}
	e := b.event
	if e.Workspace == "" {
		e.Workspace = workspace
	}
	if e.Workspace == "" {
		e.Workspace = api.DefaultWorkspace
	}
	if b.hasData && e.ContentType == "" {
		e.ContentType = api.DefaultContentType
	}
	slices.SortFunc(e.Extensions, func(x, y chain.Extension) int { return strings.Compare(x.Name, y.Name) })
	return e, nil
}

// ParseTime parses an RFC 3339 time into Unix nanoseconds. It refuses more than
// nine decimal places, which would be lost, and times beyond what an int64
// holds.
func ParseTime(text string) (int64, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return 0, fmt.Errorf("%q is not an RFC 3339 time", text)
	}
	if _, fraction, ok := strings.Cut(text, "."); ok {
		digits := len(fraction) - len(strings.TrimLeft(fraction, "0123456789"))
		if digits > 9 {
			return 0, fmt.Errorf("%q has more than nine decimal places", text)
		}
	}
	ns := t.UnixNano()
	if !time.Unix(0, ns).Equal(t) {
		return 0, fmt.Errorf("%q is not between the years 1678 and 2262", text)
	}
	return ns, nil
}

func parseCauses(text string) ([]uint64, *api.Error) {
	var causes []uint64
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(part), 10, 64)
		if err != nil {
			return nil, bad("causes", fmt.Sprintf("%q is not a sequence: write them as \"12,15\"", part))
		}
		causes = append(causes, n)
	}
	return causes, nil
}

// checkName checks the name of an attribute: CloudEvents allows lower-case
// ASCII letters and digits, and recommends at most 20 of them, which is what the
// chain holds.
func checkName(name string) *api.Error {
	if name == "" || len(name) > 20 {
		return bad(name, "attribute names have 1 to 20 characters")
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return bad(name, "attribute names have only a-z and 0-9")
		}
	}
	return nil
}

// integer returns n where CloudEvents allows it.
func integer(name string, n int64) (int64, *api.Error) {
	if n < math.MinInt32 || n > math.MaxInt32 {
		return 0, bad(name, fmt.Sprintf("%d does not fit 32 bits: send it as a string", n))
	}
	return n, nil
}

func bad(field, message string) *api.Error {
	return &api.Error{Code: api.BadField, Field: field, Message: fmt.Sprintf("%s: %s", field, message)}
}

func malformed(format string, args ...any) *api.Error {
	return &api.Error{Code: api.Malformed, Message: fmt.Sprintf(format, args...)}
}

// isJSON reports whether a content type declares JSON, as the JSON event format
// says: subtype json, or a +json suffix; none is JSON.
func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	_, subtype, _ := strings.Cut(media, "/")
	return subtype == "json" || strings.HasSuffix(subtype, "+json")
}
