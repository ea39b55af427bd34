package pipeline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/server"
)

// An item's progress.
const (
	queued    int32 = iota // never sent: giving up is determinate
	sent                   // it may be in the log
	cancelled              // given up before it was sent; it never will be
	deciding               // its ack is being written
	decided
)

// item is one event on its way.
type item struct {
	proposal fsm.Proposal
	size     int
	ticket   uint64 // order of arrival
	state    atomic.Int32
	// bound: only this node may propose it, so it fails where this node
	// does not lead. It came from a peer, or is no node's own.
	bound bool
	// internal: a node wrote it; it may be in workspace system.
	internal bool
	// admitted: checked against the folded state of a revision.
	admitted bool
	revision uint64
	// open: it was sent once, and what became of that is unknown.
	open bool
	// gone: it was sent, and nobody waits for it any more.
	gone    atomic.Bool
	pending *Pending
	index   int
}

// finish records what became of the item, once. What an entry does not say is
// no last word on an item that is open: an earlier attempt may have sealed it,
// or may yet.
func (it *item) finish(ack server.Ack) {
	if e, ok := ack.Err.(*api.Error); ok && it.open && !e.HasSequence && e.Code != api.UnknownOutcome {
		ack = server.Ack{Err: &api.Error{
			Code:             api.UnknownOutcome,
			Message:          "an earlier attempt may have been written, and the event is not accepted now: " + e.Message,
			Hint:             "look the event up by its id",
			RetryAfterMillis: e.RetryAfterMillis,
		}}
	}
	if s := it.state.Swap(deciding); s == deciding || s == decided {
		it.state.Store(decided)
		return
	}
	it.pending.acks[it.index] = ack
	it.state.Store(decided)
	if it.pending.left.Add(-1) == 0 {
		close(it.pending.done)
	}
}

func (it *item) fail(err *api.Error) { it.finish(server.Ack{Err: err}) }

// Pending is a Submit under way; it implements server.Pending.
type Pending struct {
	items []item
	acks  []server.Ack
	left  atomic.Int32
	done  chan struct{}
	once  sync.Once
	// forget tells the queue that so many items were given up.
	forget func(int)
	// alone says why an event was never sent.
	alone func() *api.Error
}

// Wait implements server.Pending. Where ctx ends first, events that were never
// sent are given up for good and get api.NoLeader, or api.NotReady on a node that has
// not found its cluster yet; events whose outcome is open
// get api.UnknownOutcome; the error is nil then. It returns ctx's error alone
// where ctx was cancelled rather than timed out.
func (p *Pending) Wait(ctx context.Context) ([]server.Ack, error) {
	select {
	case <-p.done:
		return p.acks, nil
	case <-ctx.Done():
	}
	acks := make([]server.Ack, len(p.items))
	given := 0
	for i := range p.items {
		it := &p.items[i]
		switch {
		case it.state.CompareAndSwap(queued, cancelled):
			acks[i] = server.Ack{Err: p.alone()}
			given++
		case it.state.Load() == decided:
			acks[i] = p.acks[i]
		default:
			it.gone.Store(true)
			acks[i] = server.Ack{Err: errUnknown}
			given++
		}
	}
	p.once.Do(func() { p.forget(given) })
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err()
	}
	return acks, nil
}

var _ server.Pending = (*Pending)(nil)

var (
	errNoLeader = &api.Error{
		Code:             api.NoLeader,
		Message:          "no leader is known that could take the event; it was not written",
		Hint:             "try again; `exonode status` shows whether a quorum of nodes is up",
		RetryAfterMillis: 200,
	}
	errNotReady = &api.Error{
		Code:             api.NotReady,
		Message:          "the node has not found its cluster yet; the event was not written",
		Hint:             "try again, or another node; `exonode status` shows what it waits for",
		RetryAfterMillis: 500,
	}
	errUnknown = &api.Error{
		Code:             api.UnknownOutcome,
		Message:          "the deadline passed while the event was on its way; it may or may not be in the chain",
		Hint:             "send it again with the same id, or look it up by its id",
		RetryAfterMillis: 200,
	}
	errNotLeading = &api.Error{
		Code:             api.NoLeader,
		Message:          "this node does not lead the cluster any more; the event was not written",
		Hint:             "try again",
		RetryAfterMillis: 200,
	}
	errStopping = &api.Error{
		Code:             api.NotReady,
		Message:          "the node is stopping; the event was not written",
		Hint:             "send it to another node",
		RetryAfterMillis: 200,
	}
	errStoppingUnknown = &api.Error{
		Code:    api.UnknownOutcome,
		Message: "the node stopped while the event was on its way; it may or may not be in the chain",
		Hint:    "send it again with the same id to another node",
	}
)
