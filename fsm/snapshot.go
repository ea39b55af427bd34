package fsm

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
)

// Errors of Restore.
var (
	// ErrGoingBack: the manifest is older than what is applied. It must not
	// reach raft, which would drop acknowledged log entries: see Admit.
	ErrGoingBack = errors.New("manifest is older than what is applied")
	// ErrDiverged: this node's chain, or what it fetched, is not the one
	// that the manifest names. Somebody's data is damaged or forged, and
	// the node must not go on; after Catchup dropped what it had fetched
	// it may try again with other peers.
	ErrDiverged = errors.New("chain is not the one that the manifest names")
)

// CatchingUp is the error of Restore while entries are missing: it has asked
// catch-up for them, and raft tries again.
type CatchingUp struct {
	// Have and Want count entries.
	Have, Want uint64
}

// Error implements error.
func (e *CatchingUp) Error() string {
	return fmt.Sprintf("fsm: catching up, %d of %d entries", e.Have, e.Want)
}

// Snapshot implements raft.FSM. It captures a manifest of what is applied, and
// touches no entry.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.Halted(); err != nil {
		// Raft's own index has gone on past what was applied. A snapshot
		// now would let it drop the log entries in between.
		return nil, fmt.Errorf("fsm: snapshot of a halted node: %w", err)
	}
	v := f.view.Load()
	encoded, err := v.state.encode()
	if err != nil {
		return nil, err
	}
	return &snapshot{store: f.cfg.Store, manifest: v.manifest(f.cfg.ChainID, encoded)}, nil
}

func (v *View) manifest(id chain.ID, state []byte) Manifest {
	return Manifest{
		ChainID:     id,
		Epoch:       v.state.epoch,
		Head:        v.meta.Head,
		Root:        v.meta.Root,
		Applied:     v.meta.Applied,
		AppliedTerm: v.meta.AppliedTerm,
		RaftEpoch:   v.meta.RaftEpoch,
		State:       state,
	}
}

type snapshot struct {
	store    Store
	manifest Manifest
}

// Persist implements raft.FSMSnapshot. Raft drops log entries once it returns,
// so what they made is flushed first.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.store.Flush(); err != nil {
		return fmt.Errorf("fsm: flush before a snapshot: %w", err)
	}
	data, err := s.manifest.AppendBinary(nil)
	if err != nil {
		return err
	}
	if len(data) > MaxManifestSize {
		return fmt.Errorf("fsm: manifest of %d bytes, at most %d", len(data), MaxManifestSize)
	}
	if _, err := sink.Write(data); err != nil {
		return fmt.Errorf("fsm: write manifest: %w", err)
	}
	// A store of manifests keeps received ones apart from those whose
	// state is known to be here.
	if local, ok := sink.(interface{ Local() }); ok {
		local.Local()
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("fsm: close manifest: %w", err)
	}
	return nil
}

// Release implements raft.FSMSnapshot.
func (s *snapshot) Release() {}

// Restore implements raft.FSM: it makes the state machine what a manifest names,
// if the entries are there, and else answers at once, with *CatchingUp. Raft's
// main goroutine waits for it (raft.go, installSnapshot) under a deadline that
// follows the manifest's tiny size. Where the reader can be confirmed, it is,
// after the state is durable: a manifest that was not restored must not be
// what the next start believes in.
func (f *FSM) Restore(rc io.ReadCloser) error {
	defer rc.Close()
	if err := f.Halted(); err != nil {
		return fmt.Errorf("fsm: restore on a halted node: %w", err)
	}
	m, s, err := readManifest(rc)
	if err != nil {
		return err
	}
	if m.ChainID != f.cfg.ChainID {
		return fmt.Errorf("fsm: restore: manifest of chain %v, this node's is %v", m.ChainID, f.cfg.ChainID)
	}
	var fatal *fatalError
	if err := f.restore(m, s); errors.As(err, &fatal) {
		f.halt(fatal.err)
		return fatal.err
	} else if err != nil {
		return err
	}
	f.cfg.Logger.Info("snapshot restored", "entries", m.Head.Size, "raft_index", m.Applied)
	if err := confirm(rc); err != nil {
		// The state is the manifest's, and raft's is not: it would ask
		// for an install that is applied already, for ever.
		f.halt(err)
		return err
	}
	return nil
}

// fatalError is an error after which the node must not go on.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

func (f *FSM) restore(m *Manifest, s state) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	standing, err := f.standing(m)
	if err != nil {
		return &fatalError{err}
	}
	switch standing {
	case standsAt:
		if err := f.cfg.Store.Flush(); err != nil {
			return &fatalError{fmt.Errorf("fsm: flush: %w", err)}
		}
		return nil
	case standsBeyond, standsApart:
		return f.refusal(m, standing)
	case standsBefore:
		f.aim(m)
		return &CatchingUp{Have: f.cfg.Staging.Staged().Size, Want: m.Head.Size}
	}
	if err := f.promote(m, s); err != nil {
		return &fatalError{err}
	}
	return nil
}

// refusal is the error about a manifest that can't be restored.
func (f *FSM) refusal(m *Manifest, standing standing) error {
	meta := f.view.Load().meta
	err := ErrGoingBack
	if standing == standsApart {
		err = ErrDiverged
	}
	return fmt.Errorf("fsm: manifest of %d entries at raft index %d of epoch %d, applied are %d at %d of %d: %w",
		m.Head.Size, m.Applied, m.RaftEpoch, meta.Head.Size, meta.Applied, meta.RaftEpoch, err)
}

// promote makes what is staged the chain. The commit point is the batch of
// Promote: a crash before it leaves chain and staging as they are, and raft's
// snapshot unconfirmed. f.mu is held.
func (f *FSM) promote(m *Manifest, s state) error {
	staging := f.cfg.Staging
	if err := staging.FlushStaging(); err != nil {
		return fmt.Errorf("fsm: flush staging: %w", err)
	}
	if err := staging.Promote(m.State, m.Applied, m.AppliedTerm, m.RaftEpoch); err != nil {
		return fmt.Errorf("fsm: promote: %w", err)
	}
	meta := f.cfg.Store.Meta()
	if meta.Head != m.Head || meta.Root != m.Root {
		return fmt.Errorf("fsm: promoted %d entries with hash %v and root %v, the manifest names %d, %v, %v: %w",
			meta.Head.Size, meta.Head.Hash, meta.Root, m.Head.Size, m.Head.Hash, m.Root, ErrDiverged)
	}
	f.publish(&View{meta: meta, state: s})
	return nil
}

// confirm tells the store of manifests that what rc names is durable here. Raft
// wraps the reader to count bytes.
func confirm(rc io.ReadCloser) error {
	for {
		if c, ok := rc.(interface{ Confirm() error }); ok {
			if err := c.Confirm(); err != nil {
				return fmt.Errorf("fsm: confirm manifest: %w", err)
			}
			return nil
		}
		wrapper, ok := rc.(raft.ReadCloserWrapper)
		if !ok {
			return nil
		}
		rc = wrapper.WrappedReadCloser()
	}
}
