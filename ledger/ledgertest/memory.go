package ledgertest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/exonode/exonode/chain"
)

// Op is an operation of a store that can be made to fail.
type Op string

// The operations.
const (
	OpCommit       Op = "commit"
	OpFlush        Op = "flush"
	OpStage        Op = "stage"
	OpFlushStaging Op = "flush staging"
	OpPromote      Op = "promote"
	OpDropStaging  Op = "drop staging"
	OpFind         Op = "find"
	OpRecord       Op = "record"
	OpState        Op = "state"
)

// Memory is a store in memory. It checks every Update against the chain's rules
// and against itself, and refuses wrong ones with an error, after which, like
// any store that failed, it refuses everything. It is safe for concurrent use,
// as far as a store has to be.
type Memory struct {
	mu sync.Mutex // guards all fields
	contents
	// log is what was done, for Crash; synced is how much of it is durable.
	log    []step
	synced int
	faults map[Op]fault
	failed error
}

// contents is what a store holds.
type contents struct {
	meta    chain.Meta
	state   []byte
	records []chain.Record
	slots   map[chain.Key]chain.Slot
	tree    *chain.Tree
	staged  *staged // nil where nothing is
}

// staged is what is staged beyond the head.
type staged struct {
	meta    chain.Meta // of the head that it would become
	state   []byte
	records []chain.Record
	slots   map[chain.Key]chain.Slot
	redact  []chain.Redaction // of entries before the staged ones
	tree    *chain.Tree
}

// step is one entry of the log: it does to contents what the caller asked for.
type step func(*contents) error

type fault struct {
	err       error
	persisted bool
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	m := &Memory{faults: map[Op]fault{}}
	m.contents = newContents()
	return m
}

func newContents() contents {
	return contents{
		meta:  chain.Meta{Root: chain.EmptyRoot()},
		slots: map[chain.Key]chain.Slot{},
		tree:  &chain.Tree{},
	}
}

// FailNext makes the next op fail with err. Where persisted, it does its work
// all the same: what a caller must expect of an error while writing. Either way
// the store then refuses everything; Crash tells which it was.
func (m *Memory) FailNext(op Op, persisted bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults[op] = fault{err, persisted}
}

// Crash returns the store as it might come back after a crash: all that was
// durable, and unsynced of the steps after it (fewer where there are fewer). m
// is not changed, but should not be used any more.
func (m *Memory) Crash(unsynced int) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := NewMemory()
	out.synced = min(m.synced+unsynced, len(m.log))
	for _, s := range m.log[:out.synced] {
		if err := s(&out.contents); err != nil {
			panic(err) // it succeeded before
		}
	}
	out.log = slices.Clone(m.log[:out.synced])
	return out
}

// Unsynced returns how many steps a crash could lose.
func (m *Memory) Unsynced() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.log) - m.synced
}

// do runs a step under its fault, if any, and logs it.
func (m *Memory) do(op Op, sync bool, s step) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return m.failed
	}
	f, faulty := m.faults[op]
	delete(m.faults, op)
	if faulty && !f.persisted {
		m.failed = f.err
		return f.err
	}
	if s != nil {
		if err := s(&m.contents); err != nil {
			m.failed = fmt.Errorf("ledgertest: %s: %w", op, err)
			return m.failed
		}
		m.log = append(m.log, s)
	}
	if sync {
		m.synced = len(m.log)
	}
	if faulty {
		m.failed = f.err
		return f.err
	}
	return nil
}

// Commit applies one Update atomically.
func (m *Memory) Commit(u *chain.Update) error {
	u = copyUpdate(u)
	return m.do(OpCommit, false, func(c *contents) error { return c.commit(u) })
}

// Flush makes all commits so far durable.
func (m *Memory) Flush() error { return m.do(OpFlush, true, nil) }

// Stage appends an Update to staging.
func (m *Memory) Stage(u *chain.Update) error {
	u = copyUpdate(u)
	return m.do(OpStage, false, func(c *contents) error { return c.stage(u) })
}

// FlushStaging makes all that was staged durable.
func (m *Memory) FlushStaging() error { return m.do(OpFlushStaging, true, nil) }

// Promote makes the staged entries the chain's.
func (m *Memory) Promote(state []byte, applied, appliedTerm, raftEpoch uint64) error {
	state = bytes.Clone(state)
	return m.do(OpPromote, true, func(c *contents) error { return c.promote(state, applied, appliedTerm, raftEpoch) })
}

// DropStaging discards what is staged.
func (m *Memory) DropStaging() error {
	return m.do(OpDropStaging, false, func(c *contents) error {
		c.staged = nil
		return nil
	})
}

// Meta returns what the last committed Update said.
func (m *Memory) Meta() chain.Meta {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.meta
}

// State returns the folded state, nil if none.
func (m *Memory) State() (state []byte, err error) {
	err = m.read(OpState, func() error {
		state = bytes.Clone(m.state)
		return nil
	})
	return state, err
}

// Find returns where a key stands.
func (m *Memory) Find(key chain.Key) (slot chain.Slot, ok bool, err error) {
	err = m.read(OpFind, func() error {
		slot, ok = m.slots[key]
		return nil
	})
	return slot, ok, err
}

// FindAll sets slots[i] to where keys[i] stands.
func (m *Memory) FindAll(keys []chain.Key, slots []chain.Slot) error {
	return m.read(OpFind, func() error {
		for i, key := range keys {
			slots[i] = m.slots[key]
		}
		return nil
	})
}

// Record returns an entry.
func (m *Memory) Record(seq uint64) (rec chain.Record, err error) {
	err = m.read(OpRecord, func() error {
		if seq >= m.meta.Head.Size {
			return fmt.Errorf("%w: sequence %d", chain.ErrNotFound, seq)
		}
		rec = copyRecord(m.records[seq])
		return nil
	})
	return rec, err
}

func (m *Memory) read(op Op, f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed != nil {
		return m.failed
	}
	if fault, ok := m.faults[op]; ok {
		delete(m.faults, op)
		m.failed = fault.err
		return fault.err
	}
	return f()
}

// Staged returns the head of the last staged entry, or the chain's.
func (m *Memory) Staged() chain.Head {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.staged == nil {
		return m.meta.Head
	}
	return m.staged.meta.Head
}

// StagedHeader returns the header of an entry below Staged().Size.
func (m *Memory) StagedHeader(seq uint64) (header []byte, err error) {
	err = m.read(OpRecord, func() error {
		size := m.meta.Head.Size
		switch {
		case seq < size:
			header = bytes.Clone(m.records[seq].Header)
		case m.staged != nil && seq < m.staged.meta.Head.Size:
			header = bytes.Clone(m.staged.records[seq-size].Header)
		default:
			return fmt.Errorf("%w: sequence %d", chain.ErrNotFound, seq)
		}
		return nil
	})
	return header, err
}

// StagedRoot returns the root over all headers up to Staged.
func (m *Memory) StagedRoot() (chain.Hash, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.staged == nil {
		return m.meta.Root, m.failed
	}
	return m.staged.tree.Root(), m.failed
}

// StagedState returns the State of the last staged Update that had one.
func (m *Memory) StagedState() ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.staged == nil {
		return nil, m.failed
	}
	return bytes.Clone(m.staged.state), m.failed
}

func (c *contents) commit(u *chain.Update) error {
	if err := checkUpdate(c.meta.Head, u); err != nil {
		return err
	}
	if len(u.Entries) > 0 {
		c.staged = nil
	}
	for i := range u.Entries {
		e := &u.Entries[i]
		c.records = append(c.records, copyRecord(e.Record))
		c.slots[e.Key] = chain.Slot{State: chain.SlotSealed, Sequence: e.Sequence}
		c.tree.Append(e.Header, nil)
		c.meta.Head = chain.Head{Size: e.Sequence + 1, Hash: e.Hash, Time: e.Time}
	}
	for _, s := range u.Slots {
		c.slots[s.Key] = s.Slot
	}
	for _, r := range u.Redact {
		if err := redact(&c.records[r.Sequence], r); err != nil {
			return err
		}
	}
	if u.State != nil {
		c.state = u.State
	}
	c.meta.Root = c.tree.Root()
	if u.RaftEpoch == c.meta.RaftEpoch && u.Applied < c.meta.Applied {
		return fmt.Errorf("applied index goes back from %d to %d", c.meta.Applied, u.Applied)
	}
	c.meta.Applied, c.meta.AppliedTerm, c.meta.RaftEpoch = u.Applied, u.AppliedTerm, u.RaftEpoch
	return nil
}

func (c *contents) stage(u *chain.Update) error {
	if c.staged == nil {
		c.staged = &staged{meta: c.meta, slots: map[chain.Key]chain.Slot{}, tree: c.tree.Clone()}
	}
	s := c.staged
	if err := checkUpdate(s.meta.Head, u); err != nil {
		return err
	}
	for i := range u.Entries {
		e := &u.Entries[i]
		s.records = append(s.records, copyRecord(e.Record))
		s.slots[e.Key] = chain.Slot{State: chain.SlotSealed, Sequence: e.Sequence}
		s.tree.Append(e.Header, nil)
		s.meta.Head = chain.Head{Size: e.Sequence + 1, Hash: e.Hash, Time: e.Time}
	}
	for _, change := range u.Slots {
		s.slots[change.Key] = change.Slot
	}
	for _, r := range u.Redact {
		if r.Sequence < c.meta.Head.Size {
			s.redact = append(s.redact, r)
			rec := c.records[r.Sequence] // a copy: nothing goes before Promote
			if err := redact(&rec, r); err != nil {
				return err
			}
			continue
		}
		if err := redact(&s.records[r.Sequence-c.meta.Head.Size], r); err != nil {
			return err
		}
	}
	if u.State != nil {
		s.state = u.State
	}
	return nil
}

func (c *contents) promote(state []byte, applied, appliedTerm, raftEpoch uint64) error {
	if s := c.staged; s != nil {
		c.records = append(c.records, s.records...)
		maps.Copy(c.slots, s.slots)
		for _, r := range s.redact {
			if err := redact(&c.records[r.Sequence], r); err != nil {
				return err
			}
		}
		c.tree, c.meta.Head, c.meta.Root = s.tree, s.meta.Head, s.tree.Root()
		c.staged = nil
	}
	if state != nil {
		c.state = state
	}
	c.meta.Applied, c.meta.AppliedTerm, c.meta.RaftEpoch = applied, appliedTerm, raftEpoch
	return nil
}

// checkUpdate holds an Update against the head that it continues, and each
// Sealing against its own header.
func checkUpdate(head chain.Head, u *chain.Update) error {
	for i := range u.Entries {
		e := &u.Entries[i]
		h, err := chain.DecodeHeader(e.Header)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Sequence, err)
		}
		env := e.Envelope == nil || chain.EnvelopeHash(e.Envelope) == h.Envelope.Hash
		switch {
		case e.Sequence != head.Size || h.Sequence != e.Sequence:
			return fmt.Errorf("entry %d (its header says %d) where %d is next", e.Sequence, h.Sequence, head.Size)
		case h.Previous != head.Hash:
			return fmt.Errorf("entry %d links to %v, the head is %v", e.Sequence, h.Previous, head.Hash)
		case chain.HeaderHash(e.Header) != e.Hash:
			return fmt.Errorf("entry %d: Hash is not the header's", e.Sequence)
		case h.Time != e.Time || head.Size > 0 && h.Time <= head.Time:
			return fmt.Errorf("entry %d: time %d (its header says %d) after %d", e.Sequence, e.Time, h.Time, head.Time)
		case h.Key() != e.Key || h.Kind != e.Kind || h.Principal != e.Principal:
			return fmt.Errorf("entry %d: Key, Kind or Principal is not the header's", e.Sequence)
		case !env:
			return fmt.Errorf("entry %d: the envelope is not the header's", e.Sequence)
		}
		head = chain.Head{Size: e.Sequence + 1, Hash: e.Hash, Time: e.Time}
	}
	for _, s := range u.Slots {
		if s.Slot.State < chain.SlotSealed || s.Slot.State > chain.SlotClosed {
			return fmt.Errorf("slot of %v has state %d", s.Key, s.Slot.State)
		}
		if s.Slot.Sequence >= head.Size {
			return fmt.Errorf("slot of %v points at %d, the head is %d", s.Key, s.Slot.Sequence, head.Size)
		}
	}
	for _, r := range u.Redact {
		if r.Sequence >= head.Size {
			return fmt.Errorf("redacts %d, the head is %d", r.Sequence, head.Size)
		}
	}
	if u.State != nil && len(u.State) == 0 {
		return errors.New("an empty state is neither nil nor a state")
	}
	return nil
}

// redact takes an envelope away, if the chain's rules let it go: workspace system
// keeps its own.
func redact(rec *chain.Record, r chain.Redaction) error {
	h, err := chain.DecodeHeader(rec.Header)
	if err != nil {
		return fmt.Errorf("redacts %d: %w", r.Sequence, err)
	}
	escalation := h.Workspace == "system" && h.Kind == "governance.escalate"
	switch {
	case r.Beside != escalation || !escalation && h.Workspace == "system":
		return fmt.Errorf("redacts %d (beside: %t), which is %s in %s", r.Sequence, r.Beside, h.Kind, h.Workspace)
	case r.Beside:
		rec.Beside = nil
	default:
		rec.Envelope = nil
	}
	return nil
}

func copyUpdate(u *chain.Update) *chain.Update {
	c := *u
	c.Entries = slices.Clone(u.Entries)
	for i := range c.Entries {
		c.Entries[i].Record = copyRecord(c.Entries[i].Record)
	}
	c.Slots, c.Redact, c.State = slices.Clone(u.Slots), slices.Clone(u.Redact), bytes.Clone(u.State)
	return &c
}

func copyRecord(r chain.Record) chain.Record {
	r.Header, r.Envelope, r.Beside = bytes.Clone(r.Header), bytes.Clone(r.Envelope), bytes.Clone(r.Beside)
	return r
}
