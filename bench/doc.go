// Package bench measures a cluster: it runs node processes on this machine (or
// takes a cluster that runs), submits events through the Go client and through
// foreign ones, and prints rates and latencies beside what the processes used
// and beside the machine's own limits.
//
// Every acknowledged event is checked afterwards: it is counted, sampled events
// are read back, the nodes' heads are compared and one chain is verified. A
// benchmark that lost an event fails.
//
// `exonode bench` calls it. It imports client and chaos/lab, and knows nodes
// only as processes with an API; package limits, which measures the machine,
// knows nothing of Exonode.
package bench
