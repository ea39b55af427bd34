package transport

import (
	"context"
	"sync"
)

// maxQueued is how many bytes may wait to be written on a connection before
// those who add more have to wait.
const maxQueued = 4 << 20

// frameWriter writes the frames of many goroutines on one connection: while one
// write is under way the next one's frames collect, so that many small frames
// cost one write.
type frameWriter struct {
	c    *conn
	wake chan struct{} // holds a token while buf may be non-empty

	mu   sync.Mutex // guards the fields below
	buf  []byte
	room chan struct{} // closed when buf is taken; nil while nobody waits
}

func newFrameWriter(c *conn) *frameWriter {
	return &frameWriter{c: c, wake: make(chan struct{}, 1)}
}

// add queues a frame, which encode appends (without length) to what it is
// given. An error means that nothing was queued.
func (w *frameWriter) add(ctx context.Context, encode func([]byte) []byte) error {
	w.mu.Lock()
	for len(w.buf) >= maxQueued {
		if w.room == nil {
			w.room = make(chan struct{})
		}
		room := w.room
		w.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-w.c.done:
			return w.c.err
		}
		w.mu.Lock()
	}
	if err := w.c.failed(); err != nil {
		w.mu.Unlock()
		return err
	}
	start := len(w.buf)
	w.buf = endFrame(encode(beginFrame(w.buf)), start)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
	return nil
}

// flush writes what is queued, and what is queued meanwhile. Spare is memory
// for the next frames; it returns memory for the next flush.
func (w *frameWriter) flush(spare []byte) ([]byte, error) {
	for {
		w.mu.Lock()
		b := w.buf
		w.buf = spare[:0]
		if w.room != nil {
			close(w.room)
			w.room = nil
		}
		w.mu.Unlock()
		if len(b) == 0 {
			return b, nil
		}
		if err := w.c.write(b); err != nil {
			return nil, err
		}
		if spare = b; cap(spare) > keepBuffer {
			spare = nil
		}
	}
}
