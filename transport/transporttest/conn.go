package transporttest

import (
	"io"
	"net"
	"os"
	"time"
)

// stream is one direction of a connection. Network.mu guards it.
type stream struct {
	link   *link
	chunks []chunk
	size   int
	closed bool  // by its writer: end of file after the chunks
	err    error // reset: at once, for reader and writer
	event  event // of any change
}

// chunk is what one Write sent.
type chunk struct {
	b   []byte
	due time.Time
}

// end is one end of a connection; it implements net.Conn. Network.mu guards
// its fields.
type end struct {
	n             *Network
	local, remote string
	peer          *end
	in, out       *stream
	closed        bool

	readDeadline, writeDeadline time.Time
	deadlines                   event // of a change of either, and of Close
}

func (e *end) LocalAddr() net.Addr  { return addr(e.local) }
func (e *end) RemoteAddr() net.Addr { return addr(e.remote) }

func (e *end) Read(p []byte) (int, error) {
	for {
		e.n.mu.Lock()
		now := time.Now()
		s := e.in
		var due time.Time // when to look again
		switch {
		case e.closed:
			e.n.mu.Unlock()
			return 0, net.ErrClosed
		case expired(e.readDeadline, now):
			e.n.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case s.err != nil:
			e.n.mu.Unlock()
			return 0, s.err
		case s.link.cut:
		case len(s.chunks) > 0 && !s.chunks[0].due.After(now):
			m := s.take(p)
			e.n.mu.Unlock()
			return m, nil
		case len(s.chunks) > 0:
			due = s.chunks[0].due
		case s.closed:
			e.n.mu.Unlock()
			return 0, io.EOF
		}
		stream, link, deadlines := s.event.wait(), s.link.event.wait(), e.deadlines.wait()
		wake := timer(now, due, e.readDeadline)
		e.n.mu.Unlock()
		select {
		case <-stream:
		case <-link:
		case <-deadlines:
		case <-wake.C:
		}
		wake.Stop()
	}
}

// take moves bytes of the first chunk to p.
func (s *stream) take(p []byte) int {
	m := copy(p, s.chunks[0].b)
	if s.chunks[0].b = s.chunks[0].b[m:]; len(s.chunks[0].b) == 0 {
		s.chunks[0].b = nil
		s.chunks = s.chunks[1:]
	}
	s.size -= m
	s.event.fire()
	return m
}

func (e *end) Write(p []byte) (int, error) {
	written := 0
	for {
		e.n.mu.Lock()
		now := time.Now()
		s := e.out
		switch {
		case e.closed:
			e.n.mu.Unlock()
			return written, net.ErrClosed
		case expired(e.writeDeadline, now):
			e.n.mu.Unlock()
			return written, os.ErrDeadlineExceeded
		case s.err != nil:
			e.n.mu.Unlock()
			return written, s.err
		case e.peer.closed && !s.link.cut:
			e.n.mu.Unlock()
			return written, errReset // nobody will read it
		}
		if m := min(bufferSize-s.size, len(p)); m > 0 {
			s.chunks = append(s.chunks, chunk{append([]byte(nil), p[:m]...), now.Add(s.link.delay)})
			s.size += m
			s.event.fire()
			written, p = written+m, p[m:]
		}
		if len(p) == 0 {
			e.n.mu.Unlock()
			return written, nil
		}
		stream, deadlines := s.event.wait(), e.deadlines.wait()
		wake := timer(now, time.Time{}, e.writeDeadline)
		e.n.mu.Unlock()
		select {
		case <-stream:
		case <-deadlines:
		case <-wake.C:
		}
		wake.Stop()
	}
}

// Close ends the connection here at once; the peer reads the end of file after
// what was sent, once the link lets it through.
func (e *end) Close() error {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	e.closed = true
	e.out.closed = true
	e.out.event.fire()
	e.in.event.fire()
	e.deadlines.fire()
	delete(e.n.conns, e)
	return nil
}

// reset breaks both directions. The caller holds mu.
func (e *end) reset() {
	for _, s := range []*stream{e.in, e.out} {
		s.err = errReset
		s.event.fire()
	}
	delete(e.n.conns, e)
	delete(e.n.conns, e.peer)
}

func (e *end) SetDeadline(t time.Time) error {
	return e.deadline(func() { e.readDeadline, e.writeDeadline = t, t })
}

func (e *end) SetReadDeadline(t time.Time) error {
	return e.deadline(func() { e.readDeadline = t })
}

func (e *end) SetWriteDeadline(t time.Time) error {
	return e.deadline(func() { e.writeDeadline = t })
}

func (e *end) deadline(set func()) error {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	set()
	e.deadlines.fire()
	return nil
}

func expired(deadline, now time.Time) bool { return !deadline.IsZero() && !deadline.After(now) }

// timer fires at the earlier of two times that are not zero.
func timer(now, a, b time.Time) *time.Timer {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		a = b
	}
	if a.IsZero() {
		t := time.NewTimer(time.Hour)
		t.Stop()
		return t
	}
	return time.NewTimer(a.Sub(now))
}
