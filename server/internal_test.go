package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// The tests of this file need what is not exported: a watch without a
// connection, so that its time can be virtual, and the token's decoder.

// emptyChain is a Reader of one entry that never grows.
type emptyChain struct{ Reader }

func (emptyChain) Await(context.Context, Consistency) (uint64, error) { return 1, nil }
func (emptyChain) Grown(uint64) <-chan struct{}                       { return nil }
func (emptyChain) Head(context.Context) (Head, error) {
	return Head{Head: chain.Head{Size: 1}}, nil
}

// An idle watch sends its head at once and then as often as was asked.
func TestWatchHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var at []time.Duration
		err := runWatch(ctx, emptyChain{}, &exonodev1.WatchRequest{SequenceFrom: 1, Heartbeat: durationpb.New(3 * time.Second)}, func(m *exonodev1.WatchResponse) error {
			if m.GetHead().GetSize() != 1 || m.GetNextSequence() != 1 || len(m.GetEntries()) != 0 {
				t.Errorf("heartbeat %v", m)
			}
			at = append(at, time.Since(began))
			if len(at) == 4 {
				cancel()
			}
			return nil
		})
		if err != context.Canceled {
			t.Errorf("ended with %v", err)
		}
		for i, d := range at {
			if want := time.Duration(i) * 3 * time.Second; d != want {
				t.Errorf("heartbeat %d after %v, want %v", i, d, want)
			}
		}
	})
}

// Only what token makes is accepted, for the listing it was made for.
func FuzzPageToken(f *testing.F) {
	f.Add("agent.*", true, uint64(3), uint64(9), "")
	f.Add("", false, uint64(0), uint64(0), base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{1}, tokenSize)))
	f.Fuzz(func(t *testing.T, kind string, reverse bool, next, size uint64, forged string) {
		l := listing{filter: chain.Filter{Kind: kind}, reverse: reverse}
		want := page{next: next, size: size}
		token := l.token(want)
		got, err := l.parse(token)
		if err != nil || got != want {
			t.Fatalf("parse(token(%+v)) = %+v, %v", want, got, err)
		}
		other := l
		other.filter.Kind += "x"
		if _, err := other.parse(token); err == nil {
			t.Fatal("another listing took the token")
		}
		if got, err := l.parse(forged); err == nil && l.token(got) != forged {
			t.Fatalf("%q is another form of %q", forged, l.token(got))
		}
	})
}
