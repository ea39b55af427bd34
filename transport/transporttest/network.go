// Package transporttest is a network in memory for tests and simulations of
// package transport: listeners, dialers and connections with deadlines, whose
// directed links can be cut, slowed and reset. Nothing in it touches a socket
// or a real clock of its own, so a whole cluster over it runs inside one
// testing/synctest bubble. It is for tests alone; no product code imports it.
package transporttest

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// bufferSize is how many bytes a connection holds in each direction before
// writers wait, as a socket's buffers would.
const bufferSize = 256 << 10

// Network connects hosts, which are named by their one address. All methods
// are safe for concurrent use.
type Network struct {
	mu        sync.Mutex // guards all state of the network and its connections
	listeners map[string]*listener
	links     map[direction]*link
	conns     map[*end]struct{}
}

// direction is one way between two hosts.
type direction struct{ from, to string }

// link is the state of one direction; made on first use and never replaced.
type link struct {
	cut   bool
	delay time.Duration
	event event // of a change
}

// event wakes all who wait for it, as a condition variable that one can select
// on. Guarded by Network.mu.
type event struct{ ch chan struct{} }

func (e *event) wait() <-chan struct{} {
	if e.ch == nil {
		e.ch = make(chan struct{})
	}
	return e.ch
}

func (e *event) fire() {
	if e.ch != nil {
		close(e.ch)
		e.ch = nil
	}
}

// New returns a network without hosts, on which every link is whole.
func New() *Network {
	return &Network{
		listeners: make(map[string]*listener),
		links:     make(map[direction]*link),
		conns:     make(map[*end]struct{}),
	}
}

// Cut stops what from sends to to: bytes wait (also those under way), new
// connections in either direction do not come to be, and nobody is told, as
// with a pulled cable. Heal delivers what waited.
func (n *Network) Cut(from, to string) { n.set(from, to, func(l *link) { l.cut = true }) }

// Heal undoes Cut.
func (n *Network) Heal(from, to string) { n.set(from, to, func(l *link) { l.cut = false }) }

// Isolate cuts every link from and to host that others are given for.
func (n *Network) Isolate(host string, others ...string) {
	for _, other := range others {
		n.Cut(host, other)
		n.Cut(other, host)
	}
}

// Join undoes Isolate.
func (n *Network) Join(host string, others ...string) {
	for _, other := range others {
		n.Heal(host, other)
		n.Heal(other, host)
	}
}

// Delay makes everything that from sends to to from now on arrive d later.
func (n *Network) Delay(from, to string, d time.Duration) {
	n.set(from, to, func(l *link) { l.delay = d })
}

// Reset breaks all connections of host at both ends, as its crash does.
func (n *Network) Reset(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for e := range n.conns {
		if e.local == host || e.remote == host {
			e.reset()
		}
	}
}

func (n *Network) set(from, to string, change func(*link)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(from, to)
	change(l)
	l.event.fire()
}

func (n *Network) link(from, to string) *link {
	d := direction{from, to}
	if n.links[d] == nil {
		n.links[d] = &link{}
	}
	return n.links[d]
}

// Listen makes host accept connections. It fails while another listener of the
// host is open.
func (n *Network) Listen(host string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[host] != nil {
		return nil, &net.OpError{Op: "listen", Net: "mem", Addr: addr(host), Err: syscall.EADDRINUSE}
	}
	l := &listener{n: n, host: host, backlog: make(chan *end, 128), done: make(chan struct{})}
	n.listeners[host] = l
	return l, nil
}

// Dialer returns a dial function for connections from host.
func (n *Network) Dialer(host string) func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		c, err := n.dial(ctx, host, address)
		if err != nil {
			return nil, &net.OpError{Op: "dial", Net: "mem", Source: addr(host), Addr: addr(address), Err: err}
		}
		return c, nil
	}
}

func (n *Network) dial(ctx context.Context, from, to string) (net.Conn, error) {
	for {
		n.mu.Lock()
		there, back := n.link(from, to), n.link(to, from)
		l := n.listeners[to]
		var changed <-chan struct{}
		switch {
		case there.cut:
			changed = there.event.wait()
		case back.cut:
			changed = back.event.wait()
		case l == nil:
			n.mu.Unlock()
			return nil, syscall.ECONNREFUSED
		default:
			near, far := n.pair(from, to)
			select {
			case l.backlog <- far:
				n.mu.Unlock()
				return near, nil
			default:
				near.reset()
				n.mu.Unlock()
				return nil, syscall.ECONNREFUSED
			}
		}
		n.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// pair makes the two ends of a connection. The caller holds mu.
func (n *Network) pair(from, to string) (near, far *end) {
	a := &stream{link: n.link(from, to)}
	b := &stream{link: n.link(to, from)}
	near = &end{n: n, local: from, remote: to, in: b, out: a}
	far = &end{n: n, local: to, remote: from, in: a, out: b}
	near.peer, far.peer = far, near
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	return near, far
}

type addr string

func (addr) Network() string  { return "mem" }
func (a addr) String() string { return string(a) }

type listener struct {
	n       *Network
	host    string
	backlog chan *end
	done    chan struct{}
	once    sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "mem", Addr: l.Addr(), Err: net.ErrClosed}
	}
}

func (l *listener) Addr() net.Addr { return addr(l.host) }

func (l *listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		err = nil
		l.n.mu.Lock()
		defer l.n.mu.Unlock()
		close(l.done)
		delete(l.n.listeners, l.host)
		for { // what nobody will accept
			select {
			case c := <-l.backlog:
				c.reset()
			default:
				return
			}
		}
	})
	return err
}

var errReset = errors.New("connection reset by peer")
