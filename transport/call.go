package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// callerKey says which connection a call goes over: one for each class and
// peer.
type callerKey struct {
	class Class
	peer  string // node id; the address where it is unknown
}

// callers are the dialed call connections.
type callers struct {
	mu sync.Mutex // guards m
	m  map[callerKey]*caller
}

// caller is a call connection, or one in the making: ready is closed once conn
// or err is set.
type caller struct {
	ready chan struct{}
	err   error
	c     *conn
	w     *frameWriter

	mu    sync.Mutex // guards the fields below
	next  uint64     // number of the last call
	calls map[uint64]chan result
	ended bool // no answer comes any more
}

type result struct {
	payload []byte
	err     error
}

// Call asks a peer and waits for its answer. Errors: *RemoteError from the
// peer; ErrUnreachable where nothing was sent; ErrInterrupted or the context's
// error where the outcome is unknown; ErrTooLarge.
func (t *Transport) Call(ctx context.Context, class Class, to PeerRef, method string, request []byte) ([]byte, Peer, error) {
	if err := t.checkCall(class, to, method, request); err != nil {
		return nil, Peer{}, err
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.cfg.Limits.Call)
		defer cancel()
	}
	k, err := t.caller(ctx, class, to)
	if err != nil {
		return nil, Peer{}, err
	}
	answer, err := k.call(ctx, method, request)
	return answer, k.c.peer, err
}

func (t *Transport) checkCall(class Class, to PeerRef, method string, request []byte) error {
	switch {
	case !class.valid() || class == ClassRaft:
		return fmt.Errorf("transport: no calls in class %q", class)
	case to.NodeID == "" && class != ClassJoin:
		return fmt.Errorf("transport: a call in class %q needs a node id", class)
	case to.NodeID == "" && to.Addr == "":
		return errors.New("transport: a call needs a node id or an address")
	case len(method) == 0 || len(method) > maxMethod:
		return fmt.Errorf("transport: method name of %d bytes", len(method))
	case len(request) > t.cfg.Limits.CallFrame:
		return fmt.Errorf("transport: request of %d bytes, limit %d: %w", len(request), t.cfg.Limits.CallFrame, ErrTooLarge)
	}
	return nil
}

// caller returns the connection for a call, making it where there is none. One
// attempt serves all who wait for it, and outlives those who give up.
func (t *Transport) caller(ctx context.Context, class Class, to PeerRef) (*caller, error) {
	key := callerKey{class, to.NodeID}
	if to.NodeID == "" {
		key.peer = to.Addr
	}
	t.callers.mu.Lock()
	k := t.callers.m[key]
	if k == nil {
		k = &caller{ready: make(chan struct{}), calls: make(map[uint64]chan result)}
		t.callers.m[key] = k
		if !t.spawn(func() { t.runCaller(key, k, to) }) {
			delete(t.callers.m, key)
			t.callers.mu.Unlock()
			return nil, fmt.Errorf("transport: %w: %w", ErrUnreachable, ErrClosed)
		}
	}
	t.callers.mu.Unlock()
	select {
	case <-k.ready:
		return k, k.err
	case <-ctx.Done():
		return nil, fmt.Errorf("transport: %w: %w", ErrUnreachable, ctx.Err())
	}
}

// runCaller makes a connection and runs it to its end.
func (t *Transport) runCaller(key callerKey, k *caller, to PeerRef) {
	forget := func() {
		t.callers.mu.Lock()
		delete(t.callers.m, key)
		t.callers.mu.Unlock()
	}
	var target raft.ServerID
	if !key.class.proven() {
		target, _ = t.cfg.Members.Member(to.NodeID) // none: dial says so
	}
	c, err := t.dial(t.ctx, key.class, to, target)
	if err != nil {
		k.err = err
		forget()
		close(k.ready)
		return
	}
	k.c, k.w = c, newFrameWriter(c)
	close(k.ready)
	var writing sync.WaitGroup
	writing.Go(func() { c.fail(k.write(t.cfg.Limits)) })
	c.fail(k.read(t.cfg.Limits))
	forget() // before the calls fail: who retries gets a new connection
	k.end()
	writing.Wait()
	t.unregister(c)
}

// call sends a request and waits.
func (k *caller) call(ctx context.Context, method string, request []byte) ([]byte, error) {
	ch := make(chan result, 1)
	k.mu.Lock()
	if k.ended {
		k.mu.Unlock()
		return nil, fmt.Errorf("transport: %w: %w", ErrUnreachable, k.c.err)
	}
	k.next++
	number := k.next
	k.calls[number] = ch
	k.mu.Unlock()

	deadline, _ := ctx.Deadline()
	f := callFrame{typ: frameRequest, number: number, method: method, payload: request}
	err := k.w.add(ctx, func(b []byte) []byte {
		// At least one: none would be no limit.
		f.left = max(time.Until(deadline), time.Microsecond)
		return f.append(b)
	})
	if err != nil {
		k.take(number)
		return nil, fmt.Errorf("transport: %w: %w", ErrUnreachable, err)
	}
	k.c.stats.sent.Add(1)
	select {
	case r := <-ch:
		return r.payload, r.err
	case <-ctx.Done():
	}
	if k.take(number) == nil {
		r := <-ch // it came at the same moment
		return r.payload, r.err
	}
	// Best effort, and no waiting for it: the peer may well be gone.
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	cancelFrame := callFrame{typ: frameCancel, number: number}
	_ = k.w.add(gone, cancelFrame.append)
	return nil, fmt.Errorf("transport: call %s to %s: %w", method, k.c.peer.NodeID, ctx.Err())
}

// take removes a call from those that wait; nil where it is not among them.
func (k *caller) take(number uint64) chan result {
	k.mu.Lock()
	defer k.mu.Unlock()
	ch := k.calls[number]
	delete(k.calls, number)
	return ch
}

// waiting returns how many calls wait for an answer.
func (k *caller) waiting() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.calls)
}

// end fails all calls.
func (k *caller) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	for number, ch := range k.calls {
		ch <- result{err: fmt.Errorf("transport: call to %s: %w: %w", k.c.peer.NodeID, ErrInterrupted, k.c.err)}
		delete(k.calls, number)
	}
}

// read hands out answers until the connection ends.
func (k *caller) read(l Limits) error {
	for {
		b, err := readFrame(k.c.br, l.CallFrame+frameOverhead+maxText)
		if err != nil {
			return err
		}
		f, err := decodeCallFrame(b)
		if err != nil {
			return err
		}
		switch f.typ {
		case frameAnswer:
			if ch := k.take(f.number); ch != nil { // nil: canceled
				ch <- result{payload: f.payload}
			}
		case frameFailure:
			if ch := k.take(f.number); ch != nil {
				ch <- result{err: &f.failure}
			}
		case framePong:
		default:
			return fmt.Errorf("%w: frame %d from an acceptor", ErrProtocol, f.typ)
		}
	}
}

// write writes requests, and finds out whether a silent peer still lives.
func (k *caller) write(l Limits) error {
	tick := time.NewTicker(l.Ping)
	defer tick.Stop()
	var spare []byte
	var err error
	used := time.Now()
	var asked time.Time // of the first write since the last read
	for {
		heard := time.Unix(0, k.c.lastRead.Load())
		select {
		case <-k.w.wake:
			if used = time.Now(); !asked.After(heard) {
				asked = used
			}
			if spare, err = k.w.flush(spare); err != nil {
				return err
			}
		case <-k.c.done:
			return k.c.err
		case now := <-tick.C:
			heard = time.Unix(0, k.c.lastRead.Load())
			switch {
			case k.waiting() == 0 && !asked.After(heard):
				// Where something went unanswered it does not matter that
				// its caller has given up: the next one would, too.
				if now.Sub(used) > l.Idle {
					return errIdle
				}
			case asked.After(heard) && now.Sub(asked) >= 3*l.Ping:
				return errSilent
			case now.Sub(heard) >= l.Ping:
				ping := callFrame{typ: framePing}
				_ = k.w.add(context.Background(), ping.append) // fails with the connection
			}
		}
	}
}

var (
	errIdle   = errors.New("connection idle")
	errSilent = errors.New("peer silent")
)
