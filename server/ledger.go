package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
	"github.com/exonode/exonode/chain"
)

const (
	defaultPage = 100
	maxPage     = 1000
	// pageBytes is where a page or a message of a watch stops growing. With one
	// more entry, and each in both forms, it stays below 4 MiB, which is what
	// gRPC clients take by default.
	pageBytes = 512 << 10
)

// ledgerService is exonode.v1.LedgerService over a node. Its methods return
// *api.Error and context errors; the interceptor makes them Connect's.
type ledgerService struct {
	node    Node
	stop    <-chan struct{} // closed when the server begins to shut down
	readers *tracker
	metrics *metrics
}

var _ exonodev1connect.LedgerServiceHandler = (*ledgerService)(nil)

// await waits for the consistency that a request asks for.
func await(ctx context.Context, r Reader, p *exonodev1.Consistency) (uint64, error) {
	c, err := consistencyFrom(p)
	if err != nil {
		return 0, err
	}
	size, err := r.Await(ctx, c)
	if c.Level == Session && errors.Is(err, context.DeadlineExceeded) {
		return 0, &api.Error{Code: api.BehindSession, Message: fmt.Sprintf("the node has not reached entry %d in time", c.Sequence), Hint: "wait, or ask another node", Sequence: c.Sequence, HasSequence: true}
	}
	return size, err
}

// Get implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) Get(ctx context.Context, req *exonodev1.GetRequest) (*exonodev1.GetResponse, error) {
	if _, err := await(ctx, l.node, req.GetConsistency()); err != nil {
		return nil, err
	}
	entry, err := l.entry(ctx, req.GetSequence(), req.GetForm())
	if err != nil {
		return nil, err
	}
	return &exonodev1.GetResponse{Entry: entry}, nil
}

func (l *ledgerService) entry(ctx context.Context, seq uint64, form exonodev1.EntryForm) (*exonodev1.Entry, error) {
	record, err := l.node.Record(ctx, seq)
	if err != nil {
		return nil, err
	}
	return api.RecordToProto(record, form)
}

// Lookup implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) Lookup(ctx context.Context, req *exonodev1.LookupRequest) (*exonodev1.LookupResponse, error) {
	_, res, err := l.lookup(ctx, req)
	return res, err
}

// lookup also returns the state as the node names it.
func (l *ledgerService) lookup(ctx context.Context, req *exonodev1.LookupRequest) (string, *exonodev1.LookupResponse, error) {
	key := chain.Key{Workspace: req.GetWorkspace(), Source: req.GetSource(), ID: req.GetId()}
	if key.Workspace == "" {
		key.Workspace = api.DefaultWorkspace
	}
	for _, f := range []struct{ field, value string }{{"source", key.Source}, {"id", key.ID}} {
		if f.value == "" {
			return "", nil, &api.Error{Code: api.BadField, Field: f.field, Message: f.field + " is required"}
		}
	}
	if _, err := await(ctx, l.node, req.GetConsistency()); err != nil {
		return "", nil, err
	}
	found, err := l.node.Lookup(ctx, key)
	if err != nil {
		return "", nil, err
	}
	entry, err := l.entry(ctx, found.Sequence, req.GetForm())
	if err != nil {
		return "", nil, err
	}
	return found.State, &exonodev1.LookupResponse{State: lookupState(found.State), Entry: entry}, nil
}

// List implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) List(ctx context.Context, req *exonodev1.ListRequest) (*exonodev1.ListResponse, error) {
	limit := int(req.GetPageSize())
	switch {
	case limit < 0:
		return nil, &api.Error{Code: api.BadField, Field: "page_size", Message: fmt.Sprintf("page_size is %d", limit), Hint: "0 is the default"}
	case limit == 0:
		limit = defaultPage
	}
	limit = min(limit, maxPage)
	filter, err := api.FilterFromProto(req.GetFilter())
	if err != nil {
		return nil, err
	}
	list := listing{filter: filter, from: req.GetSequenceFrom(), to: req.GetSequenceTo(), reverse: req.GetReverse()}
	at, err := l.page(ctx, list, req.GetPageToken(), req.GetConsistency())
	if err != nil {
		return nil, err
	}
	res := &exonodev1.ListResponse{ChainSize: at.size}
	from, to := list.bounds(at)
	if from >= to {
		return res, nil
	}
	size := 0
	for record, err := range l.node.Scan(ctx, filter, from, to, list.reverse) {
		if err != nil {
			return nil, err
		}
		if len(res.Entries) == limit || size > pageBytes {
			next := record.Sequence
			if list.reverse {
				next++
			}
			res.NextPageToken = list.token(page{next: next, size: at.size})
			break
		}
		entry, err := api.RecordToProto(record, req.GetForm())
		if err != nil {
			return nil, err
		}
		res.Entries = append(res.Entries, entry)
		size += recordSize(record)
	}
	return res, nil
}

// page returns where a page begins: where its token says, or at an end of the
// chain as it is now. A later page sees at least the chain that the first one
// saw, on whatever node.
func (l *ledgerService) page(ctx context.Context, list listing, token string, c *exonodev1.Consistency) (page, error) {
	if token == "" {
		size, err := await(ctx, l.node, c)
		if err != nil {
			return page{}, err
		}
		first := page{next: list.from, size: size}
		if list.reverse {
			first.next = size
		}
		return first, nil
	}
	at, err := list.parse(token)
	if err != nil || at.size == 0 {
		return at, err
	}
	_, err = l.node.Await(ctx, Consistency{Level: Session, Sequence: at.size - 1})
	return at, err
}

// bounds returns the sequences that are left from a page on.
func (l listing) bounds(at page) (from, to uint64) {
	from, to = l.from, at.size
	if l.to != 0 {
		to = min(to, l.to)
	}
	if l.reverse {
		return from, min(to, at.next)
	}
	return max(from, at.next), to
}

func recordSize(r chain.Record) int { return len(r.Header) + len(r.Envelope) + len(r.Beside) }

// Head implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) Head(ctx context.Context, req *exonodev1.HeadRequest) (*exonodev1.HeadResponse, error) {
	if _, err := await(ctx, l.node, req.GetConsistency()); err != nil {
		return nil, err
	}
	head, err := l.node.Head(ctx)
	if err != nil {
		return nil, err
	}
	return &exonodev1.HeadResponse{Head: headToProto(head)}, nil
}

// GetInclusionProof implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) GetInclusionProof(ctx context.Context, req *exonodev1.GetInclusionProofRequest) (*exonodev1.GetInclusionProofResponse, error) {
	size, err := l.treeSize(ctx, "tree_size", req.GetTreeSize(), req.GetConsistency())
	if err != nil {
		return nil, err
	}
	if req.GetSequence() >= size {
		return nil, beyond("sequence", req.GetSequence(), size)
	}
	hashes, err := l.node.InclusionProof(ctx, req.GetSequence(), size)
	if err != nil {
		return nil, err
	}
	root, err := l.node.RootAt(ctx, size)
	if err != nil {
		return nil, err
	}
	return &exonodev1.GetInclusionProofResponse{
		Sequence: req.GetSequence(),
		TreeSize: size,
		Root:     root[:],
		Hashes:   hashesToProto(hashes),
	}, nil
}

// GetConsistencyProof implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) GetConsistencyProof(ctx context.Context, req *exonodev1.GetConsistencyProofRequest) (*exonodev1.GetConsistencyProofResponse, error) {
	to, err := l.treeSize(ctx, "size_to", req.GetSizeTo(), req.GetConsistency())
	if err != nil {
		return nil, err
	}
	from := req.GetSizeFrom()
	if from > to {
		return nil, beyond("size_from", from, to)
	}
	hashes, err := l.node.ConsistencyProof(ctx, from, to)
	if err != nil {
		return nil, err
	}
	rootFrom, err := l.node.RootAt(ctx, from)
	if err != nil {
		return nil, err
	}
	rootTo, err := l.node.RootAt(ctx, to)
	if err != nil {
		return nil, err
	}
	return &exonodev1.GetConsistencyProofResponse{
		SizeFrom: from,
		SizeTo:   to,
		RootFrom: rootFrom[:],
		RootTo:   rootTo[:],
		Hashes:   hashesToProto(hashes),
	}, nil
}

// GetCheckpoint implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) GetCheckpoint(ctx context.Context, req *exonodev1.GetCheckpointRequest) (*exonodev1.GetCheckpointResponse, error) {
	c, err := l.node.FinalCheckpoint(ctx, req.GetMinSize())
	if err != nil {
		return nil, err
	}
	return &exonodev1.GetCheckpointResponse{Note: c.Note, Size: c.Size, Root: c.Root[:]}, nil
}

// GetTrustPolicy implements exonodev1connect.LedgerServiceHandler.
func (l *ledgerService) GetTrustPolicy(ctx context.Context, _ *exonodev1.GetTrustPolicyRequest) (*exonodev1.GetTrustPolicyResponse, error) {
	policy, err := l.node.TrustPolicy(ctx)
	if err != nil {
		return nil, err
	}
	return &exonodev1.GetTrustPolicyResponse{Policy: policy}, nil
}

// treeSize returns the size that a proof is for: the one that was asked for, or
// the newest.
func (l *ledgerService) treeSize(ctx context.Context, field string, want uint64, c *exonodev1.Consistency) (uint64, error) {
	size, err := await(ctx, l.node, c)
	if err != nil {
		return 0, err
	}
	if want > size {
		return 0, beyond(field, want, size)
	}
	if want == 0 {
		return size, nil
	}
	return want, nil
}

func beyond(field string, n, size uint64) *api.Error {
	return &api.Error{Code: api.NotFound, Field: field, Message: fmt.Sprintf("%s is %d, and the chain has %d entries", field, n, size)}
}
