package transport

import (
	"context"

	"github.com/hashicorp/raft"
)

// Transport is one node's end of all connections with other nodes. All methods
// are safe for concurrent use.
type Transport struct{ cfg Config }

// New makes a Transport. It accepts once Run is called; calls and raft's RPCs
// to others work at once. The caller calls Close, also where Run never ran.
func New(cfg Config) (*Transport, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Limits = cfg.Limits.withDefaults()
	return &Transport{cfg: cfg}, nil
}

// Run accepts connections until ctx ends or Close is called, then closes the
// transport. Its error is nil, or why accepting failed.
func (t *Transport) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Close closes the listener and all connections, and returns once every
// goroutine of the transport has ended. It may be called twice.
func (t *Transport) Close() error { return nil }

// NodeID returns this node's id.
func (t *Transport) NodeID() string { return t.cfg.Identity.NodeID() }

// ServerID returns this node's raft server id.
func (t *Transport) ServerID() raft.ServerID { return ServerID(t.NodeID(), t.cfg.Incarnation) }

// Handle registers the handler of a method; at any time, once a method.
func (t *Transport) Handle(class Class, method string, h Handler) {}

// Call asks a peer and waits for its answer. Errors: *RemoteError from the
// peer; ErrUnreachable where nothing was sent; ErrInterrupted or the context's
// error where the outcome is unknown.
func (t *Transport) Call(ctx context.Context, class Class, to PeerRef, method string, request []byte) ([]byte, Peer, error) {
	return nil, Peer{}, ErrUnreachable
}

// Recheck asks Members about the peer of every connection and closes those
// that are no longer allowed. Call it when the configuration changed.
func (t *Transport) Recheck() {}

// Drop closes all connections with a node.
func (t *Transport) Drop(nodeID string) {}

// AttachRaft starts a raft session: the raft.Transport of one raft instance.
// Only one can be attached; raft closes it when it shuts down, and the
// transport itself goes on, so that raft can be restarted in place.
func (t *Transport) AttachRaft() (*RaftTransport, error) { return nil, ErrClosed }

// RaftTransport is the raft.Transport of one raft instance.
type RaftTransport struct{ raft.Transport }

// Close ends the session.
func (r *RaftTransport) Close() error { return nil }
