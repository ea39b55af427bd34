package fsm

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
)

// Config is what a state machine needs. It is not changed after New.
type Config struct {
	Store   Store
	Staging Staging
	// ChainID is the chain that the cluster file names; commands, manifests
	// and entries of another are refused.
	ChainID chain.ID
	// NodeID is this node's id, for logs.
	NodeID string
	// Fatal is told once why the state machine stopped. It should end the
	// process; where it returns, nothing is applied any more.
	Fatal func(error)
	// Applied, where not nil, is called after each commit, promotion
	// included, with what is now applied. It runs on raft's goroutine and
	// must not block.
	Applied func(*View)
	Logger  *slog.Logger
}

// FSM is the replicated state machine. Raft calls ApplyBatch, Apply, Snapshot
// and Restore from one goroutine; the other methods are safe for concurrent
// use.
type FSM struct {
	cfg  Config
	view atomic.Pointer[View]
	// halted is set once, by the first failure.
	halted atomic.Pointer[error]

	// mu serialises all writes to the store: commits and promotions, which
	// raft's goroutine makes, and staging, which catch-up does.
	mu sync.Mutex
}

var _ raft.BatchingFSM = (*FSM)(nil)

// New returns the state machine over what the store holds.
func New(cfg Config) (*FSM, error) {
	if cfg.Store == nil || cfg.Staging == nil || cfg.Fatal == nil || cfg.Logger == nil {
		return nil, errors.New("fsm: Store, Staging, Fatal and Logger are required")
	}
	f := &FSM{cfg: cfg}
	f.view.Store(&View{meta: cfg.Store.Meta(), state: newState()})
	return f, nil
}

// View returns what has been applied. It is never nil.
func (f *FSM) View() *View { return f.view.Load() }

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. Each response is a *BatchResult,
// *GenesisResult, *ConfigurationResult, *Skipped or *Halted.
func (f *FSM) ApplyBatch(logs []*raft.Log) []any { panic("not yet") }

// Snapshot implements raft.FSM.
func (f *FSM) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("fsm: not yet") }

// Restore implements raft.FSM.
func (f *FSM) Restore(rc io.ReadCloser) error { return errors.New("fsm: not yet") }
