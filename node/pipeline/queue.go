package pipeline

import (
	"slices"
	"sync"

	"github.com/exonode/exonode/api"
)

// queue holds items in the order of their tickets.
type queue struct {
	maxItems, maxBytes int
	// wake has one element where there is something new.
	wake chan struct{}

	mu     sync.Mutex // guards the fields below
	items  []*item    // from head on
	head   int
	bytes  int
	ticket uint64
	closed bool
	// bound is how many of the items are, and given how many were given
	// up, at the most, since the last sweep.
	bound, given int
}

func newQueue(maxItems, maxBytes int) *queue {
	return &queue{maxItems: maxItems, maxBytes: maxBytes, wake: make(chan struct{}, 1)}
}

func (q *queue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// push appends all items or none.
func (q *queue) push(items []*item) error {
	size := 0
	for _, it := range items {
		size += it.size
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return errStopping
	case q.full(len(items), size):
		return &api.Error{
			Code:             api.QueueFull,
			Message:          "the node's queue is full",
			Hint:             "send slower, or again after the given time; nothing of this request was written",
			RetryAfterMillis: 100,
		}
	}
	for _, it := range items {
		q.ticket++
		it.ticket = q.ticket
		q.insert(it)
	}
	q.notify()
	return nil
}

// full reports whether so much more does not fit. What was given up makes room.
// q.mu is held.
func (q *queue) full(items, bytes int) bool {
	over := func() bool { return len(q.items)-q.head+items > q.maxItems || q.bytes+bytes > q.maxBytes }
	if q.given > 0 && over() {
		q.sweep()
	}
	return over()
}

// entered and left account for an item. q.mu is held.
func (q *queue) entered(it *item) {
	q.bytes += it.size
	if it.bound {
		q.bound++
	}
}

func (q *queue) left(it *item) {
	q.bytes -= it.size
	if it.bound {
		q.bound--
	}
}

// insert appends, or puts an event of elevated priority before the others.
func (q *queue) insert(it *item) {
	q.entered(it)
	if it.proposal.Priority == 0 {
		q.items = append(q.items, it)
		return
	}
	at := q.head
	for at < len(q.items) && q.items[at].proposal.Priority > 0 {
		at++
	}
	q.items = slices.Insert(q.items, at, it)
}

// restore puts items that were taken back where they were.
func (q *queue) restore(items []*item) {
	if len(items) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	rest := append(items, q.items[q.head:]...)
	slices.SortStableFunc(rest, func(a, b *item) int {
		if a.proposal.Priority != b.proposal.Priority {
			return int(b.proposal.Priority) - int(a.proposal.Priority)
		}
		switch {
		case a.ticket < b.ticket:
			return -1
		case a.ticket > b.ticket:
			return 1
		}
		return 0
	})
	for _, it := range items {
		q.entered(it)
	}
	q.items, q.head = rest, 0
	q.notify()
}

// take removes items from the front, up to maxBytes of them and at least one.
// An item for which alone is true is taken by itself.
func (q *queue) take(maxBytes int, alone func(*item) bool) []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	size, n := 0, 0
	for q.head+n < len(q.items) {
		it := q.items[q.head+n]
		if n > 0 && (size+it.size > maxBytes || alone(it)) {
			break
		}
		size += it.size
		n++
		if alone(it) {
			break
		}
	}
	if n == 0 {
		return nil
	}
	taken := slices.Clone(q.items[q.head : q.head+n])
	clear(q.items[q.head : q.head+n])
	q.head += n
	for _, it := range taken {
		q.left(it)
	}
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	} else if q.head > 1024 && q.head > len(q.items)/2 {
		q.items = slices.Delete(q.items, 0, q.head)
		q.head = 0
	}
	return taken
}

// forget is told that callers gave so many items up. They go once they are many,
// so that a full queue whose callers leave one by one is not walked each time.
func (q *queue) forget(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.given += n; 4*q.given >= len(q.items)-q.head {
		q.sweep()
	}
}

// sweep removes items that their callers gave up. q.mu is held.
func (q *queue) sweep() {
	q.remove(func(it *item) bool { return it.state.Load() == cancelled || it.gone.Load() })
	q.given = 0
}

// remove removes and returns the items that match. q.mu is held.
func (q *queue) remove(match func(*item) bool) (removed []*item) {
	rest := q.items[:0]
	for _, it := range q.items[q.head:] {
		if match(it) {
			q.left(it)
			removed = append(removed, it)
			continue
		}
		rest = append(rest, it)
	}
	clear(q.items[len(rest):])
	q.items, q.head = rest, 0
	return removed
}

// takeBound removes and returns the items that are bound to this node.
func (q *queue) takeBound() []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.bound == 0 {
		return nil
	}
	return q.remove(func(it *item) bool { return it.bound })
}

// takeUnsent removes and returns clients' items whose outcome is not open.
func (q *queue) takeUnsent() []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.remove(func(it *item) bool { return !it.open && !it.internal })
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items) - q.head
}

// close refuses what comes and returns what is left.
func (q *queue) close() []*item {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	left := q.items[q.head:]
	q.items, q.head, q.bytes, q.bound, q.given = nil, 0, 0, 0, 0
	return left
}
