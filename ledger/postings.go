package ledger

import (
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// cursorFill is about how many sequences a cursor reads at a time.
const cursorFill = 512

// cursor walks the sequences of one index value: up from pos to end, or where
// reverse, down from pos-1 to end. It holds no iterator between fills, so that a
// slow reader pins no memory.
type cursor struct {
	table   table
	value   string
	reverse bool
	// pos is where the next fill begins, end where the cursor is exhausted.
	pos, end uint64
	// seqs are the sequences that were read and not yet taken.
	seqs []uint64
}

func (c *cursor) exhausted() bool {
	if c.reverse {
		return c.pos <= c.end
	}
	return c.pos >= c.end
}

// fill reads the next sequences of c, if it has none, and reports whether it has
// some. Callers run it in Store.consistent, or own the store alone.
func (s *Store) fill(c *cursor, v *view) (bool, error) {
	for len(c.seqs) == 0 && !c.exhausted() {
		// A piece of the range lies in one keyspace: before, in and after
		// the promoted range.
		from, to := c.pos, c.end
		if c.reverse {
			from, to = c.end, c.pos
		}
		sp := mainSpace
		if p := v.promoted; v.moving && p.from < to && from < p.to {
			switch {
			case !c.reverse && from < p.from:
				to = p.from
			case !c.reverse:
				sp, to = stagingSpace, min(to, p.to)
			case to > p.to:
				from = p.to
			default:
				sp, from = stagingSpace, max(from, p.from)
			}
		}
		if err := s.fillPiece(c, sp, from, to); err != nil {
			return false, err
		}
	}
	return len(c.seqs) > 0, nil
}

// fillPiece reads sequences of [from, to) in one keyspace and moves c.pos past
// what it has read.
func (s *Store) fillPiece(c *cursor, sp space, from, to uint64) (err error) {
	iter, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: appendPostingKey(nil, sp, c.table, c.value, 0),
		UpperBound: appendPostingKey(nil, sp, c.table, c.value, to),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	var ok bool
	if c.reverse {
		ok = iter.Last()
	} else {
		// The list that holds from may have begun before it.
		if ok = iter.SeekLT(appendPostingKey(nil, sp, c.table, c.value, from+1)); !ok {
			ok = iter.First()
		}
	}
	for ok && len(c.seqs) < cursorFill {
		value, err := iter.ValueAndErr()
		if err != nil {
			return err
		}
		first := seqOf(iter.Key())
		list, valid := decodePostings(first, value)
		if !valid {
			return corruptAt("index", first, nil, "a posting list of %q under %q is malformed", c.table, c.value)
		}
		lo, _ := slices.BinarySearch(list, from)
		hi, _ := slices.BinarySearch(list, to)
		list = list[lo:hi]
		if c.reverse {
			slices.Reverse(list)
			c.seqs = append(c.seqs, list...)
			if ok = first > from && iter.Prev(); ok {
				continue
			}
			break
		}
		c.seqs = append(c.seqs, list...)
		ok = iter.Next()
	}
	if err := iter.Error(); err != nil {
		return err
	}
	switch n := len(c.seqs); {
	case ok && n > 0 && c.reverse:
		c.pos = c.seqs[n-1]
	case ok && n > 0:
		c.pos = c.seqs[n-1] + 1
	case c.reverse:
		c.pos = from
	default:
		c.pos = to
	}
	return nil
}

// decodePostings returns the sequences of a posting list, which ascend.
func decodePostings(first uint64, deltas []byte) ([]uint64, bool) {
	list := make([]uint64, 1, 1+len(deltas))
	list[0] = first
	for len(deltas) > 0 {
		d, rest, ok := takeUvarint(deltas)
		if !ok || d == 0 || first+d < first {
			return nil, false
		}
		first += d
		list = append(list, first)
		deltas = rest
	}
	return list, true
}

// values returns the distinct values of an index that start with prefix, in
// both keyspaces.
func (s *Store) values(t table, prefix string, v *view) ([]string, error) {
	values, err := s.valuesIn(nil, mainSpace, t, prefix)
	if err == nil && v.moving {
		values, err = s.valuesIn(values, stagingSpace, t, prefix)
	}
	slices.Sort(values)
	return slices.Compact(values), err
}

func (s *Store) valuesIn(values []string, sp space, t table, prefix string) (_ []string, err error) {
	iter, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: appendValue(nil, sp, t, prefix),
		UpperBound: keyAfter(appendValue(nil, sp, t, prefix)),
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for ok := iter.First(); ok; {
		value, first, valid := splitPostingKey(iter.Key(), sp)
		if !valid {
			return nil, corruptAt("index", first, nil, "a posting list of %q has malformed key %q", t, iter.Key())
		}
		values = append(values, value)
		// Past all lists of this value.
		ok = iter.SeekGE(append(appendValue(nil, sp, t, value), 0, 2))
	}
	return values, iter.Error()
}

// keyAfter returns the first key that does not have prefix. No prefix here ends
// in 0xff alone: each begins with a table's letter.
func keyAfter(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != 0xff {
			prefix[i]++
			return prefix[:i+1]
		}
	}
	return nil
}
