package node_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/server"
)

// TestLeadersChange has writers and readers on all nodes while the leadership
// moves by handover and by restarts. Every event is in the chain once, in the order
// in which its writer sent them, and every linearizable read sees what was
// acknowledged before it began.
func TestLeadersChange(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes := startCluster(t, gates.Development, 3, nil)
	var acknowledged atomic.Uint64 // the largest sequence
	working, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var current [3]atomic.Pointer[testNode]
	for i := range nodes {
		current[i].Store(nodes[i])
	}
	type sealed struct {
		event chain.Event
		seq   uint64
	}
	written := make([][]sealed, 6)
	for w := range written {
		wg.Go(func() {
			for k := 0; working.Err() == nil; k++ {
				e := event(fmt.Sprintf("test:%d", w), k)
				seq, err := current[w%3].Load().append(ctx, e)
				for err != nil && ctx.Err() == nil { // the node is being restarted
					seq, err = current[rand.IntN(3)].Load().append(ctx, e)
				}
				if err != nil {
					t.Errorf("writer %d, event %d: %v", w, k, err)
					return
				}
				written[w] = append(written[w], sealed{e, seq})
				for {
					old := acknowledged.Load()
					if old >= seq || acknowledged.CompareAndSwap(old, seq) {
						break
					}
				}
			}
		})
	}
	var reads, stale atomic.Uint64
	for i := range nodes {
		wg.Go(func() {
			for working.Err() == nil {
				before := acknowledged.Load()
				size, err := current[i].Load().Await(working, server.Consistency{})
				if err != nil {
					continue // it is being restarted
				}
				reads.Add(1)
				if size <= before {
					stale.Add(1)
				}
			}
		})
	}
	for round := range 5 {
		enough := acknowledged.Load() + 100
		l := leader(t, ctx, nodes)
		if round%2 == 0 {
			if err := l.Transfer(ctx, ""); err != nil {
				t.Logf("transfer: %v", err) // somebody else led already
			}
		} else {
			for i := range nodes {
				if nodes[i] == l {
					l.stop(t)
					nodes[i] = l.again()
					current[i].Store(nodes[i])
				}
			}
		}
		if err := nodes[round%3].AwaitSize(ctx, enough); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	wg.Wait()
	if n := stale.Load(); n > 0 || reads.Load() == 0 {
		t.Errorf("%d of %d linearizable reads were stale", n, reads.Load())
	}
	sameChains(t, ctx, nodes)
	total := 0
	for w, list := range written {
		last := uint64(0)
		for k, s := range list {
			rec, err := nodes[w%3].Record(ctx, s.seq)
			if err != nil {
				t.Fatal(err)
			}
			h, err := chain.DecodeHeader(rec.Header)
			if err != nil || h.Source != s.event.Source || h.ID != s.event.ID {
				t.Fatalf("writer %d: entry %d, which was acknowledged for event %d, is %+v, %v", w, s.seq, k, h, err)
			}
			if s.seq <= last {
				t.Errorf("writer %d: event %d has sequence %d, the one before it %d", w, k, s.seq, last)
			}
			last = s.seq
			total++
		}
	}
	size, err := nodes[0].Await(ctx, server.Consistency{})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for rec, err := range nodes[0].Scan(ctx, chain.Filter{Workspace: "default"}, 0, size, false) {
		if err != nil {
			t.Fatal(err)
		}
		_ = rec
		found++
	}
	if found != total {
		t.Errorf("%d events in the chain, %d were acknowledged", found, total)
	}
	t.Logf("%d events, %d reads", total, reads.Load())
}

// TestCatchUp has nodes come back after the others have dropped the log that they
// would need. It is with boltdb: the other backend drops whole segments.
func TestCatchUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes := startCluster(t, gates.Development, 3, func(c *node.Config) {
		c.Storage.LogBackend = raftstore.BoltDB
		c.Storage.SnapshotLogs = 100 // 128 stay behind each
	})
	t.Run("a follower was away", func(t *testing.T) { followerWasAway(t, ctx, nodes) })
	t.Run("an old leader comes back", func(t *testing.T) { oldLeaderComesBack(t, ctx, nodes) })
}

// fill appends events one by one through the leader, until no node's log reaches
// back to where it ended.
func fill(t *testing.T, ctx context.Context, source string, nodes ...*testNode) {
	t.Helper()
	l := leader(t, ctx, nodes)
	begin, err := l.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cut := func(n *testNode) bool {
		if err := n.Snapshot(); err != nil {
			t.Fatal(err)
		}
		first, err := n.FirstLog()
		if err != nil {
			t.Fatal(err)
		}
		return first > begin.LastLogIndex+1
	}
	for k := 0; ; k++ {
		if k%100 == 99 {
			done := true
			for _, n := range nodes {
				done = cut(n) && done
			}
			if done {
				return
			}
			l = leader(t, ctx, nodes)
		}
		if _, err := l.append(ctx, event(source, k)); err != nil {
			t.Fatal(err)
		}
	}
}

// followerWasAway stops a follower until the log does not reach back to what it
// has: it catches up by manifest, and fetches what it lacks and no more.
func followerWasAway(t *testing.T, ctx context.Context, nodes []*testNode) {
	l := leader(t, ctx, nodes)
	away := (index(nodes, l) + 1) % 3
	had := size(t, ctx, nodes[away])
	nodes[away].stop(t)
	others := []*testNode{nodes[(away+1)%3], nodes[(away+2)%3]}
	fill(t, ctx, "test:away", others...)
	want := size(t, ctx, others[0])
	nodes[away] = nodes[away].again()
	if err := nodes[away].AwaitSize(ctx, want); err != nil {
		t.Fatal(err)
	}
	if n := nodes[away].Fetched(); n == 0 || n > want-had+50 {
		t.Errorf("it fetched %d entries, and lacked about %d", n, want-had)
	}
	sameChains(t, ctx, nodes)
}

func index(nodes []*testNode, n *testNode) int {
	for i := range nodes {
		if nodes[i] == n {
			return i
		}
	}
	return -1
}

// size is how long the chain is, by a linearizable read.
func size(t *testing.T, ctx context.Context, n *testNode) uint64 {
	t.Helper()
	size, err := n.Await(ctx, server.Consistency{})
	if err != nil {
		t.Fatal(err)
	}
	return size
}

// oldLeaderComesBack stops the leader, and gives its log an end that nobody else
// has, as if it had been cut off: far beyond what the others have by the time it
// comes back. It installs a manifest, restarts raft, and is as good as before.
func oldLeaderComesBack(t *testing.T, ctx context.Context, nodes []*testNode) {
	old := leader(t, ctx, nodes)
	at := index(nodes, old)
	old.stop(t)
	stores, err := raftstore.Open(raftstore.Config{
		Dir: old.cfg.DataDir + "/raft", Backend: old.cfg.Storage.LogBackend, WriteTimeout: time.Minute, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	state, err := stores.State()
	if err != nil {
		t.Fatal(err)
	}
	var last raft.Log
	if err := stores.Log.GetLog(state.LastLog, &last); err != nil {
		t.Fatal(err)
	}
	var end []*raft.Log
	for i := range uint64(3000) {
		end = append(end, &raft.Log{Index: last.Index + 1 + i, Term: last.Term, Type: raft.LogNoop})
	}
	if err := errors.Join(stores.Log.StoreLogs(end), stores.Close()); err != nil {
		t.Fatal(err)
	}
	others := []*testNode{nodes[(at+1)%3], nodes[(at+2)%3]}
	fill(t, ctx, "test:old", others...)
	want := size(t, ctx, others[0])
	nodes[at] = old.again()
	if err := nodes[at].AwaitSize(ctx, want); err != nil {
		t.Fatal(err)
	}
	// It takes appends again, and carries the cluster with one other.
	next := leader(t, ctx, others)
	sameChains(t, ctx, nodes)
	for _, n := range others {
		if n != next {
			n.stop(t)
		}
	}
	if _, err := nodes[at].append(ctx, event("test:end", 1)); err != nil {
		t.Error(err)
	}
	sameChains(t, ctx, []*testNode{next, nodes[at]})
}
