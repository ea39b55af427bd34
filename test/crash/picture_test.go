package crash_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/outbox"
)

// segmentBytes makes logs and queues begin a new file every few writes.
const segmentBytes = 32 << 10

func openStores(dir string, backend raftstore.Backend, fatal func(error)) (*raftstore.Stores, error) {
	return raftstore.Open(raftstore.Config{
		Dir: filepath.Join(dir, "raft"), Backend: backend, SegmentBytes: segmentBytes,
		WriteTimeout: time.Minute, Fatal: fatal,
	})
}

func openQueue(dir string) (*outbox.Queue, error) {
	return outbox.Open(filepath.Join(dir, "outbox"), outbox.Options{SegmentBytes: segmentBytes})
}

// order is one operation, as the child announces it: a line of its fields.
type order struct {
	Op string // open, append, delete, term, vote, take, receive, confirm, push, ack
	// N names the operation within a test, for content that no other has.
	N uint64
	// A to B are indexes, or ids: of append and push those that are written, of delete
	// and ack those that go; of the others A is what it is about.
	A, B uint64
	Term uint64
}

func (o order) String() string { return fmt.Sprintln(o.Op, o.N, o.A, o.B, o.Term) }

func parseOrder(line string) (o order, err error) {
	_, err = fmt.Sscan(line, &o.Op, &o.N, &o.A, &o.B, &o.Term)
	return o, err
}

// content is what an operation writes at an index. Some operations write entries of
// one size: then what an earlier write has left lies where the frames of a later one end.
func (o order) content(index uint64) []byte {
	r := rand.New(rand.NewPCG(o.N, index))
	size := 96
	if o.N%3 != 0 {
		size = []int{r.IntN(64), r.IntN(800), r.IntN(6000)}[r.IntN(3)]
	}
	b := fmt.Appendf(nil, "%d of operation %d ", index, o.N)
	for len(b) < size {
		b = append(b, byte(r.Uint32()))
	}
	return b
}

func (o order) entries() (logs []*raft.Log) {
	for i := o.A; i <= o.B; i++ {
		logs = append(logs, &raft.Log{Index: i, Term: o.Term, Data: o.content(i)})
	}
	return logs
}

func (o order) items() (items [][]byte) {
	for i := o.A; i <= o.B; i++ {
		items = append(items, o.content(i))
	}
	return items
}

func (o order) candidate() string { return fmt.Sprintf("node-%d.1", o.A) }

// vote is what a node must not forget.
type vote struct {
	Term, VoteTerm uint64
	Candidate      string
}

// picture is what the stores hold.
type picture struct {
	Log     map[uint64]raft.Log
	Vote    vote
	Listed  []uint64 // newest last
	Pending []uint64
	// Items by id; First is the oldest that was not acknowledged.
	Items map[uint64]string
	First uint64
}

func newPicture() *picture {
	return &picture{Log: map[uint64]raft.Log{}, Items: map[uint64]string{}, First: 1}
}

// with is the picture after an operation.
func (p *picture) with(o order) *picture {
	q := *p
	q.Log, q.Items = maps.Clone(p.Log), maps.Clone(p.Items)
	q.Listed, q.Pending = slices.Clone(p.Listed), slices.Clone(p.Pending)
	switch o.Op {
	case "append":
		for _, l := range o.entries() {
			q.Log[l.Index] = *l
		}
	case "delete":
		for i := o.A; i <= o.B; i++ {
			delete(q.Log, i)
		}
	case "term":
		q.Vote.Term = o.Term
	case "vote":
		q.Vote.VoteTerm, q.Vote.Candidate = o.Term, o.candidate()
	case "take", "confirm":
		q.Listed = append(q.Listed, o.A)
		q.Pending = slices.DeleteFunc(q.Pending, func(i uint64) bool { return i <= o.A })
	case "receive":
		q.Pending = append(q.Pending, o.A)
	case "push":
		for i, item := range o.items() {
			q.Items[o.A+uint64(i)] = string(item)
		}
	case "ack":
		q.First = o.B + 1
	}
	return &q
}

// look opens the stores of a directory as a node does, and compares them with what was
// acknowledged: each store is as before or as after the operation that was under way.
// It then goes on with them: a log that opens must take what comes next.
func look(dir string, backend raftstore.Backend, before, after *picture) (_ *picture, err error) {
	var failed error
	s, err := openStores(dir, backend, func(err error) { failed = err })
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close(), failed) }()
	got := newPicture()
	if err := errors.Join(
		got.readLog(s, before, after), got.readVote(s, before, after), got.readManifests(s, before, after), got.readItems(dir, before, after),
	); err != nil {
		return nil, err
	}
	next := order{Op: "append", N: 1 << 40, A: 1, Term: 1 << 20}
	for i := range got.Log {
		next.A = max(next.A, i+1)
	}
	next.B = next.A + 2
	if err := s.Log.StoreLogs(next.entries()); err != nil {
		return nil, fmt.Errorf("the log takes nothing more: %w", err)
	}
	return got, nil
}

func (p *picture) readLog(s *raftstore.Stores, before, after *picture) error {
	first, err := s.Log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.Log.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := s.Log.GetLog(i, &l); err != nil {
			return fmt.Errorf("entry %d of %d to %d: %w", i, first, last, err)
		}
		p.Log[i] = raft.Log{Index: l.Index, Term: l.Term, Type: l.Type, Data: l.Data}
	}
	same := func(a, b raft.Log) bool {
		return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data)
	}
	if maps.EqualFunc(p.Log, before.Log, same) || maps.EqualFunc(p.Log, after.Log, same) {
		return nil
	}
	return fmt.Errorf("the log holds %s, want %s or %s", p.logText(), before.logText(), after.logText())
}

func (p *picture) logText() string {
	indexes := slices.Sorted(maps.Keys(p.Log))
	if len(indexes) == 0 {
		return "nothing"
	}
	first, last := indexes[0], indexes[len(indexes)-1]
	return fmt.Sprintf("%d entries, %d (%.30q) to %d (%.30q)", len(indexes), first, p.Log[first].Data, last, p.Log[last].Data)
}

func (p *picture) readVote(s *raftstore.Stores, before, after *picture) error {
	p.Vote.Term = s.Vote.Term()
	p.Vote.VoteTerm, _ = s.Vote.GetUint64([]byte("LastVoteTerm")) // an error is none
	candidate, _ := s.Vote.Get([]byte("LastVoteCand"))
	p.Vote.Candidate = string(candidate)
	if p.Vote == before.Vote || p.Vote == after.Vote {
		return nil
	}
	return fmt.Errorf("the vote is %+v, want %+v or %+v", p.Vote, before.Vote, after.Vote)
}

// readManifests looks for those that a node starts from. Older ones are removed
// without a sync, and may come back; a pending one beside a listed one of its index
// counts for nothing.
func (p *picture) readManifests(s *raftstore.Stores, before, after *picture) error {
	read := func(list func() ([]*raft.SnapshotMeta, error)) (indexes []uint64, err error) {
		metas, err := list()
		for _, meta := range metas {
			_, r, err := s.Manifests.Open(meta.ID)
			if err != nil {
				return nil, err
			}
			b, err := io.ReadAll(r)
			if want := manifestText(meta.Index); err != nil || string(b) != want {
				return nil, fmt.Errorf("manifest %d: %.40q, %w", meta.Index, b, err)
			}
			indexes = append(indexes, meta.Index)
		}
		slices.Reverse(indexes)
		return indexes, err
	}
	var err error
	if p.Listed, err = read(s.Manifests.List); err != nil {
		return err
	}
	if p.Pending, err = read(s.Manifests.Pending); err != nil {
		return err
	}
	newest := func(of []uint64) uint64 {
		if len(of) == 0 {
			return 0
		}
		return of[len(of)-1]
	}
	p.Pending = slices.DeleteFunc(p.Pending, func(i uint64) bool { return i <= newest(p.Listed) })
	for _, want := range []*picture{before, after} {
		if newest(p.Listed) == newest(want.Listed) && newest(p.Pending) == newest(want.Pending) {
			return nil
		}
	}
	return fmt.Errorf("manifests %d, pending %d; want %d, %d or %d, %d", p.Listed, p.Pending, before.Listed, before.Pending, after.Listed, after.Pending)
}

func manifestText(index uint64) string { return fmt.Sprintf("state at %d", index) }

func (p *picture) readItems(dir string, before, after *picture) (err error) {
	q, err := openQueue(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	items, err := q.Peek(1 << 20)
	if err != nil {
		return err
	}
	last, err := q.Append()
	if err != nil {
		return err
	}
	p.First = last + 1
	for i := len(items) - 1; i >= 0; i-- {
		if items[i].ID != p.First-1 {
			return fmt.Errorf("outbox: item %d is followed by %d", items[i].ID, p.First)
		}
		p.First--
		p.Items[items[i].ID] = string(items[i].Data)
	}
	for _, want := range []*picture{before, after} {
		whole := p.First <= want.First && last == uint64(len(want.Items))
		for id, data := range p.Items {
			whole = whole && want.Items[id] == data
		}
		if whole {
			// What was acknowledged may come again; what came before is gone.
			p.Items = want.Items
			return nil
		}
	}
	return fmt.Errorf("outbox: items %d to %d, want from %d at most to %d or %d", p.First, last, before.First, len(before.Items), len(after.Items))
}
