package ledger

import (
	"encoding/binary"
	"fmt"
	"maps"

	"github.com/cockroachdb/pebble/v2"

	"github.com/exonode/exonode/chain"
)

// staging is what is staged beyond the head.
type staging struct {
	// from is the first staged sequence: the size of the chain when staging
	// began, and still.
	from uint64
	head chain.Head
	tree *chain.Tree
	// hidden are redactions of entries below from. They become visible with
	// Promote, and the mover carries them out.
	hidden map[chain.Redaction]struct{}
}

// Staged returns the head of the last staged entry; Meta().Head where nothing
// is staged.
func (s *Store) Staged() chain.Head {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.staging == nil {
		return s.view.Load().meta.Head
	}
	return s.staging.head
}

// StagedHeader returns the encoded header of an entry below Staged().Size, staged
// or the chain's.
func (s *Store) StagedHeader(seq uint64) ([]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	header, err := s.header(s.stagedView(), seq)
	return header, s.failUnlessNotFound(err)
}

// stagedView is what readers would see if what is staged were promoted. Callers
// hold mu.
func (s *Store) stagedView() *view {
	v := s.view.Load()
	if st := s.staging; st != nil {
		v = &view{meta: chain.Meta{Head: st.head}, moving: true, promoted: span{st.from, st.head.Size}, hidden: st.hidden}
	}
	return v
}

// StagedRoot returns the root over all headers up to Staged().
func (s *Store) StagedRoot() (chain.Hash, error) {
	if err := s.Err(); err != nil {
		return chain.Hash{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.staging == nil {
		return s.view.Load().meta.Root, nil
	}
	return s.staging.tree.Root(), nil
}

// StagedState returns the State of the last staged Update that had one; nil
// where there is none.
func (s *Store) StagedState() ([]byte, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.staging == nil {
		return nil, nil
	}
	state, _, err := s.get(appendTable(nil, stagingSpace, tableState))
	if err != nil {
		return nil, s.fail(fmt.Errorf("read staged state: %w", err))
	}
	return state, nil
}

// Stage appends entries, and the slot changes and redactions that they cause,
// to staging. It blocks while an earlier promotion is being moved into the main
// tables, since that still occupies the staging keyspace.
//
// Commit point: as Commit's; FlushStaging makes it durable.
func (s *Store) Stage(u *chain.Update) error {
	if err := s.waitMoved(); err != nil {
		return err
	}
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.staging
	if st == nil {
		head := s.view.Load().meta.Head
		st = &staging{from: head.Size, head: head, tree: s.tree.Clone(), hidden: map[chain.Redaction]struct{}{}}
	}
	if err := checkLinks(st.head, u); err != nil {
		return s.fail(fmt.Errorf("stage: %w", err))
	}
	return s.guard("stage", func() error { return s.stage(st, u) })
}

// waitMoved returns once no promoted range waits to be moved.
func (s *Store) waitMoved() error {
	s.mu.Lock()
	moved := s.moved
	s.mu.Unlock()
	select {
	case <-moved:
		return nil
	case <-s.stop:
		return ErrClosed
	case <-s.failed:
		return s.Err()
	}
}

func (s *Store) stage(st *staging, u *chain.Update) error {
	s.roomInFilter()
	b := s.db.NewBatchWithSize(batchSize(u))
	w := writer{batch: b, space: stagingSpace, keys: &s.keys, known: s.filterKey, buf: s.scratch}
	w.entries(u, st.tree)
	w.slots(u)
	var hidden []chain.Redaction
	w.redactions(u, func(r chain.Redaction) bool {
		if r.Sequence >= st.from {
			return false
		}
		hidden = append(hidden, r)
		w.buf = appendRedactedKey(w.buf[:0], r)
		w.set(w.buf, nil)
		return true
	})
	if u.State != nil {
		w.set(appendTable(nil, stagingSpace, tableState), u.State)
	}
	head := headAfter(st.head, u)
	w.set(appendTable(nil, stagingSpace, tableMeta), encodeStagedMeta(st.from, head))
	s.scratch = w.buf
	if w.err != nil {
		return w.err
	}
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		return err
	}
	st.head = head
	for _, r := range hidden {
		st.hidden[r] = struct{}{}
	}
	s.staging = st
	return b.Close()
}

// Promote atomically makes the staged entries the chain's, with the given
// folded state (nil leaves the chain's as it is) and applied index. Its cost
// does not depend on how many entries are staged: it flips meta and records
// that their rows still live in staging, where reads find them; a goroutine
// then moves them.
//
// Commit point: the synced batch. A crash before leaves all of it staged, a
// crash after leaves the move to be started again by Open.
func (s *Store) Promote(state []byte, applied, appliedTerm, raftEpoch uint64) error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.guard("promote", func() error { return s.promote(state, applied, appliedTerm, raftEpoch) })
}

func (s *Store) promote(state []byte, applied, appliedTerm, raftEpoch uint64) error {
	next := *s.view.Load()
	next.meta.Applied, next.meta.AppliedTerm, next.meta.RaftEpoch = applied, appliedTerm, raftEpoch
	b := s.db.NewBatch()
	w := writer{batch: b, space: mainSpace}
	tree := s.tree
	if st := s.staging; st != nil {
		tree = st.tree
		next.meta.Head, next.meta.Root, next.tiles = st.head, tree.Root(), tree.Reader(storedTiles{s})
		next.moving, next.promoted = true, span{st.from, st.head.Size}
		next.hidden = maps.Clone(st.hidden)
		w.set([]byte{byte(tablePromoted)}, next.promoted.encode())
		w.delete(appendTable(nil, stagingSpace, tableMeta))
		w.delete(appendTable(nil, stagingSpace, tableState))
	}
	if state != nil {
		w.set([]byte{byte(tableState)}, state)
	}
	row := metaRow{next.meta, s.hasState || state != nil}
	w.set([]byte{byte(tableMeta)}, row.encode())
	if w.err != nil {
		return w.err
	}
	if err := s.apply(b, pebble.Sync, true, &next); err != nil {
		return err
	}
	s.tree, s.hasState = tree, row.hasState
	if s.staging != nil {
		s.staging = nil
		s.startMove()
	}
	return nil
}

// DropStaging discards what is staged; nothing where a promoted range is being
// moved, since nothing is staged then.
func (s *Store) DropStaging() error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.staging == nil {
		return nil
	}
	return s.guard("drop staging", func() error {
		b := s.db.NewBatch()
		if err := dropStagingRows(b); err != nil {
			return err
		}
		if err := s.db.Apply(b, pebble.NoSync); err != nil {
			return err
		}
		s.staging = nil
		return b.Close()
	})
}

func dropStagingRows(b *pebble.Batch) error {
	return b.DeleteRange([]byte{stagingPrefix}, []byte{stagingEnd}, nil)
}

const stagedMetaSize = 8 + 8 + 32 + 8

func encodeStagedMeta(from uint64, head chain.Head) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, stagedMetaSize), from)
	b = binary.BigEndian.AppendUint64(b, head.Size)
	b = append(b, head.Hash[:]...)
	return binary.BigEndian.AppendUint64(b, uint64(head.Time))
}

func decodeStagedMeta(b []byte) (from uint64, head chain.Head, ok bool) {
	if len(b) != stagedMetaSize {
		return 0, chain.Head{}, false
	}
	from = binary.BigEndian.Uint64(b)
	head.Size = binary.BigEndian.Uint64(b[8:])
	copy(head.Hash[:], b[16:])
	head.Time = int64(binary.BigEndian.Uint64(b[48:]))
	return from, head, from <= head.Size
}
