package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/node/raftstore"
)

// machine is a host with its disk. A node runs on it, or none.
type machine struct {
	c    *cluster
	name string
	host string
	at   int // in the network
	// foreign, where not nil, is the file of a stranger, who is none of the
	// cluster's machines. Alone, it forms a cluster of its own.
	foreign *node.ClusterFile
	alone   bool

	// booting is full while a node starts: several faults may want to start one.
	booting chan struct{}

	mu    sync.Mutex // guards the fields below; never held while time passes
	disk  *disk
	lives int
	life  *life  // nil while it is down
	gone  bool   // removed from the cluster, for good
	last  string // why the life before ended
}

// life is one run of a node's process.
type life struct {
	m    *machine
	dir  string
	disk *disk
	card *card
	node *node.Node
	// cancel asks the node to stop.
	cancel context.CancelFunc
	// over is closed when nobody hears of the node any more: at its crash, or
	// once it has stopped.
	over chan struct{}
	once sync.Once
	// done is closed once Run has returned err.
	done chan struct{}
	err  error
	// fatal is what the node ended itself for; nil where it did not.
	fatal atomic.Pointer[error]
	// dying is told that the node is to crash now.
	dying chan struct{}
	dies  sync.Once
	// released is closed once the crash has been made.
	released chan struct{}
	// frozen, where not nil, is closed at the end of a pause.
	frozen atomic.Pointer[chan struct{}]
	// plan are the faults of disk and clock; m.mu guards it.
	plan faults.Plan
}

// boot starts a node over the machine's disk.
func (m *machine) boot() error {
	m.booting <- struct{}{}
	defer func() { <-m.booting }()
	m.mu.Lock()
	if m.life != nil || m.gone {
		m.mu.Unlock()
		return nil
	}
	m.lives++
	l := &life{
		m: m, disk: m.disk, dir: filepath.Join(m.c.dir, fmt.Sprintf("%s-%d", m.name, m.lives)), card: m.c.net.open(m.host),
		over: make(chan struct{}), done: make(chan struct{}), dying: make(chan struct{}), released: make(chan struct{}),
	}
	before := filepath.Join(m.c.dir, fmt.Sprintf("%s-%d", m.name, m.lives-1))
	m.mu.Unlock()
	if m.lives > 1 {
		if err := copyOnce(before, l.dir); err != nil {
			return err
		}
	}
	l.disk.moveLedger(before, l.dir)
	gossip, err := l.card.gossip()
	if err != nil {
		return err
	}
	n, err := node.New(l.config(gossip))
	if err != nil {
		l.card.end()
		return fmt.Errorf("%s does not start: %w", m.name, err)
	}
	l.node = n
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	m.mu.Lock()
	m.life = l
	m.mu.Unlock()
	m.c.lives.Go(func() {
		l.err = n.Run(ctx)
		cancel()
		close(l.done)
		m.ended(l)
	})
	m.c.lives.Go(func() { // who makes the crash that the node itself asks for
		select {
		case <-l.dying:
			m.crash(l)
		case <-l.over:
			close(l.released)
		}
	})
	return nil
}

// copyOnce copies what is written once of a data directory.
func copyOnce(from, to string) error {
	for _, part := range []string{"FORMAT", "identity", "keys", "raft"} {
		err := filepath.WalkDir(filepath.Join(from, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			target := filepath.Join(to, strings.TrimPrefix(path, from))
			if d.IsDir() {
				return os.MkdirAll(target, 0o700)
			}
			b, err := os.ReadFile(path)
			if err == nil {
				err = os.MkdirAll(filepath.Dir(target), 0o700)
			}
			if err == nil {
				err = os.WriteFile(target, b, 0o600)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// expect is how many nodes form the cluster; who comes later joins.
func (m *machine) expect() int {
	switch {
	case m.alone:
		return 1
	case m.at < size:
		return size
	}
	return 0
}

func (l *life) config(gossip *gossip) node.Config {
	m := l.m
	file, seeds := m.c.file, m.c.seeds
	if m.foreign != nil {
		file = m.foreign
	}
	if m.alone {
		seeds = nil
	}
	cfg := node.Config{
		DataDir: l.dir, Cluster: file, Name: m.name, Version: "sim",
		Listen:    node.Listen{Peer: net.JoinHostPort(m.host, peerPort), Gossip: net.JoinHostPort(m.host, gossipPort)},
		Discovery: node.Discovery{Seeds: seeds, Expect: m.expect()},
		API:       node.API{Listen: net.JoinHostPort(m.host, apiPort), Insecure: true},
		Storage: node.Storage{
			WriteTimeout: m.c.cfg.WriteTimeout, SnapshotLogs: m.c.cfg.SnapshotLogs,
		},
		Timing: m.c.timing, Checkpoints: node.Checkpoints{Interval: m.c.cfg.Checkpoints},
		Logger: m.c.logger(m.name, m.lives), Fatal: l.failed, Chaos: true,
	}
	cfg.Ground = node.Ground{
		Listen: l.card.listen, Dial: l.card.dial,
		Gossip: func(g *membership.GossipConfig) {
			g.Transport = gossip
		},
		Stores: &raftstore.Model{Log: l.disk.log, Stable: l.disk.vote, Files: flat{l.disk.files, manifestDir}, Dead: l.die, NoLatch: m.c.cfg.NoLatch},
		Ledger: func(o *ledger.Options) {
			o.FS, o.CacheBytes, o.MemTableBytes = l.disk.files, 1<<20, 256<<10
		},
		Outbox: queueFiles{l.disk.files}, Promises: flat{l.disk.files, promiseDir}, Signing: flat{l.disk.files, signingDir},
		Die: l.die, Without: m.c.cfg.Without,
	}
	return cfg
}

// writeTimeout is Config.WriteTimeout's default.
const writeTimeout = 3 * time.Second

// failed is the node's Fatal: the process ends.
func (l *life) failed(err error) {
	l.fatal.CompareAndSwap(nil, &err)
	l.dies.Do(func() { close(l.dying) })
}

// die crashes the node from within, and returns once that was made.
func (l *life) die() {
	l.dies.Do(func() { close(l.dying) })
	<-l.released
}

// alive reports whether anybody hears of the node.
func (l *life) alive() bool {
	select {
	case <-l.over:
		return false
	default:
		return true
	}
}

// crash ends a life at this moment. What goes on running after it is of the old disk.
func (m *machine) crash(l *life) {
	m.c.quiet(func() {
		if !l.alive() {
			return
		}
		l.card.end()
		m.mu.Lock()
		m.disk, m.life = l.disk.crash(), nil
		m.last = fmt.Sprintf("crashed at %v", m.c.now())
		if fatal := l.fatal.Load(); fatal != nil {
			m.last += fmt.Sprintf(": %v", *fatal)
		}
		m.mu.Unlock()
		l.once.Do(func() { close(l.over) })
	})
	l.bury()
	select {
	case <-l.dying:
		close(l.released)
	default:
	}
}

// bury lets what is left of a crashed node end.
func (l *life) bury() {
	must(l.node.Faults().Apply(faults.Plan{}))
	l.cancel()
}

// ended is told that a node's Run has returned.
func (m *machine) ended(l *life) {
	if !l.alive() {
		return // it had crashed
	}
	// It stopped in good order, or it has failed: what it has written is synced as far
	// as it is, and the process is gone.
	m.mu.Lock()
	if m.life == l {
		m.life = nil
	}
	removed := errors.Is(l.err, membership.ErrRemoved)
	m.gone = m.gone || removed
	m.last = fmt.Sprintf("ended at %v: %v", m.c.now(), l.err)
	if removed {
		m.c.seen.add("nodes removed")
	}
	m.mu.Unlock()
	l.card.end()
	l.once.Do(func() { close(l.over) })
	if l.err != nil && !removed && m.foreign == nil && l.fatal.Load() == nil {
		m.c.problem("%s ended: %v", m.name, l.err)
	}
}

// running returns the machine's life; nil while it is down.
func (m *machine) running() *life {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

// stop stops a node in good order.
func (m *machine) stop() {
	if l := m.running(); l != nil {
		l.cancel()
		<-l.done
	}
}

// change changes what is wrong with a node's disk and clock.
func (l *life) change(f func(*faults.Plan)) {
	l.m.mu.Lock()
	f(&l.plan)
	plan := l.plan
	l.m.mu.Unlock()
	if l.alive() {
		must(l.node.Faults().Apply(plan))
	}
}
