package pipeline

import (
	"fmt"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
	"github.com/exonode/exonode/server"
)

// Acks travel between nodes as a CBOR array of maps:
//
//	0 sequence  1 hash  2 time  3 duplicate  4 verdict  5 error
//
// and the error as a map: 0 code, 1 message, 2 hint, 3 field, 4 retry after in
// ms, 5 sequence (present: has one). Empty fields are absent.

func encodeAcks(acks []server.Ack) ([]byte, error) {
	b := cbor.AppendArray(make([]byte, 0, 64*len(acks)), len(acks))
	for i := range acks {
		var err error
		if b, err = appendAck(b, &acks[i]); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendAck(b []byte, a *server.Ack) ([]byte, error) {
	e, isAPI := a.Err.(*api.Error)
	if a.Err != nil && !isAPI {
		e = &api.Error{Code: api.Internal, Message: a.Err.Error()}
	}
	n := 3
	for _, present := range []bool{a.Duplicate, a.Verdict != nil, e != nil} {
		if present {
			n++
		}
	}
	b = cbor.AppendMap(b, n)
	b = cbor.AppendUint(cbor.AppendUint(b, 0), a.Sequence)
	b = cbor.AppendBytes(cbor.AppendUint(b, 1), a.Hash[:])
	b = cbor.AppendUint(cbor.AppendUint(b, 2), uint64(a.Time))
	if a.Duplicate {
		b = cbor.AppendBool(cbor.AppendUint(b, 3), true)
	}
	if a.Verdict != nil {
		v, err := a.Verdict.AppendBinary(nil)
		if err != nil {
			return nil, fmt.Errorf("pipeline: verdict: %w", err)
		}
		b = cbor.AppendBytes(cbor.AppendUint(b, 4), v)
	}
	if e != nil {
		b = appendError(cbor.AppendUint(b, 5), e)
	}
	return b, nil
}

func appendError(b []byte, e *api.Error) []byte {
	texts := []string{string(e.Code), e.Message, e.Hint, e.Field}
	n := 0
	for _, t := range texts {
		if t != "" {
			n++
		}
	}
	if e.RetryAfterMillis > 0 {
		n++
	}
	if e.HasSequence {
		n++
	}
	b = cbor.AppendMap(b, n)
	for i, t := range texts {
		if t != "" {
			b = cbor.AppendText(cbor.AppendUint(b, uint64(i)), t)
		}
	}
	if e.RetryAfterMillis > 0 {
		b = cbor.AppendUint(cbor.AppendUint(b, 4), uint64(e.RetryAfterMillis))
	}
	if e.HasSequence {
		b = cbor.AppendUint(cbor.AppendUint(b, 5), e.Sequence)
	}
	return b
}

// decodeAcks reads exactly want acks.
func decodeAcks(b []byte, want int) ([]server.Ack, error) {
	r := cbor.NewReader(b)
	if n := r.Array(); r.Err() == nil && n != want {
		return nil, fmt.Errorf("pipeline: %d acks for %d events", n, want)
	}
	acks := make([]server.Ack, want)
	for i := range acks {
		if err := readAck(&r, &acks[i]); err != nil {
			return nil, err
		}
	}
	if err := r.Done(); err != nil {
		return nil, fmt.Errorf("pipeline: acks: %w", err)
	}
	return acks, nil
}

func readAck(r *cbor.Reader, a *server.Ack) error {
	fields := r.Map()
	for fields.Next() {
		switch fields.Key() {
		case 0:
			a.Sequence = r.Uint()
		case 1:
			r.Fixed(a.Hash[:])
		case 2:
			a.Time = int64(r.Uint())
		case 3:
			a.Duplicate = r.Bool()
		case 4:
			if raw := r.Bytes(); r.Err() == nil {
				a.Verdict = new(chain.Verdict)
				if err := a.Verdict.UnmarshalBinary(raw); err != nil {
					return fmt.Errorf("pipeline: verdict: %w", err)
				}
			}
		case 5:
			a.Err = readAPIError(r)
		default:
			fields.Unknown()
		}
	}
	return nil
}

func readAPIError(r *cbor.Reader) *api.Error {
	e := new(api.Error)
	fields := r.Map()
	for fields.Next() {
		switch fields.Key() {
		case 0:
			e.Code = api.Code(r.Text())
		case 1:
			e.Message = r.Text()
		case 2:
			e.Hint = r.Text()
		case 3:
			e.Field = r.Text()
		case 4:
			e.RetryAfterMillis = int64(r.Uint())
		case 5:
			e.Sequence, e.HasSequence = r.Uint(), true
		default:
			fields.Unknown()
		}
	}
	return e
}
