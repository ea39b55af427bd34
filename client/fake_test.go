package client_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// cluster is a chain in memory behind any number of fake nodes: what one node
// seals, all have. Its network is in memory too, so that tests run in synctest
// bubbles.
type cluster struct {
	t     testing.TB
	id    chain.ID
	nodes map[string]*node // by host:port

	mu      sync.Mutex
	epoch   uint64
	records []chain.Record
	head    chain.Head
	tree    chain.Tree
	ids     map[chain.Key]uint64
	grown   chan struct{}
	// submitted counts events that reached a node, duplicates too.
	submitted int
}

func newCluster(t testing.TB, addresses ...string) *cluster {
	c := &cluster{t: t, nodes: make(map[string]*node)}
	copy(c.id[:], "0123456789abcdef")
	c.clear()
	for _, a := range addresses {
		n := &node{c: c, address: a, conns: make(chan net.Conn), closed: make(chan struct{})}
		c.nodes[a] = n
		n.serve()
	}
	t.Cleanup(c.stop)
	return c
}

func (c *cluster) clear() {
	c.records, c.head, c.tree = nil, chain.Head{}, chain.Tree{}
	c.ids = make(map[chain.Key]uint64)
	c.grown = make(chan struct{})
}

func (c *cluster) stop() {
	for _, n := range c.nodes {
		n.stop()
	}
}

func (c *cluster) addresses() []string {
	var out []string
	for i := range len(c.nodes) {
		out = append(out, address(i))
	}
	return out
}

func address(i int) string { return fmt.Sprintf("node%d:7101", i) }

// three is a cluster of three nodes.
func three(t testing.TB) *cluster { return newCluster(t, address(0), address(1), address(2)) }

// client returns a client of all nodes over the in-memory network.
func (c *cluster) client(change func(*client.Config)) *client.Client {
	cfg := client.Config{Addresses: c.addresses(), Workspace: "test", Source: "urn:test", Transport: c.transport()}
	if change != nil {
		change(&cfg)
	}
	cl, err := client.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { cl.Close() })
	return cl
}

func (c *cluster) transport() http.RoundTripper {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &p, DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
		return c.nodes[address].dial(ctx)
	}}
	c.t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// seal seals an event unless its id is taken.
func (c *cluster) seal(m *exonodev1.Event) *exonodev1.Ack {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.submitted++
	ev, err := api.EventFromProto(m)
	if err == nil {
		err = ev.Validate(chain.DefaultMaxPayload)
		if err != nil {
			err = &api.Error{Code: api.BadField, Message: err.Error()}
		}
	}
	if err != nil {
		return refusal(api.AsError(err))
	}
	if seq, ok := c.ids[ev.Key()]; ok {
		h, _ := chain.DecodeHeader(c.records[seq].Header)
		e, _ := chain.DecodeEnvelope(c.records[seq].Envelope)
		if h.Kind != ev.Kind || string(e.Payload) != string(ev.Payload) {
			return refusal(&api.Error{Code: api.Conflict, Message: "another event has this id", Sequence: seq, HasSequence: true})
		}
		return c.ack(seq, true)
	}
	if ev.Kind == "test.denied" {
		a := refusal(&api.Error{Code: api.GateDenied, Message: "policy says no"})
		a.Verdict = api.VerdictToProto(&chain.Verdict{Gate: "g", Decision: chain.Deny})
		return a
	}
	in := chain.SealInput{ChainID: c.id, Epoch: c.epoch, Prev: c.head, Stamp: time.Now().UnixNano(), Event: &ev, Principal: "local", SealingNode: "fake"}
	binary.BigEndian.PutUint64(in.Salt[:], c.head.Size)
	s, err := chain.Seal(&in)
	if err != nil {
		return refusal(api.AsError(err))
	}
	c.records = append(c.records, s.Record)
	c.head = s.Head
	c.tree.Append(s.Record.Header, nil)
	c.ids[ev.Key()] = s.Sequence
	close(c.grown)
	c.grown = make(chan struct{})
	return c.ack(s.Sequence, false)
}

func refusal(e *api.Error) *exonodev1.Ack { return &exonodev1.Ack{Error: api.ErrorToProto(e)} }

// ack needs c.mu.
func (c *cluster) ack(seq uint64, duplicate bool) *exonodev1.Ack {
	h := chain.HeaderHash(c.records[seq].Header)
	return &exonodev1.Ack{Sequence: seq, Hash: h[:], TimeUnixNano: 1, Duplicate: duplicate}
}

// size returns the number of entries.
func (c *cluster) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.records)
}

// event returns entry seq's id and payload.
func (c *cluster) event(seq int) (id, payload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, err := chain.DecodeHeader(c.records[seq].Header)
	if err != nil {
		c.t.Error(err)
	}
	e, err := chain.DecodeEnvelope(c.records[seq].Envelope)
	if err != nil {
		c.t.Error(err)
	}
	return h.ID, string(e.Payload)
}

// ReadTile serves the proofs: the trees of tests fit into a few tiles.
func (c *cluster) ReadTile(level int, index uint64, width int) ([]byte, error) {
	if level != 0 || index != 0 || len(c.records) > chain.TileWidth {
		return nil, fmt.Errorf("tile %d/%d of a test's tree", level, index)
	}
	var b []byte
	for _, r := range c.records[:width] {
		h := chain.LeafHash(r.Header)
		b = append(b, h[:]...)
	}
	return b, nil
}

// await returns once the chain has n entries.
func (c *cluster) await(n int) {
	for {
		c.mu.Lock()
		size, grown := len(c.records), c.grown
		c.mu.Unlock()
		if size >= n {
			return
		}
		<-grown
	}
}
