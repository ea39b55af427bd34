package checkpoints

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/fsm"
)

// Errors of Follow, beside those of a chain that does not verify.
var (
	// ErrNoAnchor: no checkpoint in the chain is final by the policy that is trusted.
	ErrNoAnchor = errors.New("no checkpoint in the chain satisfies the trusted policy")
	// ErrBroken: a checkpoint in the chain is not final by those before it.
	ErrBroken = errors.New("the chain of trust breaks")
	// ErrNewEpoch: the cluster was recovered from lost quorum; nobody whom the policy
	// trusts vouches for what came after.
	ErrNewEpoch = errors.New("a recovery from lost quorum begins another log")
)

// Followed is where Follow came to.
type Followed struct {
	// Policy is the one to trust from here on, Origin the log's.
	Policy *checkpoint.Policy
	Origin string
	// Anchor is the entry whose checkpoint the trusted policy verified, Last the one of
	// the newest checkpoint, Steps how many led from one to the other.
	Anchor, Last uint64
	Steps        int
	// Entries were verified.
	Entries uint64
}

// recorded is a chain.checkpoint entry.
type recorded struct {
	sequence uint64
	note     *checkpoint.Note
	// voters and logKey are those at the note's size, as the entries say.
	voters []Voter
	logKey [32]byte
	origin string
	root   chain.Hash
}

// logKeyHistory are the log's keys, the first one first, as the chain has them: whoever trusts
// one trusts those after it, since each signed for the next.
type logKeyHistory [][32]byte

// advance puts the key at a point of the chain in the place of an earlier one in a policy.
func (h logKeyHistory) advance(p *checkpoint.Policy, origin string, to [32]byte) *checkpoint.Policy {
	out := *p
	out.Logs = slices.Clone(p.Logs)
	for i, l := range out.Logs {
		from := slices.IndexFunc(h, func(k [32]byte) bool { return bytes.Equal(k[:], l.Key.Public) })
		if l.Key.Name == origin && l.Key.Type == checkpoint.Log && from >= 0 && from < slices.Index(h, to) {
			out.Logs[i].Key.Public = to[:]
		}
	}
	return &out
}

// Follow takes a verifier from a policy that it trusts to the one that the chain's newest
// chain.checkpoint entry names: offline, from the entries alone. The whole chain is
// verified on the way: links, tree, envelopes, and what its entries say of voters and
// keys. Each recorded checkpoint must be final by the policy before it, and be of this
// very chain. Entries before the first that the trusted policy verifies are of no account.
//
// The chain is read twice: open begins it anew, and done ends that. The error wraps
// ErrNoAnchor, ErrBroken or ErrNewEpoch, or is open's or chain.Verify's.
func Follow(ctx context.Context, open func() (source chain.Source, done func(), err error), trust *checkpoint.Policy, progress func(chain.Progress)) (*Followed, error) {
	source, done, err := open()
	if err != nil {
		return nil, err
	}
	found, err := findRecorded(ctx, source)
	done()
	if err != nil {
		return nil, err
	}
	if source, done, err = open(); err != nil {
		return nil, err
	}
	defer done()
	history, origin, entries, err := foldRecorded(ctx, source, found, progress)
	if err != nil {
		return nil, err
	}
	out := &Followed{Policy: trust, Entries: entries}
	anchored := false
	for i := range found {
		r := &found[i]
		if r.note.Checkpoint.Root != r.root {
			return nil, fmt.Errorf("checkpoints: %w: the checkpoint in entry %d is of root %v, the chain's first %d entries have %v",
				ErrBroken, r.sequence, r.note.Checkpoint.Root, r.note.Checkpoint.Size, r.root)
		}
		out.Policy = history.advance(out.Policy, r.origin, r.logKey)
		_, err := out.Policy.Verify(r.note)
		switch {
		case err == nil:
		case !anchored:
			continue
		case r.origin != out.Origin:
			return nil, fmt.Errorf("checkpoints: %w: entry %d is of log %s, the one before of %s; take a new policy from somebody you trust", ErrNewEpoch, r.sequence, r.origin, out.Origin)
		default:
			return nil, fmt.Errorf("checkpoints: %w: entry %d: %w", ErrBroken, r.sequence, err)
		}
		if !anchored {
			anchored, out.Anchor = true, r.sequence
		} else {
			out.Steps++
		}
		out.Policy, out.Origin, out.Last = Policy(r.origin, r.logKey, r.voters), r.origin, r.sequence
	}
	if !anchored {
		return nil, fmt.Errorf("checkpoints: %w: it has %d", ErrNoAnchor, len(found))
	}
	if origin == out.Origin {
		out.Policy = history.advance(out.Policy, origin, history[len(history)-1])
	}
	return out, nil
}

// findRecorded lists the chain.checkpoint entries.
func findRecorded(ctx context.Context, source chain.Source) ([]recorded, error) {
	var found []recorded
	for r, err := range source.Records(ctx, 0, source.Size()) {
		if err != nil {
			return nil, err
		}
		h, err := chain.DecodeHeader(r.Header)
		if err != nil || h.Kind != catalog.KindChainCheckpoint || h.Workspace != catalog.SystemWorkspace {
			continue // what can't be read is found when the chain is verified
		}
		e, err := r.Check()
		if err != nil || e.Envelope == nil {
			continue
		}
		var p catalog.ChainCheckpoint
		if err := json.Unmarshal(e.Envelope.Payload, &p); err != nil {
			continue
		}
		note, err := checkpoint.ParseNote([]byte(p.Note))
		if err != nil || note.Checkpoint.Size > r.Sequence {
			continue
		}
		found = append(found, recorded{sequence: r.Sequence, note: note})
	}
	return found, nil
}

// foldRecorded verifies the chain, and fills in what it says of each note's tree.
func foldRecorded(ctx context.Context, source chain.Source, found []recorded, progress func(chain.Progress)) (keys logKeyHistory, origin string, entries uint64, err error) {
	replay, tree := fsm.NewReplay(), new(chain.Tree)
	at := make(map[uint64][]int) // places in found, by size
	for i := range found {
		size := found[i].note.Checkpoint.Size
		at[size] = append(at[size], i)
	}
	report, err := chain.Verify(ctx, source, chain.VerifyOptions{
		Progress: progress,
		Check: func(e *chain.Entry) error {
			if err := replay.Check(e); err != nil {
				return err
			}
			tree.Append(e.Record.Header, nil)
			if g := replay.View().Genesis(); g != nil && (len(keys) == 0 || keys[len(keys)-1] != g.LogKey) {
				keys = append(keys, g.LogKey)
			}
			for _, i := range at[e.Header.Sequence+1] {
				r, v := &found[i], replay.View()
				r.voters, r.logKey, r.origin, r.root = Voters(v), v.Genesis().LogKey, v.Origin(), tree.Root()
			}
			return nil
		},
	})
	return keys, replay.View().Origin(), report.Entries, err
}
