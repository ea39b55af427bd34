package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/exonode/exonode/faults"
)

// serveFaults serves a node's faults at an address of this host until ctx ends; ""
// serves none. What it returns waits for its end. Whoever reaches it can break the
// node, so the address must be of the loopback. A plan that stands in a file, which may
// be missing, holds from the start.
func serveFaults(ctx context.Context, addr, plan string, set *faults.Set, logger *slog.Logger) (wait func(), err error) {
	if addr == "" {
		return func() {}, nil
	}
	if b, err := os.ReadFile(plan); err == nil {
		var p faults.Plan
		if err := json.Unmarshal(b, &p); err != nil {
			return nil, fmt.Errorf("%s: %w", plan, err)
		}
		if err := set.Apply(p); err != nil {
			return nil, fmt.Errorf("%s: %w", plan, err)
		}
	}
	return serveLocally(ctx, "--chaos", addr, set.Handler(), logger)
}

// serveLocally serves something to this host alone, at an address that checkLoopback
// let pass, until ctx ends. What it returns waits for its end.
func serveLocally(ctx context.Context, flag, addr string, handler http.Handler, logger *slog.Logger) (wait func(), err error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for %s: %w", flag, err)
	}
	s := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { // joined by wait
		defer close(done)
		if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Warn("not served any more", "flag", flag, "error", err)
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // its error is the listener's
	logger.Info("serving to this host", "flag", flag, "address", listener.Addr().String())
	return func() {
		if stop() {
			_ = s.Close()
		}
		<-done
	}, nil
}

// checkLoopback refuses an address that others than this host could reach; "" is none.
func checkLoopback(flag, addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return usagef("%s: %w", flag, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return usagef("%s %s: it is for this host alone; give an address such as 127.0.0.1:6060", flag, addr)
	}
	return nil
}
