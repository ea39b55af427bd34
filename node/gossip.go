package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/transport"
)

// regossip is how often a node looks for members that gossip does not know:
// after a partition both sides may have given the other up.
const regossip = 5 * time.Second

// openGossip starts to listen for gossip, and settles the host that this node
// is advertised at.
func (n *Node) openGossip() error {
	bind, err := resolveBind(n.cfg.Listen.Gossip)
	if err != nil {
		return fmt.Errorf("%w: --gossip-listen: %w", ErrConfig, err)
	}
	config := membership.GossipConfig{
		NodeID: n.identity.NodeID(), Genesis: n.cfg.Cluster.Hash, Key: n.cfg.Cluster.Secret.GossipKey(), Bind: bind,
		Allowed: func(id string) bool { return !n.members.Removed(id) }, OnEvent: n.gossiped, Links: n.gossipLinks(), Log: n.log,
	}
	if n.cfg.Timing == Loopback() {
		config.Profile = membership.Loopback
	}
	peer := n.peerListener.Addr().(*net.TCPAddr)
	host := n.cfg.Listen.Advertise
	if host == "" && !peer.IP.IsUnspecified() {
		host = peer.IP.String()
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		config.Advertise = netip.AddrPortFrom(ip, bind.Port())
	}
	config.Meta = membership.Meta{ServerID: string(n.host.id), Name: n.cfg.Name, Version: n.cfg.Version}
	if n.lineage, err = n.recoveredBy(); err != nil {
		return err
	}
	if host != "" {
		config.Meta.PeerAddr = net.JoinHostPort(host, strconv.Itoa(peer.Port))
		config.Meta.APIAddr = n.apiAddrAt(host)
	} else {
		// Only gossip knows which address of this host to show.
		own, err := membership.HostAddr()
		if err != nil {
			return err
		}
		config.Meta.PeerAddr = netip.AddrPortFrom(own, uint16(peer.Port)).String()
		config.Meta.APIAddr = n.apiAddrAt(own.String())
	}
	if n.cfg.Ground.Gossip != nil {
		n.cfg.Ground.Gossip(&config)
	}
	if n.gossip, err = membership.NewGossip(config); err != nil {
		return fmt.Errorf("%w: %w", ErrPort, err)
	}
	n.self = membership.Member{
		NodeID: n.identity.NodeID(), ServerID: string(n.host.id),
		PeerAddr: config.Meta.PeerAddr, GossipAddr: n.gossip.Addr().String(),
	}
	return nil
}

// resolveBind reads host:port, where the host may be empty or a name.
func resolveBind(addr string) (netip.AddrPort, error) {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ip, ok := netip.AddrFromSlice(a.IP)
	if !ok {
		ip = netip.IPv4Unspecified()
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(a.Port)), nil
}

// apiAddrAt is where clients reach the API, given the host that peers use.
func (n *Node) apiAddrAt(host string) string {
	a := n.apiListener.Addr().(*net.TCPAddr)
	if a.IP.IsUnspecified() {
		return net.JoinHostPort(host, strconv.Itoa(a.Port))
	}
	return a.String()
}

// APIAddr is where clients reach this node: host:port.
func (n *Node) APIAddr() string {
	host, _, err := net.SplitHostPort(n.self.PeerAddr)
	if err != nil {
		host = "127.0.0.1"
	}
	return n.apiAddrAt(host)
}

// runMembership looks for members that gossip does not hear, until it hears all of
// them: at their last address, and wherever nodes may be. The cluster finds itself
// again so where all of it was down and came back elsewhere. Nodes that have raft state
// start raft without looking for anybody, and raft knows the others by their ids alone.
func (n *Node) runMembership(ctx context.Context) error {
	var told []string // addresses that others told of
	for {
		pace := regossip
		// A recovered node looks for others that were recovered beside it.
		if missing := n.unheard(); len(missing) > 0 || n.lineage != "" {
			told = n.look(ctx, missing, told)
			if n.members.Leader() == "" {
				pace = lookAgain
			}
		}
		if !sleep(ctx, pace) {
			return nil
		}
	}
}

// unheard are the members that gossip does not hear.
func (n *Node) unheard() []string {
	alive := make(map[string]bool)
	for _, g := range n.gossip.Members() {
		alive[g.NodeID] = g.State == membership.GossipAlive
	}
	return slices.DeleteFunc(n.members.others(), func(id string) bool { return alive[id] })
}

const (
	// lookAgain is how long a node without a leader waits before it looks for
	// the missing members again, greetAtOnce how many addresses it tries at a
	// time, and greetLimit how long one may take to answer.
	lookAgain   = time.Second
	greetAtOnce = 8
	greetLimit  = 2 * time.Second
	// maxTold is how many addresses that others told of are kept.
	maxTold = 64
)

// look greets whoever answers where the missing members were, and where any node may
// be, and has gossip contact who is found. Who answers proves which node it is, and
// that it knows the secret; where it is, is then known. It returns the addresses that
// were told of.
func (n *Node) look(ctx context.Context, missing, told []string) []string {
	addrs := append(n.candidates(), told...)
	for _, id := range missing {
		if addr, ok := n.members.resolve(id); ok {
			addrs = append(addrs, addr)
		}
	}
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	hellos := make([]membership.Hello, len(addrs))
	var group errgroup.Group
	group.SetLimit(greetAtOnce)
	for i, addr := range addrs {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, greetLimit)
			defer cancel()
			hello, err := n.handler.Greet(ctx, n.callJoin, addr)
			if err == nil {
				hellos[i] = hello
			}
			return nil // the others may answer
		})
	}
	_ = group.Wait()
	var gossip []string
	answered := make(map[string]bool)
	for _, h := range hellos {
		if h.Self.NodeID == "" || h.Self.NodeID == n.identity.NodeID() {
			continue
		}
		answered[h.Self.NodeID] = true
		n.checkLineage(&h)
		if slices.Contains(missing, h.Self.NodeID) {
			gossip = append(gossip, h.Self.GossipAddr)
		}
		for _, m := range h.Members {
			n.members.suggest(m.NodeID, m.PeerAddr)
		}
		for _, addr := range h.Peers {
			if len(told) < maxTold && addr != n.self.PeerAddr && !slices.Contains(told, addr) {
				told = append(told, addr)
			}
		}
	}
	for _, id := range missing {
		if rec, ok := n.fsm.View().Node(id); ok && !answered[id] {
			gossip = append(gossip, rec.GossipAddr)
		}
	}
	gossip = slices.DeleteFunc(gossip, func(a string) bool { return a == "" })
	if len(gossip) > 0 {
		if _, err := n.gossip.Join(ctx, gossip); err != nil && ctx.Err() == nil {
			n.log.Debug("members not reached by gossip", "addresses", gossip, "error", err)
		}
	}
	return told
}

func (n *Node) gossipMeta(id string) membership.Meta {
	for _, g := range n.gossip.Members() {
		if g.NodeID == id {
			return g.Meta
		}
	}
	return membership.Meta{}
}

func (n *Node) gossipAddr(id string) string {
	for _, g := range n.gossip.Members() {
		if g.NodeID == id {
			return g.Addr
		}
	}
	return ""
}

// gossipAddrs are the peer addresses of nodes that gossip knows.
func (n *Node) gossipAddrs() []string {
	var addrs []string
	for _, g := range n.gossip.Members() {
		if g.NodeID != n.identity.NodeID() && g.Meta.PeerAddr != "" {
			addrs = append(addrs, g.Meta.PeerAddr)
		}
	}
	return addrs
}

func (n *Node) nameOf(id string) string {
	if rec, ok := n.fsm.View().Node(id); ok && rec.Name != "" {
		return rec.Name
	}
	if m := n.gossipMeta(id); m.Name != "" {
		return m.Name
	}
	return short(id)
}

// describe fills in what gossip and chain know of a member.
func (n *Node) describe(m *server.Member) {
	m.Name, m.Gossip = n.nameOf(m.NodeID), "unknown"
	if m.NodeID == n.identity.NodeID() {
		m.Name, m.PeerAddr, m.APIAddr = n.cfg.Name, n.self.PeerAddr, n.APIAddr()
		m.Gossip, m.Version, m.Applied = "alive", n.cfg.Version, n.ledger.Meta().Applied
		return
	}
	if rec, ok := n.fsm.View().Node(m.NodeID); ok {
		m.PeerAddr, m.APIAddr = rec.PeerAddr, rec.APIAddr
	}
	for _, g := range n.gossip.Members() {
		if g.NodeID == m.NodeID {
			m.Gossip, m.Version = string(g.State), g.Meta.Version
			m.PeerAddr, m.APIAddr = g.Meta.PeerAddr, g.Meta.APIAddr
			// What is on record may be from before the name was known.
			m.Name = cmp.Or(g.Meta.Name, m.Name)
		}
	}
}

// loadNoted reads the newest cluster.peer.state entries of the members from the
// chain when this node begins to lead, and how many voters there were when those that
// failed did; it keeps both from then on.
func (n *Node) loadNoted(ctx context.Context) (noted map[string]membership.PeerState, full map[string]int, err error) {
	noted, full = make(map[string]membership.PeerState), make(map[string]int)
	missing := make(map[string]bool)
	for _, s := range n.members.configuration().Servers {
		missing[fsm.NodeID(string(s.ID))] = true
	}
	for rec, err := range n.newest(ctx, catalog.KindClusterPeerState, n.head().Size) {
		if err != nil {
			return nil, nil, fmt.Errorf("read what was noted of the members: %w", err)
		}
		var p catalog.ClusterPeerState
		if err := json.Unmarshal(rec.payload, &p); err != nil {
			return nil, nil, fmt.Errorf("entry %d: %w", rec.seq, err)
		}
		if missing[p.NodeID] {
			noted[p.NodeID] = membership.PeerState(p.To)
			if noted[p.NodeID] == membership.PeerFailed {
				if full[p.NodeID], err = n.votersBefore(ctx, rec.seq); err != nil {
					return nil, nil, err
				}
			}
			delete(missing, p.NodeID)
		}
		if len(missing) == 0 {
			break
		}
	}
	return noted, full, nil
}

// votersBefore is how many voters the cluster had at an entry.
func (n *Node) votersBefore(ctx context.Context, seq uint64) (int, error) {
	for rec, err := range n.newest(ctx, catalog.KindClusterConfig, seq) {
		if err != nil {
			return 0, fmt.Errorf("read the configuration at entry %d: %w", seq, err)
		}
		var c catalog.ClusterConfig
		if err := json.Unmarshal(rec.payload, &c); err != nil {
			return 0, fmt.Errorf("entry %d: %w", rec.seq, err)
		}
		return len(c.Voters), nil
	}
	return 0, fmt.Errorf("no configuration before entry %d", seq)
}

// systemRecord is an entry of workspace system.
type systemRecord struct {
	seq     uint64
	payload []byte
}

// newest yields the entries of workspace system of a kind, below a sequence, the
// newest first.
func (n *Node) newest(ctx context.Context, kind string, below uint64) iter.Seq2[systemRecord, error] {
	filter := chain.Filter{Workspace: pipeline.SystemWorkspace, Kind: kind}
	return func(yield func(systemRecord, error) bool) {
		for rec, err := range n.ledger.Scan(filter, 0, below, true) {
			var env chain.Envelope
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				if env, err = chain.DecodeEnvelope(rec.Envelope); err != nil {
					err = fmt.Errorf("entry %d: %w", rec.Sequence, err)
				}
			}
			if !yield(systemRecord{rec.Sequence, env.Payload}, err) || err != nil {
				return
			}
		}
	}
}

// refusedPeer is told of connections that the transport refused. A member of a
// configuration that this node has not seen yet is refused like a stranger; so
// the members that it does know are asked who belongs to the cluster now.
func (n *Node) refusedPeer(nodeID string, class transport.Class, reason error) {
	n.log.Debug("peer refused", "peer", nodeID, "class", class, "error", reason)
	select {
	case n.refresh <- struct{}{}:
	default:
	}
}

// runPins refreshes pins when a stranger called: only members are believed.
func (n *Node) runPins(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.refresh:
		}
		for _, s := range n.members.configuration().Servers {
			id := fsm.NodeID(string(s.ID))
			addr, ok := n.members.resolve(id)
			if !ok || id == n.identity.NodeID() {
				continue
			}
			call, cancel := context.WithTimeout(ctx, 2*time.Second)
			hello, err := n.handler.Greet(call, n.callJoin, addr)
			cancel()
			if err == nil && hello.Self.NodeID == id && hello.State == membership.InRaft && hello.Epoch == n.epoch() {
				n.pinMembers(hello.Members)
			}
		}
		if !sleep(ctx, time.Second) {
			return nil
		}
	}
}
