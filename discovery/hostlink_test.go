package discovery

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openOrSkip opens real sockets on the machine that runs the test.
func openOrSkip(t *testing.T) (*hostLink, []iface) {
	t.Helper()
	l, err := openHostLink()
	if err != nil {
		t.Skipf("no multicast sockets here: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	ifaces, err := l.Refresh()
	if err != nil || len(ifaces) == 0 {
		t.Skipf("no interface for multicast here: %v", err)
	}
	return l.(*hostLink), ifaces
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("needs /proc")
	}
	return len(fds)
}

// Hundreds of queries, announcements and rescans, and dozens of restarts, leave
// no socket and no goroutine behind.
func TestNothingLeaks(t *testing.T) {
	l, _ := openOrSkip(t)
	r, err := newResponder(MDNS{NodeID: "leak", Port: 1}, func() float64 { return 0 }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	fds, before := openFiles(t), goleak.IgnoreCurrent()
	for range 300 {
		r.rescan(l)
		r.announce(l)
		r.ask(l)
	}
	if n := openFiles(t); n != fds {
		t.Errorf("%d open files after 300 cycles, %d before", n, fds)
	}
	goleak.VerifyNone(t, before)
	for range 50 {
		again, err := openHostLink()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := again.Refresh(); err != nil {
			t.Fatal(err)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := openFiles(t); n != fds {
		t.Errorf("%d open files after 50 restarts, %d before", n, fds)
	}
	goleak.VerifyNone(t, before)
}

// Two nodes of one host find each other over real sockets: both hear the port.
func TestRealMulticast(t *testing.T) {
	openOrSkip(t)
	found := make(chan Event, 64)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan struct{})
	names := []string{"real-a", "real-b"}
	for _, name := range names {
		d, err := New(Config{
			MDNS: &MDNS{Genesis: [32]byte{byte(os.Getpid()), byte(os.Getpid() >> 8)}, NodeID: name, Port: 7946},
			Log:  slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer func() { done <- struct{}{} }()
			if err := d.Run(ctx, func(e Event) {
				select {
				case found <- e:
				default:
				}
			}); err != nil {
				t.Error(err)
			}
		}()
	}
	seen := make(map[string]bool)
	for len(seen) < len(names) && ctx.Err() == nil {
		select {
		case e := <-found:
			seen[e.NodeID] = true
		case <-ctx.Done():
		}
	}
	cancel()
	for range names {
		<-done
	}
	if len(seen) < len(names) {
		t.Skipf("found %v: this network drops its own multicast", seen)
	}
}
