package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/node/raftstore"
)

// guardInstall sees every InstallSnapshot before raft does; it is
// transport.InstallGuard. Raft gets only what can be promoted at once: its main
// goroutine waits for Restore (raft.go:1947).
//
//   - What is applied already, or stands in the log with the same term, is
//     answered here: raft would drop the log entries behind it, which may be
//     acknowledged (raft.go:1965). Raft's paper keeps them, too (figure 13).
//   - What is not fetched yet is fetched in the background. The leader waits for
//     as long as it can, and is told to try again then.
func (n *Node) guardInstall(ctx context.Context, req *raft.InstallSnapshotRequest, data io.Reader) (bool, io.Reader, *raft.InstallSnapshotResponse, error) {
	if req.Size > raftstore.MaxManifestSize {
		return false, nil, nil, fmt.Errorf("manifest of %d bytes, limit %d", req.Size, raftstore.MaxManifestSize)
	}
	current := n.host.get()
	if current == nil {
		return false, nil, nil, errNoRaft
	}
	b, err := io.ReadAll(io.LimitReader(data, req.Size))
	if err != nil {
		return false, nil, nil, err
	}
	decision, err := n.fsm.AdmitWithin(ctx, fsm.Install{
		LastLogIndex: req.LastLogIndex, LastLogTerm: req.LastLogTerm, Manifest: b,
		Holds: n.host.holds,
	})
	switch {
	case err != nil:
		return false, nil, nil, err
	case decision == fsm.ReadyToInstall:
		return false, bytes.NewReader(b), nil, nil
	}
	term := current.CurrentTerm()
	return true, nil, &raft.InstallSnapshotResponse{Term: term, Success: req.Term >= term}, nil
}

// errNoRaft answers for raft before it runs: raft's session of the transport
// begins a moment before.
var errNoRaft = errors.New("raft does not run yet")

// installed is told of an install while raft's main goroutine waits for it, so
// raft's last index is still that of before. Where the log went up to the
// manifest or beyond, its end is no leader's (the guard saw to that): raft would
// hold on to it in memory after the log was cut, and refuse every append. It is
// restarted, over an empty log. Where the log's store was not emptied (that of
// boltdb is not), a leader may have replaced the end before raft is restarted;
// then the log fits, and stays.
func (n *Node) installed(index uint64) {
	last := n.host.get().LastIndex()
	n.log.Info("snapshot installed", "raft_index", index, "entries", n.head().Size, "last_index", last)
	if last >= index {
		n.restartRaft("the end of its log is not what the installed snapshot goes on from")
	}
}

// restartRaft asks for a restart of raft in place.
func (n *Node) restartRaft(why string) {
	select {
	case n.restarts <- why:
	default: // it is about to be
	}
}

// runRestarts restarts raft where it is asked for.
func (n *Node) runRestarts(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case why := <-n.restarts:
			n.log.Warn("restarting raft in place", "why", why)
		}
		if err := n.host.restart(); err != nil {
			return err
		}
	}
}
