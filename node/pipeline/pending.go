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
	// forwarded: it came from a peer, which forwards it again where we are
	// not the leader any more.
	forwarded bool
	// internal: a node wrote it; it may be in workspace system.
	internal bool
	// admitted: checked against the folded state.
	admitted bool
	// open: it was sent once, and what became of that is unknown.
	open    bool
	stales  int
	pending *Pending
	index   int
}

// finish records what became of the item, once.
func (it *item) finish(ack server.Ack) {
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
	// forget tells the queue that items were given up.
	forget func()
}

// Wait implements server.Pending. Where ctx ends first, events that were never
// sent are given up for good and get api.NoLeader; events whose outcome is open
// get api.UnknownOutcome; the error is nil then. It returns ctx's error alone
// where ctx was cancelled rather than timed out.
func (p *Pending) Wait(ctx context.Context) ([]server.Ack, error) {
	select {
	case <-p.done:
		return p.acks, nil
	case <-ctx.Done():
	}
	acks := make([]server.Ack, len(p.items))
	for i := range p.items {
		it := &p.items[i]
		switch {
		case it.state.CompareAndSwap(queued, cancelled):
			acks[i] = server.Ack{Err: errNoLeader}
		case it.state.Load() == decided:
			acks[i] = p.acks[i]
		default:
			acks[i] = server.Ack{Err: errUnknown}
		}
	}
	p.once.Do(p.forget)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err()
	}
	return acks, nil
}

var _ server.Pending = (*Pending)(nil)

var (
	errNoLeader = &api.Error{
		Code:             api.NoLeader,
		Message:          "no leader took the event before the deadline; it was not written",
		Hint:             "try again; `exonode status` shows whether a quorum of nodes is up",
		RetryAfterMillis: 200,
	}
	errUnknown = &api.Error{
		Code:             api.UnknownOutcome,
		Message:          "the deadline passed while the event was on its way; it may or may not be in the chain",
		Hint:             "send it again with the same id, or look it up by its id",
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
