package transport

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// maxInFlight is how many appends of a pipeline may wait for their answers. For
// commands of 128 KiB more gains nothing (BenchmarkPipeline); of small ones it
// only queues at the follower what would otherwise travel in fewer, larger
// appends (hashicorp/raft pull request 541).
const maxInFlight = 4

// pipeline implements raft.AppendPipeline over a connection of its own.
type pipeline struct {
	r     *RaftTransport
	c     *raftConn
	slots chan struct{} // one for each append in flight
	ready chan raft.AppendFuture

	closed chan struct{}
	once   sync.Once
}

// AppendEntriesPipeline implements raft.Transport.
func (r *RaftTransport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	c, err := r.open(id, target)
	if err != nil {
		return nil, err
	}
	return &pipeline{
		r: r, c: c,
		slots:  make(chan struct{}, maxInFlight),
		ready:  make(chan raft.AppendFuture, maxInFlight),
		closed: make(chan struct{}),
	}, nil
}

// AppendEntries implements raft.AppendPipeline. It waits while as many appends
// as may be are in flight.
func (p *pipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	select {
	case p.slots <- struct{}{}:
	case <-p.c.done:
		return nil, p.c.err
	case <-p.closed:
		return nil, raft.ErrPipelineShutdown
	}
	f := &appendFuture{start: time.Now(), req: req, resp: resp, done: make(chan struct{})}
	err := p.c.send(req, &rpcWait{
		kind:     kindAppend,
		resp:     resp,
		deadline: f.start.Add(p.r.t.cfg.Limits.RPC),
		finish:   func(err error) { p.finish(f, err) },
	})
	if err != nil {
		<-p.slots
		return nil, err
	}
	return f, nil
}

// finish runs in the connection's receiving goroutine, in the order of the
// appends.
func (p *pipeline) finish(f *appendFuture, err error) {
	if err != nil {
		// Raft looks at the response alone, and takes what is not a
		// success for the pipeline's end.
		*f.resp = raft.AppendEntriesResponse{}
	}
	f.err = err
	close(f.done)
	<-p.slots
	select {
	case p.ready <- f:
	case <-p.closed:
	case <-p.r.ctx.Done():
	}
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.ready }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() {
		close(p.closed)
		p.c.fail(raft.ErrPipelineShutdown)
	})
	return nil
}

// appendFuture implements raft.AppendFuture.
type appendFuture struct {
	start time.Time
	req   *raft.AppendEntriesRequest
	resp  *raft.AppendEntriesResponse
	err   error // written before done is closed
	done  chan struct{}
}

func (f *appendFuture) Error() error {
	<-f.done
	return f.err
}

func (f *appendFuture) Start() time.Time                      { return f.start }
func (f *appendFuture) Request() *raft.AppendEntriesRequest   { return f.req }
func (f *appendFuture) Response() *raft.AppendEntriesResponse { return f.resp }
