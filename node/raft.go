package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/node/raftstore"
)

// Timing is how patient raft is. The zero value is not valid; see LAN and
// Loopback.
type Timing struct {
	// Heartbeat is how long a follower waits for its leader before it calls
	// an election, Election how long a candidate waits for votes, Lease how
	// long a leader that hears from no quorum goes on.
	Heartbeat, Election, Lease time.Duration
	// Commit is how often an idle leader tells of what is committed.
	Commit time.Duration
}

// LAN is the timing for hosts on one network, and the default.
func LAN() Timing {
	return Timing{Heartbeat: time.Second, Election: time.Second, Lease: 500 * time.Millisecond, Commit: 50 * time.Millisecond}
}

// Loopback is the timing for nodes that share a machine: a leader that dies is
// replaced in well under a second, and a busy machine is not taken for a dead
// one.
func Loopback() Timing {
	return Timing{Heartbeat: 600 * time.Millisecond, Election: 600 * time.Millisecond, Lease: 400 * time.Millisecond, Commit: 25 * time.Millisecond}
}

const (
	// maxAppendEntries bounds one AppendEntries: with commands of up to
	// 1 MiB, raft's default of 64 is more than a slow link carries within
	// one RPC's time.
	maxAppendEntries = 16
	// The log that stays behind a snapshot, so that a follower that was
	// briefly away needs no install, is as much as makes the next snapshot
	// due, within these bounds of entries.
	minTrailing = 128
	maxTrailing = 10240
)

// raftHost owns the raft instance of a node. Raft can be restarted in place;
// callers ask for the current one each time.
type raftHost struct {
	timing Timing
	// noPreVote and keepDamaged are of Without.
	noPreVote, keepDamaged bool
	id                     raft.ServerID
	fsm                    *raftFSM
	stores                 *raftstore.Stores
	// attach begins a session of the transport.
	attach func() (raftSession, error)
	logger *slog.Logger
	// metrics is set before start.
	metrics *metrics
	// started is called with every new instance, before it is current.
	started func(*instance)

	// unreadable is set where raft could not read a manifest: the next look at
	// the log takes a new one.
	unreadable atomic.Bool

	mu      sync.Mutex // serialises start, restart and stop; guards stopped
	current atomic.Pointer[instance]
	stopped bool
}

func (h *raftHost) config() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = h.id
	c.HeartbeatTimeout, c.ElectionTimeout = h.timing.Heartbeat, h.timing.Election
	c.LeaderLeaseTimeout, c.CommitTimeout = h.timing.Lease, h.timing.Commit
	c.MaxAppendEntries = maxAppendEntries
	// The node takes snapshots itself, by bytes (see compact).
	c.SnapshotInterval, c.SnapshotThreshold = 24*time.Hour, 1<<62
	c.TrailingLogs = maxTrailing
	// The ledger is its own snapshot; a manifest says where it stood.
	c.NoSnapshotRestoreOnStart = true
	c.NoLegacyTelemetry = true
	c.PreVoteDisabled = h.noPreVote
	c.Logger = hclogTo(h.logger)
	return c
}

// start makes the raft instance. The stores say whether it is a new one.
func (h *raftHost) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.startLocked()
}

func (h *raftHost) startLocked() error {
	session, err := h.attach()
	if err != nil {
		return fmt.Errorf("attach raft to the transport: %w", err)
	}
	r, err := raft.NewRaft(h.config(), h.fsm, h.stores.Log, h.stores.Vote, snapshots{h.stores.Manifests, &h.unreadable}, session)
	if err != nil {
		return errors.Join(fmt.Errorf("start raft: %w", err), session.Close())
	}
	i := &instance{Raft: r, session: session, ended: make(chan struct{})}
	h.started(i)
	h.current.Store(i)
	return nil
}

// get returns the current instance; nil before start.
func (h *raftHost) get() *instance { return h.current.Load() }

// restart replaces the instance by a new one over the same stores, after
// dropping a log that does not fit the newest snapshot. What waits on the old
// one gets ErrRaftShutdown, which is an unknown outcome.
func (h *raftHost) restart() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return nil
	}
	if err := h.get().shutdown(); err != nil {
		return fmt.Errorf("stop raft to restart it: %w", err)
	}
	if _, err := h.stores.Mend(); err != nil {
		return err
	}
	return h.startLocked()
}

// stop ends raft; every future is answered. It may be called twice.
func (h *raftHost) stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	if r := h.get(); r != nil {
		return r.shutdown()
	}
	return nil
}

// Apply implements pipeline.Log.
func (h *raftHost) Apply(command []byte, timeout time.Duration) pipeline.Future {
	return h.get().Apply(command, timeout)
}

// Barrier implements pipeline.Log.
func (h *raftHost) Barrier(timeout time.Duration) error { return h.get().Barrier(timeout).Error() }

// holds reports whether raft has everything up to an index here, if that index
// was of the given term: it was committed, or it stands in the log.
func (h *raftHost) holds(index, term uint64) bool {
	if r := h.get(); r != nil && r.AppliedIndex() >= index {
		return true
	}
	var entry raft.Log
	return h.stores.Log.GetLog(index, &entry) == nil && entry.Term == term
}

// raftFSM stands between raft and the state machine: it confirms manifests, and
// counts what the log holds.
type raftFSM struct {
	*fsm.FSM
	// holds is raftHost's.
	holds func(index, term uint64) bool
	// restored is told that a manifest of a raft index was installed, while
	// raft's main goroutine waits.
	restored func(index uint64)
	// stalled is told that one of raft's calls of the state machine takes longer
	// than limit; it should stop the process.
	stalled func(error)
	limit   time.Duration
	faults  *faults.Set // may be nil
	// sinceBytes and sinceLogs count what was applied since the last snapshot.
	sinceBytes, sinceLogs atomic.Uint64
	recent                recentLogs
}

// watch is for the duration of one call of the state machine. A leader whose raft is
// well and whose ledger hangs would keep its followers from electing another, and
// answer nobody.
func (f *raftFSM) watch(what string) (done func()) {
	return raftstore.Watch(f.limit, func() {
		f.stalled(fmt.Errorf("node: %s took longer than %v", what, f.limit))
	})
}

// ApplyBatch implements raft.BatchingFSM.
func (f *raftFSM) ApplyBatch(logs []*raft.Log) []any {
	n := uint64(0)
	for _, l := range logs {
		n += uint64(len(l.Data))
	}
	f.sinceBytes.Add(n)
	f.sinceLogs.Add(uint64(len(logs)))
	f.recent.add(logs)
	defer f.watch("applying raft's log")()
	f.faults.Reach(faults.BeforeApply)
	defer f.faults.Reach(faults.AfterApply)
	return f.FSM.ApplyBatch(logs)
}

// errHeld refuses an install that came late or twice: what it would install was
// appended or installed since the guard let it pass. Raft would drop the log
// behind it, which is acknowledged.
var errHeld = errors.New("node: what the snapshot covers is here already")

// Restore implements raft.FSM. The state machine confirms the manifest once
// what it names is durable here; a crash before that is mended at boot.
func (f *raftFSM) Restore(rc io.ReadCloser) error {
	reader, err := manifestReader(rc)
	if err != nil {
		return err
	}
	if f.holds(reader.Index(), reader.Term()) {
		return errHeld
	}
	defer f.watch("an install")()
	if err := f.FSM.Restore(rc); err != nil {
		return err
	}
	f.restored(reader.Index())
	return nil
}

// manifestReader finds our reader under what raft wraps around it to count.
func manifestReader(rc io.ReadCloser) (*raftstore.Reader, error) {
	for {
		if r, ok := rc.(*raftstore.Reader); ok {
			return r, nil
		}
		w, ok := rc.(raft.ReadCloserWrapper)
		if !ok {
			return nil, fmt.Errorf("node: restore from %T, want a manifest", rc)
		}
		rc = w.WrappedReadCloser()
	}
}

// Snapshot implements raft.FSM.
func (f *raftFSM) Snapshot() (raft.FSMSnapshot, error) {
	defer f.watch("a snapshot")()
	f.faults.Reach(faults.BeforeSnapshot)
	s, err := f.FSM.Snapshot()
	if err != nil {
		return nil, err
	}
	f.faults.Reach(faults.AfterSnapshot)
	f.sinceBytes.Store(0)
	f.sinceLogs.Store(0)
	return s, nil
}

// snapshots are the manifests as raft sees them. A leader that can't read its newest
// would try to send it for ever, and a follower that needs it would never catch up: it
// is replaced by one that is made anew.
type snapshots struct {
	*raftstore.Manifests
	unreadable *atomic.Bool
}

// List implements raft.SnapshotStore.
func (s snapshots) List() ([]*raft.SnapshotMeta, error) {
	metas, err := s.Manifests.List()
	if err != nil {
		s.unreadable.Store(true)
	}
	return metas, err
}

// Open implements raft.SnapshotStore.
func (s snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, rc, err := s.Manifests.Open(id)
	if err != nil {
		s.unreadable.Store(true)
	}
	return meta, rc, err
}

// compact takes a snapshot where the log has grown enough, or the last can't be read.
func (h *raftHost) compact(everyBytes, everyLogs uint64) error {
	if h.unreadable.Swap(false) && !h.keepDamaged {
		h.logger.Warn("a manifest can't be read: taking another snapshot")
		return h.snapshot(everyBytes, everyLogs)
	}
	if h.fsm.sinceBytes.Load() < everyBytes && h.fsm.sinceLogs.Load() < everyLogs {
		return nil
	}
	return h.snapshot(everyBytes, everyLogs)
}

// snapshot takes a snapshot now, where anything is new.
func (h *raftHost) snapshot(everyBytes, everyLogs uint64) error {
	r := h.get()
	reload := r.ReloadableConfig()
	reload.TrailingLogs = h.fsm.recent.trailing(everyBytes, everyLogs)
	if err := r.ReloadConfig(reload); err != nil {
		return fmt.Errorf("set trailing logs to %d: %w", reload.TrailingLogs, err)
	}
	began := time.Now()
	future := r.Snapshot()
	err := future.Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	if err != nil {
		return err
	}
	took := time.Since(began)
	meta, rc, err := future.Open()
	if err != nil {
		return fmt.Errorf("open the snapshot just taken: %w", err)
	}
	h.metrics.snapshot(took, meta.Size)
	h.logger.Info("snapshot taken", "raft_index", meta.Index, "bytes", meta.Size, "took", took, "trailing_logs", reload.TrailingLogs)
	return rc.Close()
}

// snapshotAll is snapshot, of all that is committed so far: on the leader.
func (h *raftHost) snapshotAll(everyBytes, everyLogs uint64) error {
	if err := h.Barrier(barrierTimeout); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	return h.snapshot(everyBytes, everyLogs)
}

// compactEvery is how often the log's growth is looked at.
const compactEvery = 2 * time.Second

// compactLog takes snapshots as the log grows.
func (n *Node) compactLog(ctx context.Context) error {
	for sleep(ctx, compactEvery) {
		if err := n.host.compact(n.cfg.Storage.SnapshotBytes, n.cfg.Storage.SnapshotLogs); err != nil {
			n.log.Warn("no snapshot taken", "error", err)
		}
	}
	return nil
}

// recentLogs are the sizes of the newest log entries that were applied, as many as
// may ever stay behind a snapshot.
type recentLogs struct {
	mu    sync.Mutex // guards the fields below
	sizes [maxTrailing]uint32
	n     uint64 // entries so far; the newest is at (n-1) mod maxTrailing
}

func (r *recentLogs) add(logs []*raft.Log) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range logs {
		r.sizes[r.n%maxTrailing] = uint32(len(l.Data))
		r.n++
	}
}

// trailing is how many log entries stay behind a snapshot, given after how many
// bytes or entries one is taken: the newest that are together no more than that. What
// is not known, since this process did not apply it, counts nothing.
func (r *recentLogs) trailing(everyBytes, everyLogs uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := min(maxTrailing, everyLogs)
	bytes := uint64(0)
	for i := range min(most, r.n) {
		if bytes += uint64(r.sizes[(r.n-1-i)%maxTrailing]); bytes > everyBytes {
			most = i
			break
		}
	}
	return max(minTrailing, most)
}

// hclogTo hands raft's log lines to slog.
func hclogTo(logger *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Debug, Output: io.Discard})
	l.RegisterSink(slogSink{logger})
	return l
}

type slogSink struct{ logger *slog.Logger }

// Accept implements hclog.SinkAdapter.
func (s slogSink) Accept(name string, level hclog.Level, msg string, args ...any) {
	// Raft calls an error what a partition or a restart of a peer brings
	// along every time; what is an error to the operator, the node says.
	to := slog.LevelDebug
	switch level {
	case hclog.Error:
		to = slog.LevelWarn
	case hclog.Warn:
		to = slog.LevelInfo
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	s.logger.Log(context.Background(), to, msg, args...)
}
