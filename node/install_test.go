package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
	"github.com/exonode/exonode/node/raftstore"
)

// fakeSession is a transport session whose other end is the test, which plays
// the leader. What raft itself sends gets nowhere.
type fakeSession struct {
	rpcs chan raft.RPC
	done chan struct{}
}

var errNowhere = errors.New("nobody is there")

func newFakeSession() *fakeSession {
	return &fakeSession{rpcs: make(chan raft.RPC), done: make(chan struct{})}
}

func (s *fakeSession) Close() error {
	select {
	case <-s.done:
	default:
		close(s.done)
	}
	return nil
}
func (s *fakeSession) Consumer() <-chan raft.RPC                               { return s.rpcs }
func (s *fakeSession) LocalAddr() raft.ServerAddress                           { return "n1" }
func (s *fakeSession) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }
func (s *fakeSession) DecodePeer(b []byte) raft.ServerAddress                  { return raft.ServerAddress(b) }
func (s *fakeSession) SetHeartbeatHandler(func(raft.RPC))                      {}
func (s *fakeSession) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, errNowhere
}
func (s *fakeSession) AppendEntries(raft.ServerID, raft.ServerAddress, *raft.AppendEntriesRequest, *raft.AppendEntriesResponse) error {
	return errNowhere
}
func (s *fakeSession) RequestVote(raft.ServerID, raft.ServerAddress, *raft.RequestVoteRequest, *raft.RequestVoteResponse) error {
	return errNowhere
}
func (s *fakeSession) RequestPreVote(raft.ServerID, raft.ServerAddress, *raft.RequestPreVoteRequest, *raft.RequestPreVoteResponse) error {
	return errNowhere
}
func (s *fakeSession) InstallSnapshot(raft.ServerID, raft.ServerAddress, *raft.InstallSnapshotRequest, *raft.InstallSnapshotResponse, io.Reader) error {
	return errNowhere
}
func (s *fakeSession) TimeoutNow(raft.ServerID, raft.ServerAddress, *raft.TimeoutNowRequest, *raft.TimeoutNowResponse) error {
	return errNowhere
}

// follower is the part of a node that takes appends and installs, over real
// stores of raft and a ledger in memory.
type follower struct {
	*Node
	t *testing.T
	// applied is how far the state machine is, in raft's indexes.
	applied *growth
	// sessions are told each time raft starts.
	sessions chan *fakeSession
	session  *fakeSession
}

var chainOfTest = chain.ID{0xc0, 0xff}

func newFSM(t *testing.T, store *ledgertest.Memory, applied *growth) *fsm.FSM {
	t.Helper()
	f, err := fsm.New(fsm.Config{
		Store: store, Staging: store, ChainID: chainOfTest, NodeID: "n1",
		Applied: func(v *fsm.View) { applied.set(v.Meta().Applied) },
		Fatal:   func(err error) { t.Errorf("fatal: %v", err) }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// openFollower opens the stores; start starts raft.
func openFollower(t *testing.T, dir string, backend raftstore.Backend, store *ledgertest.Memory) *follower {
	t.Helper()
	stores, err := raftstore.Open(raftstore.Config{
		Dir: dir, Backend: backend, WriteTimeout: time.Minute, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stores.Close() })
	f := &follower{t: t, applied: newGrowth(0), sessions: make(chan *fakeSession, 8)}
	f.Node = &Node{
		log: slog.New(slog.DiscardHandler), stores: stores, fsm: newFSM(t, store, f.applied), restarts: make(chan string, 1),
	}
	patient := Timing{Heartbeat: time.Hour, Election: time.Hour, Lease: time.Hour, Commit: time.Hour}
	f.host = &raftHost{timing: patient, id: "n1.a", stores: stores, logger: f.log, started: func(*instance) {}}
	f.host.fsm = &raftFSM{FSM: f.fsm, holds: f.host.holds, restored: f.installed, limit: time.Hour}
	f.host.attach = func() (raftSession, error) {
		s := newFakeSession()
		f.sessions <- s
		return s, nil
	}
	return f
}

func (f *follower) start() *follower {
	f.t.Helper()
	if err := f.host.start(); err != nil {
		f.t.Fatal(err)
	}
	f.session = <-f.sessions
	f.t.Cleanup(func() {
		if err := f.host.stop(); err != nil {
			f.t.Error(err)
		}
	})
	return f
}

// call hands raft an RPC of the leader n2 and returns its answer.
func (f *follower) call(command any, data io.Reader) (any, error) {
	f.t.Helper()
	answer := make(chan raft.RPCResponse, 1)
	f.session.rpcs <- raft.RPC{Command: command, Reader: data, RespChan: answer}
	r := <-answer
	return r.Response, r.Error
}

func header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte("n2.b"), Addr: []byte("n2")}
}

// append appends entries after (prev, prevTerm); it reports success.
func (f *follower) append(term, prev, prevTerm, commit uint64, entries ...*raft.Log) bool {
	f.t.Helper()
	r, err := f.call(&raft.AppendEntriesRequest{
		RPCHeader: header(), Term: term, PrevLogEntry: prev, PrevLogTerm: prevTerm, Entries: entries, LeaderCommitIndex: commit,
	}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return r.(*raft.AppendEntriesResponse).Success
}

// manifest is a snapshot on its way to a follower.
type manifestRequest struct {
	req  *raft.InstallSnapshotRequest
	data []byte
}

// guard asks the guard, as the transport does.
func (f *follower) guard(m manifestRequest) (handled bool, resp *raft.InstallSnapshotResponse, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // no time to wait for what is missing
	handled, replay, resp, err := f.guardInstall(ctx, m.req, bytes.NewReader(m.data))
	if err == nil && !handled {
		if b, rerr := io.ReadAll(replay); rerr != nil || !bytes.Equal(b, m.data) {
			f.t.Errorf("raft would get %d bytes, %v, not the manifest", len(b), rerr)
		}
	}
	return handled, resp, err
}

// install hands raft what the guard let pass.
func (f *follower) install(m manifestRequest) error {
	f.t.Helper()
	r, err := f.call(m.req, bytes.NewReader(m.data))
	if err == nil && !r.(*raft.InstallSnapshotResponse).Success {
		err = errors.New("no success")
	}
	return err
}

// await returns once the state machine has applied an index.
func (f *follower) await(index uint64) {
	f.t.Helper()
	if err := f.applied.await(f.t.Context(), index); err != nil {
		f.t.Fatal(err)
	}
}

// has reports whether the log holds an entry of an index and term.
func (f *follower) has(index, term uint64) bool {
	var l raft.Log
	return f.stores.Log.GetLog(index, &l) == nil && l.Term == term
}

// memorySink is a raft.SnapshotSink.
type memorySink struct{ bytes.Buffer }

func (*memorySink) ID() string    { return "" }
func (*memorySink) Cancel() error { return nil }
func (*memorySink) Close() error  { return nil }

// leaderLog is what the test's leader has: a configuration, genesis, and a
// command for each index up to 4; 5 is a barrier.
type leaderLog struct {
	logs []*raft.Log // from index 1
	conf raft.Configuration
}

func newLeaderLog(t *testing.T) *leaderLog {
	t.Helper()
	l := &leaderLog{conf: raft.Configuration{Servers: []raft.Server{{ID: "n1.a", Address: "n1"}, {ID: "n2.b", Address: "n2"}}}}
	policy, err := gates.BuiltIn(gates.Development)
	if err != nil {
		t.Fatal(err)
	}
	document, err := (&fsm.Genesis{
		Format: fsm.GenesisFormat, ChainID: chainOfTest, ClusterName: "test", Created: time.Unix(1, 0),
		Environment: string(gates.Development), Policy: policy.Encode(),
	}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	l.add(raft.LogConfiguration, raft.EncodeConfiguration(l.conf))
	l.command(t, fsm.Command{Genesis: &fsm.GenesisCommand{Stamp: 1, Node: "n2", Document: document, LogKey: [32]byte{1}}})
	for range 2 {
		l.event(t)
	}
	l.add(raft.LogBarrier, nil)
	return l
}

func (l *leaderLog) add(typ raft.LogType, data []byte) {
	l.logs = append(l.logs, &raft.Log{Index: uint64(len(l.logs)) + 1, Term: 2, Type: typ, Data: data})
}

func (l *leaderLog) command(t *testing.T, c fsm.Command) {
	t.Helper()
	b, err := c.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	l.add(raft.LogCommand, b)
}

func (l *leaderLog) event(t *testing.T) {
	t.Helper()
	n := len(l.logs)
	l.command(t, fsm.Command{Batch: &fsm.Batch{Stamp: int64(n), Node: "n2", Revision: 1, Events: []fsm.Proposal{{
		Event: chain.Event{
			Workspace: "default", Source: "test", ID: fmt.Sprint(n), Kind: "hnsw.insert", SchemaVersion: 1,
			Payload: []byte(`{"id":"x"}`), ContentType: "application/json", Salt: &[chain.SaltSize]byte{byte(n)},
		},
		Principal: "local",
	}}}})
}

// entries are those of [from, to].
func (l *leaderLog) entries(from, to uint64) []*raft.Log { return l.logs[from-1 : to] }

// snapshot is the leader's at an index.
func (l *leaderLog) snapshot(t *testing.T, index uint64) manifestRequest {
	t.Helper()
	f := newFSM(t, ledgertest.NewMemory(), newGrowth(0))
	for _, e := range l.entries(1, index) {
		if e.Type != raft.LogBarrier {
			f.ApplyBatch([]*raft.Log{e})
		}
	}
	s, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	sink := new(memorySink)
	if err := s.Persist(sink); err != nil {
		t.Fatal(err)
	}
	return manifestRequest{data: sink.Bytes(), req: &raft.InstallSnapshotRequest{
		RPCHeader: header(), SnapshotVersion: 1, Term: 2, Leader: []byte("n2"), LastLogIndex: index, LastLogTerm: 2,
		Configuration: raft.EncodeConfiguration(l.conf), ConfigurationIndex: 1, Size: int64(sink.Len()),
	}}
}

var backends = []raftstore.Backend{raftstore.WAL, raftstore.BoltDB}

// TestRepeatedInstall: two copies of one install pass the guard before raft has
// seen either. What is appended, and acknowledged, between the two stays. The
// manifest ends with a barrier, so that the state machine's own index does not
// show that it is here already.
func TestRepeatedInstall(t *testing.T) {
	for _, backend := range backends {
		t.Run(string(backend), func(t *testing.T) {
			leader := newLeaderLog(t)
			leader.event(t)
			leader.event(t)
			f := openFollower(t, t.TempDir(), backend, ledgertest.NewMemory()).start()
			if !f.append(2, 0, 0, 4, leader.entries(1, 4)...) {
				t.Fatal("the first entries are refused")
			}
			manifest := leader.snapshot(t, 5)
			f.await(4)
			for range 2 {
				if handled, _, err := f.guard(manifest); handled || err != nil {
					t.Fatalf("the guard: %v, %v", handled, err)
				}
			}
			if err := f.install(manifest); err != nil {
				t.Fatal(err)
			}
			if !f.append(2, 5, 2, 5, leader.entries(6, 7)...) {
				t.Fatal("entries 6 and 7 are refused")
			}
			if err := f.install(manifest); err == nil {
				t.Error("the second copy was installed")
			}
			if !f.has(6, 2) || !f.has(7, 2) {
				t.Fatal("entries that were acknowledged are gone")
			}
			// Whatever comes later does not get that far.
			if handled, resp, err := f.guard(manifest); !handled || err != nil || !resp.Success {
				t.Errorf("a third copy at the guard: %v, %+v, %v", handled, resp, err)
			}
			if !f.append(2, 7, 2, 7) {
				t.Error("raft does not go on")
			}
			f.await(7)
		})
	}
}

// TestInstallOverAnotherEnd: the log goes up to the manifest, or beyond, with
// entries of a leader that was deposed. Raft is restarted and goes on from the
// manifest; so it is after a crash in between.
func TestInstallOverAnotherEnd(t *testing.T) {
	for _, backend := range backends {
		for _, last := range []uint64{5, 30} {
			for _, crash := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/crash=%v", backend, last, crash), func(t *testing.T) {
					leader := newLeaderLog(t)
					leader.event(t)
					dir, store := t.TempDir(), ledgertest.NewMemory()
					f := openFollower(t, dir, backend, store).start()
					logs := leader.entries(1, 4)
					for i := uint64(5); i <= last; i++ {
						logs = append(logs[:len(logs):len(logs)], &raft.Log{Index: i, Term: 1, Type: raft.LogNoop})
					}
					if !f.append(1, 0, 0, 4, logs...) {
						t.Fatal("the first entries are refused")
					}
					f.await(4)
					manifest := leader.snapshot(t, 5)
					if handled, _, err := f.guard(manifest); handled || err != nil {
						t.Fatalf("the guard: %v, %v", handled, err)
					}
					if err := f.install(manifest); err != nil {
						t.Fatal(err)
					}
					if crash {
						// Of the process: the log is as raft left it, or as
						// it was before raft came to remove it.
						if err := f.host.stop(); err != nil {
							t.Fatal(err)
						}
						if backend == raftstore.WAL {
							if err := f.stores.Log.StoreLogs(logs[4:]); err != nil {
								t.Fatal(err)
							}
						}
						if err := f.stores.Close(); err != nil {
							t.Fatal(err)
						}
						f = openFollower(t, dir, backend, store)
						if dropped, err := f.stores.Mend(); !dropped || err != nil {
							t.Fatalf("the log was dropped: %v, %v", dropped, err)
						}
						f.start()
					} else {
						ctx, cancel := context.WithCancel(t.Context())
						done := make(chan error)
						go func() { done <- f.runRestarts(ctx) }()
						f.session = <-f.sessions // it was restarted
						defer func() {
							cancel()
							if err := <-done; err != nil {
								t.Error(err)
							}
						}()
					}
					if !f.append(2, 5, 2, 5, leader.entries(6, 6)...) {
						t.Fatal("raft does not go on from the manifest")
					}
					if !f.append(2, 6, 2, 6) {
						t.Fatal("raft does not go on")
					}
					f.await(6)
				})
			}
		}
	}
}

// TestGuardInstall is what becomes of an install before raft sees it.
func TestGuardInstall(t *testing.T) {
	leader := newLeaderLog(t)
	leader.event(t)
	f := openFollower(t, t.TempDir(), raftstore.WAL, ledgertest.NewMemory())
	if _, _, err := f.guard(leader.snapshot(t, 5)); !errors.Is(err, errNoRaft) {
		t.Errorf("before raft runs: %v", err)
	}
	f.start()
	if !f.append(2, 0, 0, 3, leader.entries(1, 4)...) {
		t.Fatal("the first entries are refused")
	}
	f.await(3)
	change := func(index uint64, change func(*manifestRequest)) manifestRequest {
		m := leader.snapshot(t, index)
		if change != nil {
			change(&m)
		}
		return m
	}
	behind := new(fsm.CatchingUp)
	for _, test := range []struct {
		name    string
		m       manifestRequest
		handled bool
		success bool
		err     any // nil, an error for errors.Is, a *T for errors.As; true is any
	}{
		{name: "applied", m: change(3, nil), handled: true, success: true},
		{name: "in the log, not applied", m: change(4, nil), handled: true, success: true},
		{name: "of a leader that was deposed", m: change(3, func(m *manifestRequest) { m.req.Term = 1 }), handled: true},
		{name: "entries are missing", m: change(6, nil), err: &behind},
		{name: "too large", m: change(6, func(m *manifestRequest) { m.req.Size = raftstore.MaxManifestSize + 1 }), err: true},
		{name: "cut short", m: change(6, func(m *manifestRequest) { m.data = m.data[:len(m.data)-1] }), err: fsm.ErrManifest},
		{name: "no manifest", m: change(6, func(m *manifestRequest) { m.data = make([]byte, len(m.data)) }), err: fsm.ErrManifest},
	} {
		handled, resp, err := f.guard(test.m)
		switch want := test.err.(type) {
		case nil:
			if err != nil || handled != test.handled || handled && resp.Success != test.success {
				t.Errorf("%s: %v, %+v, %v", test.name, handled, resp, err)
			}
		case error:
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", test.name, err, want)
			}
		case **fsm.CatchingUp:
			if !errors.As(err, want) {
				t.Errorf("%s: %v", test.name, err)
			}
		default:
			if err == nil {
				t.Errorf("%s: no error", test.name)
			}
		}
	}
}
