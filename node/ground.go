package node

import (
	"context"
	"net"

	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/outbox"
)

// Ground is what a node stands on where that is not the operating system: the seams
// for a simulation of a whole cluster in one process, test/sim. A field that is nil is
// the operating system's. The data directory keeps only what is written once: its
// format, identity, incarnation and log key.
type Ground struct {
	// Listen opens the listener for peers, and that for the API; the addresses
	// of what it returns are *net.TCPAddr.
	Listen func(addr string) (net.Listener, error)
	// Dial opens a connection to where a peer listens.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Gossip changes how gossip is configured, its transport above all.
	Gossip func(*membership.GossipConfig)
	// Stores are beneath raft.
	Stores *raftstore.Model
	// Ledger changes the options of the ledger, its file system above all.
	Ledger func(*ledger.Options)
	// Outbox and Promises are the files of those.
	Outbox   outbox.FS
	Promises membership.FS
	// Signing has the keys that sign checkpoints, and what was signed.
	Signing membership.FS
	// Die ends the node at a point where a fault has it crash. What calls it
	// goes on once it returns, and must not matter to anybody any more.
	Die func()
	// Without leaves guards out.
	Without Without
}

// Without are guards of ours that are left out, so that a simulation shows what each is
// for. The zero value leaves none out.
type Without struct {
	// PreVote: a candidate does not ask first whether anybody would vote for it.
	PreVote bool
	// TransferMend: a raft that refuses everything for the sake of a transfer of
	// leadership that never ends is left as it is.
	TransferMend bool
	// SnapshotMend: a manifest that can't be read is not made anew.
	SnapshotMend bool
	// InstallRestart: raft is not restarted after an install over a log with
	// another end.
	InstallRestart bool
	// Standing: a node that was removed does not end itself.
	Standing bool
}

// listen opens a listener; what names it in errors.
func (g *Ground) listen(what, addr string) (net.Listener, error) {
	if g.Listen != nil {
		return g.Listen(addr)
	}
	return listen(what, addr)
}

// outboxOptions are those of the outbox.
func (g *Ground) outboxOptions() outbox.Options {
	if g.Outbox == nil {
		return outbox.Options{}
	}
	return outbox.Options{Wrap: func(outbox.FS) outbox.FS { return g.Outbox }}
}
