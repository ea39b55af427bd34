package chain_test

import (
	"testing"

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

// BenchmarkVerify reports entries/s of one worker: what a core does.
func BenchmarkVerify(b *testing.B) {
	src := newTestChain(b, 8192)
	head := src.head
	b.ReportAllocs()
	b.ResetTimer()
	for b.Loop() {
		if _, err := chain.Verify(b.Context(), src, chain.VerifyOptions{Head: &head, Workers: 1}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*float64(src.Size())/b.Elapsed().Seconds(), "entries/s")
}
