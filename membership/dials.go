package membership

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// dials spaces attempts at addresses that don't answer. Its user serialises
// calls.
type dials struct {
	rand  func() float64
	state map[string]*dial
}

type dial struct {
	delay time.Duration
	next  time.Time
	last  string // last logged error
	never bool
}

func newDials(rand func() float64) *dials {
	return &dials{rand: rand, state: make(map[string]*dial)}
}

// due returns the addresses to ask now, each once.
func (d *dials) due(now time.Time, addrs []string) []string {
	var out []string
	for _, a := range addrs {
		s := d.state[a]
		if s == nil {
			if len(d.state) >= maxAsked {
				continue
			}
			s = &dial{}
			d.state[a] = s
		}
		if !s.never && !now.Before(s.next) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// done records an attempt, and logs a failure unless it is the last one again.
func (d *dials) done(addr string, err error, now time.Time, log *slog.Logger) {
	s := d.state[addr]
	if err == nil {
		*s = dial{}
		return
	}
	s.delay = min(max(2*s.delay, formEvery), dialMax)
	s.next = now.Add(s.delay/2 + time.Duration(d.rand()*float64(s.delay)/2))
	if text := err.Error(); text != s.last && !errors.Is(err, context.Canceled) {
		log.Info("candidate does not answer as a peer", "address", addr, "error", err)
		s.last = text
	}
}

// ignore drops an address for good.
func (d *dials) ignore(addr string) { d.state[addr].never = true }

// except drops one address and empty ones.
func except(addrs []string, drop string) []string {
	return slices.DeleteFunc(addrs, func(a string) bool { return a == "" || a == drop })
}

// pause waits about d, or returns ctx's error.
func pause(ctx context.Context, d time.Duration, rand func() float64) error {
	t := time.NewTimer(d*3/4 + time.Duration(rand()*float64(d)/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
