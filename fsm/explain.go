package fsm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
)

// errUnexplained says that all is staged, and that entries came without an
// envelope though nothing up to the manifest's head redacts them.
var errUnexplained = errors.New("fsm: envelopes are missing")

// maxUnexplained is how often explain may fail until catch-up begins anew: a
// peer that has not applied a redaction yet does no harm.
const maxUnexplained = 3

// explain looks beyond the manifest for the redactions of entries that came
// without their envelopes: a peer that goes on committing has redacted them
// meanwhile, and nobody can give them any more. The entries that it reads link
// to the manifest's head. Where it finds none, the peer withheld them, and what
// it gave is dropped.
func (c *Catchup) explain(ctx context.Context) error {
	missing, err := c.redactedBeyond(ctx)
	if err != nil {
		c.unexplained++
		err = fmt.Errorf("fsm: entry %d and %d more came without their envelopes, and no entry redacts them: %w",
			missing[0], len(missing)-1, err)
		if c.unexplained < maxUnexplained {
			return err
		}
		c.unexplained = 0
		if err := c.locked(c.fsm.cfg.Staging.DropStaging); err != nil {
			return &fatalError{fmt.Errorf("fsm: drop staging: %w", err)}
		}
		return fmt.Errorf("%w: %w", ErrDiverged, err)
	}
	c.unexplained = 0
	fold := progress{state: c.fold.state}
	encoded, err := fold.encode()
	if err != nil {
		return err
	}
	err = c.locked(func() error {
		staging := c.fsm.cfg.Staging
		if staging.Staged() != c.at {
			return nil // the log brought entries; look again
		}
		if err := staging.Stage(&Update{State: encoded}); err != nil {
			return &fatalError{fmt.Errorf("fsm: stage: %w", err)}
		}
		c.fold = fold
		if err := staging.FlushStaging(); err != nil {
			return &fatalError{fmt.Errorf("fsm: flush staging: %w", err)}
		}
		return nil
	})
	return err
}

// redactedBeyond reads entries from the staged head on until all that is missing
// is redacted. It returns what is not, with the error that ended it.
func (c *Catchup) redactedBeyond(ctx context.Context) ([]uint64, error) {
	head, epoch, missing := c.at, c.fold.state.epoch, slices.Clone(c.fold.missing)
	for {
		to := head.Size + fetchEntries
		for record, err := range c.fetcher.Fetch(ctx, head.Size, to) {
			if err != nil {
				return missing, err
			}
			e, err := checkRecord(&record, c.fsm.cfg.ChainID, head, epoch)
			if err != nil {
				return missing, err
			}
			h := &e.header
			epoch = h.Epoch
			head = chain.Head{Size: h.Sequence + 1, Hash: e.hash, Time: h.Time}
			if h.Workspace != catalog.SystemWorkspace || h.Kind != catalog.KindChainRedact {
				continue
			}
			target, err := redactTarget(h, e.payload)
			if err != nil {
				return missing, err
			}
			// What may be missing may be redacted: checkRecord has seen to it.
			missing = slices.DeleteFunc(missing, func(seq uint64) bool { return seq == target })
			if len(missing) == 0 {
				return nil, nil
			}
		}
		if head.Size < to {
			return missing, fmt.Errorf("the chain ends at entry %d", head.Size)
		}
	}
}
