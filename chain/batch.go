package chain

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// batchBytes bounds what a batch holds, but for one entry that is larger.
// entryBytes is what an entry is given in the batches of a chain that is too
// short to need as much.
const (
	batchBytes = 1 << 20
	entryBytes = 16 << 10
)

// pipeline carries batches from one reader over the workers to the verifier,
// and back. Each batch is sent on jobs and on ordered; its done tells that a
// worker is through with it. All channels have room for every batch and for the
// one that carries an error when none is free, so nothing but waiting for a free
// batch blocks the reader.
type pipeline struct {
	free, jobs, ordered chan *batch
	unmade              int // batches that may still be made; the reader's
	width, bytes        int // of a batch
}

func newPipeline(workers int, total uint64) *pipeline {
	n := 2*workers + 1
	return &pipeline{
		free: make(chan *batch, n+1), jobs: make(chan *batch, n+1), ordered: make(chan *batch, n+1),
		unmade: n,
		width:  int(min(total, TileWidth)),
		bytes:  int(min(total, batchBytes/entryBytes)) * entryBytes,
	}
}

// batch holds up to TileWidth consecutive entries, those of one tile of level 0
// where they fit. Its memory is used again.
type batch struct {
	n       int
	entries []Entry
	bad     []*BadEntryError // what the worker found
	// arena holds the copied bytes of the records; it never grows while it
	// is in use, since records point into it.
	arena []byte
	// decoded envelopes, to which entries point.
	envelopes, besides []Envelope
	leaves             []byte // leaf hashes
	perfect            bool   // the entries are a whole tile; root is theirs
	root               Hash
	err                error // ended the source after these entries
	done               chan struct{}
}

func newBatch(width int) *batch {
	return &batch{
		entries: make([]Entry, width), bad: make([]*BadEntryError, width),
		envelopes: make([]Envelope, width), besides: make([]Envelope, width),
		leaves: make([]byte, 0, width*hashSize), done: make(chan struct{}, 1),
	}
}

func (b *batch) reset(size int) {
	b.n, b.err, b.perfect, b.arena = 0, nil, false, b.arena[:0]
	if cap(b.arena) != size {
		b.arena = make([]byte, 0, size)
	}
}

// add copies a record; it returns false where the batch is full.
func (b *batch) add(rec *Record) bool {
	size := len(rec.Header) + len(rec.Envelope) + len(rec.Beside)
	if size > cap(b.arena)-len(b.arena) {
		if b.n > 0 {
			return false
		}
		b.arena = make([]byte, 0, size)
	}
	e := &b.entries[b.n]
	e.Record.Sequence = rec.Sequence
	e.Record.Header = b.keep(rec.Header)
	e.Record.Envelope = b.keep(rec.Envelope)
	e.Record.Beside = b.keep(rec.Beside)
	b.n++
	return true
}

// keep copies bytes to the arena; an empty slice becomes nil.
func (b *batch) keep(p []byte) []byte {
	if len(p) == 0 {
		return nil
	}
	at := len(b.arena)
	b.arena = append(b.arena, p...)
	return b.arena[at:len(b.arena):len(b.arena)]
}

func (b *batch) leaf(i int) Hash { return Hash(b.leaves[i*hashSize:]) }

// read fills batches from the source until it ends, fails, or ctx is done.
func (p *pipeline) read(ctx context.Context, src Source, from, to uint64) {
	defer close(p.ordered)
	defer close(p.jobs)
	b := p.next(ctx)
	seq := from
	for rec, err := range src.Records(ctx, from, to) {
		if b == nil {
			break
		}
		if err != nil {
			p.end(b, err)
			return
		}
		if seq == to {
			break
		}
		if !b.add(&rec) {
			p.send(b)
			if b = p.next(ctx); b == nil {
				break
			}
			b.add(&rec)
		}
		if seq++; seq%TileWidth == 0 {
			p.send(b)
			b = p.next(ctx)
		}
	}
	p.end(b, ctx.Err())
}

// next returns a free batch, or nil once ctx is done.
func (p *pipeline) next(ctx context.Context) *batch {
	var b *batch
	select {
	case b = <-p.free:
	default:
	}
	if b == nil && p.unmade > 0 {
		p.unmade--
		b = newBatch(p.width)
	}
	if b == nil {
		select {
		case b = <-p.free:
		case <-ctx.Done():
			return nil
		}
	}
	b.reset(p.bytes)
	return b
}

func (p *pipeline) send(b *batch) {
	p.jobs <- b
	p.ordered <- b
}

// end sends the last batch, with the error that ended reading, if any; b is nil
// where ctx was done before one was free.
func (p *pipeline) end(b *batch, err error) {
	if b == nil {
		b = newBatch(0)
	}
	b.err = err
	p.send(b)
}

// work checks batches until there are no more.
func (p *pipeline) work() {
	for b := range p.jobs {
		b.check()
		b.done <- struct{}{}
	}
}

// check decodes and hashes each entry by itself, and the tile that they make.
func (b *batch) check() {
	b.leaves = b.leaves[:0]
	for i := range b.entries[:b.n] {
		e := &b.entries[i]
		b.bad[i] = b.checkEntry(e, i)
		leaf := LeafHash(e.Record.Header)
		b.leaves = append(b.leaves, leaf[:]...)
	}
	if b.n == TileWidth {
		b.perfect, b.root = true, perfectRoot(b.leaves)
	}
}

// checkEntry decodes an entry, and checks envelopes against what the header
// says of them.
func (b *batch) checkEntry(e *Entry, i int) *BadEntryError {
	bad := func(part Part, err error) *BadEntryError {
		return &BadEntryError{Sequence: e.Record.Sequence, Part: part, Err: err}
	}
	e.Envelope, e.Beside = nil, nil
	e.Hash = HeaderHash(e.Record.Header)
	if err := e.Header.UnmarshalBinary(e.Record.Header); err != nil {
		return bad(PartHeader, err)
	}
	h := &e.Header
	if e.Record.Envelope != nil {
		if EnvelopeHash(e.Record.Envelope) != h.Envelope.Hash {
			return bad(PartEnvelope, errors.New("does not have the hash that the header names"))
		}
		e.Envelope = &b.envelopes[i]
		if err := e.Envelope.UnmarshalBinary(e.Record.Envelope); err != nil {
			return bad(PartEnvelope, err)
		}
		if n := uint64(len(e.Envelope.Payload)); n != h.Envelope.Size {
			return bad(PartEnvelope, fmt.Errorf("payload of %d bytes, the header says %d", n, h.Envelope.Size))
		}
	}
	escalation := h.Kind == kindEscalate && h.Workspace == systemWorkspace
	switch {
	case e.Record.Beside == nil:
		return nil
	case !escalation || e.Envelope == nil:
		return bad(PartBeside, errors.New("only an escalation keeps a second envelope"))
	}
	want, err := besideHash(e.Envelope.Payload)
	if err != nil {
		return bad(PartEnvelope, err)
	}
	if EnvelopeHash(e.Record.Beside) != want {
		return bad(PartBeside, errors.New("does not have the hash that the escalation names"))
	}
	e.Beside = &b.besides[i]
	if err := e.Beside.UnmarshalBinary(e.Record.Beside); err != nil {
		return bad(PartBeside, err)
	}
	return nil
}

// redactTarget returns the sequence that a chain.redact payload names.
func redactTarget(payload []byte) (uint64, error) {
	return uintMember(payload, "target_seq")
}

// besideHash returns the envelope hash that a governance.escalate payload names.
func besideHash(payload []byte) (Hash, error) {
	return hashMember(payload, "envelope_hash")
}

// checkRecovery checks that a chain.recover payload says of its own entry, and of the
// one before it, what their headers say.
func checkRecovery(h *Header, payload []byte) error {
	epoch, err := uintMember(payload, "epoch")
	if err != nil {
		return err
	}
	last, err := uintMember(payload, "last_seq")
	if err != nil {
		return err
	}
	hash, err := hashMember(payload, "head_hash")
	if err != nil {
		return err
	}
	if epoch != h.Epoch || last != h.Sequence-1 || hash != h.Previous {
		return fmt.Errorf("its payload names epoch %d after entry %d with hash %v; it is of epoch %d after entry %d with hash %v",
			epoch, last, hash, h.Epoch, h.Sequence-1, h.Previous)
	}
	return nil
}

func uintMember(payload []byte, name string) (uint64, error) {
	raw, err := member(payload, name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(string(raw), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("payload: %s: %w", name, err)
	}
	return n, nil
}

func hashMember(payload []byte, name string) (Hash, error) {
	raw, err := member(payload, name)
	if err != nil {
		return Hash{}, err
	}
	text := bytes.Trim(raw, `"`)
	var h Hash
	if len(raw) != len(text)+2 || len(text) != hex.EncodedLen(len(h)) {
		return Hash{}, fmt.Errorf("payload: %s is not a string of 64 hex digits", name)
	}
	if err := h.UnmarshalText(text); err != nil {
		return Hash{}, fmt.Errorf("payload: %s: %w", name, err)
	}
	return h, nil
}

// member returns the raw value of a JSON object's member, by its exact name.
func member(payload []byte, name string) (json.RawMessage, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(payload, &object); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	raw, ok := object[name]
	if !ok {
		return nil, fmt.Errorf("payload: no member %s", name)
	}
	return raw, nil
}
