package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dialTimeout = 3 * time.Second
	// A connection that was silent for pingAfter is pinged, and closed where
	// no answer comes within pingTimeout: a stopped process keeps its
	// sockets open.
	pingAfter   = 3 * time.Second
	pingTimeout = 3 * time.Second
	idleTimeout = 5 * time.Minute
)

// transport is an HTTP/2 transport that knows its connections: with TLS for
// https, with prior knowledge for http.
type transport struct {
	*http.Transport
	dialer net.Dialer

	mu     sync.Mutex // guards the rest
	conns  map[*trackedConn]struct{}
	closed bool
}

func newTransport(cfg *tls.Config) *transport {
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	t := &transport{
		dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second},
		conns:  make(map[*trackedConn]struct{}),
	}
	t.Transport = &http.Transport{
		DialContext:         t.dial,
		TLSClientConfig:     cfg.Clone(),
		TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout:     idleTimeout,
		Protocols:           &protocols,
		HTTP2: &http.HTTP2Config{
			SendPingTimeout: pingAfter,
			PingTimeout:     pingTimeout,
			// Pages of entries come in few frames.
			MaxReadFrameSize: 256 << 10,
		},
	}
	return t
}

func (t *transport) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := t.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &trackedConn{Conn: conn, t: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		conn.Close()
		return nil, ErrClosed
	}
	t.conns[c] = struct{}{}
	return c, nil
}

// close closes all connections. CloseIdleConnections alone would leave those
// whose last stream has not quite ended.
func (t *transport) close() {
	t.mu.Lock()
	t.closed = true
	conns := t.conns
	t.conns = nil
	t.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
	t.CloseIdleConnections()
}

// trackedConn tells its transport when it is closed.
type trackedConn struct {
	net.Conn
	t *transport
	// plain: HTTP/2 was written in clear text; begun: something was read.
	plain atomic.Bool
	begun bool
}

// Write implements net.Conn. A client of HTTP/2 begins with "PRI".
func (c *trackedConn) Write(b []byte) (int, error) {
	if len(b) > 0 && b[0] == 'P' && !c.plain.Load() {
		c.plain.Store(bytes.HasPrefix(b, []byte("PRI * HTTP/2.0")))
	}
	return c.Conn.Write(b)
}

// Read implements net.Conn. One goroutine reads. A TLS server closes the
// connection at HTTP/2 in clear text without a word, as a node that dies may:
// a handshake tells which of them it is.
func (c *trackedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !c.begun && c.plain.Load() && speaksTLS(c.RemoteAddr().String()) {
		err = errSpeaksTLS
	}
	c.begun = c.begun || n > 0
	return n, err
}

// speaksTLS reports whether a TLS server is at an address. Nothing but the
// handshake is made, with whomever.
func speaksTLS(address string) bool {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return false
	}
	_ = conn.Close() // it was only looked at
	return true
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	c.t.mu.Lock()
	delete(c.t.conns, c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}
