package ledger

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/exonode/exonode/chain"
)

// Commit applies one Update atomically. Committing entries discards what is
// staged, in the same batch: staged entries always link to the head.
//
// Commit point: the batch is in Pebble's log buffer and memtable when Apply
// returns. A crash before it is synced loses it and all later ones; raft
// applies them again.
func (s *Store) Commit(u *chain.Update) error {
	if err := s.enterWrite(); err != nil {
		return err
	}
	defer s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.view.Load()
	if err := checkLinks(v.meta.Head, u); err != nil {
		return s.fail(err)
	}
	return s.guard("commit", func() error { return s.commit(v, u) })
}

func (s *Store) commit(v *view, u *chain.Update) error {
	s.roomInFilter()
	b := s.db.NewBatchWithSize(batchSize(u))
	next := *v
	next.meta = advance(v.meta, u)
	dropped := s.staging != nil && len(u.Entries) > 0
	if dropped {
		if err := dropStagingRows(b); err != nil {
			return err
		}
	}
	w := writer{batch: b, space: mainSpace, keys: &s.keys, known: s.filterKey, buf: s.scratch, alsoStaged: v.moving}
	w.entries(u, s.tree)
	w.slots(u)
	w.redactions(u, nil)
	s.scratch = w.buf
	next.meta.Root = s.tree.Root()
	next.tiles = s.tree.Reader(storedTiles{s})
	hasState := s.hasState || u.State != nil
	if u.State != nil {
		w.set([]byte{byte(tableState)}, u.State)
	}
	row := metaRow{next.meta, hasState}
	w.set([]byte{byte(tableMeta)}, row.encode())
	if w.err != nil {
		return w.err
	}
	if err := s.apply(b, pebble.NoSync, len(u.Redact) > 0, &next); err != nil {
		return err
	}
	s.hasState = hasState
	if dropped {
		s.staging = nil
	}
	return nil
}

// apply applies a batch and publishes the view that goes with it. rewrites says
// that the batch deletes or moves rows that readers may be reading.
func (s *Store) apply(b *pebble.Batch, opts *pebble.WriteOptions, rewrites bool, next *view) error {
	if rewrites {
		s.rewrites.Add(1)
		defer s.rewrites.Add(1)
	}
	if err := s.db.Apply(b, opts); err != nil {
		return err
	}
	s.view.Store(next)
	return b.Close()
}

// advance returns the meta after an Update, but for its root.
func advance(m chain.Meta, u *chain.Update) chain.Meta {
	m.Head = headAfter(m.Head, u)
	m.Applied, m.AppliedTerm, m.RaftEpoch = u.Applied, u.AppliedTerm, u.RaftEpoch
	return m
}

func headAfter(h chain.Head, u *chain.Update) chain.Head {
	if n := len(u.Entries); n > 0 {
		last := &u.Entries[n-1]
		return chain.Head{Size: last.Sequence + 1, Hash: last.Hash, Time: last.Time}
	}
	return h
}

// checkLinks refuses an Update that does not continue the chain, before any of
// it is written: whoever made it has diverged.
func checkLinks(h chain.Head, u *chain.Update) error {
	size, time := h.Size, h.Time
	for i := range u.Entries {
		e := &u.Entries[i]
		switch {
		case e.Sequence != size:
			return fmt.Errorf("update has entry %d where %d is next", e.Sequence, size)
		case size > 0 && e.Time <= time:
			return fmt.Errorf("entry %d has time %d, not after its predecessor's %d", e.Sequence, e.Time, time)
		case len(e.Header) == 0 || e.Hash.IsZero():
			return fmt.Errorf("entry %d has no header, or no hash", e.Sequence)
		}
		size, time = size+1, e.Time
	}
	for _, c := range u.Slots {
		if c.Slot.State < chain.SlotSealed || c.Slot.State > chain.SlotClosed || c.Slot.Sequence >= size {
			return fmt.Errorf("slot of key %q is (%d, %d), the chain has %d entries", c.Key, c.Slot.State, c.Slot.Sequence, size)
		}
	}
	for _, r := range u.Redact {
		if r.Sequence >= size {
			return fmt.Errorf("update redacts entry %d, the chain has %d entries", r.Sequence, size)
		}
	}
	return nil
}

// batchSize estimates the size of an Update's batch, so that it is allocated
// once.
func batchSize(u *chain.Update) int {
	n := 512 + len(u.State) + 64*len(u.Slots) + 32*len(u.Redact)
	for i := range u.Entries {
		e := &u.Entries[i]
		n += len(e.Header) + len(e.Envelope) + len(e.Beside) + 128
	}
	return n
}

// writer puts an Update's rows into a batch. Rows of one table are written
// together and in order: the memtable then finds each one's place beside the
// last one's.
type writer struct {
	batch *pebble.Batch
	space space
	keys  *keyHasher
	// known is told of each key before its row is written.
	known func(*keyDigest)
	// alsoStaged: rows of promoted entries live in staging still, so that
	// what is deleted or replaced must go there too.
	alsoStaged bool
	buf        []byte // scratch
	err        error
}

func (w *writer) set(key, value []byte) {
	if w.err == nil {
		w.err = w.batch.Set(key, value, nil)
	}
}

func (w *writer) delete(key []byte) {
	if w.err == nil {
		w.err = w.batch.Delete(key, nil)
	}
}

func (w *writer) setSeq(t table, seq uint64, value []byte) {
	w.buf = appendSeqKey(w.buf[:0], w.space, t, seq)
	w.set(w.buf, value)
}

// entries writes the rows of u.Entries and grows the tree by them.
func (w *writer) entries(u *chain.Update, tree *chain.Tree) {
	full := func(level int, index uint64, tile []byte) { writeTile(w.batch, w.space, level, index, tile) }
	for i := range u.Entries {
		e := &u.Entries[i]
		w.setSeq(tableHeader, e.Sequence, e.Header)
	}
	for i := range u.Entries {
		// An entry that comes without has an empty row: what is lost later
		// has none.
		e := &u.Entries[i]
		w.setSeq(tableEnvelope, e.Sequence, e.Envelope)
	}
	for i := range u.Entries {
		if e := &u.Entries[i]; e.Beside != nil {
			w.setSeq(tableBeside, e.Sequence, e.Beside)
		}
	}
	for i := range u.Entries {
		e := &u.Entries[i]
		w.slot(e.Key, chain.Slot{State: chain.SlotSealed, Sequence: e.Sequence})
	}
	w.postings(u.Entries)
	for i := range u.Entries {
		tree.Append(u.Entries[i].Header, full)
	}
}

// slots writes the slot changes; after those of the entries, so that they win.
func (w *writer) slots(u *chain.Update) {
	for _, c := range u.Slots {
		w.slot(c.Key, c.Slot)
	}
}

func (w *writer) slot(key chain.Key, slot chain.Slot) {
	d := w.keys.digest(key)
	w.known(&d)
	w.buf = appendIDKey(w.buf[:0], w.space, &d)
	n := len(w.buf)
	w.buf = appendSlot(w.buf, slot, &d)
	w.set(w.buf[:n], w.buf[n:])
	if w.alsoStaged {
		w.buf = appendIDKey(w.buf[:0], stagingSpace, &d)
		w.delete(w.buf)
	}
}

// redactions deletes the envelopes of u.Redact; after the entries' rows, since
// an entry may be redacted by the Update that brings it. elsewhere, if not nil,
// takes those that are not this keyspace's own and returns true.
func (w *writer) redactions(u *chain.Update, elsewhere func(chain.Redaction) bool) {
	for _, r := range u.Redact {
		if elsewhere != nil && elsewhere(r) {
			continue
		}
		w.buf = appendSeqKey(w.buf[:0], w.space, envelopeTable(r), r.Sequence)
		w.delete(w.buf)
		if w.alsoStaged {
			w.buf = appendSeqKey(w.buf[:0], stagingSpace, envelopeTable(r), r.Sequence)
			w.delete(w.buf)
		}
	}
}

// envelopeTable returns the table of the envelope that a redaction names.
func envelopeTable(r chain.Redaction) table {
	if r.Beside {
		return tableBeside
	}
	return tableEnvelope
}

// indexes are the secondary indexes: their table, and an entry's value.
var indexes = [...]struct {
	table table
	value func(*chain.Sealing) string
}{
	{tableKind, func(e *chain.Sealing) string { return e.Kind }},
	{tableSource, func(e *chain.Sealing) string { return e.Key.Source }},
	{tablePrincipal, func(e *chain.Sealing) string { return e.Principal }},
	{tableWorkspace, func(e *chain.Sealing) string { return e.Key.Workspace }},
}

// postings writes one posting list for each index and value among entries.
func (w *writer) postings(entries []chain.Sealing) {
	if len(entries) == 0 {
		return
	}
	lists := make(map[string]*postingList, 8)
	order := make([]*postingList, 0, 8)
	for _, index := range indexes {
		clear(lists)
		order = order[:0]
		var l *postingList
		for i := range entries {
			e := &entries[i]
			value := index.value(e)
			// Runs of one value are the common case.
			if l == nil || l.value != value {
				if l = lists[value]; l == nil {
					l = &postingList{value: value, first: e.Sequence, last: e.Sequence}
					lists[value] = l
					order = append(order, l)
					continue
				}
			}
			l.deltas = binary.AppendUvarint(l.deltas, e.Sequence-l.last)
			l.last = e.Sequence
		}
		for _, l := range order {
			w.buf = appendPostingKey(w.buf[:0], w.space, index.table, l.value, l.first)
			w.set(w.buf, l.deltas)
		}
	}
}

// postingList collects the sequences of one value in one Update.
type postingList struct {
	value       string
	first, last uint64
	deltas      []byte
}
