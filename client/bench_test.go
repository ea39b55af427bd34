package client_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// sink is a node that acknowledges everything and keeps nothing: what a
// benchmark then measures is the client, the wire and the RPC layer.
type sink struct {
	exonodev1connect.UnimplementedLedgerServiceHandler
	next atomic.Uint64
}

func (s *sink) AppendStream(_ context.Context, stream *connect.BidiStream[exonodev1.AppendStreamRequest, exonodev1.AppendStreamResponse]) error {
	hash := make([]byte, 32)
	for {
		req, err := stream.Receive()
		if err != nil {
			return nil
		}
		slab := make([]exonodev1.Ack, len(req.Events))
		acks := make([]*exonodev1.Ack, len(req.Events))
		for i := range acks {
			slab[i].Sequence = s.next.Add(1)
			slab[i].Hash = hash
			acks[i] = &slab[i]
		}
		if err := stream.Send(&exonodev1.AppendStreamResponse{Acks: acks}); err != nil {
			return err
		}
	}
}

// loopback serves a sink over TCP and returns a client of it.
func loopback(b *testing.B) *client.Client {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(exonodev1connect.NewLedgerServiceHandler(new(sink)))
	srv := &http.Server{Handler: mux, Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(l) // ends with Close
	b.Cleanup(func() { srv.Close() })
	c, err := client.New(client.Config{Addresses: []string{l.Addr().String()}, Source: "urn:bench"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// BenchmarkAppend is n goroutines, each appending 256 bytes one event at a time.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 64, 256, 1024} {
		b.Run(fmt.Sprintf("callers=%d", n), func(b *testing.B) {
			c := loopback(b)
			payload := make([]byte, 256)
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := c.Append(context.Background(), chain.Event{Kind: "bench.event", Payload: payload}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkPump is one stream of events without waiting.
func BenchmarkPump(b *testing.B) {
	c := loopback(b)
	payload := make([]byte, 256)
	b.ReportAllocs()
	b.ResetTimer()
	_, err := c.Pump(b.Context(), func(yield func(chain.Event, error) bool) {
		for range b.N {
			if !yield(chain.Event{Kind: "bench.event", Payload: payload}, nil) {
				return
			}
		}
	}, client.PumpOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
