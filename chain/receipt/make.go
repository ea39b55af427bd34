package receipt

import (
	"fmt"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

// Make puts a receipt together: that the entry with this encoded header is in the tree
// of the note's checkpoint, which tiles has, or a larger one. envelope is the encoded
// envelope, nil for a receipt without. Make checks the proof and the envelope before it
// returns them, and no signature; its errors are those of tiles, and as Verify's. The
// receipt keeps header, envelope and note.
func Make(tiles chain.TileReader, header, envelope []byte, note *checkpoint.Note) (*Receipt, error) {
	h, err := chain.DecodeHeader(header)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w: %w", ErrEntry, err)
	}
	c := &note.Checkpoint
	r := &Receipt{Index: h.Sequence, Header: header, Envelope: envelope, Note: note}
	if r.Proof, err = chain.InclusionProof(r.Index, c.Size, tiles); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	if err := chain.VerifyInclusion(chain.LeafHash(header), r.Index, c.Size, c.Root, r.Proof); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	if _, err := r.entry(); err != nil {
		return nil, err
	}
	return r, nil
}
