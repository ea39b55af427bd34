package chain_test

import (
	"testing"
	"time"

	"github.com/exonode/exonode/chain"
)

func BenchmarkHeaderEncode(b *testing.B) {
	h := typicalHeader()
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if buf, err = h.AppendBinary(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(buf)), "header-bytes")
}

func BenchmarkHeaderDecode(b *testing.B) {
	h := typicalHeader()
	buf, err := h.MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	var out chain.Header
	b.ReportAllocs()
	for b.Loop() {
		if err := out.UnmarshalBinary(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkHeaderHash(b *testing.B) {
	h := typicalHeader()
	buf, err := h.MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		chain.HeaderHash(buf)
	}
}

func BenchmarkLeafHash(b *testing.B) {
	h := typicalHeader()
	buf, err := h.MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		chain.LeafHash(buf)
	}
}

func BenchmarkNodeHash(b *testing.B) {
	var l, r chain.Hash
	for b.Loop() {
		l = chain.NodeHash(l, r)
	}
}

func BenchmarkSeal(b *testing.B) {
	e := typicalEvent()
	in := chain.SealInput{Event: &e, Principal: "local", SealingNode: "n-abcdefghijklmnopqrstuvwxyz", Stamp: 1}
	b.ReportAllocs()
	for b.Loop() {
		s, err := chain.Seal(&in)
		if err != nil {
			b.Fatal(err)
		}
		in.Prev = s.Head
	}
}

// BenchmarkVerify verifies entries with 256 bytes of payload. It reports
// entries/s by the clock, with one worker beside the reader and the in-order
// part, and entries/cpu-s: by the processor time that all of it took, which is
// what a core does.
func BenchmarkVerify(b *testing.B) {
	src := newTestChain(b, 8192)
	src.keepBytes = true
	head := src.head
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime()
	for b.Loop() {
		if _, err := chain.Verify(b.Context(), src, chain.VerifyOptions{Head: &head, Workers: 1}); err != nil {
			b.Fatal(err)
		}
	}
	report(b, src.Size(), start)
}

// BenchmarkVerifyLimit does only the hashing that BenchmarkVerify can't do
// without: two BLAKE3 and two SHA-256 hashes for each entry.
func BenchmarkVerifyLimit(b *testing.B) {
	src := newTestChain(b, 8192)
	b.ResetTimer()
	start := cpuTime()
	var node chain.Hash
	for b.Loop() {
		for i := range src.records {
			chain.HeaderHash(src.records[i].Header)
			chain.EnvelopeHash(src.records[i].Envelope)
			node = chain.NodeHash(node, chain.LeafHash(src.records[i].Header))
		}
	}
	report(b, src.Size(), start)
}

func report(b *testing.B, entries uint64, start time.Duration) {
	b.Helper()
	n := float64(b.N) * float64(entries)
	b.ReportMetric(n/b.Elapsed().Seconds(), "entries/s")
	if used := cpuTime() - start; used > 0 {
		b.ReportMetric(n/used.Seconds(), "entries/cpu-s")
	}
}
