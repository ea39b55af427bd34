package node_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/server"
)

// onDisk has the ledger of a node stand on a file system that can crash.
func onDisk(disk *vfs.MemFS) node.Ground {
	return node.Ground{Ledger: func(o *ledger.Options) { o.FS = disk }}
}

// makeDirs makes a directory that no crash takes away.
func makeDirs(t *testing.T, disk *vfs.MemFS, dir string) {
	t.Helper()
	if err := disk.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		d, err := disk.OpenDir(dir)
		if err == nil {
			err = errors.Join(d.Sync(), d.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		if dir == filepath.Dir(dir) {
			return
		}
	}
}

// lostQuorum is what is left of a cluster of three: one stopped node, which has
// events in raft's log that its ledger lost.
type lostQuorum struct {
	t      *testing.T
	ctx    context.Context
	cfg    node.Config
	disk   *vfs.MemFS
	events []chain.Event
}

func loseQuorum(t *testing.T, ctx context.Context, backend raftstore.Backend) *lostQuorum {
	t.Helper()
	disk := vfs.NewCrashableMem()
	nodes := startCluster(t, gates.Development, 3, func(cfg *node.Config) {
		cfg.Storage.LogBackend = backend
		if cfg.Name == "n3" {
			makeDirs(t, disk, cfg.DataDir)
			cfg.Ground = onDisk(disk)
		}
	})
	l := &lostQuorum{t: t, ctx: ctx, cfg: nodes[2].cfg}
	for i := range 40 {
		e := event("test:before", i)
		if _, err := nodes[i%3].append(ctx, e); err != nil {
			t.Fatal(err)
		}
		l.events = append(l.events, e)
	}
	size, err := nodes[2].Await(ctx, server.Consistency{})
	if err == nil {
		err = nodes[2].AwaitSize(ctx, size)
	}
	if err != nil {
		t.Fatal(err)
	}
	// The power fails here: what the ledger did not sync is gone.
	l.disk = disk.CrashClone(vfs.CrashCloneCfg{RNG: rand.New(rand.NewPCG(1, 1))})
	for _, n := range nodes {
		n.stop(t)
	}
	l.cfg.Discovery = node.Discovery{}
	l.cfg.Listen.Peer = "127.0.0.1:0"
	l.on(l.disk)
	return l
}

// save keeps the directory as it is; the result puts it back, with the ledger on a disk.
func (l *lostQuorum) save() (restore func(disk *vfs.MemFS)) {
	l.t.Helper()
	kept := filepath.Join(l.t.TempDir(), "kept")
	copyTree(l.t, kept, l.cfg.DataDir)
	return func(disk *vfs.MemFS) {
		l.t.Helper()
		if err := os.RemoveAll(l.cfg.DataDir); err != nil {
			l.t.Fatal(err)
		}
		copyTree(l.t, l.cfg.DataDir, kept)
		l.on(disk)
	}
}

// copyTree copies a directory with the modes of its files.
func copyTree(t *testing.T, to, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// on has the ledger stand on a disk.
func (l *lostQuorum) on(disk *vfs.MemFS) { l.disk, l.cfg.Ground = disk, onDisk(disk) }

func (l *lostQuorum) recovery(reason string, reached func(string) error) node.RecoverConfig {
	return node.RecoverConfig{DataDir: l.cfg.DataDir, Reason: reason}.RecoverOn(l.cfg.Ground, reached)
}

// check starts the node and sees that it goes on alone, in the given epoch, with all
// that was acknowledged.
func (l *lostQuorum) check(epoch uint64) *testNode {
	l.t.Helper()
	n := start(l.t, l.cfg)
	if _, err := n.append(l.ctx, event("test:after", int(epoch))); err != nil {
		l.t.Fatal(err)
	}
	head, err := n.Head(l.ctx)
	if err != nil || head.Epoch != epoch {
		l.t.Errorf("epoch %d, %v", head.Epoch, err)
	}
	for _, e := range l.events {
		found, err := n.Lookup(l.ctx, e.Key())
		if err != nil || found.State != chain.SlotSealed.String() {
			l.t.Errorf("event %s: %+v, %v", e.ID, found, err)
		}
	}
	replay := fsm.NewReplay()
	if _, err := chain.Verify(l.ctx, n.Source(), chain.VerifyOptions{Check: replay.Check}); err != nil {
		l.t.Error(err)
	}
	return n
}

var errPower = errors.New("the power failed")

// TestRecover: what the survivor has in raft's log alone is kept; it goes on alone;
// others join it; and all that once more.
func TestRecover(t *testing.T) {
	t.Parallel()
	for _, backend := range []raftstore.Backend{raftstore.WAL, raftstore.BoltDB} {
		t.Run(string(backend), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			l := loseQuorum(t, ctx, backend)
			plan, err := node.PlanRecovery(l.recovery("", nil))
			if err != nil {
				t.Fatal(err)
			}
			if plan.Commands == 0 || plan.Epoch != 1 || len(plan.Lost) != 2 || plan.LastIndex < plan.Applied+plan.Commands || plan.Resumed {
				t.Errorf("plan %+v", plan)
			}
			done, err := node.Recover(l.recovery("a fire", nil))
			if err != nil || fmt.Sprint(done) != fmt.Sprint(plan) {
				t.Fatalf("planned %+v, done %+v, %v", plan, done, err)
			}
			n := l.check(1)
			joined := []*testNode{n}
			for i := range 2 {
				cfg := config(t, l.cfg.Cluster, filepath.Join(t.TempDir(), "data"), fmt.Sprint("late", i))
				cfg.Discovery = node.Discovery{Seeds: []string{n.PeerAddr()}}
				joined = append(joined, start(t, cfg))
				if _, err := joined[i+1].append(ctx, event("test:joined", i)); err != nil {
					t.Fatal(err)
				}
			}
			sameChains(t, ctx, joined)
			for _, n := range joined {
				if head, err := n.Head(ctx); err != nil || head.Epoch != 1 {
					t.Errorf("epoch %d, %v", head.Epoch, err)
				}
			}
			// Again, of the one that has voted in two epochs.
			joined[1].stop(t)
			joined[2].stop(t)
			n.stop(t)
			if _, err := node.Recover(l.recovery("", nil)); err != nil {
				t.Fatal(err)
			}
			l.check(2)
		})
	}
}

// TestRecoverCrash loses power after every step of a recovery, with what was not synced
// gone or kept: no node starts on what it left before it is carried on with.
func TestRecoverCrash(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l := loseQuorum(t, ctx, raftstore.WAL)
	begin, disk := l.save(), l.disk
	for _, last := range []string{"decide", "replay", "seal", "manifest", "incarnation", "truncate", "finish"} {
		for _, unsynced := range []int{0, 100} {
			t.Run(fmt.Sprintf("%s/%d", last, unsynced), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(7, 7))
				begin(disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng}))
				l.t = t
				var left *vfs.MemFS
				var after func(*vfs.MemFS)
				_, err := node.Recover(l.recovery("first", func(step string) error {
					if step != last {
						return nil
					}
					left = l.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rng})
					after = l.save()
					return errPower
				}))
				if !errors.Is(err, errPower) {
					t.Fatalf("%v", err)
				}
				after(left)
				if last != "finish" {
					if _, err := node.New(l.cfg); !errors.Is(err, node.ErrRecovering) {
						t.Fatalf("a node starts: %v", err)
					}
					plan, err := node.Recover(l.recovery("second", nil))
					if err != nil || !plan.Resumed || plan.Epoch != 1 {
						t.Fatalf("%+v, %v", plan, err)
					}
				}
				l.check(1).stop(t)
			})
		}
	}
}

// TestOldMajority recovers a node whose cluster is well. The two others go on in their
// epoch although they meet it, as it does in its own, and no raft RPC passes; once one of
// them has no leader any more, it ends.
func TestOldMajority(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes := startCluster(t, gates.Development, 3, func(cfg *node.Config) {
		if cfg.Name == "n3" {
			cfg.Listen.Peer = freePort(t) // it comes back where the others look for it
		}
	})
	if _, err := nodes[0].append(ctx, event("test:both", 1)); err != nil {
		t.Fatal(err)
	}
	cfg := nodes[2].cfg
	nodes[2].stop(t)
	if _, err := node.Recover(node.RecoverConfig{DataDir: cfg.DataDir}); err != nil {
		t.Fatal(err)
	}
	alone, old := start(t, cfg), nodes[0]
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for alone.RaftStats().Refused == 0 {
		select {
		case <-ctx.Done():
			t.Fatal("the others do not call")
		case <-tick.C:
		}
	}
	for i := range 30 {
		for epoch, n := range []*testNode{old, alone} {
			if _, err := n.append(ctx, event(fmt.Sprint("test:epoch:", epoch), i)); err != nil {
				t.Fatal(err)
			}
			if head, err := n.Head(ctx); err != nil || head.Epoch != uint64(epoch) {
				t.Fatalf("epoch %d, want %d: %v", head.Epoch, epoch, err)
			}
		}
	}
	if raft := alone.RaftStats(); raft.Sent != 0 || raft.Served != 0 || raft.Refused == 0 {
		t.Errorf("the recovered one and the older epoch: %+v", raft)
	}
	nodes[1].once.Do(func() {
		nodes[1].cancel()
		// Where its leader is lost first, it ends for the same reason as the other.
		if err := <-nodes[1].done; err != nil && !errors.Is(err, node.ErrOlderEpoch) {
			t.Errorf("node stopped: %v", err)
		}
	})
	nodes[0].once.Do(func() {
		if err := <-nodes[0].done; !errors.Is(err, node.ErrOlderEpoch) {
			t.Errorf("the last of the older epoch ends with %v", err)
		}
	})
}

// TestRecoverRefuses: what no cluster can be recovered from.
func TestRecoverRefuses(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes := startCluster(t, gates.Development, 1, nil)
	if _, err := nodes[0].append(ctx, event("test", 1)); err != nil {
		t.Fatal(err)
	}
	dir := nodes[0].cfg.DataDir
	if _, err := node.PlanRecovery(node.RecoverConfig{DataDir: dir}); !errors.Is(err, node.ErrDataInUse) {
		t.Errorf("a running node: %v", err)
	}
	nodes[0].stop(t)
	if err := os.RemoveAll(filepath.Join(dir, "ledger")); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Recover(node.RecoverConfig{DataDir: dir}); !errors.Is(err, node.ErrDataMissing) {
		t.Errorf("without a ledger: %v", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "raft")); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Recover(node.RecoverConfig{DataDir: dir}); !errors.Is(err, fsm.ErrNotRecoverable) {
		t.Errorf("without raft's state: %v", err)
	}
	if _, err := node.Recover(node.RecoverConfig{DataDir: t.TempDir()}); !errors.Is(err, node.ErrForeignData) {
		t.Errorf("an empty directory: %v", err)
	}
}

// TestRecoverMendsFirst: a log that goes on from nothing, which a crash between an
// install's manifest and the removal of that log leaves, has no say in where the log
// ends, and is not what the next epoch begins behind.
func TestRecoverMendsFirst(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n := startCluster(t, gates.Development, 1, nil)[0]
	for i := range 40 {
		if _, err := n.append(ctx, event("test", i)); err != nil {
			t.Fatal(err)
		}
	}
	n.stop(t)
	// Leaves a manifest of all that is applied, and no log.
	cfg := node.RecoverConfig{DataDir: n.cfg.DataDir}
	if _, err := node.Recover(cfg); err != nil {
		t.Fatal(err)
	}
	index, term := leaveOldLog(t, filepath.Join(n.cfg.DataDir, "raft"))
	for _, do := range []func(node.RecoverConfig) (node.RecoveryPlan, error){node.PlanRecovery, node.PlanRecovery, node.Recover} {
		plan, err := do(cfg)
		if err != nil || plan.LastIndex != index || plan.LastTerm != term || plan.Replay != 0 {
			t.Errorf("ends at (%d, %d), want (%d, %d), replays %d; %v", plan.LastTerm, plan.LastIndex, term, index, plan.Replay, err)
		}
		if t.Failed() {
			return // the first one mends
		}
	}
	if _, err := n.again().append(ctx, event("test:again", 1)); err != nil {
		t.Error(err)
	}
}

// leaveOldLog writes a log of an older term than the manifest's, which reaches beyond
// it, and returns where the manifest is.
func leaveOldLog(t *testing.T, dir string) (index, term uint64) {
	t.Helper()
	s, err := raftstore.Open(raftstore.Config{Dir: dir, Backend: raftstore.WAL, WriteTimeout: time.Minute, Fatal: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	st, err := s.State()
	if err != nil {
		t.Fatal(err)
	}
	var logs []*raft.Log
	for i := st.SnapshotIndex - 5; i <= st.SnapshotIndex+400; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: st.SnapshotTerm - 1, Type: raft.LogNoop})
	}
	if err := s.Log.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
	return st.SnapshotIndex, st.SnapshotTerm
}

// TestRecoverNamesStaged: a survivor that was catching up says how many entries it
// fetched and does not keep.
func TestRecoverNamesStaged(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	n := startCluster(t, gates.Development, 1, nil)[0]
	if _, err := n.append(ctx, event("test:both", 1)); err != nil {
		t.Fatal(err)
	}
	n.stop(t)
	behind := filepath.Join(t.TempDir(), "behind")
	copyTree(t, behind, n.cfg.DataDir)
	n = n.again()
	for i := range 20 {
		if _, err := n.append(ctx, event("test:fetched", i)); err != nil {
			t.Fatal(err)
		}
	}
	n.stop(t)
	staged := stageFrom(t, filepath.Join(behind, "ledger"), filepath.Join(n.cfg.DataDir, "ledger"))
	cfg := node.RecoverConfig{DataDir: behind}
	for _, do := range []func(node.RecoverConfig) (node.RecoveryPlan, error){node.PlanRecovery, node.Recover} {
		if plan, err := do(cfg); err != nil || plan.Staged != staged || staged < 20 {
			t.Errorf("%d of %d staged entries are named: %v", plan.Staged, staged, err)
		}
	}
	if plan, err := node.PlanRecovery(cfg); err != nil || plan.Staged != 0 || len(plan.Lost) != 0 {
		t.Errorf("afterwards: %+v, %v", plan, err)
	}
}

// stageFrom stages, in a stopped node's ledger, the entries that another one has more,
// and returns how many.
func stageFrom(t *testing.T, behind, ahead string) uint64 {
	t.Helper()
	from, err := ledger.Open(ahead, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := ledger.Open(behind, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	u := new(chain.Update)
	for seq := to.Meta().Head.Size; seq < from.Meta().Head.Size; seq++ {
		rec, err := from.Record(seq)
		if err != nil {
			t.Fatal(err)
		}
		h, err := chain.DecodeHeader(rec.Header)
		if err != nil {
			t.Fatal(err)
		}
		u.Entries = append(u.Entries, chain.Sealing{
			Record: rec, Hash: chain.HeaderHash(rec.Header), Time: h.Time, Key: h.Key(), Kind: h.Kind, Principal: h.Principal,
		})
	}
	if err := to.Stage(u); err != nil {
		t.Fatal(err)
	}
	if err := to.FlushStaging(); err != nil {
		t.Fatal(err)
	}
	return uint64(len(u.Entries))
}
