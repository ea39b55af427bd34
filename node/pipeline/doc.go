// Package pipeline carries events from a node's callers to the chain: it
// queues them, and either commits them in groups (on the leader) or forwards
// them in groups (elsewhere), and it finds out how far the chain must be for a
// linearizable read.
//
// One goroutine decides: it takes what waits, as soon as there is room for one
// more group, without a timer. Events of one caller keep their order unless one
// of them is retried. Whatever ends unknown is retried under the same id until
// the caller's deadline, which the state machine makes harmless: it seals an id
// once.
//
// The node gives it raft (Log), the way to the leader (Peer) and the folded
// state, and tells it of every change of leadership (SetRole). It decides
// nothing about membership and reads nothing from disk.
package pipeline
