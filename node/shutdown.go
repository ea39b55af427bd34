package node

import (
	"context"
	"errors"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
)

// How long the parts of a shutdown may take.
const (
	farewell = 3 * time.Second // the boot.shutdown event and the handover
	goodbye  = time.Second     // gossip's leave
)

// shutdown takes the node down in this order:
//
//  1. The readiness goes, so that balancers send nobody here.
//  2. boot.shutdown is witnessed and delivered while there is a leader.
//  3. Leadership is handed over, so that the others need no election.
//  4. The pipeline ends: what waits is answered. Raft is still there, since
//     commands in flight end only through it.
//  5. Raft ends, then what serves others (API, peers, gossip): they may ask
//     raft until it is gone.
//  6. The stores close: nobody writes any more.
//
// Every step is tried, whatever the others say.
func (n *Node) shutdown(stopPipeline func(), pipelineDone <-chan struct{}, stopBackground func(), group *errgroup.Group) error {
	n.enter(Stopping)
	var errs []error
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	reason := "stopped"
	select {
	case <-n.leave:
		reason = "left the cluster"
	default:
	}
	errs = append(errs, n.witnessShutdown(reason))
	r := n.host.get()
	if r != nil && reason == "stopped" {
		n.awaitOutbox(ctx, pipelineDone)
		if r.leads() && len(n.members.configuration().Servers) > 1 {
			if err := n.handOver(ctx, r); err != nil {
				n.log.Warn("leadership not handed over", "error", err)
			}
		}
	}
	stopPipeline()
	<-pipelineDone
	errs = append(errs, n.host.stop())
	if err := n.gossip.Leave(goodbye); err != nil {
		n.log.Debug("gossip did not take leave", "error", err)
	}
	stopBackground()
	errs = append(errs, group.Wait())
	errs = append(errs, n.close())
	return errors.Join(errs...)
}

// awaitOutbox gives the outbox time to be delivered, while there is a way.
func (n *Node) awaitOutbox(ctx context.Context, pipelineDone <-chan struct{}) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n.outbox.Len() > 0 && n.members.Leader() != "" {
		select {
		case <-ctx.Done():
			return
		case <-pipelineDone:
			return
		case <-tick.C:
		}
	}
}

func (n *Node) handOver(ctx context.Context, r *instance) error {
	future := r.LeadershipTransfer()
	done := make(chan error, 1)
	go func() { done <- future.Error() }() // ends with raft's own deadline
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close closes what New opened, in reverse. It may be called twice, and after a
// New that failed half way.
func (n *Node) close() error {
	var errs []error
	closeIt := func(c io.Closer, present bool) {
		if present {
			errs = append(errs, c.Close())
		}
	}
	closeIt(n.server, n.server != nil)
	if n.host != nil {
		errs = append(errs, n.host.stop())
	}
	closeIt(n.trans, n.trans != nil)
	closeIt(n.gossip, n.gossip != nil)
	if n.trans == nil {
		closeIt(n.peerListener, n.peerListener != nil)
	}
	if n.server == nil {
		closeIt(n.apiListener, n.apiListener != nil)
	}
	closeIt(n.ledger, n.ledger != nil)
	closeIt(n.stores, n.stores != nil)
	closeIt(n.outbox, n.outbox != nil)
	if n.dir != nil {
		errs = append(errs, n.dir.Close())
		n.dir = nil
	}
	return errors.Join(errs...)
}
