package limits

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// Raft is a cluster of rafts in this process whose state machine is empty: each
// has a raft-wal log that syncs in a directory of its own, and they talk through
// memory. What it reaches, no ledger on the same disk and cores can exceed.
type Raft struct {
	leader  *raft.Raft
	rafts   []*raft.Raft
	closers []io.Closer
}

// groupBytes and groupsInFlight are those of the node's own group commit.
const (
	groupBytes     = 128 << 10
	groupsInFlight = 4
)

// raftPatience bounds the election.
const raftPatience = 20 * time.Second

// NewRaft starts n rafts in dir. The caller closes it.
func NewRaft(dir string, n int) (_ *Raft, err error) {
	r := new(Raft)
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	var servers []raft.Server
	var transports []*raft.InmemTransport
	for i := range n {
		name := "limit" + strconv.Itoa(i)
		addr, t := raft.NewInmemTransport(raft.ServerAddress(name))
		transports = append(transports, t)
		servers = append(servers, raft.Server{ID: raft.ServerID(name), Address: addr})
	}
	for i, t := range transports {
		for j, to := range transports {
			if i != j {
				t.Connect(servers[j].Address, to)
			}
		}
		if err := r.add(filepath.Join(dir, string(servers[i].ID)), servers[i].ID, t, servers); err != nil {
			return nil, err
		}
	}
	deadline := time.After(raftPatience)
	for r.leader == nil {
		select {
		case <-deadline:
			return nil, fmt.Errorf("raft alone: no leader within %v", raftPatience)
		case <-time.After(10 * time.Millisecond):
		}
		for _, member := range r.rafts {
			if member.State() == raft.Leader {
				r.leader = member
			}
		}
	}
	return r, nil
}

func (r *Raft) add(dir string, id raft.ServerID, t raft.Transport, servers []raft.Server) error {
	log, err := openWAL(dir)
	if err != nil {
		return err
	}
	r.closers = append(r.closers, log)
	cache, err := raft.NewLogCache(128, log)
	if err != nil {
		return err
	}
	c := raft.DefaultConfig()
	c.LocalID, c.Logger = id, hclog.NewNullLogger()
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 600*time.Millisecond, 600*time.Millisecond, 400*time.Millisecond
	c.SnapshotInterval, c.SnapshotThreshold = 24*time.Hour, 1<<62
	stable, snapshots := raft.NewInmemStore(), raft.NewDiscardSnapshotStore()
	if err := raft.BootstrapCluster(c, log, stable, snapshots, t, raft.Configuration{Servers: servers}); err != nil {
		return fmt.Errorf("raft alone: %w", err)
	}
	member, err := raft.NewRaft(c, nothing{}, cache, stable, snapshots, t)
	if err != nil {
		return fmt.Errorf("raft alone: %w", err)
	}
	r.rafts = append(r.rafts, member)
	return nil
}

// Close stops the rafts. Their directories stay.
func (r *Raft) Close() error {
	var errs []error
	for _, member := range r.rafts {
		errs = append(errs, member.Shutdown().Error())
	}
	for _, c := range r.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// nothing is the empty state machine.
type nothing struct{}

func (nothing) Apply(*raft.Log) any { return nil }

func (nothing) ApplyBatch(logs []*raft.Log) []any { return make([]any, len(logs)) }

func (nothing) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("no snapshots here") }

func (nothing) Restore(io.ReadCloser) error { return errors.New("no snapshots here") }

// Measure has callers that each submit a payload and wait until it is
// committed, over and over. Grouped, the payloads that wait go into one raft
// entry; otherwise each is its own.
func (r *Raft) Measure(ctx context.Context, callers, payload int, grouped bool, d time.Duration) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*d+raftPatience)
	defer cancel()
	apply := func(b []byte) error { return r.leader.Apply(b, raftPatience).Error() }
	var groups sync.WaitGroup
	if grouped {
		g := &grouper{leader: r.leader, calls: make(chan waiting, callers)}
		for range groupsInFlight {
			groups.Go(g.run)
		}
		defer groups.Wait()
		defer close(g.calls)
		apply = g.apply
	}
	h := newHistogram()
	var mu sync.Mutex // guards h
	var n atomic.Int64
	var stop, counting atomic.Bool
	var first error
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			b := make([]byte, payload)
			var some []int64
			for !stop.Load() {
				begin := time.Now()
				err := apply(b)
				if err != nil {
					mu.Lock()
					first = err
					mu.Unlock()
					stop.Store(true)
					break
				}
				if counting.Load() {
					some = append(some, max(1, time.Since(begin).Microseconds()))
					n.Add(1)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, us := range some {
				_ = h.RecordValue(us) // beyond a minute apply has failed
			}
		})
	}
	wait(ctx, d/4)
	counting.Store(true)
	started := time.Now()
	// Longer where the machine is so slow that nothing was done.
	for ok := true; ok; ok = n.Load() == 0 && !stop.Load() && ctx.Err() == nil {
		wait(ctx, d)
	}
	counting.Store(false)
	count, took := n.Load(), time.Since(started)
	stop.Store(true)
	wg.Wait()
	if first != nil {
		return Result{}, fmt.Errorf("raft alone: %w", first)
	}
	return result(h, count, took), ctx.Err()
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// waiting is one caller's payload.
type waiting struct {
	b    []byte
	done chan error
}

// grouper packs what waits into one entry, without a timer.
type grouper struct {
	leader *raft.Raft
	calls  chan waiting
	pool   sync.Pool
}

func (g *grouper) apply(b []byte) error {
	done, ok := g.pool.Get().(chan error)
	if !ok {
		done = make(chan error, 1)
	}
	g.calls <- waiting{b, done}
	err := <-done
	g.pool.Put(done)
	return err
}

func (g *grouper) run() {
	var group []waiting
	for c := range g.calls {
		group = append(group[:0], c)
		entry := append([]byte(nil), c.b...)
	more:
		for len(entry) < groupBytes {
			select {
			case c, ok := <-g.calls:
				if !ok {
					break more
				}
				group = append(group, c)
				entry = append(entry, c.b...)
			default:
				break more
			}
		}
		err := g.leader.Apply(entry, raftPatience).Error()
		for _, c := range group {
			c.done <- err
		}
	}
}

// openWAL opens a log as a node does.
func openWAL(dir string) (*wal.WAL, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("raft alone: %w", err)
	}
	log, err := wal.Open(dir, wal.WithSegmentSize(16<<20))
	if err != nil {
		return nil, fmt.Errorf("raft alone: %w", err)
	}
	return log, nil
}
