// Package node is the composition root: it boots a node in named phases, wires
// ledger, state machine, raft, transport, membership and server together, and
// takes them down in order. It decides nothing that one of them could decide.
//
// # Boot
//
// INIT opens and locks the data directory and finds out who the node is. CONFIG
// checks the configuration against it. SERVICES opens ledger, raft's stores and
// state machine, and refuses where they disagree. NETWORK listens, finds the
// others, forms the cluster or joins it, and starts raft. READY is reached once
// the node has applied what the cluster had committed when it arrived. Each
// phase is witnessed in the chain, through the synced outbox.
//
// Package cmd/exonode builds the Config; nothing else runs a Node.
package node
