package client

import (
	"context"
	"time"
)

// backoff paces retries: exponential with full jitter.
type backoff struct {
	rand    func() uint64
	attempt int
}

// next returns how long to wait before the next round.
func (b *backoff) next() time.Duration {
	bound := backoffMax
	if b.attempt < 7 {
		bound = min(backoffBase<<b.attempt, backoffMax)
	}
	b.attempt++
	return time.Duration(b.rand() % uint64(bound+1))
}

func (b *backoff) reset() { b.attempt = 0 }

// sleep waits for d or until ctx ends, and returns ctx's error then.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
