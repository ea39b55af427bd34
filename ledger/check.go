package ledger

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/exonode/exonode/chain"
)

// checkedTail is how many of the last entries Open holds against the indexes.
const checkedTail = 16

// load reads what the store keeps in memory and, unless it is read-only, checks
// that the parts agree. What it reads is bounded: the right edge of the tree.
func (s *Store) load() error {
	key, ok, err := s.get([]byte{byte(tableFormat)})
	if err != nil {
		return err
	}
	if want := len(keyCheck) + len(s.keys.key); !ok || len(key) != want || string(key[:len(keyCheck)]) != keyCheck {
		return corrupt("database", nil, "row F is missing or malformed")
	}
	copy(s.keys.key[:], key[len(keyCheck):])
	v, err := s.loadView()
	if err != nil {
		return err
	}
	s.tree, err = chain.OpenTree(v.meta.Head.Size, edgeTiles{s, v})
	if err != nil {
		if !s.readOnly {
			return err
		}
		s.tree, v.edgeErr = &chain.Tree{}, err
	}
	v.tiles = s.tree.Reader(storedTiles{s})
	s.view.Store(v)
	if s.readOnly {
		return nil
	}
	if err := s.check(v); err != nil {
		return err
	}
	if err := s.loadStaging(v); err != nil {
		return err
	}
	if v.moving {
		s.startMove()
	}
	s.growFilter(newFilter(filterCapacity(v.meta.Head.Size, minFilterKeys)))
	return nil
}

func (s *Store) loadView() (*view, error) {
	b, ok, err := s.get([]byte{byte(tableMeta)})
	if err != nil {
		return nil, err
	}
	row, valid := decodeMeta(b)
	if !ok || !valid {
		return nil, corrupt("meta", nil, "row M is missing or malformed (%d bytes)", len(b))
	}
	s.hasState = row.hasState
	v := &view{meta: row.Meta}
	if b, v.moving, err = s.get([]byte{byte(tablePromoted)}); err != nil || !v.moving {
		return v, err
	}
	if v.promoted, valid = decodeSpan(b); !valid || v.promoted.to > v.meta.Head.Size {
		return nil, corrupt("meta", nil, "row P is malformed, or beyond the head")
	}
	v.hidden, err = s.loadHidden()
	return v, err
}

func (s *Store) loadHidden() (hidden map[chain.Redaction]struct{}, err error) {
	hidden = make(map[chain.Redaction]struct{})
	err = s.each(stagingSpace, tableRedacted, func(key, _ []byte) error {
		r, ok := splitRedactedKey(key)
		if !ok {
			return corrupt("staging", nil, "a redaction has malformed key %q", key)
		}
		hidden[r] = struct{}{}
		return nil
	})
	return hidden, err
}

// each calls f with each row of a table.
func (s *Store) each(sp space, t table, f func(key, value []byte) error) (err error) {
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: appendTable(nil, sp, t), UpperBound: tableEnd(sp, t)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for ok := iter.First(); ok; ok = iter.Next() {
		value, err := iter.ValueAndErr()
		if err != nil {
			return err
		}
		if err := f(iter.Key(), value); err != nil {
			return err
		}
	}
	return iter.Error()
}

// check holds the main tables against meta.
func (s *Store) check(v *view) error {
	if _, ok, err := s.get([]byte{byte(tableState)}); err != nil {
		return err
	} else if ok != s.hasState {
		return corrupt("state", nil, "row S present: %t, meta says %t", ok, s.hasState)
	}
	if err := s.checkHead(v, v.meta.Head); err != nil {
		return err
	}
	if err := s.checkBeyond(v.meta.Head.Size); err != nil {
		return err
	}
	if err := s.checkTiles(v); err != nil {
		return err
	}
	if root := s.tree.Root(); root != v.meta.Root {
		return corrupt("tile", nil, "the root over %d entries is %s, meta says %s", v.meta.Head.Size, root, v.meta.Root)
	}
	if err := s.checkTail(v); err != nil {
		return err
	}
	return s.checkIndexes(v)
}

// checkTail holds the last entries' envelopes against their headers. One is missing
// where an entry after it, and so among these, redacts it, or where it came without
// already, in a row that is empty. The one beside an escalation may always be.
func (s *Store) checkTail(v *view) error {
	size := v.meta.Head.Size
	var missing []uint64
	for seq := size - min(size, checkedTail); seq < size; seq++ {
		rec, err := s.record(v, seq)
		if err != nil {
			return err
		}
		e, err := rec.Check()
		if err != nil {
			return corruptAt("envelope", seq, err, "it is not its header's")
		}
		if rec.Envelope == nil {
			there, err := s.hasEnvelopeRow(v, seq)
			if err != nil {
				return err
			}
			if !there {
				missing = append(missing, seq)
			}
		}
		if target, ok := e.Redacts(); ok {
			missing = slices.DeleteFunc(missing, func(seq uint64) bool { return seq == target })
		}
	}
	if len(missing) > 0 {
		return corruptAt("envelope", missing[0], nil, "it is missing, and no entry redacts it")
	}
	return nil
}

// checkHead holds the last header against a head.
func (s *Store) checkHead(v *view, head chain.Head) error {
	if head.Size == 0 {
		if head != (chain.Head{}) {
			return corrupt("meta", nil, "the empty chain has head %s", head.Hash)
		}
		return nil
	}
	seq := head.Size - 1
	b, err := s.header(v, seq)
	if err != nil {
		return err
	}
	if hash := chain.HeaderHash(b); hash != head.Hash {
		return corruptAt("header", seq, nil, "its hash is %s, the head's %s", hash, head.Hash)
	}
	h, err := decodeHeader(seq, b)
	if err != nil {
		return err
	}
	if h.Time != head.Time {
		return corruptAt("header", seq, nil, "its time is %d, the head's %d", h.Time, head.Time)
	}
	return nil
}

// checkBeyond looks for rows of the main tables beyond the head.
func (s *Store) checkBeyond(size uint64) error {
	for _, t := range [...]struct {
		table table
		part  string
	}{{tableHeader, "header"}, {tableEnvelope, "envelope"}, {tableBeside, "envelope"}} {
		key, err := s.lastKey(appendTable(nil, mainSpace, t.table), tableEnd(mainSpace, t.table))
		if err != nil {
			return err
		}
		if key != nil && len(key) != 1+8 {
			return corrupt("database", nil, "row %q is malformed", key)
		}
		if key != nil && seqOf(key) >= size {
			return corruptAt(t.part, seqOf(key), nil, "is beyond the head, the chain has %d entries", size)
		}
	}
	for level := range chain.TileLevels {
		key, err := s.lastKey(appendTileKey(nil, mainSpace, uint8(level), 0), appendTileKey(nil, mainSpace, uint8(level+1), 0))
		if err != nil {
			return err
		}
		if key == nil {
			break
		}
		if len(key) != 2+8 {
			return corrupt("database", nil, "row %q is malformed", key)
		}
		if under := tileSpan(level, seqOf(key)); under.to > size {
			return corruptAt("tile", under.from, nil, "a tile of level %d is beyond the head, the chain has %d entries", level, size)
		}
	}
	return nil
}

// lastKey returns a copy of the last key in [lower, upper), nil if none.
func (s *Store) lastKey(lower, upper []byte) (key []byte, err error) {
	iter, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	if iter.Last() {
		key = slices.Clone(iter.Key())
	}
	return key, iter.Error()
}

// checkTiles holds the last full tile of each level against what it is made of.
func (s *Store) checkTiles(v *view) error {
	for level := range chain.TileLevels {
		tiles := v.meta.Head.Size >> (chain.TileHeight * (level + 1))
		if tiles == 0 {
			return nil
		}
		index := tiles - 1
		got, err := s.fullTile(v, level, index)
		if err != nil {
			return err
		}
		for i := range uint64(chain.TileWidth) {
			n := index*chain.TileWidth + i
			want, err := s.hashBelow(v, level, n)
			if err != nil {
				return err
			}
			if h := chain.Hash(got[i*uint64(len(want)):][:len(want)]); h != want {
				seq := n << (chain.TileHeight * level)
				return corruptAt("tile", seq, nil, "tile %d of level %d has hash %s, the entries give %s", index, level, h, want)
			}
		}
	}
	return nil
}

// hashBelow computes hash n of a tile level from what is below it.
func (s *Store) hashBelow(v *view, level int, n uint64) (chain.Hash, error) {
	if level == 0 {
		b, err := s.header(v, n)
		if err != nil {
			return chain.Hash{}, err
		}
		return chain.LeafHash(b), nil
	}
	below, err := s.fullTile(v, level-1, n)
	if err != nil {
		return chain.Hash{}, err
	}
	return fullRoot(below)
}

// fullRoot returns the root over a full tile's hashes.
func fullRoot(tile []byte) (chain.Hash, error) {
	const half = chain.TileWidth / 2
	left, err := chain.RootAt(half, oneTile(tile[:chain.TileSize/2]))
	if err != nil {
		return chain.Hash{}, err
	}
	right, err := chain.RootAt(half, oneTile(tile[chain.TileSize/2:]))
	return chain.NodeHash(left, right), err
}

// oneTile is a tree of one tile.
type oneTile []byte

// ReadTile implements chain.TileReader.
func (t oneTile) ReadTile(int, uint64, int) ([]byte, error) { return t, nil }

// checkIndexes looks the last entries up in the indexes.
func (s *Store) checkIndexes(v *view) error {
	size := v.meta.Head.Size
	for seq := size - min(size, checkedTail); seq < size; seq++ {
		b, err := s.header(v, seq)
		if err != nil {
			return err
		}
		h, err := decodeHeader(seq, b)
		if err != nil {
			return err
		}
		d := s.keys.digest(h.Key())
		slot, ok, err := s.find(h.Key(), &d)
		if err != nil {
			return err
		}
		if !ok || slot.State == chain.SlotSealed && slot.Sequence != seq {
			return corruptAt("index", seq, nil, "the slot of its key %q is missing, or another's", h.Key())
		}
		for _, index := range [...]struct {
			table table
			value string
		}{{tableKind, h.Kind}, {tableSource, h.Source}, {tablePrincipal, h.Principal}, {tableWorkspace, h.Workspace}} {
			c := cursor{table: index.table, value: index.value, pos: seq, end: seq + 1}
			found, err := s.fill(&c, v)
			if err != nil {
				return err
			}
			if !found {
				return corruptAt("index", seq, nil, "it is missing from index %q under %q", index.table, index.value)
			}
			c = cursor{table: index.table, value: index.value, reverse: true, pos: math.MaxUint64, end: size}
			if found, err = s.fill(&c, v); err != nil {
				return err
			}
			if found {
				return corruptAt("index", c.seqs[0], nil, "it is in index %q under %q, the chain has %d entries", index.table, index.value, size)
			}
		}
	}
	return nil
}

// loadStaging takes up what was staged, after checking it.
func (s *Store) loadStaging(main *view) error {
	b, ok, err := s.get(appendTable(nil, stagingSpace, tableMeta))
	if err != nil || !ok {
		return err
	}
	from, head, valid := decodeStagedMeta(b)
	switch {
	case !valid || main.moving:
		return corrupt("staging", nil, "its meta is malformed, or beside a promoted range")
	case from != main.meta.Head.Size:
		return corrupt("staging", nil, "it begins at %d, the chain has %d entries", from, main.meta.Head.Size)
	}
	// As it would look if it were promoted.
	v := &view{meta: chain.Meta{Head: head}, moving: true, promoted: span{from, head.Size}}
	if err := s.checkHead(v, head); err != nil {
		return err
	}
	if head.Size > from {
		b, err := s.header(v, from)
		if err != nil {
			return err
		}
		h, err := decodeHeader(from, b)
		if err != nil {
			return err
		}
		if h.Previous != main.meta.Head.Hash {
			return corruptAt("staging", from, nil, "it links to %s, the head is %s", h.Previous, main.meta.Head.Hash)
		}
	}
	st := &staging{from: from, head: head}
	if st.tree, err = chain.OpenTree(head.Size, edgeTiles{s, v}); err != nil {
		return err
	}
	if st.hidden, err = s.loadHidden(); err != nil {
		return err
	}
	s.staging = st
	return nil
}

// CheckRaft refuses raft state that does not belong to this ledger. lastLog is
// the last index in raft's log and snapshotIndex that of the newest snapshot (0:
// none); snapshotStateMachineIndex is the applied index that its manifest names;
// raftStateExists says whether raft has any state at all. Errors are
// *RaftMismatchError.
//
// Raft's log makes entries durable and the ledger follows it unsynced, so the
// ledger may be behind the log, never ahead; and a manifest is written after a
// flush, so the ledger is never behind it.
func (s *Store) CheckRaft(lastLog, snapshotIndex, snapshotStateMachineIndex uint64, raftStateExists bool) error {
	m := s.Meta()
	refuse := func(format string, args ...any) error {
		return &RaftMismatchError{Applied: m.Applied, Found: fmt.Sprintf(format, args...)}
	}
	switch {
	case raftStateExists && s.created:
		return refuse("raft has state (last log index %d, snapshot %d), but the ledger is new: its directory was lost; restore it, or remove raft's state too and join again under a new identity", lastLog, snapshotIndex)
	case !raftStateExists && (m.Applied > 0 || m.Head.Size > 0):
		return refuse("the ledger has %d entries, but raft has no state: its directory was lost; restore it, or move the ledger away and join again under a new identity", m.Head.Size)
	case max(lastLog, snapshotIndex) < m.Applied:
		return refuse("raft ends at index %d (log %d, snapshot %d), before what the ledger has applied: raft's state is older than the ledger, or another node's", max(lastLog, snapshotIndex), lastLog, snapshotIndex)
	case m.Applied < snapshotStateMachineIndex:
		return refuse("the newest snapshot was taken at index %d, after what the ledger has applied: the ledger is older than raft's state, or another node's", snapshotStateMachineIndex)
	}
	return nil
}
