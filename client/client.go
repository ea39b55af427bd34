package client

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"connectrpc.com/connect"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
)

// Client talks to one cluster. It is safe for concurrent use. Reads that it has
// itself (Get, List, Watch and so on, of the embedded Reader) are as fresh as
// Config.Consistency says; At gives others.
type Client struct {
	Reader

	cfg       Config
	log       *slog.Logger
	http      *http.Client
	endpoints []*endpoint
	lanes     []*lane
	ownHTTP   *transport // nil where the caller gave one
	calls     sync.Pool  // of *call

	// current is the index of the endpoint that unary calls start at.
	current atomic.Uint32
	// seen is the size of the largest chain prefix that this client was
	// told of: what Session reads ask for.
	seen atomic.Uint64

	// ctx ends when Close begins; wg has the lanes' goroutines.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// endpoint is one node's API.
type endpoint struct {
	address string // host:port, or the URL as configured
	base    string // its URL, without a slash at the end
	ledger  exonodev1connect.LedgerServiceClient
	cluster exonodev1connect.ClusterServiceClient
	catalog exonodev1connect.CatalogServiceClient
	stream  *connect.Client[rawRequest, exonodev1.AppendStreamResponse]
}

// New returns a client. It connects when it is first used: that no node can be
// reached shows then. The caller closes it.
func New(cfg Config) (*Client, error) {
	cfg, urls, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, log: cfg.Logger}
	c.Reader = Reader{c: c, level: cfg.Consistency}
	c.calls.New = func() any { return &call{done: make(chan struct{}, 1)} }
	c.ctx, c.cancel = context.WithCancel(context.Background())

	rt := cfg.Transport
	if rt == nil {
		c.ownHTTP = newTransport(cfg.TLS)
		rt = c.ownHTTP
	}
	hc := &http.Client{Transport: rt}
	c.http = hc
	streams := &http.Client{Transport: coalescer{rt}}
	options := []connect.ClientOption{
		connect.WithGRPC(),
		// Answers are small or incompressible; inflating them would cost
		// more than the loopback or a data centre's network does.
		connect.WithAcceptCompression("gzip", nil, nil),
		connect.WithReadMaxBytes(maxReadBytes),
	}
	if cfg.Token != nil {
		options = append(options, connect.WithInterceptors(tokenInterceptor{cfg.Token}))
	}
	for _, u := range urls {
		base := u.String()
		c.endpoints = append(c.endpoints, &endpoint{
			address: u.Host,
			base:    strings.TrimSuffix(base, "/"),
			ledger:  exonodev1connect.NewLedgerServiceClient(hc, base, options...),
			cluster: exonodev1connect.NewClusterServiceClient(hc, base, options...),
			catalog: exonodev1connect.NewCatalogServiceClient(hc, base, options...),
			stream: connect.NewClient[rawRequest, exonodev1.AppendStreamResponse](streams,
				base+exonodev1connect.LedgerServiceAppendStreamProcedure,
				append(options[:len(options):len(options)], connect.WithCodec(codec{}))...),
		})
	}
	lanes := 1
	if cfg.Spread {
		lanes = len(c.endpoints)
	}
	for i := range lanes {
		c.lanes = append(c.lanes, newLane(c, i))
	}
	return c, nil
}

// Close ends the streams and waits for the client's goroutines. What is not
// acknowledged yet fails with an IncompleteError that wraps ErrClosed. It may
// be called more than once.
func (c *Client) Close() error {
	for _, l := range c.lanes {
		l.close()
	}
	c.cancel()
	c.wg.Wait()
	if c.ownHTTP != nil {
		c.ownHTTP.close()
	}
	return nil
}

// Addresses returns the addresses that the client uses, as host:port.
func (c *Client) Addresses() []string {
	out := make([]string, len(c.endpoints))
	for i, ep := range c.endpoints {
		out[i] = ep.address
	}
	return out
}

// endpointAt returns the endpoint of an address as Addresses names it, or as
// Config.Addresses does.
func (c *Client) endpointAt(address string) (*endpoint, error) {
	u, err := parseAddress(address, c.cfg.TLS != nil)
	if err != nil {
		return nil, err
	}
	for _, ep := range c.endpoints {
		if ep.address == u.Host {
			return ep, nil
		}
	}
	return nil, fmt.Errorf("client: %q is not one of Config.Addresses", address)
}

// observe raises what Session reads ask for.
func (c *Client) observe(size uint64) {
	for {
		old := c.seen.Load()
		if size <= old || c.seen.CompareAndSwap(old, size) {
			return
		}
	}
}

// tokenInterceptor puts the caller's token on every call.
type tokenInterceptor struct {
	token func(context.Context) (string, error)
}

func (t tokenInterceptor) set(ctx context.Context, h http.Header) error {
	token, err := t.token(ctx)
	if err != nil {
		return fmt.Errorf("get the caller's token: %w", err)
	}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return nil
}

// WrapUnary implements connect.Interceptor.
func (t tokenInterceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := t.set(ctx, req.Header()); err != nil {
			return nil, connect.NewError(connect.CodeUnauthenticated, err)
		}
		return next(ctx, req)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (t tokenInterceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		if err := t.set(ctx, conn.RequestHeader()); err != nil {
			return refusedConn{conn, connect.NewError(connect.CodeUnauthenticated, err)}
		}
		return conn
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (t tokenInterceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// refusedConn is a stream that can't begin, since there is no token for it.
type refusedConn struct {
	connect.StreamingClientConn
	err error
}

func (c refusedConn) Send(any) error       { return c.err }
func (c refusedConn) Receive(any) error    { return c.err }
func (c refusedConn) CloseRequest() error  { return nil }
func (c refusedConn) CloseResponse() error { return nil }
