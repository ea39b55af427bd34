package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// minBackoff is the wait after the first failure to reach a peer; it doubles
// up to Limits.Backoff.
const minBackoff = 25 * time.Millisecond

// dial makes a connection and registers it; the caller unregisters. It returns
// at once where a recent attempt failed. Its error wraps ErrUnreachable, or is
// ErrClosed.
func (t *Transport) dial(ctx context.Context, class Class, to PeerRef, target raft.ServerID) (*conn, error) {
	key := backoffKey{class: class, peer: to.NodeID}
	if to.NodeID == "" {
		key.peer = to.Addr
	}
	if err := t.backoffs.wait(key); err != nil {
		return nil, fmt.Errorf("transport: dial %s: %w: %w", key.peer, ErrUnreachable, err)
	}
	stats := t.counters.class(class)
	c, err := t.dialOnce(ctx, class, to, target)
	if t.ctx.Err() != nil || ctx.Err() != nil {
		if err == nil {
			c.fail(ErrClosed)
			t.unregister(c)
		}
		return nil, fmt.Errorf("transport: dial %s: %w: %w", key.peer, ErrUnreachable, ErrClosed)
	}
	if err != nil {
		stats.dialFailed.Add(1)
		t.backoffs.failed(key, err, t.cfg.Limits.Backoff)
		return nil, fmt.Errorf("transport: dial %s: %w: %w", key.peer, ErrUnreachable, err)
	}
	stats.dialed.Add(1)
	t.backoffs.clear(c.peer.NodeID)
	return c, nil
}

func (t *Transport) dialOnce(ctx context.Context, class Class, to PeerRef, target raft.ServerID) (*conn, error) {
	if to.NodeID == t.NodeID() {
		return nil, ErrSelf
	}
	if to.NodeID != "" {
		// What the peer will turn out to be, if it is who it should be.
		if err := t.allowed(Peer{NodeID: to.NodeID, ServerID: target, Class: class}); err != nil {
			return nil, ofPeer(err)
		}
	}
	addr := to.Addr
	if addr == "" {
		var ok bool
		if addr, ok = t.cfg.Resolve(to.NodeID); !ok {
			return nil, errors.New("no address known")
		}
	}
	dialCtx, cancel := context.WithTimeout(ctx, t.cfg.Limits.Dial)
	defer cancel()
	raw, err := t.cfg.Dial(dialCtx, addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer stop()
	c, s, err := t.secure(ctx, raw, false, class, to.NodeID)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	if err = t.introduce(c, s, target); err == nil {
		err = ofPeer(t.register(c))
	}
	if err != nil {
		c.fail(err)
		t.unregister(c)
		return nil, err
	}
	return c, nil
}

// ofPeer is why the dialer itself wants nothing to do with its peer. That the peer was
// removed is no ErrRemoved then: that one is for ever, of the dialer, and the peer's to
// say. A node that took its own refusal of a removed member for it would end itself.
func ofPeer(err error) error {
	if errors.Is(err, ErrRemoved) {
		return fmt.Errorf("%w: the peer was removed from it", ErrNotMember)
	}
	return err
}

type backoffKey struct {
	class Class
	peer  string // node id, or address where that is unknown
}

type backoff struct {
	failures int
	until    time.Time
	err      error
}

// backoffs remembers which peers could not be reached.
type backoffs struct {
	mu sync.Mutex // guards m
	m  map[backoffKey]backoff
}

// wait returns an error while an attempt would come too soon.
func (b *backoffs) wait(key backoffKey) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	state, ok := b.m[key]
	if !ok || !time.Now().Before(state.until) {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrBackoff, state.err)
}

func (b *backoffs) failed(key backoffKey, err error, limit time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for k, old := range b.m { // forget addresses that nobody asks for any more
		if now.Sub(old.until) > time.Minute {
			delete(b.m, k)
		}
	}
	state := b.m[key]
	wait := min(limit, minBackoff<<min(state.failures, 10))
	b.m[key] = backoff{failures: state.failures + 1, until: now.Add(wait), err: err}
}

// clear forgets the failures of a node that was heard of.
func (b *backoffs) clear(nodeID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, class := range []Class{ClassRaft, ClassCall, ClassFetch, ClassJoin} {
		delete(b.m, backoffKey{class, nodeID})
	}
}
