package fsm_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
)

func peer(id string) string {
	return fmt.Sprintf(`{"node_id":%q,"name":"node-%s","platform":"linux","peer_addr":"%s:7000","tls_key":"k"}`, id, id, id)
}

func TestConfigurationsNameTheirWitness(t *testing.T) {
	r, h := begun(t, gates.Development)
	witness := func(id, kind, payload string) uint64 {
		t.Helper()
		got := r.results(h.batch(r.View().Revision(), h.system(r.View(), id, kind, payload)))[0]
		if got.Status != fsm.Appended {
			t.Fatalf("%s: %+v", id, got)
		}
		return got.Sequence
	}
	configure := func(nodes ...string) (causes []uint64, flagged bool) {
		t.Helper()
		c := r.apply(h.servers(nodes...))[0].(*fsm.ConfigurationResult)
		if !c.Sealed || c.Head != r.store.Meta().Head {
			t.Fatalf("answer %+v", c)
		}
		p := r.payload(c.Sequence)
		return r.header(c.Sequence).Causes, p["flagged"] == true
	}
	expect := func(what string, causes []uint64, flagged bool, want []uint64, wantFlagged bool) {
		t.Helper()
		if !cmp.Equal(causes, want) || flagged != wantFlagged {
			t.Errorf("%s names %v, flagged %v; want %v, %v", what, causes, flagged, want, wantFlagged)
		}
	}
	witness("1", "cluster.peer.add", peer("n2"))
	added := witness("2", "cluster.peer.add", peer("n2"))
	witness("3", "cluster.peer.add", peer("n3"))
	causes, flagged := configure("n1", "-n2")
	expect("adding n2", causes, flagged, []uint64{added}, false)
	promoted := witness("4", "cluster.promote", `{"node_id":"n2"}`)
	causes, flagged = configure("n1", "n2")
	expect("promoting n2", causes, flagged, []uint64{promoted}, false)
	causes, flagged = configure("n1", "-n2")
	expect("demoting n2 by nobody", causes, flagged, nil, true)
	causes, flagged = configure("n1", "n2")
	expect("promoting n2 again: the witness is used up", causes, flagged, nil, true)
	demoted := witness("5", "cluster.demote", `{"node_id":"n2"}`)
	causes, flagged = configure("n1", "-n2")
	expect("demoting n2", causes, flagged, []uint64{demoted}, false)
	removed := witness("6", "cluster.peer.remove", `{"node_id":"n2","name":"node-n2"}`)
	causes, flagged = configure("n1")
	expect("removing n2", causes, flagged, []uint64{removed}, false)
	causes, flagged = configure("n1")
	expect("no change", causes, flagged, nil, false)
	causes, flagged = configure("n1", "-n2", "-n3")
	expect("adding n2 and n3, only n3 by somebody", causes, flagged, []uint64{5}, true)
	witness("7", "cluster.peer.state", `{"node_id":"n2","from":"alive","to":"failed"}`)
	causes, flagged = configure("n1", "-n3")
	expect("removing n2, which only failed", causes, flagged, nil, true)
	replaced := witness("8", "cluster.peer.state", `{"node_id":"n3","from":"failed","to":"replaced"}`)
	causes, flagged = configure("n1")
	expect("removing n3, which came back with an empty disk", causes, flagged, []uint64{replaced}, false)
	if r.View().Removed("n3") {
		t.Error("a node that was replaced is locked out")
	}
	r.verify()
}

func TestNodeRecords(t *testing.T) {
	r, h := begun(t, gates.Development)
	do := func(kind, payload string) {
		t.Helper()
		id := fmt.Sprint(r.store.Meta().Head.Size)
		if got := r.results(h.batch(1, h.system(r.View(), id, kind, payload)))[0]; got.Status != fsm.Appended {
			t.Fatalf("%s: %+v", kind, got)
		}
	}
	boot := func(id, host string) {
		do("boot.network", fmt.Sprintf(`{"node_id":%q,"peer_addr":"%s:1","api_addr":"%s:2","gossip_addr":"%s:3","discovery":"mdns"}`, id, host, host, host))
	}
	boot("n2", "a")
	if n, ok := r.View().Node("n2"); !ok || n.Added || n.PeerAddr != "a:1" {
		t.Errorf("announced: %+v", n)
	}
	do("cluster.peer.add", `{"node_id":"n2","name":"two","platform":"linux","api_addr":"b:2","tls_key":"t","cosign_key":"c","mldsa_key":"m"}`)
	want := fsm.Node{
		ID: "n2", Name: "two", Platform: "linux", PeerAddr: "a:1", APIAddr: "b:2", GossipAddr: "a:3",
		TLSKey: "t", CosignKey: "c", MLDSAKey: "m", Sequence: 4, Added: true,
	}
	if n, _ := r.View().Node("n2"); n != want {
		t.Errorf("added: %+v", n)
	}
	old := r.View()
	boot("n2", "c")
	if n, _ := r.View().Node("n2"); n.PeerAddr != "c:1" || n.Name != "two" || !n.Added {
		t.Errorf("announced again: %+v", n)
	}
	if n, _ := old.Node("n2"); n != want {
		t.Errorf("a view has changed: %+v", n)
	}
	do("cluster.peer.remove", `{"node_id":"n2","name":"two"}`)
	if _, ok := r.View().Node("n2"); ok || !r.View().Removed("n2") || r.View().Removed("n1") {
		t.Error("it is not removed")
	}
	boot("n2", "d") // from its grave
	if _, ok := r.View().Node("n2"); ok {
		t.Error("a removed node announces itself")
	}
	do("cluster.peer.add", peer("n2"))
	if n, ok := r.View().Node("n2"); !ok || r.View().Removed("n2") || n.PeerAddr != "n2:7000" {
		t.Errorf("it is not back: %+v", n)
	}
	// Payloads are folded from workspace system alone.
	p := h.event("x", `{"node_id":"n9","peer_addr":"evil:1"}`)
	p.Kind = "boot.network"
	if got := r.results(h.batch(1, p))[0]; got.Status != fsm.Appended {
		t.Fatalf("%+v", got)
	}
	if len(r.View().Nodes()) != 1 {
		t.Errorf("nodes %+v", r.View().Nodes())
	}
	r.verify()
	// All of it survives a restart.
	if err := r.store.Flush(); err != nil {
		t.Fatal(err)
	}
	if got := r.crash(0).everything(); got != r.everything() {
		t.Error("another state after a restart")
	}
}

func TestNodeIDOfAServer(t *testing.T) {
	for id, want := range map[string]string{"n1.abc": "n1", "a.b.c": "a.b", "n1": "n1", "": ""} {
		if got := fsm.NodeID(id); got != want {
			t.Errorf("NodeID(%q) = %q", id, got)
		}
	}
}
