package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/node/pipeline"
	"github.com/exonode/exonode/outbox"
	"github.com/exonode/exonode/server"
)

// sourceNode is the source of what a node writes of itself.
const sourceNode = "exonode:node"

// note is an event of the node about itself, as the outbox keeps it.
type note struct {
	Kind    string          `json:"kind"`
	ID      string          `json:"id"`
	Subject string          `json:"subject,omitempty"`
	Time    int64           `json:"time"`
	Payload json.RawMessage `json:"payload"`
}

// proposal makes the note an event in workspace system.
func (n *note) proposal(nodeID string) fsm.Proposal {
	return fsm.Proposal{
		Event: chain.Event{
			Workspace:   pipeline.SystemWorkspace,
			Source:      sourceNode,
			ID:          n.ID,
			Kind:        n.Kind,
			Subject:     n.Subject,
			Payload:     n.Payload,
			ContentType: "application/json",
			ClientTime:  n.Time,
		},
		Principal: fsm.NodePrincipal(nodeID),
	}
}

// witness writes down what the node does and sees, and brings it into the
// chain: first into the outbox, which is synced, so that neither a crash nor
// the lack of a leader loses it; then through the pipeline.
type witness struct {
	nodeID string
	// boot names this run of the process in ids.
	boot   string
	outbox *outbox.Queue
	clock  func() time.Time
	logger *slog.Logger
}

// write puts an event into the outbox; its return is the commit point. The id
// is derived from the node, this boot and cause, so that what is delivered
// twice is sealed once.
func (w *witness) write(kind, cause, subject string, payload any) error {
	b, err := json.Marshal(payload)
	if err != nil {
		return fmt.Errorf("witness %s: %w", kind, err)
	}
	item, err := json.Marshal(note{Kind: kind, ID: w.id(cause), Subject: subject, Time: w.clock().UnixNano(), Payload: b})
	if err != nil {
		return fmt.Errorf("witness %s: %w", kind, err)
	}
	_, err = w.outbox.Append(item)
	if errors.Is(err, outbox.ErrFull) {
		// Without a leader for that long. The node must not fail for what
		// it has to tell: it may be the one that brings a leader back.
		w.logger.Error("the outbox is full; an event of the node is lost", "kind", kind, "id", cause, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("witness %s: %w", kind, err)
	}
	return nil
}

// id names an event of this boot by its cause, which may be long: it has
// addresses in it.
func (w *witness) id(cause string) string {
	id := w.nodeID + "/" + w.boot + "/"
	if len(id)+len(cause) > chain.MaxID {
		sum := sha256.Sum256([]byte(cause))
		cause = hex.EncodeToString(sum[:])
	}
	return id + cause
}

// drainBatch is how many notes travel at once.
const drainBatch = 64

// drain brings what is in the outbox into the chain until ctx ends.
func (w *witness) drain(ctx context.Context, p *pipeline.Pipeline) error {
	for {
		items, err := w.outbox.Peek(drainBatch)
		if err != nil {
			return fmt.Errorf("read the outbox: %w", err)
		}
		if len(items) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-w.outbox.Ready(0):
			}
			continue
		}
		if err := w.deliver(ctx, p, items); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			w.logger.Debug("outbox not delivered yet", "items", len(items), "error", err)
			if !sleep(ctx, time.Second) {
				return nil
			}
			continue
		}
		if err := w.outbox.Ack(items[len(items)-1].ID); err != nil {
			return fmt.Errorf("acknowledge the outbox: %w", err)
		}
	}
}

// deliver returns nil once every item is in the chain, or can never be.
func (w *witness) deliver(ctx context.Context, p *pipeline.Pipeline, items []outbox.Item) error {
	proposals := make([]fsm.Proposal, 0, len(items))
	for _, item := range items {
		var n note
		if err := json.Unmarshal(item.Data, &n); err != nil {
			// It never will be one: it must not keep the others.
			w.logger.Error("what the outbox holds is no event", "item", item.ID, "error", err)
			continue
		}
		proposals = append(proposals, n.proposal(w.nodeID))
	}
	pending, err := p.Witness(proposals)
	if err != nil {
		return err
	}
	acks, err := pending.Wait(ctx)
	if err != nil {
		return err
	}
	for i, ack := range acks {
		if ack.Err == nil {
			continue
		}
		if retriable(ack) {
			return ack.Err
		}
		w.logger.Error("the chain refuses what the node witnessed", "kind", proposals[i].Kind, "error", ack.Err)
	}
	return nil
}

func retriable(ack server.Ack) bool {
	e, ok := ack.Err.(*api.Error)
	if !ok {
		return true
	}
	switch e.Code {
	case api.NoLeader, api.NotReady, api.UnknownOutcome, api.QueueFull, api.DeadlineExceeded:
		return true
	}
	return false
}

// sleep waits; false means that ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
