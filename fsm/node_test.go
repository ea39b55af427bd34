package fsm_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

var testID = chain.ID{0xc0, 1: 0xff, 15: 0xee}

// tb is what testing.T, testing.B and rapid.T have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// replica is one state machine over a store in memory.
type replica struct {
	t     tb
	store *ledgertest.Memory
	*fsm.FSM
	catchup *fsm.Catchup
	fetcher *peerFetcher
	fatal   error
}

func newReplica(t tb, store *ledgertest.Memory) *replica {
	t.Helper()
	r := &replica{t: t, store: store, fetcher: &peerFetcher{}}
	var err error
	r.FSM, err = fsm.New(fsm.Config{
		Store: store, Staging: store, ChainID: testID, NodeID: "n1",
		Fatal:  func(err error) { r.fatal = err },
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	if r.catchup, err = fsm.NewCatchup(r.FSM, r.fetcher); err != nil {
		t.Fatalf("new catch-up: %v", err)
	}
	return r
}

// crash returns the replica after a crash that kept so many unsynced steps.
func (r *replica) crash(unsynced int) *replica {
	n := newReplica(r.t, r.store.Crash(unsynced))
	n.fetcher.peer = r.fetcher.peer
	return n
}

// apply applies log entries in one batch.
func (r *replica) apply(logs ...*raft.Log) []any {
	r.t.Helper()
	responses := r.ApplyBatch(logs)
	if r.fatal != nil {
		r.t.Fatalf("apply: %v", r.fatal)
	}
	return responses
}

// results applies a batch by itself.
func (r *replica) results(l *raft.Log) []fsm.Result {
	r.t.Helper()
	response := r.apply(l)[0]
	b, ok := response.(*fsm.BatchResult)
	if !ok {
		r.t.Fatalf("index %d is answered with %T %+v", l.Index, response, response)
	}
	return b.Results
}

func (r *replica) header(seq uint64) chain.Header {
	r.t.Helper()
	rec, err := r.store.Record(seq)
	if err != nil {
		r.t.Fatalf("entry %d: %v", seq, err)
	}
	h, err := chain.DecodeHeader(rec.Header)
	if err != nil {
		r.t.Fatalf("entry %d: %v", seq, err)
	}
	return h
}

func (r *replica) payload(seq uint64) map[string]any {
	r.t.Helper()
	rec, err := r.store.Record(seq)
	if err != nil {
		r.t.Fatalf("entry %d: %v", seq, err)
	}
	e, err := chain.DecodeEnvelope(rec.Envelope)
	if err != nil {
		r.t.Fatalf("entry %d: %v", seq, err)
	}
	var m map[string]any
	if err := json.Unmarshal(e.Payload, &m); err != nil {
		r.t.Fatalf("entry %d: %v", seq, err)
	}
	return m
}

// everything returns all bytes of a replica's chain, with state and meta, as
// text: two replicas that are to be identical are compared by it.
func (r *replica) everything() string {
	r.t.Helper()
	var b bytes.Buffer
	meta := r.store.Meta()
	state, err := r.store.State()
	if err != nil {
		r.t.Fatalf("state: %v", err)
	}
	folded, err := r.View().EncodeState()
	if err != nil {
		r.t.Fatalf("state: %v", err)
	}
	fmt.Fprintf(&b, "%+v\nstate %x\nview %x\n", meta, state, folded)
	for seq := range meta.Head.Size {
		rec, err := r.store.Record(seq)
		if err != nil {
			r.t.Fatalf("entry %d: %v", seq, err)
		}
		h := r.header(seq)
		slot, found, err := r.store.Find(h.Key())
		fmt.Fprintf(&b, "%d %x\n\t%x\n\t%x\n\t%v %v %v\n", seq, rec.Header, rec.Envelope, rec.Beside, slot, found, err)
		if h.Kind == "governance.deny" || h.Kind == "governance.escalate" {
			p := r.payload(seq)
			key := chain.Key{Workspace: p["workspace"].(string), Source: p["source"].(string), ID: p["id"].(string)}
			slot, found, err := r.store.Find(key)
			fmt.Fprintf(&b, "\t%v: %v %v %v\n", key, slot, found, err)
		}
	}
	return b.String()
}

// snapshot returns the manifest that the replica's snapshot persists.
func (r *replica) snapshot() []byte {
	r.t.Helper()
	s, err := r.Snapshot()
	if err != nil {
		r.t.Fatalf("snapshot: %v", err)
	}
	sink := &sink{}
	if err := s.Persist(sink); err != nil {
		r.t.Fatalf("persist: %v", err)
	}
	s.Release()
	if !sink.closed || !sink.local {
		r.t.Fatalf("sink was closed: %v, was said to be local: %v", sink.closed, sink.local)
	}
	return sink.Bytes()
}

// sink is a raft.SnapshotSink in memory.
type sink struct {
	bytes.Buffer
	closed, local bool
}

func (s *sink) ID() string    { return "test" }
func (s *sink) Cancel() error { return nil }
func (s *sink) Close() error  { s.closed = true; return nil }
func (s *sink) Local()        { s.local = true }

// received is a manifest that raft made durable and hands to Restore.
type received struct {
	*bytes.Reader
	confirmed int
}

func receive(manifest []byte) *received { return &received{Reader: bytes.NewReader(manifest)} }

func (r *received) Close() error   { return nil }
func (r *received) Confirm() error { r.confirmed++; return nil }

// wrapped is what raft puts around a reader.
type wrapped struct{ io.ReadCloser }

func (w wrapped) WrappedReadCloser() io.ReadCloser { return w.ReadCloser }

var errPeerDied = errors.New("the peer died")

// peerFetcher fetches from another replica's store.
type peerFetcher struct {
	peer *ledgertest.Memory
	// dieAfter makes the peer die after so many records, once, where > 0.
	dieAfter int
	// change, where not nil, forges records.
	change func(*chain.Record)
	// calls are the ranges that were asked for.
	calls [][2]uint64
}

func (f *peerFetcher) Fetch(ctx context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	f.calls = append(f.calls, [2]uint64{from, to})
	return func(yield func(chain.Record, error) bool) {
		for seq := from; seq < to; seq++ {
			if f.dieAfter > 0 {
				if f.dieAfter--; f.dieAfter == 0 {
					yield(chain.Record{}, errPeerDied)
					return
				}
			}
			rec, err := f.peer.Record(seq)
			if err == nil && f.change != nil {
				f.change(&rec)
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// history makes log entries as raft would.
type history struct {
	t     tb
	index uint64
	stamp int64
	salts uint64
	// recoveries are how often n1 was all that was left: each time it comes back
	// as another server.
	recoveries int
}

func newHistory(t tb) *history { return &history{t: t, stamp: 1_700_000_000_000_000_000} }

// recovery is n1's going on alone after what was logged so far.
func (h *history) recovery(reason string) fsm.Recovery {
	term := 1 + h.index/50
	h.index++
	h.recoveries++
	return fsm.Recovery{
		Index: h.index, Term: term, Reason: reason,
		Survivor: fsm.Server{ID: fmt.Sprint("n1.i", 1+h.recoveries), Address: "n1", Voter: true},
	}
}

// skip leaves an index to a no-op or barrier, which the state machine never sees.
func (h *history) skip() { h.index++ }

func (h *history) log(typ raft.LogType, data []byte) *raft.Log {
	h.index++
	return &raft.Log{Index: h.index, Term: 1 + h.index/50, Type: typ, Data: data}
}

// servers logs a configuration: "n1" is a voter, "-n1" a non-voter.
func (h *history) servers(nodes ...string) *raft.Log {
	var c raft.Configuration
	for _, n := range nodes {
		s := raft.Server{Suffrage: raft.Voter}
		if n[0] == '-' {
			n, s.Suffrage = n[1:], raft.Nonvoter
		}
		s.ID, s.Address = raft.ServerID(n+".i1"), raft.ServerAddress(n)
		if n == "n1" {
			s.ID = raft.ServerID(fmt.Sprint("n1.i", 1+h.recoveries))
		}
		c.Servers = append(c.Servers, s)
	}
	return h.log(raft.LogConfiguration, raft.EncodeConfiguration(c))
}

func (h *history) command(c fsm.Command) *raft.Log {
	h.t.Helper()
	data, err := c.AppendBinary(nil)
	if err != nil {
		h.t.Fatalf("encode a command: %v", err)
	}
	return h.log(raft.LogCommand, data)
}

func (h *history) genesis(env gates.Environment) *raft.Log {
	h.t.Helper()
	return h.command(fsm.Command{Genesis: &fsm.GenesisCommand{
		Stamp: h.stamp, Node: "n1", Document: testDocument(h.t, env), LogKey: [32]byte{1, 2, 3},
	}})
}

func testGenesis(t tb, env gates.Environment) *fsm.Genesis {
	t.Helper()
	policy, err := gates.BuiltIn(env)
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	return &fsm.Genesis{
		Format: fsm.GenesisFormat, ChainID: testID, ClusterName: "test",
		Created: time.Unix(1_700_000_000, 0), Environment: string(env), Policy: policy.Encode(),
	}
}

func testDocument(t tb, env gates.Environment) []byte {
	t.Helper()
	document, err := testGenesis(t, env).Encode()
	if err != nil {
		t.Fatalf("genesis: %v", err)
	}
	return document
}

// batch logs events, evaluated at a revision.
func (h *history) batch(revision uint64, events ...fsm.Proposal) *raft.Log {
	h.t.Helper()
	h.stamp += 1000
	return h.command(fsm.Command{Batch: &fsm.Batch{Stamp: h.stamp, Node: "n1", Revision: revision, Events: events}})
}

func (h *history) salt() *[chain.SaltSize]byte {
	h.salts++
	return &[chain.SaltSize]byte{byte(h.salts), byte(h.salts >> 8), byte(h.salts >> 16), 7}
}

// event returns an event of an ungated kind.
func (h *history) event(id, payload string) fsm.Proposal {
	return fsm.Proposal{
		Event: chain.Event{
			Workspace: "app", Source: "test:source", ID: id, Kind: "agent.exit", SchemaVersion: 1,
			Payload: []byte(payload), ContentType: "application/json", Salt: h.salt(),
		},
		Principal: "local",
	}
}

// system returns an event of workspace system, as a node writes it.
func (h *history) system(v *fsm.View, id, kind, payload string) fsm.Proposal {
	p := h.event(id, payload)
	p.Workspace, p.Source, p.Kind, p.Principal = "system", "exonode:test", kind, "n1"
	p.Verdict = v.Evaluate(&p)
	return p
}

// gated returns an event of a gated kind with a declared risk, and its verdict.
func (h *history) gated(v *fsm.View, id string, risk uint16) fsm.Proposal {
	p := h.event(id, `{"tool":"t"}`)
	p.Kind = "tool.execute"
	if risk > 0 {
		p.DeclaredEffect = &chain.Effect{risk}
	}
	p.Verdict = v.Evaluate(&p)
	return p
}

// begun returns a replica whose chain has its first three entries.
func begun(t tb, env gates.Environment) (*replica, *history) {
	t.Helper()
	r, h := newReplica(t, ledgertest.NewMemory()), newHistory(t)
	r.apply(h.servers("n1"))
	h.skip()
	g, ok := r.apply(h.genesis(env))[0].(*fsm.GenesisResult)
	if !ok || !g.Began || g.Err != nil {
		t.Fatalf("genesis: %+v", g)
	}
	return r, h
}

// verify verifies a replica's chain, and replays its verdicts.
func (r *replica) verify() fsm.ReplayReport {
	r.t.Helper()
	meta := r.store.Meta()
	replay := fsm.NewReplay()
	replay.Lookup = r.store.Find
	id := testID
	_, err := chain.Verify(context.Background(), source{r.store}, chain.VerifyOptions{
		ChainID: &id, Head: &meta.Head, Root: &meta.Root, Check: replay.Check,
	})
	if err != nil {
		r.t.Fatalf("verify: %v", err)
	}
	state, err := r.View().EncodeState()
	if err != nil {
		r.t.Fatalf("state: %v", err)
	}
	if digest, err := replay.StateDigest(); err != nil || digest != chain.StateDigest(state) {
		r.t.Fatalf("the replayed state has digest %v (%v), the node's %v", digest, err, chain.StateDigest(state))
	}
	return replay.Report()
}

// source is a store as chain.Verify reads it.
type source struct{ *ledgertest.Memory }

func (s source) Size() uint64 { return s.Meta().Head.Size }

func (s source) Records(_ context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		for seq := from; seq < to; seq++ {
			if rec, err := s.Record(seq); !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

func testLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

var testContext = context.Background()

// bubbleSecond lets a second of a bubble's clock pass.
func bubbleSecond() { <-time.After(time.Second) }
