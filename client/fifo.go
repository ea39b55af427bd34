package client

// fifo is a queue of calls. The zero value is empty.
type fifo struct {
	buf  []*call
	head int
}

func (q *fifo) len() int     { return len(q.buf) - q.head }
func (q *fifo) front() *call { return q.buf[q.head] }

func (q *fifo) push(k *call) {
	if len(q.buf) == cap(q.buf) && q.head > len(q.buf)/2 {
		n := copy(q.buf, q.buf[q.head:])
		clear(q.buf[n:])
		q.buf, q.head = q.buf[:n], 0
	}
	q.buf = append(q.buf, k)
}

func (q *fifo) pop() *call {
	k := q.buf[q.head]
	q.buf[q.head] = nil
	q.head++
	if q.head == len(q.buf) {
		q.buf, q.head = q.buf[:0], 0
	}
	return k
}

// takeAll empties the queue into a new slice.
func (q *fifo) takeAll() []*call {
	all := append([]*call(nil), q.buf[q.head:]...)
	clear(q.buf)
	q.buf, q.head = q.buf[:0], 0
	return all
}

// prepend puts calls before the queue's front, in their order.
func (q *fifo) prepend(calls []*call) {
	if len(calls) == 0 {
		return
	}
	q.buf = append(calls[:len(calls):len(calls)], q.buf[q.head:]...)
	q.head = 0
}
