package chain

// Record is an entry as it is stored and shipped: the exact bytes.
type Record struct {
	Sequence uint64
	// Header is the encoded header: what is hashed.
	Header []byte
	// Envelope is the encoded envelope; nil where it is redacted.
	Envelope []byte
	// Beside is the encoded envelope of the event that a
	// governance.escalate entry reserves; nil otherwise, and where redacted.
	Beside []byte
}

// Head names the last entry of a chain.
type Head struct {
	// Size is the number of entries: the last one's sequence plus one.
	// Zero is the empty chain; the other fields are zero then.
	Size uint64
	// Hash is the header hash of entry Size-1.
	Hash Hash
	// Time is that entry's time in Unix nanoseconds.
	Time int64
}

// Key identifies an event for ever.
type Key struct{ Workspace, Source, ID string }

// Filter selects entries. Zero fields do not restrict.
type Filter struct {
	Workspace string
	// Kind is a kind, or with a trailing "*" a prefix ("agent.*").
	Kind      string
	Source    string
	Principal string
	// TimeFrom (inclusive) and TimeTo (exclusive) bound the entry's time in
	// Unix nanoseconds; TimeTo 0 is open.
	TimeFrom, TimeTo int64
}
