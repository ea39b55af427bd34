package check_test

import (
	"slices"
	"testing"
	"time"

	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
)

// BenchmarkTwoMillion judges two million operations of 200 clients, and 200 faults.
func BenchmarkTwoMillion(b *testing.B) {
	const n = 2_000_000
	m := newMachine(nil)
	m.h.Ops = make([]history.Op, 0, n)
	m.f.Entries = slices.Grow(m.f.Entries, n)
	for i := range n {
		t := time.Duration(i) * 100 * time.Microsecond
		op := history.Op{Client: i % 200, Call: t, Return: t + 15*time.Millisecond, Outcome: history.OK}
		size := uint64(len(m.f.Entries))
		switch i % 8 {
		case 0:
			op.Kind, op.Consistency, op.Size, op.HeadHash, op.Root = history.Head, history.Linearizable, size, hashOf(size-1), rootOf(size)
		case 1:
			op.Kind, op.Consistency, op.Key, op.Found, op.Sequence, op.Hash = history.Lookup, history.Session, m.f.Entries[size-1].Key, true, size-1, hashOf(size-1)
		case 2:
			op.Kind, op.Consistency, op.Sequence, op.Hash = history.Get, history.Linearizable, size/2, hashOf(size/2)
		default:
			op.Kind, op.Key = history.Append, keyOf(i)
			op.Sequence = m.seal(op.Key)
			op.Hash = hashOf(op.Sequence)
		}
		m.now = op.Return
		m.h.Ops = append(m.h.Ops, op)
		if i%10_000 == 9_999 {
			m.h.Faults = append(m.h.Faults, history.Fault{At: t, Kind: "kill", Text: "n1"})
		}
	}
	h, f := m.finish()
	b.ReportAllocs()
	for b.Loop() {
		for _, v := range check.All(h, f, check.Limits{}) {
			if !v.OK {
				b.Fatal(v.Name, v.Evidence)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/operation")
}
