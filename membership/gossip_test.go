package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"github.com/exonode/exonode/chain"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ether is a network of gossip transports in memory.
type ether struct {
	mu    sync.Mutex
	hosts map[string]*etherHost
	down  map[string]bool // addresses that are cut off
}

// etherHost is one node's transport on it.
type etherHost struct {
	e       *ether
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{}
	once    sync.Once
}

var _ memberlist.Transport = (*etherHost)(nil)

func (e *ether) host(addr string) *etherHost {
	h := &etherHost{
		e: e, addr: netip.MustParseAddrPort(addr), closed: make(chan struct{}),
		packets: make(chan *memberlist.Packet, 64), streams: make(chan net.Conn, 16),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hosts[addr] = h
	return h
}

// reach returns the host at to, where the network lets from reach it.
func (e *ether) reach(from *etherHost, to string) *etherHost {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.down[to] || e.down[from.addr.String()] {
		return nil
	}
	return e.hosts[to]
}

func (e *ether) cut(addr string, down bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down[addr] = down
}

func (h *etherHost) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return h.addr.Addr().AsSlice(), int(h.addr.Port()), nil
}

func (h *etherHost) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	to := h.e.reach(h, addr)
	if to == nil {
		return now, nil // lost
	}
	p := &memberlist.Packet{Buf: slices.Clone(b), From: net.UDPAddrFromAddrPort(h.addr), Timestamp: now}
	select {
	case to.packets <- p:
	default: // a full buffer loses packets
	}
	return now, nil
}

func (h *etherHost) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := h.e.reach(h, addr)
	if to == nil {
		return nil, errors.New("no route")
	}
	near, far := net.Pipe()
	if err := near.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	select {
	case to.streams <- far:
		return near, nil
	case <-to.closed:
		return nil, errors.New("refused")
	}
}

func (h *etherHost) PacketCh() <-chan *memberlist.Packet { return h.packets }
func (h *etherHost) StreamCh() <-chan net.Conn           { return h.streams }

func (h *etherHost) Shutdown() error {
	h.once.Do(func() {
		close(h.closed)
		h.e.mu.Lock()
		defer h.e.mu.Unlock()
		delete(h.e.hosts, h.addr.String())
	})
	return nil
}

// gossiper is a node's gossip and what it told.
type gossiper struct {
	*Gossip
	mu     sync.Mutex
	events []string
	// refused are node ids that it does not allow.
	refused map[string]bool
}

func (g *gossiper) allowed(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !g.refused[id]
}

func (g *gossiper) note(e GossipEvent) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, fmt.Sprintf("%s %s>%s", e.NodeID, e.Before, e.State))
}

func (g *gossiper) want(t *testing.T, want string) {
	t.Helper()
	var states []string
	for _, m := range g.Members() {
		states = append(states, m.NodeID+" "+string(m.State))
	}
	if got := strings.Join(states, ", "); got != want {
		t.Errorf("%s sees %s, want %s", g.cfg.NodeID, got, want)
	}
}

func (e *ether) start(t *testing.T, name string, change func(*GossipConfig)) *gossiper {
	t.Helper()
	n := name[len(name)-1:]
	g := &gossiper{refused: make(map[string]bool)}
	cfg := GossipConfig{
		NodeID: name, Genesis: chain.Hash{1}, Key: bytes.Repeat([]byte{7}, 32),
		Meta:      Meta{ServerID: "srv-" + name, PeerAddr: name + ":1", APIAddr: name + ":2", Name: "friendly", Version: "v1"},
		Transport: e.host("10.0.0." + n + ":7"),
		Allowed:   g.allowed, OnEvent: g.note, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	gossip, err := NewGossip(cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.Gossip = gossip
	return g
}

// inEther runs a test in a bubble; what it starts must be closed by it. A probe
// that was under way outlives memberlist's shutdown by seconds.
func inEther(t *testing.T, f func(t *testing.T, e *ether)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, &ether{hosts: make(map[string]*etherHost), down: make(map[string]bool)})
		time.Sleep(time.Minute)
	})
}

func closeAll(t *testing.T, gs ...*gossiper) {
	t.Helper()
	for _, g := range gs {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if err := g.Close(); err != nil { // twice is allowed
			t.Error(err)
		}
	}
}

func join(t *testing.T, g *gossiper, to string) {
	t.Helper()
	if n, err := g.Join(context.Background(), []string{to}); n != 1 || err != nil {
		t.Fatalf("join: %d, %v", n, err)
	}
}

func TestGossipTellsDeathFromGoodbye(t *testing.T) {
	inEther(t, func(t *testing.T, e *ether) {
		n1, n2, n3 := e.start(t, "n1", nil), e.start(t, "n2", nil), e.start(t, "n3", nil)
		join(t, n2, "10.0.0.1:7")
		synctest.Wait() // so that n2 is heard of before n3
		join(t, n3, "10.0.0.1:7")
		time.Sleep(10 * time.Second)
		for _, g := range []*gossiper{n1, n2, n3} {
			g.want(t, "n1 alive, n2 alive, n3 alive")
		}
		if m := n1.Members()[1]; m.Meta != n2.cfg.Meta || m.Addr != "10.0.0.2:7" {
			t.Errorf("member %+v", m)
		}
		e.cut("10.0.0.3:7", true)
		time.Sleep(time.Minute)
		n1.want(t, "n1 alive, n2 alive, n3 dead")
		died := n1.Members()[2].Since
		e.cut("10.0.0.3:7", false)
		join(t, n3, "10.0.0.1:7")
		time.Sleep(time.Minute)
		n1.want(t, "n1 alive, n2 alive, n3 alive")
		if back := n1.Members()[2].Since; !back.After(died) {
			t.Errorf("alive since %s, dead since %s", back, died)
		}
		if err := n2.Leave(5 * time.Second); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		n1.want(t, "n1 alive, n2 left, n3 alive")
		closeAll(t, n2)
		if err := n2.Leave(time.Second); err == nil {
			t.Error("left after close")
		}
		time.Sleep(time.Minute)
		n1.want(t, "n1 alive, n2 left, n3 alive")
		n1.mu.Lock()
		events := strings.Join(n1.events, "; ")
		n1.mu.Unlock()
		want := "n1 >alive; n2 >alive; n3 >alive; n3 alive>dead; n3 dead>alive; n2 alive>alive; n2 alive>left"
		if events != want {
			t.Errorf("events %s\nwant   %s", events, want)
		}
		closeAll(t, n1, n3)
	})
}

// A node comes back at another address, as another server.
func TestGossipAfterAMove(t *testing.T) {
	inEther(t, func(t *testing.T, e *ether) {
		n1, n2 := e.start(t, "n1", nil), e.start(t, "n2", nil)
		join(t, n2, "10.0.0.1:7")
		time.Sleep(10 * time.Second)
		closeAll(t, n2) // killed
		again := e.start(t, "n2", func(c *GossipConfig) {
			c.Meta.ServerID = "srv-new"
			c.Transport = e.host("10.0.0.9:7")
		})
		for range 12 { // refused until the old address is found dead
			if _, err := again.Join(context.Background(), []string{"10.0.0.1:7"}); err != nil {
				t.Error(err)
			}
			time.Sleep(5 * time.Second)
		}
		n1.want(t, "n1 alive, n2 alive")
		if m := n1.Members()[1]; m.Meta.ServerID != "srv-new" || m.Addr != "10.0.0.9:7" {
			t.Errorf("n1 sees %+v", m)
		}
		closeAll(t, n1, again)
	})
}

func TestGossipKeepsOthersOut(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*GossipConfig)
	}{
		{"another cluster", func(c *GossipConfig) { c.Genesis = chain.Hash{2} }},
		{"another key", func(c *GossipConfig) { c.Key = bytes.Repeat([]byte{8}, 32) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inEther(t, func(t *testing.T, e *ether) {
				n1, stranger := e.start(t, "n1", nil), e.start(t, "n2", tc.change)
				if n, err := stranger.Join(context.Background(), []string{"10.0.0.1:7"}); n != 0 || err == nil {
					t.Errorf("joined: %d, %v", n, err)
				}
				time.Sleep(time.Minute)
				n1.want(t, "n1 alive")
				stranger.want(t, "n2 alive")
				closeAll(t, n1, stranger)
			})
		})
	}
}

func TestGossipWithoutTheRemoved(t *testing.T) {
	inEther(t, func(t *testing.T, e *ether) {
		n1, n2, n3 := e.start(t, "n1", nil), e.start(t, "n2", nil), e.start(t, "n3", nil)
		join(t, n2, "10.0.0.1:7")
		n1.mu.Lock()
		n1.refused["n3"] = true
		n1.mu.Unlock()
		join(t, n3, "10.0.0.1:7") // it has the key, and hears, but is not heard
		time.Sleep(time.Minute)
		n1.want(t, "n1 alive, n2 alive")
		// One that is removed while alive disappears at once.
		n1.mu.Lock()
		n1.refused["n2"] = true
		n1.mu.Unlock()
		n1.want(t, "n1 alive")
		closeAll(t, n1, n2, n3)
	})
}

// Over real sockets, and its log in ours.
func TestGossipOverSockets(t *testing.T) {
	var text lockedBuffer
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	joined := make(chan string, 8)
	var all []*Gossip
	for _, name := range []string{"n1", "n2"} {
		g, err := NewGossip(GossipConfig{
			NodeID: name, Meta: Meta{ServerID: name}, Key: make([]byte, 32), Profile: Loopback,
			Bind: netip.MustParseAddrPort("127.0.0.1:0"), Allowed: func(string) bool { return true }, Log: log,
			OnEvent: func(e GossipEvent) { joined <- name + " sees " + e.NodeID },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		all = append(all, g)
	}
	if a := all[0].Addr(); a.Port() == 0 || a.Addr() != netip.MustParseAddr("127.0.0.1") {
		t.Fatalf("advertises %s", a)
	}
	if n, err := all[1].Join(t.Context(), []string{all[1].Addr().String(), all[0].Addr().String()}); n != 1 || err != nil {
		t.Fatalf("join: %d, %v", n, err)
	}
	want := map[string]bool{"n1 sees n1": true, "n1 sees n2": true, "n2 sees n1": true, "n2 sees n2": true}
	for len(want) > 0 {
		delete(want, <-joined)
	}
	if _, err := all[0].Join(t.Context(), []string{"localhost:1"}); err == nil {
		t.Error("joined a name")
	}
	for _, g := range all {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}
	for line := range strings.Lines(text.String()) {
		if !strings.Contains(line, " msg=gossip ") {
			t.Errorf("log line without our message: %s", line)
		}
	}
}

// lockedBuffer is a buffer for several writers.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestGossipConfigIsChecked(t *testing.T) {
	good := GossipConfig{
		NodeID: "n1", Meta: Meta{ServerID: "s"}, Key: make([]byte, 32), Bind: netip.MustParseAddrPort("127.0.0.1:0"),
		Allowed: func(string) bool { return true }, Log: slog.New(slog.DiscardHandler),
	}
	for name, change := range map[string]func(*GossipConfig){
		"short key": func(c *GossipConfig) { c.Key = make([]byte, 16) },
		"no key":    func(c *GossipConfig) { c.Key = nil },
		"no bind":   func(c *GossipConfig) { c.Bind = netip.AddrPort{} },
		"profile":   func(c *GossipConfig) { c.Profile = "wan" },
		"long meta": func(c *GossipConfig) {
			c.Meta.PeerAddr, c.Meta.APIAddr = strings.Repeat("x", 255), strings.Repeat("y", 255)
		},
		"no server id":  func(c *GossipConfig) { c.Meta.ServerID = "" },
		"zone":          func(c *GossipConfig) { c.Advertise = netip.MustParseAddrPort("[fe80::1%lo]:1") },
		"occupied port": func(c *GossipConfig) { c.Bind = netip.MustParseAddrPort("203.0.113.1:1") }, // not of this host
	} {
		cfg := good
		change(&cfg)
		if g, err := NewGossip(cfg); err == nil {
			g.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzMeta(f *testing.F) {
	data, err := Meta{ServerID: "s", PeerAddr: "10.0.0.1:1", APIAddr: "10.0.0.1:2", Name: "näme", Version: "v1"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(append(slices.Clone(data), 0))
	f.Add([]byte{1, 1, 1, 's', 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeMeta(data)
		if err != nil {
			if !errors.Is(err, ErrMeta) {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x decodes to %+v, which encodes to %x, %v", data, m, again, err)
		}
	})
}
