package ledger

import (
	"errors"
	"iter"
	"sort"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/exonode/exonode/chain"
)

const (
	// A scan reads about this many entries, and about this many bytes, at a
	// time; between reads it holds nothing of the database.
	scanEntries = 128
	scanBytes   = 1 << 20
)

// Scan yields the matching entries of [from, to) in order, or from to-1 down to
// from where reverse. The head as of the first step bounds it: entries that are
// committed during a scan are not part of it. Redactions are, for what has not
// been read yet. It uses an index where the filter has one that fits; an error
// ends it.
func (s *Store) Scan(f chain.Filter, from, to uint64, reverse bool) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		sc, err := s.newScan(f, from, to, reverse)
		for err == nil {
			var batch []chain.Record
			batch, err = sc.next()
			if err == nil && len(batch) == 0 {
				return
			}
			for _, rec := range batch {
				if !yield(rec, nil) {
					return
				}
			}
		}
		yield(chain.Record{}, err)
	}
}

// SeekTime returns the first sequence whose time is t or later; the chain's size
// where there is none. Times ascend strictly.
func (s *Store) SeekTime(t int64) (uint64, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	seq, err := s.seekTime(t, s.Meta().Head.Size)
	return seq, s.failUnlessNotFound(err)
}

func (s *Store) seekTime(t int64, size uint64) (uint64, error) {
	var failed error
	n := sort.Search(int(size), func(i int) bool {
		if failed != nil {
			return true
		}
		b, err := s.currentHeader(uint64(i))
		if err == nil {
			var h chain.Header
			if h, err = decodeHeader(uint64(i), b); err == nil {
				return h.Time >= t
			}
		}
		failed = err
		return true
	})
	return uint64(n), failed
}

// scan is the state of a Scan between its steps.
type scan struct {
	store   *Store
	reverse bool
	// pos and end bound what remains where no index is used: up from pos to
	// end, or down from pos-1 to end.
	pos, end uint64
	cursors  []*cursor // of the index; nil where none is used
	// match is what the index does not answer; nil matches all.
	match func(*chain.Header) bool
}

func (s *Store) newScan(f chain.Filter, from, to uint64, reverse bool) (*scan, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	sc, err := s.planScan(f, from, to, reverse)
	return sc, s.failUnlessNotFound(err)
}

func (s *Store) planScan(f chain.Filter, from, to uint64, reverse bool) (*scan, error) {
	to = min(to, s.Meta().Head.Size)
	var err error
	if f.TimeFrom != 0 && from < to {
		var first uint64
		if first, err = s.seekTime(f.TimeFrom, to); err != nil {
			return nil, err
		}
		from = max(from, first)
	}
	if f.TimeTo != 0 && from < to {
		if to, err = s.seekTime(f.TimeTo, to); err != nil {
			return nil, err
		}
	}
	sc := &scan{store: s, reverse: reverse, pos: from, end: to}
	if from >= to {
		sc.end = sc.pos
		return sc, nil
	}
	if reverse {
		sc.pos, sc.end = to, from
	}
	t, values, rest, err := s.chooseIndex(f)
	if err != nil {
		return nil, err
	}
	if t != 0 {
		sc.cursors = make([]*cursor, len(values))
		for i, value := range values {
			sc.cursors[i] = &cursor{table: t, value: value, reverse: reverse, pos: sc.pos, end: sc.end}
		}
	}
	sc.match = matcher(rest)
	return sc, nil
}

// chooseIndex returns the index that probably leaves least to read, its values,
// and what of the filter remains to be matched; table 0 where there is none.
func (s *Store) chooseIndex(f chain.Filter) (t table, values []string, rest chain.Filter, err error) {
	rest = f
	prefix, isPrefix := strings.CutSuffix(f.Kind, "*")
	if isPrefix && prefix == "" {
		rest.Kind, isPrefix, f.Kind = "", false, ""
	}
	switch {
	case f.Source != "":
		rest.Source = ""
		return tableSource, []string{f.Source}, rest, nil
	case f.Kind != "" && !isPrefix:
		rest.Kind = ""
		return tableKind, []string{f.Kind}, rest, nil
	case f.Principal != "":
		rest.Principal = ""
		return tablePrincipal, []string{f.Principal}, rest, nil
	case isPrefix:
		rest.Kind = ""
		err = s.consistent(func(v *view) (err error) {
			values, err = s.values(tableKind, prefix, v)
			return err
		})
		return tableKind, values, rest, err
	case f.Workspace != "":
		rest.Workspace = ""
		return tableWorkspace, []string{f.Workspace}, rest, nil
	}
	return 0, nil, rest, nil
}

// matcher returns a check of what remains of a filter; nil where nothing does.
// Times are matched by sequence.
func matcher(f chain.Filter) func(*chain.Header) bool {
	f.TimeFrom, f.TimeTo = 0, 0
	if f == (chain.Filter{}) {
		return nil
	}
	return f.Match
}

// next returns the next matching entries; none at the end.
func (sc *scan) next() ([]chain.Record, error) {
	s := sc.store
	for {
		if err := s.enter(); err != nil {
			return nil, err
		}
		batch, more, err := sc.step()
		s.leave()
		if err != nil {
			return nil, s.failUnlessNotFound(err)
		}
		if len(batch) > 0 || !more {
			return batch, nil
		}
	}
}

// step reads one batch. It may be empty with more to come.
func (sc *scan) step() (batch []chain.Record, more bool, err error) {
	if sc.cursors == nil {
		err = sc.store.consistent(func(v *view) error {
			batch, err = sc.readRange(v)
			return err
		})
		if n := len(batch); n > 0 {
			sc.pos = batch[n-1].Sequence
			if !sc.reverse {
				sc.pos++
			}
		}
		more = sc.reverse && sc.pos > sc.end || !sc.reverse && sc.pos < sc.end
		batch, err = sc.filter(batch, err)
		return batch, more, err
	}
	for size := 0; len(batch) < scanEntries && size < scanBytes; {
		seq, ok, err := sc.take()
		if err != nil {
			return nil, false, err
		}
		if !ok {
			return batch, false, nil
		}
		rec, ok, err := sc.read(seq)
		if err != nil {
			return nil, false, err
		}
		if ok {
			batch = append(batch, rec)
			size += recordSize(&rec)
		}
	}
	return batch, true, nil
}

// take returns the next sequence that the index names: of all cursors the
// smallest, or where reverse the largest.
func (sc *scan) take() (seq uint64, ok bool, err error) {
	var best *cursor
	live := sc.cursors[:0]
	for _, c := range sc.cursors {
		if len(c.seqs) == 0 {
			var filled cursor
			err := sc.store.consistent(func(v *view) error {
				filled = *c
				_, err := sc.store.fill(&filled, v)
				return err
			})
			if err != nil {
				return 0, false, err
			}
			*c = filled
			if len(c.seqs) == 0 {
				continue
			}
		}
		live = append(live, c)
		if best == nil || sc.reverse == (c.seqs[0] > best.seqs[0]) {
			best = c
		}
	}
	sc.cursors = live
	if best == nil {
		return 0, false, nil
	}
	seq, best.seqs = best.seqs[0], best.seqs[1:]
	return seq, true, nil
}

// read returns an entry that the index names, if the rest of the filter matches.
func (sc *scan) read(seq uint64) (rec chain.Record, ok bool, err error) {
	s := sc.store
	if sc.match != nil {
		b, err := s.currentHeader(seq)
		if err != nil {
			return chain.Record{}, false, err
		}
		h, err := decodeHeader(seq, b)
		if err != nil || !sc.match(&h) {
			return chain.Record{}, false, err
		}
	}
	err = s.consistent(func(v *view) (err error) {
		rec, err = s.record(v, seq)
		return err
	})
	return rec, err == nil, err
}

// readRange reads the next entries of a scan without an index, by one pass over
// each table.
func (sc *scan) readRange(v *view) ([]chain.Record, error) {
	from, to := sc.pos, sc.end
	if sc.reverse {
		from, to = sc.end, sc.pos
	}
	if from >= to {
		return nil, nil
	}
	sp := v.space(from)
	if sc.reverse {
		sp = v.space(to - 1)
		from = max(from, to-min(to, scanEntries))
		from, _ = pieceOf(v, sp, from, to, true)
	} else {
		to = min(to, from+scanEntries)
		_, to = pieceOf(v, sp, from, to, false)
	}
	return sc.store.readPiece(v, sp, from, to, sc.reverse)
}

// pieceOf cuts [from, to) to the part that lies in one keyspace, at its end, or
// where reverse, at its beginning.
func pieceOf(v *view, sp space, from, to uint64, reverse bool) (uint64, uint64) {
	if !v.moving {
		return from, to
	}
	for _, border := range [...]uint64{v.promoted.from, v.promoted.to} {
		if from < border && border < to {
			if reverse {
				from = border
			} else {
				to = border
			}
		}
	}
	return from, to
}

// readPiece reads the entries of [from, to), which lie in one keyspace, and
// stops after scanBytes.
func (s *Store) readPiece(v *view, sp space, from, to uint64, reverse bool) ([]chain.Record, error) {
	out := make([]chain.Record, 0, to-from)
	size := 0
	err := s.eachSeq(sp, tableHeader, from, to, reverse, func(seq uint64, value []byte) bool {
		out = append(out, chain.Record{Sequence: seq, Header: clone(value)})
		size += len(value)
		return size < scanBytes
	})
	if err != nil {
		return nil, s.nameDamage(v, from, to, err)
	}
	want := from
	if reverse {
		want = to - 1
	}
	for i := range out {
		if out[i].Sequence != want {
			return nil, corruptAt("header", want, nil, "is missing")
		}
		if reverse {
			want--
		} else {
			want++
		}
	}
	if len(out) == 0 {
		return nil, corruptAt("header", want, nil, "is missing")
	}
	for _, beside := range [...]bool{false, true} {
		i := 0
		first, last := out[0].Sequence, out[len(out)-1].Sequence
		lo, hi := min(first, last), max(first, last)+1
		read := 0
		t := envelopeTable(chain.Redaction{Beside: beside})
		err := s.eachSeq(sp, t, lo, hi, reverse, func(seq uint64, value []byte) bool {
			for out[i].Sequence != seq {
				i++
			}
			read += len(value)
			if _, hidden := v.hidden[chain.Redaction{Sequence: seq, Beside: beside}]; hidden {
				return true
			}
			switch {
			case len(value) == 0: // it came without
			case beside:
				out[i].Beside = clone(value)
			default:
				out[i].Envelope = clone(value)
			}
			return read < scanBytes
		})
		if err != nil {
			return nil, s.nameDamage(v, lo, hi, err)
		}
		if read >= scanBytes {
			// Large payloads: what was read is whole up to here.
			out = out[:i+1]
		}
	}
	return out, nil
}

func clone(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }

// eachSeq calls f with the rows of [from, to) in order until it returns false.
func (s *Store) eachSeq(sp space, t table, from, to uint64, reverse bool, f func(seq uint64, value []byte) bool) (err error) {
	iter, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: appendSeqKey(nil, sp, t, from),
		UpperBound: appendSeqKey(nil, sp, t, to),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	start, step := iter.First, iter.Next
	if reverse {
		start, step = iter.Last, iter.Prev
	}
	for ok := start(); ok; ok = step() {
		value, err := iter.ValueAndErr()
		if err != nil {
			return err
		}
		if !f(seqOf(iter.Key()), value) {
			break
		}
	}
	return iter.Error()
}

// nameDamage finds the first entry of [from, to) that can't be read, one by one:
// an iterator that meets a damaged block does not say where.
func (s *Store) nameDamage(v *view, from, to uint64, err error) error {
	if !pebble.IsCorruptionError(err) {
		return err
	}
	for seq := from; seq < to; seq++ {
		if _, err := s.record(v, seq); err != nil {
			return err
		}
	}
	return corruptAt("header", from, err, "bytes on disk do not match their checksum")
}

// filter drops the entries that don't match.
func (sc *scan) filter(batch []chain.Record, err error) ([]chain.Record, error) {
	if err != nil || sc.match == nil {
		return batch, err
	}
	out := batch[:0]
	for _, rec := range batch {
		h, err := decodeHeader(rec.Sequence, rec.Header)
		if err != nil {
			return nil, err
		}
		if sc.match(&h) {
			out = append(out, rec)
		}
	}
	return out, nil
}

func recordSize(r *chain.Record) int { return len(r.Header) + len(r.Envelope) + len(r.Beside) }
