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
	refused *refusals
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
		if err := i.refused.take(req.Any()); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(ctx, answerWithin(ctx, i.timeout))
		defer cancel()
		return next(ctx, req)
	}
}

// maxHeadStart is the most that an answer is made before the caller's deadline.
const maxHeadStart = 500 * time.Millisecond

// answerWithin is the time that a request may take: a little less than its
// deadline leaves, so that what the node knows by then (no leader, an open
// outcome) reaches the caller in place of a timeout of its own.
func answerWithin(ctx context.Context, without time.Duration) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return without
	}
	left := time.Until(deadline)
	return left - min(left/10, maxHeadStart)
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
		return next(ctx, checked{conn, i.refused})
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
