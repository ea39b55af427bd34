package chain_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
)

// fieldCase breaks one field of a header.
type fieldCase struct {
	name   string
	change func(*chain.Header)
	field  string
	reason chain.Reason
}

func TestHeaderFields(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	tests := []fieldCase{
		{"version", func(h *chain.Header) { h.Version = 2 }, "version", chain.Unsupported},
		{"no time", func(h *chain.Header) { h.Time = 0 }, "time", chain.OutOfRange},
		{"negative time", func(h *chain.Header) { h.Time = -1 }, "time", chain.OutOfRange},
		{"no workspace", func(h *chain.Header) { h.Workspace = "" }, "workspace", chain.Missing},
		{"upper-case workspace", func(h *chain.Header) { h.Workspace = "A" }, "workspace", chain.BadSyntax},
		{"dotted workspace", func(h *chain.Header) { h.Workspace = ".a" }, "workspace", chain.BadSyntax},
		{"long workspace", func(h *chain.Header) { h.Workspace = long(65) }, "workspace", chain.TooLong},
		{"no source", func(h *chain.Header) { h.Source = "" }, "source", chain.Missing},
		{"newline in source", func(h *chain.Header) { h.Source = "a\nb" }, "source", chain.BadSyntax},
		{"long source", func(h *chain.Header) { h.Source = long(513) }, "source", chain.TooLong},
		{"DEL in id", func(h *chain.Header) { h.ID = "12345678\x7f" }, "id", chain.BadSyntax},
		{"DEL in the first eight bytes of id", func(h *chain.Header) { h.ID = "1234567\x7f" }, "id", chain.BadSyntax},
		{"C1 in id", func(h *chain.Header) { h.ID = "a\u0085" }, "id", chain.BadSyntax},
		{"bidi in id", func(h *chain.Header) { h.ID = "a\u202e" }, "id", chain.BadSyntax},
		{"isolate in id", func(h *chain.Header) { h.ID = "a\u2066" }, "id", chain.BadSyntax},
		{"end of isolate in id", func(h *chain.Header) { h.ID = "a\u2069" }, "id", chain.BadSyntax},
		{"invalid UTF-8 in id", func(h *chain.Header) { h.ID = "ab\xff" }, "id", chain.BadSyntax},
		{"long id", func(h *chain.Header) { h.ID = long(257) }, "id", chain.TooLong},
		{"upper-case kind", func(h *chain.Header) { h.Kind = "Agent.spawn" }, "kind", chain.BadSyntax},
		{"kind with empty word", func(h *chain.Header) { h.Kind = "a..b" }, "kind", chain.BadSyntax},
		{"kind with a dot at the end", func(h *chain.Header) { h.Kind = "a." }, "kind", chain.BadSyntax},
		{"long kind", func(h *chain.Header) { h.Kind = long(129) }, "kind", chain.TooLong},
		{"long subject", func(h *chain.Header) { h.Subject = long(1025) }, "subject", chain.TooLong},
		{"no principal", func(h *chain.Header) { h.Principal = "" }, "principal", chain.Missing},
		{"long credential", func(h *chain.Header) { h.Credential = long(33) }, "credential", chain.TooLong},
		{"long on behalf of", func(h *chain.Header) { h.OnBehalfOf = long(257) }, "on_behalf_of", chain.TooLong},
		{"content type", func(h *chain.Header) { h.Envelope.ContentType = "json" }, "content_type", chain.BadSyntax},
		{"data schema", func(h *chain.Header) { h.Envelope.DataSchema = "\x00" }, "data_schema", chain.BadSyntax},
		{"gate", func(h *chain.Header) { h.Verdict.Gate = "" }, "verdict.gate", chain.Missing},
		{"no decision", func(h *chain.Header) { h.Verdict.Decision = 0 }, "verdict.decision", chain.OutOfRange},
		{"decision", func(h *chain.Header) { h.Verdict.Decision = 6 }, "verdict.decision", chain.OutOfRange},
		{"effect", func(h *chain.Header) { h.Verdict.Effective[4] = 10001 }, "verdict.effective", chain.OutOfRange},
		{"declared", func(h *chain.Header) { h.Verdict.Declared[0] = 10001 }, "verdict.declared", chain.OutOfRange},
		{"severity", func(h *chain.Header) { h.Verdict.Rules[0].Severity = "mild" }, "verdict.rules.severity", chain.BadSyntax},
		{"rule", func(h *chain.Header) { h.Verdict.Rules[0].ID = "" }, "verdict.rules.id", chain.Missing},
		{"rules", func(h *chain.Header) { h.Verdict.Rules = make([]chain.RuleOutcome, 65) }, "verdict.rules", chain.TooMany},
		{"counts", func(h *chain.Header) { slices.Reverse(h.Verdict.Counts) }, "verdict.counts", chain.BadOrder},
		{"reasons", func(h *chain.Header) { slices.Reverse(h.Verdict.Reasons) }, "verdict.reasons", chain.BadOrder},
		{"causes order", func(h *chain.Header) { h.Causes = []uint64{1, 1} }, "causes", chain.BadOrder},
		{"causes", func(h *chain.Header) { h.Causes = make([]uint64, 65) }, "causes", chain.TooMany},
		{"priority", func(h *chain.Header) { h.Priority = 2 }, "priority", chain.OutOfRange},
		{"client time", func(h *chain.Header) { h.ClientTime = -1 }, "client_time", chain.OutOfRange},
		{"traceparent", func(h *chain.Header) { h.Traceparent = "00-0" }, "traceparent", chain.BadSyntax},
		{"zero trace id", func(h *chain.Header) {
			h.Traceparent = "00-00000000000000000000000000000000-b7ad6b7169203331-01"
		}, "traceparent", chain.BadSyntax},
		{"trace version", func(h *chain.Header) { h.Traceparent = "ff" + h.Traceparent[2:] }, "traceparent", chain.BadSyntax},
		{"upper-case trace", func(h *chain.Header) { h.Traceparent = strings.ToUpper(h.Traceparent) }, "traceparent", chain.BadSyntax},
		{"extension order", func(h *chain.Header) { slices.Reverse(h.Extensions) }, "extensions", chain.BadOrder},
		{"extension name", func(h *chain.Header) { h.Extensions[0].Name = "A" }, "extensions", chain.BadSyntax},
		{"extension long name", func(h *chain.Header) { h.Extensions[0].Name = long(21) }, "extensions", chain.TooLong},
		{"extension type", func(h *chain.Header) { h.Extensions[0].Value = 1 }, "extensions.a", chain.BadType},
		{"extension number", func(h *chain.Header) { h.Extensions[0].Value = int64(1 << 31) }, "extensions.a", chain.OutOfRange},
		{"extension text", func(h *chain.Header) { h.Extensions[0].Value = "\t" }, "extensions.a", chain.BadSyntax},
		{"extension long text", func(h *chain.Header) { h.Extensions[0].Value = long(4097) }, "extensions.a", chain.TooLong},
		{"key id", func(h *chain.Header) { h.ClientKeyID = long(129) }, "client_key_id", chain.TooLong},
		{"sealing node", func(h *chain.Header) { h.SealingNode = long(129) }, "sealing_node", chain.TooLong},
		{"attestation", func(h *chain.Header) { h.Attestation = make([]byte, 4097) }, "attestation", chain.TooLong},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := manyHeader()
			tt.change(&h)
			b, err := h.AppendBinary([]byte("kept"))
			var fe *chain.FieldError
			if !errors.As(err, &fe) || fe.Field != tt.field || fe.Reason != tt.reason {
				t.Fatalf("error %v, want %s of %s", err, tt.reason, tt.field)
			}
			if string(b) != "kept" {
				t.Errorf("after an error the buffer holds %q", b)
			}
			if !strings.Contains(err.Error(), tt.field) {
				t.Errorf("%q does not name the field", err)
			}
		})
	}
}

func TestEventFields(t *testing.T) {
	base := func() chain.Event {
		e := typicalEvent()
		e.Extensions = []chain.Extension{{Name: "a", Value: "b"}}
		return e
	}
	tests := []struct {
		name   string
		change func(*chain.Event)
		field  string
		reason chain.Reason
	}{
		{"workspace", func(e *chain.Event) { e.Workspace = "" }, "workspace", chain.Missing},
		{"payload", func(e *chain.Event) { e.Payload = make([]byte, 1025) }, "payload", chain.TooLong},
		{"effect", func(e *chain.Event) { e.DeclaredEffect = &chain.Effect{0, 0, 10001} }, "declared_effect", chain.OutOfRange},
		{"signature", func(e *chain.Event) { e.ClientSignature = make([]byte, 63) }, "client_signature", chain.BadSize},
		{"no key", func(e *chain.Event) { e.ClientSignature, e.Salt = make([]byte, 64), new([32]byte) }, "client_key_id", chain.Missing},
		{"no salt", func(e *chain.Event) { e.ClientSignature, e.ClientKeyID = make([]byte, 64), "k" }, "salt", chain.Missing},
		{"causes", func(e *chain.Event) { e.Causes = []uint64{2, 1} }, "causes", chain.BadOrder},
		{"priority", func(e *chain.Event) { e.Priority = 9 }, "priority", chain.OutOfRange},
	}
	e := base()
	if err := e.Validate(1024); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		e := base()
		tt.change(&e)
		var fe *chain.FieldError
		if err := e.Validate(1024); !errors.As(err, &fe) || fe.Field != tt.field || fe.Reason != tt.reason {
			t.Errorf("%s: %v, want %s of %s", tt.name, err, tt.reason, tt.field)
		}
	}
	e = base()
	e.Payload = make([]byte, chain.DefaultMaxPayload+1)
	var fe *chain.FieldError
	if err := e.Validate(0); !errors.As(err, &fe) || fe.Limit != chain.DefaultMaxPayload {
		t.Errorf("payload over the default limit: %v", err)
	}
}
