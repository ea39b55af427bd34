package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
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
}

// startLoad starts clients and watches; the caller waits for them after ctx has ended.
func (c *cluster) startLoad(ctx context.Context) *sync.WaitGroup {
	load := new(sync.WaitGroup)
	for i := range c.cfg.Clients {
		cl := &client{c: c, id: i, rng: rand.New(rand.NewPCG(c.cfg.Seed, 1000+uint64(i)))}
		load.Go(func() { cl.run(ctx) })
	}
	for i := range watches {
		w := &watch{c: c, id: i, rng: rand.New(rand.NewPCG(c.cfg.Seed, 2000+uint64(i)))}
		load.Go(func() { w.run(ctx) })
	}
	return load
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
		default:
			cl.lookup(history.Stale)
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

// end records an operation.
func (cl *client) end(op history.Op, err error) {
	op.Return = cl.c.rec.Now()
	op.Outcome = history.OK
	if err != nil {
		op.Outcome, op.Code = history.Unknown, codeOf(err)
		if op.Kind != history.Append || certain(err) {
			op.Outcome = history.Failed
		}
	}
	cl.c.rec.Op(op)
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
	case api.NoLeader, api.NotReady, api.QueueFull:
		return true
	}
	return false
}

// append seals one event, trying again under its id at any node.
func (cl *client) append() {
	cl.next++
	e := chain.Event{
		Workspace: "default", Source: fmt.Sprintf("client-%d", cl.id), ID: fmt.Sprint(cl.next), Kind: "hnsw.insert",
		Payload: fmt.Appendf(nil, `{"id":"%d"}`, cl.next), ContentType: "application/json",
	}
	op := cl.begin(history.Append, "")
	op.Key = e.Key()
	cl.mine = append(cl.mine, op.Key)
	give := time.Now().Add(patience)
	unknown := error(nil)
	var err error
	for {
		err = errNobody
		var ack server.Ack
		if l := cl.c.pick(cl.rng); l != nil {
			op.Node = l.m.name
			ack, err = l.append(e)
		}
		if err == nil {
			op.Sequence, op.Hash, op.Duplicate = ack.Sequence, ack.Hash, ack.Duplicate
			cl.seen = max(cl.seen, ack.Sequence+1)
			cl.end(op, nil)
			return
		}
		if !certain(err) {
			unknown = err
		}
		var refusal *api.Error
		if errors.As(err, &refusal) && !refusal.Code.Retryable() {
			cl.c.problem("append of %v: %v", op.Key, err)
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
	cl.end(op, err)
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
func (cl *client) read(kind history.Kind, c history.Consistency, f func(context.Context, *life, *history.Op) error) {
	l := cl.c.pick(cl.rng)
	if l == nil {
		return
	}
	op := cl.begin(kind, c)
	op.Node = l.m.name
	err := l.call(attemptLimit, func(ctx context.Context) error {
		if _, err := l.node.Await(ctx, cl.level(c)); err != nil {
			return err
		}
		return f(ctx, l, &op)
	})
	cl.end(op, err)
}

func (cl *client) head(c history.Consistency) {
	cl.read(history.Head, c, func(ctx context.Context, l *life, op *history.Op) error {
		h, err := l.node.Head(ctx)
		op.Size, op.HeadHash, op.Root = h.Size, h.Hash, h.Root
		if c != history.Stale {
			cl.seen = max(cl.seen, h.Size)
		}
		return err
	})
}

func (cl *client) lookup(c history.Consistency) {
	if len(cl.mine) == 0 {
		return
	}
	key := cl.mine[cl.rng.IntN(len(cl.mine))]
	cl.read(history.Lookup, c, func(ctx context.Context, l *life, op *history.Op) error {
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

func (cl *client) get() {
	if cl.seen == 0 {
		return
	}
	seq := uint64(cl.rng.Int64N(int64(cl.seen)))
	cl.read(history.Get, history.Session, func(ctx context.Context, l *life, op *history.Op) error {
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
	c    *cluster
	id   int
	rng  *rand.Rand
	next uint64
}

func (w *watch) run(ctx context.Context) {
	for ctx.Err() == nil {
		if l := w.c.pick(w.rng); l != nil {
			w.follow(ctx, l, time.Duration(5+w.rng.IntN(40))*time.Second)
		}
		sleep(ctx, time.Second)
	}
	w.c.rec.Watched(history.Watch{ID: w.id, From: 0, Until: w.next})
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
			if err != nil || !l.alive() {
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
