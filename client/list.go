package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// ListQuery selects entries of the chain as it is when the listing begins.
type ListQuery struct {
	chain.Filter
	// From (inclusive) and To (exclusive) bound the sequence; To 0 is the
	// head.
	From, To uint64
	// Reverse yields the newest first.
	Reverse bool
	// PageSize is how many entries are asked for at once; 0 lets the node
	// choose.
	PageSize int
}

// List yields matching entries in order, fetching page by page. It ends after
// the last one, or after an error.
func (r Reader) List(ctx context.Context, q ListQuery) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		req := &exonodev1.ListRequest{
			Filter:       api.FilterToProto(q.Filter),
			SequenceFrom: q.From, SequenceTo: q.To, Reverse: q.Reverse,
			PageSize:    int32(min(max(q.PageSize, 0), 1000)),
			Consistency: r.consistency(),
			Form:        exonodev1.EntryForm_ENTRY_FORM_RAW,
		}
		order := order{reverse: q.Reverse, from: q.From, to: q.To}
		for {
			page, err := try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (page, error) {
				return r.page(ctx, ep, req, order)
			})
			if err != nil {
				yield(Entry{}, err)
				return
			}
			for _, e := range page.entries {
				if !yield(e, nil) {
					return
				}
			}
			order = page.order
			if req.PageToken = page.next; req.PageToken == "" {
				return
			}
		}
	}
}

// page is one page of a listing, checked.
type page struct {
	entries []Entry
	next    string
	order   order // after its last entry
}

func (r Reader) page(ctx context.Context, ep *endpoint, req *exonodev1.ListRequest, o order) (page, error) {
	res, err := ep.ledger.List(ctx, req)
	if err != nil {
		return page{}, err
	}
	r.c.observe(res.GetChainSize())
	p := page{next: res.GetNextPageToken()}
	for _, m := range res.GetEntries() {
		e, err := checkEntry(m, ep.address)
		if err != nil {
			return page{}, err
		}
		if problem := o.next(e.Sequence); problem != "" {
			return page{}, &VerifyError{ep.address, e.Sequence, problem}
		}
		p.entries = append(p.entries, e)
	}
	p.order = o
	return p, nil
}

// order checks that a listing's sequences go one way and stay within bounds.
type order struct {
	reverse, any bool
	last         uint64
	from, to     uint64
}

func (o *order) next(seq uint64) (problem string) {
	switch {
	case seq < o.from || o.to != 0 && seq >= o.to:
		problem = fmt.Sprintf("the listing is of [%d, %d)", o.from, o.to)
	case o.any && !o.reverse && seq <= o.last, o.any && o.reverse && seq >= o.last:
		problem = fmt.Sprintf("the listing had entry %d before it", o.last)
	}
	o.any, o.last = true, seq
	return problem
}

// WatchQuery selects entries to be delivered as they are sealed.
type WatchQuery struct {
	chain.Filter
	// From is the first sequence to look at: to go on after an entry, its
	// sequence plus one.
	From uint64
	// NewOnly starts after what is in the chain when the watch begins, at
	// the reader's consistency; From must be 0.
	NewOnly bool
	// Progress, where not nil, is called whenever all matching entries below
	// next have been yielded, at least every few seconds: a caller that
	// keeps next need not look at what did not match again.
	Progress func(next uint64)
}

const watchHeartbeat = 3 * time.Second

// Watch yields matching entries, those in the chain first and then new ones as
// they are sealed, each once and in order, over failures of nodes and changes
// of the leader. It ends when the caller breaks, or after an error: ctx's own,
// an *UnreachableError after Config.RetryFor without any node, a *VerifyError
// where a node left a gap, went back, or (in a watch without a filter) told an
// entry that does not link to the one before.
//
// Delivery needs no leader; an entry is delivered once the node has applied it.
func (r Reader) Watch(ctx context.Context, q WatchQuery) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		w := watch{r: r, q: q, next: q.From, whole: q.Filter == chain.Filter{}}
		if q.NewOnly {
			if q.From != 0 {
				yield(Entry{}, errors.New("client: a watch has either From or NewOnly"))
				return
			}
			h, err := r.Head(ctx)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			w.next, w.previous = h.Size, h.Hash
		}
		if err := w.run(ctx, yield); err != nil {
			yield(Entry{}, err)
		}
	}
}

// watch is one Watch under way.
type watch struct {
	r     Reader
	q     WatchQuery
	whole bool // no filter: every sequence comes
	next  uint64
	// previous is the hash of entry next-1 in a whole watch; zero where
	// unknown.
	previous chain.Hash
	stopped  bool // the caller broke off
}

// run watches at one address after the other; nil means that the caller broke
// off.
func (w *watch) run(ctx context.Context, yield func(Entry, error) bool) error {
	c := w.r.c
	ctx, cancel, stop := c.attach(ctx)
	defer cancel(nil)
	defer stop()
	endpoints, at := c.endpoints, int(c.current.Load())
	if w.r.only != nil {
		endpoints, at = []*endpoint{w.r.only}, 0
	}
	n := len(endpoints)
	pace := backoff{rand: c.cfg.Rand}
	tried := make([]Attempt, 0, n)
	since := time.Now() // of the last message
	for failures := 0; ; at++ {
		ep := endpoints[at%n]
		heard, err := w.session(ctx, ep, yield)
		if w.stopped {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err = fromConnect(err); classifyCall(err) == determinate {
			return err
		}
		c.log.Info("watch_ended", "address", ep.address, "error", err, "next", w.next)
		if heard {
			pace.reset()
			failures, tried, since = 0, tried[:0], time.Now()
		}
		tried = appendAttempt(tried, ep.address, err)
		if time.Since(since) > c.cfg.RetryFor {
			return &UnreachableError{Tried: tried, Cause: errRetryFor}
		}
		if failures++; failures%n == 0 {
			if sleep(ctx, max(pace.next(), retryAfter(err))) != nil {
				return context.Cause(ctx)
			}
		}
	}
}

// session watches at one address until the stream ends, and reports whether a
// message came.
func (w *watch) session(ctx context.Context, ep *endpoint, yield func(Entry, error) bool) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := max(w.r.c.cfg.Stall, 2*watchHeartbeat)
	silence := time.AfterFunc(limit, func() { cancel(errStalled) })
	defer silence.Stop()
	stream, err := ep.ledger.Watch(ctx, &exonodev1.WatchRequest{
		Filter: api.FilterToProto(w.q.Filter), SequenceFrom: w.next,
		Form: exonodev1.EntryForm_ENTRY_FORM_RAW, Heartbeat: durationpb.New(watchHeartbeat),
	})
	if err != nil {
		return false, silenced(ctx, err)
	}
	defer stream.Close() // its error says nothing that Err does not
	for stream.Receive() {
		// A consumer may take its time: only the node is timed.
		silence.Stop()
		heard = true
		if err := w.deliver(stream.Msg(), ep, yield); err != nil || w.stopped {
			return heard, err
		}
		silence.Reset(limit)
	}
	if err := stream.Err(); err != nil {
		return heard, silenced(ctx, err)
	}
	return heard, errors.New("the node ended the stream")
}

// silenced replaces the error of a canceled call by why it was canceled.
func silenced(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return errStalled
	}
	return err
}

// deliver checks a message and yields its entries.
func (w *watch) deliver(m *exonodev1.WatchResponse, ep *endpoint, yield func(Entry, error) bool) error {
	for _, me := range m.GetEntries() {
		e, err := checkEntry(me, ep.address)
		if err != nil {
			return err
		}
		switch {
		case e.Sequence < w.next:
			return &VerifyError{ep.address, e.Sequence, fmt.Sprintf("the watch was at %d already", w.next)}
		case w.whole && e.Sequence != w.next:
			return &VerifyError{ep.address, e.Sequence, fmt.Sprintf("the watch skipped entry %d", w.next)}
		case w.whole && !w.previous.IsZero() && e.Header.Previous != w.previous:
			return &VerifyError{ep.address, e.Sequence, fmt.Sprintf("it links to %v, but the entry before it was %v", e.Header.Previous, w.previous)}
		}
		w.next, w.previous = e.Sequence+1, e.Hash
		w.r.c.observe(w.next)
		if !yield(e, nil) {
			w.stopped = true
			return nil
		}
	}
	next := m.GetNextSequence()
	if w.whole && next > w.next {
		return &VerifyError{ep.address, w.next, fmt.Sprintf("the watch went on to %d without it", next)}
	}
	// A node that is behind says less than another one did: wait for it.
	w.next = max(w.next, next)
	if w.q.Progress != nil {
		w.q.Progress(w.next)
	}
	return nil
}
