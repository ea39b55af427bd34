package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Transport is one node's end of all connections with other nodes. All methods
// are safe for concurrent use.
type Transport struct {
	cfg      Config
	cert     tls.Certificate
	joinKey  []byte
	counters counters

	// ctx ends when the transport closes.
	ctx    context.Context
	cancel context.CancelFunc
	// wg counts every goroutine of the transport.
	wg sync.WaitGroup
	// pending holds a token for each connection in its handshake.
	pending chan struct{}

	handlers handlers
	callers  callers
	backoffs backoffs

	mu     sync.Mutex // guards the fields below
	closed bool
	conns  map[*conn]struct{} // admitted and open
	raft   *RaftTransport     // the attached session
}

// New makes a Transport. It accepts once Run is called; calls and raft's RPCs
// to others work at once. The caller calls Close, also where Run never ran.
func New(cfg Config) (*Transport, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Dial == nil {
		cfg.Dial = DialTCP
	}
	cert, err := cfg.Identity.certificate()
	if err != nil {
		return nil, err
	}
	t := &Transport{
		cfg:     cfg,
		cert:    cert,
		joinKey: cfg.Secret.derive(contextJoin),
		pending: make(chan struct{}, cfg.Limits.Pending),
		conns:   make(map[*conn]struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.handlers.m = make(map[handlerKey]Handler)
	t.callers.m = make(map[callerKey]*caller)
	t.backoffs.m = make(map[backoffKey]backoff)
	return t, nil
}

// DialTCP is Config.Dial where nothing else is given.
func DialTCP(ctx context.Context, addr string) (net.Conn, error) {
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
	}}
	return dialer.DialContext(ctx, "tcp", addr)
}

// NodeID returns this node's id.
func (t *Transport) NodeID() string { return t.cfg.Identity.NodeID() }

// ServerID returns this node's raft server id.
func (t *Transport) ServerID() raft.ServerID { return ServerID(t.NodeID(), t.cfg.Incarnation) }

// Run accepts connections until ctx ends or Close is called, then closes the
// transport. Its error is nil, or why accepting failed.
func (t *Transport) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, t.shutdown)
	defer stop()
	err := t.accept()
	return errors.Join(err, t.Close())
}

// accept takes connections until the listener is closed.
func (t *Transport) accept() error {
	const maxDelay = time.Second
	var delay time.Duration
	for {
		raw, err := t.cfg.Listener.Accept()
		switch {
		case err == nil:
			delay = 0
		case t.ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("transport: accept: %w", err)
		default: // out of file descriptors, say: it passes
			delay = min(max(2*delay, 5*time.Millisecond), maxDelay)
			t.cfg.Logger.Warn("accept failed", "error", err, "retry_in", delay)
			select {
			case <-time.After(delay):
			case <-t.ctx.Done():
				return nil
			}
			continue
		}
		select {
		case t.pending <- struct{}{}:
		default:
			t.counters.overload.Add(1)
			_ = raw.Close()
			continue
		}
		if !t.spawn(func() { t.serve(raw) }) {
			_ = raw.Close()
			return nil
		}
	}
}

// serve runs an accepted connection to its end.
func (t *Transport) serve(raw net.Conn) {
	c, err := t.welcomeIn(raw)
	<-t.pending
	if err != nil {
		_ = raw.Close()
		return
	}
	defer t.unregister(c)
	if c.peer.Class == ClassRaft {
		err = t.serveRaft(c)
	} else {
		err = t.serveCalls(c)
	}
	c.fail(err)
	t.cfg.Logger.Debug("connection ended", "peer", c.peer.NodeID, "class", string(c.peer.Class), "reason", err)
}

// welcomeIn takes a new connection through its handshake.
func (t *Transport) welcomeIn(raw net.Conn) (*conn, error) {
	stop := context.AfterFunc(t.ctx, func() { _ = raw.Close() })
	defer stop()
	c, s, err := t.secure(t.ctx, raw, true, "", "")
	if err != nil {
		t.counters.handshakes.Add(1)
		t.cfg.Logger.Debug("handshake failed", "remote", raw.RemoteAddr().String(), "error", err)
		return nil, err
	}
	if err := t.receive(c, s); err != nil {
		c.fail(err)
		t.unregister(c)
		t.refused(c.peer, err)
		return nil, err
	}
	c.stats.accepted.Add(1)
	t.backoffs.clear(c.peer.NodeID) // it lives
	return c, nil
}

// refused reports a peer that was turned away.
func (t *Transport) refused(p Peer, reason error) {
	t.counters.class(p.Class).refused.Add(1)
	t.cfg.Logger.Debug("peer refused", "peer", p.NodeID, "class", string(p.Class), "remote", p.Addr, "reason", reason)
	if t.cfg.Refused != nil {
		t.cfg.Refused(p.NodeID, p.Class, reason)
	}
}

// Close closes the listener and all connections, and returns once every
// goroutine of the transport has ended. It may be called twice.
func (t *Transport) Close() error {
	t.shutdown()
	t.wg.Wait()
	return nil
}

// shutdown begins the end, in this order: no new goroutine or connection can
// start; blocked reads and writes fail, before a handler that is told to stop
// could answer that it did; what waits on ctx (handlers, dials, handshakes,
// raft sessions) gives up; nobody new is accepted.
func (t *Transport) shutdown() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.closeWhere(ErrClosed, func(*conn) bool { return true })
	t.cancel()
	_ = t.cfg.Listener.Close()
}

// spawn runs f in a goroutine that Close waits for; false where closed.
func (t *Transport) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// register makes an admitted connection known to Recheck and Drop.
func (t *Transport) register(c *conn) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return ErrClosed
	}
	if c.inbound {
		n := 0
		for other := range t.conns {
			if other.inbound && other.peer.NodeID == c.peer.NodeID {
				n++
			}
		}
		if n >= t.cfg.Limits.PerPeer {
			t.mu.Unlock()
			return ErrBusy
		}
	}
	t.conns[c] = struct{}{}
	t.mu.Unlock()
	// Members may have changed, and Recheck looked, since the peer was
	// last asked about.
	return t.allowed(c.peer)
}

func (t *Transport) unregister(c *conn) {
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
}

// closeWhere closes the registered connections that match. Their own
// goroutines unregister them.
func (t *Transport) closeWhere(reason error, match func(*conn) bool) {
	t.mu.Lock()
	conns := make([]*conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	for _, c := range conns {
		if match(c) {
			c.fail(reason)
		}
	}
}

// Recheck asks Members about the peer of every connection and closes those
// that are no longer allowed. Call it when the configuration changed.
func (t *Transport) Recheck() {
	t.closeWhere(ErrNotMember, func(c *conn) bool { return t.allowed(c.peer) != nil })
}

// Drop closes all connections with a node.
func (t *Transport) Drop(nodeID string) {
	t.closeWhere(ErrNotMember, func(c *conn) bool { return c.peer.NodeID == nodeID })
}

// attached returns the raft session, nil where there is none.
func (t *Transport) attached() *RaftTransport {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.raft
}
