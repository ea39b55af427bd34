package fsm

import (
	"errors"
	"fmt"
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
	// included, with what is now applied. It runs on raft's goroutine,
	// must not block, and must call nothing of this package but methods of
	// View.
	Applied func(*View)
	Logger  *slog.Logger
}

// FSM is the replicated state machine. Raft calls ApplyBatch, Apply, Snapshot
// and Restore from one goroutine; the other methods are safe for concurrent
// use. Fatal is called without a lock held.
type FSM struct {
	cfg  Config
	view atomic.Pointer[View]
	// halted is set once, by the first failure.
	halted atomic.Pointer[error]

	// wake tells catch-up that there is a target; it has room for one.
	wake chan struct{}

	// mu serialises all writes to the store: commits and promotions, which
	// raft's goroutine makes, and staging, which catch-up does. It also
	// guards the fields below.
	mu sync.Mutex
	// target is what catch-up works towards; nil is nothing.
	target *target
	// overlay is empty between two ApplyBatches; it is kept for its memory.
	overlay map[chain.Key]Slot
	// keys and slots are findAll's, kept for their memory.
	keys  []chain.Key
	slots []Slot
}

var _ raft.BatchingFSM = (*FSM)(nil)

// New returns the state machine over what the store holds. It refuses a store
// whose folded state it can't read, or of another chain.
func New(cfg Config) (*FSM, error) {
	if cfg.Store == nil || cfg.Staging == nil || cfg.Fatal == nil || cfg.Logger == nil || cfg.ChainID == (chain.ID{}) {
		return nil, errors.New("fsm: Store, Staging, ChainID, Fatal and Logger are required")
	}
	cfg.Logger = cfg.Logger.With("node", cfg.NodeID)
	f := &FSM{cfg: cfg, wake: make(chan struct{}, 1), overlay: map[chain.Key]Slot{}}
	view, err := f.load()
	if err != nil {
		return nil, err
	}
	f.view.Store(view)
	return f, nil
}

// load returns the view of what the store holds.
func (f *FSM) load() (*View, error) {
	v := &View{meta: f.cfg.Store.Meta(), state: newState()}
	encoded, err := f.cfg.Store.State()
	if err != nil {
		return nil, fmt.Errorf("fsm: read the folded state: %w", err)
	}
	if encoded != nil {
		if v.state, err = decodeState(encoded); err != nil {
			return nil, fmt.Errorf("fsm: %w", err)
		}
	}
	g := v.state.genesis
	switch {
	case (g != nil) != (v.meta.Head.Size > 0):
		return nil, fmt.Errorf("fsm: the store has %d entries, and its folded state says otherwise", v.meta.Head.Size)
	case g != nil && g.ChainID != f.cfg.ChainID:
		return nil, fmt.Errorf("fsm: the store holds chain %v, want %v", g.ChainID, f.cfg.ChainID)
	}
	return v, nil
}

// View returns what has been applied. It is never nil.
func (f *FSM) View() *View { return f.view.Load() }

// Halted returns why the state machine stopped, nil where it did not.
func (f *FSM) Halted() error {
	if err := f.halted.Load(); err != nil {
		return *err
	}
	return nil
}

// halt stops the state machine for good. A replica that can't apply an entry
// must not go on to the next.
func (f *FSM) halt(err error) {
	if !f.halted.CompareAndSwap(nil, &err) {
		return
	}
	f.cfg.Fatal(err)
}

func (f *FSM) publish(v *View) {
	f.view.Store(v)
	if f.cfg.Applied != nil {
		f.cfg.Applied(v)
	}
}

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (f *FSM) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }
