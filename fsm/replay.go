package fsm

import (
	"errors"
	"fmt"
	"slices"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/gates"
)

// Replay checks what a chain says about itself: it folds governance from the
// entries and evaluates each recorded verdict again. Its Check goes into
// chain.VerifyOptions.Check, from entry 0 on. It keeps no more than the folded
// state.
//
// What it can't tell: whether a principal was who it claimed to be, and, without
// Lookup, whether an id was used twice, since that needs a memory of all ids.
type Replay struct {
	// Lookup, where not nil, returns where a key stands at the end of the
	// chain, as a ledger's index has it. Each entry is then held against
	// it: a key that has two entries, or one of its own although it was
	// denied, shows.
	Lookup func(chain.Key) (Slot, bool, error)

	state state
	begun bool
	time  int64 // of the previous entry
	// recovery is the previous entry where that is a chain.recover: what it
	// forces comes next.
	recovery *recovery
	// report counts verdicts.
	report ReplayReport
}

// ReplayReport counts what a Replay has checked.
type ReplayReport struct {
	// Entries were folded.
	Entries uint64
	// Verdicts follow from the policy in force at their entry.
	Verdicts uint64
	// Unknown verdicts were made by an evaluator that this version does not
	// have, and could not be checked.
	Unknown uint64
}

// ErrReplay is wrapped by errors about entries that do not follow from the ones
// before them: the leader that sealed them was at fault, or somebody made the
// chain anew.
var ErrReplay = errors.New("entry does not follow from the chain before it")

func replayError(format string, args ...any) error {
	return fmt.Errorf("fsm: %w: "+format, append([]any{ErrReplay}, args...)...)
}

// NewReplay returns a Replay that begins before entry 0.
func NewReplay() *Replay { return &Replay{state: newState()} }

// Report returns what has been checked so far.
func (r *Replay) Report() ReplayReport { return r.report }

// StateDigest returns the digest of the folded state, which manifests name.
func (r *Replay) StateDigest() (chain.Hash, error) {
	encoded, err := r.state.encode()
	if err != nil {
		return chain.Hash{}, err
	}
	return chain.StateDigest(encoded), nil
}

// Check checks and folds the next entry.
func (r *Replay) Check(e *chain.Entry) error {
	h := &e.Header
	system := h.Workspace == catalog.SystemWorkspace
	var payload []byte
	if e.Envelope != nil {
		payload = e.Envelope.Payload
	}
	if n := len(h.Causes); n > 0 && h.Causes[n-1] >= h.Sequence {
		return replayError("entry %d names entry %d as a cause", h.Sequence, h.Causes[n-1])
	}
	if err := checkFirst(h, system); err != nil {
		return err
	}
	about, err := subjectOf(h, system, payload)
	if err != nil {
		return replayError("entry %d: %w", h.Sequence, err)
	}
	if err := r.checkVerdict(h, about); err != nil {
		return err
	}
	if err := r.checkSealed(h, system, payload); err != nil {
		return err
	}
	if err := r.checkSlot(h, about); err != nil {
		return err
	}
	if _, err := r.state.fold(fact{header: h, payload: payload}); err != nil {
		return err
	}
	r.report.Entries++
	r.begun, r.time = true, h.Time
	return nil
}

// checkFirst checks which entries begin a chain.
func checkFirst(h *chain.Header, system bool) error {
	first := []string{catalog.KindChainGenesis, catalog.KindClusterConfig, catalog.KindGovernanceGenesis}
	if h.Sequence < uint64(len(first)) && (!system || h.Kind != first[h.Sequence]) {
		return replayError("entry %d is %s, want %s", h.Sequence, h.Kind, first[h.Sequence])
	}
	return nil
}

// subject is the event that an entry's verdict is about.
type subject struct {
	key  chain.Key
	kind string
	// state is what the entry makes of the key.
	state SlotState
}

func subjectOf(h *chain.Header, system bool, payload []byte) (subject, error) {
	s := subject{key: h.Key(), kind: h.Kind, state: Sealed}
	switch {
	case system && h.Kind == catalog.KindGovernanceDeny:
		s.state = Denied
	case system && h.Kind == catalog.KindGovernanceEscalate:
		s.state = Pending
	default:
		return s, nil
	}
	m, err := readMembers(payload)
	if err != nil {
		return s, err
	}
	s.key = chain.Key{Workspace: m.text("workspace"), Source: m.text("source"), ID: m.text("id")}
	s.kind = m.text("kind")
	return s, m.result()
}

// checkVerdict evaluates an event again, over the state before its entry: any
// entry that moved the governance revision after the leader's evaluation would
// have made it stale.
func (r *Replay) checkVerdict(h *chain.Header, about subject) error {
	v := h.Verdict
	if v == nil {
		if about.state != Sealed || r.begun && r.gated(about) && h.RaftIndex == 0 {
			return replayError("entry %d has no verdict, though %s passes gate %s", h.Sequence, about.kind, r.state.gates.Gate(about.kind))
		}
		return nil
	}
	wanted := map[SlotState]bool{
		Sealed:  v.Decision == chain.Permit || v.Decision == chain.Warn || v.Decision == chain.Emergency,
		Denied:  v.Decision == chain.Deny,
		Pending: v.Decision == chain.Escalate,
	}
	if !wanted[about.state] {
		return replayError("entry %d is %s with decision %d", h.Sequence, h.Kind, v.Decision)
	}
	if v.Profile != gates.Profile || v.Request != 0 || v.Permit != 0 || v.Emergency != 0 {
		r.report.Unknown++
		return nil
	}
	again, gated, err := r.state.gates.Evaluate(about.key.Workspace, about.kind, (*gates.Effect)(v.Declared))
	switch {
	case err != nil:
		return replayError("entry %d: %w", h.Sequence, err)
	case !gated:
		return replayError("entry %d has a verdict, though %s passes no gate", h.Sequence, about.kind)
	}
	if !sameVerdict(sealable(again), v) {
		return replayError("entry %d: the recorded verdict is %v, evaluated again it is %v", h.Sequence, *v, *sealable(again))
	}
	r.report.Verdicts++
	return nil
}

func (r *Replay) gated(about subject) bool { return r.state.gates.Gate(about.kind) != "" }

func sameVerdict(a, b *chain.Verdict) bool {
	return a.Gate == b.Gate && a.Decision == b.Decision && a.Revision == b.Revision &&
		a.PolicyHash == b.PolicyHash && sameEffect(a.Declared, b.Declared) && a.Effective == b.Effective &&
		slices.Equal(a.Rules, b.Rules) && slices.Equal(a.Counts, b.Counts) && a.Profile == b.Profile &&
		slices.Equal(a.Reasons, b.Reasons)
}

// checkSealed checks an entry that the state machine seals by itself beside others.
func (r *Replay) checkSealed(h *chain.Header, system bool, payload []byte) error {
	forced := r.recovery
	r.recovery = nil
	switch {
	case system && h.Kind == catalog.KindClusterConfig:
		return r.checkConfig(h, payload, forced)
	case forced != nil:
		return replayError("entry %d is %s, though a %s is to be followed by the configuration that it forces", h.Sequence, h.Kind, catalog.KindChainRecover)
	case system && h.Kind == catalog.KindChainRecover:
		return r.checkRecover(h, payload)
	}
	return nil
}

// checkOwn checks the fields of what no node submitted.
func (r *Replay) checkOwn(h *chain.Header) error {
	switch {
	case h.SealingNode != "" || h.Principal != clusterPrincipal || h.Source != sourceCluster || h.RaftIndex == 0:
		return replayError("entry %d: a %s that a node submitted", h.Sequence, h.Kind)
	case h.Time != r.time+1:
		return replayError("entry %d: its time is not its predecessor's plus one", h.Sequence)
	}
	return nil
}

func (r *Replay) checkConfig(h *chain.Header, payload []byte, forced *recovery) error {
	c, flagged, err := parseConfigPayload(payload)
	if err != nil {
		return replayError("entry %d: %w", h.Sequence, err)
	}
	if err := r.checkOwn(h); err != nil {
		return err
	}
	causes, wantFlagged := r.state.explain(&c)
	if !slices.Equal(causes, h.Causes) || flagged != wantFlagged {
		return replayError("entry %d: it names entries %v (flagged: %v) as its reasons, the chain has %v (%v)",
			h.Sequence, h.Causes, flagged, causes, wantFlagged)
	}
	if forced != nil && (c.RaftIndex != forced.index || len(c.Servers) != 1 || !c.Servers[0].Voter || NodeID(c.Servers[0].ID) != forced.survivor) {
		return replayError("entry %d: the recovery before it leaves node %s as the one voter, it has %v", h.Sequence, forced.survivor, c.Servers)
	}
	return nil
}

// recovery is what a chain.recover says of the configuration that comes next.
type recovery struct {
	index    uint64
	survivor string
}

// checkRecover checks that a recovery goes one epoch further, and gives up all nodes
// but one.
func (r *Replay) checkRecover(h *chain.Header, payload []byte) error {
	if err := r.checkOwn(h); err != nil {
		return err
	}
	lost, err := readRecovery(h, payload)
	if err != nil {
		return replayError("entry %d: %w", h.Sequence, err)
	}
	if h.Epoch != r.state.epoch+1 || h.ID != recoverID(h.Epoch) {
		return replayError("entry %d: a recovery %s goes from epoch %d to %d", h.Sequence, h.ID, r.state.epoch, h.Epoch)
	}
	for _, id := range r.state.config.nodes() {
		if slices.Equal(lost, r.state.config.Others(id)) {
			r.recovery = &recovery{h.RaftIndex, id}
			return nil
		}
	}
	return replayError("entry %d: a recovery gives up nodes %v of %v, want all but one", h.Sequence, lost, r.state.config.nodes())
}

// checkSlot holds an entry against the index of keys.
func (r *Replay) checkSlot(h *chain.Header, about subject) error {
	if r.Lookup == nil {
		return nil
	}
	for key, want := range map[chain.Key]SlotState{h.Key(): Sealed, about.key: about.state} {
		slot, found, err := r.Lookup(key)
		if err != nil {
			return fmt.Errorf("fsm: look up the key of entry %d: %w", h.Sequence, err)
		}
		if found && want == Pending && slot.Sequence > h.Sequence {
			continue // decided since
		}
		if !found || slot.State != want || slot.Sequence != h.Sequence {
			return replayError("entry %d: the index has its key, or that of the event which it is about, at entry %d in state %d",
				h.Sequence, slot.Sequence, slot.State)
		}
	}
	return nil
}
