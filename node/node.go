package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/discovery"
	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/internal/planted"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/checkpoints"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/node/signing"
	"github.com/exonode/exonode/outbox"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/transport"
)

// Phase is a step of booting.
type Phase string

// The phases, in order.
const (
	Init     Phase = "INIT"
	Conf     Phase = "CONFIG"
	Services Phase = "SERVICES"
	Network  Phase = "NETWORK"
	Ready    Phase = "READY"
	Stopping Phase = "STOPPING"
)

// Node is one running node. New reads and checks; Run runs.
type Node struct {
	cfg      Config
	log      *slog.Logger
	started  time.Time
	phase    atomic.Value // Phase
	waiting  atomic.Value // string: what READY waits for
	registry *prometheus.Registry

	// Opened by New, in this order, and closed in reverse by close.
	dir      *dataDir
	faults   *faults.Set // nil unless the node was started for chaos
	identity *transport.Identity
	incarn   string
	outbox   *outbox.Queue
	witness  *witness
	ledger   *ledger.Store
	stores   *raftstore.Stores
	fsm      *fsm.FSM
	catchup  *fsm.Catchup
	growth   *growth
	pipeline *pipeline.Pipeline
	reader
	checkpoints *checkpoints.Service
	outsider    *signing.Witness // nil where this node is no witness of other logs

	peerListener, apiListener net.Listener
	trans                     *transport.Transport
	host                      *raftHost
	members                   *members
	promises                  *membership.Promises
	handler                   *membership.Handler
	gossip                    *membership.Gossip
	discovery                 *discovery.Discovery
	self                      membership.Member
	server                    *server.Server
	leadership                leadership

	// leave is closed by Leave, once.
	leave     chan struct{}
	leaveOnce sync.Once
	// leaving counts calls of Leave at work or done: they stop the node.
	leaving atomic.Int32
	// lineage is membership.Hello's as this node began with it, and split what it heard of
	// another one: "" is nothing.
	lineage string
	split   atomic.Pointer[split]
	// refresh asks for newer pins, restarts for a restart of raft, and says why.
	refresh  chan struct{}
	restarts chan string
	// configIndex is the raft index of the last configuration applied, and
	// recorded are the node records then; reconfigured tells that one of them
	// changed.
	configIndex  atomic.Uint64
	recorded     records // raft's goroutine
	reconfigured chan struct{}
}

// New opens everything that the node has on this machine: phases INIT, CONFIG
// and SERVICES, and the listeners of NETWORK. The caller calls Run.
func New(cfg Config) (_ *Node, err error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: cfg.Logger, started: time.Now(), registry: prometheus.NewRegistry(), leave: make(chan struct{})}
	n.refresh, n.restarts = make(chan struct{}, 1), make(chan string, 1)
	n.reconfigured = make(chan struct{}, 1)
	n.leadership.init()
	n.waiting.Store("booting")
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	for _, step := range []func() error{n.initialise, n.configure, n.openServices, n.openNetwork} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *Node) enter(p Phase) {
	n.phase.Store(p)
	n.log.Info("phase", "name", string(p), "elapsed", time.Since(n.started).Round(time.Millisecond))
}

// initialise is phase INIT.
func (n *Node) initialise() (err error) {
	n.enter(Init)
	if n.dir, err = openDataDir(n.cfg.DataDir, n.cfg.Cluster.Hash.String()); err != nil {
		return err
	}
	if err := n.dir.checkRecovered(); err != nil {
		return err
	}
	if err := n.identify(); err != nil {
		return err
	}
	n.log = n.log.With("node", short(n.identity.NodeID()))
	if planted.Bug != "" {
		n.log.Warn("a bug is planted in this binary: it is for tests alone", "bug", planted.Bug)
	}
	if err := n.openFaults(); err != nil {
		return err
	}
	if n.cfg.Name == "" {
		if n.cfg.Name, err = os.Hostname(); err != nil {
			n.cfg.Name = short(n.identity.NodeID())
		}
	}
	if n.outbox, err = outbox.Open(n.dir.sub("outbox"), n.cfg.Ground.outboxOptions()); err != nil {
		return fmt.Errorf("open the outbox: %w", err)
	}
	var boot [8]byte
	rand.Read(boot[:]) // never fails
	n.witness = &witness{
		nodeID: n.identity.NodeID(), boot: hex.EncodeToString(boot[:]),
		outbox: n.outbox, clock: n.faults.Now, logger: n.log,
	}
	return n.witnessInit()
}

// identify loads the node's key and incarnation, or draws them where the
// directory is new.
func (n *Node) identify() (err error) {
	n.identity, err = loadOrCreate(n.dir.sub("identity"), transport.LoadIdentity, transport.CreateIdentity)
	if err != nil {
		return err
	}
	// The incarnation lives and dies with raft's state: whoever wipes one
	// wipes the other, and the same id never votes twice.
	n.incarn, err = loadOrCreate(n.dir.sub("raft"), transport.LoadIncarnation, transport.CreateIncarnation)
	return err
}

func loadOrCreate[T any](dir string, load, create func(string) (T, error)) (T, error) {
	v, err := load(dir)
	if errors.Is(err, os.ErrNotExist) {
		return create(dir)
	}
	return v, err
}

// short is how a node id stands in log lines.
func short(nodeID string) string { return nodeID[:min(len(nodeID), 9)] }

// configure is phase CONFIG.
func (n *Node) configure() error {
	n.enter(Conf)
	return n.witnessConfig()
}

// openServices is phase SERVICES.
func (n *Node) openServices() (err error) {
	n.enter(Services)
	stores := raftstore.Config{
		Dir: n.dir.sub("raft"), Backend: n.cfg.Storage.LogBackend,
		WriteTimeout: n.cfg.Storage.WriteTimeout, Fatal: n.cfg.Fatal, Logger: n.log, Wrap: n.cfg.WrapStores, Model: n.cfg.Ground.Stores,
	}
	n.faultyStores(&stores)
	if n.stores, err = raftstore.Open(stores); err != nil {
		return err
	}
	if err := n.openLedger(); err != nil {
		return err
	}
	n.growth = newGrowth(n.ledger.Meta().Head.Size)
	n.fsm, err = fsm.New(fsm.Config{
		Store: n.ledger, Staging: n.ledger, ChainID: n.cfg.Cluster.Genesis.ChainID, NodeID: n.identity.NodeID(),
		Fatal: n.cfg.Fatal, Applied: n.applied, Logger: n.log,
	})
	if err != nil {
		return err
	}
	if err := n.checkBoot(); err != nil {
		return err
	}
	return n.witnessServices()
}

// openLedger opens the ledger, or makes it where the node never had one. Raft
// state without a ledger is refused by checkBoot.
func (n *Node) openLedger() (err error) {
	dir, options := n.dir.sub("ledger"), ledger.Options{Logger: n.log, Write: n.ledgerWrite()}
	if n.cfg.Ground.Ledger != nil {
		n.cfg.Ground.Ledger(&options)
	}
	n.ledger, err = ledger.Open(dir, options)
	if errors.Is(err, ledger.ErrNotExist) {
		state, serr := n.stores.State()
		if serr != nil {
			return serr
		}
		if state.Exists() {
			return fmt.Errorf("%w: raft's state is here and the ledger is missing: restore %s, or remove this node from the cluster, empty its data directory and let it join again", ErrDataMissing, dir)
		}
		n.ledger, err = ledger.Create(dir, options)
	}
	return err
}

// checkBoot mends what a crash may leave between raft's stores and the ledger,
// and refuses what none leaves.
func (n *Node) checkBoot() error {
	if err := n.confirmPending(); err != nil {
		return err
	}
	state, err := n.stores.State()
	if err != nil {
		return err
	}
	dropped, err := n.stores.Mend()
	if err != nil {
		return err
	}
	if dropped {
		n.log.Info("dropped a raft log that does not go on from the snapshot", "first_log", state.FirstLog, "last_log", state.LastLog, "snapshot", state.SnapshotIndex)
		state.FirstLog, state.LastLog = 0, 0
	}
	if state.LastLog > 0 && state.FirstLog > state.SnapshotIndex+1 {
		return fmt.Errorf("%w: raft's log begins at index %d and the newest snapshot is of index %d: what is between is missing; restore %s, or remove this node from the cluster, empty its data directory and let it join again",
			ErrDataMissing, state.FirstLog, state.SnapshotIndex, n.dir.sub("raft"))
	}
	applied := uint64(0)
	if state.SnapshotIndex > 0 {
		m, err := n.newestManifest()
		if err != nil {
			return err
		}
		applied = m.Applied
	}
	return n.ledger.CheckRaft(state.LastLog, state.SnapshotIndex, applied, state.Exists())
}

// confirmPending lists a received manifest whose state the ledger holds: the
// crash came between the promotion and its confirmation. Or the ledger came there
// by itself, and is not synced yet: so it is flushed first.
func (n *Node) confirmPending() error {
	pending, err := n.stores.Manifests.Pending()
	if err != nil {
		return err
	}
	meta := n.ledger.Meta()
	for _, p := range pending {
		m, err := n.readManifest(p.ID)
		if err != nil {
			return err
		}
		if m.Applied == meta.Applied && m.RaftEpoch == meta.RaftEpoch && m.Head == meta.Head {
			n.log.Info("confirming an install that a crash interrupted", "index", p.Index)
			if err := n.ledger.Flush(); err != nil {
				return err
			}
			return n.stores.Manifests.Confirm(p.ID)
		}
	}
	return nil
}

func (n *Node) newestManifest() (*fsm.Manifest, error) {
	metas, err := n.stores.Manifests.List()
	if err != nil {
		return nil, err
	}
	return n.readManifest(metas[0].ID)
}

func (n *Node) readManifest(id string) (*fsm.Manifest, error) {
	_, rc, err := n.stores.Manifests.Open(id)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", id, err)
	}
	return fsm.DecodeManifest(b)
}

// applied is told of every commit of the state machine, on raft's goroutine.
func (n *Node) applied(v *fsm.View) {
	n.growth.set(v.Head().Size)
	index := v.Configuration().RaftIndex
	if reconfigured := n.configIndex.Swap(index) != index; reconfigured || n.recorded.changed(v.Nodes()) {
		select {
		case n.reconfigured <- struct{}{}:
		default:
		}
	}
}

// records remembers the node records that it saw last; one goroutine uses it.
type records struct{ last []fsm.Node }

// changed reports whether these are others. A change of the folded state is a new
// slice, so there is no need to compare what is in it.
func (r *records) changed(nodes []fsm.Node) bool {
	old := r.last
	r.last = nodes
	return len(old) != len(nodes) || len(nodes) > 0 && &old[0] != &nodes[0]
}

// runReconfigured does what a committed change of the members asks for. It closes
// the connections of those that were removed: before, raft's last append to them would
// be cut off. And it has the ledger synced, which else only a snapshot does: who the
// members are stands in raft's log, but where they are in the ledger alone, and without
// that nodes that all died at once would not find each other to apply the log again.
func (n *Node) runReconfigured(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.reconfigured:
			n.trans.Recheck()
			if err := n.ledger.Flush(); err != nil {
				return fmt.Errorf("sync the members' addresses: %w", err)
			}
		}
	}
}

// Run serves until ctx ends, the node has left, or it fails; then it stops in
// order. The error says why it failed.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The background outlives ctx: it ends when shutdown takes it down.
	background, stopBackground := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackground()
	group, groupCtx := errgroup.WithContext(background)
	run := func(name string, f func(context.Context) error) {
		group.Go(func() error {
			err := f(groupCtx)
			if err != nil && !errors.Is(err, groupCtx.Err()) {
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	n.enter(Network)
	run("peer listener", n.trans.Run)
	run("API", n.server.Run)
	run("catch-up", n.catchup.Run)
	run("discovery", func(ctx context.Context) error { return n.discovery.Run(ctx, n.discovered) })
	pipelineCtx, stopPipeline := context.WithCancel(groupCtx)
	defer stopPipeline()
	pipelineDone := make(chan struct{})
	group.Go(func() error { defer close(pipelineDone); return n.pipeline.Run(pipelineCtx) })

	boot := make(chan error, 1)
	go func() { boot <- n.bootNetwork(ctx, run) }() // joined below: it ends with ctx
	var err error
	booted := false
	select {
	case err = <-boot:
		booted = true
	case <-groupCtx.Done():
	case <-n.leave:
	}
	if booted && err == nil {
		select {
		case <-ctx.Done():
		case <-groupCtx.Done():
		case <-n.leave:
		}
	}
	cancel()
	if !booted {
		err = <-boot
	}
	if errors.Is(err, ctx.Err()) {
		err = nil
	}
	return errors.Join(err, n.shutdown(stopPipeline, pipelineDone, stopBackground, group))
}

// Ready implements server.Operator.
func (n *Node) Ready() error {
	if p := n.phase.Load(); p == Ready {
		since := n.pipeline.Leaderless()
		if since == 0 {
			return nil
		}
		return &api.Error{
			Code:             api.NoLeader,
			Message:          fmt.Sprintf("no leader has been known for %v", since.Round(time.Second)),
			Hint:             "a quorum of the voters must run",
			RetryAfterMillis: 500,
		}
	}
	return &api.Error{
		Code:             api.NotReady,
		Message:          fmt.Sprintf("phase %s: %s", n.phase.Load(), n.waiting.Load()),
		RetryAfterMillis: 500,
	}
}

var _ server.Node = (*Node)(nil)

// head returns what is applied here.
func (n *Node) head() chain.Head { return n.fsm.View().Head() }

// epoch returns that of what is applied here.
func (n *Node) epoch() uint64 { return n.fsm.View().Epoch() }

// NodeID returns this node's id.
func (n *Node) NodeID() string { return n.identity.NodeID() }
