package outbox

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Open opens the queue in a directory, which it makes where there is none. A
// torn end is cut off, which Recovery tells. The error is a *CorruptError where
// a file is damaged, and wraps ErrLocked where the directory is in use.
func Open(dir string, options Options) (*Queue, error) {
	if options.MaxBytes < 0 || options.SegmentBytes < 0 {
		return nil, errors.New("outbox: a size is negative")
	}
	if options.MaxBytes == 0 {
		options.MaxBytes = 256 << 20
	}
	if options.SegmentBytes == 0 {
		options.SegmentBytes = 4 << 20
	}
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	var files FS = osFS(dir)
	if options.Wrap != nil {
		files = options.Wrap(files)
	}
	q := &Queue{fs: files, unlock: unlock, options: options, writing: make(chan struct{}, 1), grown: make(chan struct{})}
	if err := q.recover(); err != nil {
		for _, s := range q.segments {
			q.retire(s.file)
		}
		return nil, errors.Join(err, unlock())
	}
	return q, nil
}

// recover reads the directory and leaves it as if nothing had been torn.
func (q *Queue) recover() error {
	firsts, err := q.list()
	if err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	var contents []parsed
	for i, first := range firsts {
		p, err := q.load(first, i == len(firsts)-1)
		if err != nil {
			return err
		}
		if p != nil {
			contents = append(contents, *p)
		}
	}
	if len(contents) == 0 {
		s, err := q.createSegment(1, 0)
		if err != nil {
			return fmt.Errorf("outbox: %w", err)
		}
		q.segments = []*segment{s}
		return nil
	}
	for _, p := range contents {
		q.acked = max(q.acked, p.acked)
	}
	if err := q.index(contents); err != nil {
		return err
	}
	// What a crash left unsynced, but readable, counts from here on.
	if err := q.segments[len(q.segments)-1].file.Sync(); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	if err := q.fs.Sync(); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	q.durableAck = q.acked
	return q.compact()
}

// list returns the first ids of all segments, sorted, and removes what a crash
// left of a rewrite.
func (q *Queue) list() ([]uint64, error) {
	names, err := q.fs.List()
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, name := range names {
		if first, ok := parseSegmentName(name); ok {
			firsts = append(firsts, first)
		} else if strings.HasSuffix(name, tempSuffix) {
			if err := q.fs.Remove(name); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(firsts)
	return firsts, nil
}

// load opens and reads a segment. It returns nil where the newest segment was
// begun but has no header yet, and is removed.
func (q *Queue) load(first uint64, newest bool) (*parsed, error) {
	name := segmentName(first)
	f, size, err := q.fs.Open(name, false)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	s := &segment{name: name, file: &sharedFile{File: f}, first: first}
	q.segments = append(q.segments, s)
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); n < len(data) {
		return nil, fmt.Errorf("outbox: read %s: %w", name, err)
	}
	p, err := parseSegment(data)
	damage, damaged := errors.AsType[*CorruptError](err)
	switch {
	case damaged:
		damage.File = name
		return nil, damage
	case err != nil && !newest:
		return nil, &CorruptError{File: name, Offset: p.end, What: err.Error()}
	case err != nil && p.end == 0:
		q.recovery = Recovery{File: name, Bytes: size}
		q.segments = q.segments[:len(q.segments)-1]
		q.retire(s.file)
		if err := q.fs.Remove(name); err != nil {
			return nil, fmt.Errorf("outbox: %w", err)
		}
		return nil, nil
	case err != nil:
		q.recovery = Recovery{File: name, Offset: p.end, Bytes: size - p.end}
		if err := f.Truncate(p.end); err != nil {
			return nil, fmt.Errorf("outbox: %w", err)
		}
	}
	if p.first != first {
		return nil, &CorruptError{File: name, What: fmt.Sprintf("its header says that it begins with item %d", p.first)}
	}
	s.salt, s.size, s.last = p.salt, p.end, first+uint64(len(p.records))-1
	return &p, nil
}

// index finds the items that wait. They must be there without a gap; older
// segments may be missing, since removing them is not synced.
func (q *Queue) index(contents []parsed) error {
	next := q.acked + 1
	for i, p := range contents {
		s := q.segments[i]
		if i > 0 && q.segments[i-1].last >= s.first || s.last >= next && s.first > next {
			return &CorruptError{File: s.name, What: fmt.Sprintf("it begins with item %d, want %d", s.first, next)}
		}
		for j, r := range p.records {
			if s.first+uint64(j) < next {
				continue
			}
			at := ref{}
			if !r.removed {
				at = ref{file: s.file, offset: r.offset, size: r.size}
				q.items++
			}
			q.refs = append(q.refs, at)
			q.bytes += at.cost()
			next++
		}
	}
	if last := q.segments[len(q.segments)-1]; last.last+1 != next {
		return &CorruptError{File: last.name, What: fmt.Sprintf("it ends with item %d, want %d", last.last, next-1)}
	}
	return nil
}
