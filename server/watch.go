package server

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/internal/planted"
)

const (
	defaultHeartbeat = 10 * time.Second
	minHeartbeat     = 100 * time.Millisecond
	// watchBatch is the most entries in one message of a watch.
	watchBatch = 256
	// watchWindow is how many sequences a watch scans before it sees to its
	// heartbeat.
	watchWindow = 1 << 16
)

// watch is one Watch call: a position in the chain that only grows. What is
// below next has been sent, or does not match.
type watch struct {
	node   Reader
	filter chain.Filter
	form   exonodev1.EntryForm
	next   uint64
	send   func(*exonodev1.WatchResponse) error
	// timer fires when a heartbeat is due; every message sets it anew.
	timer *time.Timer
	every time.Duration
}

// Watch implements exonodev1connect.LedgerServiceHandler. It ends with
// api.NotReady when the server stops; the client then resumes elsewhere.
func (l *ledgerService) Watch(ctx context.Context, req *exonodev1.WatchRequest, stream *connect.ServerStream[exonodev1.WatchResponse]) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer onClose(ctx, l.stop, func() { cancel(errStopping()) })()
	err := runWatch(ctx, l.node, req, stream.Send)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// runWatch delivers entries until ctx ends or send fails.
func runWatch(ctx context.Context, node Reader, req *exonodev1.WatchRequest, send func(*exonodev1.WatchResponse) error) error {
	w := &watch{node: node, form: req.GetForm(), next: req.GetSequenceFrom(), send: send, every: defaultHeartbeat}
	if d := req.GetHeartbeat(); d != nil {
		if err := d.CheckValid(); err != nil || d.AsDuration() < minHeartbeat {
			return &api.Error{Code: api.BadField, Field: "heartbeat", Message: "the heartbeat is shorter than 100 ms", Hint: "leave it out for the default of 10 s"}
		}
		w.every = d.AsDuration()
	}
	var err error
	if w.filter, err = api.FilterFromProto(req.GetFilter()); err != nil {
		return err
	}
	if req.GetNewOnly() {
		if w.next != 0 {
			return &api.Error{Code: api.BadField, Field: "new_only", Message: "both new_only and sequence_from are set", Hint: "set one of them"}
		}
		// What was acknowledged before the call must not be delivered, so
		// this node's own head is not enough.
		if w.next, err = node.Await(ctx, Consistency{Level: Linearizable}); err != nil {
			return err
		}
	}
	w.timer = time.NewTimer(w.every)
	defer w.timer.Stop()
	// The first message comes at once: it tells the client that the watch
	// stands, and from where.
	if err := w.heartbeat(ctx); err != nil {
		return err
	}
	return w.run(ctx)
}

func (w *watch) run(ctx context.Context) error {
	for {
		size, err := w.node.Await(ctx, Consistency{Level: Stale})
		if err != nil {
			return err
		}
		for w.next < size {
			if err := w.deliver(ctx, min(size, w.next+watchWindow)); err != nil {
				return err
			}
			select {
			case <-w.timer.C:
				if err := w.heartbeat(ctx); err != nil {
					return err
				}
			default:
			}
		}
		select {
		case <-w.node.Grown(w.next):
		case <-w.timer.C:
			if err := w.heartbeat(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// deliver sends the matching entries below to and moves next there.
func (w *watch) deliver(ctx context.Context, to uint64) error {
	var batch []*exonodev1.Entry
	bytes := 0
	for record, err := range w.node.Scan(ctx, w.filter, w.next, to, false) {
		if err != nil {
			return err
		}
		if planted.WatchGap && record.Sequence%512 == 511 {
			continue // bug: it is never sent
		}
		entry, err := api.RecordToProto(record, w.form)
		if err != nil {
			return err
		}
		if planted.WatchTwice && record.Sequence%512 == 511 {
			batch = append(batch, entry) // bug: it is sent again below
		}
		batch = append(batch, entry)
		bytes += recordSize(record)
		if len(batch) == watchBatch || bytes > pageBytes {
			if err := w.message(&exonodev1.WatchResponse{Entries: batch, NextSequence: record.Sequence + 1}); err != nil {
				return err
			}
			batch, bytes = nil, 0
		}
	}
	if ctx.Err() != nil {
		// A scan that was cut short has not seen everything below to.
		return ctx.Err()
	}
	if len(batch) > 0 {
		if err := w.message(&exonodev1.WatchResponse{Entries: batch, NextSequence: to}); err != nil {
			return err
		}
	}
	w.next = to
	return nil
}

func (w *watch) heartbeat(ctx context.Context) error {
	head, err := w.node.Head(ctx)
	if err != nil {
		return err
	}
	return w.message(&exonodev1.WatchResponse{NextSequence: w.next, Head: headToProto(head)})
}

func (w *watch) message(m *exonodev1.WatchResponse) error {
	if err := w.send(m); err != nil {
		return err
	}
	w.next = m.NextSequence
	w.timer.Reset(w.every)
	return nil
}
