package transport_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/transport"
)

func TestCallReachesHandler(t *testing.T) {
	for _, class := range []transport.Class{transport.ClassCall, transport.ClassFetch, transport.ClassJoin} {
		t.Run(string(class), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newWorld(t).pair(t)
				var from transport.Peer
				b.Handle(class, "who", func(_ context.Context, p transport.Peer, req []byte) ([]byte, error) {
					from = p
					return append([]byte("hello "), req...), nil
				})
				answer, peer, err := a.Call(context.Background(), class, b.ref(), "who", []byte("a"))
				if err != nil || string(answer) != "hello a" {
					t.Fatalf("answer %q, %v", answer, err)
				}
				if peer.NodeID != b.NodeID() || from.NodeID != a.NodeID() || from.Class != class {
					t.Errorf("peer %s, from %s in %s", peer.NodeID, from.NodeID, from.Class)
				}
				if transport.NodeIDOf(from.PublicKey) != a.NodeID() {
					t.Errorf("the handler saw another key")
				}
				if class == transport.ClassCall && from.ServerID != a.ServerID() {
					t.Errorf("from server %s", from.ServerID)
				}
			})
		})
	}
}

func TestJoinFindsOutWhomItReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.start(t, "a"), w.start(t, "b") // members of nothing
		b.echo(transport.ClassJoin)
		answer, peer, err := a.Call(context.Background(), transport.ClassJoin, transport.PeerRef{Addr: "b"}, "echo", []byte("x"))
		if err != nil || string(answer) != "x" || peer.NodeID != b.NodeID() {
			t.Fatalf("answer %q of %s, %v", answer, peer.NodeID, err)
		}
	})
}

func TestCallErrorsSurvive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t, func(c *transport.Config) { c.Limits.CallFrame = 1000 })
		b.Handle(transport.ClassCall, "typed", func(context.Context, transport.Peer, []byte) ([]byte, error) {
			return nil, fmt.Errorf("wrapped: %w", &transport.RemoteError{Code: "not_leader", Message: "ask n2"})
		})
		b.Handle(transport.ClassCall, "plain", func(context.Context, transport.Peer, []byte) ([]byte, error) {
			return nil, errors.New("disk on fire")
		})
		b.Handle(transport.ClassCall, "big", func(context.Context, transport.Peer, []byte) ([]byte, error) {
			return make([]byte, 1001), nil
		})
		b.echo(transport.ClassCall)
		for _, tc := range []struct{ method, code, message string }{
			{"typed", "not_leader", "ask n2"},
			{"plain", transport.CodeInternal, "disk on fire"},
			{"big", transport.CodeTooLarge, "answer of 1001 bytes, limit 1000"},
			{"none", transport.CodeUnknownMethod, "no method none"},
		} {
			_, err := a.call(b, transport.ClassCall, tc.method, "")
			remote, ok := errors.AsType[*transport.RemoteError](err)
			if !ok || remote.Code != tc.code || remote.Message != tc.message {
				t.Errorf("%s: %v", tc.method, err)
			}
		}
		if _, err := a.call(b, transport.ClassCall, "echo", string(make([]byte, 1001))); !errors.Is(err, transport.ErrTooLarge) {
			t.Errorf("large request: %v", err)
		}
		if answer, err := a.call(b, transport.ClassCall, "echo", string(make([]byte, 1000))); err != nil || len(answer) != 1000 {
			t.Errorf("request at the limit: %d bytes, %v", len(answer), err)
		}
	})
}

func TestCallDeadlineAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t)
		ended := make(chan error, 1)
		b.Handle(transport.ClassCall, "wait", func(ctx context.Context, _ transport.Peer, _ []byte) ([]byte, error) {
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			synctest.Wait()
			cancel()
		}()
		if _, _, err := a.Call(ctx, transport.ClassCall, b.ref(), "wait", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled call: %v", err)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("handler of a canceled call: %v", err)
		}
		start := time.Now()
		ctx, cancel = context.WithTimeout(context.Background(), 7*time.Second)
		defer cancel()
		if _, _, err := a.Call(ctx, transport.ClassCall, b.ref(), "wait", nil); err == nil {
			t.Error("call over its deadline succeeded")
		}
		<-ended // by the deadline it was told, or by the cancel frame
		if d := time.Since(start); d > 8*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

func TestCallsAreMultiplexed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t)
		const n = 100
		var arrived sync.WaitGroup
		arrived.Add(n)
		b.Handle(transport.ClassCall, "meet", func(_ context.Context, _ transport.Peer, req []byte) ([]byte, error) {
			arrived.Done()
			arrived.Wait() // answers only once all are here
			return req, nil
		})
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				want := fmt.Sprint(i)
				if answer, err := a.call(b, transport.ClassCall, "meet", want); err != nil || answer != want {
					t.Errorf("call %d: %q, %v", i, answer, err)
				}
			})
		}
		wg.Wait()
		if got := a.Stats().Classes[1]; got.Dialed != 1 || got.Sent != n {
			t.Errorf("%d connections, %d calls", got.Dialed, got.Sent)
		}
	})
}

func TestBusyPeerSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t, func(c *transport.Config) { c.Limits.Handlers = 2 })
		release := make(chan struct{})
		b.Handle(transport.ClassCall, "hold", func(context.Context, transport.Peer, []byte) ([]byte, error) {
			<-release
			return nil, nil
		})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := a.call(b, transport.ClassCall, "hold", ""); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		_, err := a.call(b, transport.ClassCall, "hold", "")
		if remote, ok := errors.AsType[*transport.RemoteError](err); !ok || remote.Code != transport.CodeBusy {
			t.Errorf("third call: %v", err)
		}
		close(release)
		wg.Wait()
	})
}

func TestLargeCallsPassBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t)
		b.echo(transport.ClassFetch)
		big := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				answer, _, err := a.Call(context.Background(), transport.ClassFetch, b.ref(), "echo", big)
				if err != nil || !bytes.Equal(answer, big) {
					t.Errorf("%d bytes, %v", len(answer), err)
				}
			})
		}
		wg.Wait()
	})
}

// A peer that is there and silent, as a stopped process or a cut cable is: the
// caller finds out without a deadline of its own, and recovers.
func TestHalfOpenPeerIsFoundOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair(t)
		b.echo(transport.ClassCall)
		if _, err := a.call(b, transport.ClassCall, "echo", "x"); err != nil {
			t.Fatal(err)
		}
		w.net.Cut("b", "a")
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		start := time.Now()
		_, _, err := a.Call(ctx, transport.ClassCall, b.ref(), "echo", nil)
		if !errors.Is(err, transport.ErrInterrupted) {
			t.Errorf("call over the cut link: %v", err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("found out after %v", d)
		}
		// Now nothing can be sent, and the caller knows that too.
		_, _, err = a.Call(ctx, transport.ClassCall, b.ref(), "echo", nil)
		if !errors.Is(err, transport.ErrUnreachable) {
			t.Errorf("call without a connection: %v", err)
		}
		// And fails fast while it waits for the next attempt.
		start = time.Now()
		_, _, err = a.Call(ctx, transport.ClassCall, b.ref(), "echo", nil)
		if !errors.Is(err, transport.ErrBackoff) || time.Since(start) != 0 {
			t.Errorf("call after a failed attempt: %v after %v", err, time.Since(start))
		}
		w.net.Heal("b", "a")
		time.Sleep(time.Second) // in the bubble: the backoff passes
		if _, err := a.call(b, transport.ClassCall, "echo", "x"); err != nil {
			t.Errorf("after healing: %v", err)
		}
	})
}

// A long call on a live connection outlasts the pings.
func TestSlowHandlerIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t)
		b.Handle(transport.ClassCall, "slow", func(ctx context.Context, _ transport.Peer, req []byte) ([]byte, error) {
			select {
			case <-time.After(10 * time.Minute):
				return req, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		defer cancel()
		if _, _, err := a.Call(ctx, transport.ClassCall, b.ref(), "slow", nil); err != nil {
			t.Error(err)
		}
	})
}

// A call that nobody waits for any more went unanswered on a connection that is dead:
// that is found out all the same, and the next call has a new connection.
func TestSilenceAfterImpatientCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var mu sync.Mutex
		made, dead := 0, 0 // connections from a, of which the first ones are dead
		a, b := w.pair(t, func(c *transport.Config) {
			c.Conn = func(_ transport.Class, local, _ string, conn net.Conn) net.Conn {
				mu.Lock()
				defer mu.Unlock()
				number := made
				if local == identity("a").NodeID() {
					made++
				}
				return seamConn{conn, func() bool {
					mu.Lock()
					defer mu.Unlock()
					return local == identity("a").NodeID() && number < dead
				}}
			}
		})
		b.echo(transport.ClassCall)
		if _, err := a.call(b, transport.ClassCall, "echo", ""); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		dead = made
		mu.Unlock()
		impatient := func() error {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, _, err := a.Call(ctx, transport.ClassCall, b.ref(), "echo", nil)
			return err
		}
		if err := impatient(); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("on the dead connection: %v", err)
		}
		time.Sleep(10 * time.Second) // in the bubble
		if err := impatient(); err != nil {
			t.Errorf("ten seconds later: %v", err)
		}
		// On a live connection an answer that nobody waits for is no silence.
		b.Handle(transport.ClassCall, "slow", func(ctx context.Context, _ transport.Peer, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, _, err := a.Call(ctx, transport.ClassCall, b.ref(), "slow", nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a slow call: %v", err)
		}
		time.Sleep(time.Minute) // in the bubble
		mu.Lock()
		defer mu.Unlock()
		if made != 2 {
			t.Errorf("%d connections were made, want 2", made)
		}
		if n := a.Stats().Connections; n != 1 {
			t.Errorf("%d connections are left, want the live one", n)
		}
	})
}

func TestIdleConnectionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t)
		b.echo(transport.ClassCall)
		if _, err := a.call(b, transport.ClassCall, "echo", ""); err != nil {
			t.Fatal(err)
		}
		if n := b.Stats().Connections; n != 1 {
			t.Fatalf("%d connections", n)
		}
		time.Sleep(10 * time.Minute) // in the bubble
		synctest.Wait()
		if n := a.Stats().Connections + b.Stats().Connections; n != 0 {
			t.Errorf("%d ends of connections are left", n)
		}
		if _, err := a.call(b, transport.ClassCall, "echo", ""); err != nil {
			t.Errorf("after idleness: %v", err)
		}
	})
}

func TestCloseEndsCallsAndIsRepeatable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t)
		b.Handle(transport.ClassCall, "wait", func(ctx context.Context, _ transport.Peer, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		result := make(chan error, 1)
		go func() {
			_, err := a.call(b, transport.ClassCall, "wait", "")
			result <- err
		}()
		synctest.Wait()
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		if err := <-result; !errors.Is(err, transport.ErrInterrupted) {
			t.Errorf("call in hand: %v", err)
		}
		if _, err := b.call(a, transport.ClassCall, "wait", ""); !errors.Is(err, transport.ErrClosed) {
			t.Errorf("call on a closed transport: %v", err)
		}
	})
}

// TestConnSeam cuts one direction in the wrapper, as the chaos lab does.
func TestConnSeam(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var mu sync.Mutex
		seen := map[string]int{}
		var cut bool
		a, b := w.pair(t, func(c *transport.Config) {
			c.Conn = func(class transport.Class, local, remote string, conn net.Conn) net.Conn {
				mu.Lock()
				defer mu.Unlock()
				seen[fmt.Sprint(class, local, remote)]++
				return seamConn{conn, func() bool {
					mu.Lock()
					defer mu.Unlock()
					return cut && local == identity("a").NodeID()
				}}
			}
		})
		b.echo(transport.ClassCall)
		if _, err := a.call(b, transport.ClassCall, "echo", ""); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if seen[fmt.Sprint(transport.ClassCall, a.NodeID(), b.NodeID())] != 1 || seen[fmt.Sprint(transport.ClassCall, b.NodeID(), a.NodeID())] != 1 {
			t.Errorf("wrapped: %v", seen)
		}
		cut = true
		mu.Unlock()
		for range 2 { // the open connection, and then a new one
			time.Sleep(time.Second)
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			if _, _, err := a.Call(ctx, transport.ClassCall, b.ref(), "echo", nil); err == nil {
				t.Error("a call passed the cut")
			}
			cancel()
		}
	})
}

// seamConn swallows writes while cut says so.
type seamConn struct {
	net.Conn
	cut func() bool
}

func (c seamConn) Write(p []byte) (int, error) {
	if c.cut() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// failing fails the first accepts, as for want of file descriptors.
type failing struct {
	net.Listener
	left int
}

func (l *failing) Accept() (net.Conn, error) {
	if l.left > 0 {
		l.left--
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestAcceptRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start(t, "a")
		b := w.start(t, "b", func(c *transport.Config) { c.Listener = &failing{c.Listener, 5} })
		b.echo(transport.ClassJoin)
		if _, err := a.call(b, transport.ClassJoin, "echo", ""); err != nil {
			t.Error(err)
		}
	})
}
