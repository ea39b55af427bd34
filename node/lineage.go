package node

import (
	"fmt"
	"slices"
	"strings"
	"time"

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
	if !recovered || !there || h.Lineage == n.lineage {
		return
	}
	// One that is about to follow, or was recovered since and has this node back, is of
	// the same chain.
	_, member := n.members.server(h.Self.NodeID)
	if member || slices.ContainsFunc(h.Members, func(m membership.Member) bool { return m.ServerID == n.self.ServerID }) {
		return
	}
	what := "two chains of epoch " + mine
	if mine != theirs {
		what = fmt.Sprintf("two chains, of epochs %s and %s", mine, theirs)
	}
	text := fmt.Sprintf("two recoveries made %s: node %s at %s goes on from another than this node; stop one of the two, and let its machine join the other with an empty data directory",
		what, h.Self.NodeID, h.Self.PeerAddr)
	if old := n.split.Swap(&split{text, time.Now()}); old == nil || old.text != text {
		n.log.Error(text)
	}
}

// split is another recovered chain that was heard of, and when last.
type split struct {
	text string
	at   time.Time
}

// warning is what an operator must see to, "" where nothing: what was not heard of for
// some rounds is seen to.
func (n *Node) warning() string {
	s := n.split.Load()
	if s == nil || time.Since(s.at) > 4*regossip {
		return ""
	}
	return s.text
}
