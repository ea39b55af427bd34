package node

import (
	"fmt"
	"strings"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/membership"
)

// recoveredBy is this node's membership.Hello.Lineage.
func (n *Node) recoveredBy() (string, error) {
	view := n.fsm.View()
	key, ok := view.RecoveryKey()
	if !ok {
		return "", nil
	}
	slot, ok, err := n.ledger.Find(key)
	if err != nil || !ok {
		return "", err
	}
	r, err := n.ledger.Record(slot.Sequence)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d/%.16s", view.Epoch(), chain.HeaderHash(r.Header)), nil
}

// checkLineage looks whether another node goes back to another recovery of the same epoch:
// two survivors of lost quorum were both recovered, each by itself. Both go on, since
// neither can know which of the two people meant; but they say so.
func (n *Node) checkLineage(h *membership.Hello) {
	mine, _, recovered := strings.Cut(n.lineage, "/")
	theirs, _, there := strings.Cut(h.Lineage, "/")
	if !recovered || !there || mine != theirs || h.Lineage == n.lineage {
		return
	}
	text := fmt.Sprintf("two recoveries made two chains of epoch %s: node %s at %s goes on from another than this node; stop one of the two, and let its machine join the other with an empty data directory",
		mine, h.Self.NodeID, h.Self.PeerAddr)
	if n.split.Swap(text) != text {
		n.log.Error(text)
	}
}
