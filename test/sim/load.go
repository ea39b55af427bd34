package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/server"
)

const (
	// attemptLimit is how long a client waits for one attempt, and patience how
	// long it tries.
	attemptLimit = 4 * time.Second
	patience     = 15 * time.Second
	watches      = 2
)

// client is one caller; it does one thing after the other.
type client struct {
	c    *cluster
	id   int
	rng  *rand.Rand
	next int
	// seen is the highest sequence that it was told of, plus one.
	seen uint64
	mine []chain.Key
	// at, where not nil, are the nodes that it asks, in turn.
	at []*life
}

func (c *cluster) rng(stream int) *rand.Rand {
	return rand.New(rand.NewPCG(c.cfg.Seed, 1000+uint64(stream)))
}

// pick chooses a node that runs; nil where the one that was chosen does not.
func (cl *client) pick() *life {
	if cl.at != nil {
		l := cl.at[0]
		cl.at = append(cl.at[1:], l)
		return l
	}
	return cl.c.pick(cl.rng)
}

// load is a workload under way.
type load struct {
	// writing ends what clients do, watching what watches do.
	writing, watching   context.Context
	stopWriting, giveUp context.CancelFunc
	clients, watches    sync.WaitGroup
	// until, where not 0, is the size that watches end with.
	until atomic.Uint64
}

// startLoad starts clients and watches.
func (c *cluster) startLoad() *load {
	l := new(load)
	l.writing, l.stopWriting = context.WithCancel(context.Background())
	l.watching, l.giveUp = context.WithCancel(context.Background())
	for i := range c.cfg.Clients {
		cl := &client{c: c, id: i, rng: c.rng(i)}
		l.clients.Go(func() {
			cl.run(l.writing)
			cl.last()
		})
	}
	for i := range watches {
		w := &watch{c: c, id: i, until: &l.until, rng: rand.New(rand.NewPCG(c.cfg.Seed, 2000+uint64(i)))}
		l.watches.Go(func() { w.run(l.watching) })
	}
	return l
}

// end ends what clients do, after a last operation of each kind.
func (l *load) end() {
	l.stopWriting()
	l.clients.Wait()
}

// endWatches waits until the watches have delivered what is below size, or a minute.
func (l *load) endWatches(size uint64) {
	l.until.Store(size)
	defer time.AfterFunc(time.Minute, l.giveUp).Stop()
	l.watches.Wait()
}

// stop ends all that is left. It may be called after end and endWatches.
func (l *load) stop() {
	l.giveUp()
	l.end()
	l.watches.Wait()
}

func (cl *client) run(ctx context.Context) {
	for sleep(ctx, time.Duration(cl.rng.ExpFloat64()*float64(cl.c.cfg.Think))) {
		switch n := cl.rng.IntN(100); {
		case n < 50:
			cl.append()
		case n < 60:
			cl.head(history.Linearizable)
		case n < 75:
			cl.lookup(history.Linearizable)
		case n < 82:
			cl.head(history.Session)
		case n < 87:
			cl.lookup(history.Session)
		case n < 92:
			cl.get()
		case n < 96:
			cl.head(history.Stale)
		case n < 98:
			cl.checkpoint()
		default:
			cl.lookup(history.Stale)
		}
	}
}

// last does one operation of each kind, once all is well, until it succeeds, or for a
// minute.
func (cl *client) last() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, do := range []func() bool{
		cl.append, func() bool { return cl.head(history.Linearizable) }, func() bool { return cl.lookup(history.Linearizable) }, cl.get,
	} {
		for ctx.Err() == nil && !do() {
			sleep(ctx, 100*time.Millisecond)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// pick chooses a node that runs; nil where the one that was chosen does not.
func (c *cluster) pick(rng *rand.Rand) *life {
	all := c.all()
	return all[rng.IntN(len(all))].running()
}

var errLost = errors.New("the node crashed, or was paused for longer than the caller waits")

// call does something at a node, as a client beyond the network would see it: what a
// crashed node still says is lost, and what a paused one says comes late.
func (l *life) call(limit time.Duration, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if l.paused(ctx) {
		return errLost
	}
	inner, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // ends with inner
		select {
		case <-l.over:
			stop()
		case <-inner.Done():
		}
	}()
	err := f(inner)
	if !l.alive() || l.paused(ctx) || !l.alive() {
		return errLost
	}
	return err
}

// paused waits while the node is paused; true is for longer than ctx.
func (l *life) paused(ctx context.Context) bool {
	for {
		frozen := l.frozen.Load()
		if frozen == nil {
			return false
		}
		select {
		case <-*frozen:
		case <-l.over:
			return true
		case <-ctx.Done():
			return true
		}
	}
}

// begin fills in what every operation has.
func (cl *client) begin(kind history.Kind, c history.Consistency) history.Op {
	return history.Op{Client: cl.id, Kind: kind, Consistency: c, Call: cl.c.rec.Now()}
}

// end records an operation, and reports whether it went well.
func (cl *client) end(op history.Op, err error) bool {
	op.Return = cl.c.rec.Now()
	op.Outcome = history.OK
	if err != nil {
		op.Outcome, op.Code = history.Unknown, codeOf(err)
		if op.Kind != history.Append || certain(err) {
			op.Outcome = history.Failed
		}
	}
	cl.c.rec.Op(op)
	return err == nil
}

func codeOf(err error) string {
	var e *api.Error
	if errors.As(err, &e) {
		return string(e.Code)
	}
	return err.Error()
}

var errNobody = errors.New("no node took it")

// certain reports whether an append that failed certainly had no effect.
func certain(err error) bool {
	if errors.Is(err, errNobody) {
		return true
	}
	var e *api.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case api.NoLeader, api.NotReady, api.QueueFull, api.GateDenied, api.Escalated:
		return true
	}
	return false
}

// event is the client's next: every third has a gate, and now and then declares an
// effect that the policy does not permit.
func (cl *client) event() chain.Event {
	cl.next++
	e := chain.Event{
		Workspace: "default", Source: fmt.Sprintf("client-%d", cl.id), ID: fmt.Sprint(cl.next), Kind: "hnsw.insert",
		Payload: fmt.Appendf(nil, `{"id":"%d"}`, cl.next), ContentType: "application/json",
	}
	if cl.next%3 == 0 {
		e.Kind, e.Payload = "agent.spawn", fmt.Appendf(nil, `{"agent_id":"%d-%d","pid":%d,"parent_pid":1,"program":"p"}`, cl.id, cl.next, cl.next)
		if cl.rng.IntN(5) == 0 {
			e.DeclaredEffect = &chain.Effect{10000, 10000, 10000, 10000, 10000}
		}
	}
	return e
}

// append seals one event, and now and then sends it again once it is sealed.
func (cl *client) append() bool {
	e := cl.event()
	cl.mine = append(cl.mine, e.Key())
	ok := cl.seal(e)
	if ok && cl.rng.IntN(20) == 0 {
		cl.seal(e)
	}
	return ok
}

// seal seals one event, trying again under its id at any node.
func (cl *client) seal(e chain.Event) bool {
	op := cl.begin(history.Append, "")
	op.Key = e.Key()
	give := time.Now().Add(patience)
	unknown := error(nil)
	var err error
	for {
		err = errNobody
		var ack server.Ack
		if l := cl.pick(); l != nil {
			op.Node = l.m.name
			ack, err = l.append(e)
		}
		if err == nil {
			op.Sequence, op.Hash, op.Duplicate = ack.Sequence, ack.Hash, ack.Duplicate
			cl.seen = max(cl.seen, ack.Sequence+1)
			return cl.end(op, nil)
		}
		if !certain(err) {
			unknown = err
		}
		var refusal *api.Error
		if errors.As(err, &refusal) && !refusal.Code.Retryable() {
			if refusal.Code != api.GateDenied && refusal.Code != api.Escalated {
				cl.c.problem("append of %v: %v", op.Key, err)
			}
			break
		}
		if time.Now().After(give) || cl.rng.IntN(8) == 0 {
			break
		}
		time.Sleep(time.Duration(cl.rng.IntN(400)) * time.Millisecond)
		if cl.c.cfg.Bug == NewIDs {
			e.ID += "'"
		}
	}
	if unknown != nil {
		err = unknown
	}
	return cl.end(op, err)
}

func (l *life) append(e chain.Event) (ack server.Ack, err error) {
	err = l.call(attemptLimit, func(ctx context.Context) error {
		pending, err := l.node.Submit(ctx, server.Caller{Principal: "local"}, []chain.Event{e})
		if err != nil {
			return err
		}
		acks, err := pending.Wait(ctx)
		if err != nil {
			return err
		}
		ack = acks[0]
		return ack.Err
	})
	return ack, err
}

func (cl *client) level(c history.Consistency) server.Consistency {
	switch {
	case cl.c.cfg.Bug == StaleReads && c == history.Linearizable, cl.c.cfg.Bug == LostSession && c == history.Session:
	case c == history.Linearizable:
		return server.Consistency{Level: server.Linearizable}
	case c == history.Session:
		if cl.seen > 0 {
			return server.Consistency{Level: server.Session, Sequence: cl.seen - 1}
		}
	}
	return server.Consistency{Level: server.Stale}
}

// read does a read at any node, and records it.
func (cl *client) read(kind history.Kind, c history.Consistency, f func(context.Context, *life, *history.Op) error) bool {
	l := cl.pick()
	if l == nil {
		return false
	}
	op := cl.begin(kind, c)
	op.Node = l.m.name
	err := l.call(attemptLimit, func(ctx context.Context) error {
		if _, err := l.node.Await(ctx, cl.level(c)); err != nil {
			return err
		}
		return f(ctx, l, &op)
	})
	if err == nil {
		switch { // what it was told, at whatever consistency, its sessions see
		case kind == history.Head, kind == history.Checkpoint:
			cl.seen = max(cl.seen, op.Size)
		case kind == history.Get, op.Found:
			cl.seen = max(cl.seen, op.Sequence+1)
		}
	}
	return cl.end(op, err)
}

func (cl *client) head(c history.Consistency) bool {
	return cl.read(history.Head, c, func(ctx context.Context, l *life, op *history.Op) error {
		h, err := l.node.Head(ctx)
		op.Size, op.HeadHash, op.Root = h.Size, h.Hash, h.Root
		return err
	})
}

// checkpoint reads the newest final checkpoint, whatever the node has.
func (cl *client) checkpoint() bool {
	return cl.read(history.Checkpoint, "", func(ctx context.Context, l *life, op *history.Op) error {
		c, err := l.node.FinalCheckpoint(ctx, 0)
		op.Size, op.Root = c.Size, c.Root
		return err
	})
}

func (cl *client) lookup(c history.Consistency) bool {
	if len(cl.mine) == 0 {
		return false
	}
	key := cl.mine[cl.rng.IntN(len(cl.mine))]
	return cl.read(history.Lookup, c, func(ctx context.Context, l *life, op *history.Op) error {
		op.Key = key
		found, err := l.node.Lookup(ctx, key)
		var e *api.Error
		if errors.As(err, &e) && e.Code == api.NotFound {
			return nil
		}
		if err != nil {
			return err
		}
		op.Found, op.Sequence = true, found.Sequence
		rec, err := l.node.Record(ctx, found.Sequence)
		if err == nil {
			op.Hash = chain.HeaderHash(rec.Header)
		}
		return err
	})
}

func (cl *client) get() bool {
	if cl.seen == 0 {
		return false
	}
	seq := uint64(cl.rng.Int64N(int64(cl.seen)))
	return cl.read(history.Get, history.Session, func(ctx context.Context, l *life, op *history.Op) error {
		op.Sequence = seq
		rec, err := l.node.Record(ctx, seq)
		if err == nil {
			op.Hash = chain.HeaderHash(rec.Header)
		}
		return err
	})
}

// watch follows all entries, at one node after the other.
type watch struct {
	c     *cluster
	id    int
	rng   *rand.Rand
	until *atomic.Uint64
	next  uint64
}

// over reports whether it has delivered what it is to.
func (w *watch) over() bool {
	until := w.until.Load()
	return until > 0 && w.next >= until
}

func (w *watch) run(ctx context.Context) {
	for ctx.Err() == nil && !w.over() {
		if l := w.c.pick(w.rng); l != nil {
			w.follow(ctx, l, time.Duration(5+w.rng.IntN(40))*time.Second)
		}
		sleep(ctx, time.Second)
	}
	w.c.rec.Watched(history.Watch{ID: w.id, From: 0, Until: w.until.Load()})
}

// follow watches at one node until it is over with it, or for a while.
func (w *watch) follow(ctx context.Context, l *life, limit time.Duration) {
	end := time.NewTimer(limit)
	defer end.Stop()
	for {
		grown := l.node.Grown(w.next)
		select {
		case <-ctx.Done():
			return
		case <-l.over:
			return
		case <-end.C:
			return
		case <-grown:
		}
		h, err := l.node.Head(ctx)
		if err != nil {
			return
		}
		for rec, err := range l.node.Scan(ctx, chain.Filter{}, w.next, h.Size, false) {
			if err != nil || !l.alive() || w.over() {
				return
			}
			w.c.rec.Delivered(w.id, rec.Sequence, chain.HeaderHash(rec.Header))
			w.next = rec.Sequence + 1
		}
	}
}

// burstSize is more than what raft's log keeps behind a snapshot.
const burstSize = 300

// burst appends events one by one, as fast as the cluster takes them, for a while.
func (c *cluster) burst(f fault) {
	c.mu.Lock()
	c.bursts++
	cl := &client{c: c, id: 100 + c.bursts, rng: rand.New(rand.NewPCG(c.cfg.Seed, 3000+uint64(c.bursts)))}
	c.mu.Unlock()
	give := time.Now().Add(30 * time.Second)
	for i := 0; i < burstSize && time.Now().Before(give); i++ {
		cl.append()
	}
}

// serves reports whether a node answers a linearizable read.
func (c *cluster) serves(ctx context.Context, l *life) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := l.node.Await(ctx, server.Consistency{Level: server.Linearizable})
	return err == nil
}
