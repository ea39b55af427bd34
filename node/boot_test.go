package node

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/node/raftstore"
)

// disk is what a stopped or crashed node left: raft's log, the ledger's applied
// index, and manifests, by index.
type disk struct {
	log     []*raft.Log
	term    uint64
	applied uint64 // 0: the ledger is new
	// listed and pending are indexes of manifests; 0 is none.
	listed, pending uint64
	// noLedger: its directory is gone.
	noLedger bool
}

// booting is the part of a node that the checks at boot see.
func (d disk) booting(t *testing.T, leader *leaderLog, backend raftstore.Backend) *Node {
	t.Helper()
	dir := t.TempDir()
	stores, err := raftstore.Open(raftstore.Config{
		Dir: dir + "/raft", Backend: backend, WriteTimeout: time.Minute, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{log: slog.New(slog.DiscardHandler), dir: &dataDir{path: dir}, stores: stores}
	t.Cleanup(func() {
		err := stores.Close()
		if n.ledger != nil {
			err = errors.Join(err, n.ledger.Close())
		}
		if err != nil {
			t.Error(err)
		}
	})
	if len(d.log) > 0 {
		if err := stores.Log.StoreLogs(d.log); err != nil {
			t.Fatal(err)
		}
	}
	if d.term > 0 {
		if err := stores.Vote.SetUint64([]byte("CurrentTerm"), d.term); err != nil {
			t.Fatal(err)
		}
	}
	for i, index := range []uint64{d.listed, d.pending} {
		if index == 0 {
			continue
		}
		sink, err := stores.Manifests.Create(1, index, 2, leader.conf, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			sink.(raftstore.LocalSink).Local()
		}
		if _, err := sink.Write(leader.snapshot(t, index).data); err != nil {
			t.Fatal(err)
		}
		if err := sink.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !d.noLedger {
		d.fill(t, leader, n.dir.sub("ledger"))
	}
	return n
}

// fill makes the ledger as of the applied index.
func (d disk) fill(t *testing.T, leader *leaderLog, dir string) {
	t.Helper()
	store, err := ledger.Create(dir, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsm.New(fsm.Config{
		Store: store, Staging: store, ChainID: chainOfTest, NodeID: "n1", Logger: slog.New(slog.DiscardHandler),
		Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range leader.entries(1, d.applied) {
		if e.Type != raft.LogBarrier {
			f.ApplyBatch([]*raft.Log{e})
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestBoot starts from what crashes leave, and refuses what none leaves.
func TestBoot(t *testing.T) {
	leader := newLeaderLog(t) // entry 5 is a barrier
	leader.event(t)
	leader.event(t)
	another := func(from, to uint64) (logs []*raft.Log) {
		for i := from; i <= to; i++ {
			logs = append(logs, &raft.Log{Index: i, Term: 1, Type: raft.LogNoop})
		}
		return logs
	}
	for name, test := range map[string]struct {
		disk     disk
		refused  string // a part of the text; "" is accepted
		snapshot uint64 // the newest listed manifest afterwards
		last     uint64 // of the log, afterwards
	}{
		"never used":            {},
		"a term alone":          {disk: disk{term: 3}},
		"all applied":           {disk: disk{log: leader.entries(1, 7), applied: 7}, last: 7},
		"some not applied":      {disk: disk{log: leader.entries(1, 7), applied: 3}, last: 7},
		"nothing applied":       {disk: disk{log: leader.entries(1, 7)}, last: 7},
		"with a snapshot":       {disk: disk{log: leader.entries(4, 7), applied: 6, listed: 5}, snapshot: 5, last: 7},
		"all of it in it":       {disk: disk{listed: 5, applied: 4}, snapshot: 5},
		"its log begins behind": {disk: disk{log: leader.entries(6, 7), applied: 6, listed: 5}, snapshot: 5, last: 7},

		"an install received":              {disk: disk{log: leader.entries(1, 3), applied: 3, pending: 5}, last: 3},
		"an install promoted":              {disk: disk{log: leader.entries(1, 3), applied: 4, pending: 5}, snapshot: 5},
		"an install confirmed":             {disk: disk{log: leader.entries(1, 3), applied: 4, listed: 5}, snapshot: 5},
		"an install over another end":      {disk: disk{log: slices.Concat(leader.entries(1, 3), another(4, 30)), applied: 4, listed: 5}, snapshot: 5},
		"promoted over another end":        {disk: disk{log: slices.Concat(leader.entries(1, 4), another(5, 5)), applied: 4, pending: 5}, snapshot: 5},
		"a second install received":        {disk: disk{log: leader.entries(6, 6), applied: 6, listed: 5, pending: 7}, snapshot: 5, last: 6},
		"one received, and applied anyhow": {disk: disk{log: leader.entries(1, 7), applied: 4, pending: 5}, snapshot: 5, last: 7},

		"the ledger is gone":        {disk: disk{log: leader.entries(1, 7), noLedger: true}, refused: "ledger is missing"},
		"the ledger is new":         {disk: disk{listed: 5}, refused: "newest snapshot was taken at index 4"},
		"the ledger is old":         {disk: disk{log: leader.entries(4, 7), applied: 3, listed: 5}, refused: "newest snapshot"},
		"raft is gone":              {disk: disk{applied: 7}, refused: "raft has no state"},
		"raft is old":               {disk: disk{log: leader.entries(1, 4), applied: 6}, refused: "raft ends at index 4"},
		"the manifests are gone":    {disk: disk{log: leader.entries(6, 7), applied: 6}, refused: "begins at index 6"},
		"a hole behind the newest":  {disk: disk{log: leader.entries(7, 7), applied: 6, listed: 5}, refused: "begins at index 7"},
		"another log than applied":  {disk: disk{log: another(1, 30), applied: 7, listed: 5}, refused: "raft ends at index 5"},
		"the manifest of a longer":  {disk: disk{log: leader.entries(1, 7), applied: 4, listed: 7}, refused: "newest snapshot"},
		"nothing but a vote, ahead": {disk: disk{term: 3, applied: 2}, refused: "raft ends at index 0"},
	} {
		for _, backend := range backends {
			t.Run(name+"/"+string(backend), func(t *testing.T) {
				n := test.disk.booting(t, leader, backend)
				err := n.openLedger()
				if err == nil {
					err = n.checkBoot()
				}
				switch {
				case test.refused == "" && err != nil:
					t.Fatalf("refused: %v", err)
				case test.refused == "":
				case err == nil || !strings.Contains(err.Error(), test.refused):
					t.Fatalf("got %v, want %q", err, test.refused)
				default:
					return
				}
				state, err := n.stores.State()
				if err != nil || state.SnapshotIndex != test.snapshot || state.LastLog != test.last {
					t.Errorf("afterwards %+v, %v, want snapshot %d and last entry %d", state, err, test.snapshot, test.last)
				}
				// What was mended stays so.
				if err := n.checkBoot(); err != nil {
					t.Errorf("once more: %v", err)
				}
			})
		}
	}
}
