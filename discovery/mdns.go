package discovery

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"
)

// MDNS configures multicast DNS (RFC 6762, RFC 6763): the node announces itself
// under _exonode._tcp.local and looks for others of the same genesis.
type MDNS struct {
	// Genesis is the hash of the genesis document. A shortened form is
	// announced, and announcements of other clusters are ignored.
	Genesis [32]byte
	// NodeID is announced: 1 to 128 letters, digits, and "-._:".
	NodeID string
	// Port is where peers listen.
	Port uint16
	// Protocol is the version of the peer protocol, announced only.
	Protocol int
	// Advertise are the addresses to announce; empty announces those of
	// the interface on which the announcement leaves.
	Advertise []netip.Addr
}

// Timing of the responder. Intervals and the one answer a second follow
// RFC 6762, sections 5.2, 6 and 8.3.
const (
	queryFirst  = time.Second
	queryMax    = time.Minute
	rescanEvery = 5 * time.Second // new interfaces, expired candidates
	answerEvery = time.Second     // multicast answers on one interface
	reopenFirst = 5 * time.Second
	reopenMax   = 5 * time.Minute
	announceTTL = 120 // seconds
	maxKnown    = 1024
)

// iface is a network interface that multicast is tried on.
type iface struct {
	index int
	name  string
	addrs []netip.Addr
	v4    bool // joined the IPv4 group
	v6    bool
}

// packet is a received datagram.
type packet struct {
	data []byte
	from netip.AddrPort
	// ifindex is where it came in.
	ifindex int
}

// link is multicast on all of a host's interfaces: hostLink, or a test's. One
// goroutine calls it.
type link interface {
	// Refresh looks for interfaces, joins the groups on new ones, and
	// returns those that can be used. An empty answer is no error.
	Refresh() ([]iface, error)
	// Multicast sends to the mDNS groups on one interface.
	Multicast(i iface, msg []byte) error
	// Unicast answers a querier.
	Unicast(i iface, to netip.AddrPort, msg []byte) error
	// Packets yields what arrives; it is closed when the sockets fail.
	Packets() <-chan packet
	// Close joins what Open started.
	Close() error
}

// responder announces the node, answers queries, asks for others and keeps
// what it hears until it expires. One goroutine owns it.
type responder struct {
	cfg     MDNS
	genesis string // as announced
	names   names
	open    func() (link, error)
	rand    func() float64
	log     *slog.Logger

	known  map[string]heard // by address
	ifaces []iface
	// answered is when an interface was last answered on, by its index.
	answered map[int]time.Time
	// owed says that a query came too soon after an answer: late then
	// fires, and all are answered at once.
	owed bool
	late *time.Timer
	// down says that the lack of multicast was logged.
	down bool
}

type heard struct {
	Candidate
	expires time.Time
}

func newResponder(cfg MDNS, rand func() float64, log *slog.Logger) (*responder, error) {
	switch {
	case !validNodeID(cfg.NodeID):
		return nil, fmt.Errorf("mdns: node id %q: want 1 to 128 of letters, digits, dash, dot, underscore and colon", cfg.NodeID)
	case cfg.Port == 0:
		return nil, errors.New("mdns: no port to announce")
	}
	return &responder{
		cfg:      cfg,
		genesis:  hex.EncodeToString(cfg.Genesis[:8]),
		names:    namesOf(cfg.NodeID),
		open:     openHostLink,
		rand:     rand,
		log:      log,
		known:    make(map[string]heard),
		answered: make(map[int]time.Time),
	}, nil
}

// run keeps a link open until ctx ends. A host without multicast costs one log
// line and an attempt now and then.
func (r *responder) run(ctx context.Context, sink func(Event)) {
	again := newBackoff(reopenFirst, reopenMax, r.rand)
	for {
		l, err := r.open()
		if err != nil {
			r.unavailable(err)
		} else {
			r.session(ctx, l, sink, again)
			if err := l.Close(); err != nil {
				r.log.Debug("closing mdns sockets failed", "error", err)
			}
		}
		if ctx.Err() != nil || !wait(ctx, again.delay()) {
			return
		}
	}
}

// unavailable logs once until multicast works again.
func (r *responder) unavailable(err error) {
	if !r.down {
		r.log.Warn("mdns is not available; trying again from time to time", "error", err)
	}
	r.down = true
}

var (
	errNoInterface = errors.New("no interface for multicast")
	errNotSent     = errors.New("multicast could be sent on no interface")
)

// session runs until ctx ends or the link fails.
func (r *responder) session(ctx context.Context, l link, sink func(Event), reopen *backoff) {
	r.ifaces = nil
	if r.rescan(l) {
		r.announce(l)
	}
	queries := newBackoff(queryFirst, queryMax, r.rand)
	query := time.NewTimer(0)
	defer query.Stop()
	rescan := time.NewTicker(rescanEvery)
	defer rescan.Stop()
	r.owed, r.late = false, time.NewTimer(answerEvery)
	defer r.late.Stop()
	for {
		select {
		case <-ctx.Done():
			r.goodbye(l)
			return
		case p, ok := <-l.Packets():
			if !ok {
				r.unavailable(errors.New("sockets failed"))
				return
			}
			r.receive(l, p, sink)
		case <-rescan.C:
			r.expire(time.Now(), sink)
			if r.rescan(l) {
				r.announce(l)
				queries.reset()
				query.Reset(0)
			}
		case <-r.late.C:
			if r.owed {
				r.owed = false
				r.announce(l)
			}
		case <-query.C:
			if r.ask(l) {
				reopen.reset()
			}
			query.Reset(queries.delay())
		}
	}
}

// rescan reports whether an interface or address appeared.
func (r *responder) rescan(l link) bool {
	now, err := l.Refresh()
	if err == nil && len(now) == 0 {
		err = errNoInterface
	}
	if err != nil {
		r.unavailable(err)
		return false
	}
	before := r.ifaces
	r.ifaces = now
	return slices.ContainsFunc(now, func(i iface) bool {
		return !slices.ContainsFunc(before, func(b iface) bool {
			return b.index == i.index && b.v4 == i.v4 && b.v6 == i.v6 && slices.Equal(b.addrs, i.addrs)
		})
	})
}

// ask sends a query, and reports whether any interface took it.
func (r *responder) ask(l link) bool {
	msg, err := r.query()
	if err != nil {
		r.log.Error("mdns query can't be encoded", "error", err)
		return false
	}
	return r.multicast(l, func(iface) ([]byte, error) { return msg, nil })
}

func (r *responder) announce(l link) {
	r.multicast(l, func(i iface) ([]byte, error) { return r.announcement(i, announceTTL) })
}

// goodbye withdraws the announcement (RFC 6762, section 10.1).
func (r *responder) goodbye(l link) {
	r.multicast(l, func(i iface) ([]byte, error) { return r.announcement(i, 0) })
}

// multicast sends on every interface. It fails only where all do.
func (r *responder) multicast(l link, build func(iface) ([]byte, error)) bool {
	if len(r.ifaces) == 0 {
		return false
	}
	sent := false
	failed := errNotSent
	for _, i := range r.ifaces {
		msg, err := build(i)
		if err == nil {
			err = l.Multicast(i, msg)
		}
		if err != nil {
			failed = fmt.Errorf("%w: %s: %w", errNotSent, i.name, err)
			continue
		}
		sent = true
	}
	if !sent {
		r.unavailable(failed)
		return false
	}
	r.down = false
	return true
}

// receive handles one datagram. What can't be understood is ignored: anybody
// on the network may send anything.
func (r *responder) receive(l link, p packet, sink func(Event)) {
	n := slices.IndexFunc(r.ifaces, func(i iface) bool { return i.index == p.ifindex })
	if n < 0 {
		return
	}
	i := r.ifaces[n]
	msg, err := unpack(p.data)
	if err != nil {
		return
	}
	if !msg.Response {
		r.answer(l, i, p, msg)
		return
	}
	if p.from.Port() != mdnsPort { // RFC 6762, section 6
		return
	}
	now := time.Now()
	for _, a := range r.announcements(msg, i) {
		r.hear(a, now, sink)
	}
}

// hear records an announcement.
func (r *responder) hear(a announcement, now time.Time, sink func(Event)) {
	c := Candidate{Addr: a.addr, Method: ByMDNS, NodeID: a.nodeID, Seen: now}
	if a.ttl == 0 {
		if have, ok := r.known[a.addr]; ok && have.NodeID == a.nodeID {
			delete(r.known, a.addr)
			sink(Event{Candidate: have.Candidate, Lost: true})
		}
		return
	}
	if _, ok := r.known[a.addr]; !ok && len(r.known) >= maxKnown {
		return
	}
	r.known[a.addr] = heard{Candidate: c, expires: now.Add(a.ttl)}
	sink(Event{Candidate: c})
}

func (r *responder) expire(now time.Time, sink func(Event)) {
	for addr, h := range r.known {
		if now.After(h.expires) {
			delete(r.known, addr)
			sink(Event{Candidate: h.Candidate, Lost: true})
		}
	}
}
