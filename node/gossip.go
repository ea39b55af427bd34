package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

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
		Allowed: func(id string) bool { return !n.members.Removed(id) }, OnEvent: n.gossiped, Log: n.log,
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

// runMembership keeps gossip whole: it contacts members that gossip does not
// know as alive, and refreshes pins from them.
func (n *Node) runMembership(ctx context.Context) error {
	for {
		var missing []string
		alive := make(map[string]bool)
		for _, g := range n.gossip.Members() {
			if g.State == membership.GossipAlive {
				alive[g.NodeID] = true
			}
		}
		for _, id := range n.members.others() {
			if !alive[id] {
				if addr := n.gossipAddrOf(ctx, id); addr != "" {
					missing = append(missing, addr)
				}
			}
		}
		if len(missing) > 0 {
			if _, err := n.gossip.Join(ctx, missing); err != nil && ctx.Err() == nil {
				n.log.Debug("members not reached by gossip", "addresses", missing, "error", err)
			}
		}
		if !sleep(ctx, regossip) {
			return nil
		}
	}
}

// gossipAddrOf is where a member's gossip is: as the chain says, or as the
// member itself says when it is asked.
func (n *Node) gossipAddrOf(ctx context.Context, id string) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if peer, ok := n.members.resolve(id); ok {
		hello, err := n.handler.Greet(ctx, n.callJoin, peer)
		if err == nil && hello.Self.NodeID == id {
			return hello.Self.GossipAddr
		}
	}
	if rec, ok := n.fsm.View().Node(id); ok {
		return rec.GossipAddr
	}
	return ""
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
// chain, when this node begins to lead; it keeps them from then on.
func (n *Node) loadNoted(ctx context.Context) (map[string]membership.PeerState, error) {
	noted := make(map[string]membership.PeerState)
	filter := chain.Filter{Workspace: pipeline.SystemWorkspace, Kind: catalog.KindClusterPeerState}
	missing := make(map[string]bool)
	for _, s := range n.members.configuration().Servers {
		missing[fsm.NodeID(string(s.ID))] = true
	}
	for rec, err := range n.ledger.Scan(filter, 0, n.head().Size, true) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("read what was noted of the members: %w", err)
		}
		env, err := chain.DecodeEnvelope(rec.Envelope)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", rec.Sequence, err)
		}
		var p catalog.ClusterPeerState
		if err := json.Unmarshal(env.Payload, &p); err != nil {
			return nil, fmt.Errorf("entry %d: %w", rec.Sequence, err)
		}
		if missing[p.NodeID] {
			noted[p.NodeID] = membership.PeerState(p.To)
			delete(missing, p.NodeID)
		}
		if len(missing) == 0 {
			break
		}
	}
	return noted, nil
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
			if err == nil && hello.Self.NodeID == id && hello.State == membership.InRaft {
				n.pinMembers(hello.Members)
			}
		}
		if !sleep(ctx, time.Second) {
			return nil
		}
	}
}
