// Package api holds the protobuf schema of the service, its generated code, the
// errors that server and client share, and the conversions between the schema's
// types and those of package chain. It holds no behaviour: server and client
// call it, and nothing else should.
package api

import (
	"errors"
	"fmt"
)

// Error is an error that an API answers with: a stable code for programs, a
// text for people, and what to do next.
type Error struct {
	// Code is stable: programs match on it.
	Code Code
	// Message says what is wrong, naming field, value and limit.
	Message string
	// Hint says what to do next; "" is none.
	Hint string
	// Field is the offending field's path ("data.pid"); "" is none.
	Field string
	// RetryAfterMillis is when to try again; 0 is unsaid.
	RetryAfterMillis int64
	// Sequence is the entry that the error is about (of a denial, of a
	// conflict's first entry); valid where HasSequence.
	Sequence    uint64
	HasSequence bool
}

// Error implements error.
func (e *Error) Error() string {
	if e.Hint == "" {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s (%s)", e.Code, e.Message, e.Hint)
}

// Is reports whether target is an *Error with e's code and nothing else set, so
// that errors.Is(err, &api.Error{Code: api.NotFound}) matches by code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && *t == Error{Code: e.Code}
}

// CodeOf returns the code of the *Error in err's chain, "" where there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// Code is a stable error code.
type Code string

// The codes. The comment says what the caller does; codes.go has the Connect and
// HTTP codes that carry them.
const (
	Malformed        Code = "malformed"          // fix the request
	BadField         Code = "bad_field"          // fix Field
	UnknownKind      Code = "unknown_kind"       // register the kind
	PayloadInvalid   Code = "payload_invalid"    // fix Field
	TooLarge         Code = "too_large"          // send less
	EffectRange      Code = "effect_range"       // 0 to 1 with four decimals
	ReservedKind     Code = "reserved_kind"      // only nodes write it
	ReservedSpace    Code = "reserved_workspace" // only nodes write to system
	Conflict         Code = "conflict"           // another event has this id
	NotComparable    Code = "not_comparable"     // id taken, content gone or denied
	GateDenied       Code = "denied"             // policy says no
	Escalated        Code = "escalated"          // needs approval
	QueueFull        Code = "queue_full"         // back off
	NoLeader         Code = "no_leader"          // try again
	UnknownOutcome   Code = "unknown_outcome"    // retry with the same id
	NotReady         Code = "not_ready"          // node is booting or stopping: try another
	NotFound         Code = "not_found"          // no such entry
	Redacted         Code = "redacted"           // the envelope is gone
	BehindSession    Code = "behind"             // node has not reached the sequence: wait or try another
	NotFinal         Code = "not_final"          // committed, and a quorum has not cosigned it: see status
	Unauthorized     Code = "unauthorized"       // ask for a grant
	Precondition     Code = "precondition"       // the cluster's state forbids it
	DeadlineExceeded Code = "deadline_exceeded"  // a write may still commit: retry with the same id
	Canceled         Code = "canceled"           // the caller gave up; a write may still commit
	Unimplemented    Code = "unimplemented"      // the node does not know the call
	Internal         Code = "internal"           // report it
)
