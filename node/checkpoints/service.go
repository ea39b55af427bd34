package checkpoints

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/faults"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/signing"
)

// Methods are the calls that members make to each other; each takes and returns bytes.
const (
	// MethodCosign: a note that the log signed in, lines of signatures out.
	MethodCosign = "checkpoint.cosign"
	// MethodPublish: a final note in, nothing out.
	MethodPublish = "checkpoint.publish"
	// MethodWant asks the leader for a checkpoint now. Nothing in, nothing out.
	MethodWant = "checkpoint.want"
	// MethodKey: nothing in, the log key's 32-byte seed out, for voters alone.
	MethodKey = "checkpoint.key"
	// MethodOffer: the 32-byte seed of the key that is to follow the log's in, nothing
	// out: the member keeps it before it answers.
	MethodOffer = "checkpoint.offer"
)

// maxSignatures is how many signatures a published note has at most (c2sp.org/tlog-checkpoint).
const maxSignatures = 16

const (
	// DefaultInterval is how often a leader makes a checkpoint while the tree grows.
	DefaultInterval = time.Second
	// patience is how long a voter waits until it has applied and judged what it is to
	// cosign.
	patience = 2 * time.Second
	// callTimeout bounds a call to a member.
	callTimeout = patience + time.Second
	// grace is how long a leader that has a quorum waits for the others.
	grace = 100 * time.Millisecond
	// announceEvery is how often a node names its keys until the chain has them.
	announceEvery = 10 * time.Second
)

// Files in Config.Keys and Config.Signed.
const (
	cosignKeyFile = "cosign.key"
	mldsaKeyFile  = "ml-dsa.key"
	logMemory     = "log.json"
	cosignMemory  = "cosign.json"
)

// Config is what a Service needs of its node. All functions may be called concurrently.
type Config struct {
	NodeID string
	Chain  chain.ID
	// Keys and Signed are directories: the keys, and what was signed with them.
	Keys, Signed string
	// FS has the files of both; nil is the operating system's.
	FS membership.FS
	// MLDSA has the node cosign with ML-DSA-44 as well.
	MLDSA bool
	// Interval is how often a leader makes a checkpoint while the tree grows; 0 is
	// DefaultInterval.
	Interval time.Duration

	View func() *fsm.View
	// Tree is what this node has applied.
	Tree signing.Tree
	// Records are the entries from from on, below to.
	Records func(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error]
	// Grown returns a channel that is closed once there are more than size entries.
	Grown func(size uint64) <-chan struct{}
	// Leading reports whether this node leads, Leader who does; "" is nobody known.
	Leading func() bool
	Leader  func() string
	// Witnesses, where not nil, are outside witnesses, each with its address, whose
	// quorum makes a final checkpoint a witnessed one. HTTP reaches them.
	Witnesses *checkpoint.Policy
	HTTP      *http.Client
	// Consistency is the RFC 6962 proof between two sizes that this node has applied.
	Consistency func(from, to uint64) ([]chain.Hash, error)
	// Members are the others.
	Members func() []string
	// Voter reports whether a node votes.
	Voter func(nodeID string) bool
	// Call calls a member.
	Call func(ctx context.Context, nodeID, method string, request []byte) ([]byte, error)
	// Write brings an event of this node's into the chain, some time.
	Write func(kind, cause, subject string, payload any) error
	Now   func() time.Time
	// Faults may have the node crash where it cosigns; nil is a node that is well.
	Faults *faults.Set
	Log    *slog.Logger
}

// Service makes checkpoints with the other members. Safe for concurrent use.
type Service struct {
	cfg      Config
	judge    *judge
	cosigner *signing.Cosigner
	signers  []*checkpoint.Signer
	logged   *signing.Memory
	// wanted asks the leader's loop for a checkpoint now.
	wanted  chan struct{}
	outside []*outside

	mu sync.Mutex // guards the fields below
	// logKey is the log's key as it was used last; nil where this node had none yet.
	logKey ed25519.PrivateKey
	// final is the newest final checkpoint that this node knows; nil is none.
	final *Final
	// witnessed is the size of the newest checkpoint that a quorum of the outside
	// witnesses cosigned.
	witnessed uint64
	moved     chan struct{}
	// refusals are why voters did not sign the newest checkpoint, by node id, and
	// problem why this node, where it leads, could not make one.
	refusals map[string]string
	problem  string
	// since is when the problem began, and warned that it was logged.
	since  time.Time
	warned bool
	// sending are the members to which a checkpoint is on its way, with the one that
	// goes there next; nil is none.
	sending map[string][]byte
	// announced is when this node last named its keys, and how often it has.
	announced time.Time
	times     int
	// recorded are the cosigners of the checkpoint that this node wrote for the chain
	// last, and recordedAt is when.
	recorded   []string
	recordedAt time.Time
	// refused is why this node did not cosign last, as it logged it.
	refused string
}

// Final is a published checkpoint.
type Final struct {
	Note *checkpoint.Note
	// Bytes is the note as it is published.
	Bytes []byte
	// Voters are those of the cluster when it was signed, and Signed who of them did.
	Voters []Voter
	Signed map[string]bool
	// At is when this node had it.
	At time.Time
}

// Status is how the newest checkpoint stands.
type Status struct {
	// Size is that of the newest final checkpoint, At when this node had it, and
	// Cosigned by how many voters.
	Size     uint64
	At       time.Time
	Cosigned int
	// Witnessed is the size of the newest one with a quorum of outside witnesses;
	// Witnesses are why some do not cosign, by their names in the policy, where this
	// node leads.
	Witnessed uint64
	Witnesses map[string]string
	// Problem says why nothing newer is final; "" where nothing stands against it.
	// Refusals are the voters' reasons, by node id, where this node leads.
	Problem  string
	Refusals map[string]string
}

// Open reads keys and memory, and draws the node's own keys where there are none.
func Open(cfg Config) (*Service, error) {
	if cfg.Interval == 0 {
		cfg.Interval = DefaultInterval
	}
	s := &Service{
		cfg: cfg, judge: newJudge(cfg.Records, cfg.Now), wanted: make(chan struct{}, 1),
		moved: make(chan struct{}), refusals: make(map[string]string), sending: make(map[string][]byte),
	}
	name := fsm.CosignerName(cfg.NodeID)
	key, err := signing.Ed25519Key(filepath.Join(cfg.Keys, cosignKeyFile), cfg.FS)
	if err != nil {
		return nil, err
	}
	signer, err := checkpoint.NewCosigner(name, key)
	if err != nil {
		return nil, err
	}
	s.signers = append(s.signers, signer)
	if cfg.MLDSA {
		seed, err := signing.MLDSASeed(filepath.Join(cfg.Keys, mldsaKeyFile), cfg.FS)
		if err != nil {
			return nil, err
		}
		if signer, err = checkpoint.NewMLDSACosigner(name, seed); err != nil {
			return nil, err
		}
		s.signers = append(s.signers, signer)
	}
	memory, err := signing.OpenMemory(filepath.Join(cfg.Signed, cosignMemory), cfg.FS)
	if err != nil {
		return nil, err
	}
	if s.cosigner, err = signing.NewCosigner(memory, s.judge.upto, cfg.Now, s.signers...); err != nil {
		return nil, err
	}
	if s.logged, err = signing.OpenMemory(filepath.Join(cfg.Signed, logMemory), cfg.FS); err != nil {
		return nil, err
	}
	if cfg.Witnesses != nil {
		for _, w := range cfg.Witnesses.Witnesses {
			if w.URL == "" {
				return nil, fmt.Errorf("checkpoints: witness %s has no address", w.Name)
			}
			s.outside = append(s.outside, newOutside(w, cfg.HTTP, cfg.Consistency))
		}
	}
	return s, nil
}

// logKeyPath is where a key is that signs as the log, or may: the chain says which does.
// Each has a file of its own, so that none is lost to another.
func (s *Service) logKeyPath(public []byte) string {
	return filepath.Join(s.cfg.Keys, "log-"+hex.EncodeToString(public[:16])+".key")
}

// BeginLog draws the key of a log that begins, and returns its public half. It is on disk
// before it is used, since a chain whose key was lost could sign no checkpoint.
func (s *Service) BeginLog() (public [ed25519.PublicKeySize]byte, err error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return public, err
	}
	return [ed25519.PublicKeySize]byte(key.Public().(ed25519.PublicKey)), s.keepKey(key)
}

// Handlers are what members may call, by method.
func (s *Service) Handlers() map[string]func(ctx context.Context, from string, request []byte) ([]byte, error) {
	return map[string]func(context.Context, string, []byte) ([]byte, error){
		MethodCosign:  func(ctx context.Context, _ string, b []byte) ([]byte, error) { return s.serveCosign(ctx, b) },
		MethodPublish: func(ctx context.Context, _ string, b []byte) ([]byte, error) { return nil, s.servePublish(ctx, b) },
		MethodWant: func(context.Context, string, []byte) ([]byte, error) {
			s.want()
			return nil, nil
		},
		MethodOffer: func(_ context.Context, from string, b []byte) ([]byte, error) { return nil, s.serveOffer(from, b) },
		MethodKey:   func(_ context.Context, from string, _ []byte) ([]byte, error) { return s.serveKey(from) },
	}
}

// Run judges entries and, while this node leads, makes checkpoints, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = s.judge.run(ctx, s.cfg.Tree.Size, s.cfg.Grown) }) // it has no error but its problem
	for _, o := range s.outside {
		wg.Go(func() { o.run(ctx, func(f *Final, sig checkpoint.Signature) { s.addWitness(ctx, &wg, f, sig) }) })
	}
	tick := time.NewTicker(s.cfg.Interval)
	defer tick.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-s.wanted:
			asked = true
		}
		s.prepare(ctx)
		s.round(ctx, &wg, asked)
	}
}

// prepare gets this node what it needs to sign: the log's key, and its own keys known.
func (s *Service) prepare(ctx context.Context) {
	view := s.cfg.View()
	if view.Genesis() == nil || !s.cfg.Voter(s.cfg.NodeID) {
		return
	}
	if s.key(view) == nil {
		s.fetchKey(ctx, view)
	}
	if n, _ := view.Node(s.cfg.NodeID); n.CosignKey == s.vkey(0) && n.MLDSAKey == s.vkey(1) {
		return
	}
	s.mu.Lock()
	if time.Since(s.announced) < announceEvery {
		s.mu.Unlock()
		return
	}
	s.announced = time.Now()
	s.times++
	times := s.times
	s.mu.Unlock()
	if err := s.announce(times); err != nil {
		s.cfg.Log.Error("the node's cosigning keys are not named", "error", err)
	}
}

// vkey is the node's i-th key, "" where it has none.
func (s *Service) vkey(i int) string {
	if i >= len(s.signers) {
		return ""
	}
	k := s.signers[i].Key()
	return k.String()
}

func (s *Service) announce(times int) error {
	var keys []checkpoint.Key
	for _, signer := range s.signers {
		keys = append(keys, signer.Key())
	}
	payload := catalog.ClusterPeerKeys{NodeID: s.cfg.NodeID, CosignKey: s.vkey(0), MLDSAKey: s.vkey(1)}
	for i, proof := range []*string{&payload.CosignProof, &payload.MLDSAProof}[:len(keys)] {
		b, err := s.signers[i].ProvePossession(s.cfg.Chain, s.cfg.NodeID, keys...)
		if err != nil {
			return err
		}
		*proof = hex.EncodeToString(b)
	}
	return s.cfg.Write(catalog.KindClusterPeerKeys, fmt.Sprintf("keys/%d", times), s.cfg.NodeID, payload)
}

// key returns the log's key as a view has it, nil where this node does not have it.
func (s *Service) key(view *fsm.View) ed25519.PrivateKey {
	public := view.Genesis().LogKey
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logKey != nil && bytes.Equal(s.logKey.Public().(ed25519.PublicKey), public[:]) {
		return s.logKey
	}
	key, err := signing.ReadEd25519Key(s.logKeyPath(public[:]), s.cfg.FS)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.cfg.Log.Error("the log's key can't be read", "error", err)
		}
		return nil
	}
	s.logKey = key
	return key
}

// fetchKey asks the members for the log's key, the leader first.
func (s *Service) fetchKey(ctx context.Context, view *fsm.View) {
	for _, id := range append([]string{s.cfg.Leader()}, s.cfg.Members()...) {
		if id == "" || id == s.cfg.NodeID {
			continue
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		seed, err := s.cfg.Call(call, id, MethodKey, nil)
		cancel()
		if err == nil && len(seed) != ed25519.SeedSize {
			err = fmt.Errorf("a seed of %d bytes", len(seed))
		}
		if err != nil {
			s.cfg.Log.Debug("no log key", "from", id, "error", err)
			continue
		}
		key := ed25519.NewKeyFromSeed(seed)
		if !bytes.Equal(key.Public().(ed25519.PublicKey), view.Genesis().LogKey[:]) {
			s.cfg.Log.Warn("a member has another log's key", "from", id)
			continue
		}
		if err := s.keepKey(key); err != nil {
			s.cfg.Log.Error("the log's key is not kept", "error", err)
		}
		return
	}
}

// keepKey keeps a key that signs as the log, or may. It is on disk when it returns.
func (s *Service) keepKey(key ed25519.PrivateKey) error {
	return signing.KeepEd25519Key(s.logKeyPath(key.Public().(ed25519.PublicKey)), s.cfg.FS, key)
}

func (s *Service) serveKey(from string) ([]byte, error) {
	view := s.cfg.View()
	if view.Genesis() == nil || !s.cfg.Voter(from) {
		return nil, errors.New("the log's key is for voters")
	}
	key := s.key(view)
	if key == nil {
		return nil, errors.New("this node does not have the log's key")
	}
	return key.Seed(), nil
}

// want asks for a checkpoint now, where this node leads.
func (s *Service) want() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// Await returns the newest final checkpoint once it covers size entries; it asks for one
// that does. Where ctx ends first, the error says what stands against it.
func (s *Service) Await(ctx context.Context, size uint64) (*Final, error) {
	for {
		s.mu.Lock()
		final, moved := s.final, s.moved
		s.mu.Unlock()
		if final != nil && final.Note.Checkpoint.Size >= size {
			return final, nil
		}
		s.ask(ctx)
		again := time.NewTimer(s.cfg.Interval)
		select {
		case <-ctx.Done():
			again.Stop()
			if p := s.Status().Problem; p != "" {
				return nil, fmt.Errorf("%w: %s", ctx.Err(), p)
			}
			return nil, ctx.Err()
		case <-moved:
		case <-again.C:
		}
		again.Stop()
	}
}

// ask has the leader make a checkpoint.
func (s *Service) ask(ctx context.Context) {
	if s.cfg.Leading() {
		s.want()
		return
	}
	if leader := s.cfg.Leader(); leader != "" {
		if _, err := s.cfg.Call(ctx, leader, MethodWant, nil); err != nil {
			s.cfg.Log.Debug("no checkpoint asked for", "of", leader, "error", err)
		}
	}
}

// Final returns the newest final checkpoint that this node knows, nil where there is none.
func (s *Service) Final() *Final {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.final
}

// Status returns how the newest checkpoint stands.
func (s *Service) Status() Status {
	bad := s.judge.problem()
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Problem: s.problem, Refusals: maps.Clone(s.refusals), Witnessed: s.witnessed, Witnesses: make(map[string]string)}
	for i, o := range s.outside {
		if why := o.status(); why != "" {
			st.Witnesses[s.cfg.Witnesses.Witnesses[i].Name] = why
		}
	}
	if bad != nil {
		st.Problem = bad.Error()
	}
	if f := s.final; f != nil {
		st.Size, st.At, st.Cosigned = f.Note.Checkpoint.Size, f.At, len(f.Signed)
	}
	return st
}
