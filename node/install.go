package node

import (
	"bytes"
	"context"
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
	b, err := io.ReadAll(io.LimitReader(data, req.Size))
	if err != nil {
		return false, nil, nil, err
	}
	decision, err := n.fsm.AdmitWithin(ctx, fsm.Install{
		LastLogIndex: req.LastLogIndex, LastLogTerm: req.LastLogTerm, Manifest: b,
		Holds: func(index, term uint64) bool {
			var entry raft.Log
			return n.stores.Log.GetLog(index, &entry) == nil && entry.Term == term
		},
	})
	switch {
	case err != nil:
		return false, nil, nil, err
	case decision == fsm.ReadyToInstall:
		return false, bytes.NewReader(b), nil, nil
	}
	term := n.host.get().CurrentTerm()
	return true, nil, &raft.InstallSnapshotResponse{Term: term, Success: req.Term >= term}, nil
}

// installed is told of an install while raft's main goroutine waits for it, so
// raft's last index is still that of before. Where the log went on beyond the
// manifest, its end is no leader's: raft would hold on to it in memory after the
// log was cut, and refuse every append. It is restarted over an empty log.
// Nothing is appended until then, as nothing fits the log's end.
func (n *Node) installed(index uint64) {
	last := n.host.get().LastIndex()
	n.log.Info("snapshot installed", "raft_index", index, "entries", n.head().Size, "last_index", last)
	if last <= index {
		return
	}
	select {
	case n.reinstall <- struct{}{}:
	default:
	}
}

// runInstalls restarts raft after installs that need it.
func (n *Node) runInstalls(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.reinstall:
		}
		n.log.Info("restarting raft: its log went on beyond the snapshot that was installed")
		if err := n.host.restart(true); err != nil {
			return err
		}
	}
}
