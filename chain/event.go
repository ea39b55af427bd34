package chain

// Event is what a client submits: the part of an entry that does not depend on
// the chain. A CloudEvents 1.0 event maps onto it one to one (type is Kind,
// extensions are kept).
//
// Fields are compared on resubmission: an Event with the (Workspace, Source,
// ID) of an entry is a duplicate of it where all fields are equal, except
// Salt, ClientSignature, ClientKeyID and Traceparent, and a conflict otherwise.
type Event struct {
	// Workspace is the namespace of the event: 1 to 64 bytes,
	// [a-z0-9][a-z0-9._-]*. "system" is the cluster's own.
	Workspace string
	// Source names who reports the event (a CloudEvents URI-reference):
	// 1 to 512 bytes of printable UTF-8. It can't be redacted.
	Source string
	// ID is unique within (Workspace, Source), for ever: 1 to 256 bytes of
	// printable UTF-8. It can't be redacted.
	ID string
	// Kind is the event's type from the catalog: 1 to 128 bytes,
	// lower-case dotted words ("agent.spawn").
	Kind string
	// SchemaVersion is the version of the kind's payload schema; 0 before
	// the leader fills it from the catalog.
	SchemaVersion uint64
	// Subject is what the event is about, at most 1,024 bytes; "" is none.
	Subject string

	// Payload is the event's data, as submitted; it is hashed as it came.
	// At most 1 MiB by default.
	Payload []byte
	// ContentType is the media type of Payload; "application/json" where
	// the submitter names none and there is a payload.
	ContentType string
	// DataSchema is the CloudEvents dataschema; "" is none.
	DataSchema string

	// DeclaredEffect raises the gate's effect vector element by element;
	// nil is none. Ten-thousandths, each 0 to 10,000.
	DeclaredEffect *Effect
	// Causes are the sequences of entries that led to this one, strictly
	// increasing; at most 64.
	Causes []uint64
	// Priority is 0 (normal) or 1 (elevated).
	Priority uint64
	// ClientTime is the submitter's clock in Unix nanoseconds; 0 is none.
	ClientTime int64
	// Traceparent is the W3C trace context header; "" is none.
	Traceparent string
	// Extensions are the CloudEvents extension attributes, sorted by Name,
	// names unique ([a-z0-9]{1,20}); at most 64.
	Extensions []Extension

	// Salt is the client's envelope salt; nil lets the leader draw one.
	Salt *[SaltSize]byte
	// ClientKeyID names the registered key of ClientSignature.
	ClientKeyID string
	// ClientSignature is an Ed25519 signature (64 bytes), or nil.
	ClientSignature []byte
}

// SaltSize is the size of an envelope's salt in bytes.
const SaltSize = 32

// Effect is an effect vector in integer ten-thousandths (0 to 10,000), in the
// order risk, fairness, privacy, novelty, security.
type Effect [5]uint16

// Extension is one CloudEvents extension attribute.
type Extension struct {
	Name string
	// Value is a string, an int64 (CloudEvents integers are 32 bit) or a
	// bool.
	Value any
}
