package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// Exactly-once asks for the key of every event, and almost every key is new. A
// filter in memory answers for most of those: it holds all keys of both
// keyspaces, so that what it does not hold stands in no row.
//
// It lives in memory alone and is made anew by Open: a goroutine reads the index
// while the store is in use already, and until it has read all of it, every key
// may be known. What is written meanwhile is added before its batch is applied.
// So the filter errs on one side only, whatever is staged, dropped, promoted, moved
// or redacted: rows only ever leave one keyspace for the other.

const (
	// filterBlock is a block in words of 64 bits: a cache line, in which all
	// bits of a key lie (Putze, Sanders, Singler: Cache-, Hash- and
	// Space-Efficient Bloom Filters, 2007).
	filterBlock = 8
	// filterProbes is how many bits a key has in its block.
	filterProbes = 6
	// filterBitsPerKey is how many bits a filter has for each key when it is
	// full and replaced by one twice as large: one absent key in a hundred
	// then passes for known.
	filterBitsPerKey = 12
	// minFilterKeys and maxFilterKeys bound how many keys filters are made for:
	// 1.5 MiB and 96 MiB. Beyond the latter more absent keys pass for known,
	// one in seven at four times as many.
	minFilterKeys = 1 << 20
	maxFilterKeys = 1 << 26
)

// filter is a blocked Bloom filter of key digests. Its methods are safe for
// concurrent use.
type filter struct {
	words []uint64 // accessed atomically
	// capacity is the number of keys that it is made for.
	capacity uint64
	// complete says that all rows that were there when it began are in it.
	complete atomic.Bool
}

func newFilter(capacity uint64) *filter {
	return &filter{words: make([]uint64, capacity*filterBitsPerKey/64/filterBlock*filterBlock), capacity: capacity}
}

// filterCapacity is that of a filter which n keys do not fill soon; at least least.
func filterCapacity(n, least uint64) uint64 {
	return min(max(least, 1<<bits.Len64(2*min(n, maxFilterKeys))), maxFilterKeys)
}

// place returns the block of a digest, and the bits that it has there: the
// digest is a keyed hash, so its own bits will do.
func (f *filter) place(d []byte) (block []uint64, probes uint64) {
	blocks := uint64(len(f.words) / filterBlock)
	n, _ := bits.Mul64(binary.BigEndian.Uint64(d), blocks)
	return f.words[n*filterBlock:][:filterBlock], binary.BigEndian.Uint64(d[8:])
}

// add takes the first idSize bytes of a digest.
func (f *filter) add(d []byte) {
	block, probes := f.place(d)
	for range filterProbes {
		atomic.OrUint64(&block[probes>>6%filterBlock], 1<<(probes%64))
		probes >>= 9
	}
}

// mayHold reports whether a digest may have been added.
func (f *filter) mayHold(d []byte) bool {
	if !f.complete.Load() {
		return true
	}
	block, probes := f.place(d)
	for range filterProbes {
		if atomic.LoadUint64(&block[probes>>6%filterBlock])&(1<<(probes%64)) == 0 {
			return false
		}
		probes >>= 9
	}
	return true
}

// mayHold reports whether a row may exist for a key, in either keyspace.
func (s *Store) mayHold(d *keyDigest) bool {
	f := s.filter.Load()
	return f == nil || f.mayHold(d[:idSize])
}

// filterKey notes a key whose row is about to be written. Callers hold mu.
func (s *Store) filterKey(d *keyDigest) {
	s.filter.Load().add(d[:idSize])
	s.filtered++
	if s.nextFilter != nil {
		s.nextFilter.add(d[:idSize])
	}
}

// roomInFilter begins a larger filter where the present one is full: before a batch,
// never within one, whose first keys the new filter would neither be told of nor
// read. Callers hold mu.
func (s *Store) roomInFilter() {
	f := s.filter.Load()
	if s.nextFilter == nil && s.filtered > f.capacity && f.complete.Load() && f.capacity < maxFilterKeys {
		s.growFilter(newFilter(filterCapacity(s.filtered, 2*f.capacity)))
	}
}

// growFilter has a goroutine fill a filter that takes the place of the present
// one, if there is any, when it is complete. Callers hold mu, or own the store
// alone.
func (s *Store) growFilter(next *filter) {
	s.nextFilter = next
	if s.filter.Load() == nil {
		s.filter.Store(next) // incomplete: all keys may be in it
	}
	s.background.Go(func() {
		n, err := s.fillFilter(next)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.nextFilter = nil
		if err != nil {
			// The present filter, or none, serves on; what is wrong with the
			// index is found where it matters. As many keys later another
			// one is tried.
			s.filtered = 0
			return
		}
		s.filtered = max(s.filtered, n)
		next.complete.Store(true)
		s.filter.Store(next)
	})
}

// errStopped ends the filling of a filter whose store closes.
var errStopped = errors.New("the store closes")

// filterChunk is how many rows are read between two looks at whether the store
// closes.
const filterChunk = 4096

// fillFilter adds every key of both keyspaces and returns their number. Its
// iterators are opened after next was made known to the writer: what they do not
// see is added there.
func (s *Store) fillFilter(next *filter) (n uint64, err error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	snapshot := s.db.NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	for _, sp := range [...]space{stagingSpace, mainSpace} {
		iter, err := snapshot.NewIter(&pebble.IterOptions{LowerBound: appendTable(nil, sp, tableID), UpperBound: tableEnd(sp, tableID)})
		if err != nil {
			return n, err
		}
		for ok := iter.First(); ok && err == nil; ok = iter.Next() {
			key := iter.Key()
			next.add(key[len(key)-idSize:])
			if n++; n%filterChunk == 0 {
				select {
				case <-s.stop:
					err = errStopped
				default:
				}
			}
		}
		if err = errors.Join(err, iter.Error(), iter.Close()); err != nil {
			return n, fmt.Errorf("read the id index: %w", err)
		}
	}
	return n, nil
}
