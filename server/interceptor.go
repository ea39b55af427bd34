package server

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"connectrpc.com/connect"

	"github.com/exonode/exonode/api"
)

// interceptor is around every RPC: deadline, metrics, panics, and the one place
// where errors become Connect's.
type interceptor struct {
	metrics *metrics
	log     *slog.Logger
	timeout time.Duration
}

// WrapUnary implements connect.Interceptor.
func (i *interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (res connect.AnyResponse, err error) {
		call := i.metrics.begin(req.Spec().Procedure)
		defer func() {
			if v := recover(); v != nil {
				err = i.panicked(req.Spec().Procedure, v)
			}
			err = call.end(err)
		}()
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, i.timeout)
			defer cancel()
		}
		return next(ctx, req)
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (i *interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		call := i.metrics.beginStream(conn.Spec().Procedure)
		defer func() {
			if v := recover(); v != nil {
				err = i.panicked(conn.Spec().Procedure, v)
			}
			err = call.end(err)
		}()
		return next(ctx, conn)
	}
}

// WrapStreamingClient implements connect.Interceptor; a server has none.
func (i *interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (i *interceptor) panicked(procedure string, v any) error {
	if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares so too
		panic(v)
	}
	i.log.Error("request handler panicked", "procedure", procedure, "panic", v, "stack", string(debug.Stack()))
	return errPanic()
}

// toConnect is api.ToConnect that keeps nil an untyped nil.
func toConnect(err error) error {
	if err == nil {
		return nil
	}
	return api.ToConnect(err)
}
