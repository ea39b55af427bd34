package chaos

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/client"
)

// Workload is what clients do while the cluster suffers. A zero field has its comment's
// default.
type Workload struct {
	// Writers append one event at a time: 12.
	Writers int `yaml:"writers"`
	// Streams append without waiting, a few dozen events on the way: 2.
	Streams int `yaml:"streams"`
	// Readers read, each at one consistency: 9.
	Readers int `yaml:"readers"`
	// Watches watch all entries: 2.
	Watches int `yaml:"watches"`
	// Pause is how long a writer waits between two events, on average: 5ms.
	Pause time.Duration `yaml:"pause"`
	// Payload is the bytes of an event's payload: 100.
	Payload int `yaml:"payload"`
	// Patience is how long a client waits for an answer before it takes the
	// outcome for unknown: 4s.
	Patience time.Duration `yaml:"patience"`
}

func (w Workload) withDefaults() Workload {
	for _, d := range []struct {
		field *int
		value int
	}{{&w.Writers, 12}, {&w.Streams, 2}, {&w.Readers, 9}, {&w.Watches, 2}, {&w.Payload, 100}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if w.Pause == 0 {
		w.Pause = 5 * time.Millisecond
	}
	if w.Patience == 0 {
		w.Patience = 4 * time.Second
	}
	return w
}

func (w *Workload) validate() error {
	for _, n := range []int{w.Writers, w.Streams, w.Readers, w.Watches} {
		if n < 0 || n > 1000 {
			return fmt.Errorf("%w: workload: %d clients, want 0 to 1,000", ErrScenario, n)
		}
	}
	if w.Pause < 0 || w.Patience < 0 || w.Payload < 0 || w.Payload > 1<<20 {
		return fmt.Errorf("%w: workload: pause, patience and payload are at least 0, payload at most 1 MiB", ErrScenario)
	}
	return nil
}

// load is a workload under way.
type load struct {
	Workload
	rec    *history.Recorder
	seed   uint64
	source string

	// writing ends appends and reads; what is under way ends by itself.
	writing context.Context
	stop    context.CancelFunc
	writers sync.WaitGroup
	// watching ends watches, once they have seen all below until.
	watching    context.Context
	stopWatches context.CancelFunc
	watches     sync.WaitGroup
	// until, where not 0, is where the watches end.
	until atomic.Uint64

	mu sync.Mutex // guards the fields below
	// names and addrs are of the nodes, only ever replaced; generation counts how
	// often they were.
	names, addrs []string
	generation   int
	// recent are keys that were appended, acknowledged or not.
	recent [64]chain.Key
	keys   int
}

// startLoad starts a workload against nodes, by their names and API addresses.
func startLoad(ctx context.Context, w Workload, names, addrs []string, rec *history.Recorder, seed uint64) (*load, error) {
	l := &load{
		Workload: w.withDefaults(), names: names, addrs: addrs, rec: rec, seed: seed,
		source: fmt.Sprintf("chaos-%d-%d", seed, time.Now().UnixNano()),
	}
	l.writing, l.stop = context.WithCancel(ctx)
	l.watching, l.stopWatches = context.WithCancel(ctx)
	client := 0
	for _, group := range []struct {
		n   int
		run func(int)
	}{{l.Writers, l.write}, {l.Streams, l.stream}, {l.Readers, l.read}} {
		for range group.n {
			id := client
			l.writers.Go(func() { group.run(id) })
			client++
		}
	}
	for i := range l.Watches {
		l.watches.Go(func() { l.watch(i) })
	}
	return l, nil
}

// know tells the clients of the nodes that there are by now.
func (l *load) know(names, addrs []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names, l.addrs, l.generation = names, addrs, l.generation+1
}

// connection is a worker's client, of the nodes that were known when it was made.
type connection struct {
	*client.Client
	names, addrs []string
	// home is the node that it prefers.
	home       string
	generation int
}

// connect makes the client of a worker, which prefers a node of its own.
func (l *load) connect(worker int, level client.Consistency) (*connection, error) {
	l.mu.Lock()
	c := &connection{names: l.names, addrs: l.addrs, generation: l.generation}
	l.mu.Unlock()
	i := worker % len(c.addrs)
	c.home = c.names[i]
	var err error
	addrs := append(append([]string(nil), c.addrs[i:]...), c.addrs[:i]...)
	c.Client, err = client.New(client.Config{Addresses: addrs, Workspace: "chaos", Consistency: level, Stall: time.Second, RetryFor: l.Patience})
	return c, err
}

// renew connects again where other nodes are known by now. A session is carried over: the
// new client is told of last, the newest sequence that the old one knows of; while that
// fails, the old one goes on.
func (l *load) renew(c *connection, worker int, level client.Consistency, last uint64) *connection {
	l.mu.Lock()
	same := l.generation == c.generation
	l.mu.Unlock()
	if same {
		return c
	}
	next, err := l.connect(worker, level)
	if err != nil {
		return c
	}
	if level == client.Session {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.writing), l.Patience)
		defer cancel()
		if _, err := next.At(client.Linearizable).Get(ctx, last); err != nil {
			_ = next.Close() // nothing of it is under way
			return c
		}
	}
	_ = c.Close() // nothing of it is under way
	return next
}

func (l *load) rng(worker int) *rand.Rand { return rand.New(rand.NewPCG(l.seed, 100+uint64(worker))) }

// event is the k-th of a worker. Every third kind has a gate; of those, now and then
// one declares an effect that no built-in policy permits.
func (l *load) event(worker, k int, rng *rand.Rand) chain.Event {
	source := fmt.Sprintf("%s/%d", l.source, worker)
	e := chain.Event{
		Workspace: "chaos", Source: source, ID: strconv.Itoa(k), Kind: "artifact.store", ContentType: "application/json",
		Payload: fmt.Appendf(nil, `{"hash":"%0*x","size":%d,"content_type":"text/plain"}`, max(1, l.Payload-60), rng.Uint64(), k),
	}
	if k%3 == 2 {
		e.Kind, e.Payload = "agent.spawn", fmt.Appendf(nil, `{"agent_id":"%d-%d","pid":%d,"parent_pid":1,"program":"p"}`, worker, k, k)
		if rng.IntN(30) == 0 {
			e.DeclaredEffect = &chain.Effect{10000, 10000, 10000, 10000, 10000}
		}
	}
	return e
}

// write appends one event after the other. What may have been written is sent again
// with its id, now and then by another client of the same worker.
func (l *load) write(worker int) {
	rng := l.rng(worker)
	cl, err := l.connect(worker, client.Linearizable)
	if err != nil {
		return
	}
	defer func() { _ = cl.Close() }() // nothing of it is under way
	for k := 0; l.wait(rng); k++ {
		cl = l.renew(cl, worker, client.Linearizable, 0)
		e := l.event(worker, k, rng)
		l.remember(e.Key())
		for try := 0; try < 3; try++ {
			if l.append(cl, worker, e).Outcome != history.Unknown || l.writing.Err() != nil || rng.IntN(2) == 0 {
				break
			}
		}
		if rng.IntN(50) == 0 && l.writing.Err() == nil {
			l.append(cl, worker, e) // it is in the chain already, or it is not
		}
	}
}

func (l *load) append(cl *connection, worker int, e chain.Event) history.Op {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.writing), l.Patience)
	defer cancel()
	op := history.Op{Client: worker, Node: cl.home, Kind: history.Append, Call: l.rec.Now(), Key: e.Key()}
	ack, err := cl.Append(ctx, e)
	l.appended(&op, ack, err)
	return op
}

// appended completes and records an append.
func (l *load) appended(op *history.Op, ack client.Ack, err error) {
	op.Return = l.rec.Now()
	if op.Outcome, op.Code = outcome(err); err == nil {
		op.Sequence, op.Hash, op.Duplicate = ack.Sequence, ack.Hash, ack.Duplicate
	}
	l.rec.Op(*op)
}

// outcome says what an append's error leaves open.
func outcome(err error) (history.Outcome, string) {
	var incomplete *client.IncompleteError
	var refused *api.Error
	switch {
	case err == nil:
		return history.OK, ""
	case errors.As(err, &incomplete):
		code := ""
		if errors.As(incomplete.Last, &refused) {
			code = string(refused.Code)
		}
		if incomplete.Sent {
			return history.Unknown, code
		}
		return history.Failed, code
	case errors.As(err, &refused):
		if refused.Code == api.UnknownOutcome {
			return history.Unknown, string(refused.Code)
		}
		return history.Failed, string(refused.Code)
	}
	return history.Unknown, err.Error()
}

// streamWindow is how many events of a stream are on the way.
const streamWindow = 32

// stream appends on a stream, one stream after the other: each ends with the first
// event whose outcome is open.
func (l *load) stream(worker int) {
	rng := l.rng(worker)
	cl, err := l.connect(worker, client.Linearizable)
	if err != nil {
		return
	}
	defer func() { _ = cl.Close() }() // nothing of it is under way
	for k := 0; l.wait(rng); {
		cl = l.renew(cl, worker, client.Linearizable, 0)
		var mu sync.Mutex
		var flying []history.Op
		events := iter.Seq2[chain.Event, error](func(yield func(chain.Event, error) bool) {
			for l.wait(rng) {
				e := l.event(worker, k, rng)
				k++
				l.remember(e.Key())
				mu.Lock()
				flying = append(flying, history.Op{Client: worker, Node: cl.home, Kind: history.Append, Stream: true, Call: l.rec.Now(), Key: e.Key()})
				mu.Unlock()
				if !yield(e, nil) {
					return
				}
			}
		})
		_, _ = cl.Pump(context.WithoutCancel(l.writing), events, client.PumpOptions{Window: streamWindow, Acked: func(_ uint64, ack client.Ack, err error) error {
			mu.Lock()
			op := flying[0]
			flying = flying[1:]
			mu.Unlock()
			l.appended(&op, ack, err)
			if op.Outcome == history.Failed {
				return nil // the stream goes on
			}
			return err
		}})
		for _, op := range flying { // nobody waits for these any more
			op.Return, op.Outcome = l.rec.Now(), history.Unknown
			l.rec.Op(op)
		}
	}
}

// wait pauses between two operations; false means that the workload ends.
func (l *load) wait(rng *rand.Rand) bool {
	t := time.NewTimer(time.Duration(rng.ExpFloat64() * float64(l.Pause)))
	defer t.Stop()
	select {
	case <-l.writing.Done():
		return false
	case <-t.C:
		return l.writing.Err() == nil
	}
}

func (l *load) remember(key chain.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.recent[l.keys%len(l.recent)] = key
	l.keys++
}

// some returns a key that was appended lately.
func (l *load) some(rng *rand.Rand) (chain.Key, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == 0 {
		return chain.Key{}, false
	}
	return l.recent[rng.IntN(min(l.keys, len(l.recent)))], true
}

// levels are the consistencies of the readers, in turn.
var levels = []struct {
	name  history.Consistency
	level client.Consistency
}{{history.Linearizable, client.Linearizable}, {history.Session, client.Session}, {history.Stale, client.Stale}}

// read reads at one consistency, each time at a node of its own choice, as behind a load
// balancer. A reader of a session carries what it has seen to the next node; it also
// writes, now and then, and must see what it wrote.
func (l *load) read(worker int) {
	rng := l.rng(worker)
	level := levels[worker%len(levels)]
	cl, err := l.connect(worker, level.level)
	if err != nil {
		return
	}
	defer func() { _ = cl.Close() }() // nothing of it is under way
	var last uint64                   // the newest sequence that it knows of
	for k := 0; l.wait(rng); k++ {
		if level.name == history.Session && k%20 == 0 {
			e := l.event(worker, k, rng)
			l.remember(e.Key())
			if op := l.append(cl, worker, e); op.Outcome == history.OK { // the read below is elsewhere, at once
				last = max(last, op.Sequence)
			}
		}
		cl = l.renew(cl, worker, level.level, last)
		i := rng.IntN(len(cl.addrs))
		at, err := cl.On(cl.addrs[i])
		if err != nil {
			return
		}
		op := history.Op{Client: worker, Node: cl.names[i], Consistency: level.name}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.writing), l.patience())
		op.Call = l.rec.Now()
		key, known := l.some(rng)
		switch n := rng.IntN(10); {
		case n < 6 || !known:
			op.Kind = history.Head
			var h client.Head
			if h, err = at.Head(ctx); err == nil {
				op.Size, op.HeadHash, op.Root = h.Size, h.Hash, h.Root
				last = max(last, h.Size-min(h.Size, 1))
			}
		case n == 8:
			op.Kind, op.Consistency = history.Checkpoint, ""
			var c *checkpoint.Note
			if c, err = at.Checkpoint(ctx, 0); err == nil {
				op.Size, op.Root = c.Checkpoint.Size, c.Checkpoint.Root
				last = max(last, op.Size-min(op.Size, 1))
			}
		case n < 8:
			op.Kind, op.Key = history.Lookup, key
			var found client.Lookup
			if found, err = at.Lookup(ctx, key); err == nil && found.Entry != nil {
				op.Found, op.Sequence, op.Hash = true, found.Entry.Sequence, found.Entry.Hash
				last = max(last, op.Sequence)
			}
		default:
			op.Kind, op.Sequence = history.Get, last
			var e client.Entry
			if e, err = at.Get(ctx, last); err == nil {
				op.Hash = e.Hash
			}
		}
		cancel()
		op.Return, op.Outcome = l.rec.Now(), history.OK
		if err != nil {
			op.Outcome, op.Code = history.Failed, codeOf(err)
		}
		l.rec.Op(op)
	}
}

// patience is how long a reader waits at one node before it goes to the next.
func (l *load) patience() time.Duration { return l.Patience / 4 }

func codeOf(err error) string {
	var lie *client.VerifyError
	if errors.As(err, &lie) {
		return history.Disbelieved
	}
	if code := api.CodeOf(err); code != "" {
		return string(code)
	}
	return "unreachable"
}

// watch watches all entries until it has seen those that the run ends with.
func (l *load) watch(id int) {
	cl, err := l.connect(id, client.Stale)
	if err != nil {
		return
	}
	defer func() { _ = cl.Close() }() // nothing of it is under way
	next := uint64(0)
	var refused []string
	for l.watching.Err() == nil {
		cl = l.renew(cl, id, client.Stale, 0)
		for e, err := range cl.Watch(l.watching, client.WatchQuery{From: next}) {
			var lie *client.VerifyError
			if errors.As(err, &lie) && len(refused) < 5 {
				refused = append(refused, lie.Error())
			}
			if err != nil {
				break // it goes on after what it has
			}
			if until := l.until.Load(); until > 0 && e.Sequence >= until {
				l.rec.Watched(history.Watch{ID: id, From: 0, Until: until, Disbelieved: refused})
				return
			}
			l.rec.Delivered(id, e.Sequence, e.Hash)
			next = e.Sequence + 1
		}
		select {
		case <-l.watching.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	l.rec.Watched(history.Watch{ID: id, From: 0, Until: l.until.Load(), Disbelieved: refused})
}

// end stops appends and reads, and waits for those under way.
func (l *load) end() {
	l.stop()
	l.writers.Wait()
}

// endWatches waits until the watches have seen the entries below until, or ctx ends.
func (l *load) endWatches(ctx context.Context) {
	defer context.AfterFunc(ctx, l.stopWatches)()
	l.watches.Wait()
	l.stopWatches()
}
