package api

import (
	"fmt"
	"mime"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
)

// RecordToProto returns a record as a message, in the form asked for. It shares
// the record's byte slices. The error is for a record that can't be decoded,
// which a node's own records always can; the raw form is never decoded.
func RecordToProto(r chain.Record, form exonodev1.EntryForm) (*exonodev1.Entry, error) {
	hash := chain.HeaderHash(r.Header)
	p := &exonodev1.Entry{Sequence: r.Sequence, Hash: hash[:]}
	switch form {
	case exonodev1.EntryForm_ENTRY_FORM_UNSPECIFIED, exonodev1.EntryForm_ENTRY_FORM_RAW, exonodev1.EntryForm_ENTRY_FORM_READABLE:
	default:
		return nil, &Error{Code: BadField, Field: "form", Message: fmt.Sprintf("unknown form %d", form)}
	}
	if form != exonodev1.EntryForm_ENTRY_FORM_READABLE {
		p.Header, p.Envelope, p.Beside = r.Header, r.Envelope, r.Beside
	}
	if form != exonodev1.EntryForm_ENTRY_FORM_RAW {
		e, err := DecodeRecord(r)
		if err != nil {
			return nil, err
		}
		p.Readable = e.toProto()
	}
	return p, nil
}

// RecordFromProto returns the raw form of an entry. It shares p's byte slices.
func RecordFromProto(p *exonodev1.Entry) (chain.Record, error) {
	if len(p.GetHeader()) == 0 {
		return chain.Record{}, &Error{Code: Malformed, Field: "entry.header", Message: "the entry has no raw form", Hint: "ask for ENTRY_FORM_RAW"}
	}
	r := chain.Record{Sequence: p.GetSequence(), Header: p.GetHeader()}
	if len(p.GetEnvelope()) != 0 {
		r.Envelope = p.GetEnvelope()
	}
	if len(p.GetBeside()) != 0 {
		r.Beside = p.GetBeside()
	}
	return r, nil
}

// Decoded is a record decoded. It is not verified: that is package chain's.
type Decoded struct {
	Hash   chain.Hash
	Header chain.Header
	// Envelope is zero where Redacted.
	Envelope chain.Envelope
	Redacted bool
}

// DecodeRecord decodes a record. Errors are *Error with code Internal.
func DecodeRecord(r chain.Record) (Decoded, error) {
	d := Decoded{Hash: chain.HeaderHash(r.Header), Redacted: r.Envelope == nil}
	var err error
	if d.Header, err = chain.DecodeHeader(r.Header); err != nil {
		return d, &Error{Code: Internal, Message: fmt.Sprintf("decode header of entry %d: %v", r.Sequence, err), Hint: "run exonode verify on this node's data", Sequence: r.Sequence, HasSequence: true}
	}
	if d.Redacted {
		return d, nil
	}
	if d.Envelope, err = chain.DecodeEnvelope(r.Envelope); err != nil {
		return d, &Error{Code: Internal, Message: fmt.Sprintf("decode envelope of entry %d: %v", r.Sequence, err), Hint: "run exonode verify on this node's data", Sequence: r.Sequence, HasSequence: true}
	}
	return d, nil
}

// Event returns the event as it was submitted, but for the salt.
func (d *Decoded) Event() chain.Event {
	h := &d.Header
	e := chain.Event{
		Workspace:       h.Workspace,
		Source:          h.Source,
		ID:              h.ID,
		Kind:            h.Kind,
		SchemaVersion:   h.SchemaVersion,
		Subject:         h.Subject,
		Payload:         d.Envelope.Payload,
		ContentType:     h.Envelope.ContentType,
		DataSchema:      h.Envelope.DataSchema,
		Causes:          h.Causes,
		Priority:        h.Priority,
		ClientTime:      h.ClientTime,
		Traceparent:     h.Traceparent,
		Extensions:      h.Extensions,
		ClientKeyID:     h.ClientKeyID,
		ClientSignature: d.Envelope.ClientSignature,
	}
	if h.Verdict != nil {
		e.DeclaredEffect = h.Verdict.Declared
	}
	return e
}

func (d *Decoded) toProto() *exonodev1.ReadableEntry {
	h := &d.Header
	event := d.Event()
	p := &exonodev1.ReadableEntry{
		Event:         EventToProto(&event),
		Time:          timestamppb.New(time.Unix(0, h.Time)),
		TimeUnixNano:  h.Time,
		Principal:     h.Principal,
		Credential:    h.Credential,
		OnBehalfOf:    h.OnBehalfOf,
		Verdict:       VerdictToProto(h.Verdict),
		Redacted:      d.Redacted,
		PayloadSize:   h.Envelope.Size,
		EnvelopeHash:  h.Envelope.Hash.String(),
		Hash:          d.Hash.String(),
		PreviousHash:  h.Previous.String(),
		ChainId:       h.ChainID.String(),
		Epoch:         h.Epoch,
		SealingNode:   h.SealingNode,
		RaftIndex:     h.RaftIndex,
		FormatVersion: h.Version,
	}
	if isText(event.ContentType) && utf8.Valid(event.Payload) {
		p.Event.Text, p.Event.Data = string(event.Payload), nil
	}
	return p
}

// isText reports whether a content type is one that people read: JSON or text.
func isText(contentType string) bool {
	return isJSON(contentType) || strings.HasPrefix(contentType, "text/")
}

func isJSON(contentType string) bool {
	if contentType == DefaultContentType {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || media == "text/json" || strings.HasSuffix(media, "+json"))
}
