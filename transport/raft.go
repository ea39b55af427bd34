package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Raft turns pre-vote off, with no more than a log line, on a transport whose
// type does not offer it.
var (
	_ raft.Transport   = (*RaftTransport)(nil)
	_ raft.WithPreVote = (*RaftTransport)(nil)
	_ raft.WithClose   = (*RaftTransport)(nil)
)

const (
	// idlePerPeer is how many unused connections to a peer are kept: one
	// for heartbeats, one for appends, one for votes.
	idlePerPeer = 3
	// timeoutScale is how many bytes of a snapshot have Limits.RPC to
	// arrive.
	timeoutScale = 256 << 10
)

// RaftTransport is the raft.Transport of one raft instance: a session over the
// node's transport. Server addresses are node ids. Every RPC under way has a
// connection of its own, so that a heartbeat never waits behind an append.
type RaftTransport struct {
	t      *Transport
	ctx    context.Context // ends with the session
	cancel context.CancelFunc

	consumer chan raft.RPC
	beat     atomic.Pointer[func(raft.RPC)]

	mu   sync.Mutex // guards idle
	idle map[raft.ServerID][]*raftConn
}

// AttachRaft starts a raft session: the raft.Transport of one raft instance.
// Only one can be attached; raft closes it when it shuts down, and the
// transport itself goes on, so that raft can be restarted in place.
func (t *Transport) AttachRaft() (*RaftTransport, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	if t.raft != nil {
		return nil, errors.New("transport: a raft session is attached already")
	}
	r := &RaftTransport{t: t, consumer: make(chan raft.RPC), idle: make(map[raft.ServerID][]*raftConn)}
	r.ctx, r.cancel = context.WithCancel(t.ctx)
	t.raft = r
	return r, nil
}

// Close implements raft.WithClose: it ends the session and all raft
// connections. RPCs under way fail. It may be called twice.
func (r *RaftTransport) Close() error {
	r.cancel()
	r.t.mu.Lock()
	mine := r.t.raft == r
	if mine {
		r.t.raft = nil
	}
	r.t.mu.Unlock()
	if mine {
		r.t.closeWhere(ErrClosed, func(c *conn) bool { return c.peer.Class == ClassRaft })
	}
	return nil
}

// Consumer implements raft.Transport.
func (r *RaftTransport) Consumer() <-chan raft.RPC { return r.consumer }

// LocalAddr implements raft.Transport: the address is the node id.
func (r *RaftTransport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(r.t.NodeID()) }

// EncodePeer implements raft.Transport.
func (r *RaftTransport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(addr)
}

// DecodePeer implements raft.Transport.
func (r *RaftTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler implements raft.Transport.
func (r *RaftTransport) SetHeartbeatHandler(f func(raft.RPC)) { r.beat.Store(&f) }

// AppendEntries implements raft.Transport.
func (r *RaftTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if !isHeartbeat(req) {
		return r.appendEntries(id, target, req, resp)
	}
	start := time.Now()
	err := r.roundTrip(id, target, kindAppend, req, resp, r.t.cfg.Limits.Beat)
	if err == nil {
		r.t.counters.observeRTT(string(target), time.Since(start))
	}
	return err
}

// appendRetry is how often an append tries to reach a peer.
const appendRetry = 50 * time.Millisecond

// appendEntries waits for a peer that can't be reached, for as long as an RPC
// may take. Raft doubles its pause with every failure, up to ten seconds, and
// looks up from it for nothing: a peer that comes back would wait as long for
// its first entries.
func (r *RaftTransport) appendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	give := time.Now().Add(r.t.cfg.Limits.RPC)
	for {
		err := r.roundTrip(id, target, kindAppend, req, resp, r.t.cfg.Limits.RPC)
		if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrClosed) || time.Until(give) < appendRetry {
			return err
		}
		timer := time.NewTimer(appendRetry)
		select {
		case <-timer.C:
		case <-r.ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// isHeartbeat tells raft's heartbeats from appends, as raft's own transport
// does (net_transport.go, handleCommand).
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.Term != 0 && req.PrevLogEntry == 0 && req.PrevLogTerm == 0 &&
		len(req.Entries) == 0 && req.LeaderCommitIndex == 0
}

// RequestVote implements raft.Transport.
func (r *RaftTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return r.roundTrip(id, target, kindVote, req, resp, r.t.cfg.Limits.Beat)
}

// RequestPreVote implements raft.WithPreVote.
func (r *RaftTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return r.roundTrip(id, target, kindPreVote, req, resp, r.t.cfg.Limits.Beat)
}

// TimeoutNow implements raft.Transport.
func (r *RaftTransport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return r.roundTrip(id, target, kindTimeout, req, resp, r.t.cfg.Limits.Beat)
}

// InstallSnapshot implements raft.Transport. Its connection is not used again.
func (r *RaftTransport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	c, err := r.open(id, target)
	if err != nil {
		return err
	}
	w := newWait(kindInstall, resp, installTimeout(r.t.cfg.Limits.RPC, req.Size))
	if err := c.send(req, w); err != nil {
		c.fail(err)
		return err
	}
	n, err := io.Copy(chunkWriter{c.conn}, io.LimitReader(data, req.Size))
	if err == nil && n != req.Size {
		err = fmt.Errorf("transport: snapshot has %d bytes, not %d: %w", n, req.Size, io.ErrUnexpectedEOF)
	}
	if err != nil {
		c.fail(err)
	}
	err = <-w.done
	c.fail(ErrClosed)
	return err
}

// installTimeout gives a snapshot of size bytes time in proportion.
func installTimeout(d time.Duration, size int64) time.Duration {
	return d * time.Duration(max(1, size/timeoutScale))
}

// chunkWriter is an io.Writer over conn.write.
type chunkWriter struct{ c *conn }

func (w chunkWriter) Write(p []byte) (int, error) {
	if err := w.c.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// roundTrip sends one RPC over a connection that nobody else uses meanwhile,
// and waits for its answer.
func (r *RaftTransport) roundTrip(id raft.ServerID, target raft.ServerAddress, k kind, req, resp any, timeout time.Duration) error {
	c, err := r.take(id, target)
	if err != nil {
		return err
	}
	w := newWait(k, resp, timeout)
	if err := c.send(req, w); err != nil {
		r.give(id, c)
		return err
	}
	err = <-w.done
	r.give(id, c)
	return err
}

// take returns an idle connection to a server, or a new one.
func (r *RaftTransport) take(id raft.ServerID, target raft.ServerAddress) (*raftConn, error) {
	r.mu.Lock()
	for conns := r.idle[id]; len(conns) > 0; conns = r.idle[id] {
		c := conns[len(conns)-1]
		r.idle[id] = conns[:len(conns)-1]
		// One that the peer is about to close for idleness is no good.
		if c.failed() == nil && time.Since(c.idleSince) < r.t.cfg.Limits.Idle/2 {
			r.mu.Unlock()
			return c, nil
		}
		c.fail(ErrClosed)
	}
	r.mu.Unlock()
	return r.open(id, target)
}

// give returns a connection for reuse.
func (r *RaftTransport) give(id raft.ServerID, c *raftConn) {
	if c.failed() != nil {
		return
	}
	r.mu.Lock()
	keep := len(r.idle[id]) < idlePerPeer
	if keep {
		c.idleSince = time.Now()
		r.idle[id] = append(r.idle[id], c)
	}
	r.mu.Unlock()
	if !keep {
		c.fail(ErrClosed)
	}
}

// open dials a server.
func (r *RaftTransport) open(id raft.ServerID, target raft.ServerAddress) (*raftConn, error) {
	nodeID, _, err := SplitServerID(id)
	if err != nil {
		return nil, err
	}
	if nodeID != string(target) {
		return nil, fmt.Errorf("transport: server %s has address %s, not its node id", id, target)
	}
	nc, err := r.t.dial(r.ctx, ClassRaft, PeerRef{NodeID: nodeID}, id)
	if err != nil {
		return nil, err
	}
	c := &raftConn{conn: nc}
	if !r.t.spawn(func() { c.receive(); r.t.unregister(nc) }) {
		nc.fail(ErrClosed)
		r.t.unregister(nc)
		return nil, ErrClosed
	}
	return c, nil
}

// raftConn is a dialed raft connection. Requests are answered in order.
type raftConn struct {
	*conn
	buf       []byte    // the sender's
	idleSince time.Time // guarded by RaftTransport.mu

	mu      sync.Mutex // guards pending, ended and the read deadline
	pending []*rpcWait // sent and not answered, oldest first
	ended   bool       // no answer comes any more
}

// rpcWait is an RPC that waits for its answer.
type rpcWait struct {
	kind     kind
	resp     any
	deadline time.Time
	finish   func(error) // called exactly once after a send that succeeded
	done     chan error  // of newWait
}

func newWait(k kind, resp any, timeout time.Duration) *rpcWait {
	w := &rpcWait{kind: k, resp: resp, deadline: time.Now().Add(timeout), done: make(chan error, 1)}
	w.finish = func(err error) { w.done <- err }
	return w
}

// send writes a request. Where it returns an error, nothing was sent;
// otherwise w.finish gets the outcome. One sender at a time.
func (c *raftConn) send(req any, w *rpcWait) error {
	b, err := appendRequest(beginFrame(c.buf[:0]), req)
	if err != nil {
		return err
	}
	if len(b)-frameHeader > c.limits.RaftFrame {
		return fmt.Errorf("transport: raft RPC of %d bytes: %w", len(b)-frameHeader, ErrTooLarge)
	}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return fmt.Errorf("transport: %w: %w", ErrUnreachable, c.err)
	}
	c.pending = append(c.pending, w)
	if len(c.pending) == 1 {
		_ = c.SetReadDeadline(w.deadline)
	}
	c.mu.Unlock()
	_ = c.write(endFrame(b, 0)) // an error ends receive, which finishes w
	c.stats.sent.Add(1)
	if cap(b) <= keepBuffer {
		c.buf = b
	}
	return nil
}

// receive hands out answers until the connection ends.
func (c *raftConn) receive() {
	for {
		frame, err := readFrame(c.br, c.limits.RaftFrame)
		if err != nil {
			c.fail(err)
			break
		}
		w := c.answered()
		if w == nil {
			c.fail(fmt.Errorf("%w: an answer to nothing", ErrProtocol))
			break
		}
		err = decodeResponse(frame, w.kind, w.resp)
		w.finish(err)
		if errors.Is(err, ErrProtocol) {
			c.fail(err)
			break
		}
	}
	c.mu.Lock()
	c.ended = true
	pending := c.pending
	c.pending = nil
	c.mu.Unlock()
	for _, w := range pending {
		w.finish(fmt.Errorf("transport: RPC to %s: %w: %w", c.peer.NodeID, ErrInterrupted, c.err))
	}
}

// answered takes the oldest RPC off the queue; nil where there is none.
func (c *raftConn) answered() *rpcWait {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return nil
	}
	w := c.pending[0]
	c.pending = c.pending[1:]
	var next time.Time // none: a connection may be idle
	if len(c.pending) > 0 {
		next = c.pending[0].deadline
	}
	_ = c.SetReadDeadline(next)
	return w
}
