package api

import (
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/view"
)

// JSON returns the entry as plain JSON for people and scripts: what the HTTP
// routes answer and the command line prints.
func (d *Decoded) JSON() view.Entry {
	e := chain.Entry{Hash: d.Hash, Header: d.Header}
	if !d.Redacted {
		e.Envelope = &d.Envelope
	}
	return view.New(&e)
}

// ErrorJSON is an error as plain JSON.
type ErrorJSON struct {
	Code             Code    `json:"code"`
	Message          string  `json:"message"`
	Hint             string  `json:"hint,omitempty"`
	Field            string  `json:"field,omitempty"`
	Sequence         *uint64 `json:"sequence,omitempty"`
	RetryAfterMillis int64   `json:"retry_after_millis,omitempty"`
}

// JSON returns e as plain JSON.
func (e *Error) JSON() ErrorJSON {
	j := ErrorJSON{Code: e.Code, Message: e.Message, Hint: e.Hint, Field: e.Field, RetryAfterMillis: e.RetryAfterMillis}
	if e.HasSequence {
		j.Sequence = new(e.Sequence)
	}
	return j
}
