package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
)

// Verifier remembers the largest head that it was told and checks that every
// later one extends it: a chain that was rewritten, cut or forked since shows,
// whichever node tells it. It is safe for concurrent use.
//
// The first head is taken on trust, unless the caller pins one. A Verifier
// checks that history only grew; that it was right in the first place is for
// `exonode verify`, which reads all of it.
type Verifier struct {
	c    *Client
	path string // "" keeps nothing

	mu      sync.Mutex // guards trusted, and is held while a head is checked
	trusted Head
}

// trustFile is the stored form of a head.
type trustFile struct {
	Format int        `json:"format"`
	Chain  chain.ID   `json:"chain"`
	Epoch  uint64     `json:"epoch"`
	Size   uint64     `json:"size"`
	Hash   chain.Hash `json:"hash"`
	Time   int64      `json:"time"`
	Root   chain.Hash `json:"root"`
}

const trustFormat = 1

// Verifier returns a verifier that begins with the head trusted, or with the
// first one told where trusted is the zero Head.
func (c *Client) Verifier(trusted Head) *Verifier {
	return &Verifier{c: c, trusted: trusted}
}

// VerifierFile returns a verifier that keeps its head in a file, so that it
// holds over restarts: it begins with what the file says, and writes each new
// head before it answers. A file that does not exist is created then.
func (c *Client) VerifierFile(path string) (*Verifier, error) {
	v := &Verifier{c: c, path: path}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return v, nil
	}
	if err != nil {
		return nil, fmt.Errorf("client: read the trusted head: %w", err)
	}
	var t trustFile
	if err := json.Unmarshal(b, &t); err != nil {
		return nil, fmt.Errorf("client: %s does not hold a trusted head: %w; remove it to trust the next head told", path, err)
	}
	if t.Format != trustFormat {
		return nil, fmt.Errorf("client: %s has format %d, want %d: it was written by another version", path, t.Format, trustFormat)
	}
	v.trusted = Head{Chain: t.Chain, Epoch: t.Epoch, Size: t.Size, Hash: t.Hash, Time: t.Time, Root: t.Root}
	return v, nil
}

// Trusted returns the largest head that was checked; the zero Head before the
// first.
func (v *Verifier) Trusted() Head {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.trusted
}

// VerifyHead fetches the head and checks that the tree it describes begins with
// the trusted one, and that its hash is the newest entry's. It returns the head
// and trusts it from then on; an *InconsistentError leaves trust as it was.
//
// The head is fetched linearizably, whatever Config.Consistency says: a node
// that is merely behind is no evidence.
func (v *Verifier) VerifyHead(ctx context.Context) (Head, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	told, ep, err := v.c.At(Linearizable).headFrom(ctx)
	if err != nil {
		return Head{}, err
	}
	if err := v.check(ctx, told, ep); err != nil {
		return Head{}, err
	}
	if told == v.trusted {
		return told, nil
	}
	if v.path != "" {
		if err := storeTrust(v.path, told); err != nil {
			return Head{}, fmt.Errorf("client: store the trusted head: %w", err)
		}
	}
	v.trusted = told
	return told, nil
}

// check compares a head told with the trusted one; v.mu is held.
func (v *Verifier) check(ctx context.Context, told Head, ep *endpoint) error {
	was := v.trusted
	bad := func(format string, args ...any) error {
		return &InconsistentError{Trusted: was, Told: told, Address: ep.address, Problem: fmt.Sprintf(format, args...)}
	}
	switch {
	case was == Head{}:
	case told.Chain != was.Chain:
		return bad("it is another chain")
	case told.Epoch < was.Epoch:
		return bad("its epoch went back from %d to %d", was.Epoch, told.Epoch)
	case told.Size < was.Size:
		if told.Epoch > was.Epoch {
			return bad("a recovery (epoch %d) lost %d entries", told.Epoch, was.Size-told.Size)
		}
		return bad("it shrank from %d to %d entries", was.Size, told.Size)
	case told.Size == was.Size && (told.Root != was.Root || told.Hash != was.Hash):
		return bad("it has the same size and another root")
	case told.Size == was.Size:
		return nil
	}
	// Further questions go to the node that told the head, which has got that
	// far; where it began anew since, it is waited for.
	r := v.c.At(Session)
	r.only = ep
	if was.Size > 0 {
		p, err := r.ConsistencyProof(ctx, was.Size, told.Size)
		if err != nil {
			return fmt.Errorf("get the proof that %d entries became %d: %w", was.Size, told.Size, err)
		}
		if err := chain.VerifyConsistency(was.Size, told.Size, was.Root, told.Root, p.Hashes); err != nil {
			return bad("its tree of %d entries does not begin with the trusted one of %d: %v", told.Size, was.Size, err)
		}
	}
	if told.Size == 0 {
		if told.Root != chain.EmptyRoot() {
			return bad("it is empty, but its root is not the empty tree's")
		}
		return nil
	}
	// The root says nothing of the head's hash until the entry is seen.
	e, err := r.Get(ctx, told.Size-1)
	if err != nil {
		return fmt.Errorf("get the newest entry: %w", err)
	}
	if e.Hash != told.Hash || e.Header.ChainID != told.Chain {
		return &VerifyError{ep.address, e.Sequence, fmt.Sprintf("the head told is %v", told)}
	}
	return v.included(ctx, r, e, told)
}

// VerifyEntry fetches an entry and the proof that it is in the trusted tree. It
// is for entries below Trusted().Size; VerifyHead moves that on.
func (v *Verifier) VerifyEntry(ctx context.Context, sequence uint64) (Entry, error) {
	trusted := v.Trusted()
	if sequence >= trusted.Size {
		return Entry{}, &api.Error{
			Code:    api.NotFound,
			Message: fmt.Sprintf("entry %d is beyond the trusted head of %d entries", sequence, trusted.Size),
			Hint:    "call VerifyHead first",
		}
	}
	r := v.c.At(Session)
	v.c.observe(trusted.Size)
	e, err := r.Get(ctx, sequence)
	if err != nil {
		return Entry{}, err
	}
	return e, v.included(ctx, r, e, trusted)
}

func (v *Verifier) included(ctx context.Context, r Reader, e Entry, h Head) error {
	p, err := r.InclusionProof(ctx, e.Sequence, h.Size)
	if err != nil {
		return fmt.Errorf("get the proof that entry %d is in the tree: %w", e.Sequence, err)
	}
	if err := chain.VerifyInclusion(chain.LeafHash(e.Record.Header), e.Sequence, h.Size, h.Root, p.Hashes); err != nil {
		return &VerifyError{"the cluster", e.Sequence, fmt.Sprintf("it is not in the tree of %d entries with root %v: %v", h.Size, h.Root, err)}
	}
	return nil
}

// storeTrust replaces the file atomically: after a crash it has the old head or
// the new one.
func storeTrust(path string, h Head) error {
	b, err := json.MarshalIndent(trustFile{
		Format: trustFormat, Chain: h.Chain, Epoch: h.Epoch, Size: h.Size, Hash: h.Hash, Time: h.Time, Root: h.Root,
	}, "", "  ")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails where the rename has happened
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	// The commit point, once the directory is synced.
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}
