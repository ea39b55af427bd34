package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/node/raftstore"
	"github.com/exonode/exonode/transport"
)

// ErrRecovering: a recovery of the data directory was begun and did not end; run it
// again.
var ErrRecovering = errors.New("a recovery from lost quorum was interrupted")

// RecoverConfig says which stopped node's cluster is recovered.
type RecoverConfig struct {
	// DataDir is the survivor's; no node may run on it.
	DataDir string
	// Reason stands in the chain; "" is "quorum lost".
	Reason string

	// ground, and reached, which is told of each step that is done, are for tests.
	ground  Ground
	reached func(step string) error
}

// RecoveryPlan is what a recovery does, or has done.
type RecoveryPlan struct {
	NodeID string `json:"node_id"`
	// Entries and Hash are the head of what the ledger has applied.
	Entries uint64     `json:"entries"`
	Hash    chain.Hash `json:"head_hash"`
	// LastTerm and LastIndex are of the end of raft's log here. The survivor with
	// the greatest (term, index) has all that any of the survivors has.
	LastTerm  uint64 `json:"last_term"`
	LastIndex uint64 `json:"last_index"`
	// Applied is the ledger's raft index. Replay is how many entries of raft's log
	// are behind it, of which Commands carry events: whether they were ever
	// acknowledged nobody can tell here, and all are kept.
	Applied  uint64 `json:"applied_index"`
	Replay   uint64 `json:"replay"`
	Commands uint64 `json:"commands"`
	// Staged counts entries beyond Entries that the node had fetched and not made its
	// own when it stopped: it was catching up. Others acknowledged them, and they are
	// not kept, but for those that raft's log has here as well. Prefer a survivor
	// that has them in its ledger.
	Staged uint64 `json:"staged"`
	// Lost are the nodes that are given up, sorted by id; none where the node is its
	// cluster's only one, and can serve as it is.
	Lost []LostNode `json:"lost"`
	// Epoch is the one that begins.
	Epoch uint64 `json:"epoch"`
	// Resumed: an earlier attempt was interrupted, and this one ends it, with the
	// reason given then.
	Resumed bool `json:"resumed,omitempty"`
}

// LostNode is a node that a recovery gives up.
type LostNode struct {
	NodeID string `json:"node_id"`
	Name   string `json:"name,omitempty"`
}

// PlanRecovery says what Recover would do. It changes no more than a start of the node
// would.
func PlanRecovery(cfg RecoverConfig) (plan RecoveryPlan, err error) {
	s, err := openSurvivor(cfg)
	if err != nil {
		return plan, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	return s.plan()
}

// Recover makes the stopped node of a data directory all that is left of its cluster:
// it applies all that raft's log has, drops what is staged, seals with which entry a new epoch begins, and
// leaves the node as the one voter, under a new incarnation. Errors wrap
// fsm.ErrNotRecoverable, or say what is wrong with the directory; a directory in use
// is ErrDataInUse.
//
// A crash at any moment leaves a directory that a node refuses with ErrRecovering, and
// that Recover carries on with. The commit point is the removal of the decision's file.
func Recover(cfg RecoverConfig) (plan RecoveryPlan, err error) {
	s, err := openSurvivor(cfg)
	if err != nil {
		return plan, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if plan, err = s.plan(); err != nil {
		return plan, err
	}
	return plan, s.recover()
}

// survivor is a stopped node of which only what recovery needs is open: directory,
// raft's stores, ledger and state machine.
type survivor struct {
	*Node
	cfg RecoverConfig
	// state is of raft's stores, as they were opened.
	state raftstore.State
	// decision is what was, or is to be, decided; begun is whether it is on disk.
	decision recoveryDecision
	begun    bool
}

// recoveryFile holds the decision in the data directory, from before anything is
// changed until all is done.
const (
	recoveryFile   = "recovery.json"
	recoveryFormat = "exonode-recovery/1"
)

// recoveryDecision is all of a recovery that the state does not say, so that a second
// attempt makes the same entries.
type recoveryDecision struct {
	Format string `json:"format"`
	// Index and Term are those of the forced configuration: one beyond the end of
	// raft's log, and that end's.
	Index uint64 `json:"index"`
	Term  uint64 `json:"term"`
	// RaftEpoch is the one that begins.
	RaftEpoch uint64 `json:"raft_epoch"`
	// Incarnation is the survivor's new one. No server of the older epoch speaks
	// to it, or is spoken to by it, even where the two know each other's nodes.
	Incarnation string `json:"incarnation"`
	Reason      string `json:"reason"`
}

// checkRecovered refuses a directory whose recovery has begun and not ended.
func (d *dataDir) checkRecovered() error {
	_, err := os.Stat(d.sub(recoveryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return accessError(d.path, err)
	}
	return fmt.Errorf("%w: run `exonode cluster recover --data %s --yes` again", ErrRecovering, d.path)
}

func openSurvivor(cfg RecoverConfig) (_ *survivor, err error) {
	genesis, err := DataGenesis(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	s := &survivor{Node: &Node{cfg: Config{DataDir: cfg.DataDir, Ground: cfg.ground}, log: slog.New(slog.DiscardHandler)}, cfg: cfg}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = openDataDir(cfg.DataDir, genesis); err != nil {
		return nil, err
	}
	for _, step := range []func() error{s.openStores, s.readDecision, s.mend, s.decide, s.openState} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// openStores opens raft's stores and the ledger, which both must be there.
func (s *survivor) openStores() (err error) {
	dir := s.dir.sub("raft")
	backend, err := os.ReadFile(filepath.Join(dir, "backend"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: it was never in one", fsm.ErrNotRecoverable)
	}
	if err != nil {
		return accessError(dir, err)
	}
	if s.identity, err = transport.LoadIdentity(s.dir.sub("identity")); err != nil {
		return err
	}
	s.stores, err = raftstore.Open(raftstore.Config{
		Dir: dir, Backend: raftstore.Backend(backend), WriteTimeout: time.Minute, Fatal: func(error) {},
	})
	if err != nil {
		return err
	}
	if s.state, err = s.stores.State(); err != nil {
		return err
	}
	if !s.state.Configured() {
		return fmt.Errorf("%w: it was never in one", fsm.ErrNotRecoverable)
	}
	return s.openLedger()
}

// readDecision reads the decision of an interrupted attempt, if there was one.
func (s *survivor) readDecision() error {
	b, err := os.ReadFile(s.dir.sub(recoveryFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return accessError(s.dir.path, err)
	}
	if err := json.Unmarshal(b, &s.decision); err != nil {
		return fmt.Errorf("read %s: %w", s.dir.sub(recoveryFile), err)
	}
	if s.decision.Format != recoveryFormat {
		return fmt.Errorf("%w: %s has format %q", ErrNewerData, recoveryFile, s.decision.Format)
	}
	s.begun = true
	return nil
}

// mend does what a start of the node would do between raft's stores and the ledger. It
// may drop a log that goes on from nothing, so that nothing is decided before.
func (s *survivor) mend() error {
	if s.begun && s.sealed() {
		return nil // the steps that are left do it
	}
	if err := s.checkBoot(); err != nil {
		return err
	}
	state, err := s.stores.State()
	s.state = state
	return err
}

// decide makes the decision, where no earlier attempt did.
func (s *survivor) decide() error {
	if s.begun {
		return nil
	}
	incarnation, err := transport.NewIncarnation()
	if err != nil {
		return err
	}
	index, term, err := s.end()
	if err != nil {
		return err
	}
	s.decision = recoveryDecision{
		Format: recoveryFormat, Index: index + 1, Term: term, RaftEpoch: s.ledger.Meta().RaftEpoch + 1,
		Incarnation: incarnation, Reason: s.cfg.Reason,
	}
	if s.decision.Reason == "" {
		s.decision.Reason = "quorum lost"
	}
	return nil
}

// end is the end of raft's log, or the snapshot that stands for it.
func (s *survivor) end() (index, term uint64, err error) {
	if s.state.LastLog <= s.state.SnapshotIndex {
		return s.state.SnapshotIndex, s.state.SnapshotTerm, nil
	}
	var last raft.Log
	if err := s.stores.Log.GetLog(s.state.LastLog, &last); err != nil {
		return 0, 0, fmt.Errorf("read the end of raft's log: %w", err)
	}
	return last.Index, last.Term, nil
}

// sealed reports whether the ledger has the epoch that was decided.
func (s *survivor) sealed() bool { return s.ledger.Meta().RaftEpoch == s.decision.RaftEpoch }

func (s *survivor) openState() error {
	id, err := s.chainID()
	if err != nil {
		return err
	}
	s.fsm, err = fsm.New(fsm.Config{
		Store: s.ledger, Staging: s.ledger, ChainID: id, NodeID: s.identity.NodeID(),
		Fatal: func(error) {}, Logger: s.log,
	})
	return err
}

// chainID is that of entry 0, or of the genesis that is still to be applied.
func (s *survivor) chainID() (chain.ID, error) {
	if s.ledger.Meta().Head.Size > 0 {
		rec, err := s.ledger.Record(0)
		if err != nil {
			return chain.ID{}, err
		}
		h, err := chain.DecodeHeader(rec.Header)
		return h.ChainID, err
	}
	var id chain.ID
	err := s.behind(func(l *raft.Log) error {
		var c fsm.Command
		if l.Type != raft.LogCommand {
			return nil
		}
		if err := c.UnmarshalBinary(l.Data); err != nil || c.Genesis == nil {
			return err
		}
		g, err := fsm.ParseGenesis(c.Genesis.Document)
		if err == nil {
			id = g.ChainID
		}
		return err
	})
	if err == nil && id == (chain.ID{}) {
		err = fmt.Errorf("%w: the chain has not begun", fsm.ErrNotRecoverable)
	}
	return id, err
}

// behind yields the entries of raft's log that are behind what was applied. All of
// them are there: checkBoot saw to it that log, snapshot and ledger fit.
func (s *survivor) behind(yield func(*raft.Log) error) error {
	if s.sealed() {
		return nil
	}
	for i := max(s.ledger.Meta().Applied, s.state.SnapshotIndex) + 1; i <= s.state.LastLog; i++ {
		l := new(raft.Log)
		if err := s.stores.Log.GetLog(i, l); err != nil {
			return fmt.Errorf("read entry %d of raft's log: %w", i, err)
		}
		if err := yield(l); err != nil {
			return fmt.Errorf("entry %d of raft's log: %w", i, err)
		}
	}
	return nil
}

func (s *survivor) plan() (RecoveryPlan, error) {
	v, self := s.fsm.View(), s.identity.NodeID()
	p := RecoveryPlan{
		NodeID: self, Entries: v.Head().Size, Hash: v.Head().Hash, Applied: v.Meta().Applied,
		LastTerm: s.decision.Term, LastIndex: s.decision.Index - 1, Epoch: v.Epoch() + 1, Lost: []LostNode{}, Resumed: s.begun,
	}
	if s.sealed() {
		p.Epoch = v.Epoch()
		return p, nil
	}
	p.Staged = s.ledger.Staged().Size - p.Entries
	members := v.Configuration()
	err := s.behind(func(l *raft.Log) (err error) {
		p.Replay++
		switch l.Type {
		case raft.LogCommand:
			p.Commands++
		case raft.LogConfiguration:
			members, err = fsm.DecodeConfiguration(l.Index, l.Data)
		}
		return err
	})
	if err != nil {
		return p, err
	}
	if !slices.ContainsFunc(members.Servers, func(m fsm.Server) bool { return fsm.NodeID(m.ID) == self }) {
		return p, fmt.Errorf("%w: node %s is not in its newest configuration", fsm.ErrNotRecoverable, self)
	}
	for _, id := range members.Others(self) {
		n, _ := v.Node(id)
		p.Lost = append(p.Lost, LostNode{id, n.Name})
	}
	return p, nil
}

// recover does it. Each step is durable before the next one begins, and does nothing,
// or the same again, where an earlier attempt got further.
func (s *survivor) recover() error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"decide", s.keepDecision},
		{"replay", s.replay},
		{"seal", s.seal},
		{"manifest", s.writeManifest},
		{"incarnation", s.replaceIncarnation},
		{"truncate", s.truncate},
		{"finish", s.finish},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("recover: %s: %w", step.name, err)
		}
		if s.cfg.reached != nil {
			if err := s.cfg.reached(step.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// keepDecision makes the decision durable: from here on no node starts on the directory.
func (s *survivor) keepDecision() error {
	if s.begun {
		return nil
	}
	b, err := json.MarshalIndent(&s.decision, "", "  ")
	if err != nil {
		return err
	}
	return writeFileSynced(s.dir.sub(recoveryFile), append(b, '\n'), 0o600)
}

// replayLogs bounds what is applied at once.
const replayLogs = 16

// replay applies what raft's log has behind the applied index, committed or not.
func (s *survivor) replay() error {
	var logs []*raft.Log
	apply := func() error {
		for _, r := range s.fsm.ApplyBatch(logs) {
			if h, halted := r.(*fsm.Halted); halted {
				return h.Err
			}
		}
		logs = logs[:0]
		return nil
	}
	err := s.behind(func(l *raft.Log) error {
		switch l.Type {
		case raft.LogCommand, raft.LogConfiguration:
		case raft.LogNoop, raft.LogBarrier:
			return nil // the state machine never sees them
		default:
			return fmt.Errorf("type %v is unknown", l.Type)
		}
		if logs = append(logs, l); len(logs) == replayLogs {
			return apply()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return apply()
}

// server is the survivor in the forced configuration.
func (s *survivor) server() fsm.Server {
	id := s.identity.NodeID()
	return fsm.Server{ID: string(transport.ServerID(id, s.decision.Incarnation)), Address: id, Voter: true}
}

// seal begins the epoch in the ledger. Nothing of it is synced yet: a crash may take it
// and the replay, or parts of that, back, and the next attempt makes them again.
func (s *survivor) seal() error {
	if s.sealed() {
		return nil
	}
	return s.fsm.Recover(fsm.Recovery{
		Index: s.decision.Index, Term: s.decision.Term, Survivor: s.server(), Reason: s.decision.Reason,
	})
}

// writeManifest flushes the ledger and writes a manifest of it that has the forced
// configuration: raft begins there.
func (s *survivor) writeManifest() error {
	snapshot, err := s.fsm.Snapshot()
	if err != nil {
		return err
	}
	defer snapshot.Release()
	server := s.server()
	forced := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(server.ID), Address: raft.ServerAddress(server.Address),
	}}}
	sink, err := s.stores.Manifests.Create(raft.SnapshotVersionMax, s.decision.Index, s.decision.Term, forced, s.decision.Index, nil)
	if err != nil {
		return err
	}
	return snapshot.Persist(sink)
}

func (s *survivor) replaceIncarnation() error {
	return writeFileSynced(filepath.Join(s.dir.sub("raft"), transport.IncarnationFile), []byte(s.decision.Incarnation+"\n"), 0o600)
}

// truncate drops raft's log, which ends before the manifest.
func (s *survivor) truncate() error {
	_, err := s.stores.Mend()
	return err
}

// finish lets the node start again.
func (s *survivor) finish() error {
	if err := os.Remove(s.dir.sub(recoveryFile)); err != nil {
		return err
	}
	return syncDir(s.dir.path)
}
