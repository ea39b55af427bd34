// Package client is the Go SDK of Exonode: it submits events to a cluster,
// reads and watches its chain, and checks what it is told.
//
// A [Client] takes the addresses of several nodes; any of them takes any
// request. Concurrent calls of [Client.Append] share one pipelined stream, are
// packed into messages without a timer, and are acknowledged in order. An
// event is given an id before its first attempt and every further attempt
// carries the same id, so that failing over to another node never doubles it:
// a resend of what had already been committed is answered as a duplicate,
// which is success.
//
//	c, err := client.New(client.Config{
//		Addresses: []string{"10.0.0.1:7482", "10.0.0.2:7482", "10.0.0.3:7482"},
//		Workspace: "payments",
//		Source:    "urn:service:refunds",
//	})
//	...
//	ack, err := c.Append(ctx, chain.Event{Kind: "agent.spawn", Payload: data})
//
// An error is an [*IncompleteError] where the caller's time ran out before an
// event's fate was known, an [*UnreachableError] where no address answered a
// read, and an [*api.Error] where the cluster decided (an invalid event, a
// conflict, a denial: trying again is no use). What reads answer is hashed again here: bytes that do not
// match the hash told are a [*VerifyError], and heads that contradict each
// other are an [*InconsistentError]; neither is ever retried.
//
// [Client.Durable] adds a queue on disk in front of a client: an event is
// accepted once it is synced locally, and delivered when the cluster can be
// reached. [Client.Pump] submits many events of a file or an iterator.
//
// The package keeps no state of its own beyond what its caller gives it a
// path for, starts no goroutine before the first Append, and joins all of them
// in Close.
package client
