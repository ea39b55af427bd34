package export

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/view"
)

// The JSON form is one object a line: the info, then one for each entry with its
// exact bytes in base64 and its view, then the trailer.

type jsonInfo struct {
	Format string     `json:"format"`
	Chain  chain.ID   `json:"chain"`
	From   uint64     `json:"from"`
	To     uint64     `json:"to"`
	Start  *jsonStart `json:"start,omitempty"`
}

type jsonStart struct {
	Hash  chain.Hash `json:"hash"`
	Time  string     `json:"time"`
	Epoch uint64     `json:"epoch"`
	Edge  []byte     `json:"edge"`
}

type jsonRecord struct {
	Sequence uint64          `json:"sequence"`
	Header   []byte          `json:"header"`
	Envelope []byte          `json:"envelope,omitempty"`
	Beside   []byte          `json:"beside,omitempty"`
	Entry    json.RawMessage `json:"entry,omitempty"`
}

type jsonTrailer struct {
	Size uint64     `json:"size"`
	Hash chain.Hash `json:"hash"`
	// Time is absent of an empty chain.
	Time string     `json:"time,omitempty"`
	Root chain.Hash `json:"root"`
}

type jsonEncoder struct{ buf bytes.Buffer }

func (e *jsonEncoder) line(v any) ([]byte, error) { return encodeLine(&e.buf, v) }

// encodeLine encodes v with a newline, without the escapes that HTML needs.
func encodeLine(buf *bytes.Buffer, v any) ([]byte, error) {
	buf.Reset()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func (e *jsonEncoder) info(i *Info) ([]byte, error) {
	j := jsonInfo{Format: formatName, Chain: i.ChainID, From: i.From, To: i.To}
	if i.From > 0 {
		j.Start = &jsonStart{
			Hash: i.Start.Head.Hash, Time: view.Time(i.Start.Head.Time), Epoch: i.Start.Epoch,
			Edge: appendEdge([]byte{}, i.Start.Tree),
		}
	}
	return e.line(&j)
}

func (e *jsonEncoder) record(r *chain.Record) ([]byte, error) {
	entry, err := viewOf(r)
	if err != nil {
		return nil, err
	}
	return e.line(&jsonRecord{Sequence: r.Sequence, Header: r.Header, Envelope: r.Envelope, Beside: r.Beside, Entry: entry})
}

func (e *jsonEncoder) trailer(t *Trailer) ([]byte, error) {
	j := jsonTrailer{Size: t.Head.Size, Hash: t.Head.Hash, Root: t.Root}
	if t.Head.Size > 0 {
		j.Time = view.Time(t.Head.Time)
	}
	return e.line(&j)
}

// viewOf returns the view of a record as it stands in a line.
func viewOf(r *chain.Record) ([]byte, error) {
	e, err := r.Decode()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	line, err := encodeLine(&buf, view.New(&e))
	return bytes.TrimSuffix(line, []byte("\n")), err
}

type jsonDecoder struct {
	r     *bufio.Reader
	buf   []byte
	again bytes.Buffer
}

// line reads a line into v. A line must be what v is when it is written again,
// byte by byte: unknown members, names in other cases, other base64 of the same
// bytes, white space are refused, and a last line without its end.
func (d *jsonDecoder) line(v any) error {
	d.buf = d.buf[:0]
	for {
		part, err := d.r.ReadSlice('\n')
		d.buf = append(d.buf, part...)
		if len(d.buf) > 4*MaxFrame {
			return fmt.Errorf("%w: a line of more than %d bytes", ErrFormat, 4*MaxFrame)
		}
		if err == nil {
			break
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err == io.EOF && len(d.buf) > 0 {
			return fmt.Errorf("%w: the last line has no end", ErrFormat)
		}
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(d.buf))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, unexpected(err))
	}
	again, err := encodeLine(&d.again, v)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if !bytes.Equal(d.buf, again) {
		return fmt.Errorf("%w: a line is not as it is written", ErrFormat)
	}
	return nil
}

func (d *jsonDecoder) info() (Info, error) {
	var j jsonInfo
	if err := d.line(&j); err != nil {
		return Info{}, err
	}
	if j.Format != formatName {
		return Info{}, fmt.Errorf("%w: format is %q", ErrFormat, j.Format)
	}
	i := Info{ChainID: j.Chain, From: j.From, To: j.To}
	if (j.Start != nil) != (i.From > 0) {
		return Info{}, fmt.Errorf("%w: a start goes with entries from %d on", ErrFormat, i.From)
	}
	if j.Start == nil {
		return i, nil
	}
	t, err := parseTime(j.Start.Time)
	if err != nil {
		return Info{}, err
	}
	i.Start = &chain.Start{ChainID: j.Chain, Epoch: j.Start.Epoch, Head: chain.Head{Hash: j.Start.Hash, Time: t}}
	return i, openStart(&i, j.Start.Edge)
}

func (d *jsonDecoder) record() (chain.Record, error) {
	var j jsonRecord
	if err := d.line(&j); err != nil {
		return chain.Record{}, err
	}
	rec := chain.Record{Sequence: j.Sequence, Header: j.Header, Envelope: j.Envelope, Beside: j.Beside}
	return rec, checkView(&rec, j.Entry)
}

// checkView compares what a line shows with the bytes beside it: auditors read
// the view, so it must not lie. Where the bytes can't be decoded, verification says so; a line without
// a view is fine.
func checkView(rec *chain.Record, got json.RawMessage) error {
	if len(got) == 0 {
		return nil
	}
	want, err := viewOf(rec)
	if err == nil && !bytes.Equal(got, want) {
		return &chain.BadEntryError{Sequence: rec.Sequence, Part: PartView,
			Err: errors.New("the readable view does not say what the entry's bytes say")}
	}
	return nil
}

func (d *jsonDecoder) trailer() (Trailer, error) {
	var j jsonTrailer
	if err := d.line(&j); err != nil {
		return Trailer{}, err
	}
	t := Trailer{Head: chain.Head{Size: j.Size, Hash: j.Hash}, Root: j.Root}
	if j.Size == 0 && j.Time == "" {
		return t, nil
	}
	var err error
	t.Head.Time, err = parseTime(j.Time)
	return t, err
}

func (d *jsonDecoder) end() error {
	if _, err := d.r.ReadByte(); err != io.EOF {
		return errors.Join(fmt.Errorf("%w: data after the trailer", ErrFormat), err)
	}
	return nil
}

// parseTime is the inverse of view.Time. The library's parser takes more.
func parseTime(s string) (int64, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	n := t.UnixNano()
	if view.Time(n) != s {
		return 0, fmt.Errorf("%w: time %q is not as it is written", ErrFormat, s)
	}
	return n, nil
}
