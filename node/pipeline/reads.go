package pipeline

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/internal/planted"
)

// read is a linearizable read that waits to learn how long the chain must be.
type read struct {
	size uint64
	err  error
	done chan struct{}
}

func (r *read) finish(size uint64, err error) {
	r.size, r.err = size, err
	close(r.done)
}

// reads are those that nothing has been sent for yet.
type reads struct {
	wake chan struct{}

	mu      sync.Mutex // guards the fields below
	waiting []*read
	closed  bool
}

func (r *reads) init() { r.wake = make(chan struct{}, 1) }

func (r *reads) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *reads) add() *read {
	rd := &read{done: make(chan struct{})}
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.waiting = append(r.waiting, rd)
	}
	r.mu.Unlock()
	if closed {
		rd.finish(0, errReadStopping)
		return rd
	}
	r.notify()
	return rd
}

// close ends all reads, those to come included.
func (r *reads) close() {
	r.mu.Lock()
	r.closed = true
	waiting := r.waiting
	r.waiting = nil
	r.mu.Unlock()
	for _, rd := range waiting {
		rd.finish(0, errReadStopping)
	}
}

var errReadStopping = &api.Error{Code: api.NotReady, Message: "the node is stopping", Hint: "read from another node"}

func (r *reads) takeAll() []*read {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.waiting
	r.waiting = nil
	return taken
}

func (r *reads) giveBack(rs []*read) {
	if len(rs) == 0 {
		return
	}
	r.mu.Lock()
	closed := r.closed
	if !closed {
		r.waiting = append(rs, r.waiting...)
	}
	r.mu.Unlock()
	if !closed {
		r.notify()
		return
	}
	for _, rd := range rs {
		rd.finish(0, errReadStopping)
	}
}

// ReadIndex returns a chain size such that reading at or beyond it sees every
// event that was acknowledged before the call. The leader answers with the size
// after the next command that it proposes, or after a barrier where it has
// none: only what it commits proves that it still leads. Never raft's indexes,
// and never a lease.
func (p *Pipeline) ReadIndex(ctx context.Context) (uint64, error) {
	if planted.StaleRead {
		return p.cfg.Head().Size, nil // bug: the cluster may have more
	}
	rd := p.reads.add()
	select {
	case <-rd.done:
		return rd.size, rd.err
	case <-ctx.Done():
		return 0, p.readError(ctx)
	}
}

func (p *Pipeline) readError(ctx context.Context) error {
	if ctx.Err() == context.Canceled {
		return ctx.Err()
	}
	if !p.role.Load().known {
		return &api.Error{
			Code:             api.NotReady,
			Message:          "the node has not found its cluster yet",
			Hint:             "try again, or another node; `exonode status` shows what it waits for",
			RetryAfterMillis: 500,
		}
	}
	return &api.Error{
		Code:             api.NoLeader,
		Message:          "no leader answered before the deadline, so the read can't be linearizable",
		Hint:             "try again, or ask for a stale read",
		RetryAfterMillis: 200,
	}
}

// runReads answers reads that no command carries.
func (p *Pipeline) runReads(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			p.reads.close()
			return
		case <-p.reads.wake:
		case <-timer.C:
		}
		role := p.role.Load()
		if !role.Leading && role.Leader == "" {
			continue // SetRole notifies
		}
		if role.Leading && p.queue.len() > 0 {
			// The next command takes them along; look again in case a
			// full pipeline, or none, keeps it waiting.
			timer.Reset(pause)
			continue
		}
		batch := p.reads.takeAll()
		if len(batch) == 0 {
			continue
		}
		size, err := p.askOnce(role)
		if err != nil {
			p.cfg.Logger.Debug("read index not obtained", "leader", role.Leader, "error", err)
			p.reads.giveBack(batch)
			timer.Reset(pause)
			// giveBack's notice would have us spin: the timer is enough.
			select {
			case <-p.reads.wake:
			default:
			}
			continue
		}
		for _, rd := range batch {
			rd.finish(size, nil)
		}
	}
}

func (p *Pipeline) askOnce(role *standing) (uint64, error) {
	if role.Leading {
		p.stats.Barriers.Add(1)
		if err := p.cfg.Log.Barrier(enqueueTimeout); err != nil {
			return 0, fmt.Errorf("barrier: %w", err)
		}
		return p.cfg.Head().Size, nil
	}
	ctx, cancel := context.WithTimeout(role.calls, p.cfg.Limits.Forward)
	defer cancel()
	reply, err := p.cfg.Peer.Call(ctx, role.Leader, MethodRead, nil)
	if err != nil {
		return 0, err
	}
	if len(reply) != 8 {
		return 0, fmt.Errorf("the leader answered a read with %d bytes", len(reply))
	}
	return binary.BigEndian.Uint64(reply), nil
}

// ServeRead answers MethodRead.
func (p *Pipeline) ServeRead(ctx context.Context) ([]byte, error) {
	if !p.role.Load().Leading {
		return nil, ErrNotLeading
	}
	size, err := p.ReadIndex(ctx)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint64(nil, size), nil
}
