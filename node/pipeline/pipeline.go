package pipeline

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/internal/planted"
	"github.com/exonode/exonode/server"
)

// Log is raft, as the leader uses it. Package node implements it.
type Log interface {
	// Apply queues an encoded fsm.Command and returns at once, or after
	// timeout at the latest. The future's errors are raft's own.
	Apply(command []byte, timeout time.Duration) Future
	// Barrier returns once everything committed before it is applied here.
	Barrier(timeout time.Duration) error
}

// Future is the part of raft.ApplyFuture that the pipeline uses.
type Future interface {
	// Error blocks until the command is applied or its outcome is open.
	Error() error
	// Response is a *fsm.BatchResult where Error is nil.
	Response() any
}

// Peer is the way to another node. Package node implements it over transport.
type Peer interface {
	// Call sends a request to a node and returns its answer. An error
	// wraps ErrNotSent where the request certainly had no effect.
	Call(ctx context.Context, nodeID, method string, request []byte) ([]byte, error)
}

// ErrNotSent is wrapped by errors of Peer.Call that leave no doubt: the request
// had no effect, and may be sent again.
var ErrNotSent = errors.New("the request had no effect")

// The methods that a pipeline calls on its peers, which Serve answers.
const (
	MethodAppend = "append"
	MethodRead   = "read"
)

// Role is what a node is to the cluster at the moment.
type Role struct {
	// Leading: this node leads and is past its term's barrier.
	Leading bool
	// Leader is the node id of the leader, "" where none is known. It is
	// not used where Leading.
	Leader string
	// Term is raft's: a leader of another term is another leader.
	Term uint64
}

// Config is what a Pipeline is made of. All fields but Limits are required.
type Config struct {
	NodeID string
	Log    Log
	Peer   Peer
	// View returns the folded state of what this node has applied.
	View func() *fsm.View
	// Head returns the head of what this node has applied.
	Head func() chain.Head
	// Clock stamps entries; the wall clock.
	Clock  func() time.Time
	Limits Limits
	Logger *slog.Logger
}

// Limits bound memory and latency. A zero field has its comment's default.
type Limits struct {
	// QueueEvents and QueueBytes bound what waits: 65,536 and 64 MiB.
	QueueEvents, QueueBytes int
	// CommandBytes is how large a command grows: 128 KiB; more only adds
	// latency.
	CommandBytes int
	// InFlight is how many commands, or forwarded groups, are under way at
	// once: 4; one or two starve the disk or the network.
	InFlight int
	// Payload is the largest payload in bytes: 1 MiB.
	Payload int
	// Leaderless is how long events wait for a leader, counted from when the
	// last one was known: 5 s. Then what was never sent is answered, and
	// what comes, until there is a leader again: clients with a deadline
	// learn why they wait, and that nothing was written.
	Leaderless time.Duration
	// Forward is the deadline of one forwarded group: 10 s.
	Forward time.Duration
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{{&l.QueueEvents, 1 << 16}, {&l.QueueBytes, 64 << 20}, {&l.CommandBytes, 128 << 10}, {&l.InFlight, 4}, {&l.Payload, 1 << 20}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.Leaderless == 0 {
		l.Leaderless = 5 * time.Second
	}
	if l.Forward == 0 {
		l.Forward = 10 * time.Second
	}
	return l
}

// enqueueTimeout bounds raft's taking of a command from us.
const enqueueTimeout = 5 * time.Second

// pause is how long the pipeline waits after a failure before it tries again
// without other news.
const pause = 20 * time.Millisecond

// Pipeline is the way of events into the chain. Its methods are safe for
// concurrent use.
type Pipeline struct {
	cfg   Config
	queue *queue
	reads reads
	turns turnstile
	stats Stats

	// ctx ends with Run's.
	ctx    context.Context
	cancel context.CancelFunc
	role   atomic.Pointer[standing]
	// commands are what raft has in hand, in order; the reaper waits on them.
	commands chan command
	slots    chan struct{}

	mu     sync.Mutex // guards resume, and changes of role
	resume time.Time  // nothing is sent before; a pause after a failure

	// forwarding numbers the groups that go to one leader; only the
	// dispatcher uses it.
	forwarding forwarding
	wg         sync.WaitGroup // forwards under way
}

// standing is a role, and what belongs to it.
type standing struct {
	Role
	// calls is the context of calls to the leader of called, the last role
	// with a leader. It ends once another leads: what was asked of a leader
	// that is gone would else hold its slot until the call times out.
	calls  context.Context
	end    context.CancelFunc
	called Role
	// lost is since when no leader is known; zero where one is. known is
	// whether one ever was.
	lost  time.Time
	known bool
}

// Stats counts what a pipeline did, since it was made.
type Stats struct {
	Commands, Events, Forwards, Barriers, Retries atomic.Uint64
}

// New makes a pipeline; it moves once Run is called.
func New(cfg Config) *Pipeline {
	cfg.Limits = cfg.Limits.withDefaults()
	p := &Pipeline{
		cfg:      cfg,
		queue:    newQueue(cfg.Limits.QueueEvents, cfg.Limits.QueueBytes),
		commands: make(chan command, cfg.Limits.InFlight),
		slots:    make(chan struct{}, cfg.Limits.InFlight),
	}
	p.reads.init()
	p.turns.init()
	p.forwarding.init()
	p.ctx, p.cancel = context.WithCancel(context.Background())
	calls, end := context.WithCancel(p.ctx)
	p.role.Store(&standing{calls: calls, end: end, lost: time.Now()})
	return p
}

// Stats returns the counters.
func (p *Pipeline) Stats() *Stats { return &p.stats }

// QueueLen returns how many events wait.
func (p *Pipeline) QueueLen() int { return p.queue.len() }

// SetRole tells of a change of leadership; what is no change is nothing new.
func (p *Pipeline) SetRole(r Role) {
	p.mu.Lock()
	old := p.role.Load()
	if old.Role == r {
		p.mu.Unlock()
		return
	}
	next := *old
	next.Role = r
	switch led := r.Leading || r.Leader != ""; {
	case led:
		next.known, next.lost = true, time.Time{}
	case old.lost.IsZero():
		next.lost = time.Now()
	}
	if (r.Leading || r.Leader != "") && r != old.called {
		old.end()
		next.calls, next.end = context.WithCancel(p.ctx)
		next.called = r
	}
	p.role.Store(&next)
	p.resume = time.Time{}
	p.mu.Unlock()
	p.queue.notify()
	p.reads.notify()
}

// Submit implements server.Writer's.
func (p *Pipeline) Submit(_ context.Context, caller server.Caller, events []chain.Event) (server.Pending, error) {
	proposals := make([]fsm.Proposal, len(events))
	for i := range events {
		proposals[i] = fsm.Proposal{
			Event:      events[i],
			Principal:  caller.Principal,
			Credential: caller.Credential,
			OnBehalfOf: caller.OnBehalfOf,
		}
	}
	return p.enqueue(proposals, origin{internal: func(*fsm.Proposal) bool { return false }})
}

// Witness queues events that a node itself writes to workspace system. What it
// does not write in its own name it can only write while it leads: elsewhere
// that is answered api.NoLeader.
func (p *Pipeline) Witness(proposals []fsm.Proposal) (server.Pending, error) {
	return p.enqueue(proposals, origin{
		internal: func(*fsm.Proposal) bool { return true },
		bound:    func(e *fsm.Proposal) bool { return e.Principal != fsm.NodePrincipal(p.cfg.NodeID) },
	})
}

// origin says where proposals come from.
type origin struct {
	// internal reports whether a node wrote it.
	internal func(*fsm.Proposal) bool
	// bound reports whether it is not to be forwarded; nil: none is.
	bound func(*fsm.Proposal) bool
}

// enqueue checks and queues proposals. What can't be accepted is decided at
// once; the rest is queued as a whole, or not at all.
func (p *Pipeline) enqueue(proposals []fsm.Proposal, from origin) (*Pending, error) {
	pending := &Pending{
		items:  make([]item, len(proposals)),
		acks:   make([]server.Ack, len(proposals)),
		done:   make(chan struct{}),
		forget: p.queue.forget,
		alone:  p.noLeader,
	}
	pending.left.Store(int32(len(proposals)))
	if len(proposals) == 0 {
		close(pending.done)
		return pending, nil
	}
	leading := p.role.Load().Leading
	accepted := make([]*item, 0, len(proposals))
	var view *fsm.View
	if leading {
		view = p.cfg.View()
	}
	for i := range proposals {
		it := &pending.items[i]
		it.proposal, it.pending, it.index = proposals[i], pending, i
		it.internal = from.internal(&it.proposal)
		it.bound = from.bound != nil && from.bound(&it.proposal)
		if err := p.check(it); err != nil {
			it.fail(err)
			continue
		}
		if leading {
			if err := admit(view, it); err != nil {
				it.fail(err)
				continue
			}
		}
		it.size = fsm.ProposalSize(&it.proposal)
		accepted = append(accepted, it)
	}
	if err := p.queue.push(accepted); err != nil {
		return nil, err
	}
	return pending, nil
}

// Run moves events until ctx ends; then what was never sent is answered
// api.NotReady, and what is open api.UnknownOutcome, once raft has let go of
// it. The caller stops raft after Run has returned, or while it returns.
func (p *Pipeline) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, p.cancel)()
	var reaper sync.WaitGroup
	reaper.Go(p.reap)
	reaper.Go(func() { p.runReads(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if wait := p.dispatch(); wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
			p.stop(&reaper)
			return nil
		case <-p.queue.wake:
		case <-timer.C:
		}
	}
}

func (p *Pipeline) stop(reaper *sync.WaitGroup) {
	p.cancel() // before AfterFunc may have got to it
	fail := func() {
		for _, it := range p.queue.close() {
			it.fail(stopError(it))
		}
	}
	fail()
	p.wg.Wait()
	close(p.commands)
	reaper.Wait()
	fail() // what came back from attempts that failed meanwhile
}

func stopError(it *item) *api.Error {
	if it.open {
		return errStoppingUnknown
	}
	return errStopping
}

// dispatch sends what can be sent now. It returns how long to wait before it
// should look again without other news; 0 is for ever.
func (p *Pipeline) dispatch() time.Duration {
	for {
		role := p.role.Load()
		if !role.Leading {
			for _, it := range p.queue.takeBound() {
				it.fail(errNotLeading)
			}
		}
		if planted.Stall && role.Leading && role.Term > 4 {
			return 0 // bug: it leads, and does nothing
		}
		if wait := p.pausing(); wait > 0 {
			return wait
		}
		if p.queue.len() == 0 {
			return 0
		}
		if !role.Leading && role.Leader == "" {
			return p.orphaned(role)
		}
		select {
		case p.slots <- struct{}{}:
		default:
			return 0 // whoever frees a slot notifies
		}
		var sentAny bool
		if role.Leading {
			sentAny = p.propose()
		} else {
			sentAny = p.forward(role)
		}
		if !sentAny {
			p.release()
		}
	}
}

// orphaned answers what waits where no leader has been known for too long, and
// else returns how long that is still to come.
func (p *Pipeline) orphaned(role *standing) time.Duration {
	if wait := p.cfg.Limits.Leaderless - time.Since(role.lost); wait > 0 {
		return wait
	}
	for _, it := range p.queue.takeUnsent() {
		it.fail(p.noLeader())
	}
	return 0
}

// Leaderless returns for how long no leader has been known, where that is longer
// than Limits.Leaderless, and else 0.
func (p *Pipeline) Leaderless() time.Duration {
	role := p.role.Load()
	if role.lost.IsZero() {
		return 0
	}
	if since := time.Since(role.lost); since >= p.cfg.Limits.Leaderless {
		return since
	}
	return 0
}

// noLeader says why an event was never sent: there is no leader, or the node has
// not found its cluster yet.
func (p *Pipeline) noLeader() *api.Error {
	if !p.role.Load().known {
		return errNotReady
	}
	return errNoLeader
}

// release frees a slot.
func (p *Pipeline) release() {
	<-p.slots
	p.queue.notify()
}

func (p *Pipeline) pausing() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resume.IsZero() {
		return 0
	}
	return max(0, time.Until(p.resume))
}

func (p *Pipeline) pauseNow() {
	p.mu.Lock()
	p.resume = time.Now().Add(pause)
	p.mu.Unlock()
}

// again puts items back after a failed attempt, but for those that nobody waits
// for. Where open, what became of the attempt is unknown.
func (p *Pipeline) again(items []*item, open bool) {
	back := items[:0]
	for _, it := range items {
		it.open = it.open || open
		if it.gone.Load() || !it.open && !it.state.CompareAndSwap(sent, queued) {
			continue
		}
		back = append(back, it)
	}
	p.stats.Retries.Add(uint64(len(back)))
	p.pauseNow()
	p.queue.restore(back)
	p.queue.notify()
}

// begin marks taken items as sent and drops what was given up.
func begin(items []*item) []*item {
	live := items[:0]
	for _, it := range items {
		if it.open || it.state.CompareAndSwap(queued, sent) {
			live = append(live, it)
		}
	}
	return live
}

// salt gives each event that has no salt one of its own. A retry keeps it.
func salt(items []*item) {
	salts := make([]byte, len(items)*chain.SaltSize)
	rand.Read(salts) // never fails: crypto/rand ends the program instead
	for i, it := range items {
		if it.proposal.Salt == nil {
			it.proposal.Salt = (*[chain.SaltSize]byte)(salts[i*chain.SaltSize:])
		}
	}
}
