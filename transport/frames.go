package transport

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The frames of a call connection. Each starts with one byte type and an
// unsigned varint, the number of the call that the dialer chose (0 in pings
// and pongs). What follows:
//
//	request  u time left in microseconds (0: none), x method, payload
//	answer   payload
//	failure  x code, x message
//	cancel   nothing
//	ping     nothing
//	pong     nothing
type frameType byte

const (
	frameRequest frameType = 1 // dialer
	frameAnswer  frameType = 2 // acceptor
	frameFailure frameType = 3 // acceptor
	frameCancel  frameType = 4 // dialer
	framePing    frameType = 5 // dialer
	framePong    frameType = 6 // acceptor
)

// frameOverhead is the most bytes of a frame besides a payload: type, number,
// time, method.
const frameOverhead = 1 + binary.MaxVarintLen64 + binary.MaxVarintLen64 + 2 + maxMethod

// maxMethod is the most bytes of a method's name, and maxText of a failure's
// code or message.
const (
	maxMethod = 128
	maxText   = 4096
)

// callFrame is a decoded frame; which fields count depends on the type.
type callFrame struct {
	typ     frameType
	number  uint64
	left    time.Duration
	method  string
	payload []byte
	failure RemoteError
}

func (f *callFrame) append(b []byte) []byte {
	b = binary.AppendUvarint(append(b, byte(f.typ)), f.number)
	switch f.typ {
	case frameRequest:
		b = binary.AppendUvarint(b, uint64(f.left.Microseconds()))
		b = appendBytes(b, f.method)
		b = append(b, f.payload...)
	case frameAnswer:
		b = append(b, f.payload...)
	case frameFailure:
		b = appendBytes(b, f.failure.Code[:min(len(f.failure.Code), maxText)])
		b = appendBytes(b, f.failure.Message[:min(len(f.failure.Message), maxText)])
	}
	return b
}

// decodeCallFrame is the inverse of append. The payload refers to b.
func decodeCallFrame(b []byte) (callFrame, error) {
	d := decoder{b: b}
	f := callFrame{typ: frameType(d.byte()), number: d.uvarint()}
	switch f.typ {
	case frameRequest:
		left := d.uvarint()
		if left > uint64((1<<63-1)/time.Microsecond) {
			d.fail()
		}
		f.left = time.Duration(left) * time.Microsecond
		method := d.bytes()
		if len(method) > maxMethod {
			d.fail()
		}
		f.method = string(method)
		f.payload = d.rest()
	case frameAnswer:
		f.payload = d.rest()
	case frameFailure:
		f.failure = RemoteError{Code: string(d.bytes()), Message: string(d.bytes())}
	case frameCancel:
	case framePing, framePong:
		if f.number != 0 {
			d.fail()
		}
	default:
		d.fail()
	}
	if err := d.done(); err != nil {
		return callFrame{}, fmt.Errorf("%w: call frame: %w", ErrProtocol, err)
	}
	return f, nil
}
