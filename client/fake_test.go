package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
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

// node is one fake node.
type node struct {
	c       *cluster
	address string
	server  *http.Server
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once

	mu   sync.Mutex
	down bool // refuses connections
	// onMessage, where set, decides what becomes of a message of a stream.
	onMessage func(n int, events []*exonodev1.Event) fault
	messages  int
	// onRead, where set, runs before each unary read.
	onRead func(ctx context.Context) error
	// change, where set, changes entries before they are told.
	change func(*exonodev1.Entry)
	// onWatch, where set, changes the messages of a watch.
	onWatch func(*exonodev1.WatchResponse)
	// badRoot tells a root that is not the tree's.
	badRoot bool
	// watchLimit ends a watch after as many messages; 0 is never.
	watchLimit int
	headers    []http.Header // of the calls that came
}

// fault is what a node does with a message of a stream.
type fault struct {
	// code answers the events with an error, instead of sealing them; with
	// from, only those from that index on.
	code  api.Code
	from  int
	retry time.Duration
	// drop breaks the stream: after sealing, before answering, unless lost.
	drop, lost bool
	// refuse ends the stream with this error.
	refuse error
	// hang seals, and never answers.
	hang bool
	// garble answers with something that is no acknowledgement, wrongHash
	// with another entry's hash.
	garble, wrongHash bool
	// delay waits before it answers.
	delay time.Duration
}

func (n *node) set(change func(*node)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change(n)
}

func (n *node) dial(ctx context.Context) (net.Conn, error) {
	n.mu.Lock()
	down := n.down
	n.mu.Unlock()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}
	if down {
		return nil, refused
	}
	near, far := net.Pipe()
	select {
	case n.conns <- far:
		return near, nil
	case <-n.closed:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept, Close and Addr make a node a net.Listener.
func (n *node) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *node) Close() error   { n.once.Do(func() { close(n.closed) }); return nil }
func (n *node) Addr() net.Addr { return &net.TCPAddr{} }

func (n *node) serve() {
	n.server = &http.Server{Handler: n.handler(), Protocols: new(http.Protocols)}
	n.server.Protocols.SetUnencryptedHTTP2(true)
	go n.server.Serve(n) // ends with stop
}

func (n *node) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(exonodev1connect.NewLedgerServiceHandler(n))
	mux.Handle(exonodev1connect.NewClusterServiceHandler(n))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.set(func(n *node) { n.headers = append(n.headers, r.Header.Clone()) })
		mux.ServeHTTP(w, r)
	})
}

func (n *node) stop() {
	n.Close()
	n.server.Close()
}

// AppendStream answers messages in order, as the fault of each says. Answers to
// one message go out in two, to show that boundaries do not matter.
func (n *node) AppendStream(ctx context.Context, s *connect.BidiStream[exonodev1.AppendStreamRequest, exonodev1.AppendStreamResponse]) error {
	for {
		req, err := s.Receive()
		if err != nil {
			return nil
		}
		n.mu.Lock()
		var f fault
		if n.onMessage != nil {
			f = n.onMessage(n.messages, req.Events)
		}
		n.messages++
		n.mu.Unlock()
		if f.refuse != nil {
			return api.ToConnect(f.refuse)
		}
		if f.lost {
			return connect.NewError(connect.CodeUnavailable, errors.New("lost"))
		}
		acks := make([]*exonodev1.Ack, 0, len(req.Events))
		for i, ev := range req.Events {
			if f.code != "" && i >= f.from {
				acks = append(acks, refusal(&api.Error{Code: f.code, Message: "injected", RetryAfterMillis: f.retry.Milliseconds()}))
				continue
			}
			acks = append(acks, n.c.seal(ev))
		}
		if f.drop {
			return connect.NewError(connect.CodeUnavailable, errors.New("broke after the commit"))
		}
		if f.hang {
			<-ctx.Done()
			return ctx.Err()
		}
		if f.garble {
			acks[0].Hash = []byte("short")
		}
		if f.wrongHash {
			acks[0].Hash = make([]byte, 32)
		}
		time.Sleep(f.delay) // of the bubble
		half := (len(acks) + 1) / 2
		if err := s.Send(&exonodev1.AppendStreamResponse{Acks: acks[:half]}); err != nil {
			return err
		}
		if half < len(acks) {
			if err := s.Send(&exonodev1.AppendStreamResponse{Acks: acks[half:]}); err != nil {
				return err
			}
		}
	}
}

func (n *node) Append(context.Context, *exonodev1.AppendRequest) (*exonodev1.AppendResponse, error) {
	return nil, api.ToConnect(&api.Error{Code: api.Internal, Message: "the client has no use for Append"})
}

func (n *node) AppendBatch(context.Context, *exonodev1.AppendBatchRequest) (*exonodev1.AppendBatchResponse, error) {
	return nil, api.ToConnect(&api.Error{Code: api.Internal, Message: "the client has no use for AppendBatch"})
}

// before runs what the test wants before a read.
func (n *node) before(ctx context.Context) error {
	n.mu.Lock()
	f := n.onRead
	n.mu.Unlock()
	if f == nil {
		return nil
	}
	if err := f(ctx); err != nil {
		return api.ToConnect(err)
	}
	return nil
}

// entry needs c.mu.
func (n *node) entry(seq uint64) *exonodev1.Entry {
	r := n.c.records[seq]
	h := chain.HeaderHash(r.Header)
	e := proto.Clone(&exonodev1.Entry{Sequence: seq, Hash: h[:], Header: r.Header, Envelope: r.Envelope}).(*exonodev1.Entry)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.change != nil {
		n.change(e)
	}
	return e
}

func (n *node) Get(ctx context.Context, r *exonodev1.GetRequest) (*exonodev1.GetResponse, error) {
	if err := n.before(ctx); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if r.Sequence >= uint64(len(n.c.records)) {
		return nil, api.ToConnect(&api.Error{Code: api.NotFound, Message: "no such entry"})
	}
	return &exonodev1.GetResponse{Entry: n.entry(r.Sequence)}, nil
}

func (n *node) Lookup(ctx context.Context, r *exonodev1.LookupRequest) (*exonodev1.LookupResponse, error) {
	if err := n.before(ctx); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	seq, ok := n.c.ids[chain.Key{Workspace: r.Workspace, Source: r.Source, ID: r.Id}]
	if !ok {
		return &exonodev1.LookupResponse{}, nil
	}
	return &exonodev1.LookupResponse{State: exonodev1.LookupState_LOOKUP_STATE_SEALED, Entry: n.entry(seq)}, nil
}

// List pages through the chain two entries at a time; filters are not applied.
func (n *node) List(ctx context.Context, r *exonodev1.ListRequest) (*exonodev1.ListResponse, error) {
	if err := n.before(ctx); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	from, to := r.SequenceFrom, r.SequenceTo
	if to == 0 || to > uint64(len(n.c.records)) {
		to = uint64(len(n.c.records))
	}
	if r.PageToken != "" {
		at := binary.BigEndian.Uint64([]byte(r.PageToken))
		if r.Reverse {
			to = at
		} else {
			from = at
		}
	}
	res := &exonodev1.ListResponse{ChainSize: uint64(len(n.c.records))}
	for len(res.Entries) < 2 && from < to {
		if r.Reverse {
			to--
			res.Entries = append(res.Entries, n.entry(to))
		} else {
			res.Entries = append(res.Entries, n.entry(from))
			from++
		}
	}
	if from < to {
		next := from
		if r.Reverse {
			next = to
		}
		res.NextPageToken = string(binary.BigEndian.AppendUint64(nil, next))
	}
	return res, nil
}

func (n *node) Watch(ctx context.Context, r *exonodev1.WatchRequest, s *connect.ServerStream[exonodev1.WatchResponse]) error {
	if err := n.before(ctx); err != nil {
		return err
	}
	next := r.SequenceFrom
	for messages := 1; ; messages++ {
		n.c.mu.Lock()
		m := &exonodev1.WatchResponse{}
		for next < uint64(len(n.c.records)) && len(m.Entries) < 2 {
			m.Entries = append(m.Entries, n.entry(next))
			next++
		}
		grown := n.c.grown
		n.c.mu.Unlock()
		m.NextSequence = next
		entries := len(m.Entries)
		if n.onWatch != nil {
			n.onWatch(m)
		}
		if err := s.Send(m); err != nil {
			return err
		}
		n.mu.Lock()
		limit := n.watchLimit
		n.mu.Unlock()
		if messages == limit {
			return connect.NewError(connect.CodeUnavailable, errors.New("broke"))
		}
		if entries > 0 {
			continue
		}
		select {
		case <-grown:
		case <-time.After(r.Heartbeat.AsDuration()):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (n *node) Head(ctx context.Context, r *exonodev1.HeadRequest) (*exonodev1.HeadResponse, error) {
	if err := n.before(ctx); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	root := n.c.tree.Root()
	if n.badRoot {
		root[0] ^= 1
	}
	return &exonodev1.HeadResponse{Head: &exonodev1.ChainHead{
		Size: n.c.head.Size, Hash: n.c.head.Hash[:], TimeUnixNano: n.c.head.Time, Root: root[:],
		ChainId: n.c.id.String(), Epoch: n.c.epoch,
	}}, nil
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

func (n *node) GetInclusionProof(ctx context.Context, r *exonodev1.GetInclusionProofRequest) (*exonodev1.GetInclusionProofResponse, error) {
	if err := n.before(ctx); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	hashes, err := chain.InclusionProof(r.Sequence, r.TreeSize, n.c)
	if err != nil {
		return nil, err
	}
	root := n.c.tree.Root()
	return &exonodev1.GetInclusionProofResponse{Sequence: r.Sequence, TreeSize: r.TreeSize, Root: root[:], Hashes: raw(hashes)}, nil
}

func (n *node) GetConsistencyProof(ctx context.Context, r *exonodev1.GetConsistencyProofRequest) (*exonodev1.GetConsistencyProofResponse, error) {
	if err := n.before(ctx); err != nil {
		return nil, err
	}
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	hashes, err := chain.ConsistencyProof(r.SizeFrom, r.SizeTo, n.c)
	if err != nil {
		return nil, err
	}
	root := n.c.tree.Root()
	return &exonodev1.GetConsistencyProofResponse{SizeFrom: r.SizeFrom, SizeTo: r.SizeTo, RootFrom: root[:], RootTo: root[:], Hashes: raw(hashes)}, nil
}

func raw(hashes []chain.Hash) [][]byte {
	var out [][]byte
	for i := range hashes {
		out = append(out, hashes[i][:])
	}
	return out
}

func (n *node) Status(ctx context.Context, _ *exonodev1.StatusRequest) (*exonodev1.StatusResponse, error) {
	if err := n.before(ctx); err != nil {
		return nil, err
	}
	return &exonodev1.StatusResponse{NodeId: "id-of-" + n.address, Ready: true}, nil
}

func (n *node) Members(ctx context.Context, _ *exonodev1.MembersRequest) (*exonodev1.MembersResponse, error) {
	if err := n.before(ctx); err != nil {
		return nil, err
	}
	return &exonodev1.MembersResponse{Members: []*exonodev1.Member{{NodeId: n.address, Suffrage: exonodev1.Suffrage_SUFFRAGE_VOTER}}}, nil
}

func (n *node) Remove(ctx context.Context, _ *exonodev1.RemoveRequest) (*exonodev1.RemoveResponse, error) {
	return &exonodev1.RemoveResponse{}, n.before(ctx)
}

func (n *node) Leave(ctx context.Context, r *exonodev1.LeaveRequest) (*exonodev1.LeaveResponse, error) {
	if r.NodeId != "id-of-"+n.address {
		return nil, api.ToConnect(&api.Error{Code: api.Precondition, Message: "this is another node"})
	}
	return &exonodev1.LeaveResponse{}, n.before(ctx)
}

func (n *node) Transfer(ctx context.Context, _ *exonodev1.TransferRequest) (*exonodev1.TransferResponse, error) {
	return &exonodev1.TransferResponse{}, n.before(ctx)
}

// recorder looks at requests before its node serves them.
type recorder struct {
	*node
	head func(*exonodev1.HeadRequest)
}

// Head implements the handler.
func (r *recorder) Head(ctx context.Context, m *exonodev1.HeadRequest) (*exonodev1.HeadResponse, error) {
	r.head(m)
	return r.node.Head(ctx, m)
}

// install puts the recorder in its node's place; before any request.
func (r *recorder) install() {
	mux := http.NewServeMux()
	mux.Handle(exonodev1connect.NewLedgerServiceHandler(r))
	r.node.server.Handler = mux
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
