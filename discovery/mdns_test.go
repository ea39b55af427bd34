package discovery

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// host is a node's discovery on a fake segment.
type host struct {
	d    *Discovery
	link *lanLink
	stop context.CancelFunc
	done chan struct{}
	log  *bytes.Buffer

	mu     sync.Mutex
	events []string
}

func startHost(t *testing.T, l *lan, name, addr string, genesis byte) *host {
	t.Helper()
	h := &host{link: l.host(addr), done: make(chan struct{}), log: new(bytes.Buffer)}
	d, err := New(Config{
		MDNS: &MDNS{Genesis: [32]byte{genesis}, NodeID: name, Port: 7946, Protocol: 1},
		Rand: func() float64 { return 0.5 },
		Log:  slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	d.mdns.open = h.link.open
	h.d = d
	ctx, cancel := context.WithCancel(t.Context())
	h.stop = func() { cancel(); <-h.done }
	go func() {
		defer close(h.done)
		if err := d.Run(ctx, h.note); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(h.stop)
	return h
}

func (h *host) note(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sign := "+"
	if e.Lost {
		sign = "-"
	}
	h.events = append(h.events, sign+e.NodeID+"@"+e.Addr)
}

func (h *host) want(t *testing.T, want ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.events, want) {
		t.Errorf("events %q, want %q", h.events, want)
	}
}

// run moves the bubble's clock on.
func run(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestHostsFindEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lan)
		a := startHost(t, l, "node-a", "10.0.0.1", 1)
		run(40 * time.Second)
		b := startHost(t, l, "node-b", "10.0.0.2", 1)
		run(answerEvery)
		a.want(t, "+node-b@10.0.0.2:7946")
		b.want(t, "+node-a@10.0.0.1:7946")

		run(30 * time.Minute) // nothing expires, nothing is reported twice
		a.want(t, "+node-b@10.0.0.2:7946")
		got := a.d.Candidates()
		if len(got) != 1 || got[0].Method != ByMDNS || time.Since(got[0].Seen) > queryMax*5/4 {
			t.Errorf("candidates %+v", got)
		}

		b.stop() // says goodbye
		synctest.Wait()
		a.want(t, "+node-b@10.0.0.2:7946", "-node-b@10.0.0.2:7946")
		if got := a.d.Candidates(); len(got) != 0 {
			t.Errorf("candidates after goodbye: %+v", got)
		}
	})
}

func TestSilentHostExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lan)
		a := startHost(t, l, "node-a", "10.0.0.1", 1)
		b := startHost(t, l, "node-b", "10.0.0.2", 1)
		run(answerEvery)
		a.want(t, "+node-b@10.0.0.2:7946")
		b.link.setUp(false) // cable out
		run(announceTTL*time.Second + 2*rescanEvery)
		a.want(t, "+node-b@10.0.0.2:7946", "-node-b@10.0.0.2:7946")
	})
}

func TestClustersDoNotMix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lan)
		a1 := startHost(t, l, "a1", "10.0.0.1", 1)
		b1 := startHost(t, l, "b1", "10.0.0.2", 2)
		a2 := startHost(t, l, "a2", "10.0.0.3", 1)
		b2 := startHost(t, l, "b2", "10.0.0.4", 2)
		run(5 * time.Minute)
		a1.want(t, "+a2@10.0.0.3:7946")
		a2.want(t, "+a1@10.0.0.1:7946")
		b1.want(t, "+b2@10.0.0.4:7946")
		b2.want(t, "+b1@10.0.0.2:7946")
	})
}

func TestHostWithoutMulticast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{broken: true}
		a := startHost(t, l, "node-a", "10.0.0.1", 1)
		run(3 * time.Hour)
		if n := strings.Count(a.log.String(), "\n"); n != 1 {
			t.Errorf("%d log lines in three hours, want 1:\n%s", n, a.log)
		}
		l.mu.Lock()
		l.broken = false
		l.mu.Unlock()
		b := startHost(t, l, "node-b", "10.0.0.2", 1)
		run(2 * reopenMax)
		a.want(t, "+node-b@10.0.0.2:7946")
		b.want(t, "+node-a@10.0.0.1:7946")
	})
}

func TestInterfaceThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lan)
		a := startHost(t, l, "node-a", "10.0.0.1", 1)
		b := startHost(t, l, "node-b", "10.0.0.2", 1)
		run(answerEvery)
		b.link.setUp(false)
		run(time.Hour)
		b.link.setUp(true)
		run(2 * rescanEvery) // found by its announcement, not by the next query
		a.want(t, "+node-b@10.0.0.2:7946", "-node-b@10.0.0.2:7946", "+node-b@10.0.0.2:7946")
	})
}

// A storm of queries costs one multicast answer a second.
func TestAnswersAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lan)
		a := startHost(t, l, "node-a", "10.0.0.1", 1)
		run(10 * time.Second)
		l.mu.Lock()
		before := l.sent
		l.mu.Unlock()
		query, err := a.d.mdns.query()
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			a.link.packets <- packet{data: query, from: netip.MustParseAddrPort("10.0.0.9:5353"), ifindex: 7}
		}
		run(answerEvery) // one at once, one for all that came meanwhile
		l.mu.Lock()
		defer l.mu.Unlock()
		if got := l.sent - before; got != 2 {
			t.Errorf("%d multicasts, want 2", got)
		}
	})
}

// A stock resolver asks from another port: it gets a plain unicast answer.
func TestStockResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lan)
		a := startHost(t, l, "Node.A", "10.0.0.1", 1)
		run(time.Minute)
		for _, q := range []struct {
			name  string
			kind  uint16
			first string
		}{
			{serviceName, dns.TypePTR, "_exonode._tcp.local.\t10\tIN\tPTR\tnode-a._exonode._tcp.local."},
			{"_EXONODE._tcp.local.", dns.TypeANY, "_exonode._tcp.local.\t10\tIN\tPTR\tnode-a._exonode._tcp.local."},
			{"node-a._exonode._tcp.local.", dns.TypeSRV, "node-a._exonode._tcp.local.\t10\tIN\tSRV\t0 0 7946 exonode-node-a.local."},
			{"node-a._exonode._tcp.local.", dns.TypeTXT, "node-a._exonode._tcp.local.\t10\tIN\tTXT\t\"v=1\" \"g=0100000000000000\" \"id=Node.A\" \"port=7946\""},
			{"exonode-node-a.local.", dns.TypeA, "exonode-node-a.local.\t10\tIN\tA\t10.0.0.1"},
			{enumName, dns.TypePTR, "_services._dns-sd._udp.local.\t10\tIN\tPTR\t_exonode._tcp.local."},
		} {
			m := new(dns.Msg)
			m.SetQuestion(q.name, q.kind)
			data, err := m.Pack()
			if err != nil {
				t.Fatal(err)
			}
			a.link.packets <- packet{data: data, from: netip.MustParseAddrPort("10.0.0.9:40000"), ifindex: 7}
			synctest.Wait()
			if len(a.link.unicasts) != 1 {
				t.Fatalf("%s: %d unicast answers, want 1", q.name, len(a.link.unicasts))
			}
			got, err := unpack(a.link.unicasts[0])
			a.link.unicasts = nil
			if err != nil {
				t.Fatal(err)
			}
			if got.Id != m.Id || len(got.Question) != 1 || !got.Response || !got.Authoritative {
				t.Errorf("%s: header %+v", q.name, got.MsgHdr)
			}
			if len(got.Answer) != 1 || got.Answer[0].String() != q.first {
				t.Errorf("%s: answer %v, want %s", q.name, got.Answer, q.first)
			}
		}
		m := new(dns.Msg)
		m.SetQuestion("other.local.", dns.TypeA)
		data, _ := m.Pack()
		a.link.packets <- packet{data: data, from: netip.MustParseAddrPort("10.0.0.9:40000"), ifindex: 7}
		synctest.Wait()
		if len(a.link.unicasts) != 0 {
			t.Error("a stranger's name was answered")
		}
	})
}

// What announcements yield, by how they were heard.
func TestAnnouncedAddresses(t *testing.T) {
	lan0 := iface{index: 7, name: "lan0", addrs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}
	lo := iface{index: 1, name: "lo", addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}
	for _, tc := range []struct {
		name   string
		own    []string // of the announcer's interface
		heard  iface
		change func(*dns.Msg)
		want   []string
	}{
		{name: "all routable", own: []string{"10.0.0.1", "2001:db8::1", "fe80::1"}, heard: lan0, want: []string{"10.0.0.1:7946", "[2001:db8::1]:7946"}},
		{name: "link-local with the hearer's zone", own: []string{"fe80::1"}, heard: lan0, want: []string{"[fe80::1%lan0]:7946"}},
		{name: "loopback on loopback", own: []string{"127.0.0.1"}, heard: lo, want: []string{"127.0.0.1:7946"}},
		{name: "loopback from afar", own: []string{"127.0.0.1"}, heard: lan0},
		{name: "multicast address", own: []string{"224.0.0.1"}, heard: lan0},
		{name: "no text", own: []string{"10.0.0.1"}, heard: lan0, change: func(m *dns.Msg) { m.Answer = slices.Delete(m.Answer, 2, 3) }},
		{name: "port differs", own: []string{"10.0.0.1"}, heard: lan0, change: func(m *dns.Msg) { m.Answer[1].(*dns.SRV).Port = 1 }},
		{name: "other genesis", own: []string{"10.0.0.1"}, heard: lan0, change: func(m *dns.Msg) { m.Answer[2].(*dns.TXT).Txt[1] = "g=ff" }},
		{name: "field twice", own: []string{"10.0.0.1"}, heard: lan0, change: func(m *dns.Msg) {
			txt := m.Answer[2].(*dns.TXT)
			txt.Txt = append(txt.Txt, "id=evil")
		}},
		{name: "bad id", own: []string{"10.0.0.1"}, heard: lan0, change: func(m *dns.Msg) { m.Answer[2].(*dns.TXT).Txt[2] = "id=a\nb" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			responderFor := func(id string) *responder {
				r, err := newResponder(MDNS{NodeID: id, Port: 7946}, func() float64 { return 0 }, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			from := iface{name: "eth0"}
			for _, a := range tc.own {
				from.addrs = append(from.addrs, netip.MustParseAddr(a))
			}
			data, err := responderFor("them").announcement(from, announceTTL)
			if err != nil {
				t.Fatal(err)
			}
			msg, err := unpack(data)
			if err != nil {
				t.Fatal(err)
			}
			if tc.change != nil {
				tc.change(msg)
			}
			var got []string
			for _, a := range responderFor("us").announcements(msg, tc.heard) {
				got = append(got, a.addr)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if own := responderFor("them").announcements(msg, tc.heard); len(own) != 0 {
				t.Errorf("a node found itself: %v", own)
			}
		})
	}
}

func TestKnownIsBounded(t *testing.T) {
	r, err := newResponder(MDNS{NodeID: "us", Port: 1}, func() float64 { return 0 }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxKnown {
		r.hear(announcement{nodeID: "x", addr: fmt.Sprintf("10.0.0.1:%d", i), ttl: time.Minute}, time.Now(), func(Event) {})
	}
	if len(r.known) != maxKnown {
		t.Errorf("%d known, want %d", len(r.known), maxKnown)
	}
}

// FuzzPackets feeds anything to the responder: it must not panic, and what it
// reports must be an address that can be dialled.
func FuzzPackets(f *testing.F) {
	r, err := newResponder(MDNS{NodeID: "us", Port: 1}, func() float64 { return 0 }, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	them, err := newResponder(MDNS{NodeID: "them", Port: 7946}, func() float64 { return 0 }, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	l := new(lan).host("10.0.0.1")
	query, _ := r.query()
	announce, _ := them.announcement(iface{addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2")}}, 120)
	f.Add(query, true)
	f.Add(announce, true)
	f.Add(announce, false)
	f.Fuzz(func(t *testing.T, data []byte, fromPort bool) {
		r.ifaces = []iface{l.iface()}
		r.known = make(map[string]heard)
		r.late = time.NewTimer(time.Hour)
		defer r.late.Stop()
		from := netip.MustParseAddrPort("10.0.0.2:5353")
		if !fromPort {
			from = netip.MustParseAddrPort("10.0.0.2:1000")
		}
		r.receive(l, packet{data: data, from: from, ifindex: 7}, func(e Event) {
			if _, err := netip.ParseAddrPort(e.Addr); err != nil || !validNodeID(e.NodeID) || !fromPort {
				t.Errorf("reported %+v", e)
			}
		})
		l.unicasts = nil
	})
}
