package pipeline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/server"
)

// ErrNotLeading answers a forwarded call at a node that does not lead (any
// more): it had no effect.
var ErrNotLeading = errors.New("this node does not lead")

// forwarding is the current run of groups to one leader.
type forwarding struct {
	leader string
	run    uint64
	next   uint64
	// broken is set by the first group of the run that failed.
	broken *atomic.Bool
}

// forward takes a group from the queue and sends it to the leader. It returns
// false where there was nothing to send. The caller holds a slot.
func (p *Pipeline) forward(ctx context.Context, leader string) bool {
	items := begin(p.queue.take(p.cfg.Limits.CommandBytes, func(*item) bool { return false }))
	if len(items) == 0 {
		return false
	}
	f := &p.forwarding
	if f.leader != leader || f.broken.Load() {
		*f = forwarding{leader: leader, run: rand.Uint64(), broken: new(atomic.Bool)}
	}
	request := binary.BigEndian.AppendUint64(nil, f.run)
	request = binary.BigEndian.AppendUint64(request, f.next)
	// A command without a verdict or a stamp: the leader decides.
	batch := fsm.Batch{Node: p.cfg.NodeID, Events: make([]fsm.Proposal, len(items))}
	salt(items)
	for i, it := range items {
		it.admitted = false // the leader's state decides, and ours if we lead next
		it.proposal.Verdict = nil
		batch.Events[i] = it.proposal
	}
	request, err := (&fsm.Command{Batch: &batch}).AppendBinary(request)
	if err != nil {
		p.cfg.Logger.Error("group does not encode", "events", len(items), "error", err)
		for _, it := range items {
			it.fail(&api.Error{Code: api.Internal, Message: fmt.Sprintf("the event does not encode: %v", err)})
		}
		return false
	}
	f.next++
	broken := f.broken
	p.stats.Forwards.Add(1)
	p.wg.Go(func() {
		defer p.release()
		p.carry(ctx, leader, request, items, broken)
	})
	return true
}

// carry sends one group and hands out the answers.
func (p *Pipeline) carry(ctx context.Context, leader string, request []byte, items []*item, broken *atomic.Bool) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Limits.Forward)
	defer cancel()
	reply, err := p.cfg.Peer.Call(ctx, leader, MethodAppend, request)
	var acks []server.Ack
	if err == nil {
		acks, err = decodeAcks(reply, len(items))
	}
	if err != nil {
		broken.Store(true)
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
	if len(request) < 16 {
		return nil, fmt.Errorf("forwarded group has %d bytes", len(request))
	}
	run, n := binary.BigEndian.Uint64(request), binary.BigEndian.Uint64(request[8:])
	var command fsm.Command
	if err := command.UnmarshalBinary(request[16:]); err != nil {
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
	if err := p.turns.pass(ctx, peer, run, n, func() { pending, pushErr = p.accept(peer, batch.Events) }); err != nil {
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
// peer's own and says so, or it is nobody's.
func (p *Pipeline) accept(peer string, events []fsm.Proposal) (*Pending, error) {
	return p.enqueue(events, origin{forwarded: true, internal: func(e *fsm.Proposal) bool {
		return e.Workspace == SystemWorkspace && e.Principal == NodePrincipal(peer)
	}})
}
