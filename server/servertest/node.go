package servertest

import (
	"context"
	"iter"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
)

// Node is one node of a Ledger. The zero hooks do nothing; they may be set while
// it serves.
type Node struct {
	ledger *Ledger
	id     string

	mu     sync.Mutex // guards what follows
	hooks  Hooks
	status server.Status
	calls  []string
	// checkpoint is the published one.
	checkpoint []byte
	// witness is the status of its answers as one; 0 is none.
	witness int
}

// Hooks make a Node misbehave. They are called without locks.
type Hooks struct {
	// Submit is asked before events are looked at; its error is Submit's, and
	// nothing is in the chain then.
	Submit func(server.Caller, []chain.Event) error
	// Lost is asked once the events are in the chain; its error is Wait's.
	Lost func([]chain.Event) error
	// Hold, where it is not nil, keeps answers back until it is closed.
	Hold <-chan struct{}
	// Await replaces what a read waits for; it returns an error, or nil to go
	// on.
	Await func(context.Context, server.Consistency) error
	// Ready is what the node waits for.
	Ready func() error
	// Operate is asked by Remove ("remove"), Leave and Transfer.
	Operate func(ctx context.Context, operation, nodeID string) error
}

var _ server.Node = (*Node)(nil)

// Node returns a node of the ledger.
func (l *Ledger) Node(id string) *Node {
	return &Node{ledger: l, id: id, status: server.Status{
		NodeID: id, Version: "test", Phase: "READY", Leader: "n1", State: "Leader",
	}}
}

// New returns the only node, "n1", of a new ledger.
func New() *Node { return NewLedger(nil).Node("n1") }

// Ledger returns the node's chain.
func (n *Node) Ledger() *Ledger { return n.ledger }

// SetHooks replaces all hooks.
func (n *Node) SetHooks(h Hooks) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hooks = h
}

// SetStatus replaces the parts of Status that the ledger does not know.
func (n *Node) SetStatus(s server.Status) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.status = s
}

// Operations returns the operations that were asked for, as "remove n2".
func (n *Node) Operations() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.calls...)
}

func (n *Node) hook() Hooks {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.hooks
}

// Submit implements server.Writer. Events are in the chain when it returns.
func (n *Node) Submit(ctx context.Context, caller server.Caller, events []chain.Event) (server.Pending, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	h := n.hook()
	if h.Submit != nil {
		if err := h.Submit(caller, events); err != nil {
			return nil, err
		}
	}
	p := &pending{acks: n.ledger.commit(caller.Principal, events), hold: h.Hold}
	if h.Lost != nil {
		p.err = h.Lost(events)
	}
	return p, nil
}

type pending struct {
	acks   []server.Ack
	err    error
	hold   <-chan struct{}
	waited atomic.Bool
}

// Wait implements server.Pending. A second call is a bug of the caller.
func (p *pending) Wait(ctx context.Context) ([]server.Ack, error) {
	if p.waited.Swap(true) {
		panic("servertest: Wait called twice")
	}
	if p.hold != nil {
		select {
		case <-p.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return p.acks, p.err
}

// Await implements server.Reader. A session read waits for the chain to grow.
func (n *Node) Await(ctx context.Context, c server.Consistency) (uint64, error) {
	if h := n.hook(); h.Await != nil {
		if err := h.Await(ctx, c); err != nil {
			return 0, err
		}
	}
	if c.Level == server.Session {
		select {
		case <-n.Grown(c.Sequence):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	n.ledger.mu.Lock()
	defer n.ledger.mu.Unlock()
	return n.ledger.head.Size, nil
}

// Head implements server.Reader.
func (n *Node) Head(context.Context) (server.Head, error) {
	l := n.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return server.Head{Head: l.head, Root: root(l.leaves), Chain: l.id}, nil
}

// Record implements server.Reader.
func (n *Node) Record(_ context.Context, seq uint64) (chain.Record, error) {
	l := n.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq >= l.head.Size {
		return chain.Record{}, &api.Error{Code: api.NotFound, Field: "sequence", Message: "no such entry"}
	}
	return l.records[seq], nil
}

// Lookup implements server.Reader.
func (n *Node) Lookup(_ context.Context, key chain.Key) (server.Lookup, error) {
	l := n.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	found, ok := l.keys[key]
	if !ok {
		return server.Lookup{}, &api.Error{Code: api.NotFound, Message: "no such event"}
	}
	return found, nil
}

// Scan implements server.Reader.
func (n *Node) Scan(ctx context.Context, f chain.Filter, from, to uint64, reverse bool) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		records := n.ledger.Records()
		to := min(to, uint64(len(records)))
		for i := from; i < to; i++ {
			if err := ctx.Err(); err != nil {
				yield(chain.Record{}, err)
				return
			}
			r := records[i]
			if reverse {
				r = records[to-1-(i-from)]
			}
			match, err := matches(f, r)
			if err != nil {
				yield(chain.Record{}, err)
				return
			}
			if match && !yield(r, nil) {
				return
			}
		}
	}
}

func matches(f chain.Filter, r chain.Record) (bool, error) {
	h, err := chain.DecodeHeader(r.Header)
	if err != nil {
		return false, err
	}
	kind := f.Kind == "" || f.Kind == h.Kind
	if prefix, ok := strings.CutSuffix(f.Kind, "*"); ok {
		kind = strings.HasPrefix(h.Kind, prefix)
	}
	return kind &&
		(f.Workspace == "" || f.Workspace == h.Workspace) &&
		(f.Source == "" || f.Source == h.Source) &&
		(f.Principal == "" || f.Principal == h.Principal) &&
		h.Time >= f.TimeFrom && (f.TimeTo == 0 || h.Time < f.TimeTo), nil
}

// Grown implements server.Reader.
func (n *Node) Grown(size uint64) <-chan struct{} {
	l := n.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if ch, ok := l.grown[size]; ok {
		return ch
	}
	ch := make(chan struct{})
	if l.head.Size > size {
		close(ch)
	} else {
		l.grown[size] = ch
	}
	return ch
}

// InclusionProof implements server.Reader.
func (n *Node) InclusionProof(_ context.Context, seq, size uint64) ([]chain.Hash, error) {
	l := n.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return inclusion(int(seq), l.leaves[:size]), nil
}

// ConsistencyProof implements server.Reader.
func (n *Node) ConsistencyProof(_ context.Context, from, to uint64) ([]chain.Hash, error) {
	l := n.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if from == 0 {
		return nil, nil
	}
	return consistency(int(from), l.leaves[:to], true), nil
}

// RootAt implements server.Reader.
func (n *Node) RootAt(_ context.Context, size uint64) (chain.Hash, error) {
	l := n.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return root(l.leaves[:size]), nil
}

// TreeSize implements server.Tiles.
func (n *Node) TreeSize(context.Context) (uint64, error) {
	n.ledger.mu.Lock()
	defer n.ledger.mu.Unlock()
	return n.ledger.head.Size, nil
}

// ReadTile implements server.Tiles.
func (n *Node) ReadTile(_ context.Context, level int, index uint64, width int) ([]byte, error) {
	n.ledger.mu.Lock()
	defer n.ledger.mu.Unlock()
	var tile []byte
	for i := range uint64(width) {
		span := uint64(1) << (chain.TileHeight * level)
		first := (index*chain.TileWidth + i) * span
		h := root(n.ledger.leaves[first : first+span])
		tile = append(tile, h[:]...)
	}
	return tile, nil
}

// Headers implements server.Tiles.
func (n *Node) Headers(_ context.Context, from, to uint64) iter.Seq2[[]byte, error] {
	records := n.ledger.Records()[from:to]
	return func(yield func([]byte, error) bool) {
		for _, r := range records {
			if !yield(r.Header, nil) {
				return
			}
		}
	}
}

// Checkpoint implements server.Tiles: what Publish set.
func (n *Node) Checkpoint(context.Context) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.checkpoint, nil
}

// Publish sets the published checkpoint.
func (n *Node) Publish(note []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.checkpoint = note
}

// Status implements server.Operator.
func (n *Node) Status(ctx context.Context) (server.Status, error) {
	head, err := n.Head(ctx)
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.status
	s.Head, s.Chain = head, head.Chain
	return s, err
}

// Remove implements server.Operator.
func (n *Node) Remove(ctx context.Context, nodeID string) error {
	return n.operate(ctx, "remove", nodeID)
}

// Leave implements server.Operator.
func (n *Node) Leave(ctx context.Context) error { return n.operate(ctx, "leave", n.id) }

// Transfer implements server.Operator.
func (n *Node) Transfer(ctx context.Context, nodeID string) error {
	return n.operate(ctx, "transfer", nodeID)
}

func (n *Node) operate(ctx context.Context, operation, nodeID string) error {
	n.mu.Lock()
	n.calls = append(n.calls, operation+" "+nodeID)
	f := n.hooks.Operate
	n.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx, operation, nodeID)
}

// Ready implements server.Operator.
func (n *Node) Ready() error {
	if h := n.hook(); h.Ready != nil {
		return h.Ready()
	}
	return nil
}

// FinalCheckpoint implements server.Checkpoints: what Publish set, as a tree of no
// entries that no quorum signed.
func (n *Node) FinalCheckpoint(_ context.Context, size uint64) (server.Checkpoint, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.checkpoint == nil || size > 0 {
		return server.Checkpoint{}, &api.Error{Code: api.NotFinal, Message: "nobody cosigns here"}
	}
	return server.Checkpoint{Note: n.checkpoint}, nil
}

// AddCheckpoint implements server.Witness: it echoes.
func (n *Node) AddCheckpoint(body []byte) (server.WitnessAnswer, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return server.WitnessAnswer{Status: n.witness, ContentType: "text/x.test", Body: body}, n.witness != 0
}

// BeWitness makes the node a witness that answers with a status; 0 is none.
func (n *Node) BeWitness(status int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.witness = status
}

// AskMembers implements server.Operator: each says that it follows.
func (n *Node) AskMembers(_ context.Context, members []server.Member) {
	for i := range members {
		members[i].State, members[i].Entries = "Follower", 7
	}
}

// RotateLogKey implements server.Operator.
func (n *Node) RotateLogKey(context.Context) ([]byte, error) { return make([]byte, 32), nil }

// TrustPolicy implements server.Checkpoints.
func (n *Node) TrustPolicy(context.Context) (string, error) { return "quorum none\n", nil }
