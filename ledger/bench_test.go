package ledger_test

import (
	"fmt"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/ledger/ledgertest"
)

// sealed makes n Updates of size events with payloads of 256 bytes. Their
// headers have about 380 bytes.
func sealed(b *ledgertest.Builder, n, size int) []*chain.Update {
	updates := make([]*chain.Update, n)
	for i := range updates {
		updates[i] = b.NextN(size, 256)
	}
	return updates
}

func createOnDisk(b *testing.B) *ledger.Store {
	s, err := ledger.Create(b.TempDir()+"/ledger", ledger.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}

// BenchmarkCommit commits batches to a store on disk. Aim: 300,000 entries a
// second at batches of 128, on one core beside the one that compacts.
func BenchmarkCommit(b *testing.B) {
	for _, size := range []int{1, 16, 128, 1024} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, builder := createOnDisk(b), ledgertest.NewBuilder(1)
			const ahead = 256
			var updates []*chain.Update
			bytes := 0
			for i := 0; b.Loop(); i++ {
				if i%ahead == 0 {
					b.StopTimer()
					updates = sealed(builder, ahead, size)
					b.StartTimer()
				}
				u := updates[i%ahead]
				if err := s.Commit(u); err != nil {
					b.Fatal(err)
				}
				if bytes == 0 {
					bytes = len(u.Entries[size-1].Header)
				}
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "entries/s")
			b.ReportMetric(float64(bytes), "header-B")
		})
	}
}

// filled returns a store of n entries.
func filled(b *testing.B, n int) *ledger.Store {
	s, builder := createOnDisk(b), ledgertest.NewBuilder(1)
	for done := 0; done < n; done += 128 {
		if err := s.Commit(builder.NextN(min(128, n-done), 256)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// BenchmarkFindMiss asks for absent keys: what exactly-once costs each event.
func BenchmarkFindMiss(b *testing.B) {
	s := filled(b, 200_000)
	key := chain.Key{Workspace: "team-1", Source: "host-1/agent"}
	for i := 0; b.Loop(); i++ {
		key.ID = fmt.Sprintf("absent-%08d", i)
		if _, ok, err := s.Find(key); ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// BenchmarkFindAllMiss asks for absent keys together, as a command's are.
func BenchmarkFindAllMiss(b *testing.B) {
	s := filled(b, 200_000)
	for _, size := range []int{1, 16, 128} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			keys, slots := make([]chain.Key, size), make([]chain.Slot, size)
			for n := 0; b.Loop(); {
				for i := range keys {
					n++
					keys[i] = chain.Key{Workspace: "team-1", Source: "host-1/agent", ID: fmt.Sprintf("absent-%08d", n)}
				}
				if err := s.FindAll(keys, slots); err != nil || slots[0].State != 0 {
					b.Fatal(slots[0], err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/key")
		})
	}
}

// BenchmarkFindHit asks for keys of entries, which reads and decodes a header.
func BenchmarkFindHit(b *testing.B) {
	s := filled(b, 200_000)
	for i := uint64(1); b.Loop(); i++ {
		e := ledgertest.Event(1+i*7919%199_000, 0)
		if _, ok, err := s.Find(e.Key()); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// BenchmarkScan reads entries in order, all and by index; one operation is one
// entry.
func BenchmarkScan(b *testing.B) {
	const n = 200_000
	s := filled(b, n)
	for _, bench := range []struct {
		name   string
		filter chain.Filter
	}{
		{"all", chain.Filter{}},
		{"kind", chain.Filter{Kind: "git.commit"}},
		{"prefix", chain.Filter{Kind: "agent.*"}},
		{"source and workspace", chain.Filter{Source: "host-3/agent", Workspace: "team-2"}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for done := 0; done < b.N; {
				for _, err := range s.Scan(bench.filter, 0, n, false) {
					if err != nil {
						b.Fatal(err)
					}
					if done++; done >= b.N {
						break
					}
				}
			}
		})
	}
}

// BenchmarkOpen opens a store that was stopped.
func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{10_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := b.TempDir() + "/ledger"
			s, err := ledger.Create(dir, ledger.Options{})
			if err != nil {
				b.Fatal(err)
			}
			builder := ledgertest.NewBuilder(1)
			for done := 0; done < n; done += 1000 {
				if err := s.Commit(builder.NextN(1000, 256)); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				s, err := ledger.Open(dir, ledger.Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
