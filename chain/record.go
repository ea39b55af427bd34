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

// Decode decodes the record's parts without verifying anything of them but their
// encoding. What the Entry holds is part of the record's bytes.
func (r *Record) Decode() (Entry, error) {
	e := Entry{Record: *r, Hash: HeaderHash(r.Header)}
	if err := e.Header.UnmarshalBinary(r.Header); err != nil {
		return e, err
	}
	for _, part := range []struct {
		data []byte
		dst  **Envelope
	}{{r.Envelope, &e.Envelope}, {r.Beside, &e.Beside}} {
		if len(part.data) == 0 {
			continue
		}
		env, err := DecodeEnvelope(part.data)
		if err != nil {
			return e, err
		}
		*part.dst = &env
	}
	return e, nil
}

// Check decodes the record and holds its envelopes against the header, as Verify
// does with each entry by itself. The error is a *BadEntryError. What the Entry
// holds is part of the record's bytes.
func (r *Record) Check() (Entry, error) {
	b := newBatch(1)
	b.entries[0].Record = *r
	if bad := b.checkEntry(&b.entries[0], 0); bad != nil {
		return b.entries[0], bad
	}
	return b.entries[0], nil
}

// Redacts returns which entry e redacts, where it is a redaction of an earlier one.
func (e *Entry) Redacts() (target uint64, ok bool) {
	h := &e.Header
	if h.Kind != kindRedact || h.Workspace != systemWorkspace || e.Envelope == nil {
		return 0, false
	}
	target, err := redactTarget(e.Envelope.Payload)
	return target, err == nil && target < h.Sequence
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
