package cloudevents_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/api/cloudevents"
	"github.com/exonode/exonode/chain"
)

// minimal is the event that has only what it must have.
func minimal() chain.Event {
	return chain.Event{Workspace: "default", Source: "/s", ID: "1", Kind: "k.k"}
}

func with(change func(*chain.Event)) chain.Event {
	e := minimal()
	change(&e)
	return e
}

const head = `{"specversion":"1.0","type":"k.k","source":"/s","id":"1"`

func TestStructured(t *testing.T) {
	for name, test := range map[string]struct {
		text  string
		want  chain.Event
		field string // of the error, where there is one
	}{
		"minimal":     {text: head + `}`, want: minimal()},
		"white space": {text: "\n\t " + head + " \r\n } \n", want: minimal()},
		"all": {
			text: head + `,"subject":"x","time":"2020-02-29T12:00:00.000000001+02:00","dataschema":"https://e.example/s","datacontenttype":"text/plain","data":"hi","workspace":"w","effect":"risk=0.3, privacy=0.1","causes":"3, 9","priority":1,"traceparent":"00-a-b-01"}`,
			want: with(func(e *chain.Event) {
				e.Workspace, e.Subject, e.DataSchema, e.ContentType = "w", "x", "https://e.example/s", "text/plain"
				e.ClientTime = time.Date(2020, 2, 29, 10, 0, 0, 1, time.UTC).UnixNano()
				e.Payload = []byte("hi")
				e.DeclaredEffect = &chain.Effect{3000, 0, 1000, 0, 0}
				e.Causes, e.Priority, e.Traceparent = []uint64{3, 9}, 1, "00-a-b-01"
			}),
		},
		"extensions keep types": {
			text: head + `,"zstring":"1","aint":-2147483648,"bool":false,"empty":""}`,
			want: with(func(e *chain.Event) {
				e.Extensions = []chain.Extension{{Name: "aint", Value: int64(-2147483648)}, {Name: "bool", Value: false}, {Name: "empty", Value: ""}, {Name: "zstring", Value: "1"}}
			}),
		},
		"null is unset": {text: head + `,"subject":null,"x":null,"data":null}`, want: minimal()},
		"json data": {
			text: head + `,"data": {"b" :1.0,  "a":[]} }`,
			want: with(func(e *chain.Event) { e.Payload, e.ContentType = []byte(`{"b" :1.0,  "a":[]}`), "application/json" }),
		},
		"json string": {
			text: head + `,"data":"a\u0041"}`,
			want: with(func(e *chain.Event) { e.Payload, e.ContentType = []byte(`"a\u0041"`), "application/json" }),
		},
		"data before its type": {
			text: head + `,"data":"a\u0041","datacontenttype":"text/plain"}`,
			want: with(func(e *chain.Event) { e.Payload, e.ContentType = []byte("aA"), "text/plain" }),
		},
		"json suffix": {
			text: head + `,"data":"x","datacontenttype":"application/vnd.x+json; v=1"}`,
			want: with(func(e *chain.Event) { e.Payload, e.ContentType = []byte(`"x"`), "application/vnd.x+json; v=1" }),
		},
		"base64": {
			text: head + `,"data_base64":"/+8=","datacontenttype":"image/png"}`,
			want: with(func(e *chain.Event) { e.Payload, e.ContentType = []byte{0xff, 0xef}, "image/png" }),
		},
		"surrogate pair": {
			text: head + `,"subject":"\ud83d\ude00 \ufffd"}`,
			want: with(func(e *chain.Event) { e.Subject = "😀 \ufffd" }),
		},
		"priority as text": {text: head + `,"priority":"1"}`, want: with(func(e *chain.Event) { e.Priority = 1 })},

		"no specversion":      {text: `{"type":"k.k","source":"/s","id":"1"}`, field: "specversion"},
		"other version":       {text: `{"specversion":"0.3","type":"k.k","source":"/s","id":"1"}`, field: "specversion"},
		"no type":             {text: `{"specversion":"1.0","source":"/s","id":"1"}`, field: "type"},
		"no source":           {text: `{"specversion":"1.0","type":"k.k","id":"1"}`, field: "source"},
		"null id":             {text: `{"specversion":"1.0","type":"k.k","source":"/s","id":null}`, field: "id"},
		"empty id":            {text: `{"specversion":"1.0","type":"k.k","source":"/s","id":""}`, field: "id"},
		"numeric id":          {text: `{"specversion":"1.0","type":"k.k","source":"/s","id":1}`, field: "id"},
		"empty subject":       {text: head + `,"subject":""}`, field: "subject"},
		"time":                {text: head + `,"time":"yesterday"}`, field: "time"},
		"time too far":        {text: head + `,"time":"9999-01-01T00:00:00Z"}`, field: "time"},
		"time too fine":       {text: head + `,"time":"2020-01-01T00:00:00.0000000001Z"}`, field: "time"},
		"name in capitals":    {text: head + `,"Foo":"x"}`, field: "Foo"},
		"name with a dash":    {text: head + `,"a-b":"x"}`, field: "a-b"},
		"long name":           {text: head + `,"a23456789012345678901":"x"}`, field: "a23456789012345678901"},
		"empty name":          {text: head + `,"":"x"}`, field: ""},
		"object":              {text: head + `,"x":{}}`, field: "x"},
		"array":               {text: head + `,"x":[1]}`, field: "x"},
		"fraction":            {text: head + `,"x":1.5}`, field: "x"},
		"exponent":            {text: head + `,"x":1e2}`, field: "x"},
		"minus zero":          {text: head + `,"x":-0}`, field: "x"},
		"33 bits":             {text: head + `,"x":2147483648}`, field: "x"},
		"70 bits":             {text: head + `,"x":1180591620717411303424}`, field: "x"},
		"half a pair":         {text: head + `,"x":"\ud83d"}`, field: "x"},
		"other half":          {text: head + `,"x":"\\\udc00 \ufffd"}`, field: "x"},
		"two first halves":    {text: head + `,"x":"\ud83d\ud83d"}`, field: "x"},
		"attribute twice":     {text: head + `,"id":"1"}`, field: "id"},
		"extension twice":     {text: head + `,"x":"1","x":"1"}`, field: "x"},
		"data twice":          {text: head + `,"data":1,"data":1}`, field: "data"},
		"data and base64":     {text: head + `,"data":1,"data_base64":"AA=="}`, field: "data"},
		"base64 of a URL":     {text: head + `,"data_base64":"_-8="}`, field: "data_base64"},
		"base64 unpadded":     {text: head + `,"data_base64":"AA"}`, field: "data_base64"},
		"base64 in lines":     {text: head + `,"data_base64":"AA\n=="}`, field: "data_base64"},
		"base64 with rest":    {text: head + `,"data_base64":"AB=="}`, field: "data_base64"},
		"base64 number":       {text: head + `,"data_base64":7}`, field: "data_base64"},
		"object as text":      {text: head + `,"data":{},"datacontenttype":"text/plain"}`, field: "data"},
		"media type":          {text: head + `,"datacontenttype":"not a type"}`, field: "datacontenttype"},
		"effect unknown":      {text: head + `,"effect":"danger=1"}`, field: "effect"},
		"effect too high":     {text: head + `,"effect":"risk=1.0001"}`, field: "effect"},
		"effect too fine":     {text: head + `,"effect":"risk=0.00001"}`, field: "effect"},
		"effect twice":        {text: head + `,"effect":"risk=0,risk=0"}`, field: "effect"},
		"effect as a number":  {text: head + `,"effect":1}`, field: "effect"},
		"causes":              {text: head + `,"causes":"1,-2"}`, field: "causes"},
		"priority":            {text: head + `,"priority":2}`, field: "priority"},
		"malformed":           {text: head + `,}`, field: ""},
		"cut off":             {text: head, field: ""},
		"two events":          {text: head + `}` + head + `}`, field: ""},
		"array of events":     {text: `[` + head + `}]`, field: ""},
		"nothing":             {text: ``, field: ""},
		"not UTF-8":           {text: head + ",\"x\":\"\xff\"}", field: ""},
		"control character":   {text: head + ",\"x\":\"\x01\"}", field: ""},
		"reserved name":       {text: head + `,"database64":"x"}`, field: "database64"},
		"workspace is object": {text: head + `,"workspace":{}}`, field: "workspace"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := cloudevents.Decode([]byte(test.text), "")
			if test.want.Kind != "" {
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Errorf("event (-want +got):\n%s", diff)
				}
				return
			}
			e := api.AsError(err)
			if e == nil {
				t.Fatalf("got %+v", got)
			}
			if e.Field != test.field || e.Code == api.Internal || e.Message == "" {
				t.Errorf("error %+v, want field %q", e, test.field)
			}
		})
	}
}

func TestBatch(t *testing.T) {
	results, err := cloudevents.DecodeBatch([]byte(`[ `+head+`} , {"id":"2"}, null, 3 ]`), "w")
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 4 {
		t.Fatalf("%d results", len(results))
	}
	if diff := cmp.Diff(with(func(e *chain.Event) { e.Workspace = "w" }), results[0].Event); diff != "" || results[0].Err != nil {
		t.Errorf("first event: %v %s", results[0].Err, diff)
	}
	for i, r := range results[1:] {
		if r.Err == nil {
			t.Errorf("no error for event %d", i+1)
		}
	}
	for name, text := range map[string]string{
		"object": head + `}`, "cut off": `[` + head + `}`, "syntax": `[` + head + `}}`,
		"rest": `[] []`, "empty": ``, "not UTF-8": "[\"\xff\"]",
		"too many": "[" + strings.Repeat("{},", cloudevents.MaxBatch) + "{}]",
	} {
		if got, err := cloudevents.DecodeBatch([]byte(text), ""); err == nil {
			t.Errorf("%s: %d results", name, len(got))
		}
	}
	full, err := cloudevents.DecodeBatch([]byte("["+strings.Repeat("{},", cloudevents.MaxBatch-1)+"{}]"), "")
	if err != nil || len(full) != cloudevents.MaxBatch {
		t.Errorf("a full batch: %d, %v", len(full), err)
	}
}

func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func binary(pairs ...string) http.Header {
	return headers(append([]string{"ce-specversion", "1.0", "ce-type", "k.k", "ce-source", "/s", "ce-id", "1"}, pairs...)...)
}

func TestBinary(t *testing.T) {
	for name, test := range map[string]struct {
		header http.Header
		body   string
		want   chain.Event
		field  string
	}{
		"minimal":       {header: binary(), want: minimal()},
		"other headers": {header: binary("User-Agent", "x", "Accept", "*/*"), want: minimal()},
		"body": {
			header: binary("Content-Type", "application/octet-stream"), body: "\x00\xff",
			want: with(func(e *chain.Event) { e.Payload, e.ContentType = []byte("\x00\xff"), "application/octet-stream" }),
		},
		"body without a type": {
			header: binary(), body: "{ }",
			want: with(func(e *chain.Event) { e.Payload, e.ContentType = []byte("{ }"), "application/json" }),
		},
		"json body as it came": {
			header: binary("Content-Type", "application/json"), body: " {\n}",
			want: with(func(e *chain.Event) { e.Payload, e.ContentType = []byte(" {\n}"), "application/json" }),
		},
		"percent": {
			header: binary("ce-subject", "Euro%20%E2%82%AC %F0%9F%98%80+", "ce-x", `50%25`),
			want: with(func(e *chain.Event) {
				e.Subject, e.Extensions = "Euro € 😀+", []chain.Extension{{Name: "x", Value: "50%"}}
			}),
		},
		"one round only": {header: binary("ce-subject", "%2541"), want: with(func(e *chain.Event) { e.Subject = "%41" })},
		"quoted":         {header: binary("ce-subject", `"a \"b\" %41"`), want: with(func(e *chain.Event) { e.Subject = `a "b" A` })},
		"all are text": {
			header: binary("ce-n", "7", "ce-b", "true"),
			want: with(func(e *chain.Event) {
				e.Extensions = []chain.Extension{{Name: "b", Value: "true"}, {Name: "n", Value: "7"}}
			}),
		},
		"ours": {
			header: binary("ce-workspace", "w", "ce-effect", "novelty=1", "ce-causes", "1,2", "ce-priority", "1", "ce-time", "1970-01-01T00:00:01Z"),
			want: with(func(e *chain.Event) {
				e.Workspace, e.DeclaredEffect, e.Causes, e.Priority, e.ClientTime = "w", &chain.Effect{0, 0, 0, 10_000, 0}, []uint64{1, 2}, 1, 1e9
			}),
		},

		"no id":            {header: headers("ce-specversion", "1.0", "ce-type", "k.k", "ce-source", "/s"), field: "id"},
		"version":          {header: headers("ce-specversion", "1.1", "ce-type", "k.k", "ce-source", "/s", "ce-id", "1"), field: "specversion"},
		"twice":            {header: binary("ce-id", "2"), field: "id"},
		"bad percent":      {header: binary("ce-x", "100%"), field: "x"},
		"percent of bytes": {header: binary("ce-x", "%FF"), field: "x"},
		"bytes":            {header: binary("ce-x", "\xff"), field: "x"},
		"open quote":       {header: binary("ce-x", `"a`), field: "x"},
		"after the quote":  {header: binary("ce-x", `"a"b`), field: "x"},
		"open escape":      {header: binary("ce-x", `"a\`), field: "x"},
		"content type":     {header: binary("ce-datacontenttype", "text/plain"), field: "datacontenttype"},
		"data":             {header: binary("ce-data", "x"), field: "data"},
		"name":             {header: binary("ce-a_b", "x"), field: "a_b"},
		"empty type":       {header: binary("ce-subject", ""), field: "subject"},
	} {
		t.Run(name, func(t *testing.T) {
			mode, results, err := cloudevents.FromHTTP(test.header, []byte(test.body), "")
			if err != nil || mode != cloudevents.Binary || len(results) != 1 {
				t.Fatalf("mode %d, %d results, %v", mode, len(results), err)
			}
			got := results[0]
			if test.want.Kind != "" {
				if got.Err != nil {
					t.Fatal(got.Err)
				}
				if diff := cmp.Diff(test.want, got.Event); diff != "" {
					t.Errorf("event (-want +got):\n%s", diff)
				}
				return
			}
			if got.Err == nil || got.Err.Field != test.field {
				t.Errorf("error %+v, want field %q", got.Err, test.field)
			}
		})
	}
}

func TestModeOf(t *testing.T) {
	for contentType, want := range map[string]cloudevents.Mode{
		"application/cloudevents+json":                      cloudevents.Structured,
		"Application/CloudEvents+JSON; charset=UTF-8":       cloudevents.Structured,
		"application/cloudevents-batch+json; charset=utf-8": cloudevents.Batched,
		"application/cloudevents+avro":                      0,
		"application/cloudevents":                           0,
		"application/cloudevents-batch":                     0,
		"application/cloudevents+json; charset=latin1":      0,
		"application/json":                                  0,
		"":                                                  0,
		"//":                                                0,
	} {
		got, err := cloudevents.ModeOf(headers("Content-Type", contentType))
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: mode %d, %v", contentType, got, err)
		}
		if e := api.AsError(err); e != nil && e.Field != "content-type" {
			t.Errorf("%q: field %q", contentType, e.Field)
		}
	}
}

// Whatever is accepted has what an event must have, and its payload is part of
// the text as it came, or what base64 or a string stands for.
func FuzzStructured(f *testing.F) {
	f.Add([]byte(head + `}`))
	f.Add([]byte(head + `,"data":{"a":[1,2]},"x":true,"y":-5,"time":"2020-01-01T00:00:00Z"}`))
	f.Add([]byte(head + `,"datacontenttype":"text/plain","data":"\ud83d\ude00"}`))
	f.Add([]byte(head + `,"data_base64":"AAAA","effect":"risk=0.5"}`))
	f.Add([]byte(`[` + head + `},{}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := cloudevents.Decode(text, "w")
		if err == nil {
			checkDecoded(t, e)
			if len(e.Payload) > len(text) {
				t.Fatalf("payload of %d bytes out of %d", len(e.Payload), len(text))
			}
		}
		results, err := cloudevents.DecodeBatch(text, "w")
		if err != nil && len(results) != 0 {
			t.Fatal("both results and an error")
		}
		for _, r := range results {
			if r.Err == nil {
				checkDecoded(t, r.Event)
			}
		}
	})
}

func FuzzBinary(f *testing.F) {
	f.Add("k.k", "/s", "1", "x", "y", []byte("data"))
	f.Add("k.k", "/s", "%41", "subject", `"a\"b"`, []byte{})
	f.Add("k", "s", "1", "effect", `risk=1`, []byte("{}"))
	f.Fuzz(func(t *testing.T, kind, source, id, name, value string, body []byte) {
		h := headers("ce-specversion", "1.0", "ce-type", kind, "ce-source", source, "ce-id", id)
		h.Add("ce-"+name, value)
		_, results, err := cloudevents.FromHTTP(h, body, "w")
		if err == nil && results[0].Err == nil {
			checkDecoded(t, results[0].Event)
			if string(results[0].Event.Payload) != string(body) {
				t.Fatal("the payload is not the body")
			}
		}
	})
}

func checkDecoded(t *testing.T, e chain.Event) {
	t.Helper()
	if e.Workspace == "" || e.Source == "" || e.ID == "" || e.Kind == "" {
		t.Fatalf("accepted without what it must have: %+v", e)
	}
	if len(e.Payload) > 0 && e.ContentType == "" {
		t.Fatal("a payload without a content type")
	}
	for i, x := range e.Extensions {
		if i > 0 && e.Extensions[i-1].Name >= x.Name {
			t.Fatal("extensions are not sorted, or repeat")
		}
		switch x.Value.(type) {
		case string, int64, bool:
		default:
			t.Fatalf("extension of type %T", x.Value)
		}
	}
}
