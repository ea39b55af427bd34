package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/exonode/exonode/chain"
)

// Cluster is what the handler needs of the running node. Methods are safe for
// concurrent use.
type Cluster interface {
	// HasState reports whether raft state exists on disk.
	HasState() bool
	// Members is the latest configuration; nil where the node knows none.
	Members() []Member
	// Head is the head of the local chain.
	Head() chain.Head
	// Admit has the leader add a server, forwarding where this node is not
	// the leader, and returns once a configuration with it is committed.
	// Errors wrap ErrRemoved, ErrRefused or ErrUnavailable.
	Admit(ctx context.Context, m Member) error
}

// HandlerConfig says who answers.
type HandlerConfig struct {
	Self    Member
	Genesis chain.Hash
	// Expect is the size of the first configuration; 0 where this node
	// only ever joins.
	Expect   int
	Promises *Promises
	// Lineage is Hello's.
	Lineage string
	Cluster Cluster
	// Epoch is that of the local chain; nil is always 0.
	Epoch func() uint64
	// Allowed reports whether a node id was not removed.
	Allowed func(nodeID string) bool
	// Heard is told where a node that says hello listens, in its own
	// words. It must not block; nil is allowed.
	Heard func(nodeID, peerAddr string)
	Log   *slog.Logger
}

// Handler answers the calls of forming and joining nodes, for as long as the
// node runs. Safe for concurrent use.
type Handler struct {
	cfg HandlerConfig

	// mu guards callers.
	mu sync.Mutex
	// callers are addresses of nodes that said hello, by node id.
	callers map[string]string
}

// NewHandler checks cfg.
func NewHandler(cfg HandlerConfig) (*Handler, error) {
	if cfg.Promises == nil || cfg.Cluster == nil || cfg.Allowed == nil || cfg.Log == nil {
		return nil, errors.New("membership: HandlerConfig lacks Promises, Cluster, Allowed or Log")
	}
	if err := cfg.Self.validate(); err != nil {
		return nil, fmt.Errorf("membership: self: %w", err)
	}
	return &Handler{cfg: cfg, callers: make(map[string]string)}, nil
}

// Handle answers one call of the peer that the connection authenticated.
func (h *Handler) Handle(ctx context.Context, peerNodeID, method string, payload []byte) []byte {
	result, err := h.handle(ctx, peerNodeID, method, payload)
	if err != nil {
		h.cfg.Log.Debug("peer call refused", "method", method, "peer", peerNodeID, "error", err)
	}
	return encodeReply(result, err)
}

func (h *Handler) handle(ctx context.Context, peer, method string, payload []byte) (any, error) {
	if !h.cfg.Allowed(peer) {
		return nil, fmt.Errorf("%w: node %s", ErrRemoved, peer)
	}
	switch method {
	case MethodHello:
		return h.hello(peer, payload)
	case MethodPromise:
		return h.promise(peer, payload)
	case MethodWithdraw:
		return h.withdraw(peer, payload)
	case MethodJoinBegin:
		return h.joinBegin(peer, payload)
	case MethodJoinCommit:
		return h.joinCommit(ctx, peer, payload)
	default:
		return nil, fmt.Errorf("%w: unknown method %q", ErrMalformed, method)
	}
}

// introduction is what this node says of itself.
func (h *Handler) introduction() Hello {
	out := Hello{
		Genesis: h.cfg.Genesis,
		Self:    h.cfg.Self,
		Expect:  h.cfg.Expect,
		State:   Forming,
		Lineage: h.cfg.Lineage,
		Peers:   h.Callers(),
	}
	if p := h.cfg.Promises.Held(); p != nil {
		out.Promise = &PromiseRef{Digest: p.Digest(), Proposer: p.Proposer().ServerID}
	}
	if h.cfg.Cluster.HasState() {
		out.State, out.Promise = InRaft, nil
		out.Members = h.cfg.Cluster.Members()
		if h.cfg.Epoch != nil {
			out.Epoch = h.cfg.Epoch()
		}
		for _, m := range out.Members {
			if m.PeerAddr != "" && len(out.Peers) < maxPeers && !slices.Contains(out.Peers, m.PeerAddr) {
				out.Peers = append(out.Peers, m.PeerAddr)
			}
		}
	}
	return out
}

// Callers are addresses of nodes that said hello to this one, sorted.
func (h *Handler) Callers() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make([]string, 0, len(h.callers))
	for _, addr := range h.callers {
		out = append(out, addr)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (h *Handler) hello(peer string, payload []byte) (Hello, error) {
	in, err := decode[Hello](payload)
	if err != nil {
		return Hello{}, err
	}
	if err := h.checkPeer(peer, in.Self, in.Genesis); err != nil {
		return Hello{}, err
	}
	if in.Self.PeerAddr != "" && peer != h.cfg.Self.NodeID {
		h.mu.Lock()
		if _, known := h.callers[peer]; known || len(h.callers) < maxPeers {
			h.callers[peer] = in.Self.PeerAddr
		}
		h.mu.Unlock()
		if h.cfg.Heard != nil {
			h.cfg.Heard(peer, in.Self.PeerAddr)
		}
	}
	return h.introduction(), nil
}

func (h *Handler) checkPeer(peer string, self Member, genesis chain.Hash) error {
	if self.NodeID != peer {
		return fmt.Errorf("%w: node %s says that it is %s", ErrRefused, peer, self.NodeID)
	}
	return h.checkGenesis(genesis)
}

func (h *Handler) checkGenesis(genesis chain.Hash) error {
	if genesis != h.cfg.Genesis {
		return fmt.Errorf("%w: genesis %.16s, here %.16s", ErrForeignCluster, genesis, h.cfg.Genesis)
	}
	return nil
}

func (h *Handler) promise(peer string, payload []byte) (PromiseReply, error) {
	in, err := decode[PromiseRequest](payload)
	if err != nil {
		return PromiseReply{}, err
	}
	p := in.Proposal
	if err := h.checkGenesis(p.Genesis); err != nil {
		return PromiseReply{}, err
	}
	switch {
	case h.cfg.Cluster.HasState():
		return PromiseReply{}, ErrHasState
	case p.Proposer().NodeID != peer:
		return PromiseReply{}, fmt.Errorf("%w: node %s proposes for %s", ErrRefused, peer, p.Proposer().NodeID)
	case p.Proposer().NodeID == h.cfg.Self.NodeID:
		return PromiseReply{}, fmt.Errorf("%w: the proposal is this node's own", ErrRefused)
	case len(p.Members) != h.cfg.Expect:
		return PromiseReply{}, fmt.Errorf("%w: %d members, this node expects %d", ErrRefused, len(p.Members), h.cfg.Expect)
	case !slices.ContainsFunc(p.Members, func(m Member) bool {
		return m.ServerID == h.cfg.Self.ServerID && m.NodeID == h.cfg.Self.NodeID
	}):
		return PromiseReply{}, fmt.Errorf("%w: the proposal is without this node", ErrRefused)
	}
	held, err := h.cfg.Promises.Promise(p)
	if err != nil && !errors.Is(err, ErrPromised) {
		return PromiseReply{}, err
	}
	return PromiseReply{Held: PromiseRef{Digest: held.Digest(), Proposer: held.Proposer().ServerID}}, nil
}

func (h *Handler) withdraw(peer string, payload []byte) (WithdrawReply, error) {
	in, err := decode[WithdrawRequest](payload)
	if err != nil {
		return WithdrawReply{}, err
	}
	if err := h.checkGenesis(in.Genesis); err != nil {
		return WithdrawReply{}, err
	}
	held := h.cfg.Promises.Held()
	switch {
	case held == nil || held.Digest() != in.Digest:
		return WithdrawReply{}, nil
	case h.cfg.Cluster.HasState():
		return WithdrawReply{}, ErrHasState
	case held.Proposer().NodeID != peer || held.Proposer().ServerID != in.ServerID:
		return WithdrawReply{}, fmt.Errorf("%w: only %s can withdraw, as it was when it proposed", ErrRefused, held.Proposer().NodeID)
	}
	return WithdrawReply{}, h.cfg.Promises.Release(in.Digest)
}

func (h *Handler) joinBegin(peer string, payload []byte) (JoinBeginReply, error) {
	in, err := h.joiner(peer, payload)
	if err != nil {
		return JoinBeginReply{}, err
	}
	members := h.cfg.Cluster.Members()
	return JoinBeginReply{
		Members: members,
		Head:    h.cfg.Cluster.Head(),
		In:      hasServer(members, in.Self.ServerID),
	}, nil
}

func (h *Handler) joinCommit(ctx context.Context, peer string, payload []byte) (JoinCommitReply, error) {
	in, err := h.joiner(peer, payload)
	if err != nil {
		return JoinCommitReply{}, err
	}
	return JoinCommitReply{}, h.cfg.Cluster.Admit(ctx, in.Self)
}

// joiner checks a join request.
func (h *Handler) joiner(peer string, payload []byte) (JoinRequest, error) {
	in, err := decode[JoinRequest](payload)
	if err != nil {
		return JoinRequest{}, err
	}
	if err := h.checkPeer(peer, in.Self, in.Genesis); err != nil {
		return JoinRequest{}, err
	}
	if !h.cfg.Cluster.HasState() || len(h.cfg.Cluster.Members()) == 0 {
		return JoinRequest{}, fmt.Errorf("%w: this node is in no cluster yet", ErrUnavailable)
	}
	return in, nil
}
