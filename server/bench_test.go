package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
)

// sink is a node that acknowledges at once and keeps nothing, so that the
// benchmarks show the server's cost (and their own client's, in one process).
type sink struct {
	server.Node
	next atomic.Uint64
}

// Submit implements server.Writer.
func (s *sink) Submit(_ context.Context, _ server.Caller, events []chain.Event) (server.Pending, error) {
	n := uint64(len(events))
	return sunk{s.next.Add(n) - n, n}, nil
}

type sunk struct{ first, n uint64 }

// Wait implements server.Pending.
func (p sunk) Wait(context.Context) ([]server.Ack, error) {
	acks := make([]server.Ack, p.n)
	for i := range acks {
		acks[i] = server.Ack{Sequence: p.first + uint64(i), Hash: chain.Hash{1}, Time: 1}
	}
	return acks, nil
}

func startSink(b *testing.B) *rig {
	return start(b, func(c *server.Config) { c.Node = &sink{Node: c.Node} })
}

func benchEvent(i uint64) *exonodev1.Event {
	return &exonodev1.Event{Source: "/bench/1", Id: fmt.Sprint(i), Kind: "agent.spawn", Data: payload256, ContentType: api.DefaultContentType}
}

var payload256 = []byte(`{"x":"` + strings.Repeat("x", 248) + `"}`)

// BenchmarkUnary is one event a call, 64 callers.
func BenchmarkUnary(b *testing.B) {
	for _, name := range []string{"grpc", "connect", "connect json"} {
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			r := startSink(b)
			c := r.ledger(protocols[name]...)
			var n atomic.Uint64
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := c.Append(b.Context(), &exonodev1.AppendRequest{Event: benchEvent(n.Add(1))}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
	b.Run("cloudevents-http1", func(b *testing.B) {
		r := startSink(b)
		transport := &http.Transport{MaxIdleConnsPerHost: 128}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		var n atomic.Uint64
		b.SetParallelism(32)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				body := fmt.Sprintf(`{"specversion":"1.0","type":"agent.spawn","source":"/bench/1","id":"%d","data":%s}`, n.Add(1), payload256)
				res, err := client.Post(r.url+"/v1/events", structured, strings.NewReader(body))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != 201 {
					b.Error(res.Status)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
	})
}

// BenchmarkStream is one stream with some events a message.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{1, 16, 128} {
		b.Run(fmt.Sprintf("grpc/message=%d", size), func(b *testing.B) {
			r := startSink(b)
			s := openStream(b, r, connect.WithGRPC())
			b.ReportAllocs()
			b.ResetTimer()
			failed := make(chan error, 1)
			go func() {
				for sent := 0; sent < b.N; {
					req := &exonodev1.AppendStreamRequest{}
					for range min(size, b.N-sent) {
						req.Events = append(req.Events, benchEvent(uint64(sent)))
						sent++
					}
					if err := s.Send(req); err != nil {
						failed <- err
						return
					}
				}
				failed <- s.CloseRequest()
			}()
			acks, err := collect(s)
			if err != nil || len(acks) != b.N {
				b.Errorf("%d of %d answers, %v", len(acks), b.N, err)
			}
			if err := <-failed; err != nil {
				b.Error(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkConvert is an event from its message to the chain's form and an
// answer back, without the network.
func BenchmarkConvert(b *testing.B) {
	p := benchEvent(1)
	b.ReportAllocs()
	for b.Loop() {
		events := make([]chain.Event, 1)
		if err := api.FillEvent(&events[0], p); err != nil {
			b.Fatal(err)
		}
	}
}
