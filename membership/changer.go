package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// Witness seals the entry that explains a change and returns once it is
// committed. Where it fails, the change is not made. It must honour ctx.
type Witness func(ctx context.Context, a Action) error

// enqueueLimit is how long raft may take to accept a change for its queue.
const enqueueLimit = 5 * time.Second

// Changer is the one way to change the raft configuration: under a lock, sealed
// first. *raft.Raft is the autopilot.Raft that it changes.
type Changer struct {
	raft    autopilot.Raft
	witness Witness
	log     *slog.Logger
	// turn holds one token: who has it makes a change. Unlike a mutex, it
	// can be waited for under a context.
	turn chan struct{}
}

// NewChanger returns a Changer.
func NewChanger(r autopilot.Raft, w Witness, log *slog.Logger) (*Changer, error) {
	if r == nil || w == nil || log == nil {
		return nil, errors.New("membership: NewChanger: nil argument")
	}
	c := &Changer{raft: r, witness: w, log: log, turn: make(chan struct{}, 1)}
	c.turn <- struct{}{}
	return c, nil
}

// Apply carries out one action of a plan, and returns once the new
// configuration is committed. What is so already is done without a witness.
// ctx bounds the wait for the lock and the witness; a change that raft has
// accepted is waited for until raft decides it, at the latest when leadership
// is lost.
func (c *Changer) Apply(ctx context.Context, a Action) error {
	if a.Do == DoHold || a.Do == DoRefuse {
		return nil
	}
	select {
	case <-c.turn:
		defer func() { c.turn <- struct{}{} }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if done, err := c.done(a); done || err != nil {
		return err
	}
	if a.Witness != "" {
		if err := c.witness(ctx, a); err != nil {
			return fmt.Errorf("membership: seal %s of %s: %w", a.Witness, a.NodeID, err)
		}
	}
	if err := c.change(a); err != nil {
		return fmt.Errorf("membership: %s %s: %w", a.Do, a.NodeID, err)
	}
	c.log.Info("cluster changed", "change", a.Do, "node", a.NodeID, "server", a.ServerID, "reason", a.Reason)
	return nil
}

// done reports whether the configuration is as the action would make it.
func (c *Changer) done(a Action) (bool, error) {
	if a.Do == DoNote || a.Do == DoTransfer {
		return false, nil
	}
	f := c.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return false, fmt.Errorf("membership: read configuration: %w", err)
	}
	servers := f.Configuration().Servers
	i := slices.IndexFunc(servers, func(s raft.Server) bool { return string(s.ID) == a.ServerID })
	switch a.Do {
	case DoAdd:
		return i >= 0, nil
	case DoRemove:
		return i < 0, nil
	case DoPromote:
		return i >= 0 && servers[i].Suffrage == raft.Voter, nil
	case DoDemote:
		return i < 0 || servers[i].Suffrage == raft.Nonvoter, nil
	default:
		return false, nil
	}
}

func (c *Changer) change(a Action) error {
	id, addr := raft.ServerID(a.ServerID), raft.ServerAddress(a.NodeID)
	switch a.Do {
	case DoAdd:
		return c.raft.AddNonvoter(id, addr, 0, enqueueLimit).Error()
	case DoPromote:
		return c.raft.AddVoter(id, addr, 0, enqueueLimit).Error()
	case DoDemote:
		return c.raft.DemoteVoter(id, 0, enqueueLimit).Error()
	case DoRemove:
		return c.raft.RemoveServer(id, 0, enqueueLimit).Error()
	case DoTransfer:
		return c.raft.LeadershipTransferToServer(id, addr).Error()
	case DoNote:
		return nil
	default:
		return fmt.Errorf("unknown action %q", a.Do)
	}
}

// witnessed is the raft that autopilot is given: its changes go through the
// Changer, and end with the run.
type witnessed struct {
	autopilot.Raft
	ctx     context.Context // of the run; autopilot's calls carry none
	changer *Changer
}

func (w witnessed) apply(do Do, witness string, id raft.ServerID, addr raft.ServerAddress) raft.IndexFuture {
	if addr == "" {
		addr = w.addressOf(id)
	}
	return decided{err: w.changer.Apply(w.ctx, Action{
		Do: do, NodeID: string(addr), ServerID: string(id), Witness: witness, Reason: "autopilot",
	})}
}

func (w witnessed) addressOf(id raft.ServerID) raft.ServerAddress {
	f := w.GetConfiguration()
	if f.Error() != nil {
		return ""
	}
	for _, s := range f.Configuration().Servers {
		if s.ID == id {
			return s.Address
		}
	}
	return ""
}

func (w witnessed) AddNonvoter(id raft.ServerID, addr raft.ServerAddress, _ uint64, _ time.Duration) raft.IndexFuture {
	return w.apply(DoAdd, KindPeerAdd, id, addr)
}

func (w witnessed) AddVoter(id raft.ServerID, addr raft.ServerAddress, _ uint64, _ time.Duration) raft.IndexFuture {
	return w.apply(DoPromote, KindPromote, id, addr)
}

func (w witnessed) DemoteVoter(id raft.ServerID, _ uint64, _ time.Duration) raft.IndexFuture {
	return w.apply(DoDemote, KindDemote, id, "")
}

func (w witnessed) RemoveServer(id raft.ServerID, _ uint64, _ time.Duration) raft.IndexFuture {
	return w.apply(DoRemove, KindPeerRemove, id, "")
}

// decided is a future that was decided before it was returned. Nobody asks
// autopilot's futures for their index.
type decided struct{ err error }

func (d decided) Error() error { return d.err }
func (decided) Index() uint64  { return 0 }
