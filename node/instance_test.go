package node

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger/ledgertest"
	"github.com/exonode/exonode/node/raftstore"
)

// TestFuturesEndWithRaft: when raft is shut down while the state machine is busy,
// it drops what waits behind. Nobody waits for it for ever.
func TestFuturesEndWithRaft(t *testing.T) {
	stores, err := raftstore.Open(raftstore.Config{
		Dir: t.TempDir(), Backend: raftstore.WAL, WriteTimeout: time.Minute, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	conf := raft.Configuration{Servers: []raft.Server{{ID: "n1.a", Address: "n1"}}}
	if err := stores.Bootstrap(conf); err != nil {
		t.Fatal(err)
	}
	busy, release := make(chan struct{}), make(chan struct{})
	var f *fsm.FSM
	store := ledgertest.NewMemory()
	f, err = fsm.New(fsm.Config{
		Store: store, Staging: store, ChainID: chainOfTest, NodeID: "n1", Logger: slog.New(slog.DiscardHandler),
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
		Applied: func(*fsm.View) {
			select {
			case busy <- struct{}{}:
				<-release
			case <-release:
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	host := &raftHost{timing: Loopback(), id: "n1.a", stores: stores, logger: slog.New(slog.DiscardHandler), started: func(*instance) {}}
	host.fsm = &raftFSM{FSM: f, holds: host.holds, restored: func(uint64) {}, limit: time.Hour}
	host.attach = func() (raftSession, error) { return newFakeSession(), nil }
	if err := host.start(); err != nil {
		t.Fatal(err)
	}
	<-busy // the configuration is being applied; raft leads, or is about to
	r := host.get()
	for !r.leads() {
		<-r.LeaderCh()
	}
	var futures []raft.Future
	command := newLeaderLog(t).logs[1].Data
	for range 20 {
		futures = append(futures, r.Barrier(time.Minute), r.Apply(command, time.Minute))
	}
	change := r.AddNonvoter("n2.b", "n2", 0, time.Minute)
	futures = append(futures, change, r.LeadershipTransfer())
	stopped := make(chan error)
	go func() { stopped <- host.stop() }()
	close(release)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	for i, future := range futures {
		// A barrier or two may have come through.
		if err := future.Error(); errors.Is(err, raft.ErrEnqueueTimeout) {
			t.Errorf("future %d: %v", i, err)
		}
	}
	if err := r.Barrier(time.Minute).Error(); !errors.Is(err, raft.ErrRaftShutdown) {
		t.Errorf("after the end: %v", err)
	}
	if err := host.stop(); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
}
