package membership

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/chain"
)

// fakeCluster is a node's cluster as a test sets it.
type fakeCluster struct {
	hasState bool
	members  []Member
	admit    error
	admitted []Member
}

func (f *fakeCluster) HasState() bool    { return f.hasState }
func (f *fakeCluster) Members() []Member { return f.members }
func (f *fakeCluster) Head() chain.Head  { return chain.Head{Size: 3} }
func (f *fakeCluster) Admit(_ context.Context, m Member) error {
	if f.admit == nil {
		f.admitted = append(f.admitted, m)
		f.members = append(f.members, m)
	}
	return f.admit
}

func member(id string) Member {
	return Member{NodeID: "node-" + id, ServerID: id, PeerAddr: id + ":1"}
}

func newTestHandler(t *testing.T, c *fakeCluster) *Handler {
	t.Helper()
	h, err := NewHandler(HandlerConfig{
		Self: member("b"), Genesis: chain.Hash{1}, Expect: 2, Promises: open(t, newCrashFS()), Cluster: c,
		Allowed: func(id string) bool { return id != "node-gone" }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// through is a Call that reaches one handler as one peer.
func through(h *Handler, peer string) Call {
	return func(ctx context.Context, _, method string, payload []byte) ([]byte, string, error) {
		return h.Handle(ctx, peer, method, payload), h.cfg.Self.NodeID, nil
	}
}

func TestPromiseIsRefused(t *testing.T) {
	foreign := proposal(1, "a", "b")
	foreign.Genesis = chain.Hash{2}
	otherIncarnation := proposal(1, "a", "b")
	otherIncarnation.Members[1].ServerID = "b2"
	for _, tc := range []struct {
		name     string
		peer     string
		proposal Proposal
		hasState bool
		want     error
	}{
		{"fits", "node-a", proposal(1, "a", "b"), false, nil},
		{"removed node", "node-gone", proposal(1, "a", "b"), false, ErrRemoved},
		{"another cluster", "node-a", foreign, false, ErrForeignCluster},
		{"raft state exists", "node-a", proposal(1, "a", "b"), true, ErrHasState},
		{"not the proposer", "node-c", proposal(1, "a", "b"), false, ErrRefused},
		{"own proposal by another", "node-b", proposal(1, "b", "c"), false, ErrRefused},
		{"other size", "node-a", proposal(1, "a", "b", "c"), false, ErrRefused},
		{"without this node", "node-a", proposal(1, "a", "c"), false, ErrRefused},
		{"another incarnation of this node", "node-a", otherIncarnation, false, ErrRefused},
		{"not sorted", "node-b", proposal(1, "b", "a"), false, ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newTestHandler(t, &fakeCluster{hasState: tc.hasState})
			reply, _, err := ask[PromiseReply](t.Context(), through(h, tc.peer), "b:1", MethodPromise, PromiseRequest{tc.proposal})
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			held := h.cfg.Promises.Held()
			if (held != nil) != (err == nil) {
				t.Errorf("holds %v after %v", held, err)
			}
			if err == nil && reply.Held.Digest != tc.proposal.Digest() {
				t.Errorf("reply %+v", reply)
			}
		})
	}
}

func TestOnlyTheProposerWithdraws(t *testing.T) {
	p := proposal(1, "a", "b")
	for _, tc := range []struct {
		name     string
		peer     string
		change   func(*WithdrawRequest)
		hasState bool
		want     error
		holds    bool
	}{
		{"proposer", "node-a", nil, false, nil, false},
		{"another attempt", "node-a", func(r *WithdrawRequest) { r.Digest[0]++ }, false, nil, true},
		{"another node", "node-c", nil, false, ErrRefused, true},
		{"another incarnation", "node-a", func(r *WithdrawRequest) { r.ServerID = "a2" }, false, ErrRefused, true},
		{"another cluster", "node-a", func(r *WithdrawRequest) { r.Genesis[0]++ }, false, ErrForeignCluster, true},
		{"raft state exists", "node-a", nil, true, ErrHasState, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &fakeCluster{}
			h := newTestHandler(t, c)
			if _, err := h.cfg.Promises.Promise(p); err != nil {
				t.Fatal(err)
			}
			c.hasState = tc.hasState
			r := WithdrawRequest{Genesis: p.Genesis, Digest: p.Digest(), ServerID: "a"}
			if tc.change != nil {
				tc.change(&r)
			}
			_, _, err := ask[WithdrawReply](t.Context(), through(h, tc.peer), "b:1", MethodWithdraw, r)
			if !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
			if holds := h.cfg.Promises.Held() != nil; holds != tc.holds {
				t.Errorf("holds %t, want %t", holds, tc.holds)
			}
		})
	}
}

// A proposer gives up its own promise before it tells anybody.
func TestWithdrawalBeginsAtHome(t *testing.T) {
	h := newTestHandler(t, &fakeCluster{}) // node b
	p := proposal(1, "b", "c")
	if _, err := h.cfg.Promises.Promise(p); err != nil {
		t.Fatal(err)
	}
	told := 0
	f := &former{
		cfg: FormConfig{Log: slog.New(slog.DiscardHandler), Call: func(_ context.Context, _, method string, _ []byte) ([]byte, string, error) {
			if held := h.cfg.Promises.Held(); method != MethodWithdraw || held != nil {
				t.Errorf("%s while %v is held", method, held)
			}
			told++
			return encodeReply(WithdrawReply{}, nil), "node-c", nil
		}},
		h:     h,
		heard: map[string]HeardHello{"node-c": {Addr: "c:1"}},
	}
	if err := f.giveUp(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if told != 1 {
		t.Errorf("told %d peers, want 1", told)
	}
}

func TestHelloChecksWhoAsks(t *testing.T) {
	h := newTestHandler(t, &fakeCluster{})
	var heard []string
	h.cfg.Heard = func(id, addr string) { heard = append(heard, id+" "+addr) }
	hello := Hello{Genesis: chain.Hash{1}, Self: member("a"), Expect: 2, State: Forming}
	if _, _, err := ask[Hello](t.Context(), through(h, "node-x"), "b:1", MethodHello, hello); !errors.Is(err, ErrRefused) {
		t.Errorf("under another's name: %v", err)
	}
	if got := h.Callers(); len(got) != 0 {
		t.Errorf("callers %v", got)
	}
	got, _, err := ask[Hello](t.Context(), through(h, "node-a"), "b:1", MethodHello, hello)
	if err != nil || got.Self != member("b") || got.State != Forming {
		t.Errorf("hello: %+v, %v", got, err)
	}
	if got := h.Callers(); !slices.Equal(got, []string{"a:1"}) {
		t.Errorf("callers %v", got)
	}
	if !slices.Equal(heard, []string{"node-a a:1"}) {
		t.Errorf("heard %v", heard)
	}
	hello.Genesis = chain.Hash{9}
	if _, _, err := ask[Hello](t.Context(), through(h, "node-a"), "b:1", MethodHello, hello); !errors.Is(err, ErrForeignCluster) {
		t.Errorf("foreign: %v", err)
	}
	if _, _, err := ask[Hello](t.Context(), through(h, "node-a"), "b:1", "dance", hello); !errors.Is(err, ErrMalformed) {
		t.Errorf("unknown method: %v", err)
	}
}

func TestGreetChecksWhoAnswers(t *testing.T) {
	from := newTestHandler(t, &fakeCluster{})
	c := &fakeCluster{hasState: true, members: []Member{member("a")}}
	to, err := NewHandler(HandlerConfig{
		Self: member("a"), Genesis: chain.Hash{1}, Promises: open(t, newCrashFS()), Cluster: c,
		Allowed: func(string) bool { return true }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := from.Greet(t.Context(), through(to, "node-b"), "a:1")
	if err != nil || got.Self != member("a") || got.State != InRaft || !hasServer(got.Members, "a") {
		t.Errorf("greeting: %+v, %v", got, err)
	}
	posing := func(ctx context.Context, addr, method string, payload []byte) ([]byte, string, error) {
		reply, _, err := through(to, "node-b")(ctx, addr, method, payload)
		return reply, "node-x", err
	}
	if _, err := from.Greet(t.Context(), posing, "a:1"); !errors.Is(err, ErrRefused) {
		t.Errorf("answer under another's name: %v", err)
	}
}

// joinWith runs Join of node z through what calls answer, and stops it after a
// virtual minute.
func joinWith(t *testing.T, call Call, candidates ...string) (members []Member, prefetched int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var pinned []Member
	members, err = Join(ctx, JoinConfig{
		Self: member("z"), Genesis: chain.Hash{1}, Call: call,
		Candidates: func() []string { return slices.Clone(candidates) },
		Pin:        func(ms []Member) { pinned = ms },
		Prefetch: func(_ context.Context, from []Member, head chain.Head) error {
			prefetched++
			if len(pinned) == 0 || len(from) == 0 || head.Size != 3 {
				t.Errorf("prefetch from %v to %v with %v pinned", from, head, pinned)
			}
			return nil
		},
		Rand: func() float64 { return 0.5 }, Log: slog.New(slog.DiscardHandler),
	})
	return members, prefetched, err
}

func TestJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{hasState: true, members: []Member{member("a"), member("b")}}
		h := newTestHandler(t, c)
		silent := errors.New("no answer")
		call := func(ctx context.Context, addr, method string, payload []byte) ([]byte, string, error) {
			if addr != "b:1" { // the first candidate is dead
				return nil, "", silent
			}
			return through(h, "node-z")(ctx, addr, method, payload)
		}
		members, prefetched, err := joinWith(t, call, "x:1", "b:1")
		if err != nil || prefetched != 1 || !hasServer(members, "z") || len(c.admitted) != 1 {
			t.Fatalf("members %v, prefetched %d, admitted %v, %v", members, prefetched, c.admitted, err)
		}
		// Again, as after a crash: it is in already.
		_, prefetched, err = joinWith(t, call, "b:1")
		if err != nil || prefetched != 0 || len(c.admitted) != 1 {
			t.Errorf("joined again: prefetched %d, admitted %v, %v", prefetched, c.admitted, err)
		}
	})
}

func TestJoinRefusals(t *testing.T) {
	refuse := func(err error) Call {
		return func(context.Context, string, string, []byte) ([]byte, string, error) {
			return encodeReply(nil, err), "node-b", nil
		}
	}
	for _, tc := range []struct {
		name string
		call Call
		want error
	}{
		{"removed", refuse(ErrRemoved), ErrRemoved},
		{"foreign", refuse(ErrForeignCluster), ErrForeignCluster},
		{"refused", refuse(ErrRefused), ErrRefused},
		{"wrong secret", func(context.Context, string, string, []byte) ([]byte, string, error) {
			return nil, "", ErrWrongSecret
		}, ErrWrongSecret},
		{"never available", refuse(ErrUnavailable), context.DeadlineExceeded},
		{"one foreign, one not there yet", func(_ context.Context, addr, _ string, _ []byte) ([]byte, string, error) {
			if addr == "a:1" {
				return encodeReply(nil, ErrForeignCluster), "node-a", nil
			}
			return encodeReply(nil, ErrUnavailable), "node-b", nil
		}, context.DeadlineExceeded},
		{"one silent, one says removed", func(_ context.Context, addr, _ string, _ []byte) ([]byte, string, error) {
			if addr == "a:1" {
				return nil, "", errNet
			}
			return encodeReply(nil, ErrRemoved), "node-b", nil
		}, ErrRemoved},
		{"nonsense", func(context.Context, string, string, []byte) ([]byte, string, error) {
			return []byte(`{"ok":{"members":[],"heads":1}}`), "node-b", nil
		}, context.DeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if _, _, err := joinWith(t, tc.call, "a:1", "b:1"); !errors.Is(err, tc.want) {
					t.Errorf("error %v, want %v", err, tc.want)
				}
			})
		})
	}
}

// A stranger who is heard before any member keeps nobody from joining.
func TestJoinPastAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &fakeCluster{hasState: true, members: []Member{member("a"), member("b")}}
		h := newTestHandler(t, c)
		began := time.Now()
		call := func(ctx context.Context, addr, method string, payload []byte) ([]byte, string, error) {
			if addr == "x:1" || time.Since(began) < 2*time.Second { // nobody else is there yet
				return nil, "", ErrWrongSecret
			}
			return through(h, "node-z")(ctx, addr, method, payload)
		}
		if members, _, err := joinWith(t, call, "x:1", "b:1"); err != nil || !hasServer(members, "z") {
			t.Errorf("members %v, %v", members, err)
		}
	})
}

// A node that is about to join promises nothing any more.
func TestJoinersDoNotPromise(t *testing.T) {
	h := newTestHandler(t, &fakeCluster{})
	if err := h.cfg.Promises.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err := ask[PromiseReply](t.Context(), through(h, "node-a"), "b:1", MethodPromise, PromiseRequest{proposal(1, "a", "b")})
	if !errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}
}

func TestRefusalsKeepTheirMeaning(t *testing.T) {
	for code, sentinel := range codes() {
		_, err := decodeReply[WithdrawReply](encodeReply(nil, sentinel))
		if !errors.Is(err, sentinel) {
			t.Errorf("%s arrives as %v", code, err)
		}
	}
	if _, err := decodeReply[WithdrawReply](encodeReply(nil, errDisk)); !errors.Is(err, ErrUnavailable) {
		t.Errorf("any other error arrives as %v", err)
	}
	if _, err := decodeReply[WithdrawReply]([]byte(`{"code":"new","text":"x"}`)); !errors.Is(err, ErrRefused) {
		t.Errorf("an unknown code arrives as %v", err)
	}
}

// FuzzMessages: no input makes a handler panic or lets a promise through that
// does not hold what one must; what decodes encodes to what decodes the same.
func FuzzMessages(f *testing.F) {
	seed := func(v any) {
		data, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	seed(Hello{Genesis: chain.Hash{1}, Self: member("a"), Expect: 2, State: Forming, Promise: &PromiseRef{Proposer: "a"}, Peers: []string{"x:1"}})
	seed(PromiseRequest{proposal(1, "a", "b")})
	seed(WithdrawRequest{ServerID: "a"})
	seed(JoinRequest{Self: member("a")})
	seed(promiseRecord{Version: 1, Proposal: proposal(1, "a"), Digest: proposal(1, "a").Digest()})
	f.Add([]byte(`{"ok":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		roundTrip[Hello](t, data)
		roundTrip[PromiseRequest](t, data)
		roundTrip[WithdrawRequest](t, data)
		roundTrip[JoinRequest](t, data)
		roundTrip[JoinBeginReply](t, data)
		roundTrip[envelope](t, data)
		roundTrip[promiseRecord](t, data)
	})
}

func roundTrip[T message](t *testing.T, data []byte) {
	m, err := decode[T](data)
	if err != nil {
		return
	}
	once, err := json.Marshal(m)
	if err != nil {
		t.Fatalf("%T does not encode: %v", m, err)
	}
	again, err := decode[T](once)
	if err != nil {
		t.Fatalf("%T: %s does not decode again: %v", m, once, err)
	}
	twice, err := json.Marshal(again)
	if err != nil || !bytes.Equal(once, twice) {
		t.Errorf("%T: %s becomes %s", m, once, twice)
	}
}
