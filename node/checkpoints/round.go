package checkpoints

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/node/signing"
)

// until is the beginning of a tree.
type until struct {
	signing.Tree
	size uint64
}

func (u until) Size() uint64 { return u.size }

// round makes one checkpoint where this node leads and the tree grew, or somebody asked.
func (s *Service) round(ctx context.Context, wg *sync.WaitGroup, asked bool) {
	view := s.cfg.View()
	if view.Genesis() == nil || !s.cfg.Leading() {
		s.note("", nil)
		return
	}
	size := view.Head().Size
	if f := s.Final(); f != nil && f.Note.Checkpoint.Origin == view.Origin() && f.Note.Checkpoint.Size >= size && !asked {
		return
	}
	note, err := s.sign(view, size)
	if err != nil {
		if errors.Is(err, signing.ErrContradicts) || errors.Is(err, signing.ErrBroken) {
			s.cfg.Log.Error("no checkpoint signed", "size", size, "error", err)
		}
		s.note(err.Error(), nil)
		return
	}
	voters := Voters(view)
	refusals := s.collect(ctx, note, voters)
	if ctx.Err() != nil {
		return
	}
	signed, err := signedBy(note, voters)
	if err == nil && !enough(signed, note, voters, trusted(view)) {
		err = fmt.Errorf("%d of %d voters cosigned %d entries, %d are needed", len(signed), len(voters), size, len(voters)/2+1)
	}
	if err != nil {
		s.note(summary(err, refusals), refusals)
		return
	}
	s.note("", refusals)
	final := &Final{Note: trim(note, voters), Voters: voters, Signed: signed}
	final.Bytes = final.Note.Bytes()
	s.keep(final)
	s.publish(ctx, wg, final.Bytes)
	for _, o := range s.outside {
		o.offer(final)
	}
	s.record(view, final)
}

// record seals the checkpoint into the chain where it is the first under these voters and
// keys: who trusts the ones before learns of them by it.
func (s *Service) record(view *fsm.View, f *Final) {
	var cosigners []string
	for i := range f.Voters {
		cosigners = append(cosigners, f.Voters[i].cosigner())
	}
	slices.Sort(cosigners)
	var last []string
	for _, c := range view.Trusted() {
		last = append(last, c.String())
	}
	// Where nothing has been recorded, the first that all can sign is worth it.
	keyless := slices.ContainsFunc(f.Voters, func(v Voter) bool { return len(v.Keys) == 0 })
	if slices.Equal(cosigners, last) || len(last) == 0 && keyless {
		return
	}
	s.mu.Lock()
	// On its way already, if not in the chain yet.
	again := slices.Equal(cosigners, s.recorded) && time.Since(s.recordedAt) < announceEvery
	if !again {
		s.recorded, s.recordedAt = cosigners, time.Now()
	}
	s.mu.Unlock()
	if again {
		return
	}
	p := &f.Note.Checkpoint
	cause := fmt.Sprintf("checkpoint/%d", p.Size)
	err := s.cfg.Write(catalog.KindChainCheckpoint, cause, "", catalog.ChainCheckpoint{
		TreeSize: int64(p.Size), RootHash: p.Root.String(), Cosigners: cosigners, Note: string(f.Bytes),
	})
	if err != nil {
		s.cfg.Log.Error("a checkpoint is not sealed", "size", p.Size, "error", err)
	}
}

// addWitness puts an outside witness's cosignature on the newest final checkpoint, where it
// is of that one, and publishes it again.
func (s *Service) addWitness(ctx context.Context, wg *sync.WaitGroup, f *Final, sig checkpoint.Signature) {
	s.mu.Lock()
	if s.final == nil || s.final.Note.Checkpoint.Text() != f.Note.Checkpoint.Text() {
		s.mu.Unlock()
		return
	}
	next := *s.final
	next.Note = &checkpoint.Note{Checkpoint: f.Note.Checkpoint, Signatures: slices.Clone(s.final.Note.Signatures)}
	next.Note.Add(sig)
	next.Note = trim(next.Note, next.Voters)
	next.Bytes = next.Note.Bytes()
	s.replace(&next)
	s.mu.Unlock()
	s.publish(ctx, wg, next.Bytes)
}

// isWitnessed reports whether a quorum of the outside witnesses cosigned a note.
func (s *Service) isWitnessed(n *checkpoint.Note) bool {
	if s.cfg.Witnesses == nil || s.cfg.Witnesses.Quorum == checkpoint.NoQuorum {
		return false
	}
	p := *s.cfg.Witnesses
	// Who the log is was seen to before.
	p.Logs = logKeysOf(n, s.cfg.View())
	_, err := p.Verify(n)
	return err == nil
}

// summary adds one of the refusals to an error: they are mostly the same.
func summary(err error, refusals map[string]string) string {
	for _, why := range refusals {
		return fmt.Sprintf("%v: %s", err, why)
	}
	return err.Error()
}

// worth is for how long nothing becomes final before that is a warning: at its start a
// cluster waits for its voters to name their keys.
const worth = 5 * time.Second

// note records how a round went, and logs what is new about it.
func (s *Service) note(problem string, refusals map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case problem == "":
		if s.warned {
			s.cfg.Log.Info("checkpoints become final again")
		}
		s.since, s.warned = time.Time{}, false
	case s.since.IsZero():
		s.since = time.Now()
	case !s.warned && time.Since(s.since) >= worth:
		s.warned = true
		s.cfg.Log.Warn("no checkpoint becomes final", "reason", problem)
	}
	s.problem, s.refusals = problem, refusals
}

func (s *Service) sign(view *fsm.View, size uint64) (*checkpoint.Note, error) {
	key := s.key(view)
	if key == nil {
		return nil, errors.New("this node does not have the log's key yet")
	}
	signer, err := checkpoint.NewLogSigner(view.Origin(), key)
	if err != nil {
		return nil, err
	}
	log, err := signing.NewLog(s.logged, signer)
	if err != nil {
		return nil, err
	}
	return log.Sign(until{s.cfg.Tree, size})
}

// enough reports whether a quorum signed: of the voters, and of those that the chain's
// newest checkpoint was final under, so that new keys count only once the old ones have
// confirmed them.
func enough(signed map[string]bool, note *checkpoint.Note, voters, before []Voter) bool {
	if !quorum(signed, voters) {
		return false
	}
	if len(before) == 0 {
		return true
	}
	by, err := signedBy(note, before)
	return err == nil && quorum(by, before)
}

// reply is what a voter answers.
type reply struct {
	node       string
	signatures []checkpoint.Signature
	err        error
}

// collect adds to the note the voters' genuine cosignatures, and returns why others have
// none. It waits for all, but where there are enough not for long.
func (s *Service) collect(ctx context.Context, note *checkpoint.Note, voters []Voter) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	bare := note.Bytes()
	replies := make(chan reply, len(voters))
	for _, v := range voters {
		go func() { // ends with ctx; nobody waits for a voter that hangs
			r := reply{node: v.NodeID}
			var b []byte
			if v.NodeID == s.cfg.NodeID {
				b, r.err = s.serveCosign(ctx, bare)
			} else {
				b, r.err = s.cfg.Call(ctx, v.NodeID, MethodCosign, bare)
			}
			if r.err == nil {
				r.signatures, r.err = checkpoint.ParseSignatures(b)
			}
			replies <- r
		}()
	}
	refusals := make(map[string]string)
	for _, v := range voters {
		refusals[v.NodeID] = "it did not answer in time"
	}
	signed := make(map[string]bool)
	var late <-chan time.Time
	for range voters {
		select {
		case r := <-replies:
			if r.err != nil {
				refusals[r.node] = r.err.Error()
				break
			}
			i := slices.IndexFunc(voters, func(v Voter) bool { return v.NodeID == r.node })
			if err := addGenuine(note, voters[i], r.signatures); err != nil {
				refusals[r.node] = err.Error()
				break
			}
			delete(refusals, r.node)
			signed[r.node] = true
		case <-late:
			return refusals
		case <-ctx.Done():
			return refusals
		}
		if late == nil && quorum(signed, voters) {
			timer := time.NewTimer(grace)
			defer timer.Stop()
			late = timer.C
		}
	}
	return refusals
}

// addGenuine adds the signatures of a voter's keys to a note; none is an error.
func addGenuine(note *checkpoint.Note, v Voter, signatures []checkpoint.Signature) error {
	if len(v.Keys) == 0 {
		return errors.New("the chain does not have its keys yet")
	}
	with := &checkpoint.Note{Checkpoint: note.Checkpoint, Signatures: signatures}
	by, err := with.Verify(v.Keys...)
	if err != nil {
		return err
	}
	if len(by) == 0 {
		return errors.New("its signatures are of other keys than the chain has of it")
	}
	for _, k := range by {
		for _, sig := range signatures {
			if sig.Name == k.Key.Name && sig.KeyID == k.Key.ID() {
				note.Add(sig)
			}
		}
	}
	return nil
}

// trim keeps a published note within its signatures: where there are more, the voters'
// ML-DSA ones go first, then those beyond a quorum.
func trim(note *checkpoint.Note, voters []Voter) *checkpoint.Note {
	if len(note.Signatures) <= maxSignatures {
		return note
	}
	second := make(map[uint32]bool)
	for _, v := range voters {
		for _, k := range v.Keys {
			if k.Type == checkpoint.MLDSACosigner {
				second[k.ID()] = true
			}
		}
	}
	out := &checkpoint.Note{Checkpoint: note.Checkpoint}
	for _, later := range []bool{false, true} {
		for _, sig := range note.Signatures {
			if second[sig.KeyID] == later && len(out.Signatures) < maxSignatures {
				out.Add(sig)
			}
		}
	}
	return out
}

// keep makes a final checkpoint the newest one, where it is newer.
func (s *Service) keep(f *Final) {
	f.At = s.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.final; old != nil && old.Note.Checkpoint.Origin == f.Note.Checkpoint.Origin {
		was, is := &old.Note.Checkpoint, &f.Note.Checkpoint
		if was.Size > is.Size || was.Size == is.Size && len(old.Note.Signatures) > len(f.Note.Signatures) {
			return
		}
	}
	s.replace(f)
}

// replace makes a final checkpoint the newest one. s.mu is held.
func (s *Service) replace(f *Final) {
	s.final = f
	if s.isWitnessed(f.Note) {
		s.witnessed = f.Note.Checkpoint.Size
	}
	close(s.moved)
	s.moved = make(chan struct{})
}

// publish sends a final checkpoint to all other members, and waits for none: one that is
// slow has the newest next.
func (s *Service) publish(ctx context.Context, wg *sync.WaitGroup, note []byte) {
	for _, id := range s.cfg.Members() {
		s.mu.Lock()
		_, busy := s.sending[id]
		s.sending[id] = note
		s.mu.Unlock()
		if !busy {
			wg.Go(func() { s.send(ctx, id) })
		}
	}
}

// send sends a member what there is for it.
func (s *Service) send(ctx context.Context, id string) {
	for {
		s.mu.Lock()
		note := s.sending[id]
		if note == nil {
			delete(s.sending, id)
			s.mu.Unlock()
			return
		}
		s.sending[id] = nil
		s.mu.Unlock()
		call, cancel := context.WithTimeout(ctx, callTimeout)
		if _, err := s.cfg.Call(call, id, MethodPublish, note); err != nil {
			s.cfg.Log.Debug("checkpoint not published", "to", id, "error", err)
		}
		cancel()
	}
}

// await waits until this node has applied size entries, for at most patience. That it
// has not is for the caller to find.
func (s *Service) await(ctx context.Context, size uint64) {
	for have := s.cfg.Tree.Size(); have < size; have = s.cfg.Tree.Size() {
		select {
		case <-ctx.Done():
			return
		case <-s.cfg.Grown(have):
		}
	}
}

func (s *Service) serveCosign(ctx context.Context, request []byte) ([]byte, error) {
	note, err := checkpoint.ParseNote(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p := &note.Checkpoint
	s.await(ctx, p.Size)
	s.judge.await(ctx, p.Size)
	view := s.cfg.View()
	if view.Genesis() == nil || p.Origin != view.Origin() {
		return nil, fmt.Errorf("the log is %q here, not %q", view.Origin(), p.Origin)
	}
	s.cfg.Faults.Reach(faults.BeforeCosign)
	signatures, err := s.cosigner.Cosign(note, logKeys(view), s.cfg.Tree)
	if err != nil {
		if errors.Is(err, signing.ErrContradicts) || errors.Is(err, ErrVerdict) || errors.Is(err, signing.ErrBroken) {
			s.alarm(p.Size, err)
		}
		return nil, err
	}
	s.cfg.Faults.Reach(faults.AfterCosign)
	var out bytes.Buffer
	for i := range signatures {
		out.WriteString(signatures[i].Line())
	}
	return out.Bytes(), nil
}

// logKeysOf are the log's keys as a policy has them.
func logKeysOf(n *checkpoint.Note, view *fsm.View) (out []checkpoint.PolicyLog) {
	for _, k := range logKeys(view) {
		if k.Name == n.Checkpoint.Origin {
			out = append(out, checkpoint.PolicyLog{Key: k})
		}
	}
	return out
}

// alarm logs why this node does not cosign, once for each reason: the leader asks every
// second.
func (s *Service) alarm(size uint64, err error) {
	s.mu.Lock()
	kind := err
	for _, k := range []error{signing.ErrContradicts, ErrVerdict, signing.ErrBroken} {
		if errors.Is(err, k) {
			kind = k
		}
	}
	known := s.refused == kind.Error()
	s.refused = kind.Error()
	s.mu.Unlock()
	if !known {
		s.cfg.Log.Error("a checkpoint is not cosigned", "size", size, "error", err)
	}
}

func logKeys(view *fsm.View) []checkpoint.Key {
	key := view.Genesis().LogKey
	return []checkpoint.Key{{Name: view.Origin(), Type: checkpoint.Log, Public: key[:]}}
}

// servePublish takes a final checkpoint from a member, after checking all of it.
func (s *Service) servePublish(ctx context.Context, request []byte) error {
	note, err := checkpoint.ParseNote(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p := &note.Checkpoint
	s.await(ctx, p.Size)
	view := s.cfg.View()
	if view.Genesis() == nil || p.Origin != view.Origin() {
		return fmt.Errorf("the log is %q here, not %q", view.Origin(), p.Origin)
	}
	if have := s.cfg.Tree.Size(); have < p.Size {
		return fmt.Errorf("%w: %d of %d entries", signing.ErrBehind, have, p.Size)
	}
	root, err := s.cfg.Tree.RootAt(p.Size)
	if err != nil {
		return err
	}
	if root != p.Root {
		s.cfg.Log.Error("a final checkpoint is of another chain than this node's", "size", p.Size, "root", p.Root, "here", root)
		return fmt.Errorf("%w: root %v of %d entries, it is %v here", chain.ErrProof, p.Root, p.Size, root)
	}
	by, err := note.Verify(logKeys(view)...)
	if err != nil {
		return err
	}
	voters := Voters(view)
	signed, err := signedBy(note, voters)
	if err != nil {
		return err
	}
	if len(by) == 0 || !quorum(signed, voters) {
		return fmt.Errorf("%w: %d of %d voters", checkpoint.ErrQuorum, len(signed), len(voters))
	}
	s.keep(&Final{Note: note, Bytes: request, Voters: voters, Signed: signed})
	return nil
}

// Reasons lists refusals as a text, sorted, for people.
func (s *Status) Reasons() string {
	var lines []string
	for id, why := range s.Refusals {
		lines = append(lines, id+": "+why)
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}
