package node

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// raftSession is the raft.Transport of one instance; *transport.RaftTransport is
// one.
type raftSession interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
}

// instance is one life of raft, with its session of the transport. What it
// overrides are raft's calls whose futures raft may never answer: when it shuts
// down, it drops what it has handed to the goroutine of the state machine
// (fsm.go, runFSM), and what waits to be taken. Here they end with raft, in
// raft.ErrRaftShutdown: their outcome is unknown then.
type instance struct {
	*raft.Raft
	session raftSession
	// ended is closed once all of raft's goroutines have ended.
	ended chan struct{}
	once  sync.Once
}

// shutdown ends raft and joins it. It may be called twice.
func (i *instance) shutdown() (err error) {
	i.once.Do(func() {
		future := i.Raft.Shutdown()
		// Raft waits for its RPCs under way: those to a silent peer would
		// take seconds.
		err = i.session.Close()
		err = errors.Join(future.Error(), err)
		close(i.ended)
	})
	return err
}

// wait returns a future's error. Where raft ends without an answer, the
// goroutine stays behind: nothing can end it but the process.
func (i *instance) wait(f raft.Future) error {
	answer := make(chan error, 1)
	go func() { answer <- f.Error() }()
	select {
	case err := <-answer:
		return err
	case <-i.ended:
		return raft.ErrRaftShutdown
	}
}

type applied struct {
	raft.ApplyFuture
	in *instance
}

func (f applied) Error() error { return f.in.wait(f.ApplyFuture) }

type indexed struct {
	raft.IndexFuture
	in *instance
}

func (f indexed) Error() error { return f.in.wait(f.IndexFuture) }

type plain struct {
	raft.Future
	in *instance
}

func (f plain) Error() error { return f.in.wait(f.Future) }

func (i *instance) Apply(command []byte, timeout time.Duration) raft.ApplyFuture {
	return applied{i.Raft.Apply(command, timeout), i}
}

func (i *instance) Barrier(timeout time.Duration) raft.Future {
	return plain{i.Raft.Barrier(timeout), i}
}

func (i *instance) AddNonvoter(id raft.ServerID, address raft.ServerAddress, prevIndex uint64, timeout time.Duration) raft.IndexFuture {
	return indexed{i.Raft.AddNonvoter(id, address, prevIndex, timeout), i}
}

func (i *instance) AddVoter(id raft.ServerID, address raft.ServerAddress, prevIndex uint64, timeout time.Duration) raft.IndexFuture {
	return indexed{i.Raft.AddVoter(id, address, prevIndex, timeout), i}
}

func (i *instance) DemoteVoter(id raft.ServerID, prevIndex uint64, timeout time.Duration) raft.IndexFuture {
	return indexed{i.Raft.DemoteVoter(id, prevIndex, timeout), i}
}

func (i *instance) RemoveServer(id raft.ServerID, prevIndex uint64, timeout time.Duration) raft.IndexFuture {
	return indexed{i.Raft.RemoveServer(id, prevIndex, timeout), i}
}

func (i *instance) LeadershipTransfer() raft.Future {
	return plain{i.Raft.LeadershipTransfer(), i}
}

func (i *instance) LeadershipTransferToServer(id raft.ServerID, address raft.ServerAddress) raft.Future {
	return plain{i.Raft.LeadershipTransferToServer(id, address), i}
}

func (i *instance) leads() bool { return i != nil && i.State() == raft.Leader }
