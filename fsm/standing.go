package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/exonode/exonode/chain"
)

// A standing is where this node is, compared with a manifest.
type standing uint8

const (
	standsBefore standing = iota // entries are missing
	standsReady                  // what is missing is staged, and right
	standsAt                     // exactly there
	standsBeyond                 // further
	standsApart                  // on another chain
)

// standing compares what is applied and staged with a manifest. An error is the
// store's. f.mu is held.
func (f *FSM) standing(m *Manifest) (standing, error) {
	view := f.view.Load()
	meta := &view.meta
	if older(m.RaftEpoch, m.Applied, meta.RaftEpoch, meta.Applied) {
		return standsBeyond, nil
	}
	if m.Head.Size < meta.Head.Size {
		return standsApart, nil
	}
	if m.Head.Size == meta.Head.Size {
		return f.standingAtHead(view, m)
	}
	if m.Applied == meta.Applied && m.RaftEpoch == meta.RaftEpoch {
		return standsApart, nil
	}
	if staged := f.cfg.Staging.Staged(); staged != m.Head {
		return standsBefore, nil
	}
	root, err := f.cfg.Staging.StagedRoot()
	if err != nil {
		return 0, fmt.Errorf("fsm: root of staging: %w", err)
	}
	progress, err := f.staged()
	if err != nil {
		return 0, err
	}
	encoded, err := progress.state.encode()
	if err != nil {
		return 0, err
	}
	if root != m.Root || !bytes.Equal(encoded, m.State) || len(progress.missing) > 0 {
		return standsBefore, nil
	}
	return standsReady, nil
}

// standingAtHead is standing where the manifest has as many entries as the
// store: at most the applied index differs, since log entries may add nothing
// to the chain.
func (f *FSM) standingAtHead(view *View, m *Manifest) (standing, error) {
	meta := &view.meta
	if m.Head != meta.Head || m.Root != meta.Root {
		return standsApart, nil
	}
	encoded, err := view.state.encode()
	if err != nil {
		return 0, err
	}
	same := bytes.Equal(encoded, m.State)
	if m.Applied == meta.Applied && m.RaftEpoch == meta.RaftEpoch {
		if !same {
			return standsApart, nil
		}
		return standsAt, nil
	}
	// Before genesis the state holds configurations that no entry tells of.
	if !same && meta.Head.Size > 0 {
		return standsApart, nil
	}
	if f.cfg.Staging.Staged() != meta.Head {
		// Staged for another manifest; promoting would take it along.
		if err := f.cfg.Staging.DropStaging(); err != nil {
			return 0, fmt.Errorf("fsm: drop staging: %w", err)
		}
	}
	return standsReady, nil
}

// Install is an InstallSnapshot request, before raft sees it.
type Install struct {
	// LastLogIndex and LastLogTerm are the request's.
	LastLogIndex, LastLogTerm uint64
	// Manifest is the snapshot's data.
	Manifest []byte
	// Holds reports whether raft's log here has an entry of that index and
	// term. It may be nil.
	Holds func(index, term uint64) bool
}

// Decision says what to do with an InstallSnapshot request.
type Decision uint8

// The decisions.
const (
	// NotReady: raft must not see it; answer with the error that Admit
	// returned. The leader tries again.
	NotReady Decision = 1
	// AlreadyApplied: all that it would install is here already; answer
	// success, with raft's current term, without raft.
	AlreadyApplied Decision = 2
	// ReadyToInstall: Restore will succeed at once.
	ReadyToInstall Decision = 3
)

// Admit decides what becomes of an InstallSnapshot request. The transport asks
// it for every one, since raft itself (raft.go, installSnapshot, of v1.7.3):
//
//   - does not look whether the snapshot is older than what it has. After a
//     late or repeated one it sets its last applied index back (line 1927) and
//     drops its log, all of it where the log store is monotonic (line 1939), so
//     that entries which this node acknowledged are gone;
//   - makes the manifest durable before it restores it (line 1904), and leaves
//     it behind where Restore fails;
//   - waits in its main goroutine for Restore (line 1921), so that a node that
//     is fetching entries would miss heartbeats and elections.
//
// A request for what the node does not have yet starts catch-up.
func (f *FSM) Admit(in Install) (Decision, error) {
	m, _, err := decodeManifest(in.Manifest)
	if err != nil {
		return NotReady, fmt.Errorf("fsm: install snapshot: %w", err)
	}
	if m.ChainID != f.cfg.ChainID {
		return NotReady, fmt.Errorf("fsm: install snapshot: manifest of chain %v, this node's is %v", m.ChainID, f.cfg.ChainID)
	}
	if err := f.Halted(); err != nil {
		return NotReady, fmt.Errorf("fsm: install snapshot on a halted node: %w", err)
	}
	decision, err := f.admit(&in, m)
	var fatal *fatalError
	if errors.As(err, &fatal) {
		f.halt(fatal.err)
	}
	return decision, err
}

func (f *FSM) admit(in *Install, m *Manifest) (Decision, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	meta := f.view.Load().meta
	if m.RaftEpoch == meta.RaftEpoch {
		// Applied here, or at least in the log here; the leader takes our
		// success for a match up to this index, which it then is.
		if in.LastLogIndex <= meta.Applied || in.Holds != nil && in.Holds(in.LastLogIndex, in.LastLogTerm) {
			return AlreadyApplied, nil
		}
	}
	standing, err := f.standing(m)
	if err != nil {
		return NotReady, &fatalError{err}
	}
	switch standing {
	case standsReady, standsAt:
		// standsAt: only no-ops and barriers are missing, which the
		// leader's log no longer has.
		return ReadyToInstall, nil
	case standsBefore:
		f.aim(m)
		return NotReady, &CatchingUp{Have: f.cfg.Staging.Staged().Size, Want: m.Head.Size}
	}
	return NotReady, f.refusal(m, standing)
}

// AdmitWithin is Admit, but waits until ctx ends for entries that are missing.
// A leader that is told to try again waits longer with every attempt, and under
// load comes with a newer manifest each time: to be ready before it goes is what
// brings a node back.
func (f *FSM) AdmitWithin(ctx context.Context, in Install) (Decision, error) {
	decision, err := f.Admit(in)
	var catching *CatchingUp
	if !errors.As(err, &catching) {
		return decision, err
	}
	f.mu.Lock()
	t := f.target
	f.mu.Unlock()
	if t != nil {
		select {
		case <-t.done:
		case <-ctx.Done():
			return decision, err
		}
	}
	return f.Admit(in)
}

// target is what catch-up works towards.
type target struct {
	head chain.Head
	// manifest is nil for a prefetch, which knows the head alone.
	manifest *Manifest
	// done is closed when it is a target no more; err says why, and is nil
	// where all is there.
	done chan struct{}
	err  error
}

// errReplaced says that another target took the place of a prefetch.
var errReplaced = errors.New("fsm: another target replaced the prefetch")

// aim makes a manifest what catch-up works towards. f.mu is held.
func (f *FSM) aim(m *Manifest) {
	c := *m
	c.State = bytes.Clone(m.State)
	f.setTarget(&target{head: m.Head, manifest: &c, done: make(chan struct{})})
}

// setTarget replaces the target; f.mu is held.
func (f *FSM) setTarget(t *target) {
	f.endTarget(errReplaced)
	f.target = t
	select {
	case f.wake <- struct{}{}:
	default: // it is going to look anyway
	}
}

// endTarget takes the target away; f.mu is held.
func (f *FSM) endTarget(err error) {
	if t := f.target; t != nil {
		t.err = err
		close(t.done)
	}
	f.target = nil
}

// headOf is what a record's successor links to.
func headOf(s *Sealing) chain.Head {
	return chain.Head{Size: s.Sequence + 1, Hash: s.Hash, Time: s.Time}
}
