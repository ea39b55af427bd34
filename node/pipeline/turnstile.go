package pipeline

import (
	"context"
	"sync"
)

// turnstile restores the order of the groups that one peer forwards: their
// calls are handled concurrently, and may overtake one another.
//
// A forwarder numbers its groups from 0 within a run, which it names by random
// bits, and begins a new run after any failure. A group waits until those
// before it in its run have been queued. Only the newest run of a peer counts.
type turnstile struct {
	mu    sync.Mutex // guards peers
	peers map[string]*turns
}

type turns struct {
	run  uint64
	next uint64
	// moved is closed, and replaced, whenever run or next change.
	moved chan struct{}
}

func (t *turnstile) init() { t.peers = make(map[string]*turns) }

// pass calls enter when it is the turn of group n of a run. It returns ctx's
// error where the turn does not come.
func (t *turnstile) pass(ctx context.Context, peer string, run, n uint64, enter func()) error {
	t.mu.Lock()
	for {
		p := t.peers[peer]
		if p == nil {
			p = &turns{run: run, moved: make(chan struct{})}
			t.peers[peer] = p
		}
		if p.run != run && n == 0 {
			p.run, p.next = run, 0
		}
		if p.run == run && p.next == n {
			enter()
			p.next++
			close(p.moved)
			p.moved = make(chan struct{})
			t.mu.Unlock()
			return nil
		}
		moved := p.moved
		t.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
		t.mu.Lock()
	}
}
