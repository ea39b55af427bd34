package monitor_test

import (
	"testing"

	"github.com/exonode/exonode/client/monitor"
)

// BenchmarkFirstRound reads a whole log of headers, without network and disk.
func BenchmarkFirstRound(b *testing.B) {
	const size = 20_000
	now := newLog(size).files()
	b.ReportAllocs()
	for b.Loop() {
		m, err := monitor.Open(monitor.Config{Source: now, Policy: policy(base + "/0"), FS: newDisk()})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := m.Round(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(size*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
