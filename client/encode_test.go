package client

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// TestFrameDecodes: the frames of events, one behind the other, are the
// AppendStreamRequest that the generated code would write.
func TestFrameDecodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		event := rapid.Custom(func(t *rapid.T) chain.Event {
			ev := chain.Event{
				Workspace: text.Draw(t, "workspace"), Source: text.Draw(t, "source"), ID: text.Draw(t, "id"),
				Kind: text.Draw(t, "kind"), Subject: text.Draw(t, "subject"),
				SchemaVersion: rapid.Uint64().Draw(t, "schema version"),
				Payload:       rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"),
				ContentType:   text.Draw(t, "content type"), DataSchema: text.Draw(t, "data schema"),
				Causes:     rapid.SliceOfN(rapid.Uint64(), 0, 5).Draw(t, "causes"),
				Priority:   rapid.Uint64Range(0, 1).Draw(t, "priority"),
				ClientTime: rapid.Int64().Draw(t, "client time"), Traceparent: text.Draw(t, "traceparent"),
				ClientKeyID: text.Draw(t, "client key"), ClientSignature: rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "signature"),
			}
			if rapid.Bool().Draw(t, "has effect") {
				ev.DeclaredEffect = new(chain.Effect)
				for i := range ev.DeclaredEffect {
					ev.DeclaredEffect[i] = rapid.Uint16().Draw(t, "effect")
				}
			}
			if rapid.Bool().Draw(t, "has salt") {
				ev.Salt = &[chain.SaltSize]byte{1, 2, 3}
			}
			for _, name := range rapid.SliceOfNDistinct(text, 0, 4, rapid.ID).Draw(t, "extensions") {
				value := rapid.OneOf(text.AsAny(), rapid.Map(rapid.Int32(), func(n int32) any { return int64(n) }), rapid.Bool().AsAny())
				ev.Extensions = append(ev.Extensions, chain.Extension{Name: name, Value: value.Draw(t, "value")})
			}
			return ev
		})
		want := new(exonodev1.AppendStreamRequest)
		var message, memory []byte
		for _, ev := range rapid.SliceOfN(event, 1, 4).Draw(t, "events") {
			var frame []byte
			var err error
			if frame, memory, err = appendFrame(memory, &ev); err != nil {
				t.Fatal(err)
			}
			message = append(message, frame...)
			want.Events = append(want.Events, api.EventToProto(&ev))
		}
		got := new(exonodev1.AppendStreamRequest)
		if err := proto.Unmarshal(message, got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); d != "" {
			t.Fatal(d)
		}
	})
}

// TestNewIDs: ids are distinct, and of the same length.
func TestNewIDs(t *testing.T) {
	seen := make(map[string]bool)
	for range 10_000 {
		id := newID(rand.Uint64)
		if len(id) != 26 || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

// TestBackoff: full jitter under a bound that doubles up to its maximum.
func TestBackoff(t *testing.T) {
	for i := range 200 {
		bound := min(backoffBase<<min(i, 20), backoffMax)
		draws := []uint64{0, uint64(bound), uint64(bound) + 1}
		for j, want := range []int64{0, int64(bound), 0} {
			b := backoff{rand: func() uint64 { return draws[j] }, attempt: i}
			if d := b.next(); int64(d) != want {
				t.Fatalf("attempt %d: %v, want %v", i, d, want)
			}
		}
	}
}
