// Package discovery turns mDNS announcements and seeds into candidate peer
// addresses, and does nothing more: a candidate is a place to knock at, never
// an identity. Who answers there is for the transport's handshake to say.
//
// It must not connect to candidates, decide about membership, or remember
// anything across restarts. Package node runs it beside the other services and
// derives the discovery.found and discovery.lost events from what it reports.
package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Method says how a candidate was found.
type Method string

// The methods.
const (
	ByMDNS Method = "mdns"
	BySeed Method = "seed" // a seed that is an address
	ByDNS  Method = "dns"  // a seed that is a name
)

// Candidate is an address where a peer may listen.
type Candidate struct {
	// Addr is host:port, the host an IP address (with a zone where it is
	// link-local IPv6).
	Addr   string
	Method Method
	// NodeID is what an announcement claims; "" where nothing was claimed.
	NodeID string
	// Seen is when the address was last announced or resolved.
	Seen time.Time
}

// Event reports that a candidate was found or lost.
type Event struct {
	Candidate
	// Lost: the announcement expired or was withdrawn, or the name no
	// longer resolves to the address.
	Lost bool
}

// Config says where to look. A Config with neither seeds nor MDNS finds nothing.
type Config struct {
	// Seeds are addresses or DNS names, with or without a port; see
	// ParseSeed.
	Seeds []string
	// DefaultPort is for seeds without one.
	DefaultPort uint16
	// Resolver resolves names; nil is net.DefaultResolver.
	Resolver Resolver
	// MDNS is nil where multicast DNS is off.
	MDNS *MDNS
	// Rand yields jitter in [0,1); nil is math/rand/v2.
	Rand func() float64
	// Log is required.
	Log *slog.Logger
}

// Discovery looks for candidates while Run runs.
type Discovery struct {
	cfg   Config
	seeds []Seed
	mdns  *responder // nil where off

	// mu guards found, and serialises calls of the sink.
	mu    sync.Mutex
	found map[key]Candidate
}

// key tells candidates apart: one address may be found in several ways.
type key struct {
	addr   string
	method Method
	origin string // the name that resolved to it
}

// New checks cfg. A seed that can't be parsed is an error that wraps ErrSeed
// and names it.
func New(cfg Config) (*Discovery, error) {
	if cfg.Log == nil {
		return nil, errors.New("discovery: Config.Log is nil")
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	d := &Discovery{cfg: cfg, found: make(map[key]Candidate)}
	for _, text := range cfg.Seeds {
		s, err := ParseSeed(text, cfg.DefaultPort)
		if err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		d.seeds = append(d.seeds, s)
	}
	if cfg.MDNS != nil {
		r, err := newResponder(*cfg.MDNS, cfg.Rand, cfg.Log)
		if err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		d.mdns = r
	}
	return d, nil
}

// Run looks for candidates until ctx ends, and then returns nil: no network
// condition makes it fail. It calls sink, one call at a time, when a candidate
// appears or disappears; sink must not call back into d, and while it blocks
// discovery waits. Run may be called once.
func (d *Discovery) Run(ctx context.Context, sink func(Event)) error {
	var wg sync.WaitGroup
	for _, s := range d.seeds {
		wg.Go(func() { d.runSeed(ctx, s, sink) })
	}
	if d.mdns != nil {
		wg.Go(func() {
			d.mdns.run(ctx, func(e Event) { d.report(e, "", sink) })
		})
	}
	wg.Wait()
	return nil
}

// Candidates returns what is known now, one per address (a method that names
// the node wins), ordered by address. It is safe for concurrent use.
func (d *Discovery) Candidates() []Candidate {
	d.mu.Lock()
	defer d.mu.Unlock()
	byAddr := make(map[string]Candidate)
	for _, c := range d.found {
		have, ok := byAddr[c.Addr]
		if !ok || better(c, have) {
			byAddr[c.Addr] = c
		}
	}
	return slices.SortedFunc(maps.Values(byAddr), func(a, b Candidate) int {
		return strings.Compare(a.Addr, b.Addr)
	})
}

// better orders candidates of one address, independently of map order.
func better(a, b Candidate) bool {
	if (a.NodeID != "") != (b.NodeID != "") {
		return a.NodeID != ""
	}
	return a.Method < b.Method
}

// report records e and tells sink where it changes what is known.
func (d *Discovery) report(e Event, origin string, sink func(Event)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	k := key{e.Addr, e.Method, origin}
	have, known := d.found[k]
	switch {
	case e.Lost && !known:
		return
	case e.Lost:
		delete(d.found, k)
	default:
		d.found[k] = e.Candidate
		if known && have.NodeID == e.NodeID {
			return
		}
	}
	sink(e)
}

// backoff yields growing, jittered delays.
type backoff struct {
	first, max, next time.Duration
	rand             func() float64
}

func newBackoff(first, max time.Duration, rand func() float64) *backoff {
	return &backoff{first: first, max: max, next: first, rand: rand}
}

// delay returns the next delay: between three quarters and five quarters of a
// value that doubles up to max.
func (b *backoff) delay() time.Duration {
	d := b.next
	b.next = min(2*b.next, b.max)
	return d*3/4 + time.Duration(b.rand()*float64(d)/2)
}

func (b *backoff) reset() { b.next = b.first }

// wait returns false where ctx ended first.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
