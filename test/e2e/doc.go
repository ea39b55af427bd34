// Package e2e tests clusters of real node processes on loopback: they are
// killed, stopped, paused, restarted and fed with nonsense, and every event that
// was acknowledged is in the chain exactly once afterwards, on every node.
//
// The short tests run with `go test ./test/e2e`; the long ones, with a million
// entries, where EXONODE_LONG is 1.
package e2e
