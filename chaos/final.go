package chaos

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/client"
)

// final reads the first size entries of every node, byte for byte, and has each node's
// chain verified. A node that can't be read, or has lost its chain, is what the run looks
// for: it is a replica with a problem.
func (r *run) final(ctx context.Context, admin *client.Client, size uint64) *history.Final {
	f := &history.Final{Size: size, Troubles: r.troubles}
	var roots map[uint64]chain.Hash
	wanted := r.wantedRoots()
	wanted[size] = true
	for i, addr := range r.addrs {
		replica := history.Replica{Node: r.names[i]}
		if r.lab != nil && !r.lab.Running(r.names[i]) {
			if r.lab.Removed(r.names[i]) {
				continue
			}
			replica.Problems = append(replica.Problems, "it does not run")
			f.Replicas = append(f.Replicas, replica)
			continue
		}
		var entries []history.Entry
		var found map[uint64]chain.Hash
		err := within(ctx, r.patience(readLimit), func(ctx context.Context) (err error) {
			entries, found, err = r.replica(ctx, admin, addr, size, &replica, wanted)
			return err
		})
		if err != nil {
			replica.Problems = append(replica.Problems, err.Error())
		} else if f.Entries == nil {
			f.Entries, roots = entries, found
		}
		r.verify(ctx, addr, &replica)
		f.Replicas = append(f.Replicas, replica)
	}
	// Those that were read come first: the others are compared with the first.
	slices.SortStableFunc(f.Replicas, func(a, b history.Replica) int { return cmp.Compare(b.Size, a.Size) })
	f.RootAt = func(n uint64) (chain.Hash, error) {
		root, ok := roots[n]
		if !ok {
			return chain.Hash{}, fmt.Errorf("no root was kept of the first %d entries", n)
		}
		return root, nil
	}
	return f
}

// wantedRoots are the sizes at which clients were told roots.
func (r *run) wantedRoots() map[uint64]bool {
	wanted := make(map[uint64]bool)
	for _, op := range r.rec.Peek() {
		if (op.Kind == history.Head || op.Kind == history.Checkpoint) && !op.Root.IsZero() {
			wanted[op.Size] = true
		}
	}
	return wanted
}

// replica reads the first size entries of one node, and the roots at the sizes wanted.
func (r *run) replica(ctx context.Context, admin *client.Client, addr string, size uint64, out *history.Replica, wanted map[uint64]bool) ([]history.Entry, map[uint64]chain.Hash, error) {
	reader, err := admin.On(addr)
	if err != nil {
		return nil, nil, err
	}
	roots := make(map[uint64]chain.Hash)
	reader = reader.At(client.Session) // at least what the last append was acknowledged with
	if len(r.troubles) > 0 {
		reader = reader.At(client.Stale) // what it has
	}
	var entries []history.Entry
	digest := blake3.New()
	tree := new(chain.Tree)
	put := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		_, _ = digest.Write(n[:]) // never fails
		_, _ = digest.Write(b)
	}
	for e, err := range reader.List(ctx, client.ListQuery{To: size}) {
		if err != nil {
			return nil, nil, err
		}
		if e.Sequence != uint64(len(entries)) {
			return nil, nil, fmt.Errorf("entry %d comes where %d is due", e.Sequence, len(entries))
		}
		put(e.Record.Header)
		put(e.Record.Envelope)
		tree.Append(e.Record.Header, func(int, uint64, []byte) {})
		if n := tree.Size(); wanted[n] {
			roots[n] = tree.Root()
		}
		entries = append(entries, history.Entry{Sequence: e.Sequence, Hash: e.Hash, Key: e.Header.Key(), Kind: e.Header.Kind, Time: e.Header.Time})
	}
	if uint64(len(entries)) != size {
		return nil, nil, fmt.Errorf("it has %d entries, want %d", len(entries), size)
	}
	out.Size, out.Root = size, tree.Root()
	if size > 0 {
		out.Hash = entries[size-1].Hash
	}
	digest.Sum(out.Digest[:0])
	return entries, roots, nil
}

// verify has the program verify a node's chain, verdicts included, as anybody would.
func (r *run) verify(ctx context.Context, addr string, out *history.Replica) {
	binary := r.cfg.Binary
	if binary == "" {
		var err error
		if binary, err = os.Executable(); err != nil {
			out.Problems = append(out.Problems, err.Error())
			return
		}
	}
	cmd := exec.CommandContext(ctx, binary, "verify", "--addr", addr, "--timeout", r.patience(readLimit).String(), "-o", "json")
	text, err := cmd.Output()
	var found struct {
		OK       bool   `json:"ok"`
		Verdicts uint64 `json:"verdicts_replayed"`
	}
	if jerr := json.Unmarshal(text, &found); jerr != nil || err != nil || !found.OK {
		problem := strings.TrimSpace(string(text))
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			problem += " " + strings.TrimSpace(string(exit.Stderr))
		}
		out.Problems = append(out.Problems, fmt.Sprintf("exonode verify: %v: %s", err, problem))
	}
	out.Verdicts = found.Verdicts
}
