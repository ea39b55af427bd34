package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// answerQueue is how many RPCs of one connection may be with raft: the reader
// hands raft the next one while it works on the last.
const answerQueue = 16

// raftServer serves an accepted raft connection: this goroutine reads requests
// and hands them to raft in order, answer writes the responses in that order.
type raftServer struct {
	t       *Transport
	r       *RaftTransport
	c       *conn
	answers chan answer
}

// answer is a response that raft owes.
type answer struct {
	kind    kind
	resp    <-chan raft.RPCResponse
	timeout time.Duration
}

// serveRaft serves c until it ends, and returns why.
func (t *Transport) serveRaft(c *conn) error {
	r := t.attached()
	if r == nil {
		return ErrNotReady
	}
	s := &raftServer{t: t, r: r, c: c, answers: make(chan answer, answerQueue)}
	var writing sync.WaitGroup
	writing.Go(func() { c.fail(s.answer()) })
	c.fail(s.read())
	close(s.answers)
	writing.Wait()
	return c.err
}

func (s *raftServer) read() error {
	for {
		_ = s.c.SetReadDeadline(time.Now().Add(s.t.cfg.Limits.Idle))
		frame, err := readFrame(s.c.br, s.t.cfg.Limits.RaftFrame)
		if err != nil {
			return err
		}
		req, err := decodeRequest(frame)
		if err != nil {
			return fmt.Errorf("%w: raft RPC: %w", ErrProtocol, err)
		}
		if err := s.handle(kind(frame[0]), req); err != nil {
			return err
		}
	}
}

// handle checks one RPC and gives it to raft.
func (s *raftServer) handle(k kind, req raft.WithRPCHeader) error {
	if err := s.authorize(req); err != nil {
		s.t.refused(s.c.peer, err)
		return err
	}
	resp := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{Command: req, RespChan: resp}
	a := answer{kind: k, resp: resp, timeout: s.t.cfg.Limits.RPC}
	switch req := req.(type) {
	case *raft.InstallSnapshotRequest:
		return s.install(req, rpc, a, resp)
	case *raft.TimeoutNowRequest:
		if err := s.mayTakeOver(); err != nil {
			s.t.refused(s.c.peer, err)
			resp <- raft.RPCResponse{Error: err}
			return s.owe(a)
		}
	case *raft.AppendEntriesRequest:
		if beat := s.r.beat.Load(); beat != nil && isHeartbeat(req) {
			(*beat)(rpc)
			return s.owe(a)
		}
	}
	if err := s.dispatch(rpc); err != nil {
		return err
	}
	return s.owe(a)
}

// authorize checks that the peer is a member and claims to be nobody else. An
// error ends the connection.
func (s *raftServer) authorize(req raft.WithRPCHeader) error {
	peer := s.c.peer
	if err := s.t.allowed(peer); err != nil {
		return err
	}
	h := req.GetRPCHeader()
	legacy := []byte(nil)
	switch req := req.(type) {
	case *raft.AppendEntriesRequest:
		legacy = req.Leader
	case *raft.RequestVoteRequest:
		legacy = req.Candidate
	case *raft.InstallSnapshotRequest:
		legacy = req.Leader
	}
	if raft.ServerID(h.ID) != peer.ServerID || string(h.Addr) != peer.NodeID ||
		(legacy != nil && string(legacy) != peer.NodeID) {
		return fmt.Errorf("%w: %s claims to be %q at %q", ErrProtocol, peer.ServerID, h.ID, h.Addr)
	}
	return nil
}

// mayTakeOver says whether the peer may make this node stand for election.
func (s *raftServer) mayTakeOver() error {
	if leader := s.t.cfg.Members.Leader(); leader != s.c.peer.NodeID {
		return fmt.Errorf("transport: timeout-now from %s, which is not the leader", s.c.peer.NodeID)
	}
	if !s.t.cfg.Members.Voter(s.t.NodeID()) {
		return errors.New("transport: timeout-now to a node that is no voter")
	}
	return nil
}

// dispatch waits until raft takes an RPC, for as long as the peer will wait.
func (s *raftServer) dispatch(rpc raft.RPC) error {
	timer := time.NewTimer(s.t.cfg.Limits.RPC)
	defer timer.Stop()
	select {
	case s.r.consumer <- rpc:
		return nil
	case <-timer.C:
		return errors.New("transport: raft takes no RPCs")
	case <-s.c.done:
		return s.c.err
	case <-s.r.ctx.Done():
		return ErrClosed
	}
}

// owe queues an answer for the writer.
func (s *raftServer) owe(a answer) error {
	select {
	case s.answers <- a:
		s.c.stats.served.Add(1)
		return nil
	case <-s.c.done:
		return s.c.err
	}
}

// install serves an InstallSnapshot: its data follows the frame, so nothing
// else is read before raft has answered.
func (s *raftServer) install(req *raft.InstallSnapshotRequest, rpc raft.RPC, a answer, resp chan raft.RPCResponse) error {
	a.timeout = installTimeout(s.t.cfg.Limits.RPC, req.Size)
	deadline := time.Now().Add(a.timeout)
	_ = s.c.SetReadDeadline(deadline)
	data := &snapshotData{r: s.c.br, left: req.Size}
	rpc.Reader = data
	if guard := s.t.cfg.InstallGuard; guard != nil {
		ctx, cancel := context.WithTimeout(s.r.ctx, a.timeout*3/4)
		handled, replay, answer, err := guard(ctx, req, data)
		cancel()
		if err == nil && ((handled && answer == nil) || (!handled && replay == nil)) {
			err = errors.New("transport: install guard gave neither answer nor replay")
		}
		if err != nil || handled {
			if err != nil {
				resp <- raft.RPCResponse{Error: err}
			} else {
				resp <- raft.RPCResponse{Response: answer}
			}
			return errors.Join(drain(data), s.owe(a))
		}
		rpc.Reader = replay
	}
	if err := s.dispatch(rpc); err != nil {
		return err
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case answered := <-resp:
		resp <- answered // back, for the writer
		return errors.Join(drain(data), s.owe(a))
	case <-timer.C:
		return errors.New("transport: snapshot install takes too long")
	case <-s.c.done:
		return s.c.err
	case <-s.r.ctx.Done():
		return ErrClosed
	}
}

// snapshotData reads a snapshot off the connection. Unlike an io.LimitedReader
// it does not pass for whole what ended early.
type snapshotData struct {
	r    io.Reader
	left int64
}

func (d *snapshotData) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	n, err := d.r.Read(p[:min(int64(len(p)), d.left)])
	if d.left -= int64(n); err == io.EOF && d.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// drain reads what nobody wanted of a snapshot, so that the next frame is next.
func drain(data *snapshotData) error {
	_, err := io.Copy(io.Discard, data)
	return err
}

// answer writes responses in the order of their requests. It keeps back what
// is ready only while more is.
func (s *raftServer) answer() error {
	var buf []byte
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	flush := func() error {
		err := s.c.write(buf)
		if buf = buf[:0]; cap(buf) > keepBuffer {
			buf = nil
		}
		return err
	}
	for a := range s.answers {
		var resp raft.RPCResponse
		select {
		case resp = <-a.resp:
		default:
			if err := flush(); err != nil {
				return err
			}
			timer.Reset(a.timeout)
			select {
			case resp = <-a.resp:
			case <-timer.C:
				return errors.New("transport: raft does not answer")
			case <-s.c.done:
				return s.c.err
			case <-s.r.ctx.Done():
				return ErrClosed
			}
		}
		start := len(buf)
		b, err := appendResponse(beginFrame(buf), a.kind, resp.Response, resp.Error)
		if err != nil {
			return err
		}
		if buf = endFrame(b, start); len(s.answers) == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
