package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Config is what a Set needs of its node.
type Config struct {
	// Locate returns the id of the node that listens at a host:port, "" where
	// that is not known: nothing is wrong with the way there. It must not
	// block.
	Locate func(addr string) (nodeID string)
	// Die ends the process at once; nil is SIGKILL to itself.
	Die func()
}

// Set is what is wrong at a node. A nil Set is a node that is well. Its methods are
// safe for concurrent use.
type Set struct {
	cfg Config

	mu sync.Mutex // guards the fields below
	// plan is never changed, only replaced.
	plan *Plan
	// passed is how often the crash's point was passed since the plan came.
	passed int
	// changed is closed, and replaced, with every plan.
	changed chan struct{}
}

// New returns a Set under which nothing is wrong.
func New(cfg Config) (*Set, error) {
	if cfg.Locate == nil {
		return nil, fmt.Errorf("faults: Config.Locate is required")
	}
	if cfg.Die == nil {
		cfg.Die = die
	}
	return &Set{cfg: cfg, plan: new(Plan), changed: make(chan struct{})}, nil
}

// die does not return.
func die() {
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {}
}

// Apply makes things go wrong as the plan says, and in no other way.
func (s *Set) Apply(p Plan) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	p.Links = maps.Clone(p.Links)
	p.Disk.Stores = slices.Clone(p.Disk.Stores)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan, s.passed = &p, 0
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// Plan returns what is wrong. The caller must not change it.
func (s *Set) Plan() Plan {
	p, _ := s.now()
	return *p
}

// now returns the plan, and a channel that is closed when another one comes.
func (s *Set) now() (*Plan, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plan, s.changed
}

// link returns how the way to a node is.
func (s *Set) link(nodeID string) (Link, <-chan struct{}) {
	p, changed := s.now()
	return p.Links[nodeID], changed
}

// Now is the time as this node's clock has it.
func (s *Set) Now() time.Time {
	now := time.Now()
	if s == nil {
		return now
	}
	p, _ := s.now()
	return now.Add(time.Duration(p.Clock.Offset))
}

// Reach is called at a point, and does not return where the plan has the node crash
// there.
func (s *Set) Reach(at Point) {
	if s != nil && s.reached(at) {
		s.cfg.Die()
	}
}

// Tear is called before a write that a crash at a point tears: where the plan has the
// node crash there, half writes half of it, and Tear does not return.
func (s *Set) Tear(at Point, half func() error) {
	if s != nil && s.reached(at) {
		_ = half() // it crashes either way
		s.cfg.Die()
	}
}

// reached reports whether the node is to crash at a point now.
func (s *Set) reached(at Point) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plan.Crash.Point != at {
		return false
	}
	s.passed++
	return s.passed == s.plan.Crash.After+1
}

// diskErrors are the errors that writes may fail with.
var diskErrors = map[string]error{"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC}

// Write is called before something is written to a store: it returns when the write
// may go on, or the error that it fails with.
func (s *Set) Write(store Store) error {
	if s == nil {
		return nil
	}
	for {
		p, changed := s.now()
		d := &p.Disk
		if len(d.Stores) > 0 && !slices.Contains(d.Stores, store) {
			return nil
		}
		if d.Hang {
			<-changed
			continue
		}
		if d.Slow > 0 {
			time.Sleep(time.Duration(d.Slow))
		}
		return diskErrors[d.Error]
	}
}

// Packet decides about a packet of gossip to an address: after what delay it leaves;
// false where it never does.
func (s *Set) Packet(addr string) (delay time.Duration, ok bool) {
	l, _ := s.link(s.cfg.Locate(addr))
	if l.Cut || rand.Float64() < l.Drop {
		return 0, false
	}
	delay = l.delay()
	if rand.Float64() < l.Reorder {
		delay += reorderDelay
	}
	return delay, true
}

const (
	// reorderDelay is how much later than others a packet comes that they
	// overtake.
	reorderDelay = 50 * time.Millisecond
	// retransmission is how much later what was lost comes: the least that
	// Linux waits (TCP_RTO_MIN). It doubles with each loss.
	retransmission = 200 * time.Millisecond
)

// delay draws how long something is under way.
func (l *Link) delay() time.Duration {
	d := time.Duration(l.Delay)
	if l.Jitter > 0 {
		d += rand.N(time.Duration(l.Jitter))
	}
	return d
}

// late draws how much later a connection's packet comes for being lost.
func (l *Link) late() (d time.Duration) {
	for wait := retransmission; wait < time.Minute && rand.Float64() < l.Drop; wait *= 2 {
		d += wait
	}
	return d
}
