package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// samplesPerWriter and maxSamples bound what is read back.
const (
	samplesPerWriter = 2
	maxSamples       = 2000
)

// acked is what the cluster acknowledged in a run.
type acked struct {
	source string

	mu      sync.Mutex // guards the fields below
	count   uint64
	samples []receipt
}

func newAcked(source string) *acked { return &acked{source: source} }

// sampler counts a writer's acknowledgements and keeps the first and the last.
type sampler struct {
	acked *acked
	first receipt
	last  receipt
	n     uint64
}

func (a *acked) sampler() *sampler { return &sampler{acked: a} }

func (s *sampler) keep(r receipt) {
	if s.n == 0 {
		s.first = r
	}
	s.last = r
	s.n++
}

// done hands in what the sampler has. A writer calls it at its end.
func (s *sampler) done() {
	if s.n == 0 {
		return
	}
	s.acked.mu.Lock()
	defer s.acked.mu.Unlock()
	s.acked.count += s.n
	s.acked.samples = append(s.acked.samples, s.first, s.last)
}

// Check is what was found after the cells.
type Check struct {
	// Acknowledged events of this run, and those of them in the chain.
	Acknowledged uint64 `json:"acknowledged"`
	InChain      uint64 `json:"in_chain"`
	// ReadBack is how many events were looked up by their id and compared.
	ReadBack int `json:"read_back"`
	// Heads is how many nodes have the same head and root, at Size entries.
	Heads int    `json:"same_heads"`
	Size  uint64 `json:"chain_size"`
	// Verified is what the verification of one node's chain said; "" where
	// none was made.
	Verified string  `json:"verified,omitempty"`
	Seconds  float64 `json:"seconds"`
}

// LostError says that the cluster does not have what it acknowledged, or that
// its nodes disagree.
type LostError struct{ Problem string }

// Error implements error.
func (e *LostError) Error() string { return "the cluster did not keep its word: " + e.Problem }

func lost(format string, args ...any) error { return &LostError{fmt.Sprintf(format, args...)} }

// check compares what the cluster has with what it acknowledged.
func (b *bench) check(ctx context.Context, admin *client.Client) error {
	started := time.Now()
	c := &Check{Acknowledged: b.acked.count}
	b.report.Check = c
	head, err := b.sameHeads(ctx, admin, c)
	if err != nil {
		return err
	}
	if err := b.readBack(ctx, admin, c); err != nil {
		return err
	}
	if c.InChain, err = b.count(ctx, admin, head); err != nil {
		return err
	}
	if c.InChain != c.Acknowledged {
		return lost("%d events were acknowledged, and the chain has %d", c.Acknowledged, c.InChain)
	}
	if b.lab != nil {
		if c.Verified, err = b.verify(ctx); err != nil {
			return err
		}
	}
	c.Seconds = time.Since(started).Seconds()
	return nil
}

// sameHeads waits until every node has what the leader has, and compares: the
// hash of the leader's last entry, which fixes all before it, and the root where
// the node has nothing newer.
func (b *bench) sameHeads(ctx context.Context, admin *client.Client, c *Check) (client.Head, error) {
	want, err := admin.Head(ctx) // linearizable
	if err != nil {
		return want, fmt.Errorf("head: %w", err)
	}
	c.Size = want.Size
	for _, addr := range b.addrs {
		r, err := admin.On(addr)
		if err != nil {
			return want, err
		}
		r = r.At(client.Session) // at least as far as what this client has seen
		last, err := r.Get(ctx, want.Size-1)
		if err != nil {
			return want, fmt.Errorf("entry %d of %s: %w", want.Size-1, addr, err)
		}
		head, err := r.Head(ctx)
		if err != nil {
			return want, fmt.Errorf("head of %s: %w", addr, err)
		}
		if last.Hash != want.Hash || head.Size == want.Size && head.Root != want.Root {
			return want, lost("%s has another entry %d, or another root, than %s", addr, want.Size-1, b.addrs[0])
		}
		c.Heads++
	}
	return want, nil
}

// readBack looks sampled events up by their ids, at all nodes in turn.
func (b *bench) readBack(ctx context.Context, admin *client.Client, c *Check) error {
	samples := b.acked.samples
	step := max(1, len(samples)/maxSamples)
	for i := 0; i < len(samples); i += step {
		s := samples[i]
		r, err := admin.On(b.addrs[c.ReadBack%len(b.addrs)])
		if err != nil {
			return err
		}
		found, err := r.At(client.Session).Lookup(ctx, chain.Key{Workspace: workspace, Source: b.acked.source, ID: s.id})
		if err != nil {
			return fmt.Errorf("look up %s: %w", s.id, err)
		}
		if found.State != client.Sealed || found.Entry.Sequence != s.sequence || found.Entry.Hash != s.hash {
			return lost("event %s was acknowledged as entry %d; now it is %v", s.id, s.sequence, found.State)
		}
		c.ReadBack++
	}
	return nil
}

// count counts this run's events in the chain. In a cluster of our own all
// entries but those of workspace system are of this run, and those are few.
func (b *bench) count(ctx context.Context, admin *client.Client, head client.Head) (uint64, error) {
	filter := chain.Filter{Workspace: workspace, Source: b.acked.source}
	if b.lab != nil {
		filter = chain.Filter{Workspace: "system"}
	}
	n := uint64(0)
	for _, err := range admin.List(ctx, client.ListQuery{Filter: filter, To: head.Size, PageSize: 1000}) {
		if err != nil {
			return 0, fmt.Errorf("count entries: %w", err)
		}
		n++
	}
	if b.lab != nil {
		n = head.Size - n
	}
	return n, nil
}

// verify stops a node that does not lead and has its data directory verified.
func (b *bench) verify(ctx context.Context) (string, error) {
	name := ""
	for _, p := range b.procs {
		if p.api != "" && (name == "" || p.api != b.addrs[0]) {
			name = p.name
		}
	}
	if err := b.lab.Stop(ctx, name); err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, b.cfg.Binary, "verify", "--data", b.lab.DataDir(name), "--output", "json")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", lost("verify the chain of %s: %v\n%s%s", name, err, out, stderr.Bytes())
	}
	var v struct {
		Entries  uint64  `json:"entries"`
		Tiles    uint64  `json:"tiles_compared"`
		Verdicts uint64  `json:"verdicts_replayed"`
		Seconds  float64 `json:"seconds"`
	}
	if err := json.Unmarshal(out, &v); err != nil {
		return "", fmt.Errorf("what verify says of %s: %w", name, err)
	}
	if v.Entries == 0 {
		return "", lost("verify found no entry in the chain of %s", name)
	}
	return fmt.Sprintf("%s: %d entries and %d tiles, %d verdicts evaluated again, in %.1f s", name, v.Entries, v.Tiles, v.Verdicts, v.Seconds), nil
}
