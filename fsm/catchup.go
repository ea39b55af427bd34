package fsm

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/exonode/exonode/catalog"
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

// Progress is how far catch-up is.
type Progress struct {
	// Have and Want count entries of the chain.
	Have, Want uint64
	// Err is why the last attempt ended; nil while there is nothing wrong.
	Err error
}

// Catchup fetches what a manifest names, verifies and folds each entry as it
// arrives, and stages it. It goes on after a restart, or with another peer,
// where it stopped. Restore and Admit give it its targets.
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
}

// NewCatchup returns the runner for a state machine; there is one for each.
func NewCatchup(f *FSM, fetcher Fetcher, logger *slog.Logger) (*Catchup, error) {
	if f == nil || fetcher == nil || logger == nil {
		return nil, errors.New("fsm: catch-up needs a state machine, a fetcher and a logger")
	}
	return &Catchup{fsm: f, fetcher: fetcher, logger: logger}, nil
}

// Fetched returns how many entries were fetched and found good so far.
func (c *Catchup) Fetched() uint64 { return c.fetched.Load() }

// Progress returns how far catch-up is; false where there is nothing to catch up.
func (c *Catchup) Progress() (Progress, bool) {
	f := c.fsm
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == nil || f.target.Head.Size <= f.view.Load().meta.Head.Size {
		return Progress{}, false
	}
	p := Progress{Have: f.cfg.Staging.Staged().Size, Want: f.target.Head.Size}
	if err := c.failure.Load(); err != nil {
		p.Err = *err
	}
	return p, true
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
			c.failure.Store(nil)
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
		m, err := c.position()
		if err != nil || m == nil {
			return err
		}
		err = c.fetch(ctx, m, min(c.at.Size+fetchEntries, m.Head.Size))
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

// position returns the target, and sets where to go on from; nil where there is
// nothing to do. Staging that does not lead to the target is dropped.
func (c *Catchup) position() (*Manifest, error) {
	f := c.fsm
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.target
	if m == nil {
		return nil, nil
	}
	standing, err := f.standing(m)
	switch {
	case err != nil:
		return nil, &fatalError{err}
	case standing == standsApart:
		f.target = nil
		return nil, f.refusal(m, standing)
	case standing == standsReady:
		c.logger.Info("caught up with the manifest", "entries", m.Head.Size, "fetched", c.fetched.Load())
		f.target = nil
		return nil, nil
	case standing != standsBefore:
		f.target = nil
		return nil, nil
	}
	staged := f.cfg.Staging.Staged()
	if c.at != staged || staged == f.view.Load().meta.Head {
		if err := c.resume(); err != nil {
			return nil, err
		}
	}
	if staged.Size < m.Head.Size {
		return m, nil
	}
	if staged == m.Head && len(c.fold.missing) > 0 {
		// Redacted by entries beyond the manifest, or withheld: a later
		// manifest tells.
		f.target = nil
		return nil, fmt.Errorf("fsm: entry %d and %d more came without their envelopes, which no entry up to %d redacts",
			c.fold.missing[0], len(c.fold.missing)-1, m.Head.Size-1)
	}
	if err := f.cfg.Staging.DropStaging(); err != nil {
		return nil, &fatalError{fmt.Errorf("fsm: drop staging: %w", err)}
	}
	if staged.Size > m.Head.Size {
		// Staged for a longer manifest than the leader of now has.
		return m, c.resume()
	}
	return nil, fmt.Errorf("fsm: %d entries staged with hash %v, the manifest names %v, or another root or state: %w",
		staged.Size, staged.Hash, m.Head.Hash, ErrDiverged)
}

// resume reads where staging reaches, and what is folded up to there. The state
// machine's mu is held.
func (c *Catchup) resume() error {
	var err error
	if c.fold, err = c.fsm.staged(); err != nil {
		return &fatalError{err}
	}
	c.at = c.fsm.cfg.Staging.Staged()
	return nil
}

// fetch fetches, checks and stages entries up to a size.
func (c *Catchup) fetch(ctx context.Context, m *Manifest, to uint64) error {
	chunk := newChunk(c, m)
	for record, err := range c.fetcher.Fetch(ctx, c.at.Size, to) {
		if err == nil {
			err = chunk.add(&record)
		}
		if err != nil {
			// What came before is good.
			return errors.Join(chunk.stage(), fmt.Errorf("fsm: fetch entry %d: %w", chunk.head.Size, err))
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

// chunk is a run of verified entries that are not staged yet.
type chunk struct {
	c       *Catchup
	chainID chain.ID
	head    chain.Head
	fold    progress
	changed bool // fold, since the last stage
	update  Update
	bytes   int
}

func newChunk(c *Catchup, m *Manifest) *chunk {
	return &chunk{c: c, chainID: m.ChainID, head: c.at, fold: c.fold.clone()}
}

func (k *chunk) full() bool {
	return len(k.update.Entries) >= stageEntries || k.bytes >= stageBytes
}

// add verifies the next entry and folds it.
func (k *chunk) add(record *chain.Record) error {
	if len(k.update.Entries) == 0 {
		k.update.Entries = make([]Sealing, 0, stageEntries)
	}
	e, err := checkRecord(record, k.chainID, k.head, k.fold.state.epoch)
	if err != nil {
		return err
	}
	folded, err := k.fold.state.fold(fact{header: &e.header, payload: e.payload})
	if err != nil {
		return err
	}
	k.changed = k.changed || folded.changed
	if e.lacks {
		k.fold.missing = append(k.fold.missing, e.header.Sequence)
		k.changed = true
	}
	for _, target := range folded.redact {
		if i, found := slices.BinarySearch(k.fold.missing, target); found {
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
	c.at, c.fold = k.head, k.fold.clone()
	k.update, k.changed, k.bytes = Update{}, false, 0
	return nil
}

// checkedEntry is a record that is good by itself and follows its predecessor.
type checkedEntry struct {
	header  chain.Header
	hash    chain.Hash
	payload []byte
	// lacks is whether an envelope is missing that only a redaction may
	// take away.
	lacks bool
}

// checkRecord checks an entry against the chain so far.
func checkRecord(r *chain.Record, id chain.ID, prev chain.Head, epoch uint64) (e checkedEntry, err error) {
	if r.Sequence != prev.Size {
		return e, fmt.Errorf("got entry %d", r.Sequence)
	}
	h := &e.header
	if err := h.UnmarshalBinary(r.Header); err != nil {
		return e, err
	}
	system := h.Workspace == catalog.SystemWorkspace
	genesis := system && h.Kind == catalog.KindChainGenesis
	switch {
	case h.ChainID != id:
		return e, fmt.Errorf("is of chain %v", h.ChainID)
	case h.Sequence != prev.Size:
		return e, fmt.Errorf("its header says entry %d", h.Sequence)
	case h.Previous != prev.Hash:
		return e, fmt.Errorf("links to %v, the entry before it is %v", h.Previous, prev.Hash)
	case h.Time <= prev.Time:
		return e, fmt.Errorf("its time %d is not after %d", h.Time, prev.Time)
	case genesis != (prev.Size == 0):
		return e, fmt.Errorf("is %s", h.Kind)
	case prev.Size > 0 && h.Epoch != epoch && !(system && h.Kind == catalog.KindChainRecover && h.Epoch > epoch):
		return e, fmt.Errorf("goes from epoch %d to %d", epoch, h.Epoch)
	}
	e.hash = chain.HeaderHash(r.Header)
	if r.Envelope == nil {
		if e.lacks = true; system {
			return e, errors.New("entries of workspace system keep their envelopes")
		}
		return e, noBeside(r)
	}
	envelope, err := checkEnvelope(r.Envelope, h.Envelope.Hash, h.Envelope.Size)
	if err != nil {
		return e, err
	}
	e.payload = envelope.Payload
	if !system || h.Kind != catalog.KindGovernanceEscalate {
		return e, noBeside(r)
	}
	if r.Beside == nil {
		e.lacks = true
		return e, nil
	}
	return e, checkBeside(r.Beside, e.payload)
}

func noBeside(r *chain.Record) error {
	if r.Beside != nil {
		return errors.New("has a second envelope")
	}
	return nil
}

func checkEnvelope(encoded []byte, hash chain.Hash, size uint64) (chain.Envelope, error) {
	if chain.EnvelopeHash(encoded) != hash {
		return chain.Envelope{}, errors.New("its envelope has another hash than its header names")
	}
	e, err := chain.DecodeEnvelope(encoded)
	if err != nil {
		return chain.Envelope{}, err
	}
	if uint64(len(e.Payload)) != size {
		return chain.Envelope{}, fmt.Errorf("its payload has %d bytes, its header says %d", len(e.Payload), size)
	}
	return e, nil
}

// checkBeside checks the envelope of an escalated event against what the
// escalation's payload says of it.
func checkBeside(beside, payload []byte) error {
	m, err := readMembers(payload)
	if err != nil {
		return err
	}
	text, size := m.text("envelope_hash"), m.uint("payload_size")
	var hash chain.Hash
	m.fail("envelope_hash", hash.UnmarshalText([]byte(text)))
	if err := m.result(); err != nil {
		return err
	}
	_, err = checkEnvelope(beside, hash, size)
	return err
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
	r := cbor.NewReader(encoded)
	readArray(&r, 2)
	stateBytes := r.Bytes()
	var p progress
	for range r.Array() {
		p.missing = append(p.missing, r.Uint())
	}
	if err := r.Done(); err != nil {
		return progress{}, fmt.Errorf("fsm: state of staging: %w", err)
	}
	if p.state, err = decodeState(stateBytes); err != nil {
		return progress{}, fmt.Errorf("fsm: state of staging: %w", err)
	}
	return p, nil
}
