package evidence

import (
	"errors"
	"fmt"

	"github.com/exonode/exonode/chain"
)

// ErrRule is wrapped where an entry breaks a rule of the chain that its header alone,
// and its predecessor's, show.
var ErrRule = errors.New("the entry breaks a rule of the chain")

// Tip is what the next entry of a chain is held against: the last one.
type Tip struct {
	// Size is the number of entries. Of an empty chain only ChainID has a meaning.
	Size uint64 `json:"size"`
	// ChainID is zero where it is not known yet: then entry 0 says it.
	ChainID chain.ID   `json:"chain_id"`
	Epoch   uint64     `json:"epoch"`
	Hash    chain.Hash `json:"hash"`
	Time    int64      `json:"time"`
}

// At returns the tip after an entry that is believed to be the one of that index. The
// error wraps ErrRule where it can't be.
func At(index uint64, header []byte) (Tip, error) {
	_, tip, err := at(index, header)
	return tip, err
}

func at(index uint64, header []byte) (chain.Header, Tip, error) {
	h, err := chain.DecodeHeader(header)
	if err != nil {
		return h, Tip{}, fmt.Errorf("%w: entry %d: %w", ErrRule, index, err)
	}
	if h.Sequence != index {
		return h, Tip{}, fmt.Errorf("%w: entry %d says that it is entry %d", ErrRule, index, h.Sequence)
	}
	return h, Tip{Size: index + 1, ChainID: h.ChainID, Epoch: h.Epoch, Hash: chain.HeaderHash(header), Time: h.Time}, nil
}

// Next checks the next entry by its header, as docs/FORMAT.md, section 8 has it: steps 2
// to 7. The error wraps ErrRule.
func (t *Tip) Next(header []byte) (Tip, error) {
	h, next, err := at(t.Size, header)
	if err != nil {
		return Tip{}, err
	}
	system := h.Workspace == "system"
	genesis, recovery := system && h.Kind == "chain.genesis", system && h.Kind == "chain.recover"
	broken := func(format string, args ...any) (Tip, error) {
		return Tip{}, fmt.Errorf("%w: entry %d "+format, append([]any{ErrRule, t.Size}, args...)...)
	}
	switch {
	case t.ChainID != chain.ID{} && h.ChainID != t.ChainID:
		return broken("is of chain %v, not of %v", h.ChainID, t.ChainID)
	case genesis != (t.Size == 0):
		return broken("has kind %s in workspace %s", h.Kind, h.Workspace)
	case t.Size == 0 && !h.Previous.IsZero():
		return broken("names a predecessor")
	case t.Size == 0:
		return next, nil
	case h.Previous != t.Hash:
		return broken("names %v as its predecessor's hash, which is %v", h.Previous, t.Hash)
	case h.Time <= t.Time:
		return broken("has time %d, its predecessor %d", h.Time, t.Time)
	case h.Epoch < t.Epoch || (h.Epoch > t.Epoch) != recovery:
		return broken("goes from epoch %d to %d at kind %s in workspace %s", t.Epoch, h.Epoch, h.Kind, h.Workspace)
	}
	return next, nil
}
