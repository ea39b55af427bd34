package membership

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// Links is the fault seam of gossip: what happens to what this node sends. Its methods
// are safe for concurrent use.
type Links interface {
	// Packet decides about a packet to an address: after what delay it leaves;
	// false where it is lost.
	Packet(addr string) (delay time.Duration, ok bool)
	// Dial returns dial with the faults of the way to whom it dials.
	Dial(dial func(ctx context.Context, addr string) (net.Conn, error)) func(ctx context.Context, addr string) (net.Conn, error)
}

// faultyTransport is memberlist's own transport behind links.
type faultyTransport struct {
	*memberlist.NetTransport
	links Links
	dial  func(ctx context.Context, addr string) (net.Conn, error)
}

// newFaultyTransport listens as memberlist does by itself.
func newFaultyTransport(c *memberlist.Config, logger *log.Logger, links Links) (*faultyTransport, error) {
	nt, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{c.BindAddr}, BindPort: c.BindPort, Logger: logger,
	})
	if err != nil {
		return nil, fmt.Errorf("membership: gossip on %s port %d: %w", c.BindAddr, c.BindPort, err)
	}
	if c.BindPort == 0 {
		c.BindPort = nt.GetAutoBindPort()
		c.AdvertisePort = c.BindPort
	}
	return &faultyTransport{NetTransport: nt, links: links, dial: links.Dial(func(ctx context.Context, addr string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	})}, nil
}

// WriteTo implements memberlist.Transport.
func (t *faultyTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	delay, ok := t.links.Packet(addr)
	switch {
	case !ok:
		return time.Now(), nil
	case delay == 0:
		return t.NetTransport.WriteTo(b, addr)
	}
	late := append([]byte(nil), b...)
	time.AfterFunc(delay, func() { _, _ = t.NetTransport.WriteTo(late, addr) }) // a packet may be lost
	return time.Now(), nil
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *faultyTransport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// DialTimeout implements memberlist.Transport.
func (t *faultyTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return t.dial(ctx, addr)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *faultyTransport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

var _ memberlist.NodeAwareTransport = (*faultyTransport)(nil)
