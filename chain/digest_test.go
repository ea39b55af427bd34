package chain_test

import (
	"encoding/hex"
	"errors"
	"testing"

	"github.com/exonode/exonode/chain"
)

func TestFilter(t *testing.T) {
	h := typicalHeader()
	tests := []struct {
		f    chain.Filter
		want bool
	}{
		{chain.Filter{}, true},
		{chain.Filter{Workspace: "default", Kind: "agent.spawn", Source: h.Source, Principal: "local"}, true},
		{chain.Filter{Workspace: "other"}, false},
		{chain.Filter{Kind: "agent.*"}, true},
		{chain.Filter{Kind: "*"}, true},
		{chain.Filter{Kind: "agent"}, false},
		{chain.Filter{Kind: "agents.*"}, false},
		{chain.Filter{Source: "x"}, false},
		{chain.Filter{Principal: "x"}, false},
		{chain.Filter{TimeFrom: h.Time}, true},
		{chain.Filter{TimeFrom: h.Time + 1}, false},
		{chain.Filter{TimeTo: h.Time}, false},
		{chain.Filter{TimeTo: h.Time + 1}, true},
	}
	for _, tt := range tests {
		if got := tt.f.Match(&h); got != tt.want {
			t.Errorf("%+v matches: %v", tt.f, got)
		}
	}
}

func TestEventDigest(t *testing.T) {
	e := typicalEvent()
	if _, err := chain.EventDigest(testID, 0, &e); !errors.Is(err, chain.ErrNoSalt) {
		t.Errorf("digest without salt: %v", err)
	}
	e.Salt = &[32]byte{3}
	digest := func(change func(*chain.Event)) string {
		c := e
		change(&c)
		d, err := chain.EventDigest(testID, 1, &c)
		if err != nil {
			t.Fatal(err)
		}
		return hex.EncodeToString(d[:])
	}
	base := digest(func(*chain.Event) {})
	seen := map[string]string{base: "nothing"}
	for name, change := range map[string]func(*chain.Event){
		"workspace": func(e *chain.Event) { e.Workspace = "x" }, "source": func(e *chain.Event) { e.Source = "x" },
		"id": func(e *chain.Event) { e.ID = "x" }, "kind": func(e *chain.Event) { e.Kind = "x" },
		"subject": func(e *chain.Event) { e.Subject = "x" }, "payload": func(e *chain.Event) { e.Payload = nil },
		"content type": func(e *chain.Event) { e.ContentType = "a/b" }, "data schema": func(e *chain.Event) { e.DataSchema = "x" },
		"effect": func(e *chain.Event) { e.DeclaredEffect = &chain.Effect{} }, "causes": func(e *chain.Event) { e.Causes = []uint64{0} },
		"priority": func(e *chain.Event) { e.Priority = 1 }, "client time": func(e *chain.Event) { e.ClientTime = 1 },
		"extensions": func(e *chain.Event) { e.Extensions = []chain.Extension{{Name: "a", Value: true}} },
		"salt":       func(e *chain.Event) { e.Salt = &[32]byte{4} }, "key": func(e *chain.Event) { e.ClientKeyID = "x" },
	} {
		d := digest(change)
		if other, ok := seen[d]; ok {
			t.Errorf("the digest does not tell a change of %s from %s", name, other)
		}
		seen[d] = name
	}
	if d := digest(func(e *chain.Event) {
		e.SchemaVersion, e.Traceparent, e.ClientSignature = 9, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", make([]byte, 64)
	}); d != base {
		t.Error("the digest covers what the leader or the way may change")
	}
}
