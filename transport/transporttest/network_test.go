package transporttest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"

	"github.com/exonode/exonode/transport/transporttest"
)

// connect returns both ends of a connection from a to b.
func connect(tb testing.TB, n *transporttest.Network) (a, b net.Conn) {
	tb.Helper()
	ln, err := n.Listen("b")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	if a, err = n.Dialer("a")(context.Background(), "b"); err != nil {
		tb.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		tb.Fatal(err)
	}
	return a, b
}

// TestConn: the connections behave as net.Conn says.
func TestConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2 = connect(t, transporttest.New())
		return c1, c2, func() { _, _ = c1.Close(), c2.Close() }, nil
	})
}

func read(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Errorf("read %q, %v, want %q", b, err, want)
	}
}

func write(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Error(err)
	}
}

func TestCutHoldsOneDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.New()
		a, b := connect(t, n)
		n.Cut("a", "b")
		write(t, a, "held")
		write(t, b, "passes")
		read(t, a, "passes")
		_ = b.SetReadDeadline(time.Now().Add(time.Minute))
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read over the cut: %v", err)
		}
		_ = b.SetReadDeadline(time.Time{})
		_ = a.Close() // and so is the end of file
		time.AfterFunc(time.Hour, func() { n.Heal("a", "b") })
		start := time.Now()
		read(t, b, "held")
		if time.Since(start) != time.Hour {
			t.Errorf("came after %v", time.Since(start))
		}
		if _, err := b.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestWritersWaitForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.New()
		a, b := connect(t, n)
		n.Cut("a", "b")
		_ = a.SetWriteDeadline(time.Now().Add(time.Minute))
		big := make([]byte, 1<<20)
		sent, err := a.Write(big)
		if !errors.Is(err, os.ErrDeadlineExceeded) || sent == 0 || sent == len(big) {
			t.Errorf("%d bytes, %v", sent, err)
		}
		n.Heal("a", "b")
		_ = a.SetWriteDeadline(time.Time{})
		go func() {
			_, _ = a.Write(big[sent:])
			_ = a.Close()
		}()
		if got, err := io.ReadAll(b); err != nil || !bytes.Equal(got, big) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.New()
		a, b := connect(t, n)
		n.Delay("a", "b", 30*time.Millisecond)
		start := time.Now()
		write(t, a, "x")
		read(t, b, "x")
		if d := time.Since(start); d != 30*time.Millisecond {
			t.Errorf("took %v", d)
		}
		write(t, b, "y")
		read(t, a, "y")
		if d := time.Since(start); d != 30*time.Millisecond {
			t.Errorf("the way back took time: %v", d)
		}
	})
}

func TestDialing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := transporttest.New()
		dial := n.Dialer("a")
		if _, err := dial(context.Background(), "b"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
		ln, err := n.Listen("b")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("b"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("second listener: %v", err)
		}
		n.Cut("b", "a") // one way is enough
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := dial(ctx, "b"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("over the cut: %v", err)
		}
		n.Join("a", "b")
		c, err := dial(context.Background(), "b")
		if err != nil {
			t.Fatal(err)
		}
		n.Reset("b")
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("after a crash: %v", err)
		}
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after close: %v", err)
		}
	})
}
