package sim

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/server"
)

// judge waits until all nodes have what is committed, stops them, and reads their disks.
func (c *cluster) judge(out *Outcome) {
	size, ok := c.agreed()
	if !ok {
		c.describe()
		return
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
			c.problem("the ledger of %s: %v", m.name, err)
			continue
		}
		if replica.Problems != nil {
			c.problem("the ledger of %s: %v", m.name, replica.Problems)
		}
		final.Replicas = append(final.Replicas, replica)
		if first := final.Replicas[0]; replica.Digest != first.Digest || replica.Hash != first.Hash || replica.Root != first.Root {
			c.problem("the %d entries of %s are not those of %s", size, replica.Node, first.Node)
		}
		if final.Entries == nil {
			final.Entries = entries
			final.RootAt = func(n uint64) (chain.Hash, error) { return roots[n], nil }
		}
	}
	out.Final = final
	for _, p := range check(out.History, final) {
		c.problem("%s", p)
	}
	out.count()
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

// readReplica verifies the ledger that a stopped node left, and returns what it holds
// below size, with the root at each size.
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
	replay := fsm.NewReplay()
	replay.Lookup = store.Find
	_, err = chain.Verify(context.Background(), store.Source(), chain.VerifyOptions{
		Tiles: store.Source(), Head: &meta.Head, Root: &meta.Root, Workers: 1,
		Check: func(e *chain.Entry) error {
			if seq := e.Header.Sequence; seq < size {
				for _, part := range [][]byte{e.Record.Header, e.Record.Envelope, e.Record.Beside} {
					var length [8]byte
					binary.BigEndian.PutUint64(length[:], uint64(len(part)))
					digest.Write(length[:])
					digest.Write(part)
				}
				h := &e.Header
				entries = append(entries, history.Entry{
					Sequence: seq, Hash: e.Hash, Key: chain.Key{Workspace: h.Workspace, Source: h.Source, ID: h.ID}, Kind: h.Kind, Time: h.Time,
				})
				if seq+1 == size {
					r.Hash = e.Hash
				}
			}
			return replay.Check(e)
		},
	})
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	for n := range roots {
		if roots[n], err = store.RootAt(uint64(n)); err != nil {
			return r, nil, nil, fmt.Errorf("root at %d: %w", n, err)
		}
	}
	digest.Sum(r.Digest[:0])
	r.Root = roots[size]
	r.Verdicts = replay.Report().Verdicts
	return r, entries, roots, nil
}

// count counts what there is to count.
func (o *Outcome) count() {
	for _, f := range o.History.Faults {
		if f.Kind != "heal" {
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

// check holds what clients saw against what there is in the end.
func check(h *history.History, f *history.Final) (problems []string) {
	if len(f.Replicas) == 0 || len(f.Entries) == 0 {
		return []string{"nothing is left to check"}
	}
	at := make(map[chain.Key]history.Entry)
	for _, e := range f.Entries {
		if old, twice := at[e.Key]; twice {
			problems = append(problems, fmt.Sprintf("%v is entry %d and entry %d", e.Key, old.Sequence, e.Sequence))
		}
		at[e.Key] = e
	}
	for i := range h.Ops {
		if err := checkOp(&h.Ops[i], f, at); err != nil {
			problems = append(problems, fmt.Sprintf("%v: %+v", err, h.Ops[i]))
		}
	}
	problems = append(problems, checkOrder(h.Ops)...)
	return append(problems, checkWatches(h, f)...)
}

// checkOp holds one operation against the chain.
func checkOp(op *history.Op, f *history.Final, at map[chain.Key]history.Entry) error {
	e, sealed := at[op.Key]
	switch {
	case op.Kind == history.Append && op.Outcome == history.Failed && sealed:
		return fmt.Errorf("an append that failed is entry %d", e.Sequence)
	case op.Outcome != history.OK:
		return nil
	case op.Kind == history.Append && !sealed:
		return errors.New("an acknowledged event is not in the chain")
	case op.Kind == history.Append, op.Kind == history.Lookup && op.Found, op.Kind == history.Get:
		if op.Sequence >= f.Size || f.Entries[op.Sequence].Hash != op.Hash || op.Kind != history.Get && f.Entries[op.Sequence].Key != op.Key {
			return errors.New("an entry that a client was told of is another one")
		}
	case op.Kind == history.Head && op.Size > 0:
		if op.Size > f.Size || f.Entries[op.Size-1].Hash != op.HeadHash {
			return errors.New("a head that a client saw is not of the chain")
		}
		if root, err := f.RootAt(op.Size); err != nil || root != op.Root {
			return fmt.Errorf("a root that a client saw is not of the chain: %w", err)
		}
	}
	return nil
}

// reach is how much of the chain an operation proves to exist when it returned, and
// whether it had to see all that was proven when it was called.
func reach(op *history.Op) (proves uint64, fresh bool) {
	if op.Outcome != history.OK {
		return 0, false
	}
	switch {
	case op.Kind == history.Append:
		return op.Sequence + 1, true
	case op.Kind == history.Head:
		return op.Size, op.Consistency == history.Linearizable
	case op.Kind == history.Get, op.Kind == history.Lookup && op.Found:
		return op.Sequence + 1, false
	}
	return 0, false
}

// checkOrder checks real-time order, linearizable reads and sessions. The chain is a
// log, so it is enough to compare how long it was proven to be: what is called after
// something returned sees at least that.
func checkOrder(ops []history.Op) (problems []string) {
	calls := make([]*history.Op, len(ops))
	for i := range ops {
		calls[i] = &ops[i]
	}
	returns := slices.Clone(calls)
	slices.SortFunc(calls, func(a, b *history.Op) int { return cmp.Compare(a.Call, b.Call) })
	slices.SortFunc(returns, func(a, b *history.Op) int { return cmp.Compare(a.Return, b.Return) })
	var longest uint64 // that an operation proved which had returned
	acked := make(map[chain.Key]bool)
	sessions := make(map[int]uint64)
	next := 0
	for _, op := range calls {
		for ; next < len(returns) && returns[next].Return < op.Call; next++ {
			r := returns[next]
			// A read that is not fresh proves as well: what one saw, all will see.
			proves, _ := reach(r)
			longest = max(longest, proves)
			if r.Kind == history.Append && r.Outcome == history.OK {
				acked[r.Key] = true
			}
			if r.Consistency != history.Stale {
				sessions[r.Client] = max(sessions[r.Client], proves)
			}
		}
		if op.Outcome != history.OK {
			continue
		}
		proves, fresh := reach(op)
		switch {
		case fresh && op.Kind == history.Append && proves <= longest:
			problems = append(problems, fmt.Sprintf("an append came before what was there when it began (%d entries): %+v", longest, op))
		case fresh && proves < longest:
			problems = append(problems, fmt.Sprintf("a linearizable read saw less than %d entries: %+v", longest, op))
		case op.Kind == history.Head && op.Consistency == history.Session && proves < sessions[op.Client]:
			problems = append(problems, fmt.Sprintf("a session went back from %d entries: %+v", sessions[op.Client], op))
		case op.Kind == history.Lookup && op.Consistency == history.Linearizable && !op.Found && acked[op.Key]:
			problems = append(problems, fmt.Sprintf("a linearizable lookup did not find what was acknowledged: %+v", op))
		}
	}
	return problems
}

// checkWatches checks that watches delivered every entry once, in order.
func checkWatches(h *history.History, f *history.Final) (problems []string) {
	next := make(map[int]uint64)
	for _, d := range h.Deliveries {
		if d.Sequence != next[d.Watch] || d.Sequence >= f.Size || f.Entries[d.Sequence].Hash != d.Hash {
			problems = append(problems, fmt.Sprintf("watch %d delivered %+v where entry %d is next", d.Watch, d, next[d.Watch]))
		}
		next[d.Watch] = d.Sequence + 1
	}
	for _, w := range h.Watches {
		if next[w.ID] != w.Until {
			problems = append(problems, fmt.Sprintf("watch %d delivered up to %d, and said %d", w.ID, next[w.ID], w.Until))
		}
	}
	return problems
}
