// Package raftstore gives hashicorp/raft its three stores: the log, the stable
// store for term and vote, and snapshots, which are manifests.
//
// It wraps raft-wal or raft-boltdb for what they leave open:
//
//   - Vote keeps term and vote in one record, so that no crash leaves the term
//     of one vote beside the candidate of another.
//   - Guard gives every write a deadline. After one timeout or error it refuses
//     everything and reports the failure once: a write that still lands later
//     would make log and memory disagree, and a node whose store fails would
//     otherwise go on winning elections.
//   - Manifests keeps a received snapshot out of List until the state machine
//     has made it its own.
//
// The node package opens it at boot and closes it after raft has stopped.
// Nothing else uses it.
package raftstore
