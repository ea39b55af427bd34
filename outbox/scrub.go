package outbox

import (
	"fmt"
)

// Scrub removes every item for which match returns true, from the queue and
// physically from its files, which it rewrites where need be; what was
// acknowledged but still lies in a rewritten file goes with it. It returns how
// many items it removed, acknowledged ones included, once that is synced. The
// ids of other items stay. Appends wait meanwhile; match must not call the
// queue.
func (q *Queue) Scrub(match func(item []byte) bool) (removed int, err error) {
	q.writing <- struct{}{}
	defer func() { <-q.writing }()
	q.mu.Lock()
	segments, acked, err := q.segments, q.acked, q.err
	q.mu.Unlock()
	if err != nil {
		return 0, err
	}
	for i, s := range segments {
		n, err := q.scrubSegment(i, s, acked, match)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	if removed > 0 {
		if err := q.fs.Sync(); err != nil {
			return removed, q.broken(err)
		}
	}
	return removed, nil
}

// scrubSegment rewrites segment i where an item in it matches. The rename is
// the commit point; before it a crash leaves a file that Open removes.
func (q *Queue) scrubSegment(i int, s *segment, acked uint64, match func([]byte) bool) (removed int, err error) {
	data := make([]byte, s.size)
	if n, err := s.file.ReadAt(data, 0); n < len(data) {
		return 0, fmt.Errorf("outbox: read %s: %w", s.name, err)
	}
	p, err := parseSegment(data)
	if err != nil {
		return 0, &CorruptError{File: s.name, Offset: p.end, What: err.Error()}
	}
	drop := make([]bool, len(p.records))
	for j, r := range p.records {
		if !r.removed && match(data[r.offset:r.offset+int64(r.size):r.offset+int64(r.size)]) {
			drop[j] = true
			removed++
		}
	}
	if removed == 0 {
		return 0, nil
	}
	salt := newSalt()
	text := appendSegmentHeader(make([]byte, 0, len(data)), s.first, min(p.acked, s.first-1), salt)
	refs := make([]ref, len(p.records))
	text = appendBatches(text, salt, s.first, p.acked, len(p.records), func(b []byte, j int) []byte {
		r, id := p.records[j], s.first+uint64(j)
		if r.removed || drop[j] || id <= acked {
			return appendRemoved(b, id)
		}
		refs[j] = ref{offset: int64(len(b)) + recordHeader, size: r.size}
		return appendRecord(b, id, data[r.offset:r.offset+int64(r.size)])
	})
	file, err := q.replace(s.name, text)
	if err != nil {
		return 0, q.broken(err)
	}
	for j := range refs {
		if refs[j].offset > 0 {
			refs[j].file = file
		}
	}
	q.swap(i, s, file, salt, int64(len(text)), refs)
	return removed, nil
}

// replace writes a file anew.
func (q *Queue) replace(name string, text []byte) (*sharedFile, error) {
	f, _, err := q.fs.Open(name+tempSuffix, true)
	if err != nil {
		return nil, err
	}
	if _, err = f.WriteAt(text, 0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = q.fs.Rename(name+tempSuffix, name)
	}
	if err != nil {
		_ = f.Close() // the error that matters is at hand
		return nil, err
	}
	return &sharedFile{File: f}, nil
}

// swap puts a rewritten segment in the place of the old one. refs are where its
// items lie now.
func (q *Queue) swap(i int, old *segment, file *sharedFile, salt uint32, size int64, refs []ref) {
	q.mu.Lock()
	q.segments[i] = &segment{name: old.name, file: file, salt: salt, first: old.first, last: old.last, size: size}
	for j, r := range refs {
		id := old.first + uint64(j)
		if id <= q.acked {
			continue
		}
		at := &q.refs[id-q.acked-1]
		if at.file != nil && r.file == nil {
			q.items--
			q.bytes -= at.cost()
		}
		*at = r
	}
	q.mu.Unlock()
	q.retire(old.file)
}
