package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

const (
	structured = "application/cloudevents+json"
	batched    = "application/cloudevents-batch+json"
)

// answer is the union of the bodies of the plain HTTP routes.
type answer struct {
	Code, Message, Hint, Field string
	Sequence                   *uint64
	Hash                       string
	Duplicate                  bool
	Verdict                    *struct{ Gate, Decision string }
	Error                      *answer
	Results                    []answer
}

func (r *rig) post(t testing.TB, path, contentType string, header map[string]string, body string) (*http.Response, answer) {
	t.Helper()
	all := map[string]string{}
	if contentType != "" {
		all["Content-Type"] = contentType
	}
	for name, value := range header {
		all[name] = value
	}
	res, text := r.do(t, "POST", path, all, strings.NewReader(body))
	var a answer
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		t.Fatalf("%s %q: %v", res.Status, text, err)
	}
	return res, a
}

func TestPostEvents(t *testing.T) {
	event := func(id, more string) string {
		return `{"specversion":"1.0","type":"agent.spawn","source":"/a","id":"` + id + `"` + more + `}`
	}
	r := start(t, nil)
	r.node.Ledger().Decide(func(e chain.Event) *chain.Verdict {
		switch e.ID {
		case "denied":
			return &chain.Verdict{Gate: "agent.spawn", Decision: chain.Deny}
		case "escalated":
			return &chain.Verdict{Gate: "agent.spawn", Decision: chain.Escalate}
		}
		return nil
	})
	for _, test := range []struct {
		name, contentType, body string
		header                  map[string]string
		status                  int
		code, field             string
		sequence                uint64 // where there is one
	}{
		{name: "structured", contentType: structured, body: event("1", `,"data": {"pid":1}`), status: 201, sequence: 1},
		{name: "duplicate", contentType: structured + "; charset=utf-8", body: event("1", `,"data": {"pid":1}`), status: 200, sequence: 1},
		{name: "conflict", contentType: structured, body: event("1", `,"data": {"pid":2}`), status: 409, code: "conflict", sequence: 1},
		{name: "denied", contentType: structured, body: event("denied", ""), status: 403, code: "denied", sequence: 2},
		{name: "escalated", contentType: structured, body: event("escalated", ""), status: 202, code: "escalated", sequence: 3},
		{name: "id of a denial", contentType: structured, body: event("denied", ""), status: 409, code: "not_comparable", sequence: 2},
		{name: "no attribute", contentType: structured, body: `{"specversion":"1.0","type":"x","source":"y"}`, status: 400, code: "bad_field", field: "id"},
		{name: "malformed", contentType: structured, body: `{"specversion`, status: 400, code: "malformed"},
		{name: "effect", contentType: structured, body: event("2", `,"effect":"risk=1.1"`), status: 400, code: "effect_range", field: "effect"},
		{name: "reserved", contentType: structured, body: event("2", `,"workspace":"system"`), status: 403, code: "reserved_workspace", field: "workspace"},
		{name: "payload too large", contentType: structured, body: event("2", `,"data": "`+strings.Repeat("x", 1<<20)+`"`), status: 413, code: "too_large", field: "payload"},
		{name: "body too large", contentType: structured, body: event("2", `,"data": "`+strings.Repeat("x", 9<<20)+`"`), status: 413, code: "too_large"},
		{name: "no event", contentType: "application/json", body: `{}`, status: 415, code: "malformed", field: "content-type"},
		{name: "xml", contentType: "application/cloudevents+xml", body: `<a/>`, status: 415, code: "malformed", field: "content-type"},
		{name: "compressed", contentType: structured, header: map[string]string{"Content-Encoding": "br"}, body: `{}`, status: 400, code: "malformed", field: "content-encoding"},
		{name: "binary", contentType: "text/plain", header: map[string]string{"ce-specversion": "1.0", "ce-type": "agent.spawn", "ce-source": "/a", "ce-id": "b%201"}, body: "hello", status: 201, sequence: 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			res, a := r.post(t, "/v1/events", test.contentType, test.header, test.body)
			if res.StatusCode != test.status || a.Code != test.code || a.Field != test.field {
				t.Errorf("%s %+v, want %d %s %s", res.Status, a, test.status, test.code, test.field)
			}
			if (a.Sequence != nil) != (test.sequence != 0) || a.Sequence != nil && *a.Sequence != test.sequence {
				t.Errorf("sequence %v, want %d", a.Sequence, test.sequence)
			}
			if test.code == "" {
				if want := fmt.Sprint("/v1/entries/", test.sequence); res.Header.Get("Location") != want || len(a.Hash) != 64 {
					t.Errorf("location %q, hash %q", res.Header.Get("Location"), a.Hash)
				}
			}
		})
	}
	if n := len(r.node.Ledger().Records()); n != 5 {
		t.Errorf("%d entries", n)
	}
}

// The payload in the chain is the bytes that came, white space and all.
func TestPayloadIsHashedAsItCame(t *testing.T) {
	r := start(t, nil)
	data := "{ \"b\" : 1e2,\n\t\"a\":[ ] ,\"\\u00e5\":\"å\"}"
	res, _ := r.post(t, "/v1/events", structured, nil, `{"data" :  `+data+` ,"specversion":"1.0","type":"k.k","source":"s","id":"1"}`)
	if res.StatusCode != 201 {
		t.Fatal(res.Status)
	}
	envelope, err := chain.DecodeEnvelope(r.node.Ledger().Records()[1].Envelope)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(envelope.Payload); got != data {
		t.Errorf("payload %q, want %q", got, data)
	}
}

func TestPostBatch(t *testing.T) {
	r := start(t, nil)
	one := func(id string) string { return `{"specversion":"1.0","type":"k.k","source":"s","id":"` + id + `"}` }
	for _, test := range []struct {
		name, body string
		status     int
		codes      []string
	}{
		{"empty", `[]`, 200, nil},
		{"all new", `[` + one("1") + `,` + one("2") + `]`, 200, []string{"", ""}},
		{"one old", `[` + one("2") + `,` + one("3") + `]`, 200, []string{"", ""}},
		{"mixed", `[` + one("4") + `,{"id":"5"}, 7 ,` + one("6") + `]`, 207, []string{"", "bad_field", "malformed", ""}},
		{"all bad alike", `[{"id":"5"},{"id":"6"}]`, 400, []string{"bad_field", "bad_field"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			res, a := r.post(t, "/v1/events?workspace=w", batched, nil, test.body)
			var codes []string
			for _, one := range a.Results {
				code := ""
				if one.Error != nil {
					code = one.Error.Code
				}
				codes = append(codes, code)
			}
			if res.StatusCode != test.status || fmt.Sprint(codes) != fmt.Sprint(test.codes) {
				t.Errorf("%s %q, want %d %q", res.Status, codes, test.status, test.codes)
			}
		})
	}
	res, a := r.post(t, "/v1/events", batched, nil, `{"not":"an array"}`)
	if res.StatusCode != 400 || a.Code != "malformed" {
		t.Errorf("%s %+v", res.Status, a)
	}
}

// The workspace comes from the event, else from the query, else from the header.
func TestWorkspaceOfEvents(t *testing.T) {
	r := start(t, nil)
	event := func(id, more string) string {
		return `{"specversion":"1.0","type":"k.k","source":"s","id":"` + id + `"` + more + `}`
	}
	header := map[string]string{"X-Exonode-Workspace": "from-header"}
	r.post(t, "/v1/events?workspace=from-query", structured, header, event("1", `,"workspace":"from-event"`))
	r.post(t, "/v1/events?workspace=from-query", structured, header, event("2", ""))
	r.post(t, "/v1/events", structured, header, event("3", ""))
	r.post(t, "/v1/events", structured, nil, event("4", ""))
	var got []string
	for _, record := range r.node.Ledger().Records()[1:] {
		h, err := chain.DecodeHeader(record.Header)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Workspace)
	}
	if diff := cmp.Diff([]string{"from-event", "from-query", "from-header", "default"}, got); diff != "" {
		t.Errorf("workspaces (-want +got):\n%s", diff)
	}
}

// Every code has the status that package api says, and a full queue says when
// to come back.
func TestStatusOfEveryCode(t *testing.T) {
	r := start(t, nil)
	for _, code := range api.Codes() {
		r.node.SetHooks(servertestHooks(&api.Error{Code: code, Message: "m", Hint: "h", Field: "f", RetryAfterMillis: 1200}))
		res, a := r.post(t, "/v1/events", structured, nil, `{"specversion":"1.0","type":"k.k","source":"s","id":"1"}`)
		if res.StatusCode != code.HTTPStatus() || a.Code != string(code) || a.Message != "m" || a.Hint != "h" || a.Field != "f" {
			t.Errorf("%s: %s %+v", code, res.Status, a)
		}
		if got := res.Header.Get("Retry-After"); got != "2" {
			t.Errorf("%s: Retry-After %q", code, got)
		}
	}
}

func TestPlainReads(t *testing.T) {
	r := start(t, nil)
	fill(t, r, 0, 12)
	for _, test := range []struct {
		path   string
		status int
		want   []string // parts of the body
	}{
		{"/v1/entries/3", 200, []string{`"sequence":3`, `"data":{"pid":2}`, `"kind":"agent.spawn"`, `"principal":"local"`}},
		{"/v1/entries/99", 404, []string{`"code":"not_found"`}},
		{"/v1/entries/x", 400, []string{`"code":"bad_field"`}},
		{"/v1/entries/3?consistency=stale", 200, []string{`"sequence":3`}},
		{"/v1/entries/3?consistency=session&at_least=5", 200, []string{`"sequence":3`}},
		{"/v1/entries/3?consistency=odd", 400, []string{`"field":"consistency"`}},
		{"/v1/entries?limit=2&kind=agent.*", 200, []string{`"sequence":1`, `"sequence":2`, `"next_page_token"`, `"chain_size":13`}},
		{"/v1/entries?reverse=true&limit=1", 200, []string{`"sequence":12`}},
		{"/v1/entries?from=4&to=5", 200, []string{`"entries":[{"sequence":4`}},
		{"/v1/entries?source=nobody", 200, []string{`"entries":[]`}},
		{"/v1/entries?time_from=2999-01-01T00:00:00Z", 400, []string{`"field":"filter.time_from"`}},
		{"/v1/entries?time_from=2199-01-01T00:00:00Z", 200, []string{`"entries":[]`}},
		{"/v1/entries?kidn=agent.spawn", 400, []string{`query parameter kidn is unknown`}},
		{"/v1/entries?limit=2000", 400, []string{`"field":"limit"`}},
		{"/v1/entries?kind=a&kind=b", 400, []string{`"field":"kind"`}},
		{"/v1/lookup?source=test&id=e2", 200, []string{`"state":"sealed"`, `"sequence":3`}},
		{"/v1/lookup?source=test&id=none", 404, []string{`"code":"not_found"`}},
		{"/v1/head", 200, []string{`"size":13`, `"chain":"e001`}},
		{"/v1/status", 200, []string{`"node_id":"n1"`, `"ready":true`}},
		{"/livez", 200, []string{"ok"}},
		{"/readyz", 200, []string{"ok"}},
		{"/none", 404, nil},
	} {
		t.Run(test.path, func(t *testing.T) {
			res, body := r.do(t, "GET", test.path, nil, nil)
			if res.StatusCode != test.status {
				t.Errorf("%s, want %d", res.Status, test.status)
			}
			for _, part := range test.want {
				if !strings.Contains(body, part) {
					t.Errorf("no %s in %s", part, body)
				}
			}
		})
	}
}

func TestRedactedEntryIsRead(t *testing.T) {
	r := start(t, nil)
	fill(t, r, 0, 1)
	r.node.Ledger().Redact(1)
	_, body := r.do(t, "GET", "/v1/entries/1", nil, nil)
	if !strings.Contains(body, `"redacted":true`) || strings.Contains(body, `"data"`) || !strings.Contains(body, `"size":10`) {
		t.Error(body)
	}
	res, err := r.ledger().Get(t.Context(), &exonodev1.GetRequest{Sequence: 1})
	if err != nil {
		t.Fatal(err)
	}
	if !res.GetEntry().GetReadable().GetRedacted() || len(res.GetEntry().GetEnvelope()) != 0 {
		t.Errorf("%v", res)
	}
}

func TestNotReady(t *testing.T) {
	r := start(t, nil)
	r.node.SetHooks(servertest.Hooks{Ready: func() error {
		return &api.Error{Code: api.NotReady, Message: "catching up: 5 of 9"}
	}})
	res, body := r.do(t, "GET", "/readyz", nil, nil)
	if res.StatusCode != 503 || body != "catching up: 5 of 9\n" {
		t.Errorf("readyz: %s %q", res.Status, body)
	}
	if res, _ := r.do(t, "GET", "/livez", nil, nil); res.StatusCode != 200 {
		t.Errorf("livez: %s", res.Status)
	}
	_, body = r.do(t, "POST", "/grpc.health.v1.Health/Check", map[string]string{"Content-Type": "application/json"}, strings.NewReader(`{}`))
	if !strings.Contains(body, `"SERVING_STATUS_NOT_SERVING"`) {
		t.Errorf("health: %s", body)
	}
	r.node.SetHooks(servertest.Hooks{})
	_, body = r.do(t, "POST", "/grpc.health.v1.Health/Check", map[string]string{"Content-Type": "application/json"}, strings.NewReader(`{"service":"exonode.v1.LedgerService"}`))
	if !strings.Contains(body, `"SERVING_STATUS_SERVING"`) {
		t.Errorf("health: %s", body)
	}
}

func TestMetrics(t *testing.T) {
	r := start(t, nil)
	fill(t, r, 0, 3)
	fill(t, r, 0, 1)
	_, err := r.ledger().Append(t.Context(), &exonodev1.AppendRequest{})
	wantCode(t, err, api.BadField)
	r.do(t, "GET", "/v1/head", nil, nil)
	_, body := r.do(t, "GET", "/metrics", nil, nil)
	for _, line := range []string{
		`exonode_api_requests_total{code="ok",route="/exonode.v1.LedgerService/AppendBatch"} 2`,
		`exonode_api_requests_total{code="bad_field",route="/exonode.v1.LedgerService/Append"} 1`,
		`exonode_api_requests_total{code="200",route="GET /v1/head"} 1`,
		`exonode_api_events_total{result="sealed"} 3`,
		`exonode_api_events_total{result="duplicate"} 1`,
		`exonode_chain_entries 4`,
		`exonode_ready 1`,
		`exonode_is_leader 1`,
		`exonode_api_request_seconds_count{route="/exonode.v1.LedgerService/AppendBatch"} 2`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// A misspelt field in JSON is refused: an effect must not get lost.
func TestUnknownJSONField(t *testing.T) {
	r := start(t, nil)
	const path = "/exonode.v1.LedgerService/Append"
	json := map[string]string{"Content-Type": "application/json"}
	res, body := r.do(t, "POST", path, json, strings.NewReader(`{"event":{"source":"s","id":"1","kind":"k.k","efect":{"risk":9000}}}`))
	if res.StatusCode != 400 || !strings.Contains(body, "efect") {
		t.Errorf("%s %s", res.Status, body)
	}
	res, body = r.do(t, "POST", path, json, strings.NewReader(`{"event":{"source":"s","id":"1","kind":"k.k","text":"{}"}}`))
	if res.StatusCode != 200 || !strings.Contains(body, `"sequence":"1"`) {
		t.Errorf("%s %s", res.Status, body)
	}
}

func TestReflection(t *testing.T) {
	r := start(t, nil)
	for _, version := range []string{"v1", "v1alpha"} {
		client := connect.NewClient[reflectionRequest, reflectionResponse](r.http,
			r.url+"/grpc.reflection."+version+".ServerReflection/ServerReflectionInfo", connect.WithGRPC())
		s := client.CallBidiStream(t.Context())
		if err := s.Send(listServices()); err != nil {
			t.Fatal(err)
		}
		res, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if text := string(res.ProtoReflect().GetUnknown()); !strings.Contains(text, "exonode.v1.LedgerService") || !strings.Contains(text, "exonode.v1.ClusterService") {
			t.Errorf("%s lists %q", version, text)
		}
		if err := s.CloseRequest(); err != nil {
			t.Error(err)
		}
		if err := s.CloseResponse(); err != nil {
			t.Error(err)
		}
	}
}

func TestAuthentication(t *testing.T) {
	r := start(t, func(c *server.Config) {
		c.Authenticate = func(req *http.Request) (server.Caller, error) {
			if req.Header.Get("Authorization") == "Bearer good" {
				return server.Caller{Principal: "alice", Credential: "token"}, nil
			}
			return server.Caller{}, &api.Error{Code: api.Unauthorized, Message: "no token", Hint: "send a bearer token"}
		}
	})
	callers := make(chan server.Caller, 1)
	r.node.SetHooks(servertest.Hooks{Submit: func(c server.Caller, _ []chain.Event) error {
		callers <- c
		return nil
	}})
	for name, options := range protocols {
		_, err := r.ledger(options...).Append(t.Context(), &exonodev1.AppendRequest{Event: event(1)})
		if e := wantCode(t, err, api.Unauthorized); e.Hint != "send a bearer token" {
			t.Errorf("%s: %+v", name, e)
		}
	}
	ce := map[string]string{"Content-Type": structured}
	body := func() io.Reader {
		return strings.NewReader(`{"specversion":"1.0","type":"k.k","source":"s","id":"1"}`)
	}
	if res, text := r.do(t, "POST", "/v1/events", ce, body()); res.StatusCode != 403 || !strings.Contains(text, `"code":"unauthorized"`) {
		t.Errorf("%s %s", res.Status, text)
	}
	ce["Authorization"] = "Bearer good"
	if res, text := r.do(t, "POST", "/v1/events", ce, body()); res.StatusCode != 201 {
		t.Errorf("%s %s", res.Status, text)
	}
	if got, want := <-callers, (server.Caller{Principal: "alice", Credential: "token"}); got != want {
		t.Errorf("caller %+v, want %+v", got, want)
	}
	if res, _ := r.do(t, "GET", "/readyz", nil, nil); res.StatusCode != 200 {
		t.Errorf("health asks for a token: %s", res.Status)
	}
}

// A page of another origin can't write through its visitor's browser.
func TestCrossOriginWrite(t *testing.T) {
	r := start(t, nil)
	res, _ := r.do(t, "POST", "/v1/events", map[string]string{"Content-Type": structured, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
		strings.NewReader(`{"specversion":"1.0","type":"k.k","source":"s","id":"1"}`))
	if res.StatusCode != 403 || len(r.node.Ledger().Records()) != 1 {
		t.Errorf("%s", res.Status)
	}
}

func TestPanicsAreAnswered(t *testing.T) {
	r := start(t, nil)
	r.node.SetHooks(servertest.Hooks{Submit: func(server.Caller, []chain.Event) error { panic("a bug") }})
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			_, err := r.ledger(options...).Append(t.Context(), &exonodev1.AppendRequest{Event: event(1)})
			if e := wantCode(t, err, api.Internal); strings.Contains(e.Message, "a bug") {
				t.Errorf("the answer tells what panicked: %v", e)
			}
		})
	}
	res, a := r.post(t, "/v1/events", structured, nil, `{"specversion":"1.0","type":"k.k","source":"s","id":"1"}`)
	if res.StatusCode != 500 || a.Code != "internal" {
		t.Errorf("%s %+v", res.Status, a)
	}
}

// What no route takes is answered as everything else under /v1 is.
func TestNoRoute(t *testing.T) {
	r := start(t, nil)
	for _, test := range []struct {
		method, path string
		status       int
		code, field  string
	}{
		{"GET", "/v1/nothing", 404, "unimplemented", ""},
		{"POST", "/v1/entries", 405, "unimplemented", ""},
		{"GET", "/v1/events", 405, "unimplemented", ""},
		{"GET", "/v1/entries?kind=a*b", 400, "bad_field", "kind"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), test.method, r.url+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var e api.ErrorJSON
		err = json.NewDecoder(res.Body).Decode(&e)
		res.Body.Close()
		if err != nil || res.StatusCode != test.status || string(e.Code) != test.code || e.Field != test.field {
			t.Errorf("%s %s: %d %+v, %v", test.method, test.path, res.StatusCode, e, err)
		}
	}
}
