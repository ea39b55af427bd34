// Package api holds the protobuf schema of the service, its generated code,
// and the error codes that server and client share.
package api

import "fmt"

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

// Code is a stable error code.
type Code string

// The codes. The comment says what the caller does, and the Connect code that
// carries it.
const (
	Malformed        Code = "malformed"          // fix the request; invalid_argument
	BadField         Code = "bad_field"          // fix Field; invalid_argument
	UnknownKind      Code = "unknown_kind"       // register the kind; failed_precondition
	PayloadInvalid   Code = "payload_invalid"    // fix Field; invalid_argument
	TooLarge         Code = "too_large"          // send less; invalid_argument
	EffectRange      Code = "effect_range"       // 0 to 1 with four decimals; invalid_argument
	ReservedKind     Code = "reserved_kind"      // only nodes write it; permission_denied
	ReservedSpace    Code = "reserved_workspace" // only nodes write to system; permission_denied
	Conflict         Code = "conflict"           // another event has this id; already_exists
	NotComparable    Code = "not_comparable"     // id taken, content gone or denied; already_exists
	GateDenied       Code = "denied"             // policy says no; permission_denied
	Escalated        Code = "escalated"          // needs approval; failed_precondition
	QueueFull        Code = "queue_full"         // back off; resource_exhausted
	NoLeader         Code = "no_leader"          // try again; unavailable
	UnknownOutcome   Code = "unknown_outcome"    // retry with the same id; unavailable
	NotReady         Code = "not_ready"          // node is booting or stopping; unavailable
	NotFound         Code = "not_found"          // no such entry; not_found
	Redacted         Code = "redacted"           // the envelope is gone; not_found
	BehindSession    Code = "behind"             // node has not reached the sequence; unavailable
	Unauthorized     Code = "unauthorized"       // permission_denied
	Precondition     Code = "precondition"       // failed_precondition
	DeadlineExceeded Code = "deadline_exceeded"  // deadline_exceeded
	Internal         Code = "internal"           // report it; internal
)
