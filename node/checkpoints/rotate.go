package checkpoints

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain/checkpoint"
)

// ErrRotate is wrapped where the log's key is not changed; nothing has happened then.
var ErrRotate = errors.New("the log's key is not changed")

// Rotate draws the key that is to follow the log's, sees to it that a quorum of the voters
// has it on disk, and returns the entry by which it follows, signed by both. The caller
// seals it; until then the old key goes on. Only whoever leads does it.
//
// Commit point: the entry. A voter that crashes before or after it has both keys, or asks
// the others.
func (s *Service) Rotate(ctx context.Context) (catalog.ChainRotate, error) {
	var none catalog.ChainRotate
	view := s.cfg.View()
	if view.Genesis() == nil || !s.cfg.Leading() {
		return none, fmt.Errorf("checkpoints: %w: this node does not lead", ErrRotate)
	}
	old := s.key(view)
	if old == nil {
		return none, fmt.Errorf("checkpoints: %w: this node does not have the one that is the log's", ErrRotate)
	}
	_, next, err := ed25519.GenerateKey(nil)
	if err != nil {
		return none, err
	}
	kept := make(map[string]bool)
	voters := Voters(view)
	var last error
	for _, v := range voters {
		err := s.offer(ctx, v.NodeID, next)
		kept[v.NodeID] = err == nil
		if err != nil {
			last = fmt.Errorf("voter %s: %w", v.NodeID, err)
		}
	}
	if !quorum(kept, voters) {
		return none, fmt.Errorf("checkpoints: %w: no quorum of the voters keeps the new one: %w", ErrRotate, last)
	}
	was, is := old.Public().(ed25519.PublicKey), next.Public().(ed25519.PublicKey)
	return catalog.ChainRotate{
		OldKey: hex.EncodeToString(was), NewKey: hex.EncodeToString(is),
		OldProof: hex.EncodeToString(checkpoint.SignRotation(old, s.cfg.Chain, was, is)),
		NewProof: hex.EncodeToString(checkpoint.SignRotation(next, s.cfg.Chain, was, is)),
	}, nil
}

func (s *Service) offer(ctx context.Context, id string, next ed25519.PrivateKey) error {
	if id == s.cfg.NodeID {
		return s.keepKey(next)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := s.cfg.Call(ctx, id, MethodOffer, next.Seed())
	return err
}

// serveOffer keeps the key that is to follow the log's, from whoever leads.
func (s *Service) serveOffer(from string, seed []byte) error {
	if from != s.cfg.Leader() {
		return fmt.Errorf("%s offers a log key, and does not lead", from)
	}
	if len(seed) != ed25519.SeedSize {
		return fmt.Errorf("a seed of %d bytes, want %d", len(seed), ed25519.SeedSize)
	}
	return s.keepKey(ed25519.NewKeyFromSeed(seed))
}
