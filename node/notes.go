package node

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/discovery"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/pipeline"
)

// What the node says of itself: one method an event.

func (n *Node) witnessInit() error {
	return n.witness.write(catalog.KindBootInit, "init", "", catalog.BootInit{
		NodeID: n.identity.NodeID(), Version: n.cfg.Version, Build: n.cfg.Build, GoVersion: runtime.Version(),
	})
}

// witnessConfig names the configuration by a hash over what is not secret.
func (n *Node) witnessConfig() error {
	b, err := json.Marshal(struct {
		Genesis   string
		Listen    Listen
		Discovery Discovery
		API       string
		TLS       bool
		Storage   Storage
		Timing    Timing
		Limits    pipeline.Limits
	}{n.cfg.Cluster.Hash.String(), n.cfg.Listen, n.cfg.Discovery, n.cfg.API.Listen, n.cfg.API.TLS != nil, n.cfg.Storage, n.cfg.Timing, n.cfg.Limits})
	if err != nil {
		return fmt.Errorf("hash the configuration: %w", err)
	}
	sum := sha256.Sum256(b)
	return n.witness.write(catalog.KindBootConfig, "config", "", catalog.BootConfig{
		NodeID: n.identity.NodeID(), ConfigHash: hex.EncodeToString(sum[:]), Sources: n.cfg.Sources,
	})
}

func (n *Node) witnessServices() error {
	return n.witness.write(catalog.KindBootServices, "services", "", catalog.BootServices{
		NodeID: n.identity.NodeID(), Services: []string{"outbox", "raft-" + string(n.stores.Backend), "ledger", "fsm"},
	})
}

func (n *Node) witnessNetwork() error {
	var ways []string
	if len(n.cfg.Discovery.Seeds) > 0 {
		ways = append(ways, "seeds")
	}
	if n.cfg.Discovery.MDNS {
		ways = append(ways, "mdns")
	}
	return n.witness.write(catalog.KindBootNetwork, "network", "", catalog.BootNetwork{
		NodeID: n.identity.NodeID(), PeerAddr: n.self.PeerAddr, APIAddr: n.APIAddr(),
		GossipAddr: n.gossip.Addr().String(), Discovery: strings.Join(ways, ","),
	})
}

func (n *Node) witnessBootstrap(ms []membership.Member) error {
	var servers catalog.List[catalog.Object]
	for _, m := range ms {
		b, err := json.Marshal(map[string]string{"id": m.ServerID, "address": m.NodeID})
		if err != nil {
			return fmt.Errorf("witness the bootstrap: %w", err)
		}
		servers = append(servers, catalog.Object(b))
	}
	return n.witness.write(catalog.KindClusterBootstrap, "bootstrap", "", catalog.ClusterBootstrap{
		Servers: servers, Expect: int64(n.cfg.Discovery.Expect),
	})
}

func (n *Node) witnessReady() error {
	head := n.head()
	return n.witness.write(catalog.KindBootReady, "ready", "", catalog.BootReady{
		NodeID: n.identity.NodeID(), ElapsedMS: time.Since(n.started).Milliseconds(),
		HeadSeq: int64(head.Size) - 1, HeadHash: head.Hash.String(),
	})
}

func (n *Node) witnessShutdown(reason string) error {
	head := n.head()
	return n.witness.write(catalog.KindBootShutdown, "shutdown", "", catalog.BootShutdown{
		NodeID: n.identity.NodeID(), Reason: reason, HeadSeq: int64(head.Size) - 1, HeadHash: head.Hash.String(),
	})
}

// discovered witnesses what discovery found and lost. Its own address is none.
func (n *Node) discovered(e discovery.Event) {
	if e.Addr == n.self.PeerAddr {
		return
	}
	kind, payload := catalog.KindDiscoveryFound, any(catalog.DiscoveryFound{NodeID: e.NodeID, Address: e.Addr, Method: string(e.Method)})
	if e.Lost {
		kind, payload = catalog.KindDiscoveryLost, catalog.DiscoveryLost{NodeID: e.NodeID, Address: e.Addr, Method: string(e.Method)}
	}
	cause := fmt.Sprintf("%s/%s/%s/%d", kind, e.Method, e.Addr, time.Now().UnixNano())
	if err := n.witness.write(kind, cause, e.NodeID, payload); err != nil {
		n.log.Error("discovery not witnessed", "error", err)
	}
}

// gossiped follows gossip: where nodes are, and who came and went.
func (n *Node) gossiped(e membership.GossipEvent) {
	if e.NodeID == n.identity.NodeID() {
		return
	}
	n.members.locate(e.NodeID, e.Meta.PeerAddr)
	if e.State == e.Before {
		return
	}
	var kind string
	var payload any
	switch {
	case e.State == membership.GossipAlive:
		kind, payload = catalog.KindMeshConnect, catalog.MeshConnect{NodeID: e.NodeID, Address: e.Addr, Protocol: "gossip"}
	default:
		kind, payload = catalog.KindMeshDisconnect, catalog.MeshDisconnect{NodeID: e.NodeID, Address: e.Addr, Reason: string(e.State)}
	}
	cause := fmt.Sprintf("%s/%s/%d", kind, e.NodeID, e.Since.UnixNano())
	if err := n.witness.write(kind, cause, e.NodeID, payload); err != nil {
		n.log.Error("gossip not witnessed", "error", err)
	}
	n.leadership.wake()
}

// sealNow seals an event of the node's own and returns once it is committed.
func (n *Node) sealNow(ctx context.Context, kind, cause, subject string, payload any) error {
	b, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("seal %s: %w", kind, err)
	}
	e := note{Kind: kind, ID: n.witness.id(cause), Subject: subject, Time: n.faults.Now().UnixNano(), Payload: b}
	pending, err := n.pipeline.Witness([]fsm.Proposal{e.proposal(n.identity.NodeID())})
	if err != nil {
		return fmt.Errorf("seal %s: %w", kind, err)
	}
	acks, err := pending.Wait(ctx)
	if err != nil {
		return fmt.Errorf("seal %s: %w", kind, err)
	}
	if acks[0].Err != nil {
		return fmt.Errorf("seal %s: %w", kind, acks[0].Err)
	}
	return nil
}

func random(b []byte) { rand.Read(b) } // never fails: crypto/rand ends the program instead

// peerAdded is the record of a node that joins.
func peerAdded(m membership.Member, g membership.Meta) catalog.ClusterPeerAdd {
	name := g.Name
	if name == "" {
		name = short(m.NodeID)
	}
	return catalog.ClusterPeerAdd{
		NodeID: m.NodeID, ServerID: m.ServerID, Name: name, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		PeerAddr: m.PeerAddr, APIAddr: g.APIAddr,
	}
}
