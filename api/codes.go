package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
)

// carrier is how a Code travels.
type carrier struct {
	connect connect.Code
	http    int
}

// carry returns how c travels; codes that this version does not know travel as
// internal errors do.
func (c Code) carry() carrier {
	switch c {
	case Malformed, BadField, EffectRange:
		return carrier{connect.CodeInvalidArgument, http.StatusBadRequest}
	case PayloadInvalid:
		return carrier{connect.CodeInvalidArgument, http.StatusUnprocessableEntity}
	case TooLarge:
		return carrier{connect.CodeInvalidArgument, http.StatusRequestEntityTooLarge}
	case UnknownKind:
		return carrier{connect.CodeFailedPrecondition, http.StatusUnprocessableEntity}
	case ReservedKind, ReservedSpace, GateDenied, Unauthorized:
		return carrier{connect.CodePermissionDenied, http.StatusForbidden}
	case Conflict, NotComparable:
		return carrier{connect.CodeAlreadyExists, http.StatusConflict}
	case Escalated:
		// The event is kept, its id is reserved, and it is not an operation
		// that may go on: accepted, not done.
		return carrier{connect.CodeFailedPrecondition, http.StatusAccepted}
	case Precondition:
		return carrier{connect.CodeFailedPrecondition, http.StatusPreconditionFailed}
	case QueueFull:
		return carrier{connect.CodeResourceExhausted, http.StatusTooManyRequests}
	case NoLeader, UnknownOutcome, NotReady, BehindSession, NotFinal:
		return carrier{connect.CodeUnavailable, http.StatusServiceUnavailable}
	case NotFound:
		return carrier{connect.CodeNotFound, http.StatusNotFound}
	case Redacted:
		return carrier{connect.CodeNotFound, http.StatusGone}
	case DeadlineExceeded:
		return carrier{connect.CodeDeadlineExceeded, http.StatusGatewayTimeout}
	case Canceled:
		return carrier{connect.CodeCanceled, 499} // as widely used: client closed request
	case Unimplemented:
		return carrier{connect.CodeUnimplemented, http.StatusNotFound}
	default:
		return carrier{connect.CodeInternal, http.StatusInternalServerError}
	}
}

// Codes returns all codes that this version knows, in a fixed order.
func Codes() []Code {
	return []Code{
		Malformed, BadField, UnknownKind, PayloadInvalid, TooLarge, EffectRange,
		ReservedKind, ReservedSpace, Conflict, NotComparable, GateDenied, Escalated,
		QueueFull, NoLeader, UnknownOutcome, NotReady, NotFound, Redacted,
		BehindSession, NotFinal, Unauthorized, Precondition, DeadlineExceeded, Canceled,
		Unimplemented, Internal,
	}
}

// Connect returns the Connect (and gRPC) code that carries c.
func (c Code) Connect() connect.Code { return c.carry().connect }

// HTTPStatus returns the HTTP status that carries c on the routes that are not
// RPCs.
func (c Code) HTTPStatus() int { return c.carry().http }

// Retryable reports whether the same request, with the same ids, may succeed
// later or on another node.
func (c Code) Retryable() bool {
	switch c {
	case QueueFull, NoLeader, UnknownOutcome, NotReady, BehindSession:
		return true
	default:
		return false
	}
}

// AsError returns err as an *Error: as it is where it is one, by its meaning
// where it is a context's, by its code where it is Connect's, and as Internal
// otherwise. It returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if ce, ok := errors.AsType[*connect.Error](err); ok {
		return fromConnect(ce)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{Code: DeadlineExceeded, Message: "the deadline passed", Hint: "an event that was sent may still commit: send it again with the same id"}
	case errors.Is(err, context.Canceled):
		return &Error{Code: Canceled, Message: "the call was canceled"}
	default:
		return &Error{Code: Internal, Message: err.Error()}
	}
}

// ToConnect returns err as the Connect error that carries it, with an
// ErrorDetail; nil for nil.
func ToConnect(err error) *connect.Error {
	e := AsError(err)
	if e == nil {
		return nil
	}
	text := e.Message
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	ce := connect.NewError(e.Code.Connect(), errors.New(text))
	// Marshalling a message of our own can't fail; were it to, code and text
	// still say what is wrong.
	if detail, err := connect.NewErrorDetail(ErrorToProto(e)); err == nil {
		ce.AddDetail(detail)
	}
	if e.RetryAfterMillis > 0 {
		ce.Meta().Set("Retry-After", RetryAfter(e.RetryAfterMillis))
	}
	return ce
}

// FromConnect returns what a call's error means: the *Error that the node
// attached, or one guessed from Connect's code where there is none, as when the
// connection broke. It returns nil for nil.
func FromConnect(err error) *Error { return AsError(err) }

// RetryAfter returns the value of a Retry-After header: whole seconds, rounded
// up.
func RetryAfter(millis int64) string {
	return strconv.FormatInt((millis+999)/1000, 10)
}

func fromConnect(ce *connect.Error) *Error {
	for _, d := range ce.Details() {
		if v, err := d.Value(); err == nil {
			if p, ok := v.(*exonodev1.ErrorDetail); ok && p.GetCode() != "" {
				return ErrorFromProto(p)
			}
		}
	}
	e := &Error{Code: Internal, Message: ce.Message()}
	switch ce.Code() {
	case connect.CodeInvalidArgument, connect.CodeOutOfRange:
		e.Code = Malformed
	case connect.CodeNotFound:
		e.Code = NotFound
	case connect.CodeAlreadyExists:
		e.Code = Conflict
	case connect.CodePermissionDenied, connect.CodeUnauthenticated:
		e.Code = Unauthorized
	case connect.CodeFailedPrecondition:
		e.Code = Precondition
	case connect.CodeResourceExhausted:
		// A full queue always has a detail; without one it is a message over
		// the size limit of the RPC layer.
		e.Code = TooLarge
	case connect.CodeUnavailable, connect.CodeAborted:
		// Whether the node got the request can't be known.
		e.Code, e.Hint = UnknownOutcome, "retry with the same id"
	case connect.CodeDeadlineExceeded:
		e.Code = DeadlineExceeded
	case connect.CodeCanceled:
		e.Code = Canceled
	case connect.CodeUnimplemented:
		e.Code, e.Hint = Unimplemented, "the node may be of another version"
	}
	return e
}

// ErrorToProto returns e as a message; nil for nil. Texts may quote what a client
// sent; where they are not UTF-8 they are made so, since a message could not be
// encoded otherwise.
func ErrorToProto(e *Error) *exonodev1.ErrorDetail {
	if e == nil {
		return nil
	}
	p := &exonodev1.ErrorDetail{
		Code:             string(e.Code),
		Message:          strings.ToValidUTF8(e.Message, "\uFFFD"),
		Hint:             strings.ToValidUTF8(e.Hint, "\uFFFD"),
		Field:            strings.ToValidUTF8(e.Field, "\uFFFD"),
		RetryAfterMillis: e.RetryAfterMillis,
	}
	if e.HasSequence {
		p.Sequence = new(e.Sequence)
	}
	return p
}

// ErrorFromProto is the inverse of ErrorToProto.
func ErrorFromProto(p *exonodev1.ErrorDetail) *Error {
	if p == nil {
		return nil
	}
	e := &Error{
		Code:             Code(p.GetCode()),
		Message:          p.GetMessage(),
		Hint:             p.GetHint(),
		Field:            p.GetField(),
		RetryAfterMillis: p.GetRetryAfterMillis(),
	}
	if p.Sequence != nil {
		e.Sequence, e.HasSequence = *p.Sequence, true
	}
	return e
}
