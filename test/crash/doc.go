// Package crash holds tests that cut the power beneath raft's stores and the outbox.
//
// A child process works on real stores, and strace records what it asks of the kernel.
// At any point of that record the directory is made again as it may be on disk after a
// power cut there: what was synced, and of everything since any part. What the child
// was told to be durable must be in it.
package crash
