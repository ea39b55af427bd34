package fsm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/catalog"
)

// Configuration is a raft configuration as it stands in the chain.
type Configuration struct {
	// RaftIndex is the index of its raft log entry.
	RaftIndex uint64
	// Servers are sorted by ID.
	Servers []Server
}

// Server is a server of a raft configuration.
type Server struct {
	// ID is raft's: "<node id>.<incarnation>".
	ID string
	// Address is the node id, which the transport resolves.
	Address string
	Voter   bool
}

// NodeID returns the node id that a server id names: what stands before the
// incarnation.
func NodeID(serverID string) string {
	if i := strings.LastIndexByte(serverID, '.'); i >= 0 {
		return serverID[:i]
	}
	return serverID
}

// DecodeConfiguration reads a LogConfiguration entry. raft.DecodeConfiguration
// panics on bytes that raft did not write.
func DecodeConfiguration(index uint64, data []byte) (c Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			c, err = Configuration{}, fmt.Errorf("fsm: raft configuration at index %d: %v", index, p)
		}
	}()
	decoded := raft.DecodeConfiguration(data)
	c.RaftIndex = index
	for _, s := range decoded.Servers {
		c.Servers = append(c.Servers, Server{
			ID:      string(s.ID),
			Address: string(s.Address),
			Voter:   s.Suffrage == raft.Voter,
		})
	}
	slices.SortFunc(c.Servers, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	return c, nil
}

// change is one difference between two configurations: a witness of the given
// kind for the given node explains it.
type change struct {
	kind   string
	nodeID string
}

// changes compares two configurations, in the order of the server ids.
func changes(old, new *Configuration) []change {
	var cs []change
	o, n := old.Servers, new.Servers
	for len(o) > 0 || len(n) > 0 {
		switch {
		case len(n) == 0 || len(o) > 0 && o[0].ID < n[0].ID:
			cs = append(cs, change{catalog.KindClusterPeerRemove, NodeID(o[0].ID)})
			o = o[1:]
		case len(o) == 0 || n[0].ID < o[0].ID:
			cs = append(cs, change{catalog.KindClusterPeerAdd, NodeID(n[0].ID)})
			n = n[1:]
		default:
			switch {
			case n[0].Voter && !o[0].Voter:
				cs = append(cs, change{catalog.KindClusterPromote, NodeID(n[0].ID)})
			case !n[0].Voter && o[0].Voter:
				cs = append(cs, change{catalog.KindClusterDemote, NodeID(n[0].ID)})
			}
			o, n = o[1:], n[1:]
		}
	}
	return cs
}

// configPayload is the payload of cluster.config: all that the state keeps of a
// configuration. flagged says that no entry explains some of the change.
func configPayload(c *Configuration, flagged bool) []byte {
	j := new(frozenJSON)
	j.open('{')
	j.uint("raft_index", c.RaftIndex)
	for _, list := range []struct {
		name  string
		voter bool
	}{{"voters", true}, {"nonvoters", false}} {
		j.name(list.name)
		j.open('[')
		for _, s := range c.Servers {
			if s.Voter != list.voter {
				continue
			}
			j.open('{')
			j.text("id", s.ID)
			j.text("address", s.Address)
			j.close('}')
		}
		j.close(']')
	}
	if flagged {
		j.bool("flagged", true)
	}
	j.close('}')
	return j.b
}

func parseConfigPayload(payload []byte) (c Configuration, flagged bool, err error) {
	m, err := readMembers(payload)
	if err != nil {
		return Configuration{}, false, err
	}
	c.RaftIndex = m.uint("raft_index")
	c.Servers = append(m.servers("voters", true), m.servers("nonvoters", false)...)
	slices.SortFunc(c.Servers, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	return c, string(m.m["flagged"]) == "true", m.result()
}

func (m *members) servers(name string, voter bool) []Server {
	list, err := catalog.ReadArray(m.m[name])
	m.fail(name, err)
	var servers []Server
	for _, raw := range list {
		s, err := readMembers(raw)
		if err != nil {
			m.fail(name, err)
			break
		}
		servers = append(servers, Server{ID: s.text("id"), Address: s.text("address"), Voter: voter})
		m.fail(name, s.result())
	}
	return servers
}

// witness is the newest entry of its kind about a node that no configuration
// has been explained by.
type witness struct {
	change
	sequence uint64
}

func compareWitness(w witness, c change) int {
	return cmp.Or(cmp.Compare(w.kind, c.kind), cmp.Compare(w.nodeID, c.nodeID))
}

// Node is what the chain says of a node: the record with which it was added,
// with the addresses that it announced last.
type Node struct {
	ID, Name, Platform            string
	PeerAddr, APIAddr, GossipAddr string
	// TLSKey, CosignKey and MLDSAKey are the node's public keys as its
	// record gives them; "" where it does not.
	TLSKey, CosignKey, MLDSAKey string
	// Sequence is the entry that added it, where Added.
	Sequence uint64
	Added    bool
}

// NodePrincipal is the principal of what a node itself writes.
func NodePrincipal(nodeID string) string { return "node:" + nodeID }

func compareNode(n Node, id string) int { return cmp.Compare(n.ID, id) }
