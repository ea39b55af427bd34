package sim

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/server"
)

// end waits until all nodes have what is committed and the watches have delivered it,
// stops the nodes, and reads their disks.
func (c *cluster) end(load *load) *history.Final {
	size, ok := c.agreed()
	if !ok {
		c.describe()
		return nil
	}
	load.endWatches(size)
	// What nodes write of themselves may have come since, and been delivered.
	if size, ok = c.agreed(); !ok {
		c.describe()
		return nil
	}
	dirs := make(map[*machine]string)
	for _, m := range c.all() {
		if l := m.running(); l != nil {
			dirs[m] = l.dir
		}
		m.stop()
	}
	final := &history.Final{Size: size}
	for _, m := range c.all() {
		dir, ran := dirs[m]
		if !ran {
			continue
		}
		replica, entries, roots, err := readReplica(m, dir, size)
		if err != nil {
			replica.Problems = append(replica.Problems, err.Error())
		}
		final.Replicas = append(final.Replicas, replica)
		if final.Entries == nil && err == nil {
			final.Entries = entries
			final.RootAt = func(n uint64) (chain.Hash, error) { return roots[n], nil }
		}
	}
	return final
}

// limits are what progress is held against: faults overlap without a pause here, and take
// all nodes now and then, so that there may be silence for as long as two of the longest
// last; once everything is mended, for no longer than it takes to elect.
func (c Config) limits() check.Limits {
	sent := float64(c.Clients) / 2 / c.Think.Seconds()
	return check.Limits{
		Replicas: size,
		Overall:  check.Bound{Rate: sent / 20, Silence: c.Silence},
		Fault:    check.Bound{Silence: c.Silence},
		ByKind:   map[string]check.Bound{healed: {Silence: 30*time.Second + 10*c.Think}},
	}
}

// verdicts has the lab's checkers judge, outside the bubble: Porcupine is given time of
// the machine.
func (o *Outcome) verdicts(l check.Limits) {
	o.Verdicts, o.Pictures = check.Judge(o.History, o.Final, l)
	if o.Final == nil { // the cluster is not well: there is no chain to judge by
		o.Verdicts = slices.DeleteFunc(o.Verdicts, func(v history.Verdict) bool { return v.Name != check.Progress })
		o.Final = new(history.Final)
	}
	for _, v := range o.Verdicts {
		for _, e := range v.Evidence {
			o.Problems = append(o.Problems, v.Name+": "+e)
		}
	}
	o.count()
}

// agreed returns the size of what is committed, once every node has it.
func (c *cluster) agreed() (uint64, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	size := uint64(0)
	for pass := range 2 {
		for _, m := range c.all() {
			l := m.running()
			if l == nil {
				continue
			}
			level := server.Consistency{Level: server.Linearizable}
			if pass == 1 {
				level = server.Consistency{Level: server.Session, Sequence: size - 1}
			}
			have, err := l.node.Await(ctx, level)
			if err != nil {
				c.problem("%s has not come to where all are: %v", m.name, err)
				return 0, false
			}
			if pass == 0 {
				size = max(size, have)
			}
		}
	}
	return size, size > 0
}

// readReplica reads the first size entries that a stopped node left, with the root at
// each size, and verifies its ledger.
func readReplica(m *machine, dir string, size uint64) (history.Replica, []history.Entry, []chain.Hash, error) {
	r := history.Replica{Node: m.name}
	store, err := ledger.OpenReadOnly(dir+"/ledger", ledger.Options{FS: m.disk.files, CacheBytes: 1 << 20, MemTableBytes: 256 << 10})
	if err != nil {
		return r, nil, nil, err
	}
	defer store.Close()
	meta := store.Meta()
	r.Size = meta.Head.Size
	digest := sha256.New()
	var entries []history.Entry
	roots := make([]chain.Hash, size+1)
	tree := new(chain.Tree)
	for rec, err := range store.Scan(chain.Filter{}, 0, size, false) {
		if err != nil {
			return r, nil, nil, err
		}
		h, err := chain.DecodeHeader(rec.Header)
		if err != nil {
			return r, nil, nil, err
		}
		for _, part := range [][]byte{rec.Header, rec.Envelope, rec.Beside} {
			var length [8]byte
			binary.BigEndian.PutUint64(length[:], uint64(len(part)))
			digest.Write(length[:])
			digest.Write(part)
		}
		tree.Append(rec.Header, func(int, uint64, []byte) {})
		roots[tree.Size()] = tree.Root()
		r.Hash = chain.HeaderHash(rec.Header)
		entries = append(entries, history.Entry{Sequence: h.Sequence, Hash: r.Hash, Key: h.Key(), Kind: h.Kind, Time: h.Time})
	}
	digest.Sum(r.Digest[:0])
	if r.Root, err = store.RootAt(size); err != nil {
		return r, nil, nil, fmt.Errorf("root at %d: %w", size, err)
	}
	replay := fsm.NewReplay()
	replay.Lookup = store.Find
	if _, err = chain.Verify(context.Background(), store.Source(), chain.VerifyOptions{
		Tiles: store.Source(), Head: &meta.Head, Root: &meta.Root, Workers: 1, Check: replay.Check,
	}); err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	r.Verdicts = replay.Report().Verdicts
	return r, entries, roots, nil
}

// count counts what there is to count.
func (o *Outcome) count() {
	for _, f := range o.History.Faults {
		if f.Kind != healed {
			o.Faults++
		}
	}
	for _, e := range o.Final.Entries {
		if e.Kind == catalog.KindClusterLeader {
			o.Elections++
		}
	}
	o.Events = len(o.Final.Entries)
	o.Operations = len(o.History.Ops)
	for _, op := range o.History.Ops {
		if op.Kind == history.Append && op.Outcome == history.OK {
			o.Acknowledged++
		}
	}
}
