package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/transport"
)

// methodRange is the range read of the fetch class: from u64, to u64 in; out
// as many records of [from, to) as fit rangeBytes, at least one where from is
// below the head.
const (
	methodRange = "range"
	rangeBytes  = 2 << 20
)

// codeNotLeading is the remote error of a forwarded call that met a node that
// does not lead.
const codeNotLeading = "not_leading"

// peerCaller is pipeline.Peer over the transport.
type peerCaller struct{ trans *transport.Transport }

// Call implements pipeline.Peer.
func (p peerCaller) Call(ctx context.Context, nodeID, method string, request []byte) ([]byte, error) {
	reply, _, err := p.trans.Call(ctx, transport.ClassCall, transport.PeerRef{NodeID: nodeID}, method, request)
	if err == nil {
		return reply, nil
	}
	var remote *transport.RemoteError
	notSent := errors.Is(err, transport.ErrUnreachable)
	if errors.As(err, &remote) {
		switch remote.Code {
		case codeNotLeading, transport.CodeUnknownMethod, transport.CodeBusy, transport.CodeRefused:
			notSent = true
		}
	}
	if notSent {
		return nil, fmt.Errorf("%w: %w", pipeline.ErrNotSent, err)
	}
	return nil, err
}

// servePipeline registers what peers ask of the pipeline.
func servePipeline(t *transport.Transport, p *pipeline.Pipeline) {
	answer := func(b []byte, err error) ([]byte, error) {
		if errors.Is(err, pipeline.ErrNotLeading) {
			return nil, &transport.RemoteError{Code: codeNotLeading, Message: err.Error()}
		}
		return b, err
	}
	t.Handle(transport.ClassCall, pipeline.MethodAppend, func(ctx context.Context, from transport.Peer, request []byte) ([]byte, error) {
		return answer(p.ServeAppend(ctx, from.NodeID, request))
	})
	t.Handle(transport.ClassCall, pipeline.MethodRead, func(ctx context.Context, _ transport.Peer, _ []byte) ([]byte, error) {
		return answer(p.ServeRead(ctx))
	})
}

// recordSource is the part of the ledger that range reads need.
type recordSource interface {
	Meta() chain.Meta
	Scan(f chain.Filter, from, to uint64, reverse bool) iter.Seq2[chain.Record, error]
}

// serveRanges registers the range read.
func serveRanges(t *transport.Transport, store recordSource) {
	t.Handle(transport.ClassFetch, methodRange, func(ctx context.Context, _ transport.Peer, request []byte) ([]byte, error) {
		if len(request) != 16 {
			return nil, fmt.Errorf("range request has %d bytes, want 16", len(request))
		}
		from, to := binary.BigEndian.Uint64(request), binary.BigEndian.Uint64(request[8:])
		to = min(to, store.Meta().Head.Size)
		var reply []byte
		for r, err := range store.Scan(chain.Filter{}, from, to, false) {
			if err != nil {
				return nil, err
			}
			if len(reply) > 0 && len(reply)+recordSize(&r) > rangeBytes {
				break
			}
			reply = appendRecord(reply, &r)
		}
		return reply, nil
	})
}

// Records travel as three parts (header, envelope, beside), each a length u32
// and its bytes; noPart is the length of one that is missing.
const noPart = 1<<32 - 1

func recordSize(r *chain.Record) int { return 12 + len(r.Header) + len(r.Envelope) + len(r.Beside) }

func appendRecord(b []byte, r *chain.Record) []byte {
	for _, part := range [][]byte{r.Header, r.Envelope, r.Beside} {
		if part == nil {
			b = binary.BigEndian.AppendUint32(b, noPart)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
		b = append(b, part...)
	}
	return b
}

var errShortRange = errors.New("range answer is cut short")

// readRecord reads one record and returns the rest.
func readRecord(b []byte, seq uint64) (chain.Record, []byte, error) {
	r := chain.Record{Sequence: seq}
	for _, part := range []*[]byte{&r.Header, &r.Envelope, &r.Beside} {
		if len(b) < 4 {
			return chain.Record{}, nil, errShortRange
		}
		n := binary.BigEndian.Uint32(b)
		b = b[4:]
		if n == noPart {
			continue
		}
		if uint64(n) > uint64(len(b)) {
			return chain.Record{}, nil, errShortRange
		}
		*part, b = b[:n:n], b[n:]
	}
	return r, b, nil
}

// fetcher reads ranges from one peer at a time; it is fsm.Fetcher. One goroutine
// uses it.
type fetcher struct {
	trans *transport.Transport
	// peers returns whom to ask, the best first.
	peers func() []transport.PeerRef
	// turn picks the peer; it moves on where one failed or was not liked.
	turn int
}

var errNoPeers = errors.New("no member is known to fetch from")

// Fetch implements fsm.Fetcher.
func (f *fetcher) Fetch(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		peers := f.peers()
		if len(peers) == 0 {
			yield(chain.Record{}, errNoPeers)
			return
		}
		peer := peers[f.turn%len(peers)]
		if from = f.stream(ctx, peer, from, to, yield); from < to {
			f.turn++
		}
	}
}

// stream yields from one peer and returns how far the caller took it.
func (f *fetcher) stream(ctx context.Context, peer transport.PeerRef, from, to uint64, yield func(chain.Record, error) bool) uint64 {
	for from < to {
		request := binary.BigEndian.AppendUint64(nil, from)
		request = binary.BigEndian.AppendUint64(request, to)
		reply, _, err := f.trans.Call(ctx, transport.ClassFetch, peer, methodRange, request)
		if err == nil && len(reply) == 0 {
			err = errors.New("it has no such entry")
		}
		for err == nil && len(reply) > 0 && from < to {
			var r chain.Record
			if r, reply, err = readRecord(reply, from); err != nil {
				break
			}
			if !yield(r, nil) {
				return from
			}
			from++
		}
		if err != nil {
			yield(chain.Record{}, fmt.Errorf("fetch entry %d from %s: %w", from, peer.NodeID, err))
			return from
		}
	}
	return from
}
