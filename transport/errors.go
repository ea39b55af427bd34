package transport

import (
	"context"
	"errors"
	"fmt"
)

// What a caller does about an error of Call, and of raft's RPCs:
var (
	// ErrUnreachable: no connection to the peer could be made, so nothing
	// was sent. Try another peer, or again. It wraps the reason, which may
	// be one of the errors below.
	ErrUnreachable = errors.New("peer unreachable, nothing was sent")
	// ErrInterrupted: the connection broke after the request was queued.
	// The peer may have carried it out: retry only with the same id.
	ErrInterrupted = errors.New("connection lost, outcome unknown")
	// ErrClosed: this transport, or this raft session of it, is closed.
	ErrClosed = errors.New("transport closed")
	// ErrTooLarge: the message is over its frame limit. Send less.
	ErrTooLarge = errors.New("message over the frame limit")
)

// Why a connection did not come to be. All but ErrNotReady, ErrBusy and
// ErrBackoff last until somebody changes something.
var (
	// ErrWrongSecret: the peer is of this cluster by its genesis hash, and
	// has another secret. Check the cluster file of the newer node.
	ErrWrongSecret = errors.New("wrong cluster secret")
	// ErrForeignCluster: the peer is of another cluster. Check the address.
	ErrForeignCluster = errors.New("peer is of another cluster")
	// ErrNotMember: the acceptor does not know the dialer as a member, or
	// the dialer the acceptor. Join first.
	ErrNotMember = errors.New("not a member of the cluster")
	// ErrRemoved: the dialer was removed from the cluster, as its peer says.
	// Its identity does not come back.
	ErrRemoved = errors.New("removed from the cluster")
	// ErrWrongIdentity: another node's key answers at that address. Look
	// the address up again.
	ErrWrongIdentity = errors.New("another node answers at that address")
	// ErrSelf: the address is this node's own. Leave it out.
	ErrSelf = errors.New("the address is this node's own")
	// ErrWrongServer: the node is the right one and its incarnation
	// another (it, or this node's idea of it, is from before its data was
	// wiped). It has to join anew.
	ErrWrongServer = errors.New("the node came back with other data")
	// ErrNotReady: the peer does not run raft (yet). Try again.
	ErrNotReady = errors.New("peer not ready")
	// ErrBusy: the peer has too many connections of this node. Try again.
	ErrBusy = errors.New("too many connections")
	// ErrBackoff: the last attempt failed just now, and a new one waits. It
	// comes with that attempt's error.
	ErrBackoff = errors.New("waiting before the next attempt")
	// ErrProtocol: the peer said what it may not say.
	ErrProtocol = errors.New("protocol violation")
)

// RemoteError is an error that the peer's handler answered with: it reached
// the handler, or was refused for a reason that Code gives.
type RemoteError struct {
	// Code is stable: programs match on it. Handlers choose their own
	// besides the Code constants.
	Code    string
	Message string
}

// Error implements error.
func (e *RemoteError) Error() string { return fmt.Sprintf("%s: %s", e.Code, e.Message) }

// Is implements errors.Is: a caller's deadline that passed there has passed here, or is
// about to. Which of the two ends a call is chance.
func (e *RemoteError) Is(target error) bool {
	return e.Code == CodeDeadline && target == context.DeadlineExceeded
}

// The codes that the transport itself answers with.
const (
	CodeInternal      = "internal"       // the handler failed with a plain error
	CodeCanceled      = "canceled"       // the handler gave up as its caller had
	CodeDeadline      = "deadline"       // the caller's deadline passed there
	CodeUnknownMethod = "unknown_method" // no handler (yet, or in that version)
	CodeBusy          = "busy"           // too much of this peer's is in hand; back off
	CodeRefused       = "refused"        // not, or no longer, allowed
	CodeTooLarge      = "too_large"      // the answer is over the frame limit
	CodeRaft          = "raft"           // raft answered an RPC with an error
)

// status is a welcome's verdict on a hello.
type status byte

// The statuses, as they are on the wire.
const (
	statusOK          status = 0
	statusForeign     status = 1
	statusWrongSecret status = 2
	statusNotMember   status = 3
	statusRemoved     status = 4
	statusWrongServer status = 5
	statusNotReady    status = 6
	statusBusy        status = 7
	statusBadHello    status = 8
)

// statusErrors maps statuses to errors and back; the order of the statuses.
var statusErrors = [...]error{
	nil, ErrForeignCluster, ErrWrongSecret, ErrNotMember, ErrRemoved,
	ErrWrongServer, ErrNotReady, ErrBusy, ErrProtocol,
}

func (s status) err() error {
	if int(s) >= len(statusErrors) {
		return fmt.Errorf("%w: status %d", ErrProtocol, s)
	}
	return statusErrors[s]
}

func statusOf(err error) status {
	for s, target := range statusErrors {
		if target != nil && errors.Is(err, target) {
			return status(s)
		}
	}
	return statusBadHello
}
