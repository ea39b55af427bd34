package transport

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// errEncoding is the one error of all decoders here: bytes that no encoder of
// this package writes.
var errEncoding = errors.New("malformed message")

// frameHeader is the size of a frame's length prefix.
const frameHeader = 4

// frameStep is how much of a frame is allocated before its bytes have come.
const frameStep = 1 << 20

// beginFrame reserves a length prefix at the end of b; endFrame(b, len(b)
// before) fills it in.
func beginFrame(b []byte) []byte { return append(b, 0, 0, 0, 0) }

func endFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-frameHeader))
	return b
}

// readFrame reads one frame of at most limit bytes into memory of its own.
func readFrame(r *bufio.Reader, limit int) ([]byte, error) {
	head, err := r.Peek(frameHeader)
	if err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head)
	_, _ = r.Discard(frameHeader) // it was peeked
	if int64(n) > int64(limit) {
		return nil, fmt.Errorf("%w: frame of %d bytes, limit %d", ErrProtocol, n, limit)
	}
	size := int(n)
	b := make([]byte, min(size, frameStep))
	for have := 0; ; {
		m, err := io.ReadFull(r, b[have:])
		if have += m; err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if have == size {
			return b, nil
		}
		// Double, so that a length alone makes nobody allocate.
		grown := make([]byte, min(size, 2*have))
		copy(grown, b)
		b = grown
	}
}

func appendBytes[T string | []byte](b []byte, v T) []byte {
	b = binary.AppendUvarint(b, uint64(len(v)))
	return append(b, v...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// decoder reads what the append functions wrote and refuses all else: numbers
// in more bytes than they need, booleans other than 0 and 1, lengths beyond the
// end. After the first error every method returns zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail() {
	d.b, d.err = nil, errEncoding
}

func (d *decoder) uvarint() uint64 {
	// Most numbers have one byte.
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := uint64(d.b[0])
		d.b = d.b[1:]
		return v
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n != max(1, (bits.Len64(v)+6)/7) {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	if v > 1 {
		d.fail()
	}
	return v == 1
}

// bytes returns a slice of the decoder's own memory; nil where it is empty.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// rest returns all that is left.
func (d *decoder) rest() []byte {
	v := d.b
	d.b = nil
	return v
}

// done returns the first error, or one where bytes are left.
func (d *decoder) done() error {
	if d.err == nil && len(d.b) != 0 {
		d.fail()
	}
	return d.err
}
