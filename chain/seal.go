package chain

import "fmt"

// SealInput is an event with everything that was decided about it.
type SealInput struct {
	ChainID ID
	Epoch   uint64
	// Prev is the head that the entry goes on; the zero Head for entry 0.
	Prev Head
	// Stamp is the leader's clock in Unix nanoseconds. The entry's time is
	// the later of it and Prev.Time+1; see MaxStamp.
	Stamp int64

	// Event is valid (Event.Validate); it is not kept.
	Event *Event
	// Salt is the envelope's salt where the event has none of its own.
	Salt [SaltSize]byte
	// Principal acted; required. Credential, OnBehalfOf and Attestation say
	// how it was authenticated, and may be empty.
	Principal, Credential, OnBehalfOf string
	Attestation                       []byte
	// Verdict is nil where no gate was evaluated; it is not kept.
	Verdict *Verdict
	// SealingNode is the leader that stamped the event, RaftIndex the log
	// entry of what the state machine seals by itself; only one is set.
	SealingNode string
	RaftIndex   uint64
}

// Sealed is an entry as Seal made it.
type Sealed struct {
	// Record holds the encoded header and envelope; Beside is the caller's.
	Record
	// Head is the chain's head with this entry.
	Head Head
}

// Seal makes the entry that puts an event on the chain's head. It is a pure
// function. It fails, with a *FieldError, only where a field breaks its rules:
// never for a valid event with a valid stamp, principal and verdict.
func Seal(in *SealInput) (Sealed, error) {
	e := in.Event
	env := Envelope{Payload: e.Payload, Salt: in.Salt, ClientSignature: e.ClientSignature}
	if e.Salt != nil {
		env.Salt = *e.Salt
	}
	envelope, err := env.MarshalBinary()
	if err != nil {
		return Sealed{}, fmt.Errorf("chain: seal %d: %w", in.Prev.Size, err)
	}
	time := in.Stamp
	if time <= in.Prev.Time {
		time = in.Prev.Time + 1
	}
	h := Header{
		Version:       FormatVersion,
		ChainID:       in.ChainID,
		Epoch:         in.Epoch,
		Sequence:      in.Prev.Size,
		Previous:      in.Prev.Hash,
		Time:          time,
		Workspace:     e.Workspace,
		Source:        e.Source,
		ID:            e.ID,
		Kind:          e.Kind,
		SchemaVersion: e.SchemaVersion,
		Subject:       e.Subject,
		Principal:     in.Principal,
		Credential:    in.Credential,
		OnBehalfOf:    in.OnBehalfOf,
		Envelope: EnvelopeRef{
			Hash:        EnvelopeHash(envelope),
			Size:        uint64(len(e.Payload)),
			ContentType: e.ContentType,
			DataSchema:  e.DataSchema,
		},
		Verdict:     in.Verdict,
		Causes:      e.Causes,
		Priority:    e.Priority,
		ClientTime:  e.ClientTime,
		Traceparent: e.Traceparent,
		Extensions:  e.Extensions,
		ClientKeyID: e.ClientKeyID,
		SealingNode: in.SealingNode,
		Attestation: in.Attestation,
		RaftIndex:   in.RaftIndex,
	}
	header, err := h.AppendBinary(make([]byte, 0, h.sizeHint()))
	if err != nil {
		return Sealed{}, fmt.Errorf("chain: seal %d: %w", in.Prev.Size, err)
	}
	return Sealed{
		Record: Record{Sequence: h.Sequence, Header: header, Envelope: envelope},
		Head:   Head{Size: h.Sequence + 1, Hash: HeaderHash(header), Time: h.Time},
	}, nil
}

// sizeHint estimates the size of the encoded header, so that it is allocated
// once in most cases.
func (h *Header) sizeHint() int {
	n := 224 + len(h.Workspace) + len(h.Source) + len(h.ID) + len(h.Kind) + len(h.Subject) +
		len(h.Principal) + len(h.Envelope.ContentType) + len(h.SealingNode) + len(h.Traceparent)
	if h.Verdict != nil {
		n += 192
	}
	return n
}
