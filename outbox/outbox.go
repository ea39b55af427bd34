// Package outbox is a small queue of byte strings on disk. What Append returned
// for is synced, and comes out in order until it is acknowledged, whatever
// crashes in between; it may come out again after a crash, so items need an id
// by which their receiver knows them.
//
// A node keeps in it what it witnesses of itself before the cluster can take
// it, the client and the bridge what they could not deliver yet. It knows
// nothing of what the items mean, and has no goroutine of its own.
package outbox

import (
	"errors"
	"fmt"
	"iter"
	"sync"
)

// Errors of a Queue.
var (
	// ErrFull: the items that wait take up Options.MaxBytes. Try again once
	// some are acknowledged.
	ErrFull = errors.New("outbox is full")
	// ErrTooLarge: the item is above MaxItem. Send less.
	ErrTooLarge = errors.New("outbox item is too large")
	// ErrLocked: another process, or another Queue, has the directory open.
	ErrLocked = errors.New("outbox is in use")
	// ErrClosed: the queue was closed.
	ErrClosed = errors.New("outbox is closed")
	// ErrBroken: a write or a sync failed, so what is on disk is not known.
	// It wraps the cause. Close the queue and open it again.
	ErrBroken = errors.New("outbox is broken")
)

// MaxItem is the most bytes that an item may have.
const MaxItem = 8 << 20

// Options say how large a queue may grow. The zero Options are good.
type Options struct {
	// MaxBytes bounds the items that wait, 8 bytes added to each; 0 is
	// 256 MiB. On disk, a segment or two come on top.
	MaxBytes int64
	// SegmentBytes is the size at which a new file is begun; 0 is 4 MiB.
	SegmentBytes int64
	// Wrap, where not nil, stands between the queue and the file system, to
	// inject faults.
	Wrap func(FS) FS
}

// Item is one item with its id.
type Item struct {
	// ID counts the items of a queue from 1.
	ID   uint64
	Data []byte
}

// Recovery is what Open had to drop: the end of the newest file, torn by a
// crash before Append returned.
type Recovery struct {
	// File and Offset say where; File is "" where nothing was dropped.
	File   string
	Offset int64
	Bytes  int64
}

// Queue is an open outbox. Its methods are safe for concurrent use.
//
// Locks are taken in the order writing, mu.
type Queue struct {
	fs      FS
	unlock  func() error
	options Options

	// writing is a lock: full while held. It serialises what changes files:
	// a batch, an acknowledgement, Scrub, Close; its holder alone changes
	// segments and durableAck. It is a channel since it is held during I/O,
	// and who waits for a channel is blocked in the eyes of testing/synctest.
	writing    chan struct{}
	durableAck uint64 // the newest acknowledgement that is synced

	// mu guards what follows. It is never held during I/O.
	mu       sync.Mutex
	segments []*segment // by first id; the last one is written to
	pending  *batch     // not yet taken by its leader, nil if none
	refs     []ref      // where item acked+1+i lies
	acked    uint64
	bytes    int64         // cost of the items that wait, pending ones included
	items    int           // how many of refs hold an item
	grown    chan struct{} // closed and replaced when items come, or at the end
	err      error         // ErrClosed or ErrBroken; for good
	recovery Recovery
	unsynced int64 // cost of what was acknowledged since durableAck
}

// ref says where an item lies. A removed item has no file.
type ref struct {
	file   *sharedFile
	offset int64
	size   uint32
}

// cost is what an item counts towards MaxBytes.
func (r ref) cost() int64 {
	if r.file == nil {
		return 0
	}
	return int64(r.size) + recordHeader
}

// Append adds items and returns the id of the last one, once all of them are
// synced. They stay together and in order. Concurrent calls share one sync.
// After an error the items may be in the queue or not; with ErrFull, ErrTooLarge
// and ErrClosed they are not. Append does not keep the items.
func (q *Queue) Append(items ...[]byte) (lastID uint64, err error) {
	if len(items) == 0 {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.lastID(), q.err
	}
	var size int64
	for _, item := range items {
		if len(item) > MaxItem {
			return 0, fmt.Errorf("outbox: %w: %d bytes, at most %d", ErrTooLarge, len(item), MaxItem)
		}
		size += int64(len(item)) + recordHeader
	}
	if size > maxBody {
		return 0, fmt.Errorf("outbox: %w: %d bytes together, at most %d", ErrTooLarge, size, maxBody)
	}
	b, leads, last, err := q.join(items, size)
	if err != nil {
		return 0, err
	}
	if leads {
		q.writing <- struct{}{}
		q.commit(q.take())
		<-q.writing
	}
	<-b.done
	if b.err != nil {
		return 0, b.err
	}
	return b.first + last - 1, nil
}

// Items yields the items with an id above after, oldest first, up to those that
// were there when each was due. Data is the caller's. An error ends it.
func (q *Queue) Items(after uint64) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		for {
			id, r, err := q.next(after)
			if err != nil {
				yield(Item{}, err)
				return
			}
			if r.file == nil {
				return
			}
			data, err := r.read(id)
			q.release(r.file)
			if err != nil {
				yield(Item{}, fmt.Errorf("outbox: item %d: %w", id, err))
				return
			}
			if !yield(Item{ID: id, Data: data}, nil) {
				return
			}
			after = id
		}
	}
}

// Peek returns the oldest items, at most n of them.
func (q *Queue) Peek(n int) ([]Item, error) {
	if n <= 0 {
		return nil, nil
	}
	var items []Item
	for item, err := range q.Items(0) {
		if err != nil {
			return nil, err
		}
		if items = append(items, item); len(items) == n {
			break
		}
	}
	return items, nil
}

// next returns the first item above after, its file held for the caller; the
// zero ref where there is none.
func (q *Queue) next(after uint64) (uint64, ref, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil {
		return 0, ref{}, q.err
	}
	after = max(after, q.acked)
	for ; after < q.lastID(); after++ {
		if r := q.refs[after-q.acked]; r.file != nil {
			r.file.users++
			return after + 1, r, nil
		}
	}
	return 0, ref{}, nil
}

// lastID returns the id of the newest item that is synced. q.mu is held.
func (q *Queue) lastID() uint64 { return q.acked + uint64(len(q.refs)) }

// Ack drops every item up to an id: they were delivered. It returns at once but
// where files are to be removed. After a crash, items that were acknowledged
// shortly before may come again.
func (q *Queue) Ack(upTo uint64) error {
	q.mu.Lock()
	if q.err != nil {
		defer q.mu.Unlock()
		return q.err
	}
	if last := q.lastID(); upTo > last {
		q.mu.Unlock()
		return fmt.Errorf("outbox: acknowledged item %d, the last is %d", upTo, last)
	}
	for q.acked < upTo {
		if r := q.refs[0]; r.file != nil {
			q.items--
			q.bytes -= r.cost()
			q.unsynced += r.cost()
		}
		q.refs = q.refs[1:]
		q.acked++
	}
	due := q.unsynced >= q.options.SegmentBytes/16 || q.removable() > 0
	q.mu.Unlock()
	if !due {
		return nil
	}
	q.writing <- struct{}{}
	defer func() { <-q.writing }()
	return q.compact()
}

// Len returns how many items wait.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.items
}

// Ready returns a channel that is closed once there is an item with an id above
// after, or the queue is closed or broken, which Items tells.
func (q *Queue) Ready(after uint64) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err != nil || q.lastID() > max(after, q.acked) {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return q.grown
}

// Recovery returns what Open dropped.
func (q *Queue) Recovery() Recovery { return q.recovery }

// Close makes acknowledgements durable and closes the queue. What is being
// written ends first; Appends that have not begun get ErrClosed, and so does
// every later call. A second Close does nothing.
func (q *Queue) Close() error {
	q.writing <- struct{}{}
	defer func() { <-q.writing }()
	q.mu.Lock()
	closed := errors.Is(q.err, ErrClosed)
	broken := q.err != nil
	q.mu.Unlock()
	if closed {
		return nil
	}
	// A batch that waits for its leader gets the error from commit.
	var err error
	if !broken {
		err = q.writeAck()
	}
	q.mu.Lock()
	q.err = fmt.Errorf("outbox: %w", ErrClosed)
	close(q.grown)
	q.grown = make(chan struct{})
	segments := q.segments
	q.segments = nil
	q.mu.Unlock()
	for _, s := range segments {
		q.retire(s.file)
	}
	return errors.Join(err, q.unlock())
}
