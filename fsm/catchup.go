package fsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
)

// Fetcher gets entries from other nodes; package node implements it.
type Fetcher interface {
	// Fetch yields the entries of [from, to) in order, from any one peer
	// that has them. A record is valid until the next one is asked for. An
	// error ends the sequence, as does ctx. The next call should go to
	// another peer where this one failed, or where the caller stopped
	// before entry to-1: what it got was bad.
	Fetch(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error]
}

// The bounds of catch-up: what is asked of one peer at once, and what is staged
// at once and so held in memory.
const (
	fetchEntries = 8192
	stageEntries = 512
	stageBytes   = 2 << 20
)

// The pauses after a failure, doubled from the one to the other.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Catchup fetches what a manifest names, verifies and folds each entry as it
// arrives, and stages it. It goes on after a restart, or with another peer,
// where it stopped. Restore, Admit and Prefetch give it its targets.
type Catchup struct {
	fsm     *FSM
	fetcher Fetcher
	logger  *slog.Logger
	fetched atomic.Uint64
	failure atomic.Pointer[error]
	// at is where staging was left, with what is folded up to there; only
	// Run's goroutine uses it.
	at   chain.Head
	fold progress
	// unexplained counts vain attempts of explain.
	unexplained int
	// stray is the staged head that the last fetched entry without a link did not
	// link to.
	stray chain.Head
}

// NewCatchup returns the runner for a state machine; there is one for each.
func NewCatchup(f *FSM, fetcher Fetcher) (*Catchup, error) {
	if f == nil || fetcher == nil {
		return nil, errors.New("fsm: catch-up needs a state machine and a fetcher")
	}
	return &Catchup{fsm: f, fetcher: fetcher, logger: f.cfg.Logger}, nil
}

// Fetched returns how many entries were fetched, found good and staged so far.
func (c *Catchup) Fetched() uint64 { return c.fetched.Load() }

// Progress returns how many of the chain's entries are here or staged, and how
// many there will be; ok is false where there is nothing to catch up.
func (c *Catchup) Progress() (have, want uint64, ok bool) {
	f := c.fsm
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == nil {
		return 0, 0, false
	}
	return f.cfg.Staging.Staged().Size, f.target.head.Size, true
}

// Err returns why the last attempt failed; nil once another got further.
func (c *Catchup) Err() error {
	if err := c.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// Prefetch stages the chain up to a head that a member told, for a node that is
// about to be added to raft's configuration. It returns once that is done, or
// another target came in between. Run does the work.
func (c *Catchup) Prefetch(ctx context.Context, head chain.Head) error {
	t := &target{head: head, done: make(chan struct{})}
	c.fsm.mu.Lock()
	c.fsm.setTarget(t)
	c.fsm.mu.Unlock()
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
	}
	c.fsm.mu.Lock()
	defer c.fsm.mu.Unlock()
	if c.fsm.target == t {
		c.fsm.endTarget(ctx.Err())
	}
	return ctx.Err()
}

// Run works towards each target until ctx ends. A failing store halts the state
// machine, and ends Run with its error.
func (c *Catchup) Run(ctx context.Context) error {
	pause := firstPause
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.fsm.wake:
		case <-again:
		}
		err := c.attempt(ctx)
		var fatal *fatalError
		switch {
		case errors.As(err, &fatal):
			c.fsm.halt(fatal.err)
			return fatal.err
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			pause, again = firstPause, nil
			continue
		case errors.Is(err, ErrDiverged):
			c.logger.Error("fetched entries are not the chain that the manifest names", "error", err)
		default:
			c.logger.Warn("catch-up stopped, trying again", "error", err, "pause", pause)
		}
		c.failure.Store(&err)
		again = time.After(pause)
		pause = min(2*pause, lastPause)
	}
}

// attempt fetches until the newest target is staged.
func (c *Catchup) attempt(ctx context.Context) error {
	for {
		to, err := c.position()
		if errors.Is(err, errUnexplained) {
			if err := c.explain(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil || to == 0 {
			return err
		}
		err = c.fetch(ctx, min(c.at.Size+fetchEntries, to))
		// What was staged stays, also over a crash, whatever ended the range.
		if err := c.locked(c.fsm.cfg.Staging.FlushStaging); err != nil {
			return &fatalError{fmt.Errorf("fsm: flush staging: %w", err)}
		}
		if err != nil && !errors.Is(err, errMoved) {
			return err
		}
	}
}

func (c *Catchup) locked(do func() error) error {
	c.fsm.mu.Lock()
	defer c.fsm.mu.Unlock()
	return do()
}

// position returns the size of the chain to fetch, and sets where to go on from;
// 0 where there is nothing to do. Staging that does not lead to the target is
// dropped.
func (c *Catchup) position() (uint64, error) {
	f := c.fsm
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.target
	if t == nil {
		return 0, nil
	}
	if there, err := c.there(t); err != nil || there {
		return 0, err
	}
	staged := f.cfg.Staging.Staged()
	if staged.Size < t.head.Size {
		return t.head.Size, c.resume(staged)
	}
	// Staged for a longer manifest than the leader of now has, or wrong.
	if err := f.cfg.Staging.DropStaging(); err != nil {
		return 0, &fatalError{fmt.Errorf("fsm: drop staging: %w", err)}
	}
	if staged.Size > t.head.Size {
		return t.head.Size, c.resume(f.cfg.Staging.Staged())
	}
	err := fmt.Errorf("fsm: %d entries were staged with hash %v, wanted are %v and the root and state that go with them: %w",
		staged.Size, staged.Hash, t.head.Hash, ErrDiverged)
	if t.manifest == nil {
		f.endTarget(err)
	}
	return 0, err
}

// there reports whether nothing is left to be fetched, and then ends the target.
// The state machine's mu is held.
func (c *Catchup) there(t *target) (bool, error) {
	f := c.fsm
	staged := f.cfg.Staging.Staged()
	if t.manifest == nil {
		if staged != t.head && staged.Size <= t.head.Size {
			return false, nil
		}
		c.failure.Store(nil)
		f.endTarget(nil)
		return true, nil
	}
	standing, err := f.standing(t.manifest)
	if err != nil {
		return false, &fatalError{err}
	}
	switch standing {
	case standsApart:
		err = f.refusal(t.manifest, standing)
	case standsReady:
		c.failure.Store(nil)
		c.logger.Info("caught up with the manifest", "entries", t.head.Size, "fetched", c.fetched.Load())
	case standsBefore:
		if staged != t.head {
			return false, nil
		}
		p, err := f.staged()
		if err != nil {
			return false, &fatalError{err}
		}
		if len(p.missing) > 0 {
			if err := c.resume(staged); err != nil {
				return false, err
			}
			return false, errUnexplained
		}
		return false, nil
	}
	f.endTarget(err)
	return true, err
}

// resume sets where to go on from, and what is folded up to there. The state
// machine's mu is held.
func (c *Catchup) resume(staged chain.Head) error {
	if c.at == staged && staged != c.fsm.view.Load().meta.Head {
		return nil // where this runner left it
	}
	fold, err := c.fsm.staged()
	if err != nil {
		return &fatalError{err}
	}
	c.at, c.fold = staged, fold
	return nil
}

// fetch fetches, checks and stages entries up to a size.
func (c *Catchup) fetch(ctx context.Context, to uint64) error {
	chunk := newChunk(c)
	for record, err := range c.fetcher.Fetch(ctx, c.at.Size, to) {
		if err == nil {
			err = chunk.add(&record)
		}
		if err != nil {
			err = fmt.Errorf("fsm: fetch entry %d: %w", chunk.head.Size, err)
			if errors.Is(err, errUnlinked) && chunk.head == c.at {
				return errors.Join(err, c.strayed())
			}
			// What came before is good.
			return errors.Join(chunk.stage(), err)
		}
		if chunk.head.Size == to {
			break
		}
		if chunk.full() {
			if err := chunk.stage(); err != nil {
				return err
			}
		}
	}
	if err := chunk.stage(); err != nil {
		return err
	}
	if c.at.Size < to {
		return fmt.Errorf("fsm: fetch ended at entry %d of %d", c.at.Size, to)
	}
	return nil
}

// strayed drops what is staged once two attempts in a row found that a peer's chain does
// not go on from it: it may be of a chain that a recovery from lost quorum ended, and
// would be in the way for ever. Not at the first time: an attempt goes to another peer
// than the one before, so that one that lies does not throw back a node that others
// bring on.
func (c *Catchup) strayed() error {
	if c.stray != c.at {
		c.stray = c.at
		return nil
	}
	return c.locked(func() error {
		staging := c.fsm.cfg.Staging
		if staging.Staged() != c.at || c.at == c.fsm.view.Load().meta.Head {
			return nil
		}
		c.logger.Warn("dropping staged entries that the peers' chain does not go on from", "entries", c.at.Size)
		if err := staging.DropStaging(); err != nil {
			return &fatalError{fmt.Errorf("fsm: drop staging: %w", err)}
		}
		return nil
	})
}

// chunk is a run of verified entries that are not staged yet.
type chunk struct {
	c       *Catchup
	head    chain.Head
	fold    progress
	changed bool // fold, since the last stage
	update  Update
	bytes   int
}

func newChunk(c *Catchup) *chunk {
	return &chunk{c: c, head: c.at, fold: c.fold.clone()}
}

func (k *chunk) full() bool {
	return len(k.update.Entries) >= stageEntries || k.bytes >= stageBytes
}

// add verifies the next entry and folds it.
func (k *chunk) add(record *chain.Record) error {
	if len(k.update.Entries) == 0 {
		k.update.Entries = make([]Sealing, 0, stageEntries)
	}
	e, err := checkRecord(record, k.c.fsm.cfg.ChainID, k.head, k.fold.state.epoch)
	if err != nil {
		return err
	}
	folded, err := k.fold.state.fold(fact{header: &e.header, payload: e.payload, earlier: k.earlier})
	if err != nil {
		return err
	}
	k.changed = k.changed || folded.changed
	if e.lacks {
		k.fold.missing = append(k.fold.missing, e.header.Sequence)
		k.changed = true
	}
	for _, r := range folded.redact {
		if i, found := slices.BinarySearch(k.fold.missing, r.Sequence); found {
			k.fold.missing = slices.Delete(k.fold.missing, i, i+1)
			k.changed = true
		}
	}
	s := Sealing{
		Record: chain.Record{
			Sequence: record.Sequence,
			Header:   slices.Clone(record.Header),
			Envelope: slices.Clone(record.Envelope),
			Beside:   slices.Clone(record.Beside),
		},
		Hash: e.hash, Time: e.header.Time, Key: e.header.Key(), Kind: e.header.Kind, Principal: e.header.Principal,
	}
	k.update.Entries = append(k.update.Entries, s)
	k.update.Slots = append(k.update.Slots, folded.slots...)
	k.update.Redact = append(k.update.Redact, folded.redact...)
	k.bytes += len(s.Header) + len(s.Envelope) + len(s.Beside)
	k.head = headOf(&s)
	return nil
}

// earlier returns the header of an entry of the chunk, of staging or of the chain.
func (k *chunk) earlier(seq uint64) (*chain.Header, error) {
	var header []byte
	if at := k.c.at.Size; seq >= at {
		header = k.update.Entries[seq-at].Header
	} else if err := k.c.locked(func() (err error) {
		staging := k.c.fsm.cfg.Staging
		if staging.Staged() != k.c.at {
			return errMoved
		}
		if header, err = staging.StagedHeader(seq); err != nil {
			return &fatalError{fmt.Errorf("fsm: read staged entry %d: %w", seq, err)}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	h, err := chain.DecodeHeader(header)
	if err != nil {
		return nil, &fatalError{fmt.Errorf("fsm: staged entry %d: %w", seq, err)}
	}
	return &h, nil
}

// errMoved says that staging is not where the chunk began: raft replayed log
// entries meanwhile. Catch-up begins again from there.
var errMoved = errors.New("fsm: the chain grew while entries were fetched")

func (k *chunk) stage() error {
	n := len(k.update.Entries)
	if n == 0 {
		return nil
	}
	if k.changed {
		var err error
		if k.update.State, err = k.fold.encode(); err != nil {
			return err
		}
	}
	c := k.c
	err := c.locked(func() error {
		staging := c.fsm.cfg.Staging
		if staging.Staged() != c.at {
			return errMoved
		}
		if err := staging.Stage(&k.update); err != nil {
			return &fatalError{fmt.Errorf("fsm: stage: %w", err)}
		}
		if staging.Staged() != k.head {
			return &fatalError{errors.New("fsm: staging is not at what was staged")}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.fetched.Add(uint64(n))
	c.failure.Store(nil)
	c.at, c.fold = k.head, k.fold.clone()
	k.update, k.changed, k.bytes = Update{}, false, 0
	return nil
}

// progress is what staging keeps as its state: the folded state, and which
// entries came without an envelope that no staged entry redacts yet. It is
// encoded as [state, [sequence…]].
type progress struct {
	state   state
	missing []uint64 // ascending
}

func (p *progress) clone() progress {
	return progress{state: p.state, missing: slices.Clone(p.missing)}
}

func (p *progress) encode() ([]byte, error) {
	encoded, err := p.state.encode()
	if err != nil {
		return nil, err
	}
	b := cbor.AppendBytes(cbor.AppendArray(nil, 2), encoded)
	b = cbor.AppendArray(b, len(p.missing))
	for _, seq := range p.missing {
		b = cbor.AppendUint(b, seq)
	}
	return b, nil
}

// staged returns what is folded up to where staging reaches. f.mu is held.
func (f *FSM) staged() (progress, error) {
	encoded, err := f.cfg.Staging.StagedState()
	if err != nil {
		return progress{}, fmt.Errorf("fsm: state of staging: %w", err)
	}
	if encoded == nil {
		// Nothing staged has changed the state.
		return progress{state: f.view.Load().state}, nil
	}
	p, err := decodeProgress(encoded)
	if err != nil {
		return progress{}, fmt.Errorf("fsm: state of staging: %w", err)
	}
	return p, nil
}

// decodeProgress reads what encode wrote, and nothing else.
func decodeProgress(encoded []byte) (p progress, err error) {
	r := cbor.NewReader(encoded)
	readArray(&r, 2)
	stateBytes := r.Bytes()
	at := r.Offset()
	for range r.Array() {
		if r.Err() != nil {
			break
		}
		p.missing = append(p.missing, r.Uint())
	}
	if !ascending(p.missing, cmp.Compare[uint64]) {
		r.Fail(at, "missing entries are not in order")
	}
	if err := r.Done(); err != nil {
		return progress{}, err
	}
	p.state, err = decodeState(stateBytes)
	return p, err
}
