package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/discovery"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/transport"
)

// DefaultPeerPort is where peers listen unless configured otherwise; seeds
// without a port mean it.
const DefaultPeerPort = 7480

// ErrPort is wrapped where an address can't be listened on: choose another, or
// stop who has it.
var ErrPort = errors.New("can't listen")

func listen(what, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w for %s: %w", ErrPort, what, err)
	}
	return l, nil
}

// openNetwork opens the listeners and makes everything that hangs on them, so
// that an occupied port fails before anything is joined. Nothing accepts yet.
func (n *Node) openNetwork() (err error) {
	if n.peerListener, err = n.cfg.Ground.listen("peers", n.cfg.Listen.Peer); err != nil {
		return err
	}
	if n.apiListener, err = n.cfg.Ground.listen("the API", n.cfg.API.Listen); err != nil {
		return err
	}
	host := &raftHost{timing: n.cfg.Timing, id: transport.ServerID(n.identity.NodeID(), n.incarn), stores: n.stores, logger: n.log}
	host.noPreVote, host.keepDamaged = n.cfg.Ground.Without.PreVote, n.cfg.Ground.Without.SnapshotMend
	host.fsm = &raftFSM{FSM: n.fsm, holds: host.holds, restored: n.installed, stalled: n.cfg.Fatal, faults: n.faults, limit: n.cfg.Storage.ApplyTimeout}
	host.started = n.watchRaft
	n.host = host
	n.members = newMembers(n.identity.NodeID(), host.get, n.fsm.View)
	trans := transport.Config{
		Identity: n.identity, Incarnation: n.incarn, Listener: n.peerListener,
		Members: n.members, Resolve: n.members.resolve,
		Secret: n.cfg.Cluster.Secret, Genesis: n.cfg.Cluster.Hash,
		InstallGuard: n.guardInstall, Refused: n.refusedPeer, Dial: n.cfg.Ground.Dial, Logger: n.log,
	}
	n.faultyTransport(&trans)
	if n.trans, err = transport.New(trans); err != nil {
		return err
	}
	host.attach = func() (raftSession, error) { return n.trans.AttachRaft() }
	n.catchup, err = fsm.NewCatchup(n.fsm, &fetcher{trans: n.trans, peers: n.fetchPeers})
	if err != nil {
		return err
	}
	n.pipeline = pipeline.New(pipeline.Config{
		NodeID: n.identity.NodeID(), Log: host, Peer: peerCaller{n.trans},
		View: n.fsm.View, Head: n.head, Clock: n.faults.Now, Limits: n.cfg.Limits, Logger: n.log,
	})
	if host.metrics, err = n.newMetrics(); err != nil {
		return err
	}
	n.reader = reader{store: n.ledger, growth: n.growth, pipeline: n.pipeline, view: n.fsm.View, chainID: n.cfg.Cluster.Genesis.ChainID}
	if err := n.openCheckpoints(); err != nil {
		return err
	}
	if err := n.openMembership(); err != nil {
		return err
	}
	servePipeline(n.trans, n.pipeline)
	serveRanges(n.trans, n.ledger)
	n.serveMembership()
	n.server, err = server.New(server.Config{
		Node: n, Listener: n.apiListener, TLS: n.cfg.API.TLS, Log: n.log, Registry: n.registry,
	})
	return err
}

// openMembership opens gossip and what forming and joining need.
func (n *Node) openMembership() (err error) {
	if err := n.openGossip(); err != nil {
		return err
	}
	if n.promises, err = membership.OpenPromises(n.dir.sub("formation"), n.cfg.Ground.Promises); err != nil {
		return err
	}
	n.handler, err = membership.NewHandler(membership.HandlerConfig{
		Self: n.self, Genesis: n.cfg.Cluster.Hash, Expect: n.cfg.Discovery.Expect, Promises: n.promises, Lineage: n.lineage,
		Cluster: clusterView{n}, Epoch: n.epoch, Allowed: func(id string) bool { return !n.members.Removed(id) },
		Heard: n.members.moved, Log: n.log,
	})
	if err != nil {
		return err
	}
	config := discovery.Config{Seeds: n.cfg.Discovery.Seeds, DefaultPort: DefaultPeerPort, Log: n.log}
	if n.cfg.Discovery.MDNS {
		config.MDNS = &discovery.MDNS{
			Genesis: n.cfg.Cluster.Hash, NodeID: n.identity.NodeID(), Protocol: 1,
			Port: uint16(n.peerListener.Addr().(*net.TCPAddr).Port),
		}
		if ip, err := netip.ParseAddr(n.cfg.Listen.Advertise); err == nil && !ip.IsLoopback() {
			config.MDNS.Advertise = []netip.Addr{ip}
		}
	}
	n.discovery, err = discovery.New(config)
	return err
}

// bootNetwork is phase NETWORK from where all listeners accept, and READY.
func (n *Node) bootNetwork(ctx context.Context, run func(string, func(context.Context) error)) error {
	if err := n.witnessNetwork(); err != nil {
		return err
	}
	if err := n.enterCluster(ctx); err != nil {
		return err
	}
	run("membership", n.runMembership)
	run("pins", n.runPins)
	run("reconfigured", n.runReconfigured)
	run("standing", n.runStanding)
	run("restarts", n.runRestarts)
	run("leadership", n.runLeadership)
	run("outbox", func(ctx context.Context) error { return n.witness.drain(ctx, n.pipeline) })
	run("compaction", n.compactLog)
	run("checkpoints", n.checkpoints.Run)
	n.waiting.Store("for a leader, and for what is committed to be applied here")
	for {
		size, err := n.pipeline.ReadIndex(ctx)
		if err == nil {
			err = n.growth.await(ctx, size)
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	n.enter(Ready)
	return n.witnessReady()
}

// enterCluster starts raft: from the node's own state, or as formation or a
// join says.
func (n *Node) enterCluster(ctx context.Context) error {
	state, err := n.stores.State()
	if err != nil {
		return err
	}
	if state.Configured() {
		return n.host.start()
	}
	outcome := membership.Outcome{Step: membership.StepJoin}
	// A node that crashed right after it first heard of its leader has raft
	// state, and forms nothing; but nobody may speak to it before it has
	// asked who the members are.
	if n.cfg.Discovery.Expect > 0 && !state.Exists() {
		n.waiting.Store(fmt.Sprintf("for %d nodes to form the cluster", n.cfg.Discovery.Expect))
		outcome, err = membership.Form(ctx, membership.FormConfig{
			Handler: n.handler, Candidates: n.candidates, Call: n.callJoin,
			Nonce: nonce, Rand: mathrand.Float64, Log: n.log,
		})
		if err != nil {
			return err
		}
	}
	switch outcome.Step {
	case membership.StepBootstrap:
		return n.bootstrap(outcome.Members)
	case membership.StepStart:
		n.pinMembers(outcome.Members)
		return n.host.start()
	}
	return n.join(ctx, outcome.Addrs)
}

func nonce() (id chain.ID, err error) {
	_, err = rand.Read(id[:])
	return id, err
}

// bootstrap starts raft with the first configuration. Commit point: the entry
// in raft's log; a crash before it finds the promise again.
func (n *Node) bootstrap(ms []membership.Member) error {
	n.pinMembers(ms)
	var c raft.Configuration
	for _, m := range ms {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Voter, ID: raft.ServerID(m.ServerID), Address: raft.ServerAddress(m.NodeID)})
	}
	if err := n.stores.Bootstrap(c); err != nil {
		return err
	}
	if err := n.witnessBootstrap(ms); err != nil {
		return err
	}
	return n.host.start()
}

// join gets the node into a running cluster: it fetches the chain first, so
// that the cluster does not wait for it.
func (n *Node) join(ctx context.Context, addrs []string) error {
	n.waiting.Store("to join the cluster")
	ms, err := membership.Join(ctx, membership.JoinConfig{
		Self: n.self, Genesis: n.cfg.Cluster.Hash,
		Candidates: func() []string { return append(addrs, n.candidates()...) },
		Call:       n.callJoin, Pin: n.pinMembers, Prefetch: n.prefetch,
		Rand: mathrand.Float64, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.pinMembers(ms)
	return n.host.start()
}

// candidates are the addresses where nodes may be: of whom discovery and gossip know,
// who said hello here, and with whom this node promised to form the cluster.
func (n *Node) candidates() []string {
	var addrs []string
	for _, c := range n.discovery.Candidates() {
		addrs = append(addrs, c.Addr)
	}
	addrs = append(append(addrs, n.gossipAddrs()...), n.handler.Callers()...)
	if p := n.promises.Held(); p != nil {
		for _, m := range p.Members {
			addrs = append(addrs, m.PeerAddr)
		}
	}
	addrs = slices.DeleteFunc(addrs, func(a string) bool { return a == "" || a == n.self.PeerAddr })
	slices.Sort(addrs)
	return slices.Compact(addrs)
}

// callJoin is membership.Call over the join class.
func (n *Node) callJoin(ctx context.Context, addr, method string, payload []byte) ([]byte, string, error) {
	reply, peer, err := callAt(ctx, n.trans, addr, method, payload)
	if err == nil {
		n.members.locate(peer.NodeID, addr)
	}
	return reply, peer.NodeID, err
}

// callAt calls whoever is at an address over the join class.
func callAt(ctx context.Context, t *transport.Transport, addr, method string, payload []byte) ([]byte, transport.Peer, error) {
	reply, peer, err := t.Call(ctx, transport.ClassJoin, transport.PeerRef{Addr: addr}, method, payload)
	switch {
	case errors.Is(err, transport.ErrWrongSecret):
		err = fmt.Errorf("%w: %w", membership.ErrWrongSecret, err)
	case errors.Is(err, transport.ErrForeignCluster):
		err = fmt.Errorf("%w: %w", membership.ErrForeignCluster, err)
	case errors.Is(err, transport.ErrRemoved):
		err = fmt.Errorf("%w: %w", membership.ErrRemoved, err)
	}
	return reply, peer, err
}

// serveMembership answers forming and joining nodes.
func (n *Node) serveMembership() {
	for _, m := range []string{
		membership.MethodHello, membership.MethodPromise, membership.MethodWithdraw,
		membership.MethodJoinBegin, membership.MethodJoinCommit,
	} {
		n.trans.Handle(transport.ClassJoin, m, func(ctx context.Context, from transport.Peer, request []byte) ([]byte, error) {
			return n.handler.Handle(ctx, from.NodeID, m, request), nil
		})
	}
	n.trans.Handle(transport.ClassCall, methodAdmit, n.serveAdmit)
	n.trans.Handle(transport.ClassCall, methodRemove, n.serveRemove)
	n.trans.Handle(transport.ClassCall, methodStats, n.serveStats)
	n.trans.Handle(transport.ClassCall, methodCatalog, n.serveCatalog)
}

// pinMembers accepts members on the word of a promise or a join answer.
func (n *Node) pinMembers(ms []membership.Member) {
	for _, m := range ms {
		if m.NodeID != n.identity.NodeID() {
			n.members.pin(raft.ServerID(m.ServerID), m.PeerAddr)
		}
	}
}

// prefetch stages the chain up to the head that a member told, before the node
// is added: raft then installs a manifest for which little or nothing is
// missing.
func (n *Node) prefetch(ctx context.Context, from []membership.Member, head chain.Head) error {
	n.pinMembers(from)
	n.waiting.Store(fmt.Sprintf("to join the cluster: fetching %d entries", head.Size))
	return n.catchup.Prefetch(ctx, head)
}

// fetchPeers are the members to fetch ranges from, the leader last: it has
// more to do than the others.
func (n *Node) fetchPeers() []transport.PeerRef {
	var peers, last []transport.PeerRef
	leader := n.members.Leader()
	for _, id := range n.members.others() {
		if id == leader {
			last = append(last, transport.PeerRef{NodeID: id})
			continue
		}
		peers = append(peers, transport.PeerRef{NodeID: id})
	}
	return append(peers, last...)
}
