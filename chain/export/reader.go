package export

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/exonode/exonode/chain"
)

// Reader reads one export of either form, from front to end. It implements
// chain.Source; its records can be read once. It is used by one goroutine at a
// time.
type Reader struct {
	dec     decoder
	info    Info
	next    uint64
	trailer *Trailer
	err     error
}

var _ chain.Source = (*Reader)(nil)

// decoder reads the items of one form. A record is valid until the next item.
// Data that ends early is io.ErrUnexpectedEOF; what can't be read as it should
// wraps ErrFormat or is a *chain.BadEntryError.
type decoder interface {
	info() (Info, error)
	record() (chain.Record, error)
	trailer() (Trailer, error)
	// end returns nil where nothing follows.
	end() error
}

// NewReader reads an export's first item and tells which form it has. The error
// wraps ErrFormat where it is none.
func NewReader(r io.Reader) (*Reader, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	first, err := b.Peek(1)
	if err != nil {
		return nil, formatError(err)
	}
	x := &Reader{dec: &binaryDecoder{r: b}}
	if first[0] == '{' {
		x.dec = &jsonDecoder{r: b}
	}
	if x.info, err = x.dec.info(); err != nil {
		return nil, formatError(err)
	}
	if err := x.info.validate(); err != nil {
		return nil, err
	}
	x.next = x.info.From
	return x, nil
}

// formatError makes the end of the data a format's error.
func formatError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", ErrFormat)
	}
	return err
}

// Info returns what the export says of itself.
func (x *Reader) Info() Info { return x.info }

// Size returns the number of entries of the chain up to the export's end.
func (x *Reader) Size() uint64 { return x.info.To }

// Records yields entries of [from, to); those before from are skipped. Ranges
// must not go back. With the last entry the trailer is read, too, so that an
// export that was cut off is found out.
func (x *Reader) Records(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		if from < x.next || to > x.info.To {
			yield(chain.Record{}, fmt.Errorf("%w: entries %d to %d, next is %d of %d", ErrOrder, from, to, x.next, x.info.To))
			return
		}
		for x.next < to {
			rec, err := x.read(ctx)
			if err != nil {
				yield(chain.Record{}, err)
				return
			}
			if rec.Sequence >= from && !yield(rec, nil) {
				return
			}
		}
		if to == x.info.To {
			if _, err := x.Trailer(); err != nil {
				yield(chain.Record{}, err)
			}
		}
	}
}

func (x *Reader) read(ctx context.Context) (chain.Record, error) {
	if x.err != nil {
		return chain.Record{}, x.err
	}
	if err := ctx.Err(); err != nil {
		return chain.Record{}, err
	}
	rec, err := x.dec.record()
	if err == nil && rec.Sequence != x.next {
		err = fmt.Errorf("%w: entry %d in the place of %d", ErrFormat, rec.Sequence, x.next)
	}
	if err != nil {
		x.err = x.bad(x.next, chain.PartRecord, err)
		return chain.Record{}, x.err
	}
	x.next++
	return rec, nil
}

// Trailer returns what the export says at its end, once all entries were read.
func (x *Reader) Trailer() (Trailer, error) {
	switch {
	case x.err != nil:
		return Trailer{}, x.err
	case x.trailer != nil:
		return *x.trailer, nil
	case x.next != x.info.To:
		return Trailer{}, fmt.Errorf("%w: the trailer comes after entry %d", ErrOrder, x.info.To)
	}
	t, err := x.dec.trailer()
	if err == nil && t.Head.Size != x.info.To {
		err = fmt.Errorf("%w: the trailer names a head of %d entries", ErrFormat, t.Head.Size)
	}
	if err == nil {
		err = x.dec.end()
	}
	if err != nil {
		x.err = x.bad(max(x.info.To, 1)-1, chain.PartHead, err)
		return Trailer{}, x.err
	}
	x.trailer = &t
	return t, nil
}

// bad makes an error about the data one about an entry; errors of reading stay.
func (x *Reader) bad(seq uint64, part chain.Part, err error) error {
	var bad *chain.BadEntryError
	err = formatError(err)
	if errors.As(err, &bad) || !errors.Is(err, ErrFormat) {
		return err
	}
	return &chain.BadEntryError{Sequence: seq, Part: part, Err: err}
}
