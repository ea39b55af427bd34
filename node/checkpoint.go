package node

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/node/checkpoints"
	"github.com/exonode/exonode/node/signing"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/transport"
)

// openCheckpoints opens what signs and cosigns checkpoints, and what members ask of it.
func (n *Node) openCheckpoints() (err error) {
	n.checkpoints, err = checkpoints.Open(checkpoints.Config{
		NodeID: n.identity.NodeID(), Chain: n.cfg.Cluster.Genesis.ChainID,
		Keys: n.dir.sub("keys"), Signed: n.dir.sub("signed"), FS: n.cfg.Ground.Signing,
		MLDSA: n.cfg.Checkpoints.MLDSA, Interval: n.cfg.Checkpoints.Interval,
		View: n.fsm.View, Tree: ledgerTree{n.ledger}, Grown: n.growth.beyond,
		Records: func(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
			return n.reader.Scan(ctx, chain.Filter{}, from, to, false)
		},
		Leading: n.leads, Leader: n.members.Leader, Members: n.members.others, Voter: n.members.Voter,
		Call: func(ctx context.Context, nodeID, method string, request []byte) ([]byte, error) {
			reply, _, err := n.trans.Call(ctx, transport.ClassCall, transport.PeerRef{NodeID: nodeID}, method, request)
			return reply, err
		},
		Witnesses: n.cfg.Checkpoints.Witnesses, HTTP: &http.Client{CheckRedirect: noRedirect}, Consistency: n.ledger.ConsistencyProof,
		Write: n.witness.write, Now: n.faults.Now, Faults: n.faults, Log: n.log,
	})
	if err != nil {
		return err
	}
	if err := n.checkpointMetrics(); err != nil {
		return err
	}
	for method, serve := range n.checkpoints.Handlers() {
		n.trans.Handle(transport.ClassCall, method, func(ctx context.Context, from transport.Peer, request []byte) ([]byte, error) {
			b, err := serve(ctx, from.NodeID, request)
			if err != nil {
				var remote *transport.RemoteError
				if !errors.As(err, &remote) {
					err = &transport.RemoteError{Code: transport.CodeRefused, Message: err.Error()}
				}
			}
			return b, err
		})
	}
	if err := n.openWitness(); err != nil {
		return err
	}
	n.reader.published = func() []byte {
		if f := n.checkpoints.Final(); f != nil {
			return f.Bytes
		}
		return nil
	}
	return nil
}

// checkpointMetrics shows how far checkpoints are, and whether something stands against
// them.
func (n *Node) checkpointMetrics() error {
	var errs []error
	for _, g := range []struct {
		name, help string
		value      func(checkpoints.Status) float64
	}{
		{"exonode_checkpoint_final_size", "Entries of the newest final checkpoint.", func(s checkpoints.Status) float64 { return float64(s.Size) }},
		{"exonode_checkpoint_witnessed_size", "Entries of the newest checkpoint with a quorum of outside witnesses.", func(s checkpoints.Status) float64 { return float64(s.Witnessed) }},
		{"exonode_checkpoint_blocked", "1 where this node leads and nothing newer becomes final, or where it found an entry that it does not cosign.", func(s checkpoints.Status) float64 {
			if s.Problem != "" {
				return 1
			}
			return 0
		}},
	} {
		errs = append(errs, n.registry.Register(prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Name: g.name, Help: g.help},
			func() float64 { return g.value(n.checkpoints.Status()) },
		)))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	return nil
}

// noRedirect takes what a witness answers for its answer.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// openWitness makes the node a witness of the logs that it is configured for, with a key
// of its own and a memory for that.
func (n *Node) openWitness() error {
	cfg := &n.cfg.Checkpoints
	if len(cfg.WitnessLogs) == 0 {
		return nil
	}
	key, err := signing.Ed25519Key(filepath.Join(n.dir.sub("keys"), "witness.key"), n.cfg.Ground.Signing)
	if err != nil {
		return err
	}
	signer, err := checkpoint.NewCosigner(cmp.Or(cfg.WitnessName, "exonode/witness/"+n.identity.NodeID()), key)
	if err != nil {
		return err
	}
	memory, err := signing.OpenMemory(filepath.Join(n.dir.sub("signed"), "witness.json"), n.cfg.Ground.Signing)
	if err != nil {
		return err
	}
	if n.outsider, err = signing.NewWitness(memory, cfg.WitnessLogs, n.faults.Now, signer); err != nil {
		return err
	}
	public := signer.Key()
	n.log.Info("witness", "logs", len(cfg.WitnessLogs), "key", public.String(), "path", "/witness/")
	return nil
}

// AddCheckpoint implements server.Witness.
func (n *Node) AddCheckpoint(body []byte) (server.WitnessAnswer, bool) {
	if n.outsider == nil {
		return server.WitnessAnswer{}, false
	}
	return checkpoints.AnswerWitness(n.outsider, body), true
}

// finalPatience bounds a wait for a checkpoint without a deadline of the caller's.
const finalPatience = 30 * time.Second

// FinalCheckpoint implements server.Checkpoints.
func (n *Node) FinalCheckpoint(ctx context.Context, size uint64) (server.Checkpoint, error) {
	patience, cancel := context.WithTimeout(ctx, n.patience(ctx))
	defer cancel()
	f, err := n.checkpoints.Await(patience, size)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return server.Checkpoint{}, err
	}
	if err != nil {
		if have := n.head().Size; size > have {
			return server.Checkpoint{}, &api.Error{
				Code: api.NotFinal, RetryAfterMillis: 1000,
				Message: fmt.Sprintf("the chain has %d entries here, and no checkpoint can cover %d yet", have, size),
				Hint:    "wait until so many are there, with a larger --timeout",
			}
		}
		s := n.checkpoints.Status()
		message := fmt.Sprintf("the newest final checkpoint is of %d entries, not yet of %d", s.Size, size)
		if s.Problem != "" {
			message += ": " + s.Problem
		}
		return server.Checkpoint{}, &api.Error{
			Code: api.NotFinal, Message: message, RetryAfterMillis: 1000,
			Hint: "what is committed stays; `exonode status` at the leader shows which voters do not cosign, and why",
		}
	}
	c := &f.Note.Checkpoint
	return server.Checkpoint{Note: f.Bytes, Size: c.Size, Root: c.Root}, nil
}

// patience is how long to wait for a checkpoint: a little less than the caller does, so
// that it hears why there is none.
func (n *Node) patience(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return finalPatience
	}
	left := time.Until(deadline)
	return left - min(left/10, time.Second)
}

// TrustPolicy implements server.Checkpoints.
func (n *Node) TrustPolicy(context.Context) (string, error) {
	view := n.fsm.View()
	g := view.Genesis()
	if g == nil {
		return "", &api.Error{Code: api.NotReady, Message: "the chain has not begun", RetryAfterMillis: 500}
	}
	p := checkpoints.Policy(view.Origin(), g.LogKey, checkpoints.Voters(view))
	if p.Quorum == checkpoint.NoQuorum {
		return "", &api.Error{
			Code: api.NotReady, RetryAfterMillis: 1000,
			Message: "the chain does not have the cosigning keys of a quorum of the voters yet",
			Hint:    "a node names its keys seconds after it votes; try again",
		}
	}
	return p.String(), nil
}

// RotateLogKey implements server.Operator.
func (n *Node) RotateLogKey(ctx context.Context) ([]byte, error) {
	entry, err := n.checkpoints.Rotate(ctx)
	if err != nil {
		return nil, &api.Error{Code: api.Precondition, Message: err.Error(), Hint: "ask the leader, while a quorum of the voters runs"}
	}
	if err := n.sealNow(ctx, catalog.KindChainRotate, "rotate/"+entry.NewKey, "", entry); err != nil {
		return nil, err
	}
	return hex.DecodeString(entry.NewKey)
}

// checkpointStatus is server.Status's.
func (n *Node) checkpointStatus() server.CheckpointStatus {
	s := n.checkpoints.Status()
	return server.CheckpointStatus{Size: s.Size, At: s.At, Cosigned: s.Cosigned, Problem: s.Problem, Refusals: s.Refusals, Witnessed: s.Witnessed, Witnesses: s.Witnesses}
}

// leads reports whether this node leads, and has seen to its barrier.
func (n *Node) leads() bool {
	l := &n.leadership
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.since.IsZero()
}

// ledgerTree is the ledger's tree, as those who sign it see it.
type ledgerTree struct{ proofs chainStore }

// Size implements signing.Tree.
func (t ledgerTree) Size() uint64 { return t.proofs.Meta().Head.Size }

// RootAt implements signing.Tree.
func (t ledgerTree) RootAt(size uint64) (chain.Hash, error) { return t.proofs.RootAt(size) }
