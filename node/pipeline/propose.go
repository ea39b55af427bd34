package pipeline

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/internal/planted"
	"github.com/exonode/exonode/server"
)

// command is one that raft has in hand.
type command struct {
	items  []*item
	future Future
	// reads wait for the chain to be as long as this command makes it.
	reads []*read
	// revision is what the events were evaluated at.
	revision uint64
}

// propose takes a group from the queue, evaluates it and hands it to raft. It
// returns false where there was nothing to send. The caller holds a slot, which
// the reaper frees.
//
// A command that moves the governance revision travels alone: nothing is in
// flight when it is evaluated, and nothing is evaluated until it is applied. So
// the verdicts of a leader are stale only where another leader came between.
func (p *Pipeline) propose() bool {
	items := begin(p.queue.take(p.cfg.Limits.CommandBytes, p.alone))
	if len(items) == 0 {
		return false
	}
	exclusive := p.alone(items[0])
	if exclusive {
		p.acquire(cap(p.slots) - 1) // with ours: all
	}
	view := p.cfg.View()
	items = p.evaluate(view, items)
	if planted.LostAck {
		items = p.early(items, func(*item) {}) // bug: acknowledged, and forgotten
	}
	if planted.Reorder {
		items = p.early(items, p.later) // bug: acknowledged, and proposed after others
	}
	if len(items) == 0 {
		if exclusive {
			p.free(cap(p.slots) - 1)
		}
		return false
	}
	batch := fsm.Batch{
		Stamp:    p.cfg.Clock().UnixNano(),
		Node:     p.cfg.NodeID,
		Revision: view.Revision(),
		Events:   make([]fsm.Proposal, len(items)),
	}
	salt(items)
	for i, it := range items {
		batch.Events[i] = it.proposal
	}
	encoded, err := (&fsm.Command{Batch: &batch}).AppendBinary(nil)
	if err != nil {
		p.cfg.Logger.Error("command does not encode", "events", len(items), "error", err)
		for _, it := range items {
			it.fail(&api.Error{Code: api.Internal, Message: fmt.Sprintf("the event does not encode: %v", err)})
		}
		if exclusive {
			p.free(cap(p.slots) - 1)
		}
		return false
	}
	c := command{items: items, revision: batch.Revision, reads: p.reads.takeAll()}
	c.future = p.cfg.Log.Apply(encoded, enqueueTimeout)
	p.stats.Commands.Add(1)
	p.stats.Events.Add(uint64(len(items)))
	p.commands <- c
	if exclusive {
		p.acquire(1) // the reaper freed it: the command has landed
		p.free(cap(p.slots))
	}
	return true
}

// acquire takes n slots, waiting for what is in flight. Commands end without
// our doing: a leader that loses its quorum steps down, and raft then answers
// all of them.
func (p *Pipeline) acquire(n int) {
	for range n {
		p.slots <- struct{}{}
	}
}

func (p *Pipeline) free(n int) {
	for range n {
		<-p.slots
	}
}

// alone reports whether an item's entry moves the governance revision.
func (p *Pipeline) alone(it *item) bool {
	return it.internal && gates.Bumps(it.proposal.Workspace, it.proposal.Kind)
}

// evaluate admits what was not admitted yet, or by other rules, fills in schema
// versions, and has the gates decide. What is refused is decided and left out.
func (p *Pipeline) evaluate(view *fsm.View, items []*item) []*item {
	live := items[:0]
	for _, it := range items {
		if !it.admitted || it.revision != view.Revision() {
			if err := admit(view, it); err != nil {
				it.fail(err)
				continue
			}
		}
		it.proposal.Verdict = view.Evaluate(&it.proposal)
		if planted.Verdict && it.proposal.Verdict != nil {
			it.proposal.Verdict.Decision = chain.Permit // bug: whatever the policy says
		}
		live = append(live, it)
	}
	return live
}

// reap waits for commands in the order in which they were proposed.
func (p *Pipeline) reap() {
	for c := range p.commands {
		p.land(c)
		p.release()
	}
}

func (p *Pipeline) land(c command) {
	err := c.future.Error()
	if err == nil {
		if result, ok := c.future.Response().(*fsm.BatchResult); ok && len(result.Results) == len(c.items) {
			p.answer(c, result)
			return
		}
		err = fmt.Errorf("the state machine answered %T", c.future.Response())
	}
	// Determinate: raft never took the command. Everything else is open.
	determinate := errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrEnqueueTimeout) ||
		errors.Is(err, raft.ErrLeadershipTransferInProgress)
	p.cfg.Logger.Debug("command did not commit", "events", len(c.items), "determinate", determinate, "error", err)
	p.reads.giveBack(c.reads)
	p.again(c.items, !determinate)
}

func (p *Pipeline) answer(c command, result *fsm.BatchResult) {
	for _, r := range c.reads {
		r.finish(result.Head.Size, nil)
	}
	var stale []*item
	for i, it := range c.items {
		r := &result.Results[i]
		if r.Status == fsm.Stale {
			stale = append(stale, it)
			continue
		}
		it.finish(ackOf(&it.proposal, r))
	}
	if len(stale) > 0 {
		p.again(stale, false)
	}
}

// ackOf is the one place where the state machine's answers become those of the
// API.
func ackOf(p *fsm.Proposal, r *fsm.Result) server.Ack {
	ack := server.Ack{Sequence: r.Sequence, Hash: r.Hash, Time: r.Time, Verdict: r.Verdict}
	about := func(code api.Code, message, hint string) *api.Error {
		return &api.Error{Code: code, Message: message, Hint: hint, Sequence: r.Sequence, HasSequence: true}
	}
	switch r.Status {
	case fsm.Appended:
	case fsm.Duplicate:
		ack.Duplicate = true
	case fsm.Conflict:
		ack.Err = about(api.Conflict, fmt.Sprintf("another event has the id %q of source %q in workspace %q: entry %d", p.ID, p.Source, p.Workspace, r.Sequence),
			"use a new id for a new event; to repeat an event send exactly the same fields")
	case fsm.NotComparable:
		ack.Err = about(api.NotComparable, fmt.Sprintf("the id %q of source %q in workspace %q was used by what entry %d decided, whose content can't be compared", p.ID, p.Source, p.Workspace, r.Sequence),
			"use a new id")
	case fsm.DeniedNow:
		ack.Err = about(api.GateDenied, fmt.Sprintf("gate %s denied %s: %v", gateOf(r.Verdict), p.Kind, reasonsOf(r.Verdict)),
			"the denial is on record; the policy in force decides what is allowed")
	case fsm.Escalated, fsm.StillPending:
		ack.Duplicate = r.Status == fsm.StillPending
		ack.Err = about(api.Escalated, fmt.Sprintf("gate %s asks for approval of %s: %v", gateOf(r.Verdict), p.Kind, reasonsOf(r.Verdict)),
			"the request is on record and the event does not commit until it is approved")
	case fsm.Refused:
		e := &api.Error{Code: api.BadField, Message: r.Err.Error()}
		if errors.Is(r.Err, fsm.ErrCause) {
			e.Field, e.Hint = "causes", "causes are entries that are in the chain already"
		}
		ack.Err = e
	default:
		ack.Err = &api.Error{Code: api.Internal, Message: fmt.Sprintf("unknown status %d", r.Status)}
	}
	return ack
}

func gateOf(v *chain.Verdict) string {
	if v == nil {
		return "?"
	}
	return v.Gate
}

func reasonsOf(v *chain.Verdict) []string {
	if v == nil {
		return nil
	}
	return v.Reasons
}
