package main

import (
	"context"
	"errors"
	"iter"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// openNode opens one node's chain as it is now: the one that is named, or the
// first configured address that answers. The node's own view is read, whatever
// the leader has: it is this node that is checked.
func (a *app) openNode(ctx context.Context, node string) (*target, error) {
	c, err := a.nodeClient(ctx, node)
	if err != nil {
		return nil, err
	}
	s, err := c.Status(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	r, err := c.At(client.Stale).On(s.Address)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	h, err := r.Head(ctx)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	head := chain.Head{Size: h.Size, Hash: h.Hash, Time: h.Time}
	return &target{
		name: s.Address + " (node " + s.NodeID + ")", source: nodeSource{r, h.Size}, head: &head, root: &h.Root,
		close: func() { c.Close() },
	}, nil
}

// nodeClient returns a client of the node that is named, or of the configured addresses
// where none is.
func (a *app) nodeClient(ctx context.Context, node string) (*client.Client, error) {
	c, err := a.connect(ctx)
	if err != nil || node == "" {
		return c, err
	}
	of, _, err := a.reach(ctx, c, node)
	return of, errors.Join(err, c.Close())
}

// nodeSource is the chain of one node, up to a size, as a source of verification:
// one stream of the entries' exact bytes.
type nodeSource struct {
	reader client.Reader
	size   uint64
}

var _ chain.Source = nodeSource{}

// Size implements chain.Source.
func (s nodeSource) Size() uint64 { return s.size }

// Records implements chain.Source.
func (s nodeSource) Records(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		if from >= to {
			return
		}
		for e, err := range s.reader.Watch(ctx, client.WatchQuery{From: from}) {
			// The client looks at what it gets, too: what it refuses is
			// the chain's fault and not the connection's.
			var bad *client.VerifyError
			if errors.As(err, &bad) {
				err = &chain.BadEntryError{Sequence: bad.Sequence, Part: chain.PartRecord, Err: errors.New(bad.Problem)}
			}
			if !yield(e.Record, err) || err != nil || e.Sequence+1 >= to {
				return
			}
		}
	}
}

// prefix is the beginning of a chain.
type prefix struct {
	chain.Source
	size uint64
}

// Size implements chain.Source.
func (p prefix) Size() uint64 { return p.size }
