package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/internal/planted"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
)

// growth tells readers that the chain grew.
type growth struct {
	mu   sync.Mutex // guards the fields below
	size uint64
	// moved is closed, and replaced, when size grows.
	moved chan struct{}
}

func newGrowth(size uint64) *growth { return &growth{size: size, moved: make(chan struct{})} }

func (g *growth) set(size uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if size <= g.size {
		return
	}
	g.size = size
	close(g.moved)
	g.moved = make(chan struct{})
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// beyond returns a channel that is closed once there are more than size
// entries.
func (g *growth) beyond(size uint64) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.size > size {
		return closedChannel
	}
	return g.moved
}

// await returns once the chain has at least size entries.
func (g *growth) await(ctx context.Context, size uint64) error {
	for {
		g.mu.Lock()
		have, moved := g.size, g.moved
		g.mu.Unlock()
		if have >= size {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}

// chainStore is what reads need of the ledger.
type chainStore interface {
	Meta() chain.Meta
	Find(chain.Key) (chain.Slot, bool, error)
	Record(seq uint64) (chain.Record, error)
	Scan(f chain.Filter, from, to uint64, reverse bool) iter.Seq2[chain.Record, error]
	proofStore
}

// proofStore answers for the Merkle tree.
type proofStore interface {
	ReadTile(level int, index uint64, width int) ([]byte, error)
	InclusionProof(seq, size uint64) ([]chain.Hash, error)
	ConsistencyProof(from, to uint64) ([]chain.Hash, error)
	RootAt(size uint64) (chain.Hash, error)
}

// reader implements server.Reader over the ledger.
type reader struct {
	store    chainStore
	growth   *growth
	pipeline *pipeline.Pipeline
	view     func() *fsm.View
	chainID  chain.ID
	// published is the newest checkpoint that is published, nil where there is none.
	published func() []byte
}

// Await implements server.Reader.
func (r *reader) Await(ctx context.Context, c server.Consistency) (uint64, error) {
	need := uint64(0)
	switch c.Level {
	case server.Linearizable:
		size, err := r.pipeline.ReadIndex(ctx)
		if err != nil {
			return 0, err
		}
		need = size
	case server.Session:
		if planted.Session {
			break // bug: what the node has will do
		}
		need = c.Sequence + 1
	}
	if err := r.growth.await(ctx, need); err != nil {
		if errors.Is(err, context.Canceled) {
			return 0, err
		}
		return 0, &api.Error{
			Code:             api.BehindSession,
			Message:          fmt.Sprintf("this node has %d entries, the read needs %d", r.store.Meta().Head.Size, need),
			Hint:             "try again or ask another node",
			RetryAfterMillis: 200,
		}
	}
	return r.store.Meta().Head.Size, nil
}

// Head implements server.Reader.
func (r *reader) Head(context.Context) (server.Head, error) {
	m := r.store.Meta()
	if planted.Head && m.Head.Size%8 == 7 {
		m.Head.Hash[0]++ // bug: no entry has this hash
	}
	return server.Head{Head: m.Head, Root: m.Root, Chain: r.chainID, Epoch: r.view().Epoch()}, nil
}

// Record implements server.Reader.
func (r *reader) Record(_ context.Context, seq uint64) (chain.Record, error) {
	rec, err := r.store.Record(seq)
	if errors.Is(err, chain.ErrNotFound) {
		return chain.Record{}, &api.Error{
			Code:    api.NotFound,
			Message: fmt.Sprintf("there is no entry %d; the chain has %d entries here", seq, r.store.Meta().Head.Size),
		}
	}
	return rec, storeError(err)
}

// storeError hides what a store says of itself behind one code.
func storeError(err error) error {
	if err == nil {
		return nil
	}
	var known *api.Error
	if errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &api.Error{Code: api.Internal, Message: err.Error(), Hint: "the node's log says more; `exonode verify` checks its disk"}
}

// Lookup implements server.Reader.
func (r *reader) Lookup(_ context.Context, key chain.Key) (server.Lookup, error) {
	slot, ok, err := r.store.Find(key)
	if planted.NoLookup {
		err = errors.New("a planted bug") // bug: where it stands is never told
	}
	if err != nil {
		return server.Lookup{}, storeError(err)
	}
	if !ok {
		return server.Lookup{}, &api.Error{
			Code:    api.NotFound,
			Message: fmt.Sprintf("no event with id %q of source %q in workspace %q", key.ID, key.Source, key.Workspace),
		}
	}
	return server.Lookup{State: slot.State.String(), Sequence: slot.Sequence}, nil
}

// Scan implements server.Reader.
func (r *reader) Scan(ctx context.Context, f chain.Filter, from, to uint64, reverse bool) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		for rec, err := range r.store.Scan(f, from, to, reverse) {
			if ctx.Err() != nil {
				yield(chain.Record{}, ctx.Err())
				return
			}
			if !yield(rec, storeError(err)) || err != nil {
				return
			}
		}
	}
}

// Grown implements server.Reader.
func (r *reader) Grown(size uint64) <-chan struct{} { return r.growth.beyond(size) }

// InclusionProof implements server.Reader.
func (r *reader) InclusionProof(_ context.Context, seq, size uint64) ([]chain.Hash, error) {
	if err := r.within(size); err != nil {
		return nil, err
	}
	if seq >= size {
		return nil, &api.Error{Code: api.BadField, Field: "sequence", Message: fmt.Sprintf("entry %d is not in a tree of size %d", seq, size)}
	}
	proof, err := r.store.InclusionProof(seq, size)
	return proof, storeError(err)
}

// ConsistencyProof implements server.Reader.
func (r *reader) ConsistencyProof(_ context.Context, from, to uint64) ([]chain.Hash, error) {
	if err := r.within(to); err != nil {
		return nil, err
	}
	if from > to {
		return nil, &api.Error{Code: api.BadField, Field: "from", Message: fmt.Sprintf("size %d is beyond size %d", from, to)}
	}
	proof, err := r.store.ConsistencyProof(from, to)
	return proof, storeError(err)
}

// RootAt implements server.Reader.
func (r *reader) RootAt(_ context.Context, size uint64) (chain.Hash, error) {
	if err := r.within(size); err != nil {
		return chain.Hash{}, err
	}
	root, err := r.store.RootAt(size)
	return root, storeError(err)
}

func (r *reader) within(size uint64) error {
	if have := r.store.Meta().Head.Size; size > have {
		return &api.Error{Code: api.NotFound, Field: "size", Message: fmt.Sprintf("the chain has %d entries here, not %d", have, size)}
	}
	return nil
}

// TreeSize implements server.Tiles.
func (r *reader) TreeSize(context.Context) (uint64, error) { return r.store.Meta().Head.Size, nil }

// ReadTile implements server.Tiles.
func (r *reader) ReadTile(_ context.Context, level int, index uint64, width int) ([]byte, error) {
	tile, err := r.store.ReadTile(level, index, width)
	return tile, storeError(err)
}

// Headers implements server.Tiles.
func (r *reader) Headers(ctx context.Context, from, to uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for rec, err := range r.Scan(ctx, chain.Filter{}, from, to, false) {
			if !yield(rec.Header, err) || err != nil {
				return
			}
		}
	}
}

// Checkpoint implements server.Tiles.
func (r *reader) Checkpoint(context.Context) ([]byte, error) { return r.published(), nil }
