package transport

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// Class is what a connection is for: the TLS application protocol (ALPN) that
// its dialer offers.
type Class string

// The classes.
const (
	// ClassRaft carries raft's RPCs, between members.
	ClassRaft Class = "exonode-raft/1"
	// ClassCall carries calls between members, such as forwarded requests.
	ClassCall Class = "exonode-call/1"
	// ClassFetch carries range reads of the chain, on its own connection so
	// that large answers delay no calls. The dialer proves the secret.
	ClassFetch Class = "exonode-fetch/1"
	// ClassJoin carries formation and join. The dialer proves the secret,
	// and may not know whom it calls.
	ClassJoin Class = "exonode-join/1"
)

// proven reports whether connections of class c exchange join proofs.
func (c Class) proven() bool { return c == ClassFetch || c == ClassJoin }

func (c Class) valid() bool {
	return c == ClassRaft || c == ClassCall || c == ClassFetch || c == ClassJoin
}

// Members says who belongs to the cluster, as this node knows it. It is asked
// when a connection is made and again for every RPC and call, so its methods
// must be quick, must not block on raft, and are called concurrently.
//
// A node that was away may be led by a server that its own configuration does
// not name yet, and refuses it. Whoever implements Members learns of such
// servers from a member that it does know; Config.Refused says when to ask.
type Members interface {
	// Member returns the server id of a member: of raft's latest (not the
	// last committed) configuration, or pinned by a join answer or a
	// formation promise.
	Member(nodeID string) (raft.ServerID, bool)
	// Leader returns the node id of the leader that raft follows now; ""
	// is none.
	Leader() string
	// Voter reports whether a node is a voter of that configuration.
	Voter(nodeID string) bool
	// Removed reports whether a node was a member and is not to come back.
	Removed(nodeID string) bool
}

// InstallGuard sees every InstallSnapshot before raft does. Data yields the
// snapshot's bytes (as many as req.Size). Where handled, resp is the answer and
// raft never sees the request; otherwise raft gets replay, which must yield
// all the bytes again. An error is answered to the leader, which tries again.
// Once it has read data the guard may take its time: ctx ends with the session,
// or when what is left until the leader gives up is what raft needs.
type InstallGuard func(ctx context.Context, req *raft.InstallSnapshotRequest, data io.Reader) (handled bool, replay io.Reader, resp *raft.InstallSnapshotResponse, err error)

// Config is what a Transport is made of. Identity, Listener, Members, Resolve,
// Secret and Logger are required.
type Config struct {
	Identity *Identity
	// Incarnation is this node's, as CreateIncarnation returned it. Members
	// that know another one refuse the node.
	Incarnation string
	// Listener is what to accept on; Close closes it.
	Listener net.Listener
	// Members says who may do what.
	Members Members
	// Resolve returns the host:port of a node; false where unknown. It is
	// called on every dial and must not block for long.
	Resolve func(nodeID string) (addr string, ok bool)
	// Secret and Genesis (the hash of the genesis document) are what join
	// and fetch connections prove.
	Secret  Secret
	Genesis [32]byte
	// InstallGuard may be nil.
	InstallGuard InstallGuard
	// Refused, where not nil, is told of every connection that was refused
	// after its peer's key was proven: a stranger's or an unknown member's.
	// It must not block.
	Refused func(nodeID string, class Class, reason error)
	Logger  *slog.Logger
	Limits  Limits

	// Dial and Conn are the fault seam. Dial opens a connection to a
	// host:port; nil is TCP. Conn, where not nil, wraps each connection
	// once both ends are known and before anything but the TLS handshake
	// has passed: writes go from local to remote, reads come from remote.
	// A cut link is one whose wrapper withholds both.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	Conn func(class Class, local, remote string, c net.Conn) net.Conn
}

// Limits bound time and memory. A zero field has the default that its comment
// gives.
type Limits struct {
	// Dial bounds opening a connection, before TLS: 3 s.
	Dial time.Duration
	// Handshake bounds TLS, hello and welcome together: 5 s.
	Handshake time.Duration
	// RPC bounds an AppendEntries with entries, from its sending to its
	// answer, and any one write of up to 64 KiB: 10 s. InstallSnapshot has
	// one RPC for each 256 KiB.
	RPC time.Duration
	// Beat bounds heartbeats, votes and TimeoutNow: 2 s.
	Beat time.Duration
	// Ping is how long a connection with open calls, or with one that was
	// given up without an answer, may be silent before it is pinged; after
	// three of it the peer counts as gone: 2 s.
	Ping time.Duration
	// Call bounds a call whose context has no deadline: 30 s.
	Call time.Duration
	// Idle closes a connection on which nothing happens: 2 min.
	Idle time.Duration
	// Backoff is the longest wait between attempts to reach a peer: 500 ms.
	Backoff time.Duration

	// Pending is how many connections may be in their handshake: 128.
	Pending int
	// PerPeer is how many connections one peer may have open to this node:
	// 32.
	PerPeer int
	// Handlers is how many calls of one connection may be in hand, and
	// HandlerBytes how many bytes of requests: 4,096 and 64 MiB.
	Handlers     int
	HandlerBytes int
	// CallFrame is the most bytes of a call's request or answer: 8 MiB.
	CallFrame int
	// RaftFrame is the most bytes of a raft RPC without a snapshot's data:
	// 64 MiB.
	RaftFrame int
}

func (l Limits) withDefaults() Limits {
	duration := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	count := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	duration(&l.Dial, 3*time.Second)
	duration(&l.Handshake, 5*time.Second)
	duration(&l.RPC, 10*time.Second)
	duration(&l.Beat, 2*time.Second)
	duration(&l.Ping, 2*time.Second)
	duration(&l.Call, 30*time.Second)
	duration(&l.Idle, 2*time.Minute)
	duration(&l.Backoff, 500*time.Millisecond)
	count(&l.Pending, 128)
	count(&l.PerPeer, 32)
	count(&l.Handlers, 4096)
	count(&l.HandlerBytes, 64<<20)
	count(&l.CallFrame, 8<<20)
	count(&l.RaftFrame, 64<<20)
	return l
}

func (c *Config) validate() error {
	switch {
	case c.Identity == nil:
		return errors.New("transport: config: no identity")
	case !validIncarnation(c.Incarnation):
		return fmt.Errorf("transport: config: %q is not an incarnation", c.Incarnation)
	case c.Listener == nil:
		return errors.New("transport: config: no listener")
	case c.Members == nil:
		return errors.New("transport: config: no members")
	case c.Resolve == nil:
		return errors.New("transport: config: no resolver")
	case c.Secret.IsZero():
		return errors.New("transport: config: no secret")
	case c.Logger == nil:
		return errors.New("transport: config: no logger")
	}
	return nil
}

// Peer is who is at the other end, as the connection proved it.
type Peer struct {
	NodeID string
	// ServerID is the member's; "" on fetch and join connections.
	ServerID raft.ServerID
	// PublicKey is the TLS key that NodeID is the hash of.
	PublicKey ed25519.PublicKey
	Class     Class
	// Addr is the connection's remote address, "host:port".
	Addr string
}

// PeerRef names a peer to call.
type PeerRef struct {
	// NodeID is the peer that must answer; "" (whoever it is) only in
	// ClassJoin.
	NodeID string
	// Addr is its host:port; "" asks Config.Resolve.
	Addr string
}

// Handler answers a call. The request is the handler's to keep. An error that
// is a *RemoteError reaches the caller as it is, any other with CodeInternal.
// The context ends with the caller's deadline, its cancellation, or the
// connection; a handler that outlives it delays Close.
type Handler func(ctx context.Context, from Peer, request []byte) ([]byte, error)
