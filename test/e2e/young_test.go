package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// TestYoungClusterDies kills all nodes of a cluster that has hardly begun, whose
// ledgers no snapshot has synced. They find each other and what they acknowledged.
func TestYoungClusterDies(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{})
	for round := range 3 {
		ack, err := c.client.Append(c.ctx, testEvent("young", round))
		must(t, err)
		for _, name := range c.running() {
			c.kill(name)
		}
		must(t, c.StartAll(c.ctx))
		c.holds(ack)
	}
}

// TestAllAddressesChange starts all nodes of a stopped cluster elsewhere. Their seeds
// say where the others are; what they had on record is of no use.
func TestAllAddressesChange(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{})
	ack, err := c.client.Append(c.ctx, testEvent("before the move", 0))
	must(t, err)
	c.move()
	must(t, c.StartAll(c.ctx))
	c.holds(ack)
	ack, err = c.client.Append(c.ctx, testEvent("after the move", 0))
	must(t, err)
	c.holds(ack)
}

// move stops the cluster and gives every node other ports.
func (c *cluster) move() {
	t := c.t
	t.Helper()
	must(t, c.Close())
	nodes := slices.Clone(c.Nodes())
	for i := range nodes {
		nodes[i].Peer, nodes[i].Gossip, nodes[i].API = freeAddr(t), freeAddr(t), freeAddr(t)
	}
	b, err := json.Marshal(nodes)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(c.Dir(), "lab.json"), b, 0o600))
	c.Lab, err = lab.New(c.ctx, lab.Config{Binary: exonode, Dir: c.Dir()})
	must(t, err)
	c.client = c.newClient(0)
}

// holds looks an acknowledged event up on every node.
func (c *cluster) holds(ack client.Ack) {
	c.t.Helper()
	for _, name := range c.running() {
		found, err := c.on(name).At(client.Linearizable).Lookup(c.ctx, ack.Key)
		must(c.t, err)
		if found.Entry == nil || found.Entry.Sequence != ack.Sequence {
			c.t.Errorf("%s does not know entry %d: %+v", name, ack.Sequence, found)
		}
	}
}
