package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/exonode/exonode/api"
)

// Config says where the cluster is and how to talk to it. Only Addresses is
// needed. It is read once by New.
type Config struct {
	// Addresses are the API addresses of the cluster's nodes, as host:port
	// or as http:// or https:// URLs without a path. A host:port is spoken
	// to with TLS where TLS is set, and in clear text (HTTP/2 without TLS)
	// where it is not. Calls start at the first and fail over to the next.
	Addresses []string
	// TLS turns TLS on for host:port addresses, and configures it.
	TLS *tls.Config
	// Token returns the bearer token that a call carries; nil sends none. It
	// is called before every attempt and must be safe for concurrent use.
	Token func(context.Context) (string, error)

	// Workspace and Source are used for events that have none; Workspace is
	// "default" where empty.
	Workspace, Source string
	// Consistency is how fresh reads are, unless Client.At says otherwise.
	Consistency Consistency
	// Spread keeps one stream to each address instead of one in all and
	// gives an event to the stream with the fewest in flight. It shares the
	// work of a busy process among the nodes; events of two concurrent
	// Appends commit in any order either way.
	Spread bool
	// VerifyAcks reads every acknowledged entry back and compares it with
	// the event that was submitted: one more round trip for each Append.
	VerifyAcks bool

	// RetryFor bounds how long a call whose context has no deadline is
	// retried; 30 seconds where it is 0. A context's deadline replaces it.
	RetryFor time.Duration
	// Stall is how long a node may leave events without any answer before
	// they are sent to another one; 10 seconds where it is 0, and less where
	// RetryFor would not leave each address its part.
	Stall time.Duration
	// MaxInFlight is how many events may be unanswered on one stream; 8,192
	// where it is 0. What exceeds it waits in memory.
	MaxInFlight int

	// Transport carries the HTTP/2 requests; nil builds one from TLS. It
	// must speak HTTP/2 for http:// addresses too where they are used.
	Transport http.RoundTripper
	// Logger gets failovers (Info) and what is being retried (Debug); nil
	// discards them. Payloads are never logged.
	Logger *slog.Logger
	// Observer is told of what happens on the streams; its nil fields are
	// not called.
	Observer Observer
	// Rand draws ids and the jitter of retries; nil uses the runtime's
	// seeded generator. It must be safe for concurrent use.
	Rand func() uint64
}

// Observer has the hooks for a caller's metrics. They are called on the
// client's own goroutines and must not block.
type Observer struct {
	// Sent is called for each message on a stream.
	Sent func(address string, events, bytes int)
	// Acked is called for each answer on a stream.
	Acked func(address string, events int)
	// Retried is called when events are about to be sent again.
	Retried func(address string, events int, cause error)
}

const (
	defaultRetryFor    = 30 * time.Second
	defaultStall       = 10 * time.Second
	defaultMaxInFlight = 8192

	// A message carries what waits, up to these bounds. 128 KiB is what the
	// leader packs into one command; more would only add latency.
	maxMessageBytes  = 128 << 10
	maxMessageEvents = 1024

	// Backoff after all addresses failed once: drawn uniformly from zero to
	// a bound that doubles.
	backoffBase = 20 * time.Millisecond
	backoffMax  = 2 * time.Second

	attemptTimeout = 5 * time.Second

	// Server messages: a page of entries or a Watch message.
	maxReadBytes = 64 << 20
)

// withDefaults returns cfg validated, with its zero fields filled.
func (cfg Config) withDefaults() (Config, []*url.URL, error) {
	if len(cfg.Addresses) == 0 {
		return cfg, nil, errors.New("client: no address given: set Config.Addresses to at least one node's API address (host:port)")
	}
	urls := make([]*url.URL, 0, len(cfg.Addresses))
	seen := make(map[string]bool)
	for _, a := range cfg.Addresses {
		u, err := parseAddress(a, cfg.TLS != nil)
		if err != nil {
			return cfg, nil, err
		}
		if seen[u.String()] {
			continue
		}
		seen[u.String()] = true
		urls = append(urls, u)
	}
	if cfg.RetryFor < 0 || cfg.Stall < 0 || cfg.MaxInFlight < 0 {
		return cfg, nil, errors.New("client: RetryFor, Stall and MaxInFlight must not be negative")
	}
	if cfg.Workspace == "" {
		cfg.Workspace = api.DefaultWorkspace
	}
	if cfg.RetryFor == 0 {
		cfg.RetryFor = defaultRetryFor
	}
	if cfg.Stall == 0 {
		cfg.Stall = defaultStall
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = defaultMaxInFlight
	}
	if cfg.Consistency > Stale {
		return cfg, nil, fmt.Errorf("client: unknown consistency %d", cfg.Consistency)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Uint64
	}
	return cfg, urls, nil
}

// parseAddress reads host:port or a URL into a base URL.
func parseAddress(a string, useTLS bool) (*url.URL, error) {
	const hint = `want host:port ("127.0.0.1:7482") or a URL ("https://node1.example:7482")`
	raw := strings.TrimSpace(a)
	if !strings.Contains(raw, "://") {
		scheme := "http://"
		if useTLS {
			scheme = "https://"
		}
		raw = scheme + raw
	}
	u, err := url.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("client: %w %q: %s", ErrAddress, a, hint)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("client: %w %q: scheme %q; %s", ErrAddress, a, u.Scheme, hint)
	}
	if u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("client: %w %q: %s", ErrAddress, a, hint)
	}
	if u.Port() == "" {
		if !strings.Contains(a, "://") {
			return nil, fmt.Errorf("client: %w %q has no port: %s", ErrAddress, a, hint)
		}
		port := "80"
		if u.Scheme == "https" {
			port = "443"
		}
		u.Host = net.JoinHostPort(u.Hostname(), port)
	} else if _, err := strconv.ParseUint(u.Port(), 10, 16); err != nil {
		return nil, fmt.Errorf("client: %w %q: port %s is not one of 1 to 65535", ErrAddress, a, u.Port())
	}
	u.Path = ""
	return u, nil
}
