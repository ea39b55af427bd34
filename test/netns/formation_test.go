//go:build linux && netns

package netns_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/test/netns"
)

// formed waits until the nodes are one cluster of voters, submits an event to
// each, and waits until all have one chain with all of them.
func formed(ctx context.Context, t *testing.T, nodes ...*nodeAt) {
	t.Helper()
	awaitReady(ctx, t, nodes...)
	awaitVoters(ctx, t, nodes)
	last := uint64(0)
	for _, n := range nodes {
		last = max(last, n.submit(ctx, "formed").Sequence)
	}
	sameChain(ctx, t, last+1, nodes...)
	for _, n := range nodes {
		for _, by := range nodes {
			if n.lookedUp(ctx, by.key("formed")) == nil {
				t.Errorf("%s lacks the event that was submitted to %s", n.name, by.name)
			}
		}
	}
}

// foundBy waits until a node's chain tells that others were found, and checks
// that each was found in one of these ways.
func foundBy(ctx context.Context, t *testing.T, n *nodeAt, atLeast int, methods ...string) {
	t.Helper()
	eventually(ctx, t, "the chain tells who was found", func(ctx context.Context) error {
		s, err := n.status(ctx)
		if err != nil {
			return err
		}
		found := 0
		for _, e := range n.entries(ctx, s.Head.Size) {
			if e.Header.Kind != catalog.KindDiscoveryFound {
				continue
			}
			found++
			payload, ok := string(e.Envelope.Payload), false
			for _, m := range methods {
				ok = ok || strings.Contains(payload, `"`+m+`"`)
			}
			if !ok {
				t.Fatalf("entry %d: %s, want one of %q", e.Sequence, payload, methods)
			}
		}
		if found < atLeast {
			return fmt.Errorf("%d entries, want %d or more", found, atLeast)
		}
		return nil
	})
}

// Nobody is told of any address: the nodes are started as on a laptop.
func TestFormByMDNS(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	nodes := c.nodes(ctx, 1, 3, "--mdns", "--bootstrap-expect", "3")
	formed(ctx, t, nodes...)
	foundBy(ctx, t, nodes[0], 6, "mdns")
}

// Two nodes know the first, which knows nobody; they learn of each other.
func TestFormBySeeds(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	first := c.host(ctx, 1)
	args := []string{"--seeds", first.At(peerPort), "--bootstrap-expect", "3"}
	nodes := append(c.nodes(ctx, 2, 2, args...), c.node(first, "--bootstrap-expect", "3"))
	formed(ctx, t, nodes...)
	foundBy(ctx, t, nodes[0], 2, "seed")
}

// One name stands for all nodes.
func TestFormByDNS(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	server := c.host(ctx, 53)
	var hosts []*netns.Host
	for i := range 3 {
		h := c.host(ctx, 1+i)
		if err := h.UseDNS(server.Addr()); err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, h)
	}
	serveDNS(ctx, t, server, "nodes.example.", hosts...)
	var nodes []*nodeAt
	for _, h := range hosts {
		nodes = append(nodes, c.node(h, "--seeds", "nodes.example:7480", "--bootstrap-expect", "3"))
	}
	formed(ctx, t, nodes...)
	foundBy(ctx, t, nodes[0], 6, "dns")
}

// serveDNS answers for one name with the addresses of hosts, on a host of its
// own.
func serveDNS(ctx context.Context, t *testing.T, on *netns.Host, name string, hosts ...*netns.Host) {
	t.Helper()
	conn, err := on.ListenPacket(ctx, "udp4", ":53")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		reply := new(dns.Msg).SetReply(q)
		if q.Question[0].Name != name {
			reply.Rcode = dns.RcodeNameError
		} else if q.Question[0].Qtype == dns.TypeA {
			for _, h := range hosts {
				reply.Answer = append(reply.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
					A:   h.Addr().AsSlice(),
				})
			}
		}
		_ = w.WriteMsg(reply) // whoever asked asks again
	})}
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = conn.Close() // Shutdown fails where serving never began
		<-done
	})
}

// A host without multicast costs the others nothing, and itself only mDNS.
func TestHostWithoutMulticast(t *testing.T) {
	ctx := bounded(t, time.Minute)
	c := newCluster(ctx, t, newNet(ctx, t))
	deaf := c.host(ctx, 3)
	if err := deaf.NoMulticast(ctx); err != nil {
		t.Fatal(err)
	}
	nodes := c.nodes(ctx, 1, 2, "--mdns", "--bootstrap-expect", "3")
	third := c.node(deaf, "--mdns", "--seeds", nodes[0].peer(), "--bootstrap-expect", "3")
	third.says(ctx, t, 0, "level=WARN", "mdns is not available")
	nodes = append(nodes, third)
	formed(ctx, t, nodes...)
	// Its own multicast finds nobody.
	for _, e := range nodes[0].entries(ctx, nodes[0].mustStatus(ctx).Head.Size) {
		if e.Header.Kind == catalog.KindDiscoveryFound && strings.Contains(e.Header.ID, third.mustStatus(ctx).NodeID) &&
			strings.Contains(string(e.Envelope.Payload), `"mdns"`) {
			t.Errorf("entry %d: the host without multicast heard an announcement: %s", e.Sequence, e.Envelope.Payload)
		}
	}
}
