package ledger

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// moveChunkSize bounds the bytes of one step of the mover, and with it how long
// a Commit waits for one (under a millisecond).
const moveChunkSize = 128 << 10

// startMove starts the goroutine that moves the promoted range into the main
// tables. Close joins it. Callers hold mu, or own the store alone.
func (s *Store) startMove() {
	s.moved = make(chan struct{})
	s.background.Go(s.move)
}

// move copies the staging keyspace into the main one, chunk by chunk, and then
// clears it. Reads look into staging until the last batch, which clears it and
// ends the promoted range. Every step may be repeated: a crash or Close leaves
// the work to the next Open, which starts at the front. That can't bring back
// what has changed meanwhile, since a Commit during the move deletes the staged
// row of what it redacts or replaces in the same batch.
func (s *Store) move() {
	cursor := []byte{stagingPrefix}
	for {
		select {
		case <-s.stop:
			return
		case <-s.failed:
			return
		default:
		}
		done, err := s.moveChunk(&cursor)
		if err != nil || done { // an error has failed the store
			return
		}
	}
}

// moveChunk copies the rows after cursor and advances it. It holds mu from its
// reads to its write, so that no Commit changes in between what it copies.
func (s *Store) moveChunk(cursor *[]byte) (done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err = s.guard("move promoted entries", func() error {
		b := s.db.NewBatchWithSize(moveChunkSize + 16<<10)
		next, err := s.copyStaged(b, *cursor)
		if err != nil {
			return err
		}
		if next == nil {
			done = true
			return errors.Join(b.Close(), s.endMove())
		}
		*cursor = next
		if err := s.db.Apply(b, pebble.NoSync); err != nil {
			return err
		}
		return b.Close()
	})
	return done, err
}

// copyStaged puts the main keyspace's copies of a chunk of staged rows into b
// and returns the last key it took; nil where there was none.
func (s *Store) copyStaged(b *pebble.Batch, after []byte) (last []byte, err error) {
	iter, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: append(bytes.Clone(after), 0),
		UpperBound: []byte{stagingEnd},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	w := writer{batch: b, space: mainSpace}
	for ok := iter.First(); ok && b.Len() < moveChunkSize; ok = iter.Next() {
		key := iter.Key()
		last = append(last[:0], key...)
		value, err := iter.ValueAndErr()
		if err != nil {
			return nil, err
		}
		switch t := table(key[1]); t {
		case tableMeta, tableState:
			return nil, corrupt("staging", nil, "row %q is staged beside a promoted range", key)
		case tableRedacted:
			r, ok := splitRedactedKey(key)
			if !ok {
				return nil, corrupt("staging", nil, "a redaction has malformed key %q", key)
			}
			w.buf = appendSeqKey(w.buf[:0], mainSpace, envelopeTable(r), r.Sequence)
			w.delete(w.buf)
		default:
			w.set(key[1:], value)
		}
	}
	if err := iter.Error(); err != nil {
		return nil, fmt.Errorf("read staged rows: %w", err)
	}
	return last, w.err
}

// endMove clears the staging keyspace and ends the promoted range, in one
// batch.
func (s *Store) endMove() error {
	b := s.db.NewBatch()
	if err := errors.Join(dropStagingRows(b), b.Delete([]byte{byte(tablePromoted)}, nil)); err != nil {
		return err
	}
	next := *s.view.Load()
	next.moving, next.promoted, next.hidden = false, span{}, nil
	if err := s.apply(b, pebble.NoSync, true, &next); err != nil {
		return err
	}
	close(s.moved)
	return nil
}
