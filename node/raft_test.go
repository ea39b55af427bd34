package node

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger/ledgertest"
)

func TestTrailing(t *testing.T) {
	const mib = 1 << 20
	type run struct{ logs, size int }
	tests := map[string]struct {
		runs                  []run
		everyBytes, everyLogs uint64
		want                  uint64
	}{
		"nothing applied yet":            {nil, 64 * mib, 16384, maxTrailing},
		"small entries":                  {[]run{{20_000, 300}}, 64 * mib, 16384, maxTrailing},
		"full commands":                  {[]run{{1000, 128 << 10}}, 64 * mib, 16384, 512},
		"entries of 1 MiB":               {[]run{{1000, mib}}, 64 * mib, 16384, minTrailing},
		"as many as make a snapshot due": {[]run{{1000, 300}}, 64 * mib, 500, 500},
		"never too few":                  {[]run{{1000, 300}}, 4096, 50, minTrailing},
		"large ones after many small":    {[]run{{1_000_000, 500}, {1000, 128 << 10}}, 64 * mib, 16384, 512},
		"small ones after large":         {[]run{{1000, mib}, {9000, 500}}, 64 * mib, 16384, 9000 + 59},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var recent recentLogs
			for _, r := range tc.runs {
				l := &raft.Log{Data: make([]byte, r.size)}
				for range r.logs {
					recent.add([]*raft.Log{l})
				}
			}
			if got := recent.trailing(tc.everyBytes, tc.everyLogs); got != tc.want {
				t.Errorf("%d, want %d", got, tc.want)
			}
		})
	}
}

// TestStalledApply: a node whose state machine hangs says so, once its time is over.
func TestStalledApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		store := ledgertest.NewMemory()
		f, err := fsm.New(fsm.Config{
			Store: store, Staging: store, ChainID: chainOfTest, NodeID: "n1", Logger: slog.New(slog.DiscardHandler),
			Fatal:   func(err error) { t.Errorf("fatal: %v", err) },
			Applied: func(*fsm.View) { <-release },
		})
		if err != nil {
			t.Fatal(err)
		}
		var stalled []error
		const limit = 30 * time.Second
		machine := &raftFSM{FSM: f, limit: limit, stalled: func(err error) { stalled = append(stalled, err) }}
		configuration := func(index uint64) []*raft.Log {
			c := raft.Configuration{Servers: []raft.Server{{ID: "n1.a", Address: "n1"}}}
			return []*raft.Log{{Index: index, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)}}
		}
		apply := func(index uint64, takes time.Duration) {
			go func() {
				time.Sleep(takes) // the bubble's time
				release <- struct{}{}
			}()
			machine.ApplyBatch(configuration(index))
			synctest.Wait()
		}
		apply(1, limit-1)
		if len(stalled) > 0 {
			t.Fatalf("called stalled before its time: %v", stalled)
		}
		apply(2, 2*limit)
		if len(stalled) != 1 {
			t.Errorf("called stalled %d times, want once", len(stalled))
		}
	})
}
