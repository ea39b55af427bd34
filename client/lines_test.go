package client_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

var lineDefaults = client.LineOptions{Workspace: "w", Source: "urn:default"}

func TestDecodeLine(t *testing.T) {
	cases := []struct {
		line string
		want chain.Event
	}{
		{`{"kind":"a.b"}`, chain.Event{Kind: "a.b"}},
		{
			`{"kind":"a.b","id":"1","source":"urn:s","workspace":"v","subject":"x","data":{ "b":1,  "a":1.0 },"schema_version":3,"priority":1,"traceparent":"tp","data_schema":"urn:d"}`,
			chain.Event{
				Kind: "a.b", ID: "1", Source: "urn:s", Workspace: "v", Subject: "x", Payload: []byte(`{ "b":1,  "a":1.0 }`),
				SchemaVersion: 3, Priority: 1, Traceparent: "tp", DataSchema: "urn:d",
			},
		},
		{`{"kind":"a","data":"text"}`, chain.Event{Kind: "a", Payload: []byte(`"text"`)}},
		{`{"kind":"a","data":"te\u0078t","content_type":"text/plain"}`, chain.Event{Kind: "a", Payload: []byte("text"), ContentType: "text/plain"}},
		{`{"kind":"a","data":7,"content_type":"application/vnd.x+json; v=1"}`, chain.Event{Kind: "a", Payload: []byte("7"), ContentType: "application/vnd.x+json; v=1"}},
		{`{"kind":"a","data_base64":"AP8=","content_type":"application/octet-stream"}`, chain.Event{Kind: "a", Payload: []byte{0, 255}, ContentType: "application/octet-stream"}},
		{`{"kind":"a","effect":{"risk":0.25,"security":1}}`, chain.Event{Kind: "a", DeclaredEffect: &chain.Effect{2500, 0, 0, 0, 10000}}},
		{`{"kind":"a","effect":"privacy=0.1"}`, chain.Event{Kind: "a", DeclaredEffect: &chain.Effect{0, 0, 1000}}},
		{`{"kind":"a","causes":[1,18446744073709551615]}`, chain.Event{Kind: "a", Causes: []uint64{1, 1<<64 - 1}}},
		{`{"kind":"a","time":"1970-01-01T00:00:01.5Z"}`, chain.Event{Kind: "a", ClientTime: 1_500_000_000}},
		{`{"kind":"a","extensions":{"z":"1","b":true,"a":-7}}`, chain.Event{Kind: "a", Extensions: []chain.Extension{{Name: "a", Value: int64(-7)}, {Name: "b", Value: true}, {Name: "z", Value: "1"}}}},
		{`{"kind":"a","subject":null,"data":null}`, chain.Event{Kind: "a"}},
		{`{"kind":"a","subject":"\ufffd \\uD800 \ud83d\ude00"}`, chain.Event{Kind: "a", Subject: "\ufffd \\uD800 \U0001F600"}},
		{
			`{"specversion":"1.0","type":"a.b","source":"urn:ce","id":"7","data":{"x": 1},"custom":"v"}`,
			chain.Event{Kind: "a.b", Source: "urn:ce", ID: "7", Payload: []byte(`{"x": 1}`), ContentType: "application/json", Extensions: []chain.Extension{{Name: "custom", Value: "v"}}},
		},
	}
	for _, c := range cases {
		if c.want.Workspace == "" {
			c.want.Workspace = "w"
		}
		if c.want.Source == "" {
			c.want.Source = "urn:default"
		}
		got, err := client.DecodeLine([]byte(c.line), lineDefaults)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
		} else if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s:\n%s", c.line, d)
		}
	}
}

func TestDecodeLineErrors(t *testing.T) {
	cases := []struct {
		line  string
		code  api.Code
		field string
	}{
		{``, api.Malformed, ""},
		{`[]`, api.Malformed, ""},
		{`{"kind":"a"`, api.Malformed, ""},
		{`{"kind":"a"} {}`, api.Malformed, ""},
		{`{"kind":"a",}`, api.Malformed, ""},
		{"{\"kind\":\"\xff\"}", api.Malformed, ""},
		{`{}`, api.BadField, "kind"},
		{`{"kind":"a","kind":"b"}`, api.BadField, "kind"},
		{`{"kind":1}`, api.BadField, "kind"},
		{`{"kind":"a","pid":1}`, api.BadField, "pid"},
		{`{"kind":"a","subject":"\ud800"}`, api.BadField, "subject"},
		{`{"kind":"a","subject":"\ufffd\udc00"}`, api.BadField, "subject"},
		{`{"kind":"a","subject":"�\ud800"}`, api.BadField, "subject"},
		{`{"kind":"a","data":{},"data_base64":""}`, api.BadField, "data"},
		{`{"kind":"a","data_base64":"A"}`, api.BadField, "data_base64"},
		{`{"kind":"a","data":{},"content_type":"text/plain"}`, api.BadField, "data"},
		{`{"kind":"a","effect":{"risk":1.1}}`, api.EffectRange, "effect"},
		{`{"kind":"a","effect":{"risk":-0.1}}`, api.EffectRange, "effect"},
		{`{"kind":"a","effect":{"fun":0.1}}`, api.BadField, "effect"},
		{`{"kind":"a","effect":7}`, api.BadField, "effect"},
		{`{"kind":"a","causes":[-1]}`, api.BadField, "causes"},
		{`{"kind":"a","priority":0.5}`, api.BadField, "priority"},
		{`{"kind":"a","time":"yesterday"}`, api.BadField, "time"},
		{`{"kind":"a","extensions":{"a":1.5}}`, api.BadField, "extensions.a"},
		{`{"kind":"a","extensions":{"a":4294967296}}`, api.BadField, "extensions.a"},
		{`{"kind":"a","extensions":{"a":{}}}`, api.BadField, "extensions.a"},
		{`{"kind":"a","extensions":[]}`, api.BadField, "extensions"},
		{`{"specversion":"1.0","type":"a"}`, api.BadField, "source"},
	}
	for _, c := range cases {
		_, err := client.DecodeLine([]byte(c.line), lineDefaults)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Field != c.field {
			t.Errorf("%s: %v, want %s of field %q", c.line, err, c.code, c.field)
		}
	}
}

func TestEventLines(t *testing.T) {
	input := "{\"kind\":\"a\",\"id\":\"given\"}\r\n\n  {\"kind\":\"b\"}\n{\"kind\":\"b\"}\nnonsense\n{\"kind\":\"c\"}"
	read := func(stream string) (ids []string, failed string) {
		opt := lineDefaults
		opt.Stream = stream
		for ev, err := range client.EventLines(strings.NewReader(input), opt) {
			if err != nil {
				failed = err.Error()
				continue
			}
			ids = append(ids, ev.ID)
		}
		return ids, failed
	}
	ids, failed := read("file")
	if len(ids) != 4 || ids[0] != "given" || !strings.HasPrefix(failed, "line 5: malformed") {
		t.Fatalf("%v, %s", ids, failed)
	}
	seen := make(map[string]bool)
	for _, id := range ids {
		if len(id) == 0 || seen[id] {
			t.Errorf("id %q is empty or repeated", id)
		}
		seen[id] = true
	}
	again, _ := read("file")
	if d := cmp.Diff(ids, again); d != "" {
		t.Errorf("reading again gives other ids:\n%s", d)
	}
	other, _ := read("other file")
	if other[1] == ids[1] {
		t.Error("another stream has the same ids")
	}
	if none, _ := read(""); none[1] != "" {
		t.Errorf("id %q without a stream", none[1])
	}

	// A line that is too long does not end the input, wherever it ends in
	// the reader's buffer.
	for _, size := range []int{200, 64 << 10, 2*(64<<10) - 25, 200 << 10} {
		long := "\n{\"kind\":\"a\"}\n{\"kind\":\"a\",\"data\":\"" + strings.Repeat("x", size) + "\"}\r\n{\"kind\":\"b\"}"
		var outcomes []string
		at := uint64(0)
		opt := client.LineOptions{MaxLine: 100, At: func(line uint64) { at = line }}
		for ev, err := range client.EventLines(strings.NewReader(long), opt) {
			outcomes = append(outcomes, fmt.Sprint(at, ev.Kind, api.CodeOf(err)))
			if le := (*client.LineError)(nil); errors.As(err, &le) && le.Line != at {
				t.Errorf("line %d says that it is %d", at, le.Line)
			}
		}
		if diff := cmp.Diff([]string{"2a", "3" + string(api.TooLarge), "4b"}, outcomes); diff != "" {
			t.Errorf("size %d: %s", size, diff)
		}
		last := long[:strings.LastIndex(long, "\r\n")]
		for _, err := range client.EventLines(strings.NewReader(last), client.LineOptions{MaxLine: 100}) {
			if api.CodeOf(err) != api.TooLarge && err != nil {
				t.Errorf("size %d, last line: %v", size, err)
			}
			outcomes = append(outcomes, string(api.CodeOf(err)))
		}
		if diff := cmp.Diff([]string{"", string(api.TooLarge)}, outcomes[3:]); diff != "" {
			t.Errorf("size %d, last line: %s", size, diff)
		}
	}
}

// FuzzDecodeLine: no input breaks the decoder; what it takes is an event whose
// payload is part of the line, and every error is the line's own.
func FuzzDecodeLine(f *testing.F) {
	for _, s := range []string{
		`{"kind":"a.b","id":"1","data":{"x":[1,2.50]},"effect":{"risk":0.1},"extensions":{"a":"b"}}`,
		`{"specversion":"1.0","type":"t","source":"s","id":"i","data_base64":"AAAA"}`,
		`{"kind":"a","data":"\ud83d\ude00","content_type":"text/plain"}`,
		`{"kind":"\\"}`, `{"kind":"a","effect":{}}`, `{"kind":"a","subject":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		before := string(line)
		ev, err := client.DecodeLine(line, lineDefaults)
		if string(line) != before {
			t.Fatal("the line was changed")
		}
		if err != nil {
			if api.CodeOf(err) == "" || api.CodeOf(err) == api.Internal {
				t.Fatalf("error %v", err)
			}
			return
		}
		if !json.Valid(line) {
			t.Fatal("accepted what is not JSON")
		}
		if ev.Kind == "" || ev.Source == "" || ev.Workspace == "" {
			t.Fatalf("incomplete event %+v", ev)
		}
		isJSON := ev.ContentType == "" || ev.ContentType == api.DefaultContentType
		if isJSON && !strings.Contains(before, "data_base64") && !strings.Contains(before, string(ev.Payload)) {
			t.Fatalf("payload %q is not in the line", ev.Payload)
		}
	})
}
