package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// Reader reads the chain at one consistency level, from any of the client's
// addresses or from one of them. It is safe for concurrent use.
//
// Reads are retried at other addresses until their context ends, or for
// Config.RetryFor where it has no deadline.
type Reader struct {
	c     *Client
	level Consistency
	only  *endpoint // nil: any
}

// At returns a reader at another consistency level.
func (r Reader) At(level Consistency) Reader {
	r.level = level
	return r
}

// On returns a reader of one node: it does not fail over. The address is one of
// Config.Addresses.
func (r Reader) On(address string) (Reader, error) {
	ep, err := r.c.endpointAt(address)
	if err != nil {
		return Reader{}, err
	}
	r.only = ep
	return r, nil
}

// consistency is the level as a request says it.
func (r Reader) consistency() *exonodev1.Consistency {
	switch r.level {
	case Session:
		size := r.c.seen.Load()
		if size == 0 {
			break // nothing seen yet: anything is fresh enough
		}
		return &exonodev1.Consistency{
			Level:    exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_SESSION,
			Sequence: size - 1,
		}
	case Linearizable:
		return &exonodev1.Consistency{Level: exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_LINEARIZABLE}
	}
	return &exonodev1.Consistency{Level: exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_STALE}
}

// Get returns the entry with a sequence; an *api.Error with api.NotFound where
// the chain is shorter.
func (r Reader) Get(ctx context.Context, sequence uint64) (Entry, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (Entry, error) {
		res, err := ep.ledger.Get(ctx, &exonodev1.GetRequest{
			Sequence: sequence, Consistency: r.consistency(), Form: exonodev1.EntryForm_ENTRY_FORM_RAW,
		})
		if err != nil {
			return Entry{}, err
		}
		e, err := checkEntry(res.GetEntry(), ep.address)
		if err != nil {
			return Entry{}, err
		}
		if e.Sequence != sequence {
			return Entry{}, &VerifyError{ep.address, sequence, fmt.Sprintf("it is entry %d", e.Sequence)}
		}
		r.c.observe(e.Sequence + 1)
		return e, nil
	})
}

// Lookup tells what became of an event. An empty Workspace or Source is
// Config's.
func (r Reader) Lookup(ctx context.Context, key chain.Key) (Lookup, error) {
	if key.Workspace == "" {
		key.Workspace = r.c.cfg.Workspace
	}
	if key.Source == "" {
		key.Source = r.c.cfg.Source
	}
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (Lookup, error) {
		res, err := ep.ledger.Lookup(ctx, &exonodev1.LookupRequest{
			Workspace: key.Workspace, Source: key.Source, Id: key.ID,
			Consistency: r.consistency(), Form: exonodev1.EntryForm_ENTRY_FORM_RAW,
		})
		if api.CodeOf(fromConnect(err)) == api.NotFound {
			return Lookup{}, nil
		}
		if err != nil {
			return Lookup{}, err
		}
		l := Lookup{State: LookupState(res.GetState())}
		if l.State > Closed {
			return l, fmt.Errorf("%s answered with an unknown state %d: is it newer than this client?", ep.address, l.State)
		}
		m := res.GetEntry()
		if m == nil {
			if l.State != Unknown {
				return l, &VerifyError{ep.address, 0, "the answer to a lookup says " + l.State.String() + " without an entry"}
			}
			return l, nil
		}
		e, err := checkEntry(m, ep.address)
		if err != nil {
			return l, err
		}
		h := &e.Header
		if l.State == Sealed && (h.Source != key.Source || h.ID != key.ID || key.Workspace != "" && h.Workspace != key.Workspace) {
			return l, &VerifyError{ep.address, e.Sequence, fmt.Sprintf("it is event %q of %q, not the one asked for", h.ID, h.Source)}
		}
		l.Entry = &e
		r.c.observe(e.Sequence + 1)
		return l, nil
	})
}

// Head returns the newest entry's position and hash and the tree's root, as one
// node tells them. Verifier.VerifyHead checks them against earlier ones.
func (r Reader) Head(ctx context.Context) (Head, error) {
	h, _, err := r.headFrom(ctx)
	return h, err
}

// headFrom is Head, with the node that told it.
func (r Reader) headFrom(ctx context.Context) (Head, *endpoint, error) {
	var from *endpoint
	h, err := try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (Head, error) {
		from = ep
		res, err := ep.ledger.Head(ctx, &exonodev1.HeadRequest{Consistency: r.consistency()})
		if err != nil {
			return Head{}, err
		}
		h, err := fromHead(res.GetHead())
		if err != nil {
			return h, &VerifyError{ep.address, h.Size, err.Error()}
		}
		r.c.observe(h.Size)
		return h, nil
	})
	return h, from, err
}

// Proof is an RFC 6962 proof, hashes in its order.
type Proof struct {
	// From is the entry's sequence of an inclusion proof, or the smaller
	// tree's size of a consistency proof; Size is the (larger) tree's.
	From, Size uint64
	// FromRoot is the smaller tree's root; zero in an inclusion proof.
	FromRoot chain.Hash
	Root     chain.Hash
	Hashes   []chain.Hash
}

// InclusionProof returns the proof that an entry is in the tree of a size; 0 is
// the newest. It is not checked here: chain.VerifyInclusion does, with a root
// that the caller trusts.
func (r Reader) InclusionProof(ctx context.Context, sequence, size uint64) (Proof, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (Proof, error) {
		res, err := ep.ledger.GetInclusionProof(ctx, &exonodev1.GetInclusionProofRequest{
			Sequence: sequence, TreeSize: size, Consistency: r.consistency(),
		})
		if err != nil {
			return Proof{}, err
		}
		p := Proof{From: res.GetSequence(), Size: res.GetTreeSize()}
		if p.From != sequence || size != 0 && p.Size != size {
			return p, &VerifyError{ep.address, sequence, fmt.Sprintf("the proof is of entry %d in a tree of %d", p.From, p.Size)}
		}
		if err := setHash(&p.Root, res.GetRoot(), "a proof's root"); err != nil {
			return p, &VerifyError{ep.address, sequence, err.Error()}
		}
		p.Hashes, err = proofHashes(res.GetHashes())
		if err != nil {
			return p, &VerifyError{ep.address, sequence, err.Error()}
		}
		return p, nil
	})
}

// ConsistencyProof returns the proof that the tree of size from is a prefix of
// the tree of size to; 0 is the newest. It is not checked here:
// chain.VerifyConsistency does.
func (r Reader) ConsistencyProof(ctx context.Context, from, to uint64) (Proof, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (Proof, error) {
		res, err := ep.ledger.GetConsistencyProof(ctx, &exonodev1.GetConsistencyProofRequest{
			SizeFrom: from, SizeTo: to, Consistency: r.consistency(),
		})
		if err != nil {
			return Proof{}, err
		}
		m := res
		p := Proof{From: m.GetSizeFrom(), Size: m.GetSizeTo()}
		if p.From != from || to != 0 && p.Size != to {
			return p, &VerifyError{ep.address, from, fmt.Sprintf("the proof is of a tree of %d in one of %d", p.From, p.Size)}
		}
		err = errors.Join(setHash(&p.FromRoot, m.GetRootFrom(), "a proof's smaller root"), setHash(&p.Root, m.GetRootTo(), "a proof's larger root"))
		if err != nil {
			return p, &VerifyError{ep.address, from, err.Error()}
		}
		if p.Hashes, err = proofHashes(m.GetHashes()); err != nil {
			return p, &VerifyError{ep.address, from, err.Error()}
		}
		return p, nil
	})
}

func proofHashes(bs [][]byte) ([]chain.Hash, error) {
	out := make([]chain.Hash, len(bs))
	for i, b := range bs {
		if err := setHash(&out[i], b, "a proof's step"); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Status returns a node's view of itself and of the cluster; On says whose.
func (r Reader) Status(ctx context.Context) (Status, error) { return r.status(ctx, false) }

// ClusterStatus is Status, for which the node asks the other members how they are: it
// reaches them where the caller may not.
func (r Reader) ClusterStatus(ctx context.Context) (Status, error) { return r.status(ctx, true) }

func (r Reader) status(ctx context.Context, ask bool) (Status, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (Status, error) {
		res, err := ep.cluster.Status(ctx, &exonodev1.StatusRequest{AskMembers: ask})
		if err != nil {
			return Status{}, err
		}
		return fromStatus(res, ep.address), nil
	})
}

// Members returns the servers of the cluster, as the node that answers knows
// them.
func (r Reader) Members(ctx context.Context) ([]Member, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) ([]Member, error) {
		res, err := ep.cluster.Members(ctx, &exonodev1.MembersRequest{})
		if err != nil {
			return nil, err
		}
		return fromMembers(res.GetMembers()), nil
	})
}

// Remove takes a node out of the cluster for good.
func (c *Client) Remove(ctx context.Context, nodeID string) error {
	_, err := try(ctx, c.Reader, once, func(ctx context.Context, ep *endpoint) (struct{}, error) {
		_, err := ep.cluster.Remove(ctx, &exonodev1.RemoveRequest{NodeId: nodeID})
		return struct{}{}, err
	})
	return err
}

// RotateLogKey has another key sign the log's checkpoints, and returns its public half.
// Only the leader does it: the client is to have its address alone.
func (c *Client) RotateLogKey(ctx context.Context) (ed25519.PublicKey, error) {
	return try(ctx, c.Reader, once, func(ctx context.Context, ep *endpoint) (ed25519.PublicKey, error) {
		res, err := ep.cluster.RotateLogKey(ctx, &exonodev1.RotateLogKeyRequest{})
		return res.GetPublicKey(), err
	})
}

// Transfer hands leadership to a node, or to the best one where nodeID is "".
func (c *Client) Transfer(ctx context.Context, nodeID string) error {
	_, err := try(ctx, c.Reader, once, func(ctx context.Context, ep *endpoint) (struct{}, error) {
		_, err := ep.cluster.Transfer(ctx, &exonodev1.TransferRequest{NodeId: nodeID})
		return struct{}{}, err
	})
	return err
}

// Leave takes a node out of the cluster and stops it. The address, one of
// Config.Addresses, is its own: another node that answers there refuses.
func (c *Client) Leave(ctx context.Context, address, nodeID string) error {
	r, err := c.On(address)
	if err != nil {
		return err
	}
	_, err = try(ctx, r, once, func(ctx context.Context, ep *endpoint) (struct{}, error) {
		_, err := ep.cluster.Leave(ctx, &exonodev1.LeaveRequest{NodeId: nodeID})
		return struct{}{}, err
	})
	return err
}

// mode says whether a call may be made twice.
type mode bool

const (
	once       mode = false
	repeatable mode = true
)

// classify reads what a failed attempt allows. What may not be made twice is
// tried again only where it certainly did nothing.
func (m mode) classify(err error) class {
	if m == repeatable {
		return classifyCall(err)
	}
	var e *api.Error
	if errors.As(err, &e) && didNothing(e) {
		return classify(e)
	}
	if isDial(err) {
		return elsewhere
	}
	return determinate
}

// errOpen is the error of a call that is made once, whose answer did not come.
var errOpen = &api.Error{
	Code: api.DeadlineExceeded, Message: "no answer came before the deadline: it may have been done, or be done yet",
	Hint: "look at the cluster (`exonode status`) before you try again",
}

// try makes a unary call at the reader's address, or at one after the other.
func try[T any](ctx context.Context, r Reader, m mode, call func(context.Context, *endpoint) (T, error)) (T, error) {
	c := r.c
	endpoints := c.endpoints
	at := int(c.current.Load())
	if r.only != nil {
		endpoints, at = []*endpoint{r.only}, 0
	}
	n := len(endpoints)
	ctx, cancel := c.bound(ctx)
	defer cancel()
	pace := backoff{rand: c.cfg.Rand}
	tried := make([]Attempt, 0, n)
	for failures := 0; ; {
		ep := endpoints[at%n]
		out, err := attempt(ctx, n > 1 && m == repeatable, ep, call)
		if err == nil {
			if r.only == nil && failures > 0 {
				c.current.Store(uint32(at % n))
			}
			return out, nil
		}
		var zero T
		cl := m.classify(err)
		if cl == determinate {
			switch {
			case errors.Is(err, errSpeaksTLS):
				err = &UnreachableError{Tried: appendAttempt(tried, ep.address, err)}
			case m == once && errors.Is(err, context.DeadlineExceeded):
				err = errOpen
			}
			return zero, err
		}
		tried = appendAttempt(tried, ep.address, err)
		if ctx.Err() != nil {
			return zero, gaveUp(ctx, err, tried)
		}
		c.log.Debug("call_failed", "address", ep.address, "error", err)
		failures++
		if cl == elsewhere {
			at++
		}
		if cl == later || failures%n == 0 {
			if sleep(ctx, max(pace.next(), retryAfter(err))) != nil {
				return zero, gaveUp(ctx, err, tried)
			}
		}
	}
}

// bound ends a call's context with the client, and after Config.RetryFor where
// it has no deadline.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	stopTimer := context.CancelFunc(func() {})
	if _, ok := ctx.Deadline(); !ok {
		ctx, stopTimer = context.WithTimeoutCause(ctx, c.cfg.RetryFor, errRetryFor)
	}
	ctx, cancel, stop := c.attach(ctx)
	return ctx, func() { stop(); cancel(nil); stopTimer() }
}

// attach ends a context with the client.
func (c *Client) attach(ctx context.Context) (context.Context, context.CancelCauseFunc, func() bool) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, cancel, context.AfterFunc(c.ctx, func() { cancel(ErrClosed) })
}

// attempt makes one attempt. Where there are other addresses it gets half of
// the time that is left, and attemptTimeout at most.
func attempt[T any](ctx context.Context, others bool, ep *endpoint, call func(context.Context, *endpoint) (T, error)) (T, error) {
	if others {
		limit := attemptTimeout
		if deadline, ok := ctx.Deadline(); ok {
			limit = min(limit, time.Until(deadline)/2)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	out, err := call(ctx, ep)
	return out, fromConnect(err)
}

// gaveUp is the error of a call whose time is over: what the last node said that
// said anything, or that nobody answered.
func gaveUp(ctx context.Context, err error, tried []Attempt) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrClosed) {
		return ErrClosed
	}
	var said *api.Error
	for _, t := range slices.Backward(tried) {
		// That time was over is known; another node may say more.
		var e *api.Error
		if errors.As(t.Err, &e) && (said == nil || said.Code == api.DeadlineExceeded) {
			said = e
		}
	}
	if said != nil {
		return fmt.Errorf("%w; last failure: %w", cause, said)
	}
	return &UnreachableError{Tried: tried, Cause: cause}
}
