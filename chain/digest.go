package chain

import (
	"errors"

	"github.com/exonode/exonode/chain/cbor"
)

// ErrNoSalt says that an event has no salt, without which its digest would tell
// a low-entropy payload. Draw one first.
var ErrNoSalt = errors.New("chain: event has no salt")

// EventDigest returns the digest of an event in one epoch of one chain: what a
// client signs, and what governance entries name an event by without showing
// its payload. It covers what the submitter says, salt and payload included,
// and leaves out what the leader fills in (SchemaVersion), what may change on
// the way (Traceparent), and the signature itself. The event must be valid and
// carry its salt, and its ContentType must be the one that will be sealed (see
// SetDefaults).
func EventDigest(id ID, epoch uint64, e *Event) (Hash, error) {
	if e.Salt == nil {
		return Hash{}, ErrNoSalt
	}
	return digestHasher.sum(digestInput(id, epoch, e)), nil
}

// digestInput is the map that EventDigest hashes.
func digestInput(id ID, epoch uint64, e *Event) []byte {
	b := make([]byte, 0, 512+len(e.Payload))
	b = cbor.AppendMap(b, 8+one(e.Subject != "")+one(e.ContentType != "")+one(e.DataSchema != "")+
		one(e.DeclaredEffect != nil)+one(len(e.Causes) > 0)+one(e.Priority != 0)+
		one(e.ClientTime != 0)+one(len(e.Extensions) > 0)+one(e.ClientKeyID != ""))
	b = cbor.AppendBytes(append(b, 0), id[:])
	b = cbor.AppendUint(append(b, 1), epoch)
	b = cbor.AppendText(append(b, 2), e.Workspace)
	b = cbor.AppendText(append(b, 3), e.Source)
	b = cbor.AppendText(append(b, 4), e.ID)
	b = cbor.AppendText(append(b, 5), e.Kind)
	b = appendOptionalText(b, 6, e.Subject)
	b = cbor.AppendBytes(append(b, 7), e.Payload)
	b = cbor.AppendBytes(append(b, 8), e.Salt[:])
	b = appendOptionalText(b, 9, e.ContentType)
	b = appendOptionalText(b, 10, e.DataSchema)
	if e.DeclaredEffect != nil {
		b = appendEffect(append(b, 11), e.DeclaredEffect)
	}
	if len(e.Causes) > 0 {
		b = appendUints(append(b, 12), e.Causes)
	}
	b = appendOptionalUint(b, 13, e.Priority)
	b = appendOptionalUint(b, 14, uint64(e.ClientTime))
	if len(e.Extensions) > 0 {
		b = appendExtensions(append(b, 15), e.Extensions)
	}
	return appendOptionalText(b, 16, e.ClientKeyID)
}

// SetDefaults fills in what a submitter may leave out: the content type of a
// payload.
func (e *Event) SetDefaults() {
	if e.ContentType == "" && len(e.Payload) > 0 {
		e.ContentType = "application/json"
	}
}
