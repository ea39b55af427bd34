package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// pprofAddr checks the address of --pprof.
func pprofAddr(addr string) (string, error) {
	if addr == "" {
		return "", nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", usagef("--pprof: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", usagef("--pprof %s: profiles are served to this host alone; give an address such as 127.0.0.1:6060", addr)
	}
	return addr, nil
}

// servePprof serves Go's profiles at an address of this host until ctx ends; ""
// serves none. What it returns waits for its end. Profiles tell what the memory
// holds, so the address must be of the loopback.
func servePprof(ctx context.Context, addr string, logger *slog.Logger) (wait func(), err error) {
	addr, err = pprofAddr(addr)
	if addr == "" || err != nil {
		return func() {}, err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for profiles: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { // joined by wait
		defer close(done)
		if err := s.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Warn("profiles are not served any more", "error", err)
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // its error is the listener's
	logger.Info("serving profiles", "address", listener.Addr().String())
	return func() {
		if stop() {
			_ = s.Close()
		}
		<-done
	}, nil
}
