package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/outbox"
)

// DurableOptions tune a Durable. The zero value is usable.
type DurableOptions struct {
	// Window is how many events may be under way to the cluster; 1,024 where
	// it is 0.
	Window int
	// MaxBytes bounds what waits on disk, 256 MiB where it is 0: above it
	// Enqueue fails with outbox.ErrFull.
	MaxBytes int64
	// DeadLetter gets each event that the cluster refused, before it leaves
	// the queue. An error keeps it there: it is offered again later, and the
	// events behind it wait. Where nil, the event is appended to
	// dead.jsonl in the directory, and synced.
	DeadLetter func(DeadLetter) error
	// Delivered is called for each event that is in the chain, in order,
	// from the Durable's goroutine; it must not block.
	Delivered func(Ack)
}

// DeadLetter is an event that can't be delivered as it is: it is invalid, in
// conflict with another one of the same id, denied, or (api.Escalated) kept by
// the cluster until it is approved.
type DeadLetter struct {
	Event chain.Event
	Err   *api.Error
}

// Durable is a queue on disk in front of a Client: Enqueue returns once the
// event is synced locally, and it is delivered, in order, when the cluster can
// be reached, also after restarts. Each event keeps the id that it was enqueued
// with, so what was delivered already when the process died is delivered once.
// It is safe for concurrent use.
//
// An event that the cluster refuses is put aside (DeadLetter) and does not hold
// up the others. A caller who is not authorized at all does: the events stay.
type Durable struct {
	c      *Client
	lane   *lane
	q      *outbox.Queue
	dir    string
	opt    DurableOptions
	cancel context.CancelFunc
	ended  chan struct{} // closed when run has returned

	mu       sync.Mutex // guards the rest
	settled  uint64     // events that left the queue
	progress chan struct{}
	err      error // why run ended
	last     error // why delivery last failed; nil after a success
}

// Durable opens the queue in a directory, which it makes where there is none,
// and begins to deliver what is in it. One process at a time may have it open.
// The caller closes it before the Client.
func (c *Client) Durable(dir string, opt DurableOptions) (*Durable, error) {
	if opt.Window <= 0 {
		opt.Window = 1024
	}
	q, err := outbox.Open(dir, outbox.Options{MaxBytes: opt.MaxBytes})
	if err != nil {
		return nil, fmt.Errorf("client: open the durable queue: %w", err)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	d := &Durable{
		c: c, lane: c.pick(), q: q, dir: dir, opt: opt,
		cancel: cancel, ended: make(chan struct{}), progress: make(chan struct{}),
	}
	if d.opt.DeadLetter == nil {
		d.opt.DeadLetter = d.storeDead
	}
	go d.run(ctx)
	return d, nil
}

// Enqueue adds events and returns their identities once all of them are synced
// to the local disk. Empty fields are filled as Append does. An event that no
// cluster would take is refused at once, with a *chain.FieldError, and then none
// is added. After another error, but for outbox.ErrFull, the events may be in
// the queue: enqueue them again with the same ids.
func (d *Durable) Enqueue(events ...chain.Event) ([]chain.Key, error) {
	keys := make([]chain.Key, len(events))
	items := make([][]byte, len(events))
	for i := range events {
		ev := events[i]
		d.c.fill(&ev)
		ev.SetDefaults()
		if err := ev.Validate(outbox.MaxItem / 2); err != nil {
			return nil, fmt.Errorf("client: event %q: %w", ev.ID, err)
		}
		var err error
		if items[i], err = proto.Marshal(api.EventToProto(&ev)); err != nil {
			return nil, fmt.Errorf("client: event %q: %w", ev.ID, err)
		}
		keys[i] = ev.Key()
	}
	// The commit point.
	if _, err := d.q.Append(items...); err != nil {
		return keys, fmt.Errorf("client: %w", err)
	}
	return keys, nil
}

// Len returns how many events wait.
func (d *Durable) Len() int { return d.q.Len() }

// LastError returns why delivery fails at present; nil where it does not.
func (d *Durable) LastError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return firstError(d.err, d.last, d.lane.trouble())
}

// firstError returns the first error that is one.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// Flush waits until what is in the queue now is delivered or put aside.
func (d *Durable) Flush(ctx context.Context) error {
	d.mu.Lock()
	target := d.settled + uint64(d.q.Len())
	d.mu.Unlock()
	for {
		d.mu.Lock()
		done, err, last, progress := d.settled >= target, d.err, d.last, d.progress
		d.mu.Unlock()
		if done {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-progress:
		case <-ctx.Done():
			if last = firstError(last, d.lane.trouble()); last != nil {
				return fmt.Errorf("client: %d events wait: %w; last failure: %w", d.q.Len(), ctx.Err(), last)
			}
			return fmt.Errorf("client: %d events wait: %w", d.q.Len(), ctx.Err())
		}
	}
}

// Close stops delivery and closes the queue; what it holds is delivered after
// the next Durable of the same directory. It may be called more than once.
func (d *Durable) Close() error {
	d.cancel()
	<-d.ended
	return d.q.Close()
}

// parcel is an item on its way.
type parcel struct {
	id    uint64
	event chain.Event
	call  *call
	err   *api.Error // the item itself is no event
}

// run delivers until ctx ends, or the queue breaks.
func (d *Durable) run(ctx context.Context) {
	defer close(d.ended)
	pace := backoff{rand: d.c.cfg.Rand}
	for {
		err := d.deliver(ctx, &pace)
		if ctx.Err() != nil {
			d.fail(ErrClosed)
			return
		}
		if errors.Is(err, outbox.ErrBroken) || errors.Is(err, outbox.ErrClosed) {
			d.fail(err)
			return
		}
		d.mu.Lock()
		d.last = err
		d.mu.Unlock()
		d.c.log.Warn("durable_delivery_failed", "dir", d.dir, "error", err, "waiting", d.q.Len())
		if sleep(ctx, max(pace.next(), retryAfter(err))) != nil {
			d.fail(ErrClosed)
			return
		}
	}
}

func (d *Durable) fail(err error) {
	d.mu.Lock()
	d.err = err
	close(d.progress)
	d.progress = make(chan struct{})
	d.mu.Unlock()
}

// deliver takes items from the queue's front until something fails. Items are
// acknowledged one after the other: when it returns, the first one that is not
// is the queue's front again.
func (d *Durable) deliver(ctx context.Context, pace *backoff) error {
	var window []parcel
	defer func() {
		for _, p := range window {
			if p.call != nil {
				d.lane.drop(p.call, ErrClosed)
			}
		}
	}()
	last := uint64(0)
	for {
		for item, err := range d.q.Items(last) {
			if err != nil {
				return err
			}
			if len(window) >= d.opt.Window {
				break
			}
			p := d.parcel(item)
			last = item.ID
			window = append(window, p)
			if p.call != nil {
				d.lane.push(p.call)
			}
		}
		var ready <-chan struct{}
		if len(window) < d.opt.Window {
			ready = d.q.Ready(last)
		}
		if len(window) > 0 && window[0].call == nil {
			if err := d.settle(window[0], Ack{}, window[0].err); err != nil {
				return err
			}
			window = window[1:]
			continue
		}
		var done chan struct{}
		if len(window) > 0 {
			done = window[0].call.done
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ready:
		case <-done:
			p := window[0]
			window = window[1:]
			ack, err := p.call.ack, p.call.err
			d.c.recycle(p.call)
			if err := d.settle(p, ack, err); err != nil {
				return err
			}
			pace.reset()
		}
	}
}

// parcel makes a call of an item.
func (d *Durable) parcel(item outbox.Item) parcel {
	p := parcel{id: item.ID}
	m := new(exonodev1.Event)
	if err := proto.Unmarshal(item.Data, m); err != nil {
		p.err = &api.Error{Code: api.Malformed, Message: fmt.Sprintf("item %d of the durable queue is no event: %v", item.ID, err)}
		return p
	}
	var err error
	if p.event, err = api.EventFromProto(m); err != nil {
		p.err = api.AsError(err)
		return p
	}
	k := d.c.newCall(p.event.Key())
	// Retried for as long as it takes.
	k.since = time.Time{}
	k.memory = protowire.AppendTag(k.memory[:0], fieldEvents, protowire.BytesType)
	k.memory = protowire.AppendBytes(k.memory, item.Data)
	k.frame = k.memory
	p.call = k
	return p
}

// settle takes an item off the queue once it is delivered or put aside; an
// error leaves it there.
func (d *Durable) settle(p parcel, ack Ack, err error) error {
	var incomplete *IncompleteError
	var refused *api.Error
	switch {
	case err == nil:
	case errors.As(err, &incomplete):
		return err
	case errors.As(err, &refused):
		d.c.log.Warn("durable_event_refused", "source", p.event.Source, "id", p.event.ID, "code", string(refused.Code))
		if err := d.opt.DeadLetter(DeadLetter{Event: p.event, Err: refused}); err != nil {
			return fmt.Errorf("put a refused event aside: %w", err)
		}
	default:
		return err
	}
	// The event is in the chain, or put aside. A crash before this line
	// delivers it again, which is answered as a duplicate, or refused again.
	if err := d.q.Ack(p.id); err != nil {
		return err
	}
	d.mu.Lock()
	d.settled++
	d.last = nil
	close(d.progress)
	d.progress = make(chan struct{})
	d.mu.Unlock()
	if err == nil && d.opt.Delivered != nil {
		d.opt.Delivered(ack)
	}
	return nil
}

// deadFile is where refused events go by default.
const deadFile = "dead.jsonl"

// storeDead appends a line to the dead letter file. After a crash an event may
// stand there twice.
func (d *Durable) storeDead(l DeadLetter) error {
	event, err := protojson.Marshal(api.EventToProto(&l.Event))
	if err != nil {
		return err
	}
	line, err := json.Marshal(struct {
		Time    time.Time       `json:"time"`
		Code    api.Code        `json:"code"`
		Message string          `json:"message"`
		Hint    string          `json:"hint,omitempty"`
		Field   string          `json:"field,omitempty"`
		Event   json.RawMessage `json:"event"`
	}{time.Now().UTC(), l.Err.Code, l.Err.Message, l.Err.Hint, l.Err.Field, event})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(d.dir, deadFile), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return syncDir(d.dir)
}

// syncDir makes a new or renamed file's name durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // directories can't be synced there, and need not be
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
