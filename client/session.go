package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

// session sends what is queued to one node and handles its answers until the
// stream breaks, and says why it did. The receiver has ended when it returns.
func (l *lane) session(ctx context.Context, ep *endpoint) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream := ep.stream.CallBidiStream(ctx)
	received := make(chan error, 1)
	go func() {
		received <- l.receive(stream, ep)
		cancel(errReceiver)
	}()
	stall := l.watchStall(cancel)
	defer stall.Stop()

	err := l.send(ctx, stream, ep)
	if errors.Is(err, io.EOF) {
		// The stream takes no more; the receiver learns why.
		<-ctx.Done()
	}
	cancel(err)
	_ = stream.CloseRequest()
	reason := <-received
	_ = stream.CloseResponse()
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errReceiver):
		return fromConnect(reason)
	case errors.Is(cause, errStalled):
		return errStalled
	}
	return fromConnect(err)
}

// errReceiver says that the receiver ended first and knows why.
var errReceiver = errors.New("the receiver ended")

// send is the sending half of session.
func (l *lane) send(ctx context.Context, stream *appendStream, ep *endpoint) error {
	var msg rawRequest
	pace := backoff{rand: l.c.cfg.Rand}
	for {
		// Whoever is about to push gets to it first: this is what packs
		// the messages of many concurrent callers without a timer.
		runtime.Gosched()
		var n int
		msg.bytes, n = l.take(msg.bytes[:0])
		if n > 0 {
			if f := l.c.cfg.Observer.Sent; f != nil {
				f(ep.address, n, len(msg.bytes))
			}
			if err := stream.Send(&msg); err != nil {
				return err
			}
			continue
		}
		if pause, held := l.held(); held {
			// All answers are in; what was refused for a full queue
			// goes first, after a while.
			if sleep(ctx, max(pause, pace.next())) != nil {
				return context.Cause(ctx)
			}
			l.release(ep)
			continue
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// receive is the receiving half of session.
func (l *lane) receive(stream *appendStream, ep *endpoint) error {
	var settled []*call
	for {
		res, err := stream.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("the node ended the stream: %w", io.ErrUnexpectedEOF)
			}
			return err
		}
		settled, err = l.answer(settled[:0], res.GetAcks(), ep)
		tell(settled)
		if err != nil {
			return err
		}
		if f := l.c.cfg.Observer.Acked; f != nil {
			f(ep.address, len(res.GetAcks()))
		}
	}
}

// watchStall cancels a session whose node leaves events unanswered: looked at
// twice per Config.Stall, and found without progress three times in a row. Where
// Config.RetryFor is short, each address gets a part of it.
func (l *lane) watchStall(cancel context.CancelCauseFunc) *time.Timer {
	var last uint64
	strikes := 0
	period := min(l.c.cfg.Stall/2, l.c.cfg.RetryFor/time.Duration(3*len(l.c.endpoints)))
	var t *time.Timer
	ready := make(chan struct{})
	t = time.AfterFunc(period, func() {
		<-ready
		l.mu.Lock()
		flying, progress := l.inflight.len(), l.progress
		l.mu.Unlock()
		if flying == 0 || progress != last {
			strikes, last = 0, progress
		} else if strikes++; strikes == 3 {
			cancel(errStalled)
			return
		}
		t.Reset(period)
	})
	close(ready)
	return t
}
