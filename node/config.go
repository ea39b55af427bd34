package node

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/discovery"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/server"
)

// Config is what a node is made of. It is checked once, by New, and not changed
// after.
type Config struct {
	// DataDir holds everything that the node keeps.
	DataDir string
	Cluster *ClusterFile
	// Name is for people; "" is the host's name.
	Name string
	// Version and Build name the program, for boot.init and status.
	Version, Build string

	Listen    Listen
	Discovery Discovery
	API       API
	Storage   Storage
	// Timing is raft's patience; zero is LAN.
	Timing Timing
	Limits pipeline.Limits
	// Checkpoints says how often a leader makes one, and with what this node cosigns.
	Checkpoints Checkpoints
	Logger      *slog.Logger
	// Fatal ends the process at once: a store failed, and what the disk
	// holds is not known any more, so nothing may be closed in good order.
	// Required.
	Fatal func(error)
	// Chaos lets faults be injected, through Node.Faults.
	Chaos bool
	// WrapStores, where not nil, stands between raft and its stores: the
	// seam for injected faults.
	WrapStores func(raft.LogStore, raft.StableStore) (raft.LogStore, raft.StableStore)
	// Ground is the operating system where its fields are nil.
	Ground Ground
	// Sources names where the configuration came from, for boot.config.
	Sources []string
}

// Listen says where other nodes reach this one. An address is host:port; an
// empty host is every interface, port 0 any free port.
type Listen struct {
	Peer, Gossip string
	// Advertise is the host that others use; "" is the one listened on, or
	// the first address of the host that is not loopback.
	Advertise string
}

// Checkpoints says how checkpoints are made.
type Checkpoints struct {
	// Interval is how often, while the chain grows; 0 is checkpoints.DefaultInterval.
	Interval time.Duration
	// MLDSA has this node cosign with ML-DSA-44 (FIPS 204) besides Ed25519.
	MLDSA bool
	// Witnesses are outside witnesses, with their addresses, that this node asks to
	// cosign while it leads, and the quorum that makes a checkpoint a witnessed one;
	// nil is none.
	Witnesses *checkpoint.Policy
	// WitnessLogs are other logs, by their keys, for which this node is a witness under
	// WitnessName; none makes it none. "" is "exonode/witness/<node id>".
	WitnessLogs []checkpoint.Key
	WitnessName string
}

// Discovery says how nodes find each other.
type Discovery struct {
	// Seeds are addresses or DNS names of peers.
	Seeds []string
	// MDNS turns multicast DNS on.
	MDNS bool
	// Expect is how many nodes form the cluster; 0 never forms one, only
	// joins.
	Expect int
}

// API says where clients reach the node.
type API struct {
	Listen string
	TLS    *tls.Config
	// Insecure accepts an API without TLS beyond loopback.
	Insecure bool
}

// Storage says how the node keeps things.
type Storage struct {
	// LogBackend is, where empty, the one that the data directory was made with, and
	// raftstore.WAL in a new one.
	LogBackend raftstore.Backend
	// WriteTimeout is the deadline of one write of raft's log; 0 is 10 s.
	WriteTimeout time.Duration
	// ApplyTimeout is how long the state machine may take for what raft hands
	// it at once, some 16 MiB at the most; 0 is 30 s.
	ApplyTimeout time.Duration
	// SnapshotBytes and SnapshotLogs are how much log makes a snapshot; 0
	// are 64 MiB and 16,384.
	SnapshotBytes, SnapshotLogs uint64
}

func (c *Config) setDefaults() {
	if c.Storage.WriteTimeout == 0 {
		c.Storage.WriteTimeout = 10 * time.Second
	}
	if c.Storage.ApplyTimeout == 0 {
		c.Storage.ApplyTimeout = 30 * time.Second
	}
	if c.Storage.SnapshotBytes == 0 {
		c.Storage.SnapshotBytes = 64 << 20
	}
	if c.Storage.SnapshotLogs == 0 {
		c.Storage.SnapshotLogs = 16384
	}
	if c.Timing == (Timing{}) {
		c.Timing = LAN()
	}
	if c.Limits.Leaderless == 0 {
		c.Limits.Leaderless = leaderlessElections * c.Timing.Election
	}
}

// leaderlessElections is how many election timeouts a node waits for a leader
// before it says that there is none. Raft draws each round's timeout between one
// and two of them: a vote that is split twice is over by then.
const leaderlessElections = 5

const (
	// maxPayload leaves room for the rest of an event in one request of the
	// API, in base64 too.
	maxPayload = server.DefaultMaxRequest / 2
	// maxExpect is more nodes than ever form a cluster at once.
	maxExpect = 64
)

// ErrConfig is wrapped by every error about the configuration: correct it.
var ErrConfig = errors.New("configuration")

func (c *Config) validate() error {
	switch {
	case c.DataDir == "":
		return fmt.Errorf("%w: no data directory: give one with --data", ErrConfig)
	case c.Cluster == nil:
		return fmt.Errorf("%w: no cluster file: make one with `exonode init`, and give it to every node", ErrConfig)
	case c.Logger == nil || c.Fatal == nil:
		return fmt.Errorf("%w: Logger and Fatal are required", ErrConfig)
	case c.Storage.LogBackend != "" && c.Storage.LogBackend != raftstore.WAL && c.Storage.LogBackend != raftstore.BoltDB:
		return fmt.Errorf("%w: --raft-log is %q: choose wal or boltdb", ErrConfig, c.Storage.LogBackend)
	}
	for _, n := range []struct {
		flag        string
		value, most int64
	}{
		{"--bootstrap-expect", int64(c.Discovery.Expect), maxExpect},
		{"--max-payload", int64(c.Limits.Payload), maxPayload},
		{"--queue-events", int64(c.Limits.QueueEvents), math.MaxInt64},
		{"--queue-bytes", int64(c.Limits.QueueBytes), math.MaxInt64},
		{"--write-timeout", int64(c.Storage.WriteTimeout), math.MaxInt64},
	} {
		if n.value < 0 || n.value > n.most {
			return fmt.Errorf("%w: %s is out of range: at most %d, and not below 0", ErrConfig, n.flag, n.most)
		}
	}
	for _, seed := range c.Discovery.Seeds {
		if _, err := discovery.ParseSeed(seed, DefaultPeerPort); err != nil {
			return fmt.Errorf("%w: --seeds: %w", ErrConfig, err)
		}
	}
	for _, a := range []struct{ flag, addr string }{{"--peer-listen", c.Listen.Peer}, {"--gossip-listen", c.Listen.Gossip}, {"--api-listen", c.API.Listen}} {
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			return fmt.Errorf("%w: %s %q: want host:port", ErrConfig, a.flag, a.addr)
		}
	}
	if err := server.CheckListen(c.API.Listen, c.API.TLS != nil, c.API.Insecure); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}
