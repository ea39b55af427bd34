package discovery

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	mdnsPort    = 5353
	serviceName = "_exonode._tcp.local."
	enumName    = "_services._dns-sd._udp.local."
	// topBit asks for a unicast answer in a question's class, and flushes
	// caches in a record's (RFC 6762, sections 18.12 and 18.13).
	topBit = 1 << 15
	// legacyTTL bounds what a stock resolver may cache (section 6.7).
	legacyTTL = 10
	maxTTL    = 10 * time.Minute
)

// names are the node's DNS names.
type names struct{ instance, host string }

func namesOf(nodeID string) names {
	label := strings.Map(func(r rune) rune {
		if r == '.' || r == ':' || r == '_' {
			return '-'
		}
		return r
	}, strings.ToLower(nodeID))
	label = strings.Trim(label[:min(len(label), 63)], "-")
	host := "exonode-" + label
	host = strings.TrimRight(host[:min(len(host), 63)], "-")
	return names{instance: label + "." + serviceName, host: host + ".local."}
}

func validNodeID(id string) bool {
	if id == "" || len(id) > 128 || strings.Trim(id, "-._:") == "" {
		return false
	}
	return strings.IndexFunc(id, func(r rune) bool {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		return !letter && !strings.ContainsRune("-._:", r)
	}) < 0
}

func unpack(data []byte) (*dns.Msg, error) {
	msg := new(dns.Msg)
	if err := msg.Unpack(data); err != nil {
		return nil, fmt.Errorf("mdns: %w", err)
	}
	if msg.Opcode != dns.OpcodeQuery || msg.Rcode != dns.RcodeSuccess {
		return nil, fmt.Errorf("mdns: opcode %d, rcode %d", msg.Opcode, msg.Rcode)
	}
	return msg, nil
}

// query asks for the service's instances.
func (r *responder) query() ([]byte, error) {
	msg := new(dns.Msg)
	msg.SetQuestion(serviceName, dns.TypePTR)
	msg.Id, msg.RecursionDesired = 0, false
	return msg.Pack()
}

// announcement holds all records at once, so that one datagram tells all.
func (r *responder) announcement(i iface, ttl uint32) ([]byte, error) {
	msg := &dns.Msg{Answer: r.records(i, ttl, topBit)}
	msg.Response, msg.Authoritative, msg.Compress = true, true, true
	return msg.Pack()
}

// records are the node's own on one interface; flush is or-ed into the class
// of those that only this node may own.
func (r *responder) records(i iface, ttl uint32, flush uint16) []dns.RR {
	head := func(name string, kind, class uint16) dns.RR_Header {
		return dns.RR_Header{Name: name, Rrtype: kind, Class: class, Ttl: ttl}
	}
	own := dns.ClassINET | flush
	rrs := []dns.RR{
		&dns.PTR{Hdr: head(serviceName, dns.TypePTR, dns.ClassINET), Ptr: r.names.instance},
		&dns.SRV{Hdr: head(r.names.instance, dns.TypeSRV, own), Port: r.cfg.Port, Target: r.names.host},
		&dns.TXT{Hdr: head(r.names.instance, dns.TypeTXT, own), Txt: r.text()},
	}
	for _, a := range r.addresses(i) {
		if a.Is4() {
			rrs = append(rrs, &dns.A{Hdr: head(r.names.host, dns.TypeA, own), A: a.AsSlice()})
		} else {
			rrs = append(rrs, &dns.AAAA{Hdr: head(r.names.host, dns.TypeAAAA, own), AAAA: a.AsSlice()})
		}
	}
	return rrs
}

func (r *responder) text() []string {
	return []string{
		"v=" + strconv.Itoa(r.cfg.Protocol),
		"g=" + r.genesis,
		"id=" + r.cfg.NodeID,
		"port=" + strconv.Itoa(int(r.cfg.Port)),
	}
}

// addresses are what to announce on an interface: link-local IPv6 only where
// there is nothing else.
func (r *responder) addresses(i iface) []netip.Addr {
	if len(r.cfg.Advertise) > 0 {
		return r.cfg.Advertise
	}
	var routable, local []netip.Addr
	for _, a := range i.addrs {
		a = a.Unmap().WithZone("")
		if a.Is6() && a.IsLinkLocalUnicast() {
			local = append(local, a)
		} else {
			routable = append(routable, a)
		}
	}
	if len(routable) == 0 {
		return local
	}
	return routable
}

// answer replies to a query: by multicast, at most once a second on an
// interface, or by unicast where that is asked for or the querier is a stock
// resolver (RFC 6762, sections 5.4, 6 and 6.7).
func (r *responder) answer(l link, i iface, p packet, q *dns.Msg) {
	legacy := p.from.Port() != mdnsPort
	unicast := legacy
	ttl, flush := uint32(announceTTL), uint16(topBit)
	if legacy {
		ttl, flush = legacyTTL, 0
	}
	resp := new(dns.Msg)
	all := r.records(i, ttl, flush)
	for _, question := range q.Question {
		answers := r.matching(all, question, ttl)
		if len(answers) == 0 {
			continue
		}
		unicast = unicast || question.Qclass&topBit != 0
		for _, rr := range answers {
			if !slices.Contains(resp.Answer, rr) {
				resp.Answer = append(resp.Answer, rr)
			}
		}
	}
	if len(resp.Answer) == 0 || r.suppressed(q) {
		return
	}
	for _, rr := range all {
		if !slices.Contains(resp.Answer, rr) {
			resp.Extra = append(resp.Extra, rr)
		}
	}
	resp.Response, resp.Authoritative, resp.Compress = true, true, true
	if legacy {
		resp.Id, resp.Question = q.Id, q.Question
	}
	msg, err := resp.Pack()
	if err != nil {
		r.log.Error("mdns answer can't be encoded", "error", err)
		return
	}
	if unicast {
		err = l.Unicast(i, p.from, msg)
	} else {
		now := time.Now()
		if last, ok := r.answered[i.index]; ok && now.Sub(last) < answerEvery {
			if !r.owed {
				r.owed = true
				r.late.Reset(answerEvery)
			}
			return
		}
		r.answered[i.index] = now
		err = l.Multicast(i, msg)
	}
	if err != nil {
		r.log.Debug("mdns answer was not sent", "interface", i.name, "error", err)
	}
}

// matching returns the records that answer a question.
func (r *responder) matching(all []dns.RR, q dns.Question, ttl uint32) []dns.RR {
	if class := q.Qclass &^ topBit; class != dns.ClassINET && class != dns.ClassANY {
		return nil
	}
	if strings.EqualFold(q.Name, enumName) && (q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY) {
		head := dns.RR_Header{Name: enumName, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ttl}
		return []dns.RR{&dns.PTR{Hdr: head, Ptr: serviceName}}
	}
	var out []dns.RR
	for _, rr := range all {
		h := rr.Header()
		if strings.EqualFold(h.Name, q.Name) && (q.Qtype == dns.TypeANY || q.Qtype == h.Rrtype) {
			out = append(out, rr)
		}
	}
	return out
}

// suppressed reports whether the querier says that it knows us (section 7.1).
func (r *responder) suppressed(q *dns.Msg) bool {
	return slices.ContainsFunc(q.Answer, func(rr dns.RR) bool {
		ptr, ok := rr.(*dns.PTR)
		return ok && ptr.Hdr.Ttl >= announceTTL/2 && strings.EqualFold(ptr.Ptr, r.names.instance)
	})
}

// announcement is one address that a message announces for our cluster.
type announcement struct {
	nodeID string
	addr   string
	ttl    time.Duration
}

// announcements reads a response. Only complete ones count: pointer, service,
// text and address in one message, as every node of ours sends them.
func (r *responder) announcements(msg *dns.Msg, i iface) []announcement {
	srv := make(map[string]*dns.SRV)
	txt := make(map[string]*dns.TXT)
	addrs := make(map[string][]netip.Addr)
	var instances []string
	for _, rr := range slices.Concat(msg.Answer, msg.Extra) {
		name := strings.ToLower(rr.Header().Name)
		switch rr := rr.(type) {
		case *dns.PTR:
			if name == serviceName {
				instances = append(instances, strings.ToLower(rr.Ptr))
			}
		case *dns.SRV:
			srv[name] = rr
		case *dns.TXT:
			txt[name] = rr
		case *dns.A:
			if a, ok := netip.AddrFromSlice(rr.A); ok {
				addrs[name] = append(addrs[name], a.Unmap())
			}
		case *dns.AAAA:
			if a, ok := netip.AddrFromSlice(rr.AAAA); ok {
				addrs[name] = append(addrs[name], a)
			}
		}
	}
	var out []announcement
	for _, name := range instances {
		s, t := srv[name], txt[name]
		if s == nil || t == nil {
			continue
		}
		id, ok := r.accept(t.Txt, s.Port)
		if !ok {
			continue
		}
		ttl := min(time.Duration(s.Hdr.Ttl)*time.Second, maxTTL)
		for _, a := range addrs[strings.ToLower(s.Target)] {
			if addr, ok := candidateAddr(a, s.Port, i); ok {
				out = append(out, announcement{nodeID: id, addr: addr, ttl: ttl})
			}
		}
	}
	return out
}

// accept reads the text record of a node of our cluster, other than ourselves.
func (r *responder) accept(text []string, port uint16) (nodeID string, ok bool) {
	fields := make(map[string]string, len(text))
	for _, t := range text {
		k, v, _ := strings.Cut(t, "=")
		if _, twice := fields[k]; twice {
			return "", false
		}
		fields[k] = v
	}
	id := fields["id"]
	if fields["g"] != r.genesis || id == r.cfg.NodeID || !validNodeID(id) {
		return "", false
	}
	if port == 0 || fields["port"] != strconv.Itoa(int(port)) {
		return "", false
	}
	if v, err := strconv.Atoi(fields["v"]); err != nil || v < 0 {
		return "", false
	}
	return id, true
}

// candidateAddr makes an announced address usable on this host: a link-local
// one needs the zone it was heard in, and a loopback one means something only
// where it was heard on loopback.
func candidateAddr(a netip.Addr, port uint16, i iface) (string, bool) {
	switch {
	case a.IsUnspecified(), a.IsMulticast():
		return "", false
	case a.IsLoopback():
		if !slices.ContainsFunc(i.addrs, netip.Addr.IsLoopback) {
			return "", false
		}
	case a.Is6() && a.IsLinkLocalUnicast():
		a = a.WithZone(i.name)
	}
	return netip.AddrPortFrom(a, port).String(), true
}
