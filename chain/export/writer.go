package export

import (
	"bufio"
	"fmt"
	"io"

	"github.com/exonode/exonode/chain"
)

// Writer writes one export. Write each entry of the range in order, then Close.
// After an error all further calls return it; the output is of no use then.
type Writer struct {
	w    *bufio.Writer
	enc  encoder
	info Info
	next uint64
	tree *chain.Tree
	head chain.Head
	err  error
	done bool
}

// encoder writes the items of one form.
type encoder interface {
	info(*Info) ([]byte, error)
	record(*chain.Record) ([]byte, error)
	trailer(*Trailer) ([]byte, error)
}

// NewWriter begins an export of a range. info.Start is not changed.
func NewWriter(w io.Writer, format Format, info Info) (*Writer, error) {
	if err := info.validate(); err != nil {
		return nil, err
	}
	x := &Writer{w: bufio.NewWriterSize(w, 64<<10), info: info, next: info.From, tree: &chain.Tree{}}
	if info.From > 0 {
		x.tree, x.head = info.Start.Tree.Clone(), info.Start.Head
	}
	switch format {
	case Binary:
		x.enc = &binaryEncoder{}
	case JSONLines:
		x.enc = &jsonEncoder{}
	default:
		return nil, fmt.Errorf("export: no format %d", format)
	}
	x.write(x.enc.info(&x.info))
	return x, x.err
}

// Write writes the next entry. It does not verify it, but that its header is one:
// a JSON view could not be made else.
func (x *Writer) Write(rec *chain.Record) error {
	if x.err != nil {
		return x.err
	}
	if rec.Sequence != x.next || rec.Sequence >= x.info.To {
		x.err = fmt.Errorf("%w: entry %d, next is %d of %d", ErrOrder, rec.Sequence, x.next, x.info.To)
		return x.err
	}
	var h chain.Header
	if err := h.UnmarshalBinary(rec.Header); err != nil {
		x.err = fmt.Errorf("export: entry %d: %w", rec.Sequence, err)
		return x.err
	}
	x.write(x.enc.record(rec))
	x.tree.Append(rec.Header, nil)
	x.head = chain.Head{Size: rec.Sequence + 1, Hash: chain.HeaderHash(rec.Header), Time: h.Time}
	x.next++
	return x.err
}

// Close writes the trailer and flushes. It does not close the underlying writer.
// It fails with ErrIncomplete where entries are missing. It may be called twice.
func (x *Writer) Close() error {
	if x.done {
		return x.err
	}
	x.done = true
	if x.err == nil && x.next != x.info.To {
		x.err = fmt.Errorf("%w: %d of %d", ErrIncomplete, x.next-x.info.From, x.info.To-x.info.From)
	}
	if x.err == nil {
		x.write(x.enc.trailer(&Trailer{Head: x.head, Root: x.tree.Root()}))
	}
	if err := x.w.Flush(); err != nil && x.err == nil {
		x.err = fmt.Errorf("export: write: %w", err)
	}
	return x.err
}

func (x *Writer) write(item []byte, err error) {
	if err == nil {
		_, err = x.w.Write(item)
	}
	if err != nil && x.err == nil {
		x.err = fmt.Errorf("export: write: %w", err)
	}
}
