package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/exonode/exonode/chain"
)

// PumpOptions tune Pump. The zero value is usable.
type PumpOptions struct {
	// Window is how many events may be unanswered; 4,096 where it is 0.
	Window int
	// Acked is called for each event in the order of the input, index from
	// 0, with Append's outcome, or with the error that the input yielded in
	// an event's place. What it returns stops Pump; nil goes on, over a
	// failed event too. A nil Acked stops at the first failure.
	Acked func(index uint64, ack Ack, err error) error
	// Checkpoint is called with the number of events, from the first, that
	// Acked has seen and let pass: after each CheckpointEvery of them,
	// whenever none is unanswered, and at the end. A caller that stores it
	// can go on from there after an interruption.
	Checkpoint func(done uint64) error
	// CheckpointEvery is 1,000 where it is 0.
	CheckpointEvery uint64
}

// PumpStats counts what became of a pump's events.
type PumpStats struct {
	// Done is the number of events, from the first, that passed.
	Done uint64
	// Sealed were not in the chain before, Duplicates were, Failed were
	// refused, or malformed in the input.
	Sealed, Duplicates, Failed uint64
}

// Pump submits the events that a sequence yields, in its order on one stream,
// without waiting for one answer before the next event is sent. It returns when
// all are answered, or with the error that stopped it; some events after the
// last that Acked saw may be in the chain by then. Submitting the same events
// with the same IDs again is always safe: give events an ID (EventLines does)
// if Pump may be interrupted.
//
// The sequence is read on the caller's goroutine, while Acked and Checkpoint
// run on another one, one at a time: they see answers also while the sequence
// blocks. Once ctx ends, Pump returns as soon as the sequence yields.
func (c *Client) Pump(ctx context.Context, events iter.Seq2[chain.Event, error], opt PumpOptions) (PumpStats, error) {
	if opt.Window <= 0 {
		opt.Window = 4096
	}
	if opt.CheckpointEvery == 0 {
		opt.CheckpointEvery = 1000
	}
	if opt.Acked == nil {
		opt.Acked = func(_ uint64, _ Ack, err error) error { return err }
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p := &pump{c: c, opt: opt, lane: c.pick(), window: make(chan pumped, opt.Window)}
	drained := make(chan error, 1)
	go func() {
		err := p.drain(ctx)
		if err != nil {
			cancel(err)
		}
		drained <- err
	}()
	fed := p.feed(ctx, events)
	close(p.window)
	err := <-drained
	for item := range p.window {
		// drain stopped before these.
		if item.call != nil {
			p.lane.drop(item.call, err)
		}
	}
	if err == nil {
		err = fed
	}
	return p.stats, err
}

// pump is one Pump under way.
type pump struct {
	c    *Client
	opt  PumpOptions
	lane *lane
	// window has what was fed and not drained, in order.
	window chan pumped
	stats  PumpStats // drain's
}

// pumped is one element of the input: a call, or why there is none.
type pumped struct {
	call *call
	ev   *chain.Event // where acks are verified
	err  error
}

// feed submits what the input yields. It returns early, without an error of its
// own, where drain has stopped.
func (p *pump) feed(ctx context.Context, events iter.Seq2[chain.Event, error]) error {
	for ev, err := range events {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var item pumped
		if err != nil {
			item.err = err
		} else if item.call, item.err = p.c.prepare(ctx, &ev); item.err == nil {
			if p.c.cfg.VerifyAcks {
				item.ev = &ev
			}
		}
		// A place in the window first: only then the event may fly.
		select {
		case p.window <- item:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if item.call != nil {
			p.lane.push(item.call)
		}
	}
	return nil
}

// drain takes the answers in order.
func (p *pump) drain(ctx context.Context) error {
	unsaved := uint64(0)
	checkpoint := func() error {
		if unsaved == 0 || p.opt.Checkpoint == nil {
			return nil
		}
		unsaved = 0
		if err := p.opt.Checkpoint(p.stats.Done); err != nil {
			return fmt.Errorf("store the checkpoint at event %d: %w", p.stats.Done, err)
		}
		return nil
	}
	for item := range p.window {
		if err := p.settle(ctx, item); err != nil {
			return errors.Join(err, checkpoint())
		}
		unsaved++
		if unsaved >= p.opt.CheckpointEvery || len(p.window) == 0 {
			if err := checkpoint(); err != nil {
				return err
			}
		}
	}
	return checkpoint()
}

// settle waits for one element and tells the caller of it.
func (p *pump) settle(ctx context.Context, item pumped) error {
	var ack Ack
	err := item.err
	if item.call != nil {
		ack, err = p.c.await(ctx, p.lane, item.call)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil && item.ev != nil {
			err = p.c.verifyAck(ctx, item.ev, &ack)
		}
	}
	if stop := p.opt.Acked(p.stats.Done, ack, err); stop != nil {
		if err != nil {
			p.stats.Failed++
		}
		return stop
	}
	p.stats.Done++
	switch {
	case err != nil:
		p.stats.Failed++
	case ack.Duplicate:
		p.stats.Duplicates++
	default:
		p.stats.Sealed++
	}
	return nil
}
