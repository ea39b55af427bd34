package chain

import (
	"math/bits"
	"slices"
)

// bitmap is a set of sequences that takes a bit for each number of the blocks of
// 65,536 in which it has any. Its zero value is empty.
type bitmap struct{ blocks map[uint64]*bitmapBlock }

type bitmapBlock struct {
	words [1024]uint64
	n     int
}

func (b *bitmap) add(seq uint64) {
	block := b.blocks[seq>>16]
	if block == nil {
		if b.blocks == nil {
			b.blocks = make(map[uint64]*bitmapBlock)
		}
		block = new(bitmapBlock)
		b.blocks[seq>>16] = block
	}
	word, bit := &block.words[seq>>6&1023], uint64(1)<<(seq&63)
	if *word&bit == 0 {
		*word |= bit
		block.n++
	}
}

func (b *bitmap) has(seq uint64) bool {
	block := b.blocks[seq>>16]
	return block != nil && block.words[seq>>6&1023]&(1<<(seq&63)) != 0
}

// remove returns whether seq was in the set.
func (b *bitmap) remove(seq uint64) bool {
	block := b.blocks[seq>>16]
	if block == nil {
		return false
	}
	word, bit := &block.words[seq>>6&1023], uint64(1)<<(seq&63)
	if *word&bit == 0 {
		return false
	}
	*word &^= bit
	if block.n--; block.n == 0 {
		delete(b.blocks, seq>>16)
	}
	return true
}

// first returns the least number of the set.
func (b *bitmap) first() (uint64, bool) {
	if len(b.blocks) == 0 {
		return 0, false
	}
	keys := make([]uint64, 0, len(b.blocks))
	for k := range b.blocks {
		keys = append(keys, k)
	}
	k := slices.Min(keys)
	for i, w := range b.blocks[k].words {
		if w != 0 {
			return k<<16 | uint64(i)<<6 | uint64(bits.TrailingZeros64(w)), true
		}
	}
	return 0, false
}
