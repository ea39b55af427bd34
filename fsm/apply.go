package fsm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/internal/planted"
)

// Errors of Result.Err, and of GenesisResult.Err.
var (
	// ErrNotBegun: the chain has no genesis yet. Wait for it.
	ErrNotBegun = errors.New("the chain has not begun")
	// ErrSealedHere: only the state machine itself writes such entries.
	// Choose another kind, or another source.
	ErrSealedHere = errors.New("only the state machine seals such entries")
	// ErrRevision: the verdict was evaluated at another governance revision
	// than the command says. The leader is at fault.
	ErrRevision = errors.New("verdict of another governance revision")
	// ErrCause: a cause is not an entry yet. Name entries that exist.
	ErrCause = errors.New("cause is not below the entry's own sequence")
)

// applier applies the log entries of one ApplyBatch, which end in one Update.
// It works on copies: nothing is visible before commit.
type applier struct {
	f       *FSM
	meta    Meta
	state   state
	changed bool // the state, since the last commit
	head    chain.Head
	update  Update
	// overlay holds the slots that the update changes; the store does not
	// know them yet.
	overlay map[chain.Key]Slot
}

// newApplier begins where the state machine is. f.mu is held, and the caller clears
// f.overlay in the end.
func (f *FSM) newApplier() applier {
	view := f.view.Load()
	return applier{f: f, meta: view.meta, state: view.state, head: view.meta.Head, overlay: f.overlay}
}

// ApplyBatch implements raft.BatchingFSM. Each response is a *BatchResult,
// *GenesisResult, *ConfigurationResult, *Skipped or *Halted. What all of them
// say is committed to the store as one Update, or, where the node halts, not at
// all.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any {
	responses := make([]any, len(logs))
	err := f.Halted()
	if err == nil {
		err = f.applyBatch(logs, responses)
	}
	if err != nil {
		// Without the entries before the one that failed either: the
		// next start applies them, or fails again at the same place.
		f.halt(err)
		for i := range responses {
			responses[i] = &Halted{Err: err}
		}
	}
	return responses
}

func (f *FSM) applyBatch(logs []*raft.Log, responses []any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	view := f.view.Load()
	a := f.newApplier()
	defer clear(f.overlay)
	for i, l := range logs {
		// A restart replays the log above the snapshot's index, and the
		// store is ahead of the snapshot. Indexes of no-ops and barriers
		// never come, so gaps mean nothing.
		if l.Index <= a.meta.Applied {
			responses[i] = &Skipped{Applied: view.meta.Applied}
			continue
		}
		response, err := a.apply(l)
		if err != nil {
			return fmt.Errorf("fsm: apply log entry %d of term %d: %w", l.Index, l.Term, err)
		}
		responses[i] = response
		a.meta.Applied, a.meta.AppliedTerm = l.Index, l.Term
	}
	if a.meta.Applied == view.meta.Applied {
		return nil
	}
	return a.commit()
}

func (a *applier) apply(l *raft.Log) (any, error) {
	switch l.Type {
	case raft.LogCommand:
		var c Command
		if err := c.UnmarshalBinary(l.Data); err != nil {
			return nil, err
		}
		if c.Genesis != nil {
			return a.genesis(c.Genesis)
		}
		return a.batch(c.Batch)
	case raft.LogConfiguration:
		c, err := DecodeConfiguration(l.Index, l.Data)
		if err != nil {
			return nil, err
		}
		return a.configuration(c)
	}
	return nil, fmt.Errorf("raft log entry of type %v", l.Type)
}

// commit hands the update to the store and publishes what it says. The commit
// point is the store's; raft's log makes it durable.
func (a *applier) commit() error {
	f := a.f
	a.update.Applied, a.update.AppliedTerm, a.update.RaftEpoch = a.meta.Applied, a.meta.AppliedTerm, a.meta.RaftEpoch
	if a.changed {
		var err error
		if a.update.State, err = a.state.encode(); err != nil {
			return err
		}
	}
	if err := f.cfg.Store.Commit(&a.update); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	meta := f.cfg.Store.Meta()
	if meta.Head != a.head {
		return fmt.Errorf("the store's head is entry count %d, hash %v; sealed were %d, %v",
			meta.Head.Size, meta.Head.Hash, a.head.Size, a.head.Hash)
	}
	f.publish(&View{meta: meta, state: a.state})
	return nil
}

func (a *applier) batch(b *Batch) (*BatchResult, error) {
	if len(a.update.Entries) == 0 {
		a.update.Entries = make([]Sealing, 0, len(b.Events))
	}
	r := &BatchResult{Results: make([]Result, len(b.Events))}
	stored, err := a.findAll(b.Events)
	if err != nil {
		return nil, err
	}
	for i := range b.Events {
		if err := a.event(b, &b.Events[i], stored[i], &r.Results[i]); err != nil {
			return nil, err
		}
	}
	r.Head, r.Revision = a.head, a.state.gates.Revision()
	return r, nil
}

// event decides about one proposal, whose key stands in the store as stored
// says. An error halts the node; what is wrong with the proposal is in the
// result.
func (a *applier) event(b *Batch, p *Proposal, stored Slot, r *Result) error {
	if a.head.Size == 0 {
		*r = Result{Status: Refused, Err: ErrNotBegun}
		return nil
	}
	slot := stored
	if changed, ok := a.overlay[p.Key()]; ok {
		slot = changed
	}
	if planted.Double && slot.State == Sealed {
		slot.State = 0 // bug: the id is taken for a new one
	}
	if slot.State != 0 {
		// Approvals join here: the event that its own granted request
		// (verdict.Request == slot.Sequence) lets in is no duplicate.
		return a.answerKnown(p, slot, r)
	}
	if b.Revision != a.state.gates.Revision() {
		*r = Result{Status: Stale}
		return nil
	}
	if err := a.check(b, p); err != nil {
		*r = Result{Status: Refused, Err: err}
		return nil
	}
	decision := chain.Permit
	if p.Verdict != nil {
		decision = p.Verdict.Decision
	}
	var err error
	switch decision {
	case chain.Deny:
		err = a.deny(b, p)
		r.Status = DeniedNow
	case chain.Escalate:
		err = a.escalate(b, p)
		r.Status = Escalated
	default:
		err = a.own(b, p)
		r.Status = Appended
	}
	var fatal *fatalError
	if errors.As(err, &fatal) {
		return fatal.err
	}
	if err != nil {
		// Nothing was appended: sealing fails before it changes a.
		*r = Result{Status: Refused, Err: err}
		return nil
	}
	r.Sequence, r.Hash, r.Time, r.Verdict = a.head.Size-1, a.head.Hash, a.head.Time, p.Verdict
	return nil
}

// check refuses what a leader never proposes.
func (a *applier) check(b *Batch, p *Proposal) error {
	if p.Workspace == catalog.SystemWorkspace {
		switch p.Kind {
		case catalog.KindChainGenesis, catalog.KindChainRecover, catalog.KindClusterConfig, catalog.KindGovernanceGenesis,
			catalog.KindGovernanceDeny, catalog.KindGovernanceEscalate:
			return fmt.Errorf("%w: kind %s", ErrSealedHere, p.Kind)
		}
		switch p.Source {
		case sourceGenesis, sourceCluster, sourceGovernance:
			return fmt.Errorf("%w: source %s", ErrSealedHere, p.Source)
		}
	}
	if p.Verdict != nil && p.Verdict.Revision != b.Revision {
		return fmt.Errorf("%w: %d, the command's is %d", ErrRevision, p.Verdict.Revision, b.Revision)
	}
	if n := len(p.Causes); n > 0 && p.Causes[n-1] >= a.head.Size {
		return fmt.Errorf("%w: %d", ErrCause, p.Causes[n-1])
	}
	return nil
}

// findAll returns where the keys of events stand in the store, all asked at
// once: what this update changes of them is in the overlay. The slice is valid
// until the next call.
func (a *applier) findAll(events []Proposal) ([]Slot, error) {
	f := a.f
	f.keys, f.slots = slices.Grow(f.keys[:0], len(events)), slices.Grow(f.slots[:0], len(events))[:len(events)]
	for i := range events {
		f.keys = append(f.keys, events[i].Key())
	}
	defer clear(f.keys) // they hold on to the command's memory
	if err := f.cfg.Store.FindAll(f.keys, f.slots); err != nil {
		return nil, fmt.Errorf("find keys: %w", err)
	}
	return f.slots, nil
}

// record returns an entry of this update or of the store, as it is once what
// this update redacts is gone: no answer may depend on how raft splits batches.
func (a *applier) record(seq uint64) (r chain.Record, err error) {
	if first := a.head.Size - uint64(len(a.update.Entries)); seq >= first && seq < a.head.Size {
		r = a.update.Entries[seq-first].Record
	} else if r, err = a.f.cfg.Store.Record(seq); err != nil {
		return chain.Record{}, fmt.Errorf("read entry %d: %w", seq, err)
	}
	for _, gone := range a.update.Redact {
		switch gone {
		case Redaction{Sequence: seq}:
			r.Envelope = nil
		case Redaction{Sequence: seq, Beside: true}:
			r.Beside = nil
		}
	}
	return r, nil
}
