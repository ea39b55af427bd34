package checkpoints

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
)

// maxAhead is how far ahead of this node's clock an entry may be stamped for the node to
// cosign it.
const maxAhead = 30 * time.Second

// Errors of the judge, beside those of package signing.
var (
	// ErrAhead: entries are stamped ahead of this node's clock: one of the two is
	// wrong.
	ErrAhead = errors.New("entries are stamped ahead of this node's clock")
	// ErrVerdict: an entry does not follow from the chain before it. Somebody's
	// leader was at fault: `exonode verify` names the entry too.
	ErrVerdict = errors.New("entry may not be cosigned")
)

// judge evaluates the chain's verdicts again, in the background, and says up to where
// they follow.
type judge struct {
	records func(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error]
	replay  *fsm.Replay
	now     func() time.Time

	mu    sync.Mutex // guards the fields below
	size  uint64     // entries below it follow
	bad   error      // about entry size: nothing beyond is cosigned
	moved chan struct{}
}

func newJudge(records func(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error], now func() time.Time) *judge {
	return &judge{records: records, replay: fsm.NewReplay(), now: now, moved: make(chan struct{})}
}

// run judges what is there, up to size, and whatever comes. grown returns a channel that
// is closed once there are more entries than a size.
func (j *judge) run(ctx context.Context, size func() uint64, grown func(uint64) <-chan struct{}) error {
	next := uint64(0)
	for {
		for r, err := range j.records(ctx, next, size()) {
			if ctx.Err() != nil {
				return nil
			}
			if err == nil {
				err = j.check(&r)
			}
			next++
			if !j.judged(next, err) {
				<-ctx.Done()
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-grown(next):
		}
	}
}

// check folds one record. What no verdict is about and no fold reads is taken as it is:
// the tree is held against the leader's anyway.
func (j *judge) check(r *chain.Record) error {
	var e chain.Entry
	if err := e.Header.UnmarshalBinary(r.Header); err != nil {
		return err
	}
	if e.Header.Workspace == catalog.SystemWorkspace || e.Header.Verdict != nil {
		var err error
		if e, err = r.Check(); err != nil {
			return err
		}
	}
	return j.replay.Check(&e)
}

// judged records that entries below size follow, or that the last of them does not.
func (j *judge) judged(size uint64, err error) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.bad = fmt.Errorf("%w: entry %d: %w", ErrVerdict, size-1, err)
	} else {
		j.size = size
	}
	close(j.moved)
	j.moved = make(chan struct{})
	return err == nil
}

// problem is the entry that does not follow; nil where all do.
func (j *judge) problem() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.bad
}

// await returns once size entries are judged, one was found that may not be cosigned, or
// ctx ends.
func (j *judge) await(ctx context.Context, size uint64) {
	for {
		j.mu.Lock()
		done, moved := j.size >= size || j.bad != nil, j.moved
		j.mu.Unlock()
		if done {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-moved:
		}
	}
}

// errUnjudged: the judge is not that far.
var errUnjudged = errors.New("verdicts are still being evaluated")

// upto says whether what stands below size may be cosigned now.
func (j *judge) upto(size uint64) error {
	if size == 0 {
		return nil
	}
	j.mu.Lock()
	have, bad := j.size, j.bad
	j.mu.Unlock()
	switch {
	case have >= size:
	case bad != nil:
		return bad
	default:
		return fmt.Errorf("%w: %d of %d entries", errUnjudged, have, size)
	}
	// Times only grow.
	for r, err := range j.records(context.Background(), size-1, size) {
		if err != nil {
			return err
		}
		h, err := chain.DecodeHeader(r.Header)
		if err != nil {
			return err
		}
		if ahead := time.Unix(0, h.Time).Sub(j.now()); ahead > maxAhead {
			return fmt.Errorf("%w: entry %d by %v, at most %v; compare the clocks of the leader and of this node",
				ErrAhead, h.Sequence, ahead.Round(time.Second), maxAhead)
		}
	}
	return nil
}
