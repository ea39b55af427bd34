package pipeline

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// turnstile restores the order of the groups that one peer forwards: their
// calls are handled concurrently, and may overtake one another.
//
// A forwarder names itself by random bits, numbers its runs from 1, and the
// groups within a run from 0. It begins a new run after any failure, and gives
// all of the old one up. So a group waits until those before it in its run have
// passed, and is refused once a later run is seen: who comes before it may never
// come.
type turnstile struct {
	mu sync.Mutex // guards peers and what is in it
	// peers are the newest forwarders of a node, as it was restarted.
	peers map[string][]*turns
}

// place is where a group stands among those of its forwarder.
type place struct {
	forwarder, run, group uint64
}

// turns is how far one forwarder is.
type turns struct {
	forwarder, run, next uint64
	// moved is closed, and replaced, whenever run or next change.
	moved chan struct{}
}

// keepForwarders is how many forwarders of one node are remembered. A node has
// one; calls of the process before it may still be about.
const keepForwarders = 4

// errSuperseded refuses a group of a run that its forwarder has given up. It had
// no effect, and nobody waits for the answer.
var errSuperseded = errors.New("a later run of forwarded groups has begun")

func (t *turnstile) init() { t.peers = make(map[string][]*turns) }

// pass calls enter when it is the turn of a group. It returns ctx's error where
// the turn does not come.
func (t *turnstile) pass(ctx context.Context, peer string, at place, enter func()) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return err // given up: it must not enter late
		}
		f := t.of(peer, at.forwarder)
		if at.run > f.run {
			f.run, f.next = at.run, 0
			f.move()
		}
		switch {
		case at.run < f.run || at.group < f.next:
			return errSuperseded
		case at.group == f.next:
			enter()
			f.next++
			f.move()
			return nil
		}
		moved := f.moved
		t.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-moved:
		}
		t.mu.Lock()
	}
}

// of returns the turns of a forwarder. t.mu is held.
func (t *turnstile) of(peer string, forwarder uint64) *turns {
	known := t.peers[peer]
	for _, f := range known {
		if f.forwarder == forwarder {
			return f
		}
	}
	f := &turns{forwarder: forwarder, moved: make(chan struct{})}
	if len(known) == keepForwarders {
		known = slices.Delete(known, 0, 1)
	}
	t.peers[peer] = append(known, f)
	return f
}

func (f *turns) move() {
	close(f.moved)
	f.moved = make(chan struct{})
}
