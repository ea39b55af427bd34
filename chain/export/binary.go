package export

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
)

// The binary form is the line "exonode-export/1", then frames: a length of four
// bytes, big-endian, and as many bytes of deterministic CBOR (package cbor). The
// first frame is the info, then one for each entry, the last the trailer.
//
//	info     map  0 chain id  1 from  2 to  3 start, where from is not 0
//	start    map  0 header hash of from-1  1 its time  2 epoch  3 edge
//	record   map  0 sequence  1 header  2 envelope  3 beside; the last two
//	              absent where there is none
//	trailer  map  0 size  1 header hash  2 time  3 root
const magic = formatName + "\n"

type binaryEncoder struct {
	buf     []byte
	at      int // of the frame's length in buf
	started bool
}

// frame begins a frame, the first one after the magic; done fills in its length.
func (e *binaryEncoder) frame() []byte {
	e.buf = e.buf[:0]
	if !e.started {
		e.buf, e.started = append(e.buf, magic...), true
	}
	e.at = len(e.buf)
	return append(e.buf, 0, 0, 0, 0)
}

func (e *binaryEncoder) done(b []byte) ([]byte, error) {
	n := len(b) - e.at - 4
	if n > MaxFrame {
		return nil, fmt.Errorf("a frame of %d bytes, limit %d", n, MaxFrame)
	}
	binary.BigEndian.PutUint32(b[e.at:], uint32(n))
	e.buf = b
	return b, nil
}

func (e *binaryEncoder) info(i *Info) ([]byte, error) {
	b := e.frame()
	pairs := 3
	if i.From > 0 {
		pairs++
	}
	b = cbor.AppendMap(b, pairs)
	b = cbor.AppendBytes(append(b, 0), i.ChainID[:])
	b = cbor.AppendUint(append(b, 1), i.From)
	b = cbor.AppendUint(append(b, 2), i.To)
	if i.From > 0 {
		edge := appendEdge(nil, i.Start.Tree)
		b = cbor.AppendMap(append(b, 3), 4)
		b = cbor.AppendBytes(append(b, 0), i.Start.Head.Hash[:])
		b = cbor.AppendUint(append(b, 1), uint64(i.Start.Head.Time))
		b = cbor.AppendUint(append(b, 2), i.Start.Epoch)
		b = cbor.AppendBytes(append(b, 3), edge)
	}
	return e.done(b)
}

func (e *binaryEncoder) record(r *chain.Record) ([]byte, error) {
	b := e.frame()
	pairs := 2
	if len(r.Envelope) > 0 {
		pairs++
	}
	if len(r.Beside) > 0 {
		pairs++
	}
	b = cbor.AppendMap(b, pairs)
	b = cbor.AppendUint(append(b, 0), r.Sequence)
	b = cbor.AppendBytes(append(b, 1), r.Header)
	if len(r.Envelope) > 0 {
		b = cbor.AppendBytes(append(b, 2), r.Envelope)
	}
	if len(r.Beside) > 0 {
		b = cbor.AppendBytes(append(b, 3), r.Beside)
	}
	return e.done(b)
}

func (e *binaryEncoder) trailer(t *Trailer) ([]byte, error) {
	b := cbor.AppendMap(e.frame(), 4)
	b = cbor.AppendUint(append(b, 0), t.Head.Size)
	b = cbor.AppendBytes(append(b, 1), t.Head.Hash[:])
	b = cbor.AppendUint(append(b, 2), uint64(t.Head.Time))
	b = cbor.AppendBytes(append(b, 3), t.Root[:])
	return e.done(b)
}

type binaryDecoder struct {
	r   *bufio.Reader
	buf []byte
}

// frame reads a frame; it is valid until the next one. No more memory is taken
// than data came.
func (d *binaryDecoder) frame() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return nil, err
	}
	left := int(binary.BigEndian.Uint32(head[:]))
	if left > MaxFrame {
		return nil, fmt.Errorf("%w: a frame of %d bytes, limit %d", ErrFormat, left, MaxFrame)
	}
	d.buf = d.buf[:0]
	for left > 0 {
		n := min(left, 1<<20)
		d.buf = slices.Grow(d.buf, n)
		at := len(d.buf)
		d.buf = d.buf[:at+n]
		if _, err := io.ReadFull(d.r, d.buf[at:]); err != nil {
			return nil, unexpected(err)
		}
		left -= n
	}
	return d.buf, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fields reads a frame that is a map with the keys 0 to required-1, and optional
// ones up to the function's knowledge; it returns false for a key it does not
// know.
func (d *binaryDecoder) fields(required int, field func(r *cbor.Reader, key uint64) bool) error {
	b, err := d.frame()
	if err != nil {
		return err
	}
	r := cbor.NewReader(b)
	readMap(&r, required, field)
	if err := r.Done(); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}

func readMap(r *cbor.Reader, required int, field func(r *cbor.Reader, key uint64) bool) {
	at := r.Offset()
	seen := 0
	m := r.Map()
	for m.Next() {
		if m.Key() < uint64(required) {
			seen++
		}
		if !field(r, m.Key()) {
			m.Unknown()
		}
	}
	if seen < required {
		r.Fail(at, "a key is missing")
	}
}

func (d *binaryDecoder) info() (Info, error) {
	line := make([]byte, len(magic))
	if _, err := io.ReadFull(d.r, line); err != nil {
		return Info{}, err
	}
	if string(line) != magic {
		return Info{}, fmt.Errorf("%w: it begins with %q", ErrFormat, line)
	}
	var i Info
	var edge []byte
	err := d.fields(3, func(r *cbor.Reader, key uint64) bool {
		switch key {
		case 0:
			r.Fixed(i.ChainID[:])
		case 1:
			i.From = r.Uint()
		case 2:
			i.To = r.Uint()
		case 3:
			if i.From == 0 {
				return false
			}
			i.Start = &chain.Start{ChainID: i.ChainID}
			readMap(r, 4, func(r *cbor.Reader, key uint64) bool {
				switch key {
				case 0:
					r.Fixed(i.Start.Head.Hash[:])
				case 1:
					i.Start.Head.Time = readTime(r)
				case 2:
					i.Start.Epoch = r.Uint()
				case 3:
					edge = r.Bytes()
				default:
					return false
				}
				return true
			})
		default:
			return false
		}
		return true
	})
	if err == nil && i.Start != nil {
		err = openStart(&i, edge)
	}
	return i, err
}

// openStart fills in what follows from where the export begins, and the tree.
func openStart(i *Info, edge []byte) error {
	if len(edge)%32 != 0 {
		return fmt.Errorf("%w: an edge of %d bytes", ErrFormat, len(edge))
	}
	hashes := make([]chain.Hash, len(edge)/32)
	for n := range hashes {
		hashes[n] = chain.Hash(edge[n*32:])
	}
	tree, err := chain.NewTree(i.From, hashes)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	i.Start.Tree, i.Start.Head.Size = tree, i.From
	return nil
}

func appendEdge(b []byte, tree *chain.Tree) []byte {
	for _, h := range tree.Edge() {
		b = append(b, h[:]...)
	}
	return b
}

func readTime(r *cbor.Reader) int64 {
	at := r.Offset()
	v := r.Uint()
	if v > math.MaxInt64 {
		r.Fail(at, "time does not fit 63 bits")
	}
	return int64(v)
}

func (d *binaryDecoder) record() (chain.Record, error) {
	var rec chain.Record
	err := d.fields(2, func(r *cbor.Reader, key uint64) bool {
		switch key {
		case 0:
			rec.Sequence = r.Uint()
		case 1:
			rec.Header = r.Bytes()
		case 2:
			rec.Envelope = notEmpty(r)
		case 3:
			rec.Beside = notEmpty(r)
		default:
			return false
		}
		return true
	})
	return rec, err
}

func notEmpty(r *cbor.Reader) []byte {
	at := r.Offset()
	b := r.Bytes()
	if len(b) == 0 {
		r.Fail(at, "present but empty")
	}
	return b
}

func (d *binaryDecoder) trailer() (Trailer, error) {
	var t Trailer
	err := d.fields(4, func(r *cbor.Reader, key uint64) bool {
		switch key {
		case 0:
			t.Head.Size = r.Uint()
		case 1:
			r.Fixed(t.Head.Hash[:])
		case 2:
			t.Head.Time = readTime(r)
		case 3:
			r.Fixed(t.Root[:])
		default:
			return false
		}
		return true
	})
	return t, err
}

func (d *binaryDecoder) end() error {
	if _, err := d.r.ReadByte(); err == nil {
		return fmt.Errorf("%w: data after the trailer", ErrFormat)
	} else if err != io.EOF {
		return err
	}
	return nil
}
