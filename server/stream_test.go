package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"pgregory.net/rapid"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

type stream = connect.BidiStreamForClientSimple[exonodev1.AppendStreamRequest, exonodev1.AppendStreamResponse]

func openStream(t testing.TB, r *rig, options ...connect.ClientOption) *stream {
	t.Helper()
	s, err := r.ledger(options...).AppendStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// collect receives until the stream ends.
func collect(s *stream) ([]*exonodev1.Ack, error) {
	var acks []*exonodev1.Ack
	for {
		res, err := s.Receive()
		if errors.Is(err, io.EOF) {
			return acks, nil
		}
		if err != nil {
			return acks, err
		}
		acks = append(acks, res.GetAcks()...)
	}
}

// Several streams at once: each is answered for each of its events, in order,
// and its events stand in the chain in the order in which they were sent.
func TestStreamsKeepTheirOrder(t *testing.T) {
	for _, protocol := range []string{"connect", "connect json", "grpc", "gzip"} {
		t.Run(protocol, func(t *testing.T) {
			r := start(t, nil)
			const streams, messages = 4, 60
			var wg sync.WaitGroup
			for n := range streams {
				s := openStream(t, r, protocols[protocol]...)
				sent := 0
				wg.Go(func() {
					for m := range messages {
						req := new(exonodev1.AppendStreamRequest)
						for range m % 5 { // also empty messages
							e := event(sent)
							e.Source = fmt.Sprintf("stream %d", n)
							if sent%17 == 16 {
								e.Kind = "" // refused, and answered in its place
							}
							req.Events = append(req.Events, e)
							sent++
						}
						if err := s.Send(req); err != nil {
							t.Errorf("send: %v", err)
							return
						}
					}
					if err := s.CloseRequest(); err != nil {
						t.Error(err)
					}
				})
				wg.Go(func() {
					acks, err := collect(s)
					if err != nil {
						t.Errorf("stream %d: %v", n, err)
					}
					if len(acks) != messages/5*(0+1+2+3+4) {
						t.Errorf("stream %d: %d answers", n, len(acks))
					}
					last := uint64(0)
					for i, a := range acks {
						if i%17 == 16 {
							if a.GetError().GetCode() != string(api.BadField) {
								t.Errorf("answer %d: %v, want a refusal", i, a)
							}
							continue
						}
						if a.GetError() != nil || a.GetSequence() <= last {
							t.Errorf("answer %d: %v after sequence %d", i, a, last)
						}
						last = a.GetSequence()
					}
				})
			}
			wg.Wait()
			next := map[string]int{}
			for _, record := range r.node.Ledger().Records()[1:] {
				h, err := chain.DecodeHeader(record.Header)
				if err != nil {
					t.Fatal(err)
				}
				if next[h.Source]%17 == 16 {
					next[h.Source]++
				}
				if want := fmt.Sprintf("e%d", next[h.Source]); h.ID != want {
					t.Fatalf("%s: %s in the chain, want %s", h.Source, h.ID, want)
				}
				next[h.Source]++
			}
		})
	}
}

// A full queue holds a stream back and refuses none of its events.
func TestStreamWaitsForAFullQueue(t *testing.T) {
	r := start(t, nil)
	var refusals atomic.Int64
	r.node.SetHooks(servertest.Hooks{Submit: func(server.Caller, []chain.Event) error {
		if refusals.Add(1)%3 != 0 {
			return &api.Error{Code: api.QueueFull, Message: "full", RetryAfterMillis: 1}
		}
		return nil
	}})
	s := openStream(t, r)
	for i := range 5 {
		if err := s.Send(&exonodev1.AppendStreamRequest{Events: []*exonodev1.Event{event(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	acks, err := collect(s)
	if err != nil {
		t.Fatal(err)
	}
	if len(acks) != 5 {
		t.Fatalf("%d answers", len(acks))
	}
	for i, a := range acks {
		if a.GetError() != nil || a.GetSequence() != uint64(i+1) {
			t.Errorf("answer %d: %v", i, a)
		}
	}
	if refusals.Load() != 15 {
		t.Errorf("%d submits, want 15", refusals.Load())
	}
}

// What the node gives up on is answered event by event, and the stream goes on.
func TestStreamSurvivesALostSubmit(t *testing.T) {
	r := start(t, nil)
	r.node.SetHooks(servertest.Hooks{Lost: func(events []chain.Event) error {
		if events[0].ID == "e2" {
			return &api.Error{Code: api.UnknownOutcome, Message: "leadership lost", Hint: "retry with the same id"}
		}
		return nil
	}})
	s := openStream(t, r, connect.WithGRPC())
	for i := 0; i < 6; i += 2 {
		if err := s.Send(&exonodev1.AppendStreamRequest{Events: []*exonodev1.Event{event(i), event(i + 1)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	acks, err := collect(s)
	if err != nil {
		t.Fatal(err)
	}
	var codes []string
	for _, a := range acks {
		codes = append(codes, a.GetError().GetCode())
	}
	if want := []string{"", "", "unknown_outcome", "unknown_outcome", "", ""}; fmt.Sprint(codes) != fmt.Sprint(want) {
		t.Errorf("answers %q, want %q", codes, want)
	}
}

// A node that can take nothing more ends the stream with its reason, after it
// has answered what it took.
func TestStreamEndsWithTheNodesError(t *testing.T) {
	r := start(t, nil)
	r.node.SetHooks(servertest.Hooks{Submit: func(_ server.Caller, events []chain.Event) error {
		if events[0].ID == "e1" {
			return &api.Error{Code: api.NotReady, Message: "stopping"}
		}
		return nil
	}})
	s := openStream(t, r)
	for i := range 2 {
		if err := s.Send(&exonodev1.AppendStreamRequest{Events: []*exonodev1.Event{event(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	acks, err := collect(s)
	wantCode(t, err, api.NotReady)
	if len(acks) != 1 || acks[0].GetSequence() != 1 {
		t.Errorf("answers %v", acks)
	}
	if err := s.CloseRequest(); err != nil {
		t.Error(err)
	}
}

// When the server stops, a stream gets the answers to what was submitted, and
// is told to go elsewhere, although its client sends nothing more and keeps its
// half open.
func TestStreamIsDrainedWhenTheServerStops(t *testing.T) {
	r := start(t, nil)
	hold := make(chan struct{})
	submitted := make(chan struct{}, 1)
	r.node.SetHooks(servertest.Hooks{Hold: hold, Submit: func(server.Caller, []chain.Event) error {
		submitted <- struct{}{}
		return nil
	}})
	s := openStream(t, r)
	if err := s.Send(&exonodev1.AppendStreamRequest{Events: []*exonodev1.Event{event(1)}}); err != nil {
		t.Fatal(err)
	}
	<-submitted
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	close(hold)
	acks, err := collect(s)
	if len(acks) == 1 && acks[0].GetSequence() == 1 {
		wantCode(t, err, api.NotReady)
	} else {
		t.Errorf("answers %v, %v", acks, err)
	}
	if err := s.CloseRequest(); err != nil {
		t.Error(err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A client that goes away leaves nothing behind.
func TestStreamOfAClientThatGoesAway(t *testing.T) {
	r := start(t, nil)
	hold := make(chan struct{})
	defer close(hold)
	submitted := make(chan struct{}, 1)
	r.node.SetHooks(servertest.Hooks{Hold: hold, Submit: func(server.Caller, []chain.Event) error {
		submitted <- struct{}{}
		return nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := r.ledger().AppendStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&exonodev1.AppendStreamRequest{Events: []*exonodev1.Event{event(1)}}); err != nil {
		t.Fatal(err)
	}
	<-submitted
	cancel()
	if _, err := collect(s); err == nil {
		t.Error("no error after cancel")
	}
	// stop returns only once the stream's goroutines have ended; goleak at the
	// end of the tests looks too.
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// However events are cut into messages, the chain is the same.
func TestStreamMessagesDoNotMatter(t *testing.T) {
	r := start(t, nil)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		cuts := rapid.SliceOfN(rapid.IntRange(0, 7), 1, 12).Draw(rt, "cuts")
		s := openStream(t, r)
		defer s.CloseResponse()
		n := 0
		for _, cut := range cuts {
			req := new(exonodev1.AppendStreamRequest)
			for range cut {
				e := event(n)
				e.Source = fmt.Sprintf("run %d", run)
				req.Events = append(req.Events, e)
				n++
			}
			if err := s.Send(req); err != nil {
				rt.Fatal(err)
			}
		}
		if err := s.CloseRequest(); err != nil {
			rt.Fatal(err)
		}
		before := uint64(len(r.node.Ledger().Records()))
		acks, err := collect(s)
		if err != nil {
			rt.Fatal(err)
		}
		if len(acks) != n {
			rt.Fatalf("%d answers to %d events", len(acks), n)
		}
		after := uint64(len(r.node.Ledger().Records()))
		for i, a := range acks {
			if want := after - uint64(n) + uint64(i); a.GetSequence() != want {
				rt.Fatalf("event %d has sequence %d, want %d (%d before)", i, a.GetSequence(), want, before)
			}
		}
	})
}
