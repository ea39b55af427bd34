package outbox

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// A batch is what one write and one sync make durable.
type batch struct {
	items [][]byte
	size  int64         // of the body
	done  chan struct{} // closed once first and err are set
	first uint64        // the id of items[0]
	err   error
}

// segment is an open file of items.
type segment struct {
	name  string
	file  *sharedFile
	salt  uint32
	first uint64
	last  uint64 // first-1 where it has no items
	size  int64
}

// join adds items to the batch that is to be written next. Who opens a batch
// leads it: takes and commits it once the batches before are through. last is
// how many items the batch has up to the caller's own last one.
func (q *Queue) join(items [][]byte, size int64) (b *batch, leads bool, last uint64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.pending != nil && q.pending.size+size > maxBody {
		full := q.pending
		q.mu.Unlock()
		<-full.done
		q.mu.Lock()
	}
	if q.err != nil {
		return nil, false, 0, q.err
	}
	if q.bytes+size > q.options.MaxBytes {
		return nil, false, 0, fmt.Errorf("outbox: %w: %d bytes wait, at most %d", ErrFull, q.bytes, q.options.MaxBytes)
	}
	q.bytes += size
	if q.pending == nil {
		q.pending = &batch{done: make(chan struct{})}
		leads = true
	}
	q.pending.items = append(q.pending.items, items...)
	q.pending.size += size
	return q.pending, leads, uint64(len(q.pending.items)), nil
}

// take takes the batch that is to be written next. writing is held.
func (q *Queue) take() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.pending
	q.pending = nil
	return b
}

// commit writes a batch and syncs it, then shows its items to readers. The sync
// is the commit point. writing is held.
func (q *Queue) commit(b *batch) {
	defer close(b.done)
	q.mu.Lock()
	err := q.err
	b.first = q.lastID() + 1
	q.mu.Unlock()
	var refs []ref
	if err == nil {
		refs, err = q.write(b)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if err != nil {
		b.err = err
		q.bytes -= b.size
		return
	}
	if len(refs) == 0 {
		return
	}
	q.refs = append(q.refs, refs...)
	q.items += len(refs)
	close(q.grown)
	q.grown = make(chan struct{})
}

// write appends a batch to the newest segment, or to a new one, and syncs it.
// An error breaks the queue. writing is held.
func (q *Queue) write(b *batch) ([]ref, error) {
	q.mu.Lock()
	active, acked, unsynced := q.segments[len(q.segments)-1], q.acked, q.unsynced
	q.mu.Unlock()
	if active.size >= q.options.SegmentBytes && active.last >= active.first {
		next, err := q.createSegment(active.last+1, acked)
		if err != nil {
			return nil, q.broken(err)
		}
		q.mu.Lock()
		q.segments = append(q.segments, next)
		q.mu.Unlock()
		active = next
	}
	text := make([]byte, 0, batchHeader+b.size)
	text = appendBatchHeader(text, active.salt, uint32(b.size), b.first, acked, uint32(len(b.items)))
	refs := make([]ref, len(b.items))
	for i, item := range b.items {
		refs[i] = ref{file: active.file, offset: active.size + int64(len(text)) + recordHeader, size: uint32(len(item))}
		text = appendRecord(text, b.first+uint64(i), item)
	}
	if _, err := active.file.WriteAt(text, active.size); err != nil {
		return nil, q.broken(err)
	}
	if err := active.file.Sync(); err != nil {
		return nil, q.broken(err)
	}
	q.mu.Lock()
	active.size += int64(len(text))
	active.last += uint64(len(b.items))
	q.unsynced -= unsynced
	q.mu.Unlock()
	q.durableAck = acked
	return refs, nil
}

// createSegment makes a segment whose first item will be first. It is synced,
// and its name too, before it takes a batch.
func (q *Queue) createSegment(first, acked uint64) (*segment, error) {
	s := &segment{name: segmentName(first), salt: newSalt(), first: first, last: first - 1, size: segmentHeader}
	f, _, err := q.fs.Open(s.name, true)
	if err != nil {
		return nil, err
	}
	s.file = &sharedFile{File: f}
	if _, err = f.WriteAt(appendSegmentHeader(nil, first, acked, s.salt), 0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = q.fs.Sync()
	}
	if err != nil {
		_ = f.Close() // the error that matters is at hand
		return nil, err
	}
	return s, nil
}

func newSalt() uint32 {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint32(b[:])
}

// broken ends the queue's work: after a failed write or sync nobody knows what
// is on disk, and a second sync may report success for what the first one lost.
func (q *Queue) broken(cause error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		q.err = fmt.Errorf("%w: %w", ErrBroken, cause)
		close(q.grown)
		q.grown = make(chan struct{})
	}
	return q.err
}

// removable returns how many segments have no item that waits. The newest one
// always stays. q.mu is held.
func (q *Queue) removable() int {
	n := 0
	for n < len(q.segments)-1 && q.segments[n].last <= q.acked {
		n++
	}
	return n
}

// compact makes acknowledgements durable and then removes segments that they
// cover; the other way round, a crash in between would leave a gap. q.writing
// is held.
func (q *Queue) compact() error {
	if err := q.writeAck(); err != nil {
		return err
	}
	q.mu.Lock()
	if q.err != nil {
		defer q.mu.Unlock()
		return q.err
	}
	n := 0
	for n < len(q.segments)-1 && q.segments[n].last <= q.durableAck {
		n++
	}
	old := q.segments[:n]
	q.segments = q.segments[n:]
	q.mu.Unlock()
	for _, s := range old {
		q.retire(s.file)
		if err := q.fs.Remove(s.name); err != nil {
			return q.broken(err)
		}
	}
	// Not synced: a file that comes back after a crash holds acknowledged
	// items only, and Open removes it.
	return nil
}

// writeAck makes what was acknowledged durable, with a batch without items.
// writing is held.
func (q *Queue) writeAck() error {
	q.mu.Lock()
	acked, err := q.acked, q.err
	first := q.lastID() + 1
	q.mu.Unlock()
	if err != nil || acked == q.durableAck {
		return err
	}
	_, err = q.write(&batch{first: first})
	return err
}
