package faults

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
)

// maxHeld is how many bytes a connection holds back before its writer has to wait: a
// send buffer.
const maxHeld = 256 << 10

// Dial returns a dialler whose connections suffer from the faults of the link to who
// listens at their address.
func (s *Set) Dial(dial func(ctx context.Context, addr string) (net.Conn, error)) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		peer := s.cfg.Locate(addr)
		if err := s.pass(ctx, peer); err != nil {
			return nil, err
		}
		c, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		return s.Wrap(c, peer), nil
	}
}

// pass waits until a connection to a node can be opened.
func (s *Set) pass(ctx context.Context, peer string) error {
	for {
		l, changed := s.link(peer)
		if !l.Cut && !l.Deaf {
			return sleep(ctx, l.delay()+l.late())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Listen returns a listener whose connections suffer from the faults of the link to
// whoever Name says that they come from.
func (s *Set) Listen(l net.Listener) net.Listener { return listener{l, s} }

type listener struct {
	net.Listener
	set *Set
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.set.Wrap(c, ""), nil
}

// Name says which node is at the other end of a connection that a Set wraps.
func Name(c net.Conn, nodeID string) {
	if c, ok := c.(*conn); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.peer = nodeID
	}
}

// Wrap has a connection suffer from the faults of the link to a node.
func (s *Set) Wrap(c net.Conn, nodeID string) net.Conn {
	return &conn{Conn: c, set: s, peer: nodeID, closed: make(chan struct{}), moved: make(chan struct{})}
}

// conn is a connection over a link that may have faults. What is written while it has
// some is held and passed on by a goroutine of its own, which ends when nothing is held
// any more.
type conn struct {
	net.Conn
	set *Set

	mu   sync.Mutex // guards the fields below
	peer string     // node id; "" where unknown: nothing is wrong with the link
	held []packet
	size int // of what is held
	// last is when the last packet arrives.
	last     time.Time
	pumping  bool
	err      error // of the pump
	deadline time.Time
	// moved is closed, and replaced, when something held has left or the
	// deadline changed.
	moved chan struct{}

	once   sync.Once
	closed chan struct{}
}

// packet is what was written at once, and when it arrives.
type packet struct {
	data []byte
	due  time.Time
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	for {
		c.mu.Lock()
		l, _ := c.set.link(c.peer)
		switch {
		case c.isClosed():
			c.mu.Unlock()
			return 0, net.ErrClosed
		case c.err != nil:
			defer c.mu.Unlock()
			return 0, c.err
		case !c.pumping && !l.faulty():
			err := c.Conn.SetWriteDeadline(c.deadline)
			c.mu.Unlock()
			if err != nil {
				return 0, err
			}
			return c.Conn.Write(p)
		case c.size < maxHeld:
			c.hold(p, &l)
			c.mu.Unlock()
			return len(p), nil
		}
		moved, deadline := c.moved, c.deadline
		c.mu.Unlock()
		if err := c.await(moved, deadline); err != nil {
			return 0, err
		}
	}
}

// hold queues what is written. c.mu is held.
func (c *conn) hold(p []byte, l *Link) {
	due := time.Now().Add(l.delay() + l.late())
	if due.Before(c.last) {
		due = c.last // nothing overtakes
	}
	if l.Rate > 0 {
		due = due.Add(time.Duration(int64(len(p)) * int64(time.Second) / l.Rate))
	}
	c.last = due
	c.held = append(c.held, packet{append([]byte(nil), p...), due})
	c.size += len(p)
	if !c.pumping {
		c.pumping = true
		go c.pump()
	}
}

// await waits for something held to leave.
func (c *conn) await(moved <-chan struct{}, deadline time.Time) error {
	var over <-chan time.Time
	if !deadline.IsZero() {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		over = t.C
	}
	select {
	case <-moved:
		return nil
	case <-c.closed:
		return net.ErrClosed
	case <-over:
		return os.ErrDeadlineExceeded
	}
}

// pump passes on what is held, when its time has come and the link is not cut.
func (c *conn) pump() {
	for {
		c.mu.Lock()
		if len(c.held) == 0 || c.err != nil {
			c.pumping = false
			c.mu.Unlock()
			return
		}
		next, peer := c.held[0], c.peer
		c.mu.Unlock()
		if !c.arrive(peer, next.due) {
			return // closed
		}
		err := c.Conn.SetWriteDeadline(time.Time{})
		if err == nil {
			_, err = c.Conn.Write(next.data)
		}
		c.mu.Lock()
		c.held, c.size, c.err = c.held[1:], c.size-len(next.data), err
		c.signal()
		c.mu.Unlock()
	}
}

// arrive waits until a packet arrives; false where the connection is closed first.
func (c *conn) arrive(peer string, due time.Time) bool {
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.closed:
		return false
	}
	for {
		l, changed := c.set.link(peer)
		if !l.Cut {
			return true
		}
		select {
		case <-changed:
		case <-c.closed:
			return false
		}
	}
}

func (c *conn) signal() {
	close(c.moved)
	c.moved = make(chan struct{})
}

func (c *conn) isClosed() bool {
	select {
	case <-c.closed:
		return true
	default:
		return false
	}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil && c.isClosed() {
		err = net.ErrClosed
	}
	return n, err
}

// Close implements net.Conn. Over a link that is cut the other end does not hear of
// it before the link is whole again.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		close(c.closed)
		c.mu.Lock()
		peer := c.peer
		c.mu.Unlock()
		if l, _ := c.set.link(peer); !l.Cut {
			err = c.Conn.Close()
			return
		}
		err = c.Conn.SetDeadline(time.Unix(1, 0)) // ends reads and writes
		go func() {                               // ends when the link is whole
			for {
				l, changed := c.set.link(peer)
				if !l.Cut {
					_ = c.Conn.Close() // nobody is left to tell
					return
				}
				<-changed
			}
		}()
	})
	return err
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetWriteDeadline implements net.Conn. It bounds the caller's waiting, not that of
// what is held.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	c.signal()
	if c.pumping {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}
