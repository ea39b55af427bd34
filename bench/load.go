package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// latencies collects durations in microseconds, from 1 to a minute, to three
// digits.
type latencies struct {
	mu   sync.Mutex // guards hist
	hist *hdrhistogram.Histogram
}

func newLatencies() *latencies {
	return &latencies{hist: hdrhistogram.New(1, time.Minute.Microseconds(), 3)}
}

// shardSize is how many durations a writer keeps before it takes the lock.
const shardSize = 512

// shard is one writer's part.
type shard struct {
	all  *latencies
	some []int64
}

func (l *latencies) shard() *shard { return &shard{all: l, some: make([]int64, 0, shardSize)} }

func (s *shard) add(d time.Duration) {
	if s.some = append(s.some, max(1, d.Microseconds())); len(s.some) == cap(s.some) {
		s.flush()
	}
}

func (s *shard) flush() {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	for _, us := range s.some {
		// Beyond a minute it is a minute.
		if s.all.hist.RecordValue(us) != nil {
			_ = s.all.hist.RecordValue(time.Minute.Microseconds())
		}
	}
	s.some = s.some[:0]
}

// quantile is a quantile of 0 to 100.
func (l *latencies) quantile(q float64) time.Duration {
	return time.Duration(l.hist.ValueAtQuantile(q)) * time.Microsecond
}

// load is what the writers of one cell have in common.
type load struct {
	cell   Cell
	ev     event
	prefix string // of the ids
	lat    *latencies
	acked  *acked
	// measuring is whether what completes counts; stop ends the writers.
	measuring, stop atomic.Bool
	counted         atomic.Int64
	// some is closed once an event counted that began while it could.
	some     chan struct{}
	someOnce sync.Once
	// fail ends the writers' context; failure is why, once they have ended.
	fail    context.CancelFunc
	mu      sync.Mutex // guards failure
	failure error
}

// count counts an event that was acknowledged, and its latency where it began
// within the measurement.
func (l *load) count(s *shard, began bool, took time.Duration) {
	if !l.measuring.Load() {
		return
	}
	l.counted.Add(1)
	if began {
		s.add(took)
		l.someOnce.Do(func() { close(l.some) })
	}
}

// failed ends the cell: one failure is enough.
func (l *load) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failure == nil {
		l.failure = err
		l.fail()
	}
}

// write submits one event after the other until stop.
func (l *load) write(ctx context.Context, s submitter, w int) error {
	mine := l.lat.shard()
	defer mine.flush()
	sample := l.acked.sampler()
	defer sample.done()
	id := append([]byte(l.prefix), strconv.Itoa(w)...)
	id = append(id, '-')
	for n := 0; !l.stop.Load(); n++ {
		started, counts := time.Now(), l.measuring.Load()
		r, err := s.submit(ctx, w, string(strconv.AppendInt(id, int64(n), 10)))
		if err != nil {
			return fmt.Errorf("writer %d, event %d: %w", w, n, err)
		}
		l.count(mine, counts, time.Since(started))
		sample.keep(r)
	}
	return nil
}

// streamWindow is how many events a stream has unanswered: Pump's default.
const streamWindow = 4096

// pump submits events through one stream until stop. An event's latency is from
// when the stream took it.
func (l *load) pump(ctx context.Context, c *client.Client, w int) error {
	mine := l.lat.shard()
	defer mine.flush()
	sample := l.acked.sampler()
	defer sample.done()
	// Taken but not answered are streamWindow and some that are on their way
	// through Pump.
	var taken [2 * streamWindow]atomic.Int64
	id := append([]byte(l.prefix), strconv.Itoa(w)...)
	id = append(id, '-')
	events := func(yield func(chain.Event, error) bool) {
		for n := 0; !l.stop.Load(); n++ {
			taken[n%len(taken)].Store(time.Now().UnixNano())
			if !yield(chain.Event{ID: string(strconv.AppendInt(id, int64(n), 10)), Kind: l.ev.kind, Payload: l.ev.payload}, nil) {
				return
			}
		}
	}
	_, err := c.Pump(ctx, events, client.PumpOptions{Window: streamWindow, Acked: func(index uint64, ack client.Ack, err error) error {
		if err != nil {
			return fmt.Errorf("stream %d, event %d: %w", w, index, err)
		}
		l.count(mine, true, time.Duration(time.Now().UnixNano()-taken[index%uint64(len(taken))].Load()))
		sample.keep(receipt{ack.Key.ID, ack.Sequence, ack.Hash})
		return nil
	}})
	return err
}

// startLoad starts the cell's writers; wait joins them and releases what they
// used.
func (b *bench) startLoad(ctx context.Context, l *load) (wait func() error, err error) {
	var wg sync.WaitGroup
	var writers []func() error
	var release func() error
	if l.cell.Client == GoStream {
		var clients []*client.Client
		release = func() (err error) {
			for _, c := range clients {
				err = errors.Join(err, c.Close())
			}
			return err
		}
		for w := range l.cell.Writers {
			c, err := client.New(client.Config{Addresses: b.addrs[w%len(b.addrs):][:1], TLS: b.cfg.TLS, Workspace: workspace, Source: l.ev.source})
			if err != nil {
				return nil, errors.Join(err, release())
			}
			clients = append(clients, c)
			writers = append(writers, func() error { return l.pump(ctx, c, w) })
		}
	} else {
		s, err := b.submitter(l.cell, l.ev)
		if err != nil {
			return nil, err
		}
		release = s.close
		for w := range l.cell.Writers {
			writers = append(writers, func() error { return l.write(ctx, s, w) })
		}
	}
	for _, write := range writers {
		wg.Go(func() {
			if err := write(); err != nil {
				l.failed(err)
			}
		})
	}
	return func() error {
		wg.Wait()
		return errors.Join(l.failure, release())
	}, nil
}
