package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"connectrpc.com/connect"
	"golang.org/x/sync/semaphore"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

const (
	// maxEvents is the most events that one message may carry.
	maxEvents = 4096
	// streamWindow bounds the bytes of one stream's events that are submitted
	// and not answered; HTTP/2 flow control holds the client back beyond it.
	streamWindow = 8 << 20
	// eventOverhead is what an event counts in the window besides its payload.
	eventOverhead = 512
	// streamPendings bounds the submits under way on one stream.
	streamPendings = 1024
	// maxAcks is where a response on a stream stops growing.
	maxAcks = 4096
)

// submission is some events under way: those that the node took, and those that
// could not even be converted, each by its place.
type submission struct {
	count   int
	pending Pending // nil where no event was taken
	refused map[int]error
	weight  int64
}

// submit converts events and hands them to the node. An event that can't be
// converted gets its error in its Ack, as those that the node refuses.
func submit(ctx context.Context, w Writer, caller Caller, list []*exonodev1.Event) (submission, error) {
	s := submission{count: len(list)}
	if len(list) > maxEvents {
		return s, &api.Error{Code: api.TooLarge, Field: "events", Message: fmt.Sprintf("%d events in one message, the limit is %d", len(list), maxEvents), Hint: "send several messages"}
	}
	events := make([]chain.Event, len(list))
	n := 0
	for i, p := range list {
		if err := api.FillEvent(&events[n], p); err != nil {
			if s.refused == nil {
				s.refused = make(map[int]error)
			}
			s.refused[i] = err
			events[n] = chain.Event{}
			continue
		}
		n++
	}
	return s, s.hand(ctx, w, caller, events[:n])
}

func (s *submission) hand(ctx context.Context, w Writer, caller Caller, events []chain.Event) error {
	if len(events) == 0 {
		return nil
	}
	var err error
	s.pending, err = w.Submit(ctx, caller, events)
	return err
}

// wait returns one Ack for each event, in order.
func (s *submission) wait(ctx context.Context) ([]Ack, error) {
	if s.pending == nil && len(s.refused) == 0 {
		return nil, nil
	}
	var taken []Ack
	if s.pending != nil {
		var err error
		if taken, err = s.pending.Wait(ctx); err != nil {
			return nil, err
		}
	}
	if len(taken)+len(s.refused) != s.count {
		return nil, &api.Error{Code: api.Internal, Message: fmt.Sprintf("the node answered %d of %d events", len(taken), s.count-len(s.refused))}
	}
	if len(s.refused) == 0 {
		return taken, nil
	}
	acks := make([]Ack, 0, s.count)
	for i := range s.count {
		if err, ok := s.refused[i]; ok {
			acks = append(acks, Ack{Err: err})
			continue
		}
		acks = append(acks, taken[0])
		taken = taken[1:]
	}
	return acks, nil
}

// Append implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) Append(ctx context.Context, req *exonodev1.AppendRequest) (*exonodev1.AppendResponse, error) {
	events := make([]chain.Event, 1)
	if err := api.FillEvent(&events[0], req.GetEvent()); err != nil {
		return nil, err
	}
	pending, err := l.node.Submit(ctx, callerOf(ctx), events)
	if err != nil {
		return nil, err
	}
	acks, err := pending.Wait(ctx)
	if err != nil {
		return nil, err
	}
	l.metrics.acks(acks)
	if len(acks) != 1 {
		return nil, &api.Error{Code: api.Internal, Message: fmt.Sprintf("the node answered %d of 1 event", len(acks))}
	}
	if acks[0].Err != nil {
		return nil, ackError(&acks[0])
	}
	ack := new(exonodev1.Ack)
	fillAck(ack, &acks[0])
	return &exonodev1.AppendResponse{Ack: ack}, nil
}

// AppendBatch implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) AppendBatch(ctx context.Context, req *exonodev1.AppendBatchRequest) (*exonodev1.AppendBatchResponse, error) {
	s, err := submit(ctx, l.node, callerOf(ctx), req.GetEvents())
	if err != nil {
		return nil, err
	}
	acks, err := s.wait(ctx)
	if err != nil {
		return nil, err
	}
	l.metrics.acks(acks)
	return &exonodev1.AppendBatchResponse{Acks: acksToProto(nil, acks)}, nil
}

// acksToProto appends acks to list; it shares their hashes and verdicts.
func acksToProto(list []*exonodev1.Ack, acks []Ack) []*exonodev1.Ack {
	slab := make([]exonodev1.Ack, len(acks))
	for i := range acks {
		fillAck(&slab[i], &acks[i])
		list = append(list, &slab[i])
	}
	return list
}

// appendStream is the stream of one caller. A reader submits in the order of
// arrival, a waiter waits for the answers in that order, and the handler's own
// goroutine sends them, as many in one message as are there.
type appendStream struct {
	node    Writer
	caller  Caller
	metrics *metrics
	// window holds the reader back.
	window *semaphore.Weighted
	// pending goes from reader to waiter; the reader closes it.
	pending chan submission
	// acks goes from waiter to sender; the waiter closes it.
	acks chan []Ack
	// stop is closed when the server shuts down. The reader then begins no more
	// submits; those that it has begun, the waiter waits for.
	stop  <-chan struct{}
	begun atomic.Int64
}

// AppendStream implements exonodev1connect.LedgerServiceHandler.
//
// It returns once everything that was submitted is answered: at the client's
// half-close, or when the server stops. When the stream breaks, what is under
// way may still commit; the client sends it again with the same ids.
func (l *ledgerService) AppendStream(ctx context.Context, stream *connect.BidiStream[exonodev1.AppendStreamRequest, exonodev1.AppendStreamResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a := &appendStream{
		node:    l.node,
		caller:  callerOf(ctx),
		metrics: l.metrics,
		window:  semaphore.NewWeighted(streamWindow),
		pending: make(chan submission, streamPendings),
		acks:    make(chan []Ack, streamPendings),
		stop:    l.stop,
	}

	// The reader may hang in Receive until the handler returns, so it can't be
	// joined here: Server.Close joins it.
	read := make(chan error, 1)
	if !l.readers.add() {
		return errStopping()
	}
	go func() {
		defer l.readers.done()
		read <- a.read(ctx, stream.Receive)
	}()

	waited := make(chan error, 1)
	go func() { waited <- a.wait(ctx) }()
	sent := a.send(stream.Send)
	if sent != nil {
		cancel()
	}
	// The waiter ends with the reader's half, or with ctx.
	if err := <-waited; sent == nil && err != nil {
		return err
	}
	if sent != nil {
		return sent
	}
	return <-read
}

// read submits what receive returns until the client half-closes.
func (a *appendStream) read(ctx context.Context, receive func() (*exonodev1.AppendStreamRequest, error)) error {
	defer close(a.pending)
	for {
		req, err := receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		a.begun.Add(1) // before it looks at stop: the waiter looks the other way round
		select {
		case <-a.stop:
			return errStopping()
		default:
		}
		s, err := a.submit(ctx, req.GetEvents())
		if err != nil {
			return err
		}
		select {
		case a.pending <- s:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// submit waits for the stream's window, and for the node's queue where that is
// full: a stream is held back, not refused.
func (a *appendStream) submit(ctx context.Context, list []*exonodev1.Event) (submission, error) {
	weight := int64(0)
	for _, p := range list {
		weight += eventOverhead + int64(len(p.GetData())+len(p.GetText()))
	}
	weight = min(weight, streamWindow)
	if err := a.window.Acquire(ctx, weight); err != nil {
		return submission{}, err
	}
	for {
		s, err := submit(ctx, a.node, a.caller, list)
		s.weight = weight
		if api.CodeOf(err) != api.QueueFull {
			return s, err
		}
		if err := pause(ctx, a.stop, err); err != nil {
			return s, err
		}
	}
}

// wait passes on the answers in order. It returns nil once the reader has ended
// and everything is answered, and an error when the server stops: then what was
// submitted so far is answered.
func (a *appendStream) wait(ctx context.Context) error {
	defer close(a.acks)
	for taken := int64(0); ; taken++ {
		s, ok, err := a.next(taken)
		if !ok || err != nil {
			return err
		}
		acks, err := s.wait(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// The node gave up on these; the stream goes on.
			acks = make([]Ack, s.count)
			for i := range acks {
				acks[i].Err = err
			}
		}
		a.metrics.acks(acks)
		a.window.Release(s.weight)
		select {
		case a.acks <- acks:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next returns the next submission, of which so many were taken; false once the reader
// has ended and there is none.
func (a *appendStream) next(taken int64) (s submission, ok bool, err error) {
	select {
	case s, ok = <-a.pending:
		return s, ok, nil
	case <-a.stop:
	}
	// What the reader has begun comes, or the reader ends over it.
	if taken < a.begun.Load() {
		if s, ok = <-a.pending; ok {
			return s, true, nil
		}
	}
	return s, false, errStopping()
}

// send sends what wait passes on, all that is there in one message.
func (a *appendStream) send(send func(*exonodev1.AppendStreamResponse) error) error {
	for acks := range a.acks {
		list := acksToProto(make([]*exonodev1.Ack, 0, len(acks)), acks)
	more:
		for len(list) < maxAcks {
			select {
			case acks, ok := <-a.acks:
				if !ok {
					break more
				}
				list = acksToProto(list, acks)
			default:
				break more
			}
		}
		if len(list) == 0 {
			continue
		}
		if err := send(&exonodev1.AppendStreamResponse{Acks: list}); err != nil {
			return err
		}
	}
	return nil
}
