package server

import (
	"context"
	"fmt"
	"net/http"
	"runtime/debug"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
	"github.com/exonode/exonode/chain/tlogwitness"
)

// routes puts everything on one port. Health and metrics ask for no
// authentication; all else goes through it.
func (s *Server) routes() http.Handler {
	refused := new(refusals)
	decode := decoding{refused: refused, limit: s.cfg.MaxRequest}
	options := []connect.HandlerOption{
		connect.WithInterceptors(&interceptor{metrics: s.metrics, log: s.cfg.Log, timeout: s.cfg.RequestTimeout, refused: refused}),
		// The codecs keep to MaxRequest, with an error of ours; what is far
		// larger is not even read.
		connect.WithReadMaxBytes(2 * s.cfg.MaxRequest),
		// Below that, compressing costs more than it saves.
		connect.WithCompressMinBytes(1 << 10),
		connect.WithCodec(strictProto{decode}),
		connect.WithCodec(strictJSON{decode, "json"}),
		connect.WithCodec(strictJSON{decode, "json; charset=utf-8"}),
	}
	ledger := &ledgerService{node: s.cfg.Node, stop: s.stop, readers: &s.readers, metrics: s.metrics}
	web := &webService{ledger: ledger, maxBody: int64(s.cfg.MaxRequest), timeout: s.cfg.RequestTimeout}

	private := http.NewServeMux()
	private.Handle(exonodev1connect.NewLedgerServiceHandler(ledger, options...))
	private.Handle(exonodev1connect.NewClusterServiceHandler(&clusterService{node: s.cfg.Node}, options...))
	private.Handle(exonodev1connect.NewCatalogServiceHandler(&catalogService{node: s.cfg.Node}, options...))
	names := grpcreflect.NewStaticReflector(
		exonodev1connect.LedgerServiceName, exonodev1connect.ClusterServiceName, exonodev1connect.CatalogServiceName,
	)
	private.Handle(grpcreflect.NewHandlerV1(names))
	private.Handle(grpcreflect.NewHandlerV1Alpha(names))
	for pattern, route := range map[string]webRoute{
		"POST /v1/events":            web.postEvents,
		"GET /v1/entries":            web.getEntries,
		"GET /v1/entries/{sequence}": web.getEntry,
		"GET /v1/lookup":             web.getLookup,
		"GET /v1/head":               web.getHead,
		"GET /v1/status":             web.getStatus,
		"GET /checkpoint":            web.getCheckpoint,
		"GET /tile/":                 web.getTile,

		"POST /witness/" + tlogwitness.Path: web.postAddCheckpoint,
	} {
		private.Handle(pattern, s.metrics.route(pattern, web.serve(route)))
	}

	private.Handle("/v1/", s.metrics.route("/v1/", web.serve(noRoute(private))))

	public := http.NewServeMux()
	public.Handle(grpchealth.NewHandler(healthChecker{s.cfg.Node}))
	public.Handle("GET /metrics", promhttp.HandlerFor(s.cfg.Registry, promhttp.HandlerOpts{}))
	public.HandleFunc("GET /livez", livez)
	public.HandleFunc("GET /readyz", readyz(s.cfg.Node))
	// A web page of another origin must not write through its visitor's
	// browser; requests of other programs are not concerned.
	public.Handle("/", http.NewCrossOriginProtection().Handler(s.authenticate(knownMethods(private), options)))
	return s.recovered(public)
}

// noRoute answers what no route of /v1 takes: there is no such path, or it takes
// another method.
func noRoute(mux *http.ServeMux) webRoute {
	return func(w http.ResponseWriter, r *http.Request) error {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
			if _, pattern := mux.Handler(other); pattern != "/v1/" && pattern != "" {
				w.Header().Set("Allow", method)
				e := &api.Error{Code: api.Unimplemented, Message: fmt.Sprintf("%s takes %s, not %s", r.URL.Path, method, r.Method)}
				writeJSON(w, http.StatusMethodNotAllowed, e.JSON())
				return nil
			}
		}
		return &api.Error{Code: api.Unimplemented, Message: fmt.Sprintf("there is no %s", r.URL.Path), Hint: "docs/API.md lists the paths"}
	}
}

// callerKey is the context key of the Caller.
type callerKey struct{}

// callerOf returns who calls.
func callerOf(ctx context.Context) Caller {
	if c, ok := ctx.Value(callerKey{}).(Caller); ok {
		return c
	}
	return Caller{Principal: "local"}
}

// authenticate puts the Caller into the request's context.
func (s *Server) authenticate(next http.Handler, options []connect.HandlerOption) http.Handler {
	if s.cfg.Authenticate == nil {
		return next
	}
	rpc := connect.NewErrorWriter(options...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := s.cfg.Authenticate(r)
		if err == nil {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
			return
		}
		if rpc.IsSupported(r) {
			// The client is gone where this fails.
			_ = rpc.Write(w, r, api.ToConnect(err))
			return
		}
		writeError(w, err)
	})
}

// recovered answers a request whose handler panics, and logs it. RPC handlers
// have their own, which knows their protocol.
func (s *Server) recovered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http compares so too
				panic(v)
			}
			s.cfg.Log.Error("request handler panicked", "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			writeError(w, errPanic())
		}()
		next.ServeHTTP(w, r)
	})
}

func errPanic() *api.Error {
	return &api.Error{Code: api.Internal, Message: "the node failed to answer this request", Hint: "its log says more; please report it"}
}
