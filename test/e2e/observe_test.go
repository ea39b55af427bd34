package e2e

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/exonode/exonode/client"
)

// observers are clients that look at the chain while nodes come and go.
type observers struct {
	c      *cluster
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	heads   int
	watched uint64 // the next entry that the watcher is due
	failed  error
}

// observe starts one client that checks each head it is told against all those
// before, and one that watches the chain.
func (c *cluster) observe() *observers {
	ctx, cancel := context.WithCancel(c.ctx)
	o := &observers{c: c, cancel: cancel}
	heads, watcher := c.newClient(1), c.newClient(2)
	o.wg.Go(func() { o.end(ctx, "verify a head", o.verifyHeads(ctx, heads)) })
	o.wg.Go(func() { o.end(ctx, "watch", o.watch(ctx, watcher)) })
	c.t.Cleanup(func() { cancel(); o.wg.Wait() })
	return o
}

func (o *observers) end(ctx context.Context, what string, err error) {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = errors.Join(o.failed, fmt.Errorf("%s: %w", what, err))
}

func (o *observers) verifyHeads(ctx context.Context, cl *client.Client) error {
	v := cl.Verifier(client.Head{})
	for {
		if _, err := v.VerifyHead(ctx); err != nil {
			return err
		}
		o.mu.Lock()
		o.heads++
		o.mu.Unlock()
	}
}

func (o *observers) watch(ctx context.Context, cl *client.Client) error {
	for e, err := range cl.Watch(ctx, client.WatchQuery{}) {
		if err != nil {
			return err
		}
		o.mu.Lock()
		due := o.watched
		o.watched++
		o.mu.Unlock()
		if e.Sequence != due {
			return fmt.Errorf("entry %d comes where %d is due", e.Sequence, due)
		}
	}
	return errors.New("the watch ended")
}

// check waits until the watcher has seen all of the chain, and ends both.
func (o *observers) check() {
	o.c.t.Helper()
	head, err := o.c.client.Head(o.c.ctx)
	must(o.c.t, err)
	o.c.await("the watcher to see the head", func(context.Context) (bool, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.watched >= head.Size || o.failed != nil, fmt.Errorf("it saw %d of %d entries", o.watched, head.Size)
	})
	o.cancel()
	o.wg.Wait()
	must(o.c.t, o.failed)
	if o.heads == 0 {
		o.c.t.Error("no head was verified")
	}
	o.c.t.Logf("%d heads verified, %d entries watched in order", o.heads, o.watched)
}
