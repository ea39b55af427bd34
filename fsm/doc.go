// Package fsm turns commands into entries and folded state: it is the state
// machine that raft replicates, and its snapshots.
//
// A command (a raft log entry) carries events with everything that is not
// deterministic already decided by the leader: time stamp, salts, sealing node,
// principal, verdict. FSM.ApplyBatch answers duplicates, conflicts and stale
// evaluations, seals the rest, folds the entries into the state, and commits
// all of it to the store as one Update. Raft's configurations are sealed as
// entries too, in log order. A snapshot is a manifest: it names a head and what
// was folded up to it, and holds no entries; Catchup fetches those in the
// background, verifies them and stages them, and Restore only promotes what is
// staged.
//
// Nothing that Apply reaches may read a clock or a random source, depend on the
// order of a map, use floating point, or do I/O but the store's: replicas must
// agree byte for byte. The state is a fold over entries alone, so that a node
// which fetched the entries has the same state as one that applied commands.
// An undecodable command or a failing store halts the node through
// Config.Fatal; nothing is ever skipped.
//
// Package node builds it, gives it to raft, and reads its View. The package
// knows nothing of the network, of clients or of files.
package fsm
