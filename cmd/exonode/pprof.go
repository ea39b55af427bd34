package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/pprof"
)

// servePprof serves Go's profiles at an address of this host until ctx ends; ""
// serves none. What it returns waits for its end. Profiles tell what the memory
// holds, so the address must be of the loopback.
func servePprof(ctx context.Context, addr string, logger *slog.Logger) (wait func(), err error) {
	if addr == "" {
		return func() {}, nil
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return serveLocally(ctx, "--pprof", addr, mux, logger)
}
