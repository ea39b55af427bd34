package view_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/view"
)

func TestData(t *testing.T) {
	tests := []struct{ contentType, payload, want string }{
		{"application/json", `{"a": 1}`, `"data":{"a":1}`},
		{"application/vnd.x+json; charset=utf-8", `[1]`, `"data":[1]`},
		{"application/json", `{broken`, `"data_base64":"e2Jyb2tlbg=="`},
		{"text/plain", "hi <b>", `"data":"hi <b>"`},
		{"text/plain", "\xff", `"data_base64":"/w=="`},
		{"application/octet-stream", "{}", `"data_base64":"e30="`},
		{"", "x", `"data_base64":"eA=="`},
		{"application/json", "", `"payload":{"content_type"`},
	}
	for _, tt := range tests {
		env := chain.Envelope{Payload: []byte(tt.payload)}
		e := chain.Entry{Envelope: &env, Header: chain.Header{Envelope: chain.EnvelopeRef{ContentType: tt.contentType}}}
		got := encode(t, view.New(&e))
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s %q: no %s in %s", tt.contentType, tt.payload, tt.want, got)
		}
	}
}

func TestRedacted(t *testing.T) {
	got := encode(t, view.New(&chain.Entry{}))
	if !strings.Contains(got, `"redacted":true`) {
		t.Errorf("not shown as redacted: %s", got)
	}
}

func TestVerdict(t *testing.T) {
	v := &chain.Verdict{Decision: chain.Escalate, Effective: chain.Effect{0, 1, 2500, 10000, 5550}, Declared: &chain.Effect{}}
	got := encode(t, view.New(&chain.Entry{Header: chain.Header{Verdict: v, Time: 1_000_000_001}}))
	for _, want := range []string{
		`"decision":"escalate"`, `"effective":{"risk":0,"fairness":0.0001,"privacy":0.25,"novelty":1,"security":0.555}`,
		`"declared":{"risk":0,`, `"time":"1970-01-01T00:00:01.000000001Z"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
}

func encode(t *testing.T, v any) string {
	t.Helper()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
