package sim

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// passages are what nodes log where they come through something that a simulation is
// to have brought about.
var passages = map[string]string{
	"snapshot taken":     "snapshots",
	"snapshot installed": "installs",
	"a manifest can't be read: taking another snapshot":        "manifests made anew",
	"confirming an install that a crash interrupted":           "installs confirmed at boot",
	"dropped a raft log that does not go on from the snapshot": "logs dropped at boot",
	"restarting raft in place":                                 "rafts restarted in place",
}

// seen counts them.
type seen struct {
	mu     sync.Mutex // guards counts
	counts map[string]int
}

func newSeen() *seen { return &seen{counts: make(map[string]int)} }

func (s *seen) add(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// handler counts what it is given, and hands it on.
type handler struct {
	seen *seen
	next slog.Handler // nil is nobody
}

func (h handler) Enabled(_ context.Context, l slog.Level) bool {
	return h.next != nil || l >= slog.LevelInfo
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if what, ok := passages[r.Message]; ok {
		h.seen.add(what)
	}
	if h.next == nil {
		return nil
	}
	return h.next.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if h.next != nil {
		h.next = h.next.WithAttrs(attrs)
	}
	return h
}

func (h handler) WithGroup(name string) slog.Handler {
	if h.next != nil {
		h.next = h.next.WithGroup(name)
	}
	return h
}

// logger is that of one life of a node.
func (c *cluster) logger(name string, life int) *slog.Logger {
	h := handler{seen: c.seen}
	if c.cfg.Log != nil {
		began := c.began
		h.next = slog.NewTextHandler(c.cfg.Log, &slog.HandlerOptions{
			Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime {
					return slog.Duration("at", a.Value.Time().Sub(began).Round(time.Microsecond))
				}
				return a
			},
		})
	}
	return slog.New(h).With("on", fmt.Sprintf("%s/%d", name, life))
}
