package pipeline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/server"
)

// ErrNotLeading answers a forwarded call at a node that does not lead (any
// more): it had no effect.
var ErrNotLeading = errors.New("this node does not lead")

// forwarding is the current run of groups to one leader: see turnstile.
type forwarding struct {
	at place // of the next group
	// ctx is the context of the run's calls. The first group that fails
	// ends it for the others: what follows that group in the run would wait
	// for it at the leader, or overtake it.
	ctx context.Context
	end context.CancelFunc
}

func (f *forwarding) init() {
	f.at.forwarder = rand.Uint64()
	f.ctx, f.end = context.WithCancel(context.Background())
	f.end() // the first group begins a run
}

// next returns the place of the next group, beginning a new run where the last
// one has ended: by a failure, or since another leads.
func (f *forwarding) next(role *standing) place {
	if f.ctx.Err() != nil {
		f.at.run, f.at.group = f.at.run+1, 0
		f.ctx, f.end = context.WithCancel(role.calls)
	}
	at := f.at
	f.at.group++
	return at
}

// forward takes a group from the queue and sends it to the leader. It returns
// false where there was nothing to send. The caller holds a slot.
func (p *Pipeline) forward(role *standing) bool {
	items := begin(p.queue.take(p.cfg.Limits.CommandBytes, func(*item) bool { return false }))
	items = unbound(items)
	if len(items) == 0 {
		return false
	}
	// A command without a verdict or a stamp: the leader decides.
	batch := fsm.Batch{Node: p.cfg.NodeID, Events: make([]fsm.Proposal, len(items))}
	salt(items)
	for i, it := range items {
		it.admitted = false // the leader's state decides, and ours if we lead next
		it.proposal.Verdict = nil
		batch.Events[i] = it.proposal
	}
	request, err := (&fsm.Command{Batch: &batch}).AppendBinary(make([]byte, placeSize))
	if err != nil {
		p.cfg.Logger.Error("group does not encode", "events", len(items), "error", err)
		for _, it := range items {
			it.fail(&api.Error{Code: api.Internal, Message: fmt.Sprintf("the event does not encode: %v", err)})
		}
		return false
	}
	f := &p.forwarding
	f.next(role).put(request)
	run, end := f.ctx, f.end
	p.stats.Forwards.Add(1)
	p.wg.Go(func() {
		defer p.release()
		p.carry(run, end, role.Leader, request, items)
	})
	return true
}

// unbound drops, and answers, items that came back just now and that this node
// can't forward.
func unbound(items []*item) []*item {
	live := items[:0]
	for _, it := range items {
		if it.bound {
			it.fail(errNotLeading)
			continue
		}
		live = append(live, it)
	}
	return live
}

// placeSize is the length of an encoded place: its three numbers as u64.
const placeSize = 24

func (at place) put(b []byte) {
	for i, n := range []uint64{at.forwarder, at.run, at.group} {
		binary.BigEndian.PutUint64(b[8*i:], n)
	}
}

func placeOf(b []byte) place {
	return place{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
}

// carry sends one group of a run and hands out the answers.
func (p *Pipeline) carry(run context.Context, end context.CancelFunc, leader string, request []byte, items []*item) {
	ctx, cancel := context.WithTimeout(run, p.cfg.Limits.Forward)
	defer cancel()
	reply, err := p.cfg.Peer.Call(ctx, leader, MethodAppend, request)
	var acks []server.Ack
	if err == nil {
		acks, err = decodeAcks(reply, len(items))
	}
	if err != nil {
		end()
		p.cfg.Logger.Debug("group not forwarded", "leader", leader, "events", len(items), "error", err)
		p.again(items, !errors.Is(err, ErrNotSent))
		return
	}
	var retry []*item
	for i, it := range items {
		if e, ok := acks[i].Err.(*api.Error); ok && retriable(e) {
			it.open = it.open || e.Code == api.UnknownOutcome
			retry = append(retry, it)
			continue
		}
		it.finish(acks[i])
	}
	if len(retry) > 0 {
		p.again(retry, false)
	}
}

// retriable reports whether the leader's answer leaves the event to be tried
// again within its caller's deadline.
func retriable(e *api.Error) bool {
	return e.Code == api.NotReady || e.Code == api.NoLeader || e.Code == api.UnknownOutcome || e.Code == api.QueueFull
}

// ServeAppend answers MethodAppend, from a peer that the transport knows as a
// member.
func (p *Pipeline) ServeAppend(ctx context.Context, peer string, request []byte) ([]byte, error) {
	if len(request) < placeSize {
		return nil, fmt.Errorf("forwarded group has %d bytes", len(request))
	}
	var command fsm.Command
	if err := command.UnmarshalBinary(request[placeSize:]); err != nil {
		return nil, err
	}
	if command.Batch == nil {
		return nil, errors.New("forwarded group is not a batch")
	}
	batch := command.Batch
	if !p.role.Load().Leading {
		return nil, ErrNotLeading
	}
	var pending *Pending
	var pushErr error
	if err := p.turns.pass(ctx, peer, placeOf(request), func() { pending, pushErr = p.accept(peer, batch.Events) }); err != nil {
		return nil, err
	}
	if pushErr != nil {
		var full *api.Error
		if errors.As(pushErr, &full) {
			acks := make([]server.Ack, len(batch.Events))
			for i := range acks {
				acks[i].Err = full
			}
			return encodeAcks(acks)
		}
		return nil, pushErr
	}
	acks, err := pending.Wait(ctx)
	if err != nil {
		return nil, err
	}
	return encodeAcks(acks)
}

// accept queues what a peer forwards. An event in workspace system is the
// peer's own and says so, or it is nobody's. Where this node ceases to lead, the
// peer forwards it again, to who leads then: from us, nobody would take the
// peer's word for it.
func (p *Pipeline) accept(peer string, events []fsm.Proposal) (*Pending, error) {
	return p.enqueue(events, origin{
		internal: func(e *fsm.Proposal) bool {
			return e.Workspace == SystemWorkspace && e.Principal == fsm.NodePrincipal(peer)
		},
		bound: func(*fsm.Proposal) bool { return true },
	})
}
