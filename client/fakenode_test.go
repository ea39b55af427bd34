package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
	"github.com/exonode/exonode/chain"
)

// node is one fake node.
type node struct {
	exonodev1connect.UnimplementedLedgerServiceHandler

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

func (n *node) RotateLogKey(ctx context.Context, _ *exonodev1.RotateLogKeyRequest) (*exonodev1.RotateLogKeyResponse, error) {
	return &exonodev1.RotateLogKeyResponse{PublicKey: make([]byte, 32)}, n.before(ctx)
}

func (n *node) Transfer(ctx context.Context, _ *exonodev1.TransferRequest) (*exonodev1.TransferResponse, error) {
	return &exonodev1.TransferResponse{}, n.before(ctx)
}

// recorder looks at requests before its node serves them.
type recorder struct {
	*node
	head func(*exonodev1.HeadRequest)
	get  func(*exonodev1.GetRequest)
}

// Head implements the handler.
func (r *recorder) Head(ctx context.Context, m *exonodev1.HeadRequest) (*exonodev1.HeadResponse, error) {
	if r.head != nil {
		r.head(m)
	}
	return r.node.Head(ctx, m)
}

// Get implements the handler.
func (r *recorder) Get(ctx context.Context, m *exonodev1.GetRequest) (*exonodev1.GetResponse, error) {
	if r.get != nil {
		r.get(m)
	}
	return r.node.Get(ctx, m)
}

// install puts the recorder in its node's place; before any request.
func (r *recorder) install() {
	mux := http.NewServeMux()
	mux.Handle(exonodev1connect.NewLedgerServiceHandler(r))
	r.node.server.Handler = mux
}
