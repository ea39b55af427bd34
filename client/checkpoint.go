package client

import (
	"context"
	"fmt"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/receipt"
)

// Checkpoint returns a final checkpoint whose tree has at least minSize entries, and waits
// for one until ctx ends; 0 is the newest that there is. Where a quorum of the voters does
// not cosign, the error is an *api.Error with api.NotFinal. Whose signatures it has is not
// checked here: checkpoint.Policy.Verify does, with a policy that the caller trusts.
func (r Reader) Checkpoint(ctx context.Context, minSize uint64) (*checkpoint.Note, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (*checkpoint.Note, error) {
		res, err := ep.ledger.GetCheckpoint(ctx, &exonodev1.GetCheckpointRequest{MinSize: minSize})
		if err != nil {
			return nil, err
		}
		n, err := checkpoint.ParseNote(res.GetNote())
		if err != nil {
			return nil, &VerifyError{ep.address, minSize, err.Error()}
		}
		if n.Checkpoint.Size < minSize {
			return nil, &VerifyError{ep.address, minSize, fmt.Sprintf("its checkpoint is of %d entries, %d were asked for", n.Checkpoint.Size, minSize)}
		}
		return n, nil
	})
}

// TrustPolicy returns the policy by which the cluster says that its checkpoints are final
// now. Who takes it from here trusts the node that answers, this once.
func (r Reader) TrustPolicy(ctx context.Context) (*checkpoint.Policy, error) {
	return try(ctx, r, repeatable, func(ctx context.Context, ep *endpoint) (*checkpoint.Policy, error) {
		res, err := ep.ledger.GetTrustPolicy(ctx, &exonodev1.GetTrustPolicyRequest{})
		if err != nil {
			return nil, err
		}
		p, err := checkpoint.ParsePolicy([]byte(res.GetPolicy()))
		if err != nil {
			return nil, &VerifyError{ep.address, 0, err.Error()}
		}
		return p, nil
	})
}

// Receipt returns the proof that an entry is in the tree of a final checkpoint, and waits
// for one that covers it until ctx ends. The envelope goes into it where it is asked for
// and not redacted. That the proof leads to the checkpoint's root is checked; whose
// signatures the checkpoint has is for receipt.Receipt.Verify.
func (r Reader) Receipt(ctx context.Context, sequence uint64, envelope bool) (*receipt.Receipt, error) {
	e, err := r.Get(ctx, sequence)
	if err != nil {
		return nil, err
	}
	note, err := r.Checkpoint(ctx, sequence+1)
	if err != nil {
		return nil, err
	}
	c := &note.Checkpoint
	proof, err := r.InclusionProof(ctx, sequence, c.Size)
	if err != nil {
		return nil, err
	}
	if err := chain.VerifyInclusion(chain.LeafHash(e.Record.Header), sequence, c.Size, c.Root, proof.Hashes); err != nil {
		return nil, &VerifyError{"the cluster", sequence, err.Error()}
	}
	out := &receipt.Receipt{Index: sequence, Header: e.Record.Header, Proof: proof.Hashes, Note: note}
	if envelope {
		out.Envelope = e.Record.Envelope
	}
	return out, nil
}
