package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/transport"
)

// standingEvery is how often a node looks whether it still belongs to the
// cluster, and standingCall how long a member may take to tell.
const (
	standingEvery = time.Second
	standingCall  = 2 * time.Second
)

// runStanding ends the node once the cluster has removed it: it would serve an
// ever older chain, and wait for a leader for ever. Its error wraps
// membership.ErrRemoved. A node that leaves stops by itself.
func (n *Node) runStanding(ctx context.Context) error {
	tick := time.NewTicker(standingEvery)
	defer tick.Stop()
	for {
		if !n.cfg.Ground.Without.Standing && n.expelled(ctx) && n.leaving.Load() == 0 {
			return fmt.Errorf("%w: it can't come back as %s: to use this machine again, start over with an empty data directory", membership.ErrRemoved, n.identity.NodeID())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// expelled reports whether this node was removed: its own chain has the sealed
// removal, and the configuration that followed from it; or, where it missed
// either, a member that it knows refuses it for that.
func (n *Node) expelled(ctx context.Context) bool {
	self := n.identity.NodeID()
	_, member := n.members.server(self)
	if !member && n.members.removed(self) {
		return true
	}
	if n.members.Leader() != "" {
		return false
	}
	for _, id := range n.members.others() {
		addr, ok := n.members.resolve(id)
		if !ok {
			continue
		}
		// By name: whoever else answers at that address has no say.
		call, cancel := context.WithTimeout(ctx, standingCall)
		_, err := n.handler.Greet(call, func(ctx context.Context, addr, method string, payload []byte) ([]byte, string, error) {
			reply, _, err := n.trans.Call(ctx, transport.ClassJoin, transport.PeerRef{NodeID: id, Addr: addr}, method, payload)
			return reply, id, err
		}, addr)
		cancel()
		if errors.Is(err, transport.ErrRemoved) {
			return true
		}
	}
	return false
}
