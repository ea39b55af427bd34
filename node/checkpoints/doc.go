// Package checkpoints makes a cluster's checkpoints (c2sp.org/tlog-checkpoint).
//
// Whoever leads signs the tree that it has applied, with the log's key, and asks the
// voters to cosign it. Each holds it against its own tree, its own clock and its own
// evaluation of every verdict, remembers on disk what it is about to sign, and signs. With
// the signatures of a quorum a checkpoint is final: the leader publishes it to all members.
//
// Nothing here is in the way of a commit. Where a quorum refuses, entries go on being
// committed, none becomes final, and Status says who refuses and why.
package checkpoints
