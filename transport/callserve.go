package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// handlerKey names a method.
type handlerKey struct {
	class  Class
	method string
}

// handlers are the registered methods.
type handlers struct {
	mu sync.RWMutex // guards m
	m  map[handlerKey]Handler
}

// Handle registers the handler of a method. It may be called at any time, once
// for each method; until then the method is CodeUnknownMethod. It panics where
// the class has no calls, the name is empty or over 128 bytes, or the method
// has a handler.
func (t *Transport) Handle(class Class, method string, h Handler) {
	if !class.valid() || class == ClassRaft || len(method) == 0 || len(method) > maxMethod {
		panic(fmt.Sprintf("transport: no method %q in class %q", method, class))
	}
	t.handlers.mu.Lock()
	defer t.handlers.mu.Unlock()
	key := handlerKey{class, method}
	if t.handlers.m[key] != nil {
		panic(fmt.Sprintf("transport: method %q has a handler", method))
	}
	t.handlers.m[key] = h
}

func (h *handlers) get(key handlerKey) Handler {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.m[key]
}

// callServer serves an accepted call connection: this goroutine reads frames,
// each request runs in its own, and one writes.
type callServer struct {
	t   *Transport
	c   *conn
	w   *frameWriter
	ctx context.Context // ends with the connection

	mu    sync.Mutex                    // guards the fields below
	open  map[uint64]context.CancelFunc // calls in hand
	bytes int                           // of their requests
}

// serveCalls serves c until it ends, and returns why. All handlers have
// returned then.
func (t *Transport) serveCalls(c *conn) error {
	ctx, cancel := context.WithCancel(t.ctx)
	s := &callServer{t: t, c: c, w: newFrameWriter(c), ctx: ctx, open: make(map[uint64]context.CancelFunc)}
	var wg sync.WaitGroup
	wg.Go(func() { c.fail(s.write()) })
	c.fail(s.read(&wg))
	cancel()
	wg.Wait()
	return c.err
}

func (s *callServer) write() error {
	var spare []byte
	var err error
	for {
		select {
		case <-s.w.wake:
			if spare, err = s.w.flush(spare); err != nil {
				return err
			}
		case <-s.c.done:
			return s.c.err
		}
	}
}

func (s *callServer) read(wg *sync.WaitGroup) error {
	for {
		if s.c.br.Buffered() == 0 {
			// The dialer closes idle connections and pings busy ones;
			// this is for one that is gone.
			_ = s.c.SetReadDeadline(time.Now().Add(2 * s.t.cfg.Limits.Idle))
		}
		b, err := readFrame(s.c.br, s.t.cfg.Limits.CallFrame+frameOverhead)
		if err != nil {
			return err
		}
		f, err := decodeCallFrame(b)
		if err != nil {
			return err
		}
		switch f.typ {
		case frameRequest:
			err = s.begin(f, len(b), wg)
		case frameCancel:
			s.cancel(f.number)
		case framePing:
			err = s.reply(callFrame{typ: framePong})
		default:
			err = fmt.Errorf("%w: frame %d from a dialer", ErrProtocol, f.typ)
		}
		if err != nil {
			return err
		}
	}
}

// begin starts the handler of a request, or answers why not.
func (s *callServer) begin(f callFrame, size int, wg *sync.WaitGroup) error {
	if err := s.t.allowed(s.c.peer); err != nil {
		s.t.refused(s.c.peer, err)
		return err
	}
	refuse := func(code, message string) error {
		return s.reply(callFrame{typ: frameFailure, number: f.number, failure: RemoteError{Code: code, Message: message}})
	}
	if len(f.payload) > s.t.cfg.Limits.CallFrame {
		return refuse(CodeTooLarge, fmt.Sprintf("request of %d bytes, limit %d", len(f.payload), s.t.cfg.Limits.CallFrame))
	}
	h := s.t.handlers.get(handlerKey{s.c.peer.Class, f.method})
	if h == nil {
		return refuse(CodeUnknownMethod, "no method "+f.method)
	}
	var ctx context.Context
	var cancel context.CancelFunc
	if f.left > 0 {
		ctx, cancel = context.WithTimeout(s.ctx, f.left)
	} else {
		ctx, cancel = context.WithCancel(s.ctx)
	}
	s.mu.Lock()
	_, twice := s.open[f.number]
	busy := len(s.open) >= s.t.cfg.Limits.Handlers || (s.bytes > 0 && s.bytes+size > s.t.cfg.Limits.HandlerBytes)
	if !twice && !busy {
		s.open[f.number] = cancel
		s.bytes += size
	}
	s.mu.Unlock()
	switch {
	case twice:
		cancel()
		return fmt.Errorf("%w: call %d begun twice", ErrProtocol, f.number)
	case busy:
		cancel()
		return refuse(CodeBusy, "too many calls in hand")
	}
	wg.Go(func() {
		s.run(ctx, h, f)
		cancel()
		s.mu.Lock()
		delete(s.open, f.number)
		s.bytes -= size
		s.mu.Unlock()
	})
	return nil
}

// run calls a handler and queues its answer.
func (s *callServer) run(ctx context.Context, h Handler, f callFrame) {
	answer, err := h(ctx, s.c.peer, f.payload)
	out := callFrame{typ: frameAnswer, number: f.number, payload: answer}
	if err == nil && len(answer) > s.t.cfg.Limits.CallFrame {
		err = &RemoteError{CodeTooLarge, fmt.Sprintf("answer of %d bytes, limit %d", len(answer), s.t.cfg.Limits.CallFrame)}
	}
	if err != nil {
		out = callFrame{typ: frameFailure, number: f.number, failure: *remoteError(err)}
	}
	_ = s.reply(out) // fails with the connection; then nobody waits
	s.c.stats.served.Add(1)
}

// remoteError is the form in which a handler's error travels.
func remoteError(err error) *RemoteError {
	if remote, ok := errors.AsType[*RemoteError](err); ok {
		return remote
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &RemoteError{CodeDeadline, err.Error()}
	case errors.Is(err, context.Canceled):
		return &RemoteError{CodeCanceled, err.Error()}
	default:
		return &RemoteError{CodeInternal, err.Error()}
	}
}

func (s *callServer) reply(f callFrame) error { return s.w.add(s.ctx, f.append) }

func (s *callServer) cancel(number uint64) {
	s.mu.Lock()
	cancel := s.open[number]
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}
