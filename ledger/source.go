package ledger

import (
	"context"
	"errors"
	"iter"

	"github.com/exonode/exonode/chain"
)

// Source is the store as chain.Verify reads it: entries, and the stored tiles.
// What can't be read because its bytes do not match their checksum is a
// *chain.BadEntryError that names the first entry it belongs to.
type Source struct{ store *Store }

var (
	_ chain.Indexed    = Source{}
	_ chain.TileReader = Source{}
	_ chain.TileReader = (*Store)(nil)
)

// Source returns the store as a source of verification.
func (s *Store) Source() Source { return Source{s} }

// Size returns the number of entries; one more where the database's log shows
// that there was another, which can't be read.
func (src Source) Size() uint64 {
	size := src.store.Meta().Head.Size
	if src.store.lost != nil {
		size++
	}
	return size
}

// Records yields the entries of [from, to) in order.
func (src Source) Records(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	s := src.store
	return func(yield func(chain.Record, error) bool) {
		for from < to {
			batch, err := src.read(ctx, from, to)
			for _, rec := range batch {
				if !yield(rec, nil) {
					return
				}
			}
			if err != nil {
				yield(chain.Record{}, badEntry(s.failUnlessNotFound(err)))
				return
			}
			from += uint64(len(batch))
		}
	}
}

// read returns entries from from on, and the error that ended them.
func (src Source) read(ctx context.Context, from, to uint64) (batch []chain.Record, err error) {
	s := src.store
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	size := s.Meta().Head.Size
	if s.lost != nil && from == size {
		return nil, s.lost
	}
	if to > src.Size() {
		return nil, errBeyond(to-1, size)
	}
	to = min(to, size)
	err = s.consistent(func(v *view) error {
		batch, err = (&scan{store: s, pos: from, end: to}).readRange(v)
		return err
	})
	if err == nil {
		return batch, nil
	}
	// An iterator that fails does not say at which row: go one by one.
	batch = nil
	for seq := from; seq < min(to, from+scanEntries); seq++ {
		var rec chain.Record
		one := s.consistent(func(v *view) (err error) {
			rec, err = s.record(v, seq)
			return err
		})
		if one != nil {
			return batch, one
		}
		batch = append(batch, rec)
	}
	return batch, err
}

// ReadTile returns a full tile.
func (src Source) ReadTile(level int, index uint64, width int) ([]byte, error) {
	s := src.store
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	tile, err := storedTiles{s}.ReadTile(level, index, width)
	if err != nil {
		return nil, badEntry(s.fail(err))
	}
	return tile, nil
}

// CheckIndexes passes once over the rows of a read-only store's indexes, and looks
// for tables that no ledger has. It does nothing in a store that others write.
func (src Source) CheckIndexes(ctx context.Context) error {
	s := src.store
	if !s.readOnly {
		return nil
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return badEntry(s.guardOpen(func() error { return s.checkRows(ctx, s.view.Load()) }))
}

// part returns what verification calls the part that a CorruptError names.
func part(corrupt string) chain.Part {
	switch corrupt {
	case "header":
		return chain.PartHeader
	case "envelope":
		return chain.PartEnvelope
	case "tile":
		return chain.PartTile
	case "index":
		return chain.PartIndex
	}
	return chain.PartRecord
}

// badEntry makes of damage at a known entry what verification reports as such.
func badEntry(err error) error {
	var c *CorruptError
	if !errors.As(err, &c) || !c.HasSequence {
		return err
	}
	return &chain.BadEntryError{Sequence: c.Sequence, Part: part(c.Part), Err: err}
}
