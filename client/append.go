package client

import (
	"context"
	"fmt"
	"time"

	"github.com/exonode/exonode/chain"
)

// Append submits one event and returns once it is on the disks of a quorum. An
// empty ID is filled with a fresh one (Ack.Key has it), an empty Workspace and
// Source from Config. Failures of nodes and of the network are retried at other
// addresses, always with the same ID, until ctx ends, or for Config.RetryFor
// where ctx has no deadline.
//
// The error is an *IncompleteError where the call ended without an answer (look
// for it first: it may wrap what a node said last), else an *api.Error: the
// cluster refused the event, and retrying is no use. The payload may be changed
// as soon as Append returns, whatever it returned.
func (c *Client) Append(ctx context.Context, ev chain.Event) (Ack, error) {
	k, err := c.prepare(ctx, &ev)
	if err != nil {
		return Ack{}, err
	}
	l := c.pick()
	l.push(k)
	ack, err := c.await(ctx, l, k)
	if err == nil && c.cfg.VerifyAcks {
		err = c.verifyAck(ctx, &ev, &ack)
	}
	return ack, err
}

// AppendBatch submits events one behind the other on one stream, waits for all
// of them and returns their outcomes in order. They are not one transaction:
// each succeeds or fails by itself, as with Append. The chain has them in this
// order, unless some had to be sent again.
func (c *Client) AppendBatch(ctx context.Context, events []chain.Event) []Result {
	results := make([]Result, len(events))
	calls := make([]*call, len(events))
	pushed := make([]*call, 0, len(events))
	prepared := make([]chain.Event, len(events))
	for i := range events {
		prepared[i] = events[i]
		calls[i], results[i].Err = c.prepare(ctx, &prepared[i])
		if calls[i] != nil {
			pushed = append(pushed, calls[i])
		}
	}
	l := c.pick()
	l.push(pushed...)
	for i, k := range calls {
		if k == nil {
			continue
		}
		results[i].Ack, results[i].Err = c.await(ctx, l, k)
		if results[i].Err == nil && c.cfg.VerifyAcks {
			results[i].Err = c.verifyAck(ctx, &prepared[i], &results[i].Ack)
		}
	}
	return results
}

// fill sets the defaults of an event, its ID among them.
func (c *Client) fill(ev *chain.Event) {
	if ev.Workspace == "" {
		ev.Workspace = c.cfg.Workspace
	}
	if ev.Source == "" {
		ev.Source = c.cfg.Source
	}
	if ev.ID == "" {
		ev.ID = newID(c.cfg.Rand)
	}
}

// prepare makes a call of an event: filled, encoded, with the time to give up.
func (c *Client) prepare(ctx context.Context, ev *chain.Event) (*call, error) {
	c.fill(ev)
	k := c.newCall(ev.Key())
	if _, ok := ctx.Deadline(); !ok {
		k.since = time.Now()
	}
	var err error
	k.frame, k.memory, err = appendFrame(k.memory, ev)
	if err != nil {
		c.calls.Put(k)
		return nil, fmt.Errorf("client: event %q: %w", ev.ID, err)
	}
	return k, nil
}

// newCall returns a call without a frame, which is retried for ever.
func (c *Client) newCall(key chain.Key) *call {
	k := c.calls.Get().(*call)
	*k = call{key: key, memory: k.memory, done: k.done}
	return k
}

// recycle takes back a call whose done was received.
func (c *Client) recycle(k *call) {
	if cap(k.memory) > maxMessageBytes {
		k.memory = nil
	}
	c.calls.Put(k)
}

// await waits for a pushed call and gives its memory back.
func (c *Client) await(ctx context.Context, l *lane, k *call) (Ack, error) {
	select {
	case <-k.done:
	case <-ctx.Done():
		if e := l.drop(k, ctx.Err()); e != nil {
			return Ack{Key: e.Key}, e
		}
		<-k.done
	}
	ack, err := k.ack, k.err
	c.recycle(k)
	return ack, err
}

// pick returns the lane with the fewest calls under way.
func (c *Client) pick() *lane {
	best := c.lanes[0]
	if len(c.lanes) == 1 {
		return best
	}
	load := best.load.Load()
	for _, l := range c.lanes[1:] {
		if n := l.load.Load(); n < load {
			best, load = l, n
		}
	}
	return best
}
