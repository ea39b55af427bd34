package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// The events of a benchmark. Both kinds are built in and have a schema, so that
// every payload is validated; one has a gate.
const (
	workspace = "bench"
	gatedKind = "agent.spawn"
	plainKind = "agent.exit"
)

// payload is an event's payload of a size.
func payload(gated bool, size int) []byte {
	format := `{"agent_id":"%s","pid":4711,"exit_code":0}`
	if gated {
		format = `{"agent_id":"agent-1","pid":4711,"parent_pid":1,"program":"%s"}`
	}
	fixed := len(format) - len("%s")
	return fmt.Appendf(nil, format, strings.Repeat("x", max(0, size-fixed)))
}

func (c Cell) kind() string {
	if c.Gated {
		return gatedKind
	}
	return plainKind
}

// submitter submits one event at a time and waits for its answer. It is safe
// for concurrent use.
type submitter interface {
	// submit sends the payload as an event with an id, as writer number w.
	submit(ctx context.Context, w int, id string) (receipt, error)
	close() error
}

// receipt is what an acknowledgement says.
type receipt struct {
	id       string
	sequence uint64
	hash     chain.Hash
}

// event is what all events of a cell have in common.
type event struct {
	source, kind string
	payload      []byte
}

func (b *bench) submitter(c Cell, ev event) (submitter, error) {
	addrs := b.addrs
	if c.Target == Leader {
		addrs = addrs[:1]
	}
	switch c.Client {
	case GRPC:
		return newGRPC(addrs, b.cfg.TLS, ev, c.Writers), nil
	case HTTP:
		return newPlainHTTP(addrs, b.cfg.TLS, ev, c.Writers), nil
	}
	cl, err := client.New(client.Config{Addresses: addrs, TLS: b.cfg.TLS, Workspace: workspace, Source: ev.source, Spread: c.Target == All})
	if err != nil {
		return nil, err
	}
	return &goClient{cl, ev}, nil
}

type goClient struct {
	*client.Client
	ev event
}

func (g *goClient) submit(ctx context.Context, _ int, id string) (receipt, error) {
	ack, err := g.Append(ctx, chain.Event{ID: id, Kind: g.ev.kind, Payload: g.ev.payload})
	return receipt{id, ack.Sequence, ack.Hash}, err
}

func (g *goClient) close() error { return g.Close() }

// baseURL is an address as the beginning of a URL.
func baseURL(addr string) string {
	if strings.Contains(addr, "://") {
		return strings.TrimRight(addr, "/")
	}
	return "http://" + addr
}

// writersPerConn is how many writers share a connection of gRPC: several clients
// of moderate concurrency, not one of a thousand.
const writersPerConn = 64

// grpcClient is gRPC by connect's client, over HTTP/2.
type grpcClient struct {
	ev      event
	clients []exonodev1connect.LedgerServiceClient
	conns   []*http.Transport
}

func newGRPC(addrs []string, cfg *tls.Config, ev event, writers int) *grpcClient {
	g := &grpcClient{ev: ev}
	n := max(len(addrs), (writers+writersPerConn-1)/writersPerConn)
	for i := range n {
		t := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: cfg.Clone()}
		t.Protocols.SetHTTP2(true)
		t.Protocols.SetUnencryptedHTTP2(true)
		g.conns = append(g.conns, t)
		g.clients = append(g.clients, exonodev1connect.NewLedgerServiceClient(&http.Client{Transport: t}, baseURL(addrs[i%len(addrs)]), connect.WithGRPC()))
	}
	return g
}

func (g *grpcClient) submit(ctx context.Context, w int, id string) (receipt, error) {
	res, err := g.clients[w%len(g.clients)].Append(ctx, &exonodev1.AppendRequest{Event: &exonodev1.Event{
		Workspace: workspace, Source: g.ev.source, Id: id, Kind: g.ev.kind,
		Data: g.ev.payload, ContentType: "application/json",
	}})
	if err != nil {
		return receipt{}, err
	}
	return newReceipt(id, res.GetAck().GetSequence(), res.GetAck().GetHash())
}

func newReceipt(id string, sequence uint64, hash []byte) (receipt, error) {
	r := receipt{id: id, sequence: sequence}
	if copy(r.hash[:], hash) != len(r.hash) {
		return r, fmt.Errorf("acknowledgement of %s has a hash of %d bytes", id, len(hash))
	}
	return r, nil
}

func (g *grpcClient) close() error {
	for _, t := range g.conns {
		t.CloseIdleConnections()
	}
	return nil
}

// plainHTTP posts CloudEvents in structured mode, a connection for each writer.
type plainHTTP struct {
	ev    event
	urls  []string
	http  *http.Client
	conns *http.Transport
}

func newPlainHTTP(addrs []string, cfg *tls.Config, ev event, writers int) *plainHTTP {
	p := &plainHTTP{ev: ev, conns: &http.Transport{MaxIdleConnsPerHost: writers, TLSClientConfig: cfg.Clone()}}
	p.http = &http.Client{Transport: p.conns}
	for _, a := range addrs {
		p.urls = append(p.urls, baseURL(a)+"/v1/events")
	}
	return p
}

func (p *plainHTTP) submit(ctx context.Context, w int, id string) (receipt, error) {
	body := fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":%q,"type":%q,"workspace":%q,"datacontenttype":"application/json","data":%s}`,
		id, p.ev.source, p.ev.kind, workspace, p.ev.payload)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.urls[w%len(p.urls)], bytes.NewReader(body))
	if err != nil {
		return receipt{}, err
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	res, err := p.http.Do(req)
	if err != nil {
		return receipt{}, err
	}
	answer, err := io.ReadAll(res.Body)
	if err = errors.Join(err, res.Body.Close()); err != nil {
		return receipt{}, err
	}
	if res.StatusCode/100 != 2 {
		return receipt{}, fmt.Errorf("POST /v1/events: %s: %s", res.Status, bytes.TrimSpace(answer))
	}
	var ack struct {
		Sequence json.Number `json:"sequence"`
		Hash     chain.Hash  `json:"hash"`
	}
	if err := json.Unmarshal(answer, &ack); err != nil {
		return receipt{}, fmt.Errorf("POST /v1/events: %w: %s", err, bytes.TrimSpace(answer))
	}
	seq, err := ack.Sequence.Int64()
	return receipt{id, uint64(seq), ack.Hash}, err
}

func (p *plainHTTP) close() error {
	p.conns.CloseIdleConnections()
	return nil
}
