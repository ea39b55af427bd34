package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/evidence"
	"github.com/exonode/exonode/chain/tlogtiles"
)

// Errors of Round. After all but those of a *MisbehaviourError and ErrState the log may
// be right at the next attempt. A checkpoint without the signatures that the policy asks
// for is checkpoint.ErrQuorum, one with a false signature checkpoint.ErrSignature.
var (
	// ErrUnreachable: the log's files can't be had.
	ErrUnreachable = errors.New("the log can't be read")
	// ErrCheckpoint: what the log has as its checkpoint is none.
	ErrCheckpoint = errors.New("the log's checkpoint can't be understood")
	// ErrUnsigned: no log that the policy knows signed the checkpoint.
	ErrUnsigned = errors.New("the checkpoint is not signed by a log that the policy knows")
	// ErrOtherLog: the checkpoint is of another log than the one that was followed.
	ErrOtherLog = errors.New("another log than the one that was followed")
	// ErrStale: the checkpoint is older than what was verified, and consistent with it.
	ErrStale = errors.New("the checkpoint is older than the one that was verified")
	// ErrTiles: tiles or entries are not those of the signed tree, or are missing.
	// Nobody signed them, so it proves nothing; the checkpoint is kept.
	ErrTiles = errors.New("the log's tiles do not make the tree that it signed")
	// ErrState: the state directory is damaged, or can't be written.
	ErrState = errors.New("the monitor's state")
)

// MisbehaviourError says that the log signed what can't be true.
type MisbehaviourError struct {
	Finding *evidence.Finding
	// File is the evidence file's name in the state directory, where it is synced.
	// It is "" where what was signed breaks the rules of a chain, and the log's
	// origin does not say that it has to keep them.
	File string
}

func (e *MisbehaviourError) Error() string {
	return fmt.Sprintf("monitor: the log signed what can't be true (%s): %s", e.Finding.Kind, e.Finding.What)
}

// Config says what is followed. All fields but Progress and FS are required.
type Config struct {
	Source Source
	// Policy says whose signatures are enough. A log that it knows in one epoch is
	// known in its others.
	Policy *checkpoint.Policy
	// Dir is the state directory, which is made. It is for one monitor of one log.
	Dir string
	// Progress is told, now and then, how many of the entries to read were read.
	Progress func(done, total uint64)
	// FS replaces Dir in tests.
	FS FS
}

// Monitor follows one log. It is for one goroutine.
type Monitor struct {
	source   Source
	policy   *checkpoint.Policy
	store    store
	progress func(done, total uint64)
	state    *state // nil before the first checkpoint
	// unsettled says that there may be kept checkpoints whose tree was never had.
	unsettled bool
}

// Open reads the state directory, or begins one. The error wraps ErrState.
func Open(cfg Config) (*Monitor, error) {
	m := &Monitor{source: cfg.Source, policy: cfg.Policy, store: store{cfg.FS}, progress: cfg.Progress, unsettled: true}
	if m.progress == nil {
		m.progress = func(uint64, uint64) {}
	}
	if m.store.fs == nil {
		if err := makeDir(cfg.Dir); err != nil {
			return nil, fmt.Errorf("monitor: %w: %w", ErrState, err)
		}
		m.store.fs = osFS(cfg.Dir)
	}
	var err error
	m.state, err = m.store.load()
	return m, err
}

// Verified returns the checkpoint that was verified last; nil before there is one.
func (m *Monitor) Verified() *checkpoint.Note {
	if m.state == nil {
		return nil
	}
	return m.state.note
}

// Result is what a round verified.
type Result struct {
	Note *checkpoint.Note
	// By is who signed it.
	By checkpoint.Judgement
	// From is the size that was verified before; equal to the note's where nothing is
	// new.
	From uint64
	// Headers says that the entries were checked as headers of a chain.
	Headers bool
	// Epochs are those that began, by a recovery, in what was read.
	Epochs []uint64
	// Dropped is how many entries that had been verified a declared recovery left
	// behind.
	Dropped uint64
}

// Round fetches the log's checkpoint, and verifies it and all that is new below it. What
// it says is verified is on disk.
func (m *Monitor) Round(ctx context.Context) (*Result, error) {
	b, err := m.source.Fetch(ctx, tlogtiles.CheckpointPath, checkpoint.MaxNote)
	if err != nil {
		return nil, fmt.Errorf("monitor: %w: %w", ErrUnreachable, err)
	}
	note, err := checkpoint.ParseNote(b)
	if err != nil {
		return nil, fmt.Errorf("monitor: %w: %w", ErrCheckpoint, err)
	}
	by, err := evidence.ForOrigin(m.policy, note.Checkpoint.Origin).Verify(note)
	lacks := error(nil)
	switch {
	case errors.Is(err, checkpoint.ErrQuorum) && len(by.Log.Key.Public) == 0:
		return nil, fmt.Errorf("monitor: %w: %w", ErrUnsigned, err)
	case errors.Is(err, checkpoint.ErrQuorum):
		// The log is bound by what it signed, whoever cosigned it.
		lacks = fmt.Errorf("monitor: %w", err)
	case err != nil:
		return nil, fmt.Errorf("monitor: %w", err)
	}
	r := &round{Monitor: m, ctx: ctx, note: note, tree: newTree(ctx, m.source, note.Checkpoint.Size), lacks: lacks,
		result: &Result{Note: note, By: by}}
	if err := r.judge(); err != nil {
		if errors.Is(err, ErrTiles) {
			err = errors.Join(err, m.keep(note))
		}
		return nil, err
	}
	if err := r.settle(); err != nil {
		return nil, err
	}
	return r.result, nil
}

// Run makes rounds until ctx is done, or one finds what no later round can mend: a
// *MisbehaviourError, or ErrState. It reports each round's outcome.
func (m *Monitor) Run(ctx context.Context, interval time.Duration, report func(*Result, error)) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		result, err := m.Round(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var misbehaviour *MisbehaviourError
		if errors.As(err, &misbehaviour) || errors.Is(err, ErrState) {
			return err
		}
		report(result, err)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keptPrefix begins the names of kept checkpoints.
const keptPrefix = "unmatched-"

// keep keeps a checkpoint whose tree could not be had: once it is there, the log has to
// stand by it.
func (m *Monitor) keep(n *checkpoint.Note) error {
	m.unsettled = true
	return m.keepFile(keptPrefix+nameOf(n)+".txt", n.Bytes())
}

// keepFile writes a file unless it is there. It is synced when keepFile returns.
func (m *Monitor) keepFile(name string, b []byte) error {
	_, err := m.store.fs.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = m.store.replace(name, b)
	case err == nil:
		err = m.store.fs.SyncDir()
	}
	if err != nil {
		return fmt.Errorf("monitor: %w: keep %s: %w", ErrState, name, err)
	}
	return nil
}

// nameOf tells checkpoints from each other in names of files: it leaves out who signed,
// and when.
func nameOf(notes ...*checkpoint.Note) string {
	text := ""
	for _, n := range notes {
		text += n.Checkpoint.Text() + "\n"
	}
	return chain.LeafHash([]byte(text)).String()[:16]
}

// misbehaved writes an evidence file, and returns the error that says so.
func (m *Monitor) misbehaved(e *evidence.Evidence) error {
	finding, err := e.Verify(m.policy)
	if err != nil {
		return fmt.Errorf("monitor: what was found does not prove itself: %w", err)
	}
	name := "evidence-" + string(finding.Kind) + "-"
	if e.First != nil {
		name += nameOf(e.First, e.Second) + ".txt"
	} else {
		name += nameOf(e.Second) + ".txt"
	}
	if err := m.keepFile(name, e.Bytes()); err != nil {
		return err
	}
	return &MisbehaviourError{Finding: finding, File: name}
}
