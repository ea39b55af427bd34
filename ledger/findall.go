package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/exonode/exonode/chain"
)

// FindAll sets slots[i] to where keys[i] stands, as Find does, or to the zero
// Slot where it is not known. Both have the same length.
//
// Almost all keys are absent, and the filter says so of most. The others are asked
// of one iterator, in the order of their rows: an absent key is looked for in every
// memtable and every level, and Get, which sets an iterator up in each of them for
// one key, costs three times as much.
func (s *Store) FindAll(keys []chain.Key, slots []chain.Slot) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := s.findAll(keys, slots[:len(keys)]); err != nil {
		return s.fail(fmt.Errorf("find keys: %w", err))
	}
	return nil
}

// sought is a key that FindAll looks for.
type sought struct {
	digest keyDigest
	i      int
}

func (s *Store) findAll(keys []chain.Key, slots []chain.Slot) (err error) {
	clear(slots)
	var order []sought
	for i := range keys {
		if d := s.keys.digest(keys[i]); s.mayHold(&d) {
			order = append(order, sought{d, i})
		}
	}
	if len(order) == 0 {
		return nil
	}
	if len(order) == 1 || s.view.Load().moving {
		// For one key Get is cheaper. While a promoted range is moved, for
		// some seconds after an install, rows lie in two keyspaces.
		for i := range order {
			o := &order[i]
			if slots[o.i], _, err = s.find(keys[o.i], &o.digest); err != nil {
				return err
			}
		}
		return nil
	}
	slices.SortFunc(order, func(a, b sought) int { return bytes.Compare(a.digest[:idSize], b.digest[:idSize]) })
	table := appendTable(nil, mainSpace, tableID)
	iter, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: table, UpperBound: keyAfter(bytes.Clone(table)),
		// An absent key is not worth a block of the last level either.
		UseL6Filters: true,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	var buf [2 + idSize]byte
	for i := range order {
		o := &order[i]
		if !iter.SeekPrefixGE(appendIDKey(buf[:0], mainSpace, &o.digest)) {
			if err := iter.Error(); err != nil {
				return err
			}
			continue
		}
		// find reads it again, and checks it.
		slot, ok, err := s.find(keys[o.i], &o.digest)
		if err != nil {
			return err
		}
		if ok {
			slots[o.i] = slot
		}
	}
	return nil
}
