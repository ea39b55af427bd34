// Package transport carries everything that the nodes of one cluster say to
// each other over TCP: raft's RPCs, calls (forwarded requests), range fetches,
// and the calls of formation and join. One listener serves all four; the TLS
// application protocol says which class a connection is of.
//
// Who is at the other end is settled before a byte of payload is read. Every
// node has its own Ed25519 key, and its node id is a hash of that key, so the
// TLS 1.3 handshake (both ways, self-signed) proves the id. What the id may do
// is asked of Members, which package node implements over raft's latest
// configuration: raft RPCs and calls are for members alone; fetch and join
// connections prove knowledge of the cluster's secret instead, bound to that
// one TLS session. A dialer states the id that it expects; only a join may
// find out whom it reached.
//
// After the handshake a connection of any class exchanges two frames, and is
// then used one way: the dialer asks, the acceptor answers.
//
//	dialer                                    acceptor
//	  hello {version, own server id,
//	         target server id, tag, proof}  →
//	                                        ←  welcome {version, status, proof}
//
// Tag and proof are empty on raft and call connections. Frames of all kinds
// are a big-endian uint32 length and that many bytes; the length does not
// count itself.
//
// The package decides nothing about membership, holds no state but its
// connections, and knows neither entries nor commands: payloads of calls are
// opaque to it. Package node constructs it and is its only caller.
package transport
