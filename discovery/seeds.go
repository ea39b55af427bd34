package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// ErrSeed means that a seed is not an address or name; the operator corrects
// the configuration.
var ErrSeed = errors.New("bad seed")

// Resolver resolves a host name to addresses; *net.Resolver is one.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Seed is a place to look for peers.
type Seed struct {
	// Addr is valid where the seed is an address.
	Addr netip.Addr
	// Name is set where the seed is a DNS name.
	Name string
	Port uint16
}

// Names are resolved again after delays that double between these: soon at
// first, when the other nodes are just starting too.
const (
	resolveFirst   = time.Second
	resolveMax     = 30 * time.Second
	resolveTimeout = 10 * time.Second
)

// ParseSeed reads host:port, [IPv6]:port, or a host without a port, which then
// gets defaultPort. The host is an address or a DNS name.
func ParseSeed(text string, defaultPort uint16) (Seed, error) {
	bare := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		bare = text[1 : len(text)-1]
	}
	if ip, err := netip.ParseAddr(bare); err == nil && !strings.ContainsAny(ip.Zone(), "[]%:/ ") {
		return seedOf(text, ip, "", defaultPort)
	}
	if !strings.Contains(text, ":") {
		return seedOf(text, netip.Addr{}, text, defaultPort)
	}
	host, portText, err := net.SplitHostPort(text)
	if err != nil {
		return Seed{}, fmt.Errorf("%w %q: want host:port or [address]:port", ErrSeed, text)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return Seed{}, fmt.Errorf("%w %q: port %q is not a number from 1 to 65535", ErrSeed, text, portText)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || strings.ContainsAny(ip.Zone(), "[]%:/ ") {
		return seedOf(text, netip.Addr{}, host, uint16(port))
	}
	return seedOf(text, ip, "", uint16(port))
}

func seedOf(text string, ip netip.Addr, name string, port uint16) (Seed, error) {
	switch {
	case port == 0:
		return Seed{}, fmt.Errorf("%w %q: no port", ErrSeed, text)
	case name != "" && !isHostName(name):
		return Seed{}, fmt.Errorf("%w %q: %q is neither an address nor a DNS name", ErrSeed, text, name)
	case name == "" && !ip.IsValid():
		return Seed{}, fmt.Errorf("%w %q: no host", ErrSeed, text)
	case ip.IsValid() && (ip.IsUnspecified() || ip.IsMulticast()):
		return Seed{}, fmt.Errorf("%w %q: nothing can be reached at %s", ErrSeed, text, ip)
	}
	return Seed{Addr: ip.Unmap(), Name: name, Port: port}, nil
}

// isHostName accepts what RFC 1123 does, and underscores, which container
// networks use. A name of digits and dots alone is a mistyped address.
func isHostName(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if name == "" || len(name) > 253 || strings.Trim(name, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			switch {
			case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			default:
				return false
			}
		}
	}
	return true
}

func (d *Discovery) runSeed(ctx context.Context, s Seed, sink func(Event)) {
	if s.Name == "" {
		addr := netip.AddrPortFrom(s.Addr, s.Port).String()
		d.report(Event{Candidate: Candidate{Addr: addr, Method: BySeed, Seen: time.Now()}}, "", sink)
		return
	}
	d.runName(ctx, s, sink)
}

// runName resolves a name again and again. A failed lookup loses nothing: the
// addresses found before are still the best guess.
func (d *Discovery) runName(ctx context.Context, s Seed, sink func(Event)) {
	var resolver Resolver = net.DefaultResolver
	if d.cfg.Resolver != nil {
		resolver = d.cfg.Resolver
	}
	again := newBackoff(resolveFirst, resolveMax, d.cfg.Rand)
	have := make(map[string]bool)
	failing := false
	for {
		lookup, cancel := context.WithTimeout(ctx, resolveTimeout)
		ips, err := resolver.LookupNetIP(lookup, "ip", s.Name)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if !failing {
				d.cfg.Log.Warn("seed does not resolve; trying again", "seed", s.Name, "error", err)
			}
			failing = true
		default:
			failing = false
			have = d.resolved(s, ips, have, sink)
		}
		if !wait(ctx, again.delay()) {
			return
		}
	}
}

// resolved reports the addresses of one answer, and the loss of those that were
// in the one before.
func (d *Discovery) resolved(s Seed, ips []netip.Addr, before map[string]bool, sink func(Event)) map[string]bool {
	now := time.Now()
	have := make(map[string]bool, len(ips))
	for _, ip := range ips {
		addr := netip.AddrPortFrom(ip.Unmap(), s.Port).String()
		have[addr] = true
		d.report(Event{Candidate: Candidate{Addr: addr, Method: ByDNS, Seen: now}}, s.Name, sink)
	}
	for addr := range before {
		if !have[addr] {
			d.report(Event{Candidate: Candidate{Addr: addr, Method: ByDNS, Seen: now}, Lost: true}, s.Name, sink)
		}
	}
	return have
}
