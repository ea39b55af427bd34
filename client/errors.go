package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// ErrClosed is why a call ended that was under way when its Client or Durable
// was closed, or began later.
var ErrClosed = errors.New("client: closed")

// ErrAddress is wrapped where an address of a Config can't be one.
var ErrAddress = errors.New("bad address")

// errRetryFor is why a call without a deadline was given up.
var errRetryFor = errors.New("no answer for as long as calls are retried")

// errStalled is why a stream was left: its node held events without an answer.
var errStalled = errors.New("it left events unanswered")

// errSpeaksTLS is why a connection in clear text is no use.
var errSpeaksTLS = errors.New("it speaks TLS: give an https:// address, and its authority's certificate")

// IncompleteError reports an event whose fate the client does not know, since
// the caller's context ended, or the time to retry, before an answer came.
// Appending the same event with the same ID again is always safe; without it,
// where Sent, Client.Lookup tells what became of it.
type IncompleteError struct {
	// Key is the event's identity, with the ID that it was sent with.
	Key chain.Key
	// Sent is whether a node may have taken the event: where false it is
	// certainly not in the chain by this call.
	Sent bool
	// Last is what went wrong last: an *api.Error, an *UnreachableError, or
	// nil where the nodes were only slow.
	Last error
	// Cause is the context's error, ErrClosed, or that the time to retry
	// was over.
	Cause error
}

// Error implements error.
func (e *IncompleteError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "event %q of source %q was not acknowledged: %v", e.Key.ID, e.Key.Source, e.Cause)
	if e.Last != nil {
		fmt.Fprintf(&b, "; last failure: %s", e.last())
	}
	if e.Sent {
		b.WriteString("; it may be in the chain: submit it again with the same id, or look it up")
	} else {
		b.WriteString("; it was not written: submit it again")
	}
	return b.String()
}

// last is Last's text. A node's refusal says of its own attempt what became of the event,
// which is not what became of the attempts before it: its code is enough.
func (e *IncompleteError) last() string {
	if code := api.CodeOf(e.Last); code != "" {
		return string(code)
	}
	return e.Last.Error()
}

// Unwrap returns Cause and Last.
func (e *IncompleteError) Unwrap() []error {
	if e.Last == nil {
		return []error{e.Cause}
	}
	return []error{e.Cause, e.Last}
}

// UnreachableError reports that none of the addresses answered. The caller
// tries again later or corrects the addresses.
type UnreachableError struct {
	// Tried has the addresses in the order of their last attempts.
	Tried []Attempt
	// Cause is what ended the attempts: a context's error, or nil.
	Cause error
}

// Attempt is one address and why it did not serve.
type Attempt struct {
	Address string
	Err     error
}

// Error implements error.
func (e *UnreachableError) Error() string {
	var b strings.Builder
	b.WriteString("no address answered: tried ")
	for i, t := range e.Tried {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (%s)", t.Address, brief(t.Err))
	}
	b.WriteString("; is the cluster running? start one with `exonode dev`, or correct the addresses")
	for _, t := range e.Tried {
		if misunderstood(t.Err) {
			b.WriteString("; check TLS too: https:// and the authority's certificate where the nodes use it")
			break
		}
	}
	return b.String()
}

// misunderstood reports that somebody is there who speaks another protocol, or
// whom the client does not trust.
func misunderstood(err error) bool {
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &op) && op.Op == "dial", api.CodeOf(err) != "", errors.Is(err, errStalled), errors.Is(err, errSpeaksTLS):
		return false
	case errors.As(err, &timeout) && timeout.Timeout():
		return false
	}
	return true
}

// Unwrap returns the cause and the attempts' errors.
func (e *UnreachableError) Unwrap() []error {
	var errs []error
	if e.Cause != nil {
		errs = append(errs, e.Cause)
	}
	for _, t := range e.Tried {
		errs = append(errs, t.Err)
	}
	return errs
}

// VerifyError reports an answer that contradicts itself: bytes that do not hash
// to the hash told, an envelope that its header does not commit to, an entry
// that is not what was asked for or what was submitted, a gap in a watch. The
// node that told it is broken or lies; the caller asks another one, and
// verifies the chain (`exonode verify`).
type VerifyError struct {
	// Address is the node that told it.
	Address string
	// Sequence is the entry that it is about.
	Sequence uint64
	// Problem says what does not match.
	Problem string
}

// Error implements error.
func (e *VerifyError) Error() string {
	return fmt.Sprintf("entry %d as told by %s does not verify: %s; check that node with `exonode verify`", e.Sequence, e.Address, e.Problem)
}

// InconsistentError reports two heads of one chain that can't both be true: the
// chain was rewritten, cut or forked between them, or is another chain. The
// caller keeps both as evidence. Trust stays at Trusted until the caller drops
// it on purpose.
type InconsistentError struct {
	// Trusted is the largest head seen before, Told the one that
	// contradicts it, by the node at Address.
	Trusted, Told Head
	Address       string
	// Problem says how they differ.
	Problem string
}

// Error implements error.
func (e *InconsistentError) Error() string {
	return fmt.Sprintf("the chain is not the one trusted before: %s; trusted: %v; told by %s: %v; keep both as evidence and compare the nodes with `exonode verify`",
		e.Problem, e.Trusted, e.Address, e.Told)
}

// class says what a failed attempt means for the next one.
type class uint8

const (
	// determinate: the cluster decided; trying again is no use.
	determinate class = iota
	// elsewhere: try again, at the next address.
	elsewhere
	// later: try again at the same place, not before the hint.
	later
)

// classify reads an *api.Error's class.
func classify(e *api.Error) class {
	switch e.Code {
	case api.QueueFull:
		return later
	case api.NoLeader, api.UnknownOutcome, api.NotReady, api.BehindSession, api.DeadlineExceeded, api.Canceled:
		return elsewhere
	default:
		return determinate
	}
}

// didNothing reports whether the answer says that the event was not written, and
// will not be by this attempt.
func didNothing(e *api.Error) bool {
	return e.Code == api.NoLeader || e.Code == api.NotReady || e.Code == api.QueueFull
}

// classifyCall reads the class of what a call to a node returned.
func classifyCall(err error) class {
	var e *api.Error
	if errors.As(err, &e) {
		return classify(e)
	}
	var v *VerifyError
	var i *InconsistentError
	if errors.Is(err, errSpeaksTLS) || errors.As(err, &v) || errors.As(err, &i) {
		return determinate
	}
	return elsewhere
}

// fromConnect turns what Connect returned into an *api.Error where the node
// said one, and leaves a transport's error as it is.
func fromConnect(err error) error {
	if err == nil {
		return nil
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return err
	}
	for _, d := range ce.Details() {
		v, valueErr := d.Value()
		if valueErr != nil {
			continue
		}
		if detail, ok := v.(*exonodev1.ErrorDetail); ok && detail.GetCode() != "" {
			return api.ErrorFromProto(detail)
		}
	}
	switch ce.Code() {
	case connect.CodeUnauthenticated, connect.CodePermissionDenied:
		return &api.Error{Code: api.Unauthorized, Message: ce.Message(), Hint: "check the token or the client certificate"}
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		return &api.Error{Code: api.Malformed, Message: ce.Message()}
	case connect.CodeUnimplemented:
		return fmt.Errorf("not an Exonode API, or an older one: %w", err)
	}
	return err
}

// brief is the part of a transport's error that a person needs.
func brief(err error) string {
	var errno syscall.Errno
	var dns *net.DNSError
	var unknownAuthority x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	var e *api.Error
	switch {
	case errors.As(err, &e):
		return string(e.Code)
	case errors.Is(err, errStalled):
		return errStalled.Error()
	case errors.Is(err, errSpeaksTLS):
		return errSpeaksTLS.Error()
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &dns):
		return "no such host " + dns.Name
	case errors.As(err, &unknownAuthority):
		return "its certificate is signed by an unknown authority"
	case errors.As(err, &record):
		return "it does not speak TLS"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "timed out"
	}
	var ce *connect.Error
	if errors.As(err, &ce) {
		return ce.Message()
	}
	return err.Error()
}
