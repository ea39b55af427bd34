package discovery

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestParseSeed(t *testing.T) {
	for _, tc := range []struct {
		text, want, fault string
	}{
		{text: "10.0.0.1:9000", want: "10.0.0.1:9000"},
		{text: "10.0.0.1", want: "10.0.0.1:7000"},
		{text: "[2001:db8::1]:9000", want: "[2001:db8::1]:9000"},
		{text: "2001:db8::1", want: "[2001:db8::1]:7000"},
		{text: "[2001:db8::1]", want: "[2001:db8::1]:7000"},
		{text: "[fe80::1%eth0]:9000", want: "[fe80::1%eth0]:9000"},
		{text: "::ffff:10.0.0.1", want: "10.0.0.1:7000"},
		{text: "nodes.example.com", want: "nodes.example.com:7000"},
		{text: "node_1:9000", want: "node_1:9000"},
		{text: "localhost:1", want: "localhost:1"},
		{text: "example.com.:9000", want: "example.com.:9000"},
		{text: "", fault: "no host"},
		{text: ":9000", fault: "no host"},
		{text: "host:", fault: "port"},
		{text: "host:0", fault: "port"},
		{text: "host:65536", fault: "port"},
		{text: "host:http", fault: "port"},
		{text: "a:b:c", fault: "host:port"},
		{text: "http://host:9000", fault: "host:port"},
		{text: "ho st:9000", fault: "DNS name"},
		{text: "-host:9000", fault: "DNS name"},
		{text: "10.0.0.256:9000", fault: "DNS name"},
		{text: "10.0.0:9000", fault: "DNS name"},
		{text: "0.0.0.0:9000", fault: "reached"},
		{text: "224.0.0.1:9000", fault: "reached"},
	} {
		t.Run(tc.text, func(t *testing.T) {
			s, err := ParseSeed(tc.text, 7000)
			if tc.fault != "" {
				if !errors.Is(err, ErrSeed) || !strings.Contains(err.Error(), tc.fault) {
					t.Fatalf("error %v, want ErrSeed with %q", err, tc.fault)
				}
				if !strings.Contains(err.Error(), `"`+tc.text+`"`) {
					t.Errorf("error %v does not name the seed", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := text(s); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	if _, err := ParseSeed("host", 0); !errors.Is(err, ErrSeed) {
		t.Errorf("no port at all: %v", err)
	}
	if _, err := New(Config{Seeds: []string{"ok:1", "bad:port"}, Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, ErrSeed) {
		t.Errorf("New with a bad seed: %v", err)
	}
}

func text(s Seed) string {
	if s.Name != "" {
		return s.Name + ":" + itoa(s.Port)
	}
	return netip.AddrPortFrom(s.Addr, s.Port).String()
}

func itoa(p uint16) string {
	_, port, _ := strings.Cut(netip.AddrPortFrom(netip.IPv4Unspecified(), p).String(), ":")
	return port
}

func FuzzParseSeed(f *testing.F) {
	f.Add("host:1")
	f.Add("[::1]:80")
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseSeed(in, 7000)
		if err != nil {
			return
		}
		again, err := ParseSeed(text(s), 1)
		if err != nil || again != s {
			t.Errorf("%q -> %+v -> %+v, %v", in, s, again, err)
		}
	})
}

// zone is a resolver whose answers the test changes.
type zone struct {
	mu    sync.Mutex
	names map[string][]netip.Addr
	asked int
}

func (z *zone) set(name string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.names[name] = nil
	for _, a := range addrs {
		z.names[name] = append(z.names[name], netip.MustParseAddr(a))
	}
}

func (z *zone) LookupNetIP(_ context.Context, network, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.asked++
	ips, ok := z.names[host]
	if !ok || network != "ip" {
		return nil, errors.New("no such host")
	}
	return slices.Clone(ips), nil
}

func TestNamesAreResolvedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{names: make(map[string][]netip.Addr)}
		d, err := New(Config{
			Seeds: []string{"nodes.test:9", "10.9.9.9"}, DefaultPort: 8, Resolver: z,
			Rand: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		h := &host{d: d}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := d.Run(ctx, h.note); err != nil {
				t.Error(err)
			}
		}()
		synctest.Wait()
		h.want(t, "+@10.9.9.9:8") // the name does not exist yet
		z.set("nodes.test", "10.0.0.1", "2001:db8::1")
		run(2 * time.Second)
		want := []string{"+@10.9.9.9:8", "+@10.0.0.1:9", "+@[2001:db8::1]:9"}
		h.want(t, want...)

		z.set("nodes.test", "10.0.0.1", "10.0.0.2")
		run(resolveMax * 5 / 4)
		want = append(want, "+@10.0.0.2:9", "-@[2001:db8::1]:9")
		h.want(t, want...)

		z.mu.Lock()
		delete(z.names, "nodes.test") // an outage of DNS loses nothing
		before := z.asked
		z.mu.Unlock()
		run(time.Hour)
		h.want(t, want...)
		if n := z.asked - before; n < 90 || n > 170 {
			t.Errorf("%d lookups in an hour, want about one in 30 s", n)
		}
		var got []string
		for _, c := range d.Candidates() {
			got = append(got, string(c.Method)+" "+c.Addr)
		}
		if !slices.Equal(got, []string{"dns 10.0.0.1:9", "dns 10.0.0.2:9", "seed 10.9.9.9:8"}) {
			t.Errorf("candidates %q", got)
		}
		cancel()
		<-done
	})
}
