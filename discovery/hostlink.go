package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// The multicast groups of RFC 6762, section 3.
var (
	group4 = net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: mdnsPort}
	group6 = net.UDPAddr{IP: net.ParseIP("ff02::fb"), Port: mdnsPort}
)

// hostLink is multicast by two sockets, one for each IP version, that live as
// long as the responder: every query and answer of the node goes through them,
// so that no traffic can leak one. They are bound to the wildcard address and
// joined to the group on each interface by itself; the interface of every
// datagram is chosen, and known, by its control message.
type hostLink struct {
	v4      *ipv4.PacketConn // nil where the host lacks it
	v6      *ipv6.PacketConn
	joined  map[member]bool
	packets chan packet
	stop    chan struct{}
	close   sync.Once
	closed  error
	readers sync.WaitGroup
}

// member is a joined group; index and name, as an index may be used again.
type member struct {
	index int
	name  string
	v6    bool
}

// maxPacket is the largest mDNS message (RFC 6762, section 17).
const maxPacket = 9000

func openHostLink() (link, error) {
	h := &hostLink{
		joined:  make(map[member]bool),
		packets: make(chan packet, 64),
		stop:    make(chan struct{}),
	}
	err4, err6 := h.open4(), h.open6()
	if h.v4 == nil && h.v6 == nil {
		return nil, errors.Join(err4, err6)
	}
	var read sync.WaitGroup
	if h.v4 != nil {
		read.Go(h.read4)
	}
	if h.v6 != nil {
		read.Go(h.read6)
	}
	h.readers.Go(func() {
		read.Wait()
		close(h.packets)
	})
	return h, nil
}

// listen opens a socket on the wildcard address: package net does so for a
// multicast address, and lets other responders of the host share the port.
func listen(network string, group net.UDPAddr) (net.PacketConn, error) {
	var lc net.ListenConfig
	c, err := lc.ListenPacket(context.Background(), network, group.String())
	if err != nil {
		return nil, fmt.Errorf("mdns: %w", err)
	}
	return c, nil
}

func (h *hostLink) open4() error {
	c, err := listen("udp4", group4)
	if err != nil {
		return err
	}
	p := ipv4.NewPacketConn(c)
	err = errors.Join(
		p.SetControlMessage(ipv4.FlagInterface, true),
		p.SetMulticastTTL(255),
		p.SetTTL(255),
		p.SetMulticastLoopback(true), // several nodes on one host
	)
	if err != nil {
		return errors.Join(fmt.Errorf("mdns: %w", err), c.Close())
	}
	h.v4 = p
	return nil
}

func (h *hostLink) open6() error {
	c, err := listen("udp6", group6)
	if err != nil {
		return err
	}
	p := ipv6.NewPacketConn(c)
	err = errors.Join(
		p.SetControlMessage(ipv6.FlagInterface, true),
		p.SetMulticastHopLimit(255),
		p.SetHopLimit(255),
		p.SetMulticastLoopback(true),
	)
	if err != nil {
		return errors.Join(fmt.Errorf("mdns: %w", err), c.Close())
	}
	h.v6 = p
	return nil
}

func (h *hostLink) read4() {
	buf := make([]byte, maxPacket)
	for {
		n, cm, from, err := h.v4.ReadFrom(buf)
		if err != nil {
			return
		}
		if cm != nil && !h.deliver(buf[:n], from, cm.IfIndex) {
			return
		}
	}
}

func (h *hostLink) read6() {
	buf := make([]byte, maxPacket)
	for {
		n, cm, from, err := h.v6.ReadFrom(buf)
		if err != nil {
			return
		}
		if cm != nil && !h.deliver(buf[:n], from, cm.IfIndex) {
			return
		}
	}
}

func (h *hostLink) deliver(data []byte, from net.Addr, ifindex int) bool {
	udp, ok := from.(*net.UDPAddr)
	if !ok {
		return true
	}
	ap := udp.AddrPort()
	p := packet{
		data:    slices.Clone(data),
		from:    netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()),
		ifindex: ifindex,
	}
	select {
	case h.packets <- p:
		return true
	case <-h.stop:
		return false
	}
}

func (h *hostLink) Packets() <-chan packet { return h.packets }

// Refresh uses every interface that is up and can multicast; loopback only
// where there is no other, for a laptop without a network.
func (h *hostLink) Refresh() ([]iface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("mdns: interfaces: %w", err)
	}
	for m := range h.joined { // the kernel forgot those of a lost interface
		if !slices.ContainsFunc(all, func(ni net.Interface) bool {
			return ni.Index == m.index && ni.Name == m.name
		}) {
			delete(h.joined, m)
		}
	}
	var out []iface
	use := func(loopback bool) {
		for _, ni := range all {
			if ni.Flags&net.FlagUp == 0 || (ni.Flags&net.FlagLoopback != 0) != loopback {
				continue
			}
			if !loopback && ni.Flags&net.FlagMulticast == 0 {
				continue
			}
			if i, ok := h.join(ni); ok {
				out = append(out, i)
			}
		}
	}
	use(false)
	if len(out) == 0 {
		use(true)
	}
	return out, nil
}

// join enters the groups on one interface where that was not done yet.
func (h *hostLink) join(ni net.Interface) (iface, bool) {
	i := iface{index: ni.Index, name: ni.Name}
	addrs, err := ni.Addrs()
	if err != nil {
		return iface{}, false // gone since it was listed
	}
	var has4, has6 bool
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		has4, has6 = has4 || ip.Is4(), has6 || ip.Is6()
		i.addrs = append(i.addrs, ip)
	}
	i.v4 = has4 && h.v4 != nil && h.enter(member{ni.Index, ni.Name, false}, func() error {
		return h.v4.JoinGroup(&ni, &group4)
	})
	i.v6 = has6 && h.v6 != nil && h.enter(member{ni.Index, ni.Name, true}, func() error {
		return h.v6.JoinGroup(&ni, &group6)
	})
	return i, i.v4 || i.v6
}

func (h *hostLink) enter(m member, join func() error) bool {
	if !h.joined[m] {
		if join() != nil {
			return false // tried again at the next Refresh
		}
		h.joined[m] = true
	}
	return true
}

// Multicast fails only where no IP version could be sent by.
func (h *hostLink) Multicast(i iface, msg []byte) error {
	var errs []error
	sent := false
	if i.v4 {
		_, err := h.v4.WriteTo(msg, &ipv4.ControlMessage{IfIndex: i.index}, &group4)
		errs, sent = append(errs, err), sent || err == nil
	}
	if i.v6 {
		_, err := h.v6.WriteTo(msg, &ipv6.ControlMessage{IfIndex: i.index}, &group6)
		errs, sent = append(errs, err), sent || err == nil
	}
	if sent {
		return nil
	}
	return errors.Join(errs...)
}

func (h *hostLink) Unicast(i iface, to netip.AddrPort, msg []byte) error {
	var err error
	switch {
	case to.Addr().Is4() && h.v4 != nil:
		_, err = h.v4.WriteTo(msg, &ipv4.ControlMessage{IfIndex: i.index}, net.UDPAddrFromAddrPort(to))
	case to.Addr().Is6() && h.v6 != nil:
		_, err = h.v6.WriteTo(msg, &ipv6.ControlMessage{IfIndex: i.index}, net.UDPAddrFromAddrPort(to))
	}
	return err
}

// Close closes the sockets and joins the readers.
func (h *hostLink) Close() error {
	h.close.Do(func() {
		close(h.stop)
		var errs []error
		if h.v4 != nil {
			errs = append(errs, h.v4.Close())
		}
		if h.v6 != nil {
			errs = append(errs, h.v6.Close())
		}
		h.readers.Wait()
		h.closed = errors.Join(errs...)
	})
	return h.closed
}
