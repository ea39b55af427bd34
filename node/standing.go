package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
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

// ErrOlderEpoch: the cluster was recovered from lost quorum without this node. Its raft
// state is of no use any more: empty its data directory, and let it join as a new node.
var ErrOlderEpoch = errors.New("the cluster was recovered, and this node was given up")

// runStanding ends the node once the cluster has removed it, or was recovered without
// it: it would serve an ever older chain, and wait for a leader for ever. Its error
// wraps membership.ErrRemoved or ErrOlderEpoch. A node that leaves stops by itself.
func (n *Node) runStanding(ctx context.Context) error {
	tick := time.NewTicker(standingEvery)
	defer tick.Stop()
	for {
		if err := n.expelled(ctx); err != nil && n.leaving.Load() == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// expelled is why this node does not belong to the cluster any more, nil where it may:
// its own chain has the sealed removal, and the configuration that followed from it; or,
// where it missed either, a member that it knows refuses it for that, or is of a later
// epoch without it. A node that has a leader asks nobody.
func (n *Node) expelled(ctx context.Context) error {
	self := n.identity.NodeID()
	_, member := n.members.server(self)
	removed := fmt.Errorf("%w: it can't come back as %s: to use this machine again, start over with an empty data directory", membership.ErrRemoved, self)
	if !member && n.members.removed(self) {
		return removed
	}
	if n.members.Leader() != "" {
		return nil
	}
	for _, id := range n.members.others() {
		addr, ok := n.members.resolve(id)
		if !ok {
			continue
		}
		// By name: whoever else answers at that address has no say.
		call, cancel := context.WithTimeout(ctx, standingCall)
		hello, err := n.handler.Greet(call, func(ctx context.Context, addr, method string, payload []byte) ([]byte, string, error) {
			reply, _, err := n.trans.Call(ctx, transport.ClassJoin, transport.PeerRef{NodeID: id, Addr: addr}, method, payload)
			return reply, id, err
		}, addr)
		cancel()
		if errors.Is(err, transport.ErrRemoved) {
			return removed
		}
		if err == nil && n.outlived(&hello) {
			return fmt.Errorf("%w: its chain is of epoch %d, that of %s of epoch %d: to use this machine again, start over with an empty data directory",
				ErrOlderEpoch, n.epoch(), id, hello.Epoch)
		}
	}
	return nil
}

// outlived reports whether a member is of a later epoch, without this node. One that is
// about to be brought there has nothing yet, or is in its configuration.
func (n *Node) outlived(hello *membership.Hello) bool {
	return hello.State == membership.InRaft && hello.Epoch > n.epoch() && n.head().Size > 0 &&
		!slices.ContainsFunc(hello.Members, func(m membership.Member) bool { return m.ServerID == n.self.ServerID })
}
