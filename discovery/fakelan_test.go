package discovery

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
)

// lan is an in-memory network segment with multicast.
type lan struct {
	mu    sync.Mutex
	links []*lanLink
	// sent counts multicasts.
	sent int
	// broken makes every open fail.
	broken bool
}

// lanLink is one host's interface on it.
type lanLink struct {
	lan     *lan
	addr    netip.Addr
	up      bool
	packets chan packet
	closed  bool
	// unicasts are what was sent to one querier.
	unicasts [][]byte
}

var _ link = (*lanLink)(nil)

func (l *lan) host(addr string) *lanLink {
	return &lanLink{lan: l, addr: netip.MustParseAddr(addr), up: true}
}

func (h *lanLink) open() (link, error) {
	h.lan.mu.Lock()
	defer h.lan.mu.Unlock()
	if h.lan.broken {
		return nil, errors.New("no multicast here")
	}
	h.packets, h.closed = make(chan packet, 256), false
	h.lan.links = append(h.lan.links, h)
	return h, nil
}

func (h *lanLink) iface() iface {
	return iface{index: 7, name: "lan0", addrs: []netip.Addr{h.addr}, v4: true}
}

func (h *lanLink) Refresh() ([]iface, error) {
	h.lan.mu.Lock()
	defer h.lan.mu.Unlock()
	if !h.up {
		return nil, nil
	}
	return []iface{h.iface()}, nil
}

func (h *lanLink) Multicast(_ iface, msg []byte) error {
	h.lan.mu.Lock()
	defer h.lan.mu.Unlock()
	h.lan.sent++
	for _, to := range h.lan.links { // the sender hears itself, too
		if !to.closed && to.up && h.up {
			to.packets <- packet{data: slices.Clone(msg), from: netip.AddrPortFrom(h.addr, mdnsPort), ifindex: 7}
		}
	}
	return nil
}

func (h *lanLink) Unicast(_ iface, _ netip.AddrPort, msg []byte) error {
	h.lan.mu.Lock()
	defer h.lan.mu.Unlock()
	h.unicasts = append(h.unicasts, slices.Clone(msg))
	return nil
}

func (h *lanLink) Packets() <-chan packet { return h.packets }

func (h *lanLink) Close() error {
	h.lan.mu.Lock()
	defer h.lan.mu.Unlock()
	h.closed = true
	return nil
}

func (h *lanLink) setUp(up bool) {
	h.lan.mu.Lock()
	defer h.lan.mu.Unlock()
	h.up = up
}
