package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// call is one event under way. Its Append owns it until it is pushed, the lane
// owns it until it is settled or dropped, and its Append again after that. A
// dropped call stays the lane's: its answer, if one comes, finds nobody.
type call struct {
	key    chain.Key
	frame  []byte // the encoded event; see appendFrame
	memory []byte // what frame lies in, for the next use
	// since is when the call began, where RetryFor bounds it; zero where its
	// context does.
	since time.Time

	// done gets one value when ack and err are set.
	done chan struct{}
	ack  Ack
	err  error

	// The rest is guarded by lane.mu.

	settled bool // ack and err are final
	dropped bool // the caller is gone
	flying  bool // on the current stream
	sent    bool // on some stream before, which a node may have read
}

type appendStream = connect.BidiStreamForClient[rawRequest, exonodev1.AppendStreamResponse]

// lane is one pipelined AppendStream, kept up over failures: calls go in one
// after the other, and are answered in that order by whatever node the lane is
// connected to. Its goroutine (run) sends; while a stream is open a second one
// receives. Between two streams nothing flies.
type lane struct {
	c     *Client
	start int // the endpoint that it prefers

	// load counts calls that are neither settled nor dropped.
	load atomic.Int64
	// wake has a token when the sender has something to look at.
	wake chan struct{}

	mu sync.Mutex // guards all below
	// queue has what is to be sent, inflight what was, in order. again has
	// what was answered with "later", and comes before both.
	queue    fifo
	inflight fifo
	again    []*call
	// hold stops sending until inflight is empty, then for pause or longer.
	hold  bool
	pause time.Duration
	// progress counts answers that were not "try again".
	progress uint64
	started  bool
	closed   bool
	// failure is why the last attempt failed, failing since when all did;
	// nil and zero after progress.
	failure error
	failing time.Time
	// quiet is since when what flies has had no answer.
	quiet time.Time
}

func newLane(c *Client, start int) *lane {
	return &lane{c: c, start: start, wake: make(chan struct{}, 1)}
}

// push queues calls, one behind the other. After close they fail at once.
func (l *lane) push(calls ...*call) {
	l.mu.Lock()
	l.load.Add(int64(len(calls)))
	if l.closed {
		settled := l.failLocked(calls, ErrClosed)
		l.mu.Unlock()
		tell(settled)
		return
	}
	if !l.started {
		l.started = true
		l.c.wg.Add(1)
		go l.run()
	}
	idle := l.queue.len() == 0
	for _, k := range calls {
		l.queue.push(k)
	}
	l.mu.Unlock()
	if idle {
		l.signal()
	}
}

func (l *lane) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// drop lets go of a call whose caller does not wait any longer; nil means that
// it is settled already.
func (l *lane) drop(k *call, cause error) *IncompleteError {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.settled {
		return nil
	}
	k.dropped = true
	l.load.Add(-1)
	return &IncompleteError{Key: k.key, Sent: k.sent || k.flying, Last: l.failure, Cause: cause}
}

// close refuses new calls.
func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
}

// settleLocked sets a call's outcome; the caller then sends on its done,
// without the lock. It reports whether there is anyone to tell.
func (l *lane) settleLocked(k *call, err error) bool {
	if k.dropped {
		return false
	}
	k.err = err
	k.settled = true
	l.load.Add(-1)
	return true
}

// run keeps a stream open while there is something to send.
func (l *lane) run() {
	defer l.c.wg.Done()
	ctx := l.c.ctx
	n := len(l.c.endpoints)
	pace := backoff{rand: l.c.cfg.Rand}
	tried := make([]Attempt, 0, n)
	at := l.start
	failures := 0 // since the last progress
	for l.awaitWork(ctx) {
		ep := l.c.endpoints[at%n]
		before := l.answered()
		err := l.session(ctx, ep)
		if ctx.Err() != nil {
			break
		}
		if l.answered() != before {
			pace.reset()
			failures = 0
			tried = tried[:0]
		}
		tried = appendAttempt(tried, ep.address, err)
		waiting := l.ended(ep, err, tried)
		at = (at + 1) % n
		if waiting == 0 {
			continue
		}
		if failures++; failures%n == 0 {
			if sleep(ctx, max(pace.next(), retryAfter(err))) != nil {
				break
			}
			l.expire()
		}
	}
	l.failAll(ErrClosed)
}

// awaitWork blocks until something waits; false means that the client closes.
func (l *lane) awaitWork(ctx context.Context) bool {
	for {
		l.mu.Lock()
		n := l.queue.len()
		l.mu.Unlock()
		if ctx.Err() != nil {
			return false
		}
		if n > 0 {
			return true
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return false
		}
	}
}

// trouble is why the lane gets no answers at present; nil where it does.
func (l *lane) trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

func (l *lane) answered() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.progress
}

// take moves what waits to inflight, as far as a message and the window allow,
// and returns it encoded. The copy is made under the lock: from here on a
// settled call's memory may be used again.
func (l *lane) take(buf []byte) ([]byte, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	if l.hold {
		return buf, 0
	}
	if l.inflight.len() == 0 {
		l.quiet = time.Now()
	}
	for l.queue.len() > 0 && n < maxMessageEvents && l.inflight.len() < l.c.cfg.MaxInFlight {
		k := l.queue.front()
		if k.dropped {
			l.queue.pop()
			continue
		}
		if n > 0 && len(buf)+len(k.frame) > maxMessageBytes {
			break
		}
		l.queue.pop()
		k.flying = true
		l.inflight.push(k)
		buf = append(buf, k.frame...)
		n++
	}
	return buf, n
}

// held reports whether sending is held and nothing flies, and for how long the
// node asked to wait.
func (l *lane) held() (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pause, l.hold && l.inflight.len() == 0
}

// release ends a hold.
func (l *lane) release(ep *endpoint) {
	l.mu.Lock()
	n, cause := len(l.again), l.failure
	l.queue.prepend(l.again)
	l.again, l.hold, l.pause = nil, false, 0
	settled := l.expireLocked(time.Now())
	l.mu.Unlock()
	tell(settled)
	if f := l.c.cfg.Observer.Retried; f != nil {
		f(ep.address, n, cause)
	}
}

// answer matches acks with what flies, in order. It returns the calls that are
// settled, and an error where the stream is to be left.
func (l *lane) answer(settled []*call, acks []*exonodev1.Ack, ep *endpoint) ([]*call, error) {
	var leave error
	var seen uint64
	l.mu.Lock()
	if len(acks) > l.inflight.len() {
		n := l.inflight.len()
		l.mu.Unlock()
		return settled, fmt.Errorf("%s answered %d events where %d were sent", ep.address, len(acks), n)
	}
	for _, a := range acks {
		k := l.inflight.pop()
		k.flying = false
		var failed *api.Error
		if d := a.GetError(); d != nil {
			failed = api.ErrorFromProto(d)
		}
		k.sent = k.sent || failed == nil || !didNothing(failed)
		if failed != nil {
			switch classify(failed) {
			case later:
				l.hold = true
				l.pause = max(l.pause, retryAfter(failed))
				l.noteLocked(failed)
				l.again = append(l.again, k)
				continue
			case elsewhere:
				leave = failed
				l.again = append(l.again, k)
				continue
			}
		}
		l.progress++
		l.failure, l.failing = nil, time.Time{}
		if k.dropped {
			continue
		}
		if err := k.ack.read(a); err != nil && failed == nil {
			// An answer that can't be one: ask another node.
			leave = fmt.Errorf("%s: %w", ep.address, err)
			l.again = append(l.again, k)
			continue
		}
		k.ack.Key = k.key
		if failed == nil {
			seen = max(seen, k.ack.Sequence+1)
			if l.settleLocked(k, nil) {
				settled = append(settled, k)
			}
		} else if l.settleLocked(k, failed) {
			settled = append(settled, k)
		}
	}
	l.quiet = time.Now()
	more := l.queue.len() > 0 || l.hold
	l.mu.Unlock()
	l.c.observe(seen)
	if more {
		l.signal()
	}
	return settled, leave
}

// ended puts what flew back to the queue's front after a stream broke, settles
// what must not be tried again, and returns how many calls wait.
func (l *lane) ended(ep *endpoint, err error, tried []Attempt) int {
	refused := classifyCall(err) == determinate
	connected := !isDial(err)
	l.mu.Lock()
	flew := append(l.again, l.inflight.takeAll()...)
	for _, k := range flew {
		k.sent = k.sent || (k.flying && connected)
		k.flying = false
	}
	l.queue.prepend(flew)
	l.again, l.hold, l.pause = nil, false, 0
	var settled []*call
	if errors.Is(err, errSpeaksTLS) {
		err = failureOf(err, tried)
	}
	if refused {
		for _, k := range l.queue.takeAll() {
			if l.settleLocked(k, &IncompleteError{Key: k.key, Sent: k.sent, Cause: err}) {
				settled = append(settled, k)
			}
		}
	} else {
		if l.failing.IsZero() && errors.Is(err, errStalled) {
			l.failing = l.quiet
		}
		l.noteLocked(failureOf(err, tried))
		settled = l.expireLocked(time.Now())
	}
	waiting := l.queue.len()
	l.mu.Unlock()
	tell(settled)
	if len(flew) > 0 {
		l.c.log.Info("append_stream_ended", "address", ep.address, "error", err, "unanswered", len(flew), "waiting", waiting)
		if f := l.c.cfg.Observer.Retried; f != nil && waiting > 0 {
			f(ep.address, len(flew), err)
		}
	}
	return waiting
}

// expire settles calls whose time to retry is over.
func (l *lane) expire() {
	l.mu.Lock()
	settled := l.expireLocked(time.Now())
	l.mu.Unlock()
	tell(settled)
}

// expireLocked settles what waits for longer than RetryFor, and has had no node
// that answers for as long.
func (l *lane) expireLocked(now time.Time) (settled []*call) {
	kept := make([]*call, 0, l.queue.len())
	for _, k := range l.queue.takeAll() {
		from := k.since
		if from.Before(l.failing) {
			from = l.failing
		}
		switch {
		case k.dropped:
		case k.since.IsZero() || l.failing.IsZero() || now.Sub(from) < l.c.cfg.RetryFor:
			kept = append(kept, k)
		default:
			l.settleLocked(k, &IncompleteError{Key: k.key, Sent: k.sent, Last: l.failure, Cause: errRetryFor})
			settled = append(settled, k)
		}
	}
	l.queue.prepend(kept)
	return settled
}

// noteLocked remembers why an attempt failed.
func (l *lane) noteLocked(err error) {
	l.failure = err
	if l.failing.IsZero() {
		l.failing = time.Now()
	}
}

// failAll settles everything when the client closes.
func (l *lane) failAll(cause error) {
	l.mu.Lock()
	all := append(append(l.again, l.inflight.takeAll()...), l.queue.takeAll()...)
	l.again = nil
	settled := l.failLocked(all, cause)
	l.mu.Unlock()
	tell(settled)
}

func (l *lane) failLocked(calls []*call, cause error) (settled []*call) {
	for _, k := range calls {
		if l.settleLocked(k, &IncompleteError{Key: k.key, Sent: k.sent || k.flying, Last: l.failure, Cause: cause}) {
			settled = append(settled, k)
		}
	}
	return settled
}

// tell wakes the callers of settled calls. done has room: it never blocks.
func tell(settled []*call) {
	for _, k := range settled {
		k.done <- struct{}{}
	}
}

// failureOf is what a caller is told of the last round of attempts: that nobody
// answered, or what the last node said.
func failureOf(err error, tried []Attempt) error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	return &UnreachableError{Tried: append([]Attempt(nil), tried...)}
}

// appendAttempt notes an attempt; an address stands there once, with its last
// failure, or an earlier one where the last was only that time was over.
func appendAttempt(tried []Attempt, address string, err error) []Attempt {
	for i := range tried {
		if tried[i].Address == address {
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				err = tried[i].Err
			}
			copy(tried[i:], tried[i+1:])
			tried = tried[:len(tried)-1]
			break
		}
	}
	return append(tried, Attempt{Address: address, Err: err})
}

// retryAfter is the hint in an error, or 0.
func retryAfter(err error) time.Duration {
	var e *api.Error
	if errors.As(err, &e) {
		return min(time.Duration(e.RetryAfterMillis)*time.Millisecond, 10*time.Second)
	}
	return 0
}

// isDial reports that no connection was made: nothing was sent.
func isDial(err error) bool {
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &cert) || errors.Is(err, errSpeaksTLS)
}
