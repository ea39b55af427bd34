package transport

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// writeChunk is how much one write deadline covers.
	writeChunk = 64 << 10
	// readBuffer is the size of a connection's read buffer.
	readBuffer = 64 << 10
	// keepBuffer is the largest encode buffer that a connection keeps.
	keepBuffer = 1 << 20
)

// conn is a connection whose peer is known. It has one reader and one writer
// at a time; fail may be called by anyone.
type conn struct {
	net.Conn          // TLS, inside Config.Conn's wrapper
	raw      net.Conn // what TLS runs over
	peer     Peer
	inbound  bool
	limits   *Limits
	stats    *classCounters

	br *bufio.Reader
	// lastRead is when bytes last came, in Unix nanoseconds.
	lastRead atomic.Int64

	done chan struct{} // closed by the first fail
	once sync.Once
	err  error // why; written before done is closed
}

func newConn(c, raw net.Conn, peer Peer, inbound bool, limits *Limits, stats *classCounters) *conn {
	nc := &conn{Conn: c, raw: raw, peer: peer, inbound: inbound, limits: limits, stats: stats, done: make(chan struct{})}
	nc.br = bufio.NewReaderSize(countingReader{nc}, readBuffer)
	nc.lastRead.Store(time.Now().UnixNano())
	return nc
}

// fail closes the connection; the first error is kept.
func (c *conn) fail(err error) {
	c.once.Do(func() {
		c.err = err
		close(c.done)
		// Beneath TLS first: a goroutine that is blocked in a TLS write
		// holds the lock that TLS's own Close wants for its goodbye.
		_ = c.raw.Close()
		_ = c.Conn.Close() // lets a wrapper end
	})
}

// settle lifts the handshake's deadlines, of which a wrapper has its own.
func (c *conn) settle() error {
	return errors.Join(c.raw.SetDeadline(time.Time{}), c.SetDeadline(time.Time{}))
}

// failed returns why the connection is closed, nil while it is open.
func (c *conn) failed() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// write writes b in chunks, each under a deadline of its own, so that a slow
// link has time for a large message and a dead one does not. After an error
// the connection is closed.
func (c *conn) write(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), writeChunk)
		_ = c.SetWriteDeadline(time.Now().Add(c.limits.RPC))
		if _, err := c.Conn.Write(b[:n]); err != nil {
			c.fail(err)
			return err
		}
		c.stats.bytesOut.Add(uint64(n))
		b = b[n:]
	}
	return nil
}

// countingReader reads for conn.br.
type countingReader struct{ c *conn }

func (r countingReader) Read(p []byte) (int, error) {
	n, err := r.c.Conn.Read(p)
	if n > 0 {
		r.c.lastRead.Store(time.Now().UnixNano())
		r.c.stats.bytesIn.Add(uint64(n))
	}
	return n, err
}
