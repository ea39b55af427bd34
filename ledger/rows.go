package ledger

import (
	"context"
	"errors"
	"strings"
)

// What verification of a stopped store looks at besides the entries. It is one
// pass over the indexes, which take a tenth of the store's bytes.

// singleTables have one row each, whose key is the letter alone; stagingTables stand
// behind the staging prefix.
const (
	singleTables  = "FMPS"
	mainTables    = "behikoptw"
	stagingTables = "MSbehikoprtw"
)

// checkRows looks for rows of unknown tables, for rows and postings of entries that
// do not exist, and for postings that are missing.
func (s *Store) checkRows(ctx context.Context, v *view) error {
	if err := s.checkTables(); err != nil {
		return err
	}
	if err := s.checkBeyond(v.meta.Head.Size); err != nil {
		return err
	}
	spaces := []space{mainSpace}
	if v.moving {
		spaces = append(spaces, stagingSpace)
	}
	for _, sp := range spaces {
		if err := s.checkSlots(ctx, sp, v); err != nil {
			return err
		}
	}
	for _, index := range indexes {
		if err := s.checkPostings(ctx, spaces, index.table, v); err != nil {
			return err
		}
	}
	return nil
}

// checkTables looks at the first row of each table that there is.
func (s *Store) checkTables() (err error) {
	iter, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for ok := iter.First(); ok; {
		key := iter.Key()
		known, n := false, min(1, len(key))
		switch letter := string(key[:n]); {
		case strings.Contains(singleTables, letter):
			// No other row begins with the letter.
			if known = len(key) == 1; known {
				ok = iter.Next()
				continue
			}
		case len(key) > 1 && key[0] == stagingPrefix:
			known, n = strings.IndexByte(stagingTables, key[1]) >= 0, 2
		default:
			known = len(key) > 1 && strings.Contains(mainTables, letter)
		}
		if !known {
			return corrupt("database", nil, "row %q is of no table", key)
		}
		after := keyAfter(append([]byte(nil), key[:n]...))
		ok = iter.SeekGE(after)
	}
	return iter.Error()
}

// checkSlots holds the slots of all keys, those of no entry too, against the head.
func (s *Store) checkSlots(ctx context.Context, sp space, v *view) error {
	n := 0
	return s.each(sp, tableID, func(key, value []byte) error {
		if n++; n%filterChunk == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		slot, _, ok := decodeSlot(value)
		switch {
		case !ok:
			return corrupt("index", nil, "the slot in row %q is malformed", key)
		case slot.Sequence >= v.meta.Head.Size:
			return corruptAt("index", slot.Sequence, nil, "a slot points beyond the head, the chain has %d entries", v.meta.Head.Size)
		}
		return nil
	})
}

// checkPostings holds the rows of an index against the head: each entry has one
// posting.
func (s *Store) checkPostings(ctx context.Context, spaces []space, t table, v *view) error {
	n, size := uint64(0), v.meta.Head.Size
	for _, sp := range spaces {
		err := s.each(sp, t, func(key, value []byte) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			_, first, ok := splitPostingKey(key, sp)
			if !ok {
				return corrupt("index", nil, "a posting list of %q has malformed key %q", t, key)
			}
			list, ok := decodePostings(first, value)
			if !ok {
				return corruptAt("index", first, nil, "a posting list of %q is malformed", t)
			}
			if last := list[len(list)-1]; last >= size {
				return corruptAt("index", last, nil, "a posting of %q is beyond the head, the chain has %d entries", t, size)
			}
			if sp == mainSpace && v.moving && v.promoted.contains(first) {
				return nil // moved already, and counted in staging
			}
			n += uint64(len(list))
			return nil
		})
		if err != nil {
			return err
		}
	}
	if n != size {
		return corrupt("index", nil, "index %q has %d postings, the chain has %d entries", t, n, size)
	}
	return nil
}
