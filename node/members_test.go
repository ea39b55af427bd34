package node

import (
	"slices"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger/ledgertest"
	"github.com/exonode/exonode/node/raftstore"
)

// says seals an event of a node in workspace system.
func (l *leaderLog) says(t *testing.T, kind, payload string) {
	t.Helper()
	n := len(l.logs)
	l.command(t, fsm.Command{Batch: &fsm.Batch{Stamp: int64(n), Node: "n2", Revision: 1, Events: []fsm.Proposal{{
		Event: chain.Event{
			Workspace: "system", Source: sourceNode, ID: kind + payload, Kind: kind, SchemaVersion: 1,
			Payload: []byte(payload), ContentType: "application/json", Salt: &[chain.SaltSize]byte{byte(n)},
		},
		Principal: "node:n2",
	}}}})
}

// TestMembers joins what raft, pins, the chain and news say of other nodes.
func TestMembers(t *testing.T) {
	leader := newLeaderLog(t) // configures n1.a and n2.b
	leader.says(t, catalog.KindClusterPeerAdd, `{"node_id":"n4","server_id":"n4.d","name":"four","peer_addr":"ten:4"}`)
	leader.says(t, catalog.KindClusterPeerRemove, `{"node_id":"n3","name":"three"}`)
	leader.says(t, catalog.KindClusterPeerRemove, `{"node_id":"n2","name":"two"}`) // sealed, not yet done
	f := openFollower(t, t.TempDir(), raftstore.WAL, ledgertest.NewMemory())
	m := newMembers("n1", f.host.get, f.fsm.View)

	if _, ok := m.Member("n2"); ok || m.Leader() != "" || m.Voter("n2") || len(m.others()) != 0 {
		t.Error("a node that knows nothing knows somebody")
	}
	if _, ok := m.resolve("n2"); ok {
		t.Error("an unknown node has an address")
	}
	m.pin("n2.old", "one:2")
	m.pin("n3.c", "one:3")
	m.locate("n1", "myself:1")
	m.locate("", "nobody:1")
	m.locate("n3", "")
	if id, ok := m.Member("n2"); !ok || id != "n2.old" {
		t.Errorf("a pinned node: %s, %v", id, ok)
	}
	if addr, ok := m.resolve("n3"); !ok || addr != "one:3" {
		t.Errorf("a pinned node is at %q, %v", addr, ok)
	}
	if _, ok := m.resolve("n1"); ok {
		t.Error("the node looks for itself")
	}
	if got := m.others(); !slices.Equal(got, []string{"n2", "n3"}) {
		t.Errorf("others are %v", got)
	}

	f.start()
	if !f.append(2, 0, 0, 0, leader.entries(1, 1)...) {
		t.Fatal("the configuration is refused")
	}
	// The latest configuration counts, committed or not.
	if id, ok := m.Member("n2"); !ok || id != "n2.b" {
		t.Errorf("a configured node is known by %s, %v, the pin's incarnation must not win", id, ok)
	}
	if !m.Voter("n2") || m.Leader() != "n2" {
		t.Errorf("n2 is a voter: %v, the leader is %q", m.Voter("n2"), m.Leader())
	}
	last := uint64(len(leader.logs))
	if !f.append(2, 1, 2, last, leader.entries(2, last)...) {
		t.Fatal("the entries are refused")
	}
	f.await(last)
	if m.Removed("n2") || !m.Removed("n3") {
		t.Errorf("removed: n2 %v, n3 %v, want the one that is not configured any more", m.Removed("n2"), m.Removed("n3"))
	}
	if _, ok := m.Member("n3"); ok {
		t.Error("a pin outlives the removal")
	}
	if got := m.others(); !slices.Equal(got, []string{"n2"}) {
		t.Errorf("others are %v", got)
	}
	// News beats the chain.
	if addr, ok := m.resolve("n4"); !ok || addr != "ten:4" {
		t.Errorf("n4 is at %q, %v, the chain says ten:4", addr, ok)
	}
	m.moved("n4", "forged:4")
	if addr, _ := m.resolve("n4"); addr != "ten:4" {
		t.Errorf("n4, which is no member, moved itself to %q", addr)
	}
	m.moved("n2", "new:2")
	if addr, _ := m.resolve("n2"); addr != "new:2" {
		t.Errorf("n2 is at %q after it said that it is at new:2", addr)
	}
	m.locate("n4", "new:4")
	if addr, _ := m.resolve("n4"); addr != "new:4" {
		t.Errorf("n4 is at %q, the news are new:4", addr)
	}
	if s, ok := m.server("n2"); !ok || s.Suffrage != raft.Voter || s.Address != "n2" {
		t.Errorf("n2 is %+v, %v", s, ok)
	}
}
