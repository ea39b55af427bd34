package node

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"crypto/x509"

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

// logKeyFile holds the cluster's log key, PKCS #8 in PEM.
const logKeyFile = "log.key"

// loadOrCreateLogKey returns the public half of the log key that this node
// would begin a chain with. The key is on disk before it is used: a chain whose
// key was lost could never sign a checkpoint.
func loadOrCreateLogKey(dir string) (public [ed25519.PublicKeySize]byte, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return public, accessError(dir, err)
	}
	path := filepath.Join(dir, logKeyFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			return public, fmt.Errorf("draw the log key: %w", err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return public, fmt.Errorf("encode the log key: %w", err)
		}
		if err := writeFileSynced(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			return public, fmt.Errorf("keep the log key: %w", err)
		}
		copy(public[:], key.Public().(ed25519.PublicKey))
		return public, nil
	}
	if err != nil {
		return public, fmt.Errorf("read the log key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return public, fmt.Errorf("log key %s is not PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return public, fmt.Errorf("log key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return public, fmt.Errorf("log key %s is not Ed25519", path)
	}
	copy(public[:], key.Public().(ed25519.PublicKey))
	return public, nil
}

// compactEvery is how often the log's growth is looked at.
const compactEvery = 2 * time.Second

// compactLog takes snapshots as the log grows.
func (n *Node) compactLog(ctx context.Context) error {
	for sleep(ctx, compactEvery) {
		if err := n.host.compact(n.cfg.Storage.SnapshotBytes, n.cfg.Storage.SnapshotLogs); err != nil {
			n.log.Warn("no snapshot taken", "error", err)
		}
	}
	return nil
}
