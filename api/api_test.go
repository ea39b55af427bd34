package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// All codes are listed once, travel as something, and come back as they went.
func TestErrorsBothWays(t *testing.T) {
	seen := map[api.Code]bool{}
	for _, code := range api.Codes() {
		if seen[code] {
			t.Errorf("%s is listed twice", code)
		}
		seen[code] = true
		for _, want := range []*api.Error{
			{Code: code, Message: "m"},
			{Code: code, Message: "m", Hint: "h", Field: "f", RetryAfterMillis: 1, Sequence: 7, HasSequence: true},
		} {
			sent := api.ToConnect(fmt.Errorf("operation: %w", want))
			if diff := cmp.Diff(want, api.FromConnect(sent)); diff != "" {
				t.Errorf("(-sent +got):\n%s", diff)
			}
			if sent.Code() != code.Connect() {
				t.Errorf("%s travels as %v", code, sent.Code())
			}
			if !errors.Is(want, &api.Error{Code: code}) || errors.Is(want, &api.Error{Code: code + "x"}) {
				t.Errorf("%s does not match by its code", code)
			}
		}
		if code != api.Internal && code.HTTPStatus() == 500 {
			t.Errorf("%s has no status of its own", code)
		}
	}
	if api.ToConnect(nil) != nil || api.FromConnect(nil) != nil || api.AsError(nil) != nil || api.CodeOf(nil) != "" {
		t.Error("no error becomes one")
	}
}

func TestErrorsOfOthers(t *testing.T) {
	for _, test := range []struct {
		err  error
		want api.Code
	}{
		{context.DeadlineExceeded, api.DeadlineExceeded},
		{fmt.Errorf("wait: %w", context.Canceled), api.Canceled},
		{errors.New("odd"), api.Internal},
		{connect.NewError(connect.CodeUnavailable, errors.New("connection refused")), api.UnknownOutcome},
		{connect.NewError(connect.CodeResourceExhausted, errors.New("message too large")), api.TooLarge},
		{connect.NewError(connect.CodeInvalidArgument, errors.New("unmarshal")), api.Malformed},
		{connect.NewError(connect.CodeUnimplemented, errors.New("404")), api.Unimplemented},
		{connect.NewError(connect.CodeUnauthenticated, errors.New("401")), api.Unauthorized},
		{connect.NewError(connect.CodeDataLoss, errors.New("?")), api.Internal},
	} {
		if got := api.FromConnect(test.err); got.Code != test.want || got.Message == "" {
			t.Errorf("%v: %+v, want %s", test.err, got, test.want)
		}
	}
}

// An error text that is not UTF-8 must not make a message that can't be sent.
func TestErrorTextIsUTF8(t *testing.T) {
	p := api.ErrorToProto(&api.Error{Code: api.Malformed, Message: "got \xff", Field: "\xfe", Hint: "\xfd"})
	if _, err := proto.Marshal(p); err != nil {
		t.Error(err)
	}
}

// The table in docs/API.md has every code, with what carries it.
func TestDocumentedCodes(t *testing.T) {
	text, err := os.ReadFile("../docs/API.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Errors\n")
	if !ok {
		t.Fatal("no section Errors")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	documented := map[string]string{}
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) > 4 && strings.HasPrefix(cells[1], " `") {
			documented[strings.Trim(cells[1], " `")] = strings.TrimSpace(cells[2]) + " " + strings.TrimSpace(cells[3])
		}
	}
	want := map[string]string{}
	for _, code := range api.Codes() {
		want[string(code)] = fmt.Sprintf("%s %d", code.Connect(), code.HTTPStatus())
	}
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Errorf("docs/API.md (-code +docs):\n%s", diff)
	}
}

func drawEvent(t *rapid.T) chain.Event {
	text := rapid.StringN(0, 20, -1)
	e := chain.Event{
		Workspace: rapid.StringMatching(`[a-z]{1,9}`).Draw(t, "workspace"),
		Source:    text.Draw(t, "source"), ID: text.Draw(t, "id"), Kind: text.Draw(t, "kind"), Subject: text.Draw(t, "subject"),
		SchemaVersion: rapid.Uint64().Draw(t, "schema version"),
		DataSchema:    text.Draw(t, "data schema"),
		ContentType:   rapid.StringN(1, 20, -1).Draw(t, "content type"),
		Payload:       rapid.SliceOfN(rapid.Byte(), 1, 50).Draw(t, "payload"),
		Priority:      uint64(rapid.Uint32().Draw(t, "priority")),
		ClientTime:    rapid.Int64().Draw(t, "client time"),
		Traceparent:   text.Draw(t, "traceparent"),
		ClientKeyID:   text.Draw(t, "key"),
	}
	if rapid.Bool().Draw(t, "has effect") {
		e.DeclaredEffect = new(chain.Effect)
		for i := range e.DeclaredEffect {
			e.DeclaredEffect[i] = rapid.Uint16Range(0, 10_000).Draw(t, "effect")
		}
	}
	if n := rapid.IntRange(0, 3).Draw(t, "causes"); n > 0 {
		for range n {
			e.Causes = append(e.Causes, rapid.Uint64().Draw(t, "cause"))
		}
	}
	for i := range rapid.IntRange(0, 3).Draw(t, "extensions") {
		value := rapid.OneOf(
			rapid.Map(text, func(s string) any { return s }),
			rapid.Map(rapid.Int32(), func(n int32) any { return int64(n) }),
			rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		).Draw(t, "value")
		e.Extensions = append(e.Extensions, chain.Extension{Name: string(rune('a' + i)), Value: value})
	}
	if rapid.Bool().Draw(t, "has salt") {
		e.Salt = &[chain.SaltSize]byte{rapid.Byte().Draw(t, "salt")}
	}
	if rapid.Bool().Draw(t, "signed") {
		e.ClientSignature = rapid.SliceOfN(rapid.Byte(), 64, 64).Draw(t, "signature")
	}
	return e
}

// An event comes back from a message as it went, over the wire too.
func TestEventBothWays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawEvent(t)
		wire, err := proto.Marshal(api.EventToProto(&want))
		if err != nil {
			t.Fatal(err)
		}
		p := new(exonodev1.Event)
		if err := proto.Unmarshal(wire, p); err != nil {
			t.Fatal(err)
		}
		got, err := api.EventFromProto(p)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("(-sent +got):\n%s", diff)
		}
	})
}

// An integer that CloudEvents does not allow is refused and not cut.
func TestWideExtension(t *testing.T) {
	e := chain.Event{Extensions: []chain.Extension{{Name: "x", Value: int64(1) << 40}}}
	_, err := api.EventFromProto(api.EventToProto(&e))
	if api.CodeOf(err) != api.BadField {
		t.Errorf("got %v", err)
	}
}

func TestEventDefaults(t *testing.T) {
	e, err := api.EventFromProto(&exonodev1.Event{Text: "x"})
	if err != nil || e.Workspace != "default" || e.ContentType != "application/json" || string(e.Payload) != "x" {
		t.Errorf("%+v, %v", e, err)
	}
	if e, err = api.EventFromProto(&exonodev1.Event{}); err != nil || e.ContentType != "" {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestVerdictBothWays(t *testing.T) {
	full := &chain.Verdict{
		Gate: "g", Decision: chain.Emergency, Revision: 1, PolicyHash: chain.Hash{9}, Declared: &chain.Effect{1, 2, 3, 4, 5},
		Effective: chain.Effect{6, 7, 8, 9, 10}, Rules: []chain.RuleOutcome{{ID: "r", Severity: "blocking", Failed: true}},
		Counts: []chain.Count{{Name: "c", Value: 3}}, Profile: "cel/1", Request: 4, Permit: 5, Reasons: []string{"a", "b"}, Emergency: 6,
	}
	for _, want := range []*chain.Verdict{nil, {Gate: "g"}, full} {
		got, err := api.VerdictFromProto(api.VerdictToProto(want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-sent +got):\n%s", diff)
		}
	}
}

func TestFilterBothWays(t *testing.T) {
	for _, want := range []chain.Filter{{}, {Workspace: "w", Kind: "k*", Source: "s", Principal: "p", TimeFrom: 5, TimeTo: 1 << 62}, {TimeFrom: -3}} {
		got, err := api.FilterFromProto(api.FilterToProto(want))
		if err != nil || got != want {
			t.Errorf("%+v became %+v, %v", want, got, err)
		}
	}
}

func TestEffectText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e chain.Effect
		for i := range e {
			e[i] = rapid.Uint16Range(0, 10_000).Draw(t, "element")
		}
		text := api.FormatEffect(e)
		if text == "" {
			return // nothing declared
		}
		got, err := api.ParseEffect(text)
		if err != nil || got != e {
			t.Fatalf("%q became %v, %v", text, got, err)
		}
	})
	for _, text := range []string{"", "risk", "risk=", "risk=.", "risk=1.00001", "risk=2", "risk=-1", "risk=1e0", "risk=0.5,", "RISK=1", "risk=99999999999999999999"} {
		if got, err := api.ParseEffect(text); err == nil {
			t.Errorf("%q became %v", text, got)
		}
	}
}

// record seals an event.
func record(t *testing.T, e chain.Event) chain.Record {
	t.Helper()
	e.Workspace, e.Source, e.ID, e.Kind = "w", "s", "1", "k.k"
	sealed, err := chain.Seal(&chain.SealInput{Prev: chain.Head{Size: 4, Hash: chain.Hash{1}, Time: 5}, Stamp: 1_700_000_000_123_000_000, Event: &e, Principal: "p",
		Verdict: &chain.Verdict{Gate: "g.g", Decision: chain.Permit, Effective: chain.Effect{3000, 0, 10_000, 1, 50}}})
	if err != nil {
		t.Fatal(err)
	}
	return sealed.Record
}

func TestEntryForms(t *testing.T) {
	r := record(t, chain.Event{Payload: []byte("{ }"), ContentType: "application/json"})
	for form, want := range map[exonodev1.EntryForm][2]bool{ // raw, readable
		exonodev1.EntryForm_ENTRY_FORM_UNSPECIFIED: {true, true},
		exonodev1.EntryForm_ENTRY_FORM_RAW:         {true, false},
		exonodev1.EntryForm_ENTRY_FORM_READABLE:    {false, true},
	} {
		p, err := api.RecordToProto(r, form)
		if err != nil {
			t.Fatal(err)
		}
		back, err := api.RecordFromProto(p)
		if raw := err == nil; raw != want[0] || (p.Readable != nil) != want[1] || raw && !cmp.Equal(back, r) {
			t.Errorf("%v: %v", form, p)
		}
	}
	if _, err := api.RecordToProto(chain.Record{Header: []byte("x")}, 0); api.CodeOf(err) != api.Internal {
		t.Errorf("a broken record: %v", err)
	}
	if _, err := api.RecordToProto(chain.Record{Header: []byte("x")}, exonodev1.EntryForm_ENTRY_FORM_RAW); err != nil {
		t.Errorf("the raw form of a broken record is what an auditor wants: %v", err)
	}
}

// The plain JSON form shows JSON as JSON, text as text, and the rest in base64.
func TestEntryJSON(t *testing.T) {
	for _, test := range []struct{ contentType, payload, want string }{
		{"application/json", `{ "a":1 }`, `"data":{"a":1}`},
		{"application/x+json", `[]`, `"data":[]`},
		{"application/json", `{broken`, `"data_base64":"e2Jyb2tlbg=="`},
		{"text/plain", "a\"b", `"data":"a\"b"`},
		{"text/plain", "\xff", `"data_base64":"/w=="`},
		{"image/png", "ab", `"data_base64":"YWI="`},
	} {
		d, err := api.DecodeRecord(record(t, chain.Event{Payload: []byte(test.payload), ContentType: test.contentType}))
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(d.JSON())
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{test.want, `"sequence":4`, `"time":"2023-11-14T22:13:20.123000000Z"`, `"risk":0.3`, `"privacy":1,`, `"novelty":0.0001`, `"decision":"permit"`} {
			if !strings.Contains(string(text), part) {
				t.Errorf("no %s in %s", part, text)
			}
		}
	}
}
