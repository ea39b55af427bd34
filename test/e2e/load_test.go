package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// load is a number of writers, each of which submits one event after the other,
// through a client that begins with a node of its own.
type load struct {
	c      *cluster
	cancel context.CancelFunc
	wg     sync.WaitGroup
	prefix string

	mu      sync.Mutex // guards the fields below
	writers []*writer
	acked   int
	// failed is the first error of a writer.
	failed error
	// more is closed, and replaced, with every change of the above.
	more chan struct{}
}

// writer is one source of events; its ids are 0, 1, 2, ...
type writer struct {
	source string
	acks   []client.Ack
	// sent and answered are when each acknowledged event was.
	sent, answered []time.Time
	// open is 1 where the last event was not acknowledged.
	open int
}

// startLoad starts n writers, whose sources begin with a prefix.
func (c *cluster) startLoad(prefix string, n int) *load {
	ctx, cancel := context.WithCancel(c.ctx)
	l := &load{c: c, cancel: cancel, prefix: prefix, more: make(chan struct{})}
	for i := range n {
		w := &writer{source: fmt.Sprintf("%s-%d", prefix, i)}
		l.writers = append(l.writers, w)
		cl := c.newClient(i)
		l.wg.Go(func() { l.write(ctx, cl, w) })
	}
	c.t.Cleanup(func() { cancel(); l.wg.Wait() })
	return l
}

// testEvent is the k-th event of a source. Every third kind has a gate.
func testEvent(source string, k int) chain.Event {
	e := chain.Event{
		Source: source, ID: strconv.Itoa(k), Kind: "artifact.store", ContentType: "application/json",
		Payload: fmt.Appendf(nil, `{"hash":"%064d","size":%d,"content_type":"text/plain"}`, k, k),
	}
	if k%3 == 2 {
		e.Kind, e.Payload = "agent.spawn", fmt.Appendf(nil, `{"agent_id":"a","pid":%d,"parent_pid":1,"program":"p"}`, k)
	}
	return e
}

func (l *load) write(ctx context.Context, cl *client.Client, w *writer) {
	for k := 0; ; k++ {
		sent := time.Now()
		ack, err := cl.Append(ctx, testEvent(w.source, k))
		l.mu.Lock()
		switch {
		case err == nil:
			w.acks = append(w.acks, ack)
			w.sent, w.answered = append(w.sent, sent), append(w.answered, time.Now())
			l.acked++
		case ctx.Err() != nil && errors.Is(err, ctx.Err()):
			w.open = 1
		default:
			l.failed = fmt.Errorf("event %d of %s: %w", k, w.source, err)
		}
		close(l.more)
		l.more = make(chan struct{})
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// progress waits until n more events are acknowledged.
func (l *load) progress(n int) {
	l.c.t.Helper()
	l.mu.Lock()
	want := l.acked + n
	for l.acked < want {
		more, failed := l.more, l.failed
		if failed != nil {
			l.mu.Unlock()
			l.c.t.Fatal(failed)
		}
		l.mu.Unlock()
		select {
		case <-more:
		case <-l.c.ctx.Done():
			l.c.t.Fatalf("%d of %d events acknowledged: %v", l.acked, want, l.c.ctx.Err())
		}
		l.mu.Lock()
	}
	l.mu.Unlock()
}

// stop ends the writers; what was under way may be in the chain or not.
func (l *load) stop() {
	l.c.t.Helper()
	l.cancel()
	l.wg.Wait()
	if l.failed != nil {
		l.c.t.Fatal(l.failed)
	}
}

// check reads every source from every running node: each acknowledged event is
// there exactly once, as it was acknowledged, in the order in which its writer
// submitted it, and nothing is there that was never submitted.
func (l *load) check() {
	l.c.t.Helper()
	for _, name := range l.c.running() {
		for _, w := range l.writers {
			l.checkSource(name, w)
		}
	}
	l.checkOrder()
	l.c.t.Logf("%d events of %d writers acknowledged, each there exactly once on %s", l.acked, len(l.writers), strings.Join(l.c.running(), ", "))
}

// checkOrder checks real-time order: what was acknowledged before an event was
// sent, through whichever node, precedes it in the chain.
func (l *load) checkOrder() {
	l.c.t.Helper()
	type event struct {
		at  time.Time
		seq uint64
	}
	var sent, answered []event
	for _, w := range l.writers {
		for k := range w.acks {
			sent = append(sent, event{w.sent[k], w.acks[k].Sequence})
			answered = append(answered, event{w.answered[k], w.acks[k].Sequence})
		}
	}
	byTime := func(a, b event) int { return a.at.Compare(b.at) }
	slices.SortFunc(sent, byTime)
	slices.SortFunc(answered, byTime)
	last, i := uint64(0), 0
	for _, e := range sent {
		for ; i < len(answered) && answered[i].at.Before(e.at); i++ {
			last = max(last, answered[i].seq)
		}
		if e.seq <= last && i > 0 {
			l.c.t.Fatalf("entry %d was acknowledged before the event of entry %d was sent", last, e.seq)
		}
	}
}

func (l *load) checkSource(name string, w *writer) {
	l.c.t.Helper()
	k, last := 0, uint64(0)
	for e, err := range l.c.on(name).List(l.c.ctx, client.ListQuery{Filter: chain.Filter{Source: w.source}}) {
		if err != nil {
			l.c.t.Fatalf("list %s of %s: %v", w.source, name, err)
		}
		want := testEvent(w.source, k)
		switch {
		case e.Header.ID != want.ID:
			l.c.t.Fatalf("%s: event %s of %s stands where %s is due", name, e.Header.ID, w.source, want.ID)
		case e.Sequence <= last:
			l.c.t.Fatalf("%s: event %d of %s is entry %d, the one before it %d", name, k, w.source, e.Sequence, last)
		case e.Header.Kind != want.Kind || string(e.Envelope.Payload) != string(want.Payload):
			l.c.t.Fatalf("%s: event %d of %s is not what was submitted", name, k, w.source)
		case k < len(w.acks) && (e.Sequence != w.acks[k].Sequence || e.Hash != w.acks[k].Hash):
			l.c.t.Fatalf("%s: event %d of %s was acknowledged as entry %d with hash %v, and is entry %d with %v",
				name, k, w.source, w.acks[k].Sequence, w.acks[k].Hash, e.Sequence, e.Hash)
		}
		last = e.Sequence
		k++
	}
	if k < len(w.acks) || k > len(w.acks)+w.open {
		l.c.t.Fatalf("%s has %d events of %s; %d were acknowledged and %d more may be there", name, k, w.source, len(w.acks), w.open)
	}
}

func testFilter(source string) chain.Filter { return chain.Filter{Source: source} }
