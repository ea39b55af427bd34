package node

import (
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/fsm"
)

// members answers what the transport asks about others: who belongs to the
// cluster, and where they are. It joins raft's latest configuration, what a
// join answer or a formation promise pinned, what the chain says, and gossip.
type members struct {
	self string
	raft func() *instance // may return nil
	view func() *fsm.View

	mu     sync.RWMutex // guards the fields below
	pinned map[string]raft.ServerID
	// addrs are peer addresses by node id, the newest news winning.
	addrs map[string]string
}

func newMembers(self string, r func() *instance, view func() *fsm.View) *members {
	return &members{self: self, raft: r, view: view, pinned: make(map[string]raft.ServerID), addrs: make(map[string]string)}
}

// configuration returns raft's latest configuration; empty before raft runs.
func (m *members) configuration() raft.Configuration {
	r := m.raft()
	if r == nil {
		return raft.Configuration{}
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return raft.Configuration{}
	}
	return f.Configuration()
}

func (m *members) server(nodeID string) (raft.Server, bool) {
	for _, s := range m.configuration().Servers {
		if fsm.NodeID(string(s.ID)) == nodeID {
			return s, true
		}
	}
	return raft.Server{}, false
}

// voters is how many servers of the configuration vote.
func (m *members) voters() (n int) {
	for _, s := range m.configuration().Servers {
		if s.Suffrage == raft.Voter {
			n++
		}
	}
	return n
}

// Member implements transport.Members.
func (m *members) Member(nodeID string) (raft.ServerID, bool) {
	if s, ok := m.server(nodeID); ok {
		return s.ID, true
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	id, ok := m.pinned[nodeID]
	return id, ok && !m.removed(nodeID)
}

// Leader implements transport.Members.
func (m *members) Leader() string {
	r := m.raft()
	if r == nil {
		return ""
	}
	_, id := r.LeaderWithID()
	return fsm.NodeID(string(id))
}

// Voter implements transport.Members.
func (m *members) Voter(nodeID string) bool {
	s, ok := m.server(nodeID)
	return ok && s.Suffrage == raft.Voter
}

// Removed implements transport.Members. A member of the configuration is not
// removed, whatever the chain said before it was added again.
func (m *members) Removed(nodeID string) bool {
	if _, ok := m.server(nodeID); ok {
		return false
	}
	return m.removed(nodeID)
}

func (m *members) removed(nodeID string) bool { return m.view().Removed(nodeID) }

// pin accepts a node as a member ahead of raft's configuration, on the word of
// a member.
func (m *members) pin(serverID raft.ServerID, addr string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := fsm.NodeID(string(serverID))
	m.pinned[id] = serverID
	if addr != "" {
		m.addrs[id] = addr
	}
}

// locate records where a node is.
func (m *members) locate(nodeID, addr string) {
	if nodeID == "" || addr == "" || nodeID == m.self {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.addrs[nodeID] = addr
}

// moved records where a member says that it is: the first thing that others hear
// of one which comes back elsewhere. Gossip believes in the old address until it
// has given it up.
func (m *members) moved(nodeID, addr string) {
	if _, ok := m.Member(nodeID); ok {
		m.locate(nodeID, addr)
	}
}

// suggest records where a member says that another one is, of which nothing better is
// known.
func (m *members) suggest(nodeID, addr string) {
	if _, known := m.resolve(nodeID); !known {
		m.moved(nodeID, addr)
	}
}

// resolve implements transport.Config.Resolve.
func (m *members) resolve(nodeID string) (string, bool) {
	m.mu.RLock()
	addr, ok := m.addrs[nodeID]
	m.mu.RUnlock()
	if ok {
		return addr, true
	}
	if n, ok := m.view().Node(nodeID); ok && n.PeerAddr != "" {
		return n.PeerAddr, true
	}
	return "", false
}

// at is the node that was last known to be at an address of peers; "" where none was.
func (m *members) at(addr string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for id, a := range m.addrs {
		if a == addr {
			return id
		}
	}
	return ""
}

// others are the node ids of all members but this one.
func (m *members) others() []string {
	ids := make(map[string]bool)
	for _, s := range m.configuration().Servers {
		ids[fsm.NodeID(string(s.ID))] = true
	}
	m.mu.RLock()
	for id := range m.pinned {
		ids[id] = true
	}
	m.mu.RUnlock()
	delete(ids, m.self)
	maps.DeleteFunc(ids, func(id string, _ bool) bool { return m.Removed(id) })
	return slices.Sorted(maps.Keys(ids))
}
