package membership

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/exonode/exonode/chain"
)

// Profile tunes gossip to a network.
type Profile string

// The profiles.
const (
	// LAN notices a dead node within some ten seconds.
	LAN Profile = "lan"
	// Loopback is for nodes of one machine: some three seconds.
	Loopback Profile = "loopback"
)

// GossipConfig configures Gossip.
type GossipConfig struct {
	// NodeID is the name in gossip.
	NodeID string
	// Meta is what the node tells of itself.
	Meta Meta
	// Genesis separates clusters: packets of others are dropped unread.
	Genesis chain.Hash
	// Key encrypts gossip: 32 bytes.
	Key []byte
	// Bind is where to listen, TCP and UDP; port 0 picks one.
	Bind netip.AddrPort
	// Advertise is what others are told; the zero value is Bind, or, where
	// that is unspecified, an address of this host. Gossip carries no
	// zones: a link-local IPv6 address does not work.
	Advertise netip.AddrPort
	// Profile is LAN where empty.
	Profile Profile
	// Transport replaces sockets, for simulation and fault injection; nil
	// is TCP and UDP. The connections that it dials must carry a deadline
	// until memberlist sets its own: it writes the label without one.
	Transport memberlist.Transport
	// Links, where not nil, is between this node's sockets and those of
	// others: the seam for injected faults.
	Links Links
	// Allowed reports whether a node id was not removed. It is called
	// under a lock of memberlist: it must not block.
	Allowed func(nodeID string) bool
	// OnEvent is told of every change, in order, from one goroutine of
	// its own; it may block. nil is allowed.
	OnEvent func(GossipEvent)
	Log     *slog.Logger
}

// GossipState is what gossip thinks of a node.
type GossipState string

// The states.
const (
	GossipAlive GossipState = "alive"
	GossipDead  GossipState = "dead" // does not answer
	GossipLeft  GossipState = "left" // said goodbye
)

// GossipMember is a node as gossip knows it.
type GossipMember struct {
	NodeID string      `json:"node_id"`
	Meta   Meta        `json:"meta"`
	Addr   string      `json:"addr"` // of its gossip
	State  GossipState `json:"state"`
	// Since is when this node saw it enter State.
	Since time.Time `json:"since"`
}

// GossipEvent is a change of a member: a new state, or new meta data or
// address in the same state.
type GossipEvent struct {
	GossipMember
	// Before is the state until now; "" where the member is new.
	Before GossipState
}

// Gossip is this node's part in the gossip of its cluster. It knows who seems
// alive, and decides nothing. Safe for concurrent use.
type Gossip struct {
	cfg  GossipConfig
	list *memberlist.Memberlist
	// addr is where it is advertised. It is read once, before anybody is
	// contacted: memberlist writes the local node without a lock that others may
	// take.
	addr  netip.AddrPort
	since time.Time

	// life orders Leave before Close: memberlist panics on a leave after
	// its shutdown. It guards shut.
	life sync.Mutex
	shut bool

	// mu guards what follows. Memberlist's callbacks take it while they
	// hold memberlist's own lock: never call memberlist under it.
	mu      sync.Mutex
	meta    []byte // ours, encoded
	members map[string]GossipMember
	queue   []GossipEvent
	closed  bool

	wake chan struct{} // capacity 1: queue or closed changed
	// done is closed when the goroutine that calls OnEvent has ended.
	done chan struct{}
}

// NewGossip starts to listen. Nobody is contacted before Join.
func NewGossip(cfg GossipConfig) (*Gossip, error) {
	if cfg.NodeID == "" || cfg.Allowed == nil || cfg.Log == nil {
		return nil, errors.New("membership: GossipConfig lacks NodeID, Allowed or Log")
	}
	if len(cfg.Key) != 32 {
		return nil, fmt.Errorf("membership: gossip key of %d bytes, want 32", len(cfg.Key))
	}
	meta, err := cfg.Meta.Encode()
	if err != nil {
		return nil, err
	}
	g := &Gossip{
		cfg:     cfg,
		since:   time.Now(),
		meta:    meta,
		members: make(map[string]GossipMember),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	conf, err := g.memberlistConfig()
	if err != nil {
		return nil, err
	}
	if g.list, err = memberlist.Create(conf); err != nil {
		return nil, fmt.Errorf("membership: gossip on %s: %w", cfg.Bind, listenError(cfg, err))
	}
	local := g.list.LocalNode()
	ip, _ := netip.AddrFromSlice(local.Addr) // memberlist's own
	g.addr = netip.AddrPortFrom(ip.Unmap(), local.Port)
	go g.deliver() // joined by Close, through done
	return g, nil
}

// listenError finds out again why gossip can't listen, where it can't: memberlist
// tells it as text alone.
func listenError(cfg GossipConfig, err error) error {
	if cfg.Transport != nil {
		return err
	}
	stream, again := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(cfg.Bind))
	if again != nil {
		return again
	}
	defer stream.Close() // nobody knew of it
	packets, again := net.ListenUDP("udp", net.UDPAddrFromAddrPort(cfg.Bind))
	if again != nil {
		return again
	}
	defer packets.Close()
	return err
}

func (g *Gossip) memberlistConfig() (*memberlist.Config, error) {
	var c *memberlist.Config
	switch g.cfg.Profile {
	case LAN, "":
		c = memberlist.DefaultLANConfig()
	case Loopback:
		c = memberlist.DefaultLocalConfig()
		c.ProbeInterval = 500 * time.Millisecond
		c.SuspicionMult = 2
	default:
		return nil, fmt.Errorf("membership: unknown gossip profile %q", g.cfg.Profile)
	}
	c.Name = g.cfg.NodeID
	c.Label = g.cfg.Genesis.String()
	c.SecretKey = g.cfg.Key
	c.Transport = g.cfg.Transport
	c.Logger = log.New(gossipLog{g.cfg.Log}, "", 0)
	c.LogOutput = nil
	// Packets of a few hundred bytes shrink little, and each one takes a new table of
	// 64 KiB to do so. What others compressed is read as before.
	c.EnableCompression = false
	// Encrypted packets must fit networks with an MTU of 1,280.
	c.UDPBufferSize = 1200
	// A node that restarts elsewhere takes its name back at once.
	c.DeadNodeReclaimTime = time.Second
	c.RequireNodeNames = false
	d := &gossipDelegate{g}
	c.Delegate, c.Events, c.Alive, c.Merge = d, d, d, d
	c.BindAddr, c.BindPort = g.cfg.Bind.Addr().String(), int(g.cfg.Bind.Port())
	if g.cfg.Transport != nil {
		return c, nil
	}
	if !g.cfg.Bind.IsValid() {
		return nil, errors.New("membership: GossipConfig.Bind is not set")
	}
	adv := g.cfg.Advertise
	if !adv.IsValid() {
		ip := g.cfg.Bind.Addr()
		if ip.IsUnspecified() {
			var err error
			if ip, err = HostAddr(); err != nil {
				return nil, err
			}
		}
		adv = netip.AddrPortFrom(ip, g.cfg.Bind.Port())
	}
	if adv.Addr().Zone() != "" || adv.Addr().IsUnspecified() {
		return nil, fmt.Errorf("membership: gossip can't be advertised at %s", adv.Addr())
	}
	// With port 0, memberlist advertises the port that it gets.
	c.AdvertiseAddr, c.AdvertisePort = adv.Addr().String(), int(adv.Port())
	if g.cfg.Links != nil {
		t, err := newFaultyTransport(c, c.Logger, g.cfg.Links)
		if err != nil {
			return nil, err
		}
		c.Transport = t
	}
	return c, nil
}

// HostAddr is an address of this host that others may reach: IPv4 before IPv6,
// loopback only where there is no other.
func HostAddr() (netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("membership: addresses of this host: %w", err)
	}
	var best netip.Addr
	rank := func(a netip.Addr) int {
		switch {
		case !a.IsValid() || a.IsLinkLocalUnicast() || a.IsMulticast():
			return 0
		case a.IsLoopback():
			return 1
		case a.Is6():
			return 2
		default:
			return 3
		}
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && rank(ip.Unmap()) > rank(best) {
				best = ip.Unmap()
			}
		}
	}
	if !best.IsValid() {
		return netip.Addr{}, errors.New("membership: this host has no address to advertise gossip at; set one")
	}
	return best, nil
}

// Addr is where this node's gossip is advertised.
func (g *Gossip) Addr() netip.AddrPort { return g.addr }

// Since is when this node began to listen.
func (g *Gossip) Since() time.Time { return g.since }

// Join contacts gossip addresses (IP:port), one after the other, and returns
// how many answered; an error only where none did. Each may take the stream
// timeout of the profile; ctx is looked at in between.
func (g *Gossip) Join(ctx context.Context, addrs []string) (int, error) {
	joined := 0
	var errs []error
	own := g.Addr().String()
	for _, a := range addrs {
		if err := ctx.Err(); err != nil {
			errs = append(errs, err)
			break
		}
		if a == own {
			continue
		}
		if _, err := netip.ParseAddrPort(a); err != nil {
			errs = append(errs, fmt.Errorf("membership: gossip address %q: %w", a, err))
			continue
		}
		n, err := g.list.Join([]string{a})
		joined += n
		if err != nil {
			errs = append(errs, fmt.Errorf("membership: gossip with %s: %w", a, err))
		}
	}
	if joined > 0 {
		return joined, nil
	}
	return 0, errors.Join(errs...)
}

// Members returns all nodes that gossip knows or knew, this one included,
// sorted by node id; without those that are not allowed (any more).
func (g *Gossip) Members() []GossipMember {
	g.mu.Lock()
	all := slices.Collect(maps.Values(g.members))
	g.mu.Unlock()
	all = slices.DeleteFunc(all, func(m GossipMember) bool {
		return m.NodeID != g.cfg.NodeID && !g.cfg.Allowed(m.NodeID)
	})
	slices.SortFunc(all, func(a, b GossipMember) int { return strings.Compare(a.NodeID, b.NodeID) })
	return all
}

// Leave says goodbye, so that others see a departure and no failure. It may
// take up to twice the timeout; Close must follow, and waits for it.
func (g *Gossip) Leave(timeout time.Duration) error {
	meta := g.cfg.Meta
	meta.Leaving = true
	data, err := meta.Encode()
	if err != nil {
		return err
	}
	g.life.Lock()
	defer g.life.Unlock()
	if g.shut {
		return errors.New("membership: leave after close")
	}
	g.mu.Lock()
	g.meta = data
	g.mu.Unlock()
	// Memberlist does not tell its events a goodbye from a death: the flag
	// in the meta data does, which must go out before.
	if err := errors.Join(g.list.UpdateNode(timeout), g.list.Leave(timeout)); err != nil {
		return fmt.Errorf("membership: leave gossip: %w", err)
	}
	return nil
}

// Close stops gossip and joins its goroutine; events not yet delivered are
// dropped. It may be called twice, but not from OnEvent. Memberlist does not
// join its own: a probe under way ends within seconds after Close.
func (g *Gossip) Close() error {
	g.life.Lock()
	g.shut = true
	err := g.list.Shutdown()
	g.life.Unlock()
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.poke()
	<-g.done
	if err != nil {
		return fmt.Errorf("membership: close gossip: %w", err)
	}
	return nil
}

func (g *Gossip) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// deliver calls OnEvent, away from memberlist's locks.
func (g *Gossip) deliver() {
	defer close(g.done)
	for {
		g.mu.Lock()
		events, closed := g.queue, g.closed
		g.queue = nil
		g.mu.Unlock()
		if closed {
			return
		}
		for _, e := range events {
			if g.cfg.OnEvent != nil {
				g.cfg.OnEvent(e)
			}
		}
		if len(events) == 0 {
			<-g.wake
		}
	}
}

// seen records what memberlist tells, and queues the event.
func (g *Gossip) seen(n *memberlist.Node, dead bool) {
	meta, err := DecodeMeta(n.Meta)
	if err != nil {
		return // refused by NotifyAlive; can't be in the list
	}
	m := GossipMember{NodeID: n.Name, Meta: meta, Addr: n.Address(), State: GossipAlive, Since: time.Now()}
	switch {
	case dead && meta.Leaving:
		m.State = GossipLeft
	case dead:
		m.State = GossipDead
	}
	g.mu.Lock()
	before := g.members[n.Name]
	if before.State == m.State {
		m.Since = before.Since
	}
	g.members[n.Name] = m
	g.queue = append(g.queue, GossipEvent{GossipMember: m, Before: before.State})
	g.mu.Unlock()
	g.poke()
}

// gossipDelegate is what memberlist calls, some of it under its node lock.
type gossipDelegate struct{ g *Gossip }

func (d *gossipDelegate) NotifyJoin(n *memberlist.Node)   { d.g.seen(n, false) }
func (d *gossipDelegate) NotifyUpdate(n *memberlist.Node) { d.g.seen(n, false) }
func (d *gossipDelegate) NotifyLeave(n *memberlist.Node)  { d.g.seen(n, true) }

// NodeMeta never returns more than the limit, which memberlist panics over.
func (d *gossipDelegate) NodeMeta(int) []byte {
	d.g.mu.Lock()
	defer d.g.mu.Unlock()
	return d.g.meta
}

func (*gossipDelegate) NotifyMsg([]byte)                {}
func (*gossipDelegate) GetBroadcasts(int, int) [][]byte { return nil }
func (*gossipDelegate) LocalState(bool) []byte          { return nil }
func (*gossipDelegate) MergeRemoteState([]byte, bool)   {}

var errNotAllowed = errors.New("the node was removed")

// NotifyAlive keeps out who was removed or speaks another format. What is said
// of this node itself must pass: memberlist needs it for its local node, and to
// refute what others remember of an earlier life.
func (d *gossipDelegate) NotifyAlive(n *memberlist.Node) error {
	if n.Name == d.g.cfg.NodeID {
		return nil
	}
	if _, err := DecodeMeta(n.Meta); err != nil {
		return err
	}
	if !d.g.cfg.Allowed(n.Name) {
		return errNotAllowed
	}
	return nil
}

// NotifyMerge refuses a join in which nobody alive is acceptable: a removed
// node that comes back with what it remembers of itself. It has the key and
// was answered before this is asked: being removed keeps nobody from listening.
func (d *gossipDelegate) NotifyMerge(peers []*memberlist.Node) error {
	refused := errNotAllowed
	for _, n := range peers {
		if n.State != memberlist.StateAlive || n.Name == d.g.cfg.NodeID {
			continue
		}
		err := d.NotifyAlive(n)
		if err == nil {
			return nil
		}
		refused = err
	}
	return refused
}

// gossipLog turns memberlist's lines into records with a constant message.
type gossipLog struct{ log *slog.Logger }

func (l gossipLog) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelInfo
	// What it calls an error is mostly somebody else's packet.
	for prefix, as := range map[string]slog.Level{
		"[DEBUG]": slog.LevelDebug,
		"[INFO]":  slog.LevelDebug,
		"[WARN]":  slog.LevelInfo,
		"[ERR]":   slog.LevelWarn,
		"[ERROR]": slog.LevelWarn,
	} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			text, level = strings.TrimSpace(rest), as
			break
		}
	}
	text = strings.TrimSpace(strings.TrimPrefix(text, "memberlist:"))
	l.log.Log(context.Background(), level, "gossip", "detail", text)
	return len(line), nil
}
