package fsm_test

import (
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

// bottomless is a store that keeps slots and heads, and nothing else: it costs
// little beside what is measured.
type bottomless struct {
	*ledgertest.Memory
	meta  chain.Meta
	state []byte
	slots map[chain.Key]chain.Slot
}

func (b *bottomless) Meta() chain.Meta       { return b.meta }
func (b *bottomless) State() ([]byte, error) { return b.state, nil }
func (b *bottomless) Staged() chain.Head     { return b.meta.Head }

func (b *bottomless) FindAll(keys []chain.Key, slots []chain.Slot) error {
	for i, k := range keys {
		slots[i] = b.slots[k]
	}
	return nil
}

func (b *bottomless) Commit(u *chain.Update) error {
	if n := len(u.Entries); n > 0 {
		e := &u.Entries[n-1]
		b.meta.Head = chain.Head{Size: e.Sequence + 1, Hash: e.Hash, Time: e.Time}
	}
	b.meta.Applied, b.meta.AppliedTerm = u.Applied, u.AppliedTerm
	return nil
}

const benchBatch = 256

// benchLogs returns commands of 256 events with 256-byte payloads.
func benchLogs(b *testing.B, h *history, v *fsm.View, gated bool) []*raft.Log {
	payload := fmt.Sprintf(`{"agent_id":"%0220d","pid":7}`, 1)
	var logs []*raft.Log
	for c := range 16 {
		var events []fsm.Proposal
		for i := range benchBatch {
			p := h.event(fmt.Sprintf("%08d-%08d", c, i), payload)
			if gated {
				p.Kind = "tool.execute"
				p.Verdict = v.Evaluate(&p)
			}
			events = append(events, p)
		}
		logs = append(logs, h.batch(1, events...))
	}
	return logs
}

func BenchmarkApplyBatch(b *testing.B) {
	for _, gated := range []bool{false, true} {
		b.Run(fmt.Sprintf("gated=%v", gated), func(b *testing.B) {
			r, h := begun(b, gates.Production)
			state, err := r.store.State()
			if err != nil {
				b.Fatal(err)
			}
			store := &bottomless{Memory: r.store, meta: r.store.Meta(), state: state, slots: map[chain.Key]chain.Slot{}}
			f, err := fsm.New(fsm.Config{
				Store: store, Staging: store, ChainID: testID, Fatal: func(err error) { b.Fatal(err) }, Logger: testLogger(),
			})
			if err != nil {
				b.Fatal(err)
			}
			logs := benchLogs(b, h, r.View(), gated)
			index := h.index
			b.ReportAllocs()
			b.SetBytes(int64(len(logs[0].Data)))
			n := 0
			for b.Loop() {
				l := *logs[n%len(logs)]
				index++
				l.Index = index
				got := f.ApplyBatch([]*raft.Log{&l})[0].(*fsm.BatchResult)
				if got.Results[benchBatch-1].Status != fsm.Appended {
					b.Fatalf("%+v", got.Results[benchBatch-1])
				}
				n++
			}
			b.ReportMetric(float64(n*benchBatch)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkCommandAppendBinary(b *testing.B) {
	h := newHistory(b)
	batch := fsm.Batch{Stamp: 1, Node: "n1"}
	for i := range benchBatch {
		batch.Events = append(batch.Events, h.event(fmt.Sprint(i), fmt.Sprintf(`{"agent_id":"%0220d","pid":7}`, 1)))
	}
	command := fsm.Command{Batch: &batch}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := command.AppendBinary(nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkCommandUnmarshalBinary(b *testing.B) {
	r, h := begun(b, gates.Production)
	data := benchLogs(b, h, r.View(), false)[0].Data
	b.ReportAllocs()
	for b.Loop() {
		var c fsm.Command
		if err := c.UnmarshalBinary(data); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*benchBatch)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkCatchUp(b *testing.B) {
	leader, h := begun(b, gates.Production)
	for _, l := range benchLogs(b, h, leader.View(), false) {
		leader.apply(l)
	}
	manifest := leader.snapshot()
	size := leader.store.Meta().Head.Size
	b.ReportAllocs()
	for b.Loop() {
		r := newReplica(b, ledgertest.NewMemory())
		r.fetcher.peer = leader.store
		if got, _ := install(r, manifest, h.index); got != fsm.NotReady {
			b.Fatal("nothing to fetch")
		}
		catchUp(r)
	}
	b.ReportMetric(float64(b.N)*float64(size)/b.Elapsed().Seconds(), "entries/s")
}
