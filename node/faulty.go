package node

import (
	"crypto/tls"
	"net"

	"github.com/hashicorp/raft"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/transport"
)

// The seams at which a node that was started for chaos is made to suffer. Of one that
// was not, n.faults is nil, and none of this is in its way.

// openFaults makes the node's faults, where it was started for them.
func (n *Node) openFaults() (err error) {
	if !n.cfg.Chaos {
		return nil
	}
	n.log.Warn("started for chaos: faults may be injected into this node")
	n.faults, err = faults.New(faults.Config{Locate: n.locate, Die: n.cfg.Ground.Die})
	return err
}

// Faults returns what is wrong with this node on purpose; nil where it was not started
// for chaos.
func (n *Node) Faults() *faults.Set { return n.faults }

// locate implements faults.Config.Locate: who listens at an address, for peers or for
// gossip.
func (n *Node) locate(addr string) string {
	if n.members == nil {
		return ""
	}
	if id := n.members.at(addr); id != "" {
		return id
	}
	for _, rec := range n.fsm.View().Nodes() {
		if rec.GossipAddr == addr || rec.PeerAddr == addr {
			return rec.ID
		}
	}
	if n.gossip == nil {
		return ""
	}
	for _, g := range n.gossip.Members() {
		if g.Addr == addr {
			return g.NodeID
		}
	}
	return ""
}

// faultyTransport puts the faults of links into a transport's configuration.
func (n *Node) faultyTransport(c *transport.Config) {
	if n.faults == nil || c.Dial != nil {
		return // a network that is not the system's has faults of its own
	}
	c.Listener = n.faults.Listen(c.Listener)
	c.Dial = n.faults.Dial(transport.DialTCP)
	// Beneath TLS, so that not even its goodbye passes a link that is cut.
	c.Conn = func(_ transport.Class, _, remote string, conn net.Conn) net.Conn {
		faults.Name(conn.(*tls.Conn).NetConn(), remote)
		return conn
	}
}

// gossipLinks are the faults of gossip's links.
func (n *Node) gossipLinks() membership.Links {
	if n.faults == nil {
		return nil
	}
	return n.faults
}

// ledgerWrite is called before each write of the ledger; nil where nothing is.
func (n *Node) ledgerWrite() func() error {
	if n.faults == nil {
		return nil
	}
	return func() error { return n.faults.Write(faults.Ledger) }
}

// faultyStores puts the faults of disks into the configuration of raft's stores,
// beneath what wraps them there already.
func (n *Node) faultyStores(c *raftstore.Config) {
	if n.faults == nil {
		return
	}
	c.Files = tornFiles{walfs.New(), n.faults}
	outer := c.Wrap
	c.Wrap = func(log raft.LogStore, stable raft.StableStore) (raft.LogStore, raft.StableStore) {
		log, stable = &faultyLog{log, n.faults}, &faultyStable{stable, n.faults}
		if outer != nil {
			return outer(log, stable)
		}
		return log, stable
	}
}

// faultyLog is a raft.LogStore over a disk that may fail.
type faultyLog struct {
	raft.LogStore
	faults *faults.Set
}

func (l *faultyLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

func (l *faultyLog) StoreLogs(logs []*raft.Log) error {
	l.faults.Reach(faults.BeforeAppend)
	if err := l.faults.Write(faults.RaftLog); err != nil {
		return err
	}
	if err := l.LogStore.StoreLogs(logs); err != nil {
		return err
	}
	l.faults.Reach(faults.AfterAppend)
	return nil
}

func (l *faultyLog) DeleteRange(lo, hi uint64) error {
	if err := l.faults.Write(faults.RaftLog); err != nil {
		return err
	}
	return l.LogStore.DeleteRange(lo, hi)
}

// IsMonotonic implements raft.MonotonicLogStore.
func (l *faultyLog) IsMonotonic() bool {
	m, ok := l.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// faultyStable is a raft.StableStore over a disk that may fail.
type faultyStable struct {
	raft.StableStore
	faults *faults.Set
}

func (s *faultyStable) Set(key, val []byte) error {
	return s.write(func() error { return s.StableStore.Set(key, val) })
}

func (s *faultyStable) SetUint64(key []byte, val uint64) error {
	return s.write(func() error { return s.StableStore.SetUint64(key, val) })
}

func (s *faultyStable) write(write func() error) error {
	s.faults.Reach(faults.BeforeVote)
	if err := s.faults.Write(faults.RaftVote); err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	s.faults.Reach(faults.AfterVote)
	return nil
}

// tornFiles are raft-wal's files, the last of whose writes a crash may tear.
type tornFiles struct {
	types.VFS
	faults *faults.Set
}

func (t tornFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := t.VFS.Create(dir, name, size)
	return tornFile{f, t.faults}, err
}

func (t tornFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := t.VFS.OpenWriter(dir, name)
	return tornFile{f, t.faults}, err
}

type tornFile struct {
	types.WritableFile
	faults *faults.Set
}

func (f tornFile) WriteAt(p []byte, off int64) (int, error) {
	f.faults.Tear(faults.MidAppend, func() error {
		_, err := f.WritableFile.WriteAt(p[:len(p)/2], off)
		if err != nil {
			return err
		}
		return f.Sync()
	})
	return f.WritableFile.WriteAt(p, off)
}
