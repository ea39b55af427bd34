package ledger

import "github.com/exonode/exonode/chain"

// TinyFilter replaces the filter by one that a few dozen keys fill.
func (s *Store) TinyFilter() {
	s.mu.Lock()
	s.growFilter(newFilter(tinyFilter))
	s.mu.Unlock()
	s.background.Wait()
}

const tinyFilter = 64

// FilterFull waits for the filter to be complete and returns how many keys it is
// made for.
func (s *Store) FilterFull() uint64 {
	s.background.Wait()
	f := s.filter.Load()
	if !f.complete.Load() {
		return 0
	}
	return f.capacity
}

// MayHold asks the filter alone.
func (s *Store) MayHold(key chain.Key) bool {
	d := s.keys.digest(key)
	return s.mayHold(&d)
}
