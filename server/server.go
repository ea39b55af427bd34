package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/exonode/exonode/api"
)

const (
	// DefaultMaxRequest is the most bytes of a request message, or of the
	// body of a request that is no RPC.
	DefaultMaxRequest = 8 << 20
	// DefaultRequestTimeout is the deadline of requests that bring none.
	DefaultRequestTimeout = 30 * time.Second
	// DefaultDrain is how long Run lets requests end after its context has.
	DefaultDrain = 5 * time.Second

	headerTimeout = 10 * time.Second
	idleTimeout   = 3 * time.Minute
	// maxHeader bounds a request's headers; net/http adds a little slack.
	maxHeader = 64 << 10
	// maxStreams bounds concurrent streams of one HTTP/2 connection: that many
	// callers can wait for a commit at once.
	maxStreams = 4096
	// HTTP/2 flow control windows: a stream of events must not wait for
	// window updates on a link with some delay.
	streamReceive = 4 << 20
	connReceive   = 16 << 20
)

// Config says what to serve, where and how. Zero fields but Node have defaults.
type Config struct {
	// Node answers; required.
	Node Node
	// Listener is where Run serves; required by Run, which closes it. Whether
	// it may listen there is for CheckListen.
	Listener net.Listener
	// TLS has the server's certificate; nil is plain text (HTTP/1.1, and
	// HTTP/2 with prior knowledge).
	TLS *tls.Config
	// Authenticate tells who calls; nil makes everyone the principal "local".
	Authenticate Authenticator
	// Registry gets the server's metrics and is what /metrics shows; nil is
	// one of the server's own.
	Registry *prometheus.Registry
	// Log is nil for none.
	Log *slog.Logger

	// MaxRequest is DefaultMaxRequest where 0, in bytes.
	MaxRequest int
	// RequestTimeout is DefaultRequestTimeout where 0. Streams have none.
	RequestTimeout time.Duration
	// Drain is DefaultDrain where 0.
	Drain time.Duration
}

// Authenticator tells who sends a request. Errors are *api.Error, with code
// api.Unauthorized where the caller may not call at all.
type Authenticator func(*http.Request) (Caller, error)

// Server is the API of one node.
type Server struct {
	cfg     Config
	http    *http.Server
	handler http.Handler
	metrics *metrics
	// stop is closed when the server begins to shut down: streams end.
	stop     chan struct{}
	stopOnce sync.Once
	readers  tracker
}

// New returns a server that does not serve yet.
func New(cfg Config) (*Server, error) {
	if cfg.Node == nil {
		return nil, errors.New("server: config without a node")
	}
	if cfg.MaxRequest < 0 || cfg.RequestTimeout < 0 || cfg.Drain < 0 {
		return nil, errors.New("server: negative limit in config")
	}
	if cfg.Registry == nil {
		cfg.Registry = prometheus.NewRegistry()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxRequest == 0 {
		cfg.MaxRequest = DefaultMaxRequest
	}
	if cfg.RequestTimeout == 0 {
		cfg.RequestTimeout = DefaultRequestTimeout
	}
	if cfg.Drain == 0 {
		cfg.Drain = DefaultDrain
	}
	s := &Server{cfg: cfg, stop: make(chan struct{})}
	var err error
	if s.metrics, err = newMetrics(cfg.Registry, cfg.Node); err != nil {
		return nil, fmt.Errorf("server: register metrics: %w", err)
	}
	s.handler = s.routes()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(cfg.TLS != nil)
	protocols.SetUnencryptedHTTP2(cfg.TLS == nil)
	s.http = &http.Server{
		Handler:           s.handler,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerStream:     streamReceive,
			MaxReceiveBufferPerConnection: connReceive,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   15 * time.Second,
			WriteByteTimeout:              30 * time.Second,
		},
	}
	if cfg.TLS != nil {
		s.http.TLSConfig = cfg.TLS.Clone()
	}
	return s, nil
}

// Handler returns the API as a handler, for tests and for embedding. HTTP/2 is
// then the caller's business; AppendStream needs it.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves until ctx ends, and then lets requests end: streams are told to go
// elsewhere, calls get Config.Drain to finish, what is left is cut off. It
// returns nil when it was ctx that ended it. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.cfg.Listener == nil {
		return errors.New("server: config without a listener")
	}
	served := make(chan error, 1)
	go func() { served <- s.serve() }()
	select {
	case err := <-served:
		s.Close()
		if errors.Is(err, http.ErrServerClosed) {
			return nil // by Close
		}
		return fmt.Errorf("server: serve %s: %w", s.cfg.Listener.Addr(), err)
	case <-ctx.Done():
	}

	// The order: streams first, since Shutdown waits for them; then no new
	// connection and no new request; then whoever is still there.
	s.beginStop()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Drain)
	defer cancel()
	err := s.http.Shutdown(drain)
	s.Close()
	<-served
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("server: shut down: %w", err)
	}
	return nil
}

func (s *Server) serve() error {
	if s.cfg.TLS != nil {
		return s.http.ServeTLS(s.cfg.Listener, "", "")
	}
	return s.http.Serve(s.cfg.Listener)
}

// Close cuts all connections and returns once the server's goroutines have
// ended. It may be called twice, and without Run.
func (s *Server) Close() error {
	s.beginStop()
	err := s.http.Close()
	if s.cfg.Listener != nil {
		// Serve may never have got it.
		if cerr := s.cfg.Listener.Close(); err == nil && !errors.Is(cerr, net.ErrClosed) {
			err = cerr
		}
	}
	s.readers.wait()
	if err != nil {
		return fmt.Errorf("server: close: %w", err)
	}
	return nil
}

func (s *Server) beginStop() { s.stopOnce.Do(func() { close(s.stop) }) }

func errStopping() *api.Error {
	return &api.Error{Code: api.NotReady, Message: "the node is stopping", Hint: "go on with another node, with the same ids"}
}

// tracker counts goroutines that outlive the handler that started them by a
// moment.
type tracker struct {
	mu     sync.Mutex // guards closed, and add against wait
	closed bool
	wg     sync.WaitGroup
}

// add reports whether a goroutine may start; it then must call done.
func (t *tracker) add() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Add(1)
	return true
}

func (t *tracker) done() { t.wg.Done() }

// wait lets none start any more and returns once all have ended.
func (t *tracker) wait() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}

// onClose calls f once ch is closed; the returned function takes that back and
// joins.
func onClose(ctx context.Context, ch <-chan struct{}, f func()) (cancel func()) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ch:
			f()
		case <-ctx.Done():
		}
	}()
	return func() {
		stop()
		<-done
	}
}

// pause waits as long as a full queue's error asks for.
func pause(ctx context.Context, stop <-chan struct{}, full error) error {
	d := time.Duration(api.AsError(full).RetryAfterMillis) * time.Millisecond
	timer := time.NewTimer(min(max(d, time.Millisecond), time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-stop:
		return errStopping()
	case <-ctx.Done():
		return ctx.Err()
	}
}
