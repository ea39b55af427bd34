package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
)

func TestEveryProtocol(t *testing.T) {
	for name, options := range protocols {
		t.Run(name, func(t *testing.T) {
			r := start(t, nil)
			c := r.ledger(options...)
			ctx := t.Context()

			sent := &exonodev1.Event{
				Workspace: "w", Source: "/agents/1", Id: "a-1", Kind: "agent.spawn", Subject: "agent 1",
				Data: []byte(`{"pid":  1}`), DataSchema: "https://example.com/s", SchemaVersion: 3,
				Causes: []uint64{0}, Priority: 1, ClientTimeUnixNano: 12345,
				Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
				Extensions: map[string]*exonodev1.Value{
					"flag":   {Kind: &exonodev1.Value_Boolean{Boolean: true}},
					"number": {Kind: &exonodev1.Value_Integer{Integer: -7}},
					"text":   {Kind: &exonodev1.Value_Text{Text: "å"}},
				},
				Salt: []byte(strings.Repeat("s", chain.SaltSize)),
			}
			res, err := c.Append(ctx, &exonodev1.AppendRequest{Event: sent})
			if err != nil {
				t.Fatal(err)
			}
			ack := res.GetAck()
			if ack.GetSequence() != 1 || ack.GetDuplicate() || len(ack.GetHash()) != 32 || ack.GetTimeUnixNano() == 0 {
				t.Fatalf("ack %v", ack)
			}
			again, err := c.Append(ctx, &exonodev1.AppendRequest{Event: sent})
			if err != nil {
				t.Fatal(err)
			}
			ack.Duplicate = true
			if diff := cmp.Diff(ack, again.GetAck(), protocmp.Transform()); diff != "" {
				t.Errorf("the second answer differs from the first (-first +second):\n%s", diff)
			}

			got, err := c.Get(ctx, &exonodev1.GetRequest{Sequence: 1})
			if err != nil {
				t.Fatal(err)
			}
			record, err := api.RecordFromProto(got.GetEntry())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(r.node.Ledger().Records()[1], record); diff != "" {
				t.Errorf("raw form (-ledger +got):\n%s", diff)
			}
			want := protocmp.Transform()
			readable := got.GetEntry().GetReadable()
			expected := cloneEvent(sent)
			expected.Data, expected.Text, expected.Salt, expected.ContentType = nil, string(sent.Data), nil, "application/json"
			if diff := cmp.Diff(expected, readable.GetEvent(), want); diff != "" {
				t.Errorf("readable event (-sent +got):\n%s", diff)
			}
			if readable.GetPrincipal() != "local" || readable.GetHash() != fmt.Sprintf("%x", ack.GetHash()) || readable.GetRedacted() {
				t.Errorf("readable entry %v", readable)
			}

			found, err := c.Lookup(ctx, &exonodev1.LookupRequest{Workspace: "w", Source: "/agents/1", Id: "a-1", Form: exonodev1.EntryForm_ENTRY_FORM_RAW})
			if err != nil {
				t.Fatal(err)
			}
			if found.GetState() != exonodev1.LookupState_LOOKUP_STATE_SEALED || found.GetEntry().GetSequence() != 1 || found.GetEntry().GetReadable() != nil {
				t.Errorf("lookup %v", found)
			}
			head, err := c.Head(ctx, &exonodev1.HeadRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if h := head.GetHead(); h.GetSize() != 2 || string(h.GetHash()) != string(ack.GetHash()) {
				t.Errorf("head %v", h)
			}
			if _, err := c.Lookup(ctx, &exonodev1.LookupRequest{Source: "/agents/1", Id: "a-1"}); err == nil {
				t.Error("found in workspace default")
			} else {
				wantCode(t, err, api.NotFound)
			}

			w, err := c.Watch(ctx, &exonodev1.WatchRequest{SequenceFrom: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			for n := 0; n == 0; n += len(w.Msg().GetEntries()) {
				if !w.Receive() {
					t.Fatal(w.Err())
				}
			}
			if e := w.Msg().GetEntries(); len(e) != 1 || e[0].GetSequence() != 1 {
				t.Errorf("watched %v", e)
			}
		})
	}
}

// Every code arrives as it was sent, with all its fields, in every protocol.
func TestErrorCodes(t *testing.T) {
	r := start(t, nil)
	for name, options := range protocols {
		c := r.ledger(options...)
		for _, code := range api.Codes() {
			t.Run(name+"/"+string(code), func(t *testing.T) {
				want := &api.Error{
					Code: code, Message: "what is wrong: ü", Hint: "do this", Field: "data.pid",
					RetryAfterMillis: 1500, Sequence: 0, HasSequence: true,
				}
				r.node.SetHooks(servertestHooks(want))
				_, err := c.Append(t.Context(), &exonodev1.AppendRequest{Event: event(1)})
				if diff := cmp.Diff(want, api.FromConnect(err)); diff != "" {
					t.Errorf("error (-sent +got):\n%s", diff)
				}
				if got := connect.CodeOf(err); got != code.Connect() {
					t.Errorf("carried by %v, want %v", got, code.Connect())
				}
				var ce *connect.Error
				if ce = asConnect(err); ce == nil || ce.Meta().Get("Retry-After") != "2" {
					t.Errorf("no Retry-After of 2 in %v", err)
				}
			})
		}
	}
}

func TestGateAnswers(t *testing.T) {
	r := start(t, nil)
	r.node.Ledger().Decide(func(e chain.Event) *chain.Verdict {
		v := &chain.Verdict{Gate: "agent.spawn", Decision: chain.Permit, Effective: chain.Effect{1, 2, 3, 4, 5}, Profile: "thresholds/1", Reasons: []string{"risk>elevate"}}
		switch e.ID {
		case "denied":
			v.Decision = chain.Deny
		case "escalated":
			v.Decision = chain.Escalate
		}
		return v
	})
	c := r.ledger()
	one := func(id string) *exonodev1.Event {
		e := event(0)
		e.Id = id
		return e
	}
	res, err := c.Append(t.Context(), &exonodev1.AppendRequest{Event: one("fine")})
	if err != nil {
		t.Fatal(err)
	}
	if v := res.GetAck().GetVerdict(); v.GetDecision() != exonodev1.Decision_DECISION_PERMIT || v.GetEffective().GetSecurity() != 5 {
		t.Errorf("verdict %v", v)
	}
	_, err = c.Append(t.Context(), &exonodev1.AppendRequest{Event: one("denied")})
	if e := wantCode(t, err, api.GateDenied); !e.HasSequence || e.Sequence != 2 {
		t.Errorf("denial does not name its entry: %+v", e)
	}
	_, err = c.Append(t.Context(), &exonodev1.AppendRequest{Event: one("escalated")})
	if e := wantCode(t, err, api.Escalated); !e.HasSequence || e.Sequence != 3 {
		t.Errorf("escalation does not name its entry: %+v", e)
	}
	found, err := c.Lookup(t.Context(), &exonodev1.LookupRequest{Source: "test", Id: "escalated"})
	if err != nil {
		t.Fatal(err)
	}
	if found.GetState() != exonodev1.LookupState_LOOKUP_STATE_PENDING || found.GetEntry().GetReadable().GetEvent().GetKind() != "governance.escalate" {
		t.Errorf("lookup %v", found)
	}
}

// In a batch each event has its own answer, those that can't be converted too.
func TestBatchAnswersInOrder(t *testing.T) {
	r := start(t, nil)
	bad := event(2)
	bad.Effect = &exonodev1.Effect{Privacy: 10_001}
	both := event(3)
	both.Data = []byte("x")
	reserved := event(5)
	reserved.Workspace = "system"
	changed := event(1)
	changed.Subject = "another"
	res, err := r.ledger().AppendBatch(t.Context(), &exonodev1.AppendBatchRequest{Events: []*exonodev1.Event{
		event(1), bad, both, event(4), reserved, event(1), changed,
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range res.GetAcks() {
		switch {
		case a.GetError() != nil:
			got = append(got, a.GetError().GetCode()+" "+a.GetError().GetField())
		case a.GetDuplicate():
			got = append(got, fmt.Sprintf("duplicate of %d", a.GetSequence()))
		default:
			got = append(got, fmt.Sprint(a.GetSequence()))
		}
	}
	want := []string{"1", "effect_range effect.privacy", "bad_field text", "2", "reserved_workspace workspace", "duplicate of 1", "conflict "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}

	none, err := r.ledger().AppendBatch(t.Context(), &exonodev1.AppendBatchRequest{})
	if err != nil || len(none.GetAcks()) != 0 {
		t.Errorf("an empty batch: %v, %v", none, err)
	}
	many := &exonodev1.AppendBatchRequest{Events: make([]*exonodev1.Event, 4097)}
	for i := range many.Events {
		many.Events[i] = &exonodev1.Event{}
	}
	_, err = r.ledger().AppendBatch(t.Context(), many)
	wantCode(t, err, api.TooLarge)
}

func TestBadRequests(t *testing.T) {
	r := start(t, nil)
	c, ctx := r.ledger(), t.Context()
	for name, test := range map[string]struct {
		call  func() error
		code  api.Code
		field string
	}{
		"no event": {func() error {
			_, err := c.Append(ctx, &exonodev1.AppendRequest{})
			return err
		}, api.BadField, "event"},
		"salt": {func() error {
			_, err := c.Append(ctx, &exonodev1.AppendRequest{Event: &exonodev1.Event{Salt: []byte("short")}})
			return err
		}, api.BadField, "salt"},
		"empty extension": {func() error {
			e := event(1)
			e.Extensions = map[string]*exonodev1.Value{"x": {}}
			_, err := c.Append(ctx, &exonodev1.AppendRequest{Event: e})
			return err
		}, api.BadField, "extensions.x"},
		"consistency level": {func() error {
			_, err := c.Head(ctx, &exonodev1.HeadRequest{Consistency: &exonodev1.Consistency{Level: 9}})
			return err
		}, api.BadField, "consistency.level"},
		"sequence without session": {func() error {
			_, err := c.Head(ctx, &exonodev1.HeadRequest{Consistency: &exonodev1.Consistency{Sequence: 9}})
			return err
		}, api.BadField, "consistency.sequence"},
		"form": {func() error {
			_, err := c.Get(ctx, &exonodev1.GetRequest{Form: 7})
			return err
		}, api.BadField, "form"},
		"beyond the head": {func() error {
			_, err := c.Get(ctx, &exonodev1.GetRequest{Sequence: 99})
			return err
		}, api.NotFound, "sequence"},
		"lookup without id": {func() error {
			_, err := c.Lookup(ctx, &exonodev1.LookupRequest{Source: "s"})
			return err
		}, api.BadField, "id"},
		"negative page": {func() error {
			_, err := c.List(ctx, &exonodev1.ListRequest{PageSize: -1})
			return err
		}, api.BadField, "page_size"},
		"inclusion beyond": {func() error {
			_, err := c.GetInclusionProof(ctx, &exonodev1.GetInclusionProofRequest{Sequence: 1})
			return err
		}, api.NotFound, "sequence"},
		"tree beyond": {func() error {
			_, err := c.GetInclusionProof(ctx, &exonodev1.GetInclusionProofRequest{TreeSize: 5})
			return err
		}, api.NotFound, "tree_size"},
		"shrinking tree": {func() error {
			_, err := c.GetConsistencyProof(ctx, &exonodev1.GetConsistencyProofRequest{SizeFrom: 2, SizeTo: 1})
			return err
		}, api.NotFound, "size_from"},
		"remove whom": {func() error {
			_, err := r.cluster().Remove(ctx, &exonodev1.RemoveRequest{})
			return err
		}, api.BadField, "node_id"},
		"leave of another": {func() error {
			_, err := r.cluster().Leave(ctx, &exonodev1.LeaveRequest{NodeId: "n2"})
			return err
		}, api.Precondition, "node_id"},
	} {
		t.Run(name, func(t *testing.T) {
			if e := wantCode(t, test.call(), test.code); e.Field != test.field {
				t.Errorf("field %q, want %q", e.Field, test.field)
			}
		})
	}
	if n := len(r.node.Ledger().Records()); n != 1 {
		t.Errorf("%d entries after bad requests only", n)
	}
}

func TestMessageTooLarge(t *testing.T) {
	r := start(t, func(c *server.Config) { c.MaxRequest = 1000 })
	e := event(1)
	e.Text = strings.Repeat("x", 2000)
	_, err := r.ledger().Append(t.Context(), &exonodev1.AppendRequest{Event: e})
	wantCode(t, err, api.TooLarge)
}

func TestProofsVerify(t *testing.T) {
	r := start(t, nil)
	fill(t, r, 0, 20)
	c := r.ledger()
	records := r.node.Ledger().Records()
	for size := uint64(1); size <= uint64(len(records)); size++ {
		for seq := range size {
			p, err := c.GetInclusionProof(t.Context(), &exonodev1.GetInclusionProofRequest{Sequence: seq, TreeSize: size})
			if err != nil {
				t.Fatal(err)
			}
			if err := chain.VerifyInclusion(chain.LeafHash(records[seq].Header), seq, size, chain.Hash(p.GetRoot()), hashes(p.GetHashes())); err != nil {
				t.Errorf("entry %d in %d: %v", seq, size, err)
			}
		}
		p, err := c.GetConsistencyProof(t.Context(), &exonodev1.GetConsistencyProofRequest{SizeFrom: size})
		if err != nil {
			t.Fatal(err)
		}
		if p.GetSizeTo() != uint64(len(records)) {
			t.Fatalf("proof for size %d", p.GetSizeTo())
		}
		if err := chain.VerifyConsistency(size, p.GetSizeTo(), chain.Hash(p.GetRootFrom()), chain.Hash(p.GetRootTo()), hashes(p.GetHashes())); err != nil {
			t.Errorf("from %d: %v", size, err)
		}
	}
}

func TestReadsAwaitWhatIsAsked(t *testing.T) {
	r := start(t, nil)
	asked := make(chan server.Consistency, 1)
	hooks := servertestHooks(nil)
	hooks.Await = func(_ context.Context, c server.Consistency) error {
		asked <- c
		return &api.Error{Code: api.BehindSession, Message: "behind"}
	}
	r.node.SetHooks(hooks)
	for _, test := range []struct {
		send *exonodev1.Consistency
		want server.Consistency
	}{
		{nil, server.Consistency{Level: server.Linearizable}},
		{&exonodev1.Consistency{Level: exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_LINEARIZABLE}, server.Consistency{Level: server.Linearizable}},
		{&exonodev1.Consistency{Level: exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_SESSION, Sequence: 9}, server.Consistency{Level: server.Session, Sequence: 9}},
		{&exonodev1.Consistency{Level: exonodev1.ConsistencyLevel_CONSISTENCY_LEVEL_STALE}, server.Consistency{Level: server.Stale}},
	} {
		c, ctx := r.ledger(), t.Context()
		for name, call := range map[string]func() error{
			"get":  func() error { _, err := c.Get(ctx, &exonodev1.GetRequest{Consistency: test.send}); return err },
			"head": func() error { _, err := c.Head(ctx, &exonodev1.HeadRequest{Consistency: test.send}); return err },
			"list": func() error { _, err := c.List(ctx, &exonodev1.ListRequest{Consistency: test.send}); return err },
			"lookup": func() error {
				_, err := c.Lookup(ctx, &exonodev1.LookupRequest{Source: "s", Id: "i", Consistency: test.send})
				return err
			},
			"inclusion": func() error {
				_, err := c.GetInclusionProof(ctx, &exonodev1.GetInclusionProofRequest{Consistency: test.send})
				return err
			},
			"consistency": func() error {
				_, err := c.GetConsistencyProof(ctx, &exonodev1.GetConsistencyProofRequest{Consistency: test.send})
				return err
			},
		} {
			wantCode(t, call(), api.BehindSession)
			if got := <-asked; got != test.want {
				t.Errorf("%s asks for %+v, want %+v", name, got, test.want)
			}
		}
	}
}

func TestCluster(t *testing.T) {
	r := start(t, nil)
	started := time.Unix(1_700_000_000, 5).UTC()
	r.node.SetStatus(server.Status{
		NodeID: "n1", Version: "v1", Phase: "READY", Leader: "n2", State: "Follower", Term: 3,
		CommitIndex: 9, AppliedIndex: 8, LastLogIndex: 10, QueueLength: 4, Started: started,
		CatchUp: &server.Progress{Have: 5, Want: 9},
		Members: []server.Member{
			{NodeID: "n1", ServerID: "n1-a", Name: "one", PeerAddr: "p:1", APIAddr: "a:1", Suffrage: "voter", Gossip: "alive", LastContact: -1, Version: "v1"},
			{NodeID: "n2", Suffrage: "nonvoter", Leader: true, LastContact: 20 * time.Millisecond, Applied: 8},
			{NodeID: "n3", Suffrage: "none", Gossip: "suspect", LastContact: 0},
		},
	})
	c := r.cluster(connect.WithGRPC())
	s, err := c.Status(t.Context(), &exonodev1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if s.GetHead().GetSize() != 1 || !s.GetReady() || s.GetCatchUp().GetWant() != 9 || !s.GetStarted().AsTime().Equal(started) || s.GetQueueLength() != 4 {
		t.Errorf("status %v", s)
	}
	m, err := c.Members(t.Context(), &exonodev1.MembersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s.GetMembers(), m.GetMembers(), protocmp.Transform()); diff != "" {
		t.Errorf("members (-status +members):\n%s", diff)
	}
	asked, err := c.Status(t.Context(), &exonodev1.StatusRequest{AskMembers: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range asked.GetMembers() {
		if m.GetState() != "Follower" || m.GetEntries() != 7 {
			t.Errorf("a member that was asked: %v", m)
		}
	}
	list := m.GetMembers()
	if list[0].GetLastContact() != nil || list[1].GetLastContact().AsDuration() != 20*time.Millisecond || list[2].GetLastContact() == nil ||
		list[2].GetSuffrage() != exonodev1.Suffrage_SUFFRAGE_NONE || !list[1].GetLeader() {
		t.Errorf("members %v", list)
	}
	if _, err := c.Remove(t.Context(), &exonodev1.RemoveRequest{NodeId: "n3"}); err != nil {
		t.Error(err)
	}
	if _, err := c.Transfer(t.Context(), &exonodev1.TransferRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := c.Leave(t.Context(), &exonodev1.LeaveRequest{NodeId: "n1"}); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"remove n3", "transfer ", "leave n1"}, r.node.Operations()); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	hooks := servertestHooks(nil)
	hooks.Operate = func(context.Context, string, string) error {
		return &api.Error{Code: api.Precondition, Message: "no other voter"}
	}
	r.node.SetHooks(hooks)
	_, err = c.Transfer(t.Context(), &exonodev1.TransferRequest{NodeId: "n2"})
	wantCode(t, err, api.Precondition)
}

// What can't be decoded is refused as everything else: with the code that the
// documentation has, and its detail.
func TestRequestsNotDecoded(t *testing.T) {
	r := start(t, func(c *server.Config) { c.MaxRequest = 1 << 10 })
	big := strings.Repeat("x", 1500)
	for _, test := range []struct {
		body, want, status, field string
	}{
		{`{`, "malformed", "400", ""},
		{`{"event":{"colour":"red"}}`, "malformed", "400", ""},
		{`{"event":{"id":7}}`, "malformed", "400", ""},
		{``, "malformed", "400", ""},
		{`{"event":{"effect":{"risk":-1}}}`, "effect_range", "400", "effect"},
		{`{"event":{"effect":{"risk":0.3}}}`, "effect_range", "400", "effect"},
		{`{"event":{"text":"` + big + `"}}`, "too_large", "400", ""},
	} {
		res, err := http.Post(r.url+"/exonode.v1.LedgerService/Append", "application/json", strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		var answer struct {
			Details []struct {
				Debug struct{ Code, Message, Field string }
			}
		}
		if err := json.Unmarshal(text, &answer); err != nil || len(answer.Details) != 1 {
			t.Errorf("%.40s: %s", test.body, text)
			continue
		}
		if d := answer.Details[0].Debug; d.Code != test.want || d.Field != test.field || d.Message == "" || fmt.Sprint(res.StatusCode) != test.status {
			t.Errorf("%.40s: %d %s", test.body, res.StatusCode, text)
		}
	}
	for name, options := range protocols {
		c := r.ledger(options...)
		_, err := c.Append(t.Context(), &exonodev1.AppendRequest{Event: &exonodev1.Event{Text: big}})
		wantCode(t, err, api.TooLarge)
		if ce := asConnect(err); ce == nil || len(ce.Details()) != 1 {
			t.Errorf("%s: no detail in %v", name, err)
		}
		// A stream's messages are decoded by the same codecs.
		w, err := c.Watch(t.Context(), &exonodev1.WatchRequest{Filter: &exonodev1.Filter{Source: big}})
		if err != nil {
			t.Fatal(err)
		}
		if w.Receive() || api.CodeOf(api.FromConnect(w.Err())) != api.TooLarge {
			t.Errorf("%s: watch: %v", name, w.Err())
		}
		w.Close()
	}
}

// TestUnknownMethod: a method that there is not is answered with its code, in whatever
// protocol it was called.
func TestUnknownMethod(t *testing.T) {
	r := start(t, nil)
	for name, header := range map[string]map[string]string{
		"connect json": {"Content-Type": "application/json"},
		"plain":        nil,
	} {
		res, body := r.do(t, "POST", "/exonode.v1.LedgerService/Nope", header, strings.NewReader("{}"))
		if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusNotImplemented || !strings.Contains(body, "unimplemented") || !strings.Contains(body, "LedgerService/Nope") {
			t.Errorf("%s: %s %s", name, res.Status, body)
		}
	}
	for name, options := range protocols {
		if name == "http get" {
			continue
		}
		c := connect.NewClient[exonodev1.HeadRequest, exonodev1.HeadResponse](r.http, r.url+"/exonode.v1.LedgerService/Nope", options...)
		_, err := c.CallUnary(t.Context(), connect.NewRequest(&exonodev1.HeadRequest{}))
		wantCode(t, err, api.Unimplemented)
	}
}
