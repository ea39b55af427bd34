package membership

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/exonode/exonode/chain"
)

// Methods of the calls that forming and joining nodes make.
const (
	MethodHello      = "hello"
	MethodPromise    = "promise"
	MethodWithdraw   = "withdraw"
	MethodJoinBegin  = "join-begin"
	MethodJoinCommit = "join-commit"
)

// Call sends one request to a peer listener and returns the answer with the
// node id that the connection authenticated. A peer that does not accept the
// cluster secret is an error that wraps ErrWrongSecret. It must honour ctx.
type Call func(ctx context.Context, addr, method string, payload []byte) (reply []byte, peerNodeID string, err error)

// maxMessage bounds a request or reply, in bytes.
const maxMessage = 256 << 10

// State is what a node is to others.
type State string

// The states.
const (
	Forming State = "forming" // no raft state
	InRaft  State = "member"  // has raft state
)

// Hello is how a node introduces itself: request and reply of MethodHello.
type Hello struct {
	Genesis chain.Hash `json:"genesis"`
	Self    Member     `json:"self"`
	Expect  int        `json:"expect"`
	State   State      `json:"state"`
	// Promise is what a forming node holds; nil is none.
	Promise *PromiseRef `json:"promise,omitempty"`
	// Members is a member's latest configuration, and Epoch that of its chain.
	Members []Member `json:"members,omitempty"`
	Epoch   uint64   `json:"epoch,omitempty"`
	// Lineage names the recovery from lost quorum that the node's chain went back to
	// when it started: its epoch, a slash, and the beginning of its entry's hash. "" is
	// none. Two of one epoch are two chains.
	Lineage string `json:"lineage,omitempty"`
	// Peers are addresses of other nodes that it heard of: so one seed is
	// enough for all to find each other.
	Peers []string `json:"peers,omitempty"`
}

// PromiseRef names a promised proposal.
type PromiseRef struct {
	Digest chain.Hash `json:"digest"`
	// Proposer is the proposer's server id.
	Proposer string `json:"proposer"`
}

// PromiseRequest asks for a promise; only the proposer may send it.
type PromiseRequest struct {
	Proposal Proposal `json:"proposal"`
}

// PromiseReply says what the node holds now: the proposal asked for, or an
// earlier one.
type PromiseReply struct {
	Held PromiseRef `json:"held"`
}

// WithdrawRequest releases a node from a promise; only the proposer, in the
// incarnation that proposed, may send it.
type WithdrawRequest struct {
	Genesis  chain.Hash `json:"genesis"`
	Digest   chain.Hash `json:"digest"`
	ServerID string     `json:"server_id"`
}

// WithdrawReply is empty: the node does not hold the promise (any more).
type WithdrawReply struct{}

// JoinRequest asks a member to let a node in: of MethodJoinBegin, which changes
// nothing, and MethodJoinCommit, which has the leader add it.
type JoinRequest struct {
	Genesis chain.Hash `json:"genesis"`
	Self    Member     `json:"self"`
}

// JoinBeginReply tells a joiner whom to pin and what to fetch beforehand.
type JoinBeginReply struct {
	Members []Member   `json:"members"`
	Head    chain.Head `json:"head"`
	// In says that the joiner's server id is in the configuration.
	In bool `json:"in"`
}

// JoinCommitReply is empty: the configuration that has the node is committed.
type JoinCommitReply struct{}

func (h Hello) validate() error {
	if err := h.Self.validate(); err != nil {
		return fmt.Errorf("self.%w", err)
	}
	if h.State != Forming && h.State != InRaft {
		return fmt.Errorf("state: unknown %q", h.State)
	}
	if h.Promise != nil && (h.Promise.Proposer == "" || len(h.Promise.Proposer) > maxID) {
		return errors.New("promise.proposer: no server id")
	}
	if len(h.Peers) > maxPeers {
		return fmt.Errorf("peers: want at most %d, got %d", maxPeers, len(h.Peers))
	}
	for i, p := range h.Peers {
		if p == "" || len(p) > maxAddr {
			return fmt.Errorf("peers[%d]: bad address", i)
		}
	}
	return validateMembers(h.Members)
}

func validateMembers(ms []Member) error {
	if len(ms) > maxMembers {
		return fmt.Errorf("members: want at most %d, got %d", maxMembers, len(ms))
	}
	for i, m := range ms {
		if err := m.validate(); err != nil {
			return fmt.Errorf("members[%d].%w", i, err)
		}
	}
	return nil
}

func (r PromiseRequest) validate() error {
	if err := r.Proposal.validate(); err != nil {
		return fmt.Errorf("proposal.%w", err)
	}
	return nil
}

func (r PromiseReply) validate() error {
	if r.Held.Proposer == "" || len(r.Held.Proposer) > maxID {
		return errors.New("held.proposer: no server id")
	}
	return nil
}

func (r WithdrawRequest) validate() error {
	if r.ServerID == "" || len(r.ServerID) > maxID {
		return errors.New("server_id: missing or too long")
	}
	return nil
}

func (r JoinRequest) validate() error {
	if err := r.Self.validate(); err != nil {
		return fmt.Errorf("self.%w", err)
	}
	return nil
}

func (WithdrawReply) validate() error    { return nil }
func (JoinCommitReply) validate() error  { return nil }
func (r JoinBeginReply) validate() error { return validateMembers(r.Members) }

// message is what the codec carries.
type message interface{ validate() error }

// decode is strict: unknown fields, missing bounds, trailing bytes and repeated
// top-level values are ErrMalformed.
func decode[T message](data []byte) (T, error) {
	var m T
	if len(data) > maxMessage {
		return m, fmt.Errorf("%w: %d bytes, want at most %d", ErrMalformed, len(data), maxMessage)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return m, fmt.Errorf("%w: bytes after the message", ErrMalformed)
	}
	if err := m.validate(); err != nil {
		return m, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return m, nil
}

// envelope is a reply on the wire: a result or a refusal.
type envelope struct {
	OK json.RawMessage `json:"ok,omitempty"`
	// Code is one of codes, where the peer refused.
	Code string `json:"code,omitempty"`
	Text string `json:"text,omitempty"`
}

func (e envelope) validate() error {
	if (e.Code == "") == (len(e.OK) == 0) {
		return errors.New("want a result or a code")
	}
	return nil
}

// codes are the refusals that have a meaning on the other side.
func codes() map[string]error {
	return map[string]error{
		"removed":         ErrRemoved,
		"foreign_cluster": ErrForeignCluster,
		"wrong_secret":    ErrWrongSecret,
		"unavailable":     ErrUnavailable,
		"refused":         ErrRefused,
		"malformed":       ErrMalformed,
		"has_state":       ErrHasState,
	}
}

// encodeReply makes the envelope of a handler's answer. An error without a
// code of its own is told as unavailable: the caller tries again.
func encodeReply(result any, err error) []byte {
	var e envelope
	if err == nil {
		e.OK, err = json.Marshal(result)
	}
	if err != nil {
		e = envelope{Code: "unavailable", Text: err.Error()}
		for code, sentinel := range codes() {
			if errors.Is(err, sentinel) {
				e.Code = code
				break
			}
		}
	}
	out, err := json.Marshal(e)
	if err != nil { // strings and valid JSON always encode
		return []byte(`{"code":"unavailable","text":"reply can't be encoded"}`)
	}
	return out
}

// decodeReply reads an envelope; a refusal becomes an error that wraps its
// sentinel.
func decodeReply[T message](data []byte) (T, error) {
	var zero T
	e, err := decode[envelope](data)
	if err != nil {
		return zero, err
	}
	if e.Code == "" {
		return decode[T](e.OK)
	}
	sentinel, ok := codes()[e.Code]
	if !ok {
		sentinel = ErrRefused
	}
	return zero, fmt.Errorf("%w (peer says: %s)", sentinel, e.Text)
}

// ask makes one typed call.
func ask[Reply message](ctx context.Context, call Call, addr, method string, request message) (Reply, string, error) {
	var zero Reply
	payload, err := json.Marshal(request)
	if err != nil {
		return zero, "", fmt.Errorf("membership: %s: %w", method, err)
	}
	data, peer, err := call(ctx, addr, method, payload)
	if err != nil {
		return zero, "", fmt.Errorf("membership: %s to %s: %w", method, addr, err)
	}
	reply, err := decodeReply[Reply](data)
	if err != nil {
		return zero, peer, fmt.Errorf("membership: %s to %s: %w", method, addr, err)
	}
	return reply, peer, nil
}
