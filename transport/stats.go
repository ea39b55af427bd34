package transport

import (
	"sync"
	"sync/atomic"
	"time"
)

// Stats is a snapshot of the transport's counters since New.
type Stats struct {
	// Classes holds the counters of each class, in the order raft, call,
	// fetch, join.
	Classes []ClassStats
	// RTT is the smoothed round trip of raft heartbeats by peer's node id.
	RTT map[string]time.Duration
	// Connections is how many are open now, both ways.
	Connections int
	// Overload counts connections dropped unseen because too many were in
	// their handshake.
	Overload uint64
	// Handshakes counts TLS handshakes that failed, as a stranger's do.
	Handshakes uint64
}

// ClassStats are the counters of one class.
type ClassStats struct {
	Class             Class
	BytesIn, BytesOut uint64
	// Sent counts RPCs or calls sent, Served those answered.
	Sent, Served uint64
	// Dialed, DialFailed and Accepted count connections; Refused those
	// turned away once their peer was known.
	Dialed, DialFailed, Accepted, Refused uint64
}

type classCounters struct {
	bytesIn, bytesOut, sent, served       atomic.Uint64
	dialed, dialFailed, accepted, refused atomic.Uint64
}

// counters are all that Stats reports.
type counters struct {
	raft, call, fetch, join classCounters
	overload, handshakes    atomic.Uint64
	rtt                     sync.Map // node id -> *atomic.Int64, nanoseconds
}

func (c *counters) class(class Class) *classCounters {
	switch class {
	case ClassRaft:
		return &c.raft
	case ClassCall:
		return &c.call
	case ClassFetch:
		return &c.fetch
	default:
		return &c.join
	}
}

// observeRTT folds a round trip into the peer's average, weighing it an eighth
// as RFC 6298 does.
func (c *counters) observeRTT(nodeID string, d time.Duration) {
	v, ok := c.rtt.Load(nodeID)
	if !ok {
		v, _ = c.rtt.LoadOrStore(nodeID, new(atomic.Int64))
	}
	avg := v.(*atomic.Int64)
	if old := avg.Load(); old != 0 {
		d = time.Duration(old) + (d-time.Duration(old))/8
	}
	avg.Store(int64(d)) // one heartbeat goroutine a peer; a lost update is harmless
}

// Stats returns the counters as they are now.
func (t *Transport) Stats() Stats {
	s := Stats{
		RTT:        make(map[string]time.Duration),
		Overload:   t.counters.overload.Load(),
		Handshakes: t.counters.handshakes.Load(),
	}
	for _, class := range []Class{ClassRaft, ClassCall, ClassFetch, ClassJoin} {
		c := t.counters.class(class)
		s.Classes = append(s.Classes, ClassStats{
			Class:   class,
			BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(),
			Sent: c.sent.Load(), Served: c.served.Load(),
			Dialed: c.dialed.Load(), DialFailed: c.dialFailed.Load(),
			Accepted: c.accepted.Load(), Refused: c.refused.Load(),
		})
	}
	t.counters.rtt.Range(func(k, v any) bool {
		s.RTT[k.(string)] = time.Duration(v.(*atomic.Int64).Load())
		return true
	})
	t.mu.Lock()
	s.Connections = len(t.conns)
	t.mu.Unlock()
	return s
}
