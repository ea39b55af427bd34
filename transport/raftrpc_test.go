package transport_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/transport"
)

// rpcPair are two members with raft sessions and no rafts: the test plays raft
// on b.
func rpcPair(t *testing.T, change ...func(*transport.Config)) (w *world, a, b *node, client, server *transport.RaftTransport) {
	t.Helper()
	w = newWorld(t)
	a, b = w.pair(t, change...)
	b.members.set(func(m *members) { m.leader = a.NodeID() })
	return w, a, b, attach(t, a), attach(t, b)
}

func (n *node) raftAddr() raft.ServerAddress { return raft.ServerAddress(n.NodeID()) }

// serve answers each RPC that b's raft would get with what f says, until the
// test ends.
func serve(t *testing.T, r *transport.RaftTransport, f func(raft.RPC) (any, error)) {
	t.Helper()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-r.Consumer():
				rpc.Respond(f(rpc))
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
}

func appendRequest(n *node, entries ...*raft.Log) *raft.AppendEntriesRequest {
	return &raft.AppendEntriesRequest{
		RPCHeader: header(n), Term: 3, Leader: []byte(n.NodeID()),
		PrevLogEntry: 4, PrevLogTerm: 2, Entries: entries, LeaderCommitIndex: 4,
	}
}

func TestRPCsArriveAsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, client, server := rpcPair(t)
		var got any
		var answer any
		serve(t, server, func(rpc raft.RPC) (any, error) {
			got = rpc.Command
			return answer, nil
		})
		at := time.Date(2031, 2, 3, 4, 5, 6, 789, time.UTC)
		for _, tc := range []struct {
			req, resp, into any
			send            func(req, resp any) error
		}{
			{
				appendRequest(a, &raft.Log{Index: 5, Term: 3, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: at}, &raft.Log{Index: 6, Term: 3, Type: raft.LogNoop}),
				&raft.AppendEntriesResponse{RPCHeader: header(b), Term: 3, LastLog: 6, Success: true, NoRetryBackoff: true}, new(raft.AppendEntriesResponse),
				func(req, resp any) error {
					return client.AppendEntries(b.ServerID(), b.raftAddr(), req.(*raft.AppendEntriesRequest), resp.(*raft.AppendEntriesResponse))
				},
			},
			{
				&raft.RequestVoteRequest{RPCHeader: header(a), Term: 9, Candidate: []byte(a.NodeID()), LastLogIndex: 1 << 40, LastLogTerm: 8, LeadershipTransfer: true},
				&raft.RequestVoteResponse{RPCHeader: header(b), Term: 9, Peers: []byte("p"), Granted: true}, new(raft.RequestVoteResponse),
				func(req, resp any) error {
					return client.RequestVote(b.ServerID(), b.raftAddr(), req.(*raft.RequestVoteRequest), resp.(*raft.RequestVoteResponse))
				},
			},
			{
				&raft.RequestPreVoteRequest{RPCHeader: header(a), Term: 9, LastLogIndex: 7, LastLogTerm: 8},
				&raft.RequestPreVoteResponse{RPCHeader: header(b), Term: 9, Granted: true}, new(raft.RequestPreVoteResponse),
				func(req, resp any) error {
					return client.RequestPreVote(b.ServerID(), b.raftAddr(), req.(*raft.RequestPreVoteRequest), resp.(*raft.RequestPreVoteResponse))
				},
			},
			{
				&raft.TimeoutNowRequest{RPCHeader: header(a)}, &raft.TimeoutNowResponse{RPCHeader: header(b)}, new(raft.TimeoutNowResponse),
				func(req, resp any) error {
					return client.TimeoutNow(b.ServerID(), b.raftAddr(), req.(*raft.TimeoutNowRequest), resp.(*raft.TimeoutNowResponse))
				},
			},
		} {
			answer = tc.resp
			if err := tc.send(tc.req, tc.into); err != nil {
				t.Errorf("%T: %v", tc.req, err)
				continue
			}
			if diff := cmp.Diff(tc.req, got); diff != "" {
				t.Errorf("request (-sent +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.resp, tc.into); diff != "" {
				t.Errorf("response (-sent +got):\n%s", diff)
			}
		}
		if got := a.Stats().Classes[0].Dialed; got != 1 {
			t.Errorf("%d connections for RPCs one after the other", got)
		}
	})
}

func TestRaftErrorsArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, client, server := rpcPair(t)
		serve(t, server, func(raft.RPC) (any, error) { return nil, raft.ErrUnsupportedProtocol })
		err := client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), new(raft.AppendEntriesResponse))
		remote, ok := errors.AsType[*transport.RemoteError](err)
		if !ok || remote.Code != transport.CodeRaft || remote.Message != raft.ErrUnsupportedProtocol.Error() {
			t.Error(err)
		}
	})
}

// TestClaimsAreChecked: a member may speak for itself alone.
func TestClaimsAreChecked(t *testing.T) {
	other := identity("other").NodeID()
	for name, forge := range map[string]func(*raft.AppendEntriesRequest){
		"server id":         func(r *raft.AppendEntriesRequest) { r.ID = []byte(transport.ServerID(other, incarnation)) },
		"older incarnation": func(r *raft.AppendEntriesRequest) { r.ID[len(r.ID)-1]++ },
		"no server id":      func(r *raft.AppendEntriesRequest) { r.ID = nil },
		"address":           func(r *raft.AppendEntriesRequest) { r.Addr = []byte(other) },
		"no address":        func(r *raft.AppendEntriesRequest) { r.Addr = nil },
		"leader":            func(r *raft.AppendEntriesRequest) { r.Leader = []byte(other) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, b, client, server := rpcPair(t)
				reached := 0
				count := func(rpc raft.RPC) (any, error) {
					reached++
					return new(raft.AppendEntriesResponse), nil
				}
				serve(t, server, count)
				server.SetHeartbeatHandler(func(rpc raft.RPC) { rpc.Respond(count(rpc)) })
				for _, req := range []*raft.AppendEntriesRequest{appendRequest(a), {RPCHeader: header(a), Term: 3}} {
					forge(req)
					err := client.AppendEntries(b.ServerID(), b.raftAddr(), req, new(raft.AppendEntriesResponse))
					if !errors.Is(err, transport.ErrInterrupted) {
						t.Error(err)
					}
				}
				synctest.Wait()
				refusals := b.refusals()
				if len(refusals) != 2 || !errors.Is(refusals[0], transport.ErrProtocol) {
					t.Errorf("refused: %v", refusals)
				}
				if reached != 0 {
					t.Errorf("raft was reached %d times", reached)
				}
			})
		})
	}
}

func TestRaftOnlyFromMembersAtEachRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, client, server := rpcPair(t)
		reached := 0
		serve(t, server, func(raft.RPC) (any, error) {
			reached++
			return new(raft.AppendEntriesResponse), nil
		})
		send := func() error {
			return client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), new(raft.AppendEntriesResponse))
		}
		if err := send(); err != nil {
			t.Fatal(err)
		}
		b.members.remove(a.NodeID())
		if err := send(); !errors.Is(err, transport.ErrInterrupted) {
			t.Errorf("on the open connection: %v", err)
		}
		if err := send(); !errors.Is(err, transport.ErrRemoved) {
			t.Errorf("on a new connection: %v", err)
		}
		if reached != 1 {
			t.Errorf("raft was reached %d times", reached)
		}
	})
}

func TestTimeoutNowOnlyFromLeaderToVoter(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(a, b *node)
		pass   bool
	}{
		"leader to voter": {func(a, b *node) {}, true},
		"not the leader":  {func(a, b *node) { b.members.set(func(m *members) { m.leader = b.NodeID() }) }, false},
		"no leader known": {func(a, b *node) { b.members.set(func(m *members) { m.leader = "" }) }, false},
		"to no voter":     {func(a, b *node) { b.members.set(func(m *members) { delete(m.voters, b.NodeID()) }) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, b, client, server := rpcPair(t)
				reached := false
				serve(t, server, func(raft.RPC) (any, error) {
					reached = true
					return new(raft.TimeoutNowResponse), nil
				})
				tc.change(a, b)
				err := client.TimeoutNow(b.ServerID(), b.raftAddr(), &raft.TimeoutNowRequest{RPCHeader: header(a)}, new(raft.TimeoutNowResponse))
				if (err == nil) != tc.pass || reached != tc.pass {
					t.Errorf("%v, raft reached: %v", err, reached)
				}
			})
		})
	}
}

// TestHeartbeatsOvertake: raft is stuck over an append, and heartbeats are
// answered.
func TestHeartbeatsOvertake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, client, server := rpcPair(t)
		beats := 0
		server.SetHeartbeatHandler(func(rpc raft.RPC) {
			beats++
			rpc.Respond(&raft.AppendEntriesResponse{Term: 3, Success: true}, nil)
		})
		stuck := make(chan error, 1)
		go func() {
			stuck <- client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a, &raft.Log{Index: 5}), new(raft.AppendEntriesResponse))
		}()
		synctest.Wait()
		start := time.Now()
		beat := &raft.AppendEntriesRequest{RPCHeader: header(a), Term: 3, Leader: []byte(a.NodeID())}
		for range 3 {
			var resp raft.AppendEntriesResponse
			if err := client.AppendEntries(b.ServerID(), b.raftAddr(), beat, &resp); err != nil || !resp.Success {
				t.Errorf("%+v, %v", resp, err)
			}
		}
		if beats != 3 || time.Since(start) != 0 {
			t.Errorf("%d heartbeats in %v", beats, time.Since(start))
		}
		if err := <-stuck; !errors.Is(err, transport.ErrInterrupted) { // at its deadline
			t.Errorf("append to a stuck raft: %v", err)
		}
		if d := time.Since(start); d > 15*time.Second {
			t.Errorf("the append gave up after %v", d)
		}
		if rtt, ok := a.Stats().RTT[b.NodeID()]; !ok || rtt != 0 {
			t.Errorf("round trip %v, %v", rtt, ok)
		}
	})
}

// A silent peer costs an RPC its deadline and no more.
func TestRPCToSilentPeerEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, client, server := rpcPair(t)
		serve(t, server, func(raft.RPC) (any, error) { return new(raft.AppendEntriesResponse), nil })
		send := func(want error, limit time.Duration) {
			t.Helper()
			start := time.Now()
			err := client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), new(raft.AppendEntriesResponse))
			if !errors.Is(err, want) || time.Since(start) > limit {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
		send(nil, 0)
		w.net.Isolate("a", "b")
		send(transport.ErrInterrupted, 10*time.Second)
		send(transport.ErrUnreachable, 15*time.Second)
		w.net.Join("a", "b")
		send(nil, 2*time.Second)
	})
}

// Raft pauses longer with every append that fails; one that waits reaches the
// peer as soon as it is back.
func TestAppendWaitsForThePeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, client, server := rpcPair(t)
		serve(t, server, func(raft.RPC) (any, error) { return new(raft.AppendEntriesResponse), nil })
		w.net.Isolate("a", "b")
		start := time.Now()
		time.AfterFunc(6*time.Second, func() { w.net.Join("a", "b") })
		err := client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), new(raft.AppendEntriesResponse))
		if d := time.Since(start); err != nil || d < 6*time.Second || d > 9*time.Second {
			t.Errorf("%v after %v", err, d)
		}
		// It does not hold up the end of the session.
		w.net.Isolate("a", "b")
		start = time.Now()
		time.AfterFunc(time.Second, func() { _ = client.Close() })
		err = client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), new(raft.AppendEntriesResponse))
		if d := time.Since(start); err == nil || d > time.Second+appendRetry {
			t.Errorf("closed: %v after %v", err, d)
		}
	})
}

// appendRetry is how often an append tries to reach a peer.
const appendRetry = 50 * time.Millisecond

func TestPipelineKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, client, server := rpcPair(t)
		var arrived []uint64
		serve(t, server, func(rpc raft.RPC) (any, error) {
			index := rpc.Command.(*raft.AppendEntriesRequest).Entries[0].Index
			arrived = append(arrived, index)
			return &raft.AppendEntriesResponse{LastLog: index, Success: true}, nil
		})
		p, err := client.AppendEntriesPipeline(b.ServerID(), b.raftAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		const n = 200
		go func() {
			for i := range uint64(n) {
				if _, err := p.AppendEntries(appendRequest(a, &raft.Log{Index: i}), new(raft.AppendEntriesResponse)); err != nil {
					t.Errorf("append %d: %v", i, err)
				}
			}
		}()
		for i := range uint64(n) {
			f := <-p.Consumer()
			if err := f.Error(); err != nil || f.Request().Entries[0].Index != i || f.Response().LastLog != i {
				t.Fatalf("answer %d: %v, %+v", i, err, f.Response())
			}
		}
		if !slices.IsSorted(arrived) || len(arrived) != n {
			t.Errorf("arrived: %v", arrived)
		}
	})
}

// A follower that stops answering: appends block once a few are in flight, then
// the pipeline fails as raft expects: futures whose responses are no success.
func TestPipelineToSilentPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b, client, _ := rpcPair(t)
		p, err := client.AppendEntriesPipeline(b.ServerID(), b.raftAddr())
		if err != nil {
			t.Fatal(err)
		}
		w.net.Isolate("a", "b")
		start := time.Now()
		sent := 0
		for {
			if _, err := p.AppendEntries(appendRequest(a, &raft.Log{Index: 1}), &raft.AppendEntriesResponse{Success: true}); err != nil {
				break
			}
			sent++
		}
		if d := time.Since(start); d > 10*time.Second || sent == 0 || sent > 8 {
			t.Errorf("%d appends in %v", sent, d)
		}
		for range sent {
			f := <-p.Consumer()
			if f.Error() == nil || f.Response().Success {
				t.Errorf("an append to nobody: %v, %+v", f.Error(), f.Response())
			}
		}
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestInstallSnapshot(t *testing.T) {
	content := bytes.Repeat([]byte("manifest"), 100_000)
	request := func(a *node, size int) *raft.InstallSnapshotRequest {
		return &raft.InstallSnapshotRequest{
			RPCHeader: header(a), SnapshotVersion: 1, Term: 3, Leader: []byte(a.NodeID()),
			LastLogIndex: 100, LastLogTerm: 2, Configuration: []byte("conf"), ConfigurationIndex: 7, Size: int64(size),
		}
	}
	send := func(client *transport.RaftTransport, b *node, req *raft.InstallSnapshotRequest) (raft.InstallSnapshotResponse, error) {
		var resp raft.InstallSnapshotResponse
		err := client.InstallSnapshot(b.ServerID(), b.raftAddr(), req, &resp, bytes.NewReader(content))
		return resp, err
	}

	t.Run("streams", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, a, b, client, server := rpcPair(t)
			req := request(a, len(content))
			serve(t, server, func(rpc raft.RPC) (any, error) {
				if diff := cmp.Diff(any(req), rpc.Command); diff != "" {
					t.Errorf("request (-sent +got):\n%s", diff)
				}
				data, err := io.ReadAll(rpc.Reader)
				if err != nil || !bytes.Equal(data, content) {
					t.Errorf("%d bytes, %v", len(data), err)
				}
				return &raft.InstallSnapshotResponse{Term: 3, Success: true}, nil
			})
			if resp, err := send(client, b, req); err != nil || !resp.Success {
				t.Errorf("%+v, %v", resp, err)
			}
		})
	})
	t.Run("sender falls short", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, a, b, client, server := rpcPair(t)
			serve(t, server, func(rpc raft.RPC) (any, error) {
				if _, err := io.ReadAll(rpc.Reader); err == nil {
					t.Error("the receiver does not notice")
				}
				return &raft.InstallSnapshotResponse{Term: 3}, errors.New("short")
			})
			if _, err := send(client, b, request(a, len(content)+1)); err == nil {
				t.Error("no error")
			}
		})
	})
	for name, tc := range map[string]struct {
		guard   transport.InstallGuard
		reached bool
		success bool
	}{
		"guard answers": {func(_ context.Context, _ *raft.InstallSnapshotRequest, data io.Reader) (bool, io.Reader, *raft.InstallSnapshotResponse, error) {
			return true, nil, &raft.InstallSnapshotResponse{Term: 3, Success: true}, nil
		}, false, true},
		"guard replays": {func(_ context.Context, _ *raft.InstallSnapshotRequest, data io.Reader) (bool, io.Reader, *raft.InstallSnapshotResponse, error) {
			b, err := io.ReadAll(data)
			return false, bytes.NewReader(b), nil, err
		}, true, true},
		"guard fails": {func(context.Context, *raft.InstallSnapshotRequest, io.Reader) (bool, io.Reader, *raft.InstallSnapshotResponse, error) {
			return false, nil, nil, errors.New("not now")
		}, false, false},
		"guard waits too long": {func(ctx context.Context, _ *raft.InstallSnapshotRequest, data io.Reader) (bool, io.Reader, *raft.InstallSnapshotResponse, error) {
			_, err := io.ReadAll(data)
			<-ctx.Done()
			return false, nil, nil, errors.Join(err, ctx.Err())
		}, false, false},
		"guard is indecisive": {func(context.Context, *raft.InstallSnapshotRequest, io.Reader) (bool, io.Reader, *raft.InstallSnapshotResponse, error) {
			return true, nil, nil, nil
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, b, client, server := rpcPair(t, func(c *transport.Config) { c.InstallGuard = tc.guard })
				reached := false
				serve(t, server, func(rpc raft.RPC) (any, error) {
					reached = true
					if data, err := io.ReadAll(rpc.Reader); err != nil || !bytes.Equal(data, content) {
						t.Errorf("%d bytes, %v", len(data), err)
					}
					return &raft.InstallSnapshotResponse{Term: 3, Success: true}, nil
				})
				resp, err := send(client, b, request(a, len(content)))
				if errors.Is(err, transport.ErrInterrupted) {
					t.Errorf("no answer: %v", err)
				}
				if reached != tc.reached || resp.Success != tc.success || (err == nil) != tc.success {
					t.Errorf("raft reached: %v, %+v, %v", reached, resp, err)
				}
			})
		})
	}
}

func TestOneSessionAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, a, b, client, server := rpcPair(t)
		if _, err := b.AttachRaft(); err == nil {
			t.Error("two sessions at once")
		}
		stuck := make(chan error, 1)
		go func() {
			stuck <- client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), new(raft.AppendEntriesResponse))
		}()
		synctest.Wait()
		if err := errors.Join(server.Close(), server.Close()); err != nil {
			t.Error(err)
		}
		if err := <-stuck; !errors.Is(err, transport.ErrInterrupted) {
			t.Errorf("RPC in hand: %v", err)
		}
		next := attach(t, b)
		serve(t, next, func(raft.RPC) (any, error) { return new(raft.AppendEntriesResponse), nil })
		if err := client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), new(raft.AppendEntriesResponse)); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		_ = server.Close() // the old one's, which must not end the new one
		if err := client.AppendEntries(b.ServerID(), b.raftAddr(), appendRequest(a), new(raft.AppendEntriesResponse)); err != nil {
			t.Errorf("after a late close: %v", err)
		}
	})
}
