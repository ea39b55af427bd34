// Package sim runs whole clusters of five nodes, each in one testing/synctest bubble:
// the node as the program runs it (package node with its pipeline, raft, state machine,
// ledger, transport with TLS, gossip, outbox and membership), under seeded faults and
// a workload of many clients, and judges what is left.
//
// What is not the program's is the ground that it stands on, which node.Ground
// replaces: the network is transporttest's, with links that are cut, slowed and reset;
// the disk is Pebble's file system that loses what was not synced, with a model of
// raft's log and vote beside it; and the clock is the bubble's. The HTTP server runs,
// and nobody calls it: clients call the node. docs/decisions/0005-simulation.md says
// what stands in for what, and what that hides.
//
// A crash is the copy of a disk at one moment, at which the node's network ends: what
// goes on running is of the old disk, and nobody hears of it.
package sim
