package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/exonode/exonode/transport"
)

// tcpPair starts two nodes on loopback sockets.
func tcpPair(tb testing.TB) (a, b *node) {
	tb.Helper()
	w := newWorld(tb)
	start := func(host string) *node {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		n := &node{host: ln.Addr().String(), members: &members{
			servers: make(map[string]raft.ServerID), voters: make(map[string]bool), removed: make(map[string]bool),
		}}
		n.Transport, err = transport.New(transport.Config{
			Identity: identity(host), Incarnation: incarnation, Listener: ln, Members: n.members,
			Resolve: w.resolve, Secret: w.secret, Genesis: w.genesis, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			tb.Fatal(err)
		}
		w.mu.Lock()
		w.hosts[n.NodeID()] = n.host
		w.mu.Unlock()
		n.run(tb)
		return n
	}
	a, b = start("a"), start("b")
	a.members.add(a, b)
	b.members.add(a, b)
	return a, b
}

// TestOverTCP runs calls of all sizes over real sockets, and leaves nothing
// behind.
func TestOverTCP(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	a, b := tcpPair(t)
	b.echo(transport.ClassCall)
	b.echo(transport.ClassFetch)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			class := []transport.Class{transport.ClassCall, transport.ClassFetch}[i%2]
			req := bytes.Repeat([]byte{byte(i)}, 1<<(i%23))
			answer, _, err := a.Call(context.Background(), class, b.ref(), "echo", req)
			if err != nil || !bytes.Equal(answer, req) {
				t.Errorf("call %d of %d bytes: %d bytes, %v", i, len(req), len(answer), err)
			}
		})
	}
	wg.Wait()
	client, server := attachTCP(t, a), attachTCP(t, b)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case rpc := <-server.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Success: true}, nil)
			case <-stop:
				return
			}
		}
	}()
	var resp raft.AppendEntriesResponse
	if err := client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), &resp); err != nil || !resp.Success {
		t.Errorf("append: %+v, %v", resp, err)
	}
	// A peer that is gone is noticed at once, not at the next deadline.
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := a.call(b, transport.ClassCall, "echo", ""); !errors.Is(err, transport.ErrUnreachable) && !errors.Is(err, transport.ErrInterrupted) {
		t.Errorf("call to a closed node: %v", err)
	}
}

func attachTCP(tb testing.TB, n *node) *transport.RaftTransport { return attach(tb, n) }

// BenchmarkCalls: calls of 256 bytes over loopback TLS, by callers at a time.
func BenchmarkCalls(b *testing.B) {
	for _, callers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			x, y := tcpPair(b)
			y.echo(transport.ClassCall)
			req := make([]byte, 256)
			if _, err := x.call(y, transport.ClassCall, "echo", ""); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					ctx := context.Background()
					for left.Add(-1) >= 0 {
						if _, _, err := x.Call(ctx, transport.ClassCall, y.ref(), "echo", req); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}

// BenchmarkPipeline: pipelined appends of one log each over loopback TLS to a
// raft that answers at once.
func BenchmarkPipeline(b *testing.B) {
	for _, size := range []int{256, 128 << 10} {
		b.Run(fmt.Sprintf("log=%d", size), func(b *testing.B) {
			x, y := tcpPair(b)
			client, server := attach(b, x), attach(b, y)
			go func() {
				for rpc := range server.Consumer() {
					if rpc.Command.(*raft.AppendEntriesRequest).Term == 0 {
						return
					}
					rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: header(y), Term: 3, Success: true}, nil)
				}
			}()
			p, err := client.AppendEntriesPipeline(y.ServerID(), y.raftAddr())
			if err != nil {
				b.Fatal(err)
			}
			req := appendRequest(x, &raft.Log{Index: 5, Term: 3, Data: make([]byte, size)})
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			done := make(chan error, 1)
			go func() {
				for range b.N {
					if err := (<-p.Consumer()).Error(); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
			for range b.N {
				if _, err := p.AppendEntries(req, new(raft.AppendEntriesResponse)); err != nil {
					b.Fatal(err)
				}
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			stop := appendRequest(x)
			stop.Term = 0
			_, _ = p.AppendEntries(stop, new(raft.AppendEntriesResponse)) // ends the server's goroutine
			_ = p.Close()
		})
	}
}
