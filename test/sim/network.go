package sim

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/exonode/exonode/transport/transporttest"
)

// network connects the machines: their nodes' connections over transporttest, and the
// packets of gossip beside it.
type network struct {
	conns *transporttest.Network
	rng   *source

	mu    sync.Mutex // guards the fields below
	hosts []string   // addresses without port, in the machines' order
	// base is how long a link takes when it is well.
	base map[way]time.Duration
	// wrongs are the faults that hold now.
	wrongs []*wrong
	cards  map[string]*card // by host: the card of the life that runs
}

// way is one direction between two machines, by index.
type way struct{ from, to int }

// wrong is what one fault does to ways.
type wrong struct {
	cut   map[way]bool
	delay map[way]time.Duration
	drop  int // percent of gossip's packets, everywhere
}

const (
	peerPort   = "7480"
	gossipPort = "7481"
	apiPort    = "7400"
)

func newNetwork(rng *source) *network {
	return &network{conns: transporttest.New(), rng: rng, base: make(map[way]time.Duration), cards: make(map[string]*card)}
}

// add makes room for one more machine and returns its host.
func (n *network) add() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := len(n.hosts)
	host := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}).String()
	n.hosts = append(n.hosts, host)
	for j := range i {
		n.base[way{i, j}] = n.rng.between(100*time.Microsecond, 2*time.Millisecond)
		n.base[way{j, i}] = n.rng.between(100*time.Microsecond, 2*time.Millisecond)
		n.apply(i, j)
		n.apply(j, i)
	}
	return host
}

// begin makes something go wrong.
func (n *network) begin(w *wrong) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wrongs = append(n.wrongs, w)
	n.applyAll()
}

// end mends it.
func (n *network) end(w *wrong) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wrongs = slices.DeleteFunc(n.wrongs, func(o *wrong) bool { return o == w })
	n.applyAll()
}

func (n *network) applyAll() {
	for i := range n.hosts {
		for j := range n.hosts {
			if i != j {
				n.apply(i, j)
			}
		}
	}
}

// apply hands one way's state to the network of connections. n.mu is held.
func (n *network) apply(i, j int) {
	cut, delay := n.state(way{i, j})
	for _, port := range []string{peerPort, gossipPort} {
		from, to := net.JoinHostPort(n.hosts[i], port), net.JoinHostPort(n.hosts[j], port)
		if cut {
			n.conns.Cut(from, to)
		} else {
			n.conns.Heal(from, to)
		}
		n.conns.Delay(from, to, delay)
	}
}

// state is that of one way. n.mu is held.
func (n *network) state(w way) (cut bool, delay time.Duration) {
	delay = n.base[w]
	for _, wrong := range n.wrongs {
		cut = cut || wrong.cut[w]
		delay = max(delay, wrong.delay[w])
	}
	return cut, delay
}

// card is one life's way to the network. After its end, nothing passes it.
type card struct {
	n     *network
	host  string
	index int

	mu        sync.Mutex // guards the fields below
	ended     bool
	listeners []net.Listener

	packets chan *memberlist.Packet
	streams chan net.Conn
	closed  chan struct{} // with the end
	joined  sync.WaitGroup
}

// open makes the card of a new life.
func (n *network) open(host string) *card {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &card{
		n: n, host: host, index: slices.Index(n.hosts, host), closed: make(chan struct{}),
		packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn, 64),
	}
	n.cards[host] = c
	return c
}

// end ends all connections at once, as a crash does. It may be called twice.
func (c *card) end() {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended = true
	listeners := c.listeners
	close(c.closed)
	c.mu.Unlock()
	for _, l := range listeners {
		_ = l.Close() // may be closed already
	}
	c.n.conns.Reset(net.JoinHostPort(c.host, peerPort))
	c.n.conns.Reset(net.JoinHostPort(c.host, gossipPort))
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.n.cards[c.host] == c {
		delete(c.n.cards, c.host)
	}
}

var errEnded = errors.New("sim: the node has crashed")

// listen opens a listener of the peers, or of the API, where nobody calls.
func (c *card) listen(addr string) (net.Listener, error) {
	ap := netip.MustParseAddrPort(addr)
	var l net.Listener = &idleListener{closed: make(chan struct{})}
	if _, port, _ := net.SplitHostPort(addr); port != apiPort {
		var err error
		if l, err = c.n.conns.Listen(addr); err != nil {
			return nil, err
		}
	}
	l = tcpListener{l, net.TCPAddrFromAddrPort(ap)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil, errors.Join(errEnded, l.Close())
	}
	c.listeners = append(c.listeners, l)
	return l, nil
}

// dial opens a connection to a peer.
func (c *card) dial(ctx context.Context, addr string) (net.Conn, error) {
	return c.dialFrom(ctx, peerPort, addr)
}

func (c *card) dialFrom(ctx context.Context, port, addr string) (net.Conn, error) {
	select {
	case <-c.closed:
		return nil, errEnded
	default:
	}
	conn, err := c.n.conns.Dialer(net.JoinHostPort(c.host, port))(ctx, addr)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.closed: // while it dialled
		return nil, errors.Join(errEnded, conn.Close())
	default:
		return conn, nil
	}
}

// tcpListener is a listener whose address is as the node expects.
type tcpListener struct {
	net.Listener
	addr *net.TCPAddr
}

func (l tcpListener) Addr() net.Addr { return l.addr }

// idleListener is never called.
type idleListener struct {
	closed chan struct{}
	once   sync.Once
}

func (l *idleListener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *idleListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *idleListener) Addr() net.Addr { return nil } // tcpListener's

// gossip is the card as memberlist's transport.
type gossip struct {
	*card
	listener net.Listener
}

var _ memberlist.Transport = (*gossip)(nil)

// gossip opens the card for gossip.
func (c *card) gossip() (*gossip, error) {
	l, err := c.listen(net.JoinHostPort(c.host, gossipPort))
	if err != nil {
		return nil, err
	}
	g := &gossip{card: c, listener: l}
	c.joined.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			select {
			case c.streams <- conn:
			default:
				_ = conn.Close() // nobody takes it
			}
		}
	})
	return g, nil
}

func (g *gossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	a := g.listener.Addr().(*net.TCPAddr)
	return a.IP, a.Port, nil
}

func (g *gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *gossip) StreamCh() <-chan net.Conn           { return g.streams }

// WriteTo sends a packet, which comes late, or never.
func (g *gossip) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return now, err
	}
	n := g.n
	n.mu.Lock()
	to := n.cards[host]
	lost := to == nil || n.cards[g.host] != g.card
	var delay time.Duration
	if !lost {
		var cut bool
		cut, delay = n.state(way{g.index, to.index})
		lost = cut
		for _, w := range n.wrongs {
			lost = lost || w.drop > 0 && n.rng.intN(100) < w.drop
		}
	}
	n.mu.Unlock()
	if lost {
		return now, nil
	}
	p := &memberlist.Packet{Buf: slices.Clone(b), From: &net.UDPAddr{IP: net.ParseIP(g.host), Port: 7481}}
	time.AfterFunc(delay, func() {
		p.Timestamp = time.Now()
		select {
		case to.packets <- p:
		default: // a full buffer loses packets
		}
	})
	return now, nil
}

func (g *gossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := g.dialFrom(ctx, gossipPort, addr)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(time.Now().Add(timeout))
}

// Shutdown implements memberlist.Transport. What was accepted and not taken is closed.
func (g *gossip) Shutdown() error {
	err := g.listener.Close()
	g.joined.Wait()
	for {
		select {
		case conn := <-g.streams:
			_ = conn.Close() // nobody takes it
		default:
			if errors.Is(err, net.ErrClosed) {
				err = nil
			}
			return err
		}
	}
}
