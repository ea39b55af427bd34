package fsm_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

func TestFirstEntries(t *testing.T) {
	r, _ := begun(t, gates.Production)
	var kinds []string
	for seq := range r.store.Meta().Head.Size {
		kinds = append(kinds, r.header(seq).Kind)
	}
	if want := []string{"chain.genesis", "cluster.config", "governance.genesis"}; !cmp.Equal(kinds, want) {
		t.Fatalf("entries %v, want %v", kinds, want)
	}
	config := r.header(1)
	if config.RaftIndex != 1 || config.SealingNode != "" || config.Principal != "cluster" || config.Time != r.header(0).Time+1 {
		t.Errorf("entry 1 is %+v", config)
	}
	wantConfig := map[string]any{
		"raft_index": float64(1),
		"voters":     []any{map[string]any{"id": "n1.i1", "address": "n1"}},
		"nonvoters":  []any{},
	}
	if diff := cmp.Diff(wantConfig, r.payload(1)); diff != "" {
		t.Errorf("payload of entry 1: %s", diff)
	}
	document := testDocument(t, gates.Production)
	if got := r.payload(0)["document"]; got != string(document) {
		t.Errorf("the genesis document came back as %v", got)
	}
	if got := r.payload(2)["environment"]; got != "production" {
		t.Errorf("environment %v", got)
	}
	v := r.View()
	g := v.Genesis()
	if g == nil || g.Hash != chain.GenesisHash(document) || g.LogKey != [32]byte{1, 2, 3} || g.ClusterName != "test" {
		t.Errorf("genesis facts %+v", g)
	}
	if v.Gates().Policy() == nil || v.Revision() != 1 {
		t.Errorf("policy %v at revision %d", v.Gates().Policy(), v.Revision())
	}
	r.verify()
}

func TestSecondGenesisDoesNothing(t *testing.T) {
	r, h := begun(t, gates.Development)
	before := r.store.Meta().Head
	g, ok := r.apply(h.genesis(gates.Production))[0].(*fsm.GenesisResult)
	if !ok || g.Began || g.Err != nil || g.Head != before {
		t.Fatalf("answer %+v", g)
	}
	if got := r.store.Meta(); got.Head != before || got.Applied != h.index {
		t.Fatalf("meta %+v, the head was %+v", got, before)
	}
}

func TestConfigurationsBeforeGenesisWait(t *testing.T) {
	store := ledgertest.NewMemory()
	r, h := newReplica(t, store), newHistory(t)
	response := r.apply(h.servers("n1"))[0].(*fsm.ConfigurationResult)
	if response.Sealed || store.Meta().Head.Size != 0 {
		t.Fatalf("answer %+v, %d entries", response, store.Meta().Head.Size)
	}
	if got := r.View().Configuration(); got.RaftIndex != 1 || len(got.Servers) != 1 {
		t.Fatalf("configuration %+v", got)
	}
	// They survive a restart, as part of the state.
	if err := store.Flush(); err != nil {
		t.Fatal(err)
	}
	r = r.crash(0)
	r.apply(h.servers("n1", "-n2"), h.genesis(gates.Development), h.servers("n1", "n2"))
	var got []uint64
	for seq := range r.store.Meta().Head.Size {
		got = append(got, r.header(seq).RaftIndex)
	}
	if want := []uint64{0, 1, 0, 2, 4}; !cmp.Equal(got, want) {
		t.Fatalf("raft indexes of the entries %v, want %v", got, want)
	}
	if r.header(2).Kind != "governance.genesis" {
		t.Errorf("entry 2 is %s", r.header(2).Kind)
	}
	r.verify()
}

func TestBeforeGenesisNothingIsSealed(t *testing.T) {
	r, h := newReplica(t, ledgertest.NewMemory()), newHistory(t)
	r.apply(h.servers("n1"))
	got := r.results(h.batch(0, h.event("a", "{}")))[0]
	if got.Status != fsm.Refused || !errors.Is(got.Err, fsm.ErrNotBegun) {
		t.Fatalf("%+v", got)
	}
}

func TestGenesisThatCannotBegin(t *testing.T) {
	r, h := newReplica(t, ledgertest.NewMemory()), newHistory(t)
	g := r.apply(h.genesis(gates.Development))[0].(*fsm.GenesisResult)
	if g.Began || g.Err == nil {
		t.Errorf("without a configuration: %+v", g)
	}
	r.apply(h.servers("n1"))
	bad := h.command(fsm.Command{Genesis: &fsm.GenesisCommand{Stamp: h.stamp, Node: "n1", Document: []byte("{}")}})
	g = r.apply(bad)[0].(*fsm.GenesisResult)
	if g.Began || !errors.Is(g.Err, fsm.ErrGenesis) {
		t.Errorf("without a document: %+v", g)
	}
	document := testDocument(t, gates.Development)
	late := h.command(fsm.Command{Genesis: &fsm.GenesisCommand{Stamp: 1<<63 - 1, Node: "n1", Document: document}})
	g = r.apply(late)[0].(*fsm.GenesisResult)
	var field *chain.FieldError
	if g.Began || !errors.As(g.Err, &field) || field.Field != "time" {
		t.Errorf("at the end of time: %+v", g)
	}
	g = r.apply(h.genesis(gates.Development))[0].(*fsm.GenesisResult)
	if !g.Began {
		t.Errorf("then: %+v", g)
	}
	r.verify()
}

// Entry 0 is fine and entry 1 is not: all is taken back.
func TestGenesisIsTakenBack(t *testing.T) {
	r, h := newReplica(t, ledgertest.NewMemory()), newHistory(t)
	h.index = 1<<63 - 1 // the next is no index that JSON readers take
	r.apply(h.servers("n1"))
	g := r.apply(h.genesis(gates.Development))[0].(*fsm.GenesisResult)
	if g.Began || !errors.Is(g.Err, fsm.ErrFold) || r.store.Meta().Head.Size != 0 || r.View().Genesis() != nil {
		t.Errorf("%+v, %d entries", g, r.store.Meta().Head.Size)
	}
}

// A leader whose clock is at the end of time seals nothing, and halts nobody.
func TestStampBeyondAllTimes(t *testing.T) {
	r, h := begun(t, gates.Development)
	now := h.stamp
	for _, stamp := range []int64{1<<63 - 1, chain.MaxStamp + 4} {
		h.stamp = stamp - 1000
		got := r.results(h.batch(1, h.event("a", "{}")))[0]
		var field *chain.FieldError
		if got.Status != fsm.Refused || !errors.As(got.Err, &field) || field.Field != "time" {
			t.Errorf("stamp %d: %+v", stamp, got)
		}
	}
	// The latest possible stamp leaves room for all that follows.
	h.stamp = chain.MaxStamp + 3 - 1000
	last := r.results(h.batch(1, h.event("a", "{}")))[0]
	if last.Status != fsm.Appended || last.Time != h.stamp {
		t.Fatalf("%+v", last)
	}
	h.stamp = now
	r.apply(h.servers("n1", "-n2"))
	if got := r.results(h.batch(1, h.event("b", "{}")))[0]; got.Status != fsm.Appended || got.Time != last.Time+2 {
		t.Errorf("%+v", got)
	}
	r.verify()
}

func TestTimesIncrease(t *testing.T) {
	r, h := begun(t, gates.Development)
	h.stamp += 1_000_000
	rs := r.results(h.batch(1, h.event("a", "{}"), h.event("b", "{}")))
	if rs[0].Time != h.stamp || rs[1].Time != h.stamp+1 {
		t.Errorf("times %d and %d, stamped %d", rs[0].Time, rs[1].Time, h.stamp)
	}
	last := rs[1].Time
	h.stamp -= 500_000 // another leader's clock
	rs = r.results(h.batch(1, h.event("c", "{}")))
	if rs[0].Time != last+1 {
		t.Errorf("time %d after %d", rs[0].Time, last)
	}
}

func TestDuplicatesAndConflicts(t *testing.T) {
	set := func(change func(*fsm.Proposal)) func(*fsm.Proposal) { return change }
	tests := []struct {
		name   string
		change func(*fsm.Proposal)
		want   fsm.Status
	}{
		{"the same", set(func(*fsm.Proposal) {}), fsm.Duplicate},
		{"other salt", set(func(p *fsm.Proposal) { p.Salt = &[32]byte{99} }), fsm.Duplicate},
		{"other traceparent", set(func(p *fsm.Proposal) {
			p.Traceparent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
		}), fsm.Duplicate},
		{"other credential", set(func(p *fsm.Proposal) { p.Credential = "mtls" }), fsm.Duplicate},
		{"other signature", set(func(p *fsm.Proposal) {
			p.ClientKeyID, p.ClientSignature = "k", make([]byte, 64)
		}), fsm.Duplicate},
		{"other schema version", set(func(p *fsm.Proposal) { p.SchemaVersion = 2 }), fsm.Duplicate},
		{"extension by another protocol", set(func(p *fsm.Proposal) {
			p.Extensions = []chain.Extension{{Name: "flag", Value: "true"}, {Name: "n", Value: "-5"}}
		}), fsm.Duplicate},
		{"other payload", set(func(p *fsm.Proposal) { p.Payload = []byte(`{"a":2}`) }), fsm.Conflict},
		{"longer payload", set(func(p *fsm.Proposal) { p.Payload = []byte(`{"a":1} `) }), fsm.Conflict},
		{"no payload", set(func(p *fsm.Proposal) { p.Payload = nil }), fsm.Conflict},
		{"other kind", set(func(p *fsm.Proposal) { p.Kind = "tool.result" }), fsm.Conflict},
		{"other subject", set(func(p *fsm.Proposal) { p.Subject = "s" }), fsm.Conflict},
		{"other content type", set(func(p *fsm.Proposal) { p.ContentType = "text/plain" }), fsm.Conflict},
		{"other data schema", set(func(p *fsm.Proposal) { p.DataSchema = "x" }), fsm.Conflict},
		{"other causes", set(func(p *fsm.Proposal) { p.Causes = []uint64{0} }), fsm.Conflict},
		{"other priority", set(func(p *fsm.Proposal) { p.Priority = 1 }), fsm.Conflict},
		{"other client time", set(func(p *fsm.Proposal) { p.ClientTime = 5 }), fsm.Conflict},
		{"other extension", set(func(p *fsm.Proposal) {
			p.Extensions = []chain.Extension{{Name: "flag", Value: false}, {Name: "n", Value: int64(-5)}}
		}), fsm.Conflict},
		{"fewer extensions", set(func(p *fsm.Proposal) { p.Extensions = p.Extensions[:1] }), fsm.Conflict},
		{"other principal", set(func(p *fsm.Proposal) { p.Principal = "mallory" }), fsm.Conflict},
		{"on behalf of another", set(func(p *fsm.Proposal) { p.OnBehalfOf = "mallory" }), fsm.Conflict},
	}
	original := func(h *history, id string) fsm.Proposal {
		p := h.event(id, `{"a":1}`)
		p.Extensions = []chain.Extension{{Name: "flag", Value: true}, {Name: "n", Value: int64(-5)}}
		return p
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, h := begun(t, gates.Development)
			// In one batch, in one ApplyBatch, and much later.
			first, again := original(h, "a"), original(h, "a")
			test.change(&again)
			l1 := h.batch(1, first, again)
			l2 := h.batch(1, again)
			responses := r.apply(l1, l2)
			rs := append(responses[0].(*fsm.BatchResult).Results, responses[1].(*fsm.BatchResult).Results...)
			rs = append(rs, r.results(h.batch(77, again))...) // known keys are never stale
			if rs[0].Status != fsm.Appended {
				t.Fatalf("first: %+v", rs[0])
			}
			want := rs[0]
			want.Status = test.want
			for i, got := range rs[1:] {
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("answer %d: %s", i+1, diff)
				}
			}
			if size := r.store.Meta().Head.Size; size != 4 {
				t.Errorf("%d entries", size)
			}
			r.verify()
		})
	}
}

// Where a gate was evaluated, the effect that the submitter declared is compared.
func TestDeclaredEffectIsCompared(t *testing.T) {
	r, h := begun(t, gates.Development)
	p := h.gated(r.View(), "a", 100)
	other, none := p, p
	other.DeclaredEffect, none.DeclaredEffect = &chain.Effect{101}, nil
	var got []fsm.Status
	for _, x := range r.results(h.batch(1, p, p, other, none)) {
		got = append(got, x.Status)
	}
	want := []fsm.Status{fsm.Appended, fsm.Duplicate, fsm.Conflict, fsm.Conflict}
	if !cmp.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
}

func TestDuplicateOfADeniedID(t *testing.T) {
	r, h := begun(t, gates.Production)
	denied := h.gated(r.View(), "a", 9_000)
	if denied.Verdict.Decision != chain.Deny {
		t.Fatalf("verdict %+v", denied.Verdict)
	}
	rs := r.results(h.batch(1, denied, denied))
	rs = append(rs, r.results(h.batch(1, denied))...)
	if rs[0].Status != fsm.DeniedNow || rs[0].Sequence != 3 || rs[0].Verdict.Decision != chain.Deny {
		t.Fatalf("first: %+v", rs[0])
	}
	for i, got := range rs[1:] {
		if got.Status != fsm.NotComparable || got.Sequence != 3 || got.Verdict.Decision != chain.Deny {
			t.Errorf("answer %d: %+v", i+1, got)
		}
	}
	deny := r.header(3)
	if deny.Workspace != "system" || deny.Kind != "governance.deny" || deny.Source != "exonode:governance" || deny.Principal != "local" {
		t.Errorf("header %+v", deny)
	}
	payload := r.payload(3)
	digest, err := chain.EventDigest(testID, 0, &denied.Event)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"gate": "tool.execute", "action": "tool.execute", "actor": "local", "policy_revision": float64(1),
		"effect":    map[string]any{"risk": 0.9, "fairness": 0., "privacy": 0.1, "novelty": 0., "security": 0.},
		"reasons":   []any{"norm>elevate", "risk>elevate", "risk>reject"},
		"workspace": "app", "source": "test:source", "id": "a", "kind": "tool.execute", "digest": digest.String(),
	}
	if diff := cmp.Diff(want, payload); diff != "" {
		t.Errorf("payload: %s", diff)
	}
	slot, found, err := r.store.Find(denied.Key())
	if want := (fsm.Slot{State: fsm.Denied, Sequence: 3}); err != nil || !found || slot != want {
		t.Errorf("slot %v %v %v", slot, found, err)
	}
	r.verify()
}

func TestEscalationWaits(t *testing.T) {
	r, h := begun(t, gates.Production)
	p := h.gated(r.View(), "a", 6_000)
	p.Subject, p.Priority, p.ClientTime, p.Causes = "s", 1, 77, []uint64{1}
	p.Extensions = []chain.Extension{{Name: "n", Value: int64(5)}}
	if p.Verdict.Decision != chain.Escalate {
		t.Fatalf("verdict %+v", p.Verdict)
	}
	again := p
	again.Salt, again.Extensions = &[32]byte{42}, []chain.Extension{{Name: "n", Value: "5"}}
	other := p
	other.Payload = []byte(`{"tool":"u"}`)
	elsewhere, behalf := p, p
	elsewhere.Principal, behalf.OnBehalfOf = "mallory", "mallory"
	rs := r.results(h.batch(1, p, again, other, elsewhere, behalf))
	rs = append(rs, r.results(h.batch(2, again, other, elsewhere, behalf))...)
	var got []fsm.Status
	for _, x := range rs {
		got = append(got, x.Status)
		if x.Sequence != 3 || x.Verdict.Decision != chain.Escalate {
			t.Errorf("answer %+v", x)
		}
	}
	want := []fsm.Status{
		fsm.Escalated, fsm.StillPending, fsm.Conflict, fsm.Conflict, fsm.Conflict,
		fsm.StillPending, fsm.Conflict, fsm.Conflict, fsm.Conflict,
	}
	if !cmp.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
	rec, err := r.store.Record(3)
	if err != nil {
		t.Fatal(err)
	}
	beside, err := chain.DecodeEnvelope(rec.Beside)
	if err != nil || string(beside.Payload) != string(p.Payload) || beside.Salt != *p.Salt {
		t.Errorf("beside stands %+v (%v)", beside, err)
	}
	payload := r.payload(3)
	for name, want := range map[string]any{
		"envelope_hash": chain.EnvelopeHash(rec.Beside).String(), "payload_size": float64(len(p.Payload)),
		"request_id": "3", "subject": "s", "priority": float64(1), "client_time": float64(77),
		"causes": []any{float64(1)}, "extensions": map[string]any{"n": float64(5)},
		"declared_effect": map[string]any{"risk": 0.6, "fairness": 0., "privacy": 0., "novelty": 0., "security": 0.},
	} {
		if diff := cmp.Diff(want, payload[name]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	slot, _, _ := r.store.Find(p.Key())
	if want := (fsm.Slot{State: fsm.Pending, Sequence: 3}); slot != want {
		t.Errorf("slot %v", slot)
	}
	r.verify()
}

func TestStale(t *testing.T) {
	r, h := begun(t, gates.Development)
	register := h.system(r.View(), "r1", "catalog.register", `{"kind":"git.commit","schema":{},"gate":""}`)
	if !fsm.Governs(register.Kind) || fsm.Governs("agent.exit") {
		t.Error("what governs")
	}
	rs := r.results(h.batch(1, h.event("a", "{}"), register, h.event("b", "{}"), h.event("a", "{}")))
	want := []fsm.Status{fsm.Appended, fsm.Appended, fsm.Stale, fsm.Duplicate}
	for i := range rs {
		if rs[i].Status != want[i] {
			t.Errorf("event %d: status %d, want %d (%v)", i, rs[i].Status, want[i], rs[i].Err)
		}
	}
	if rs[2].Sequence != 0 || rs[2].Verdict != nil {
		t.Errorf("a stale answer names an entry: %+v", rs[2])
	}
	// An evaluation at a later revision than there is yet is stale, too.
	if got := r.results(h.batch(3, h.event("b", "{}")))[0]; got.Status != fsm.Stale {
		t.Errorf("evaluated at a later revision: %+v", got)
	}
	// Its key is still free.
	rs = r.results(h.batch(2, h.event("b", "{}")))
	if rs[0].Status != fsm.Appended {
		t.Errorf("then: %+v", rs[0])
	}
	if _, known := r.View().Gates().Kind("git.commit"); !known {
		t.Error("the kind is not registered")
	}
	r.verify()
}

func TestRefused(t *testing.T) {
	r, h := begun(t, gates.Development)
	tests := map[string]struct {
		change func(*fsm.Proposal)
		want   error
	}{
		"cause in the future": {func(p *fsm.Proposal) { p.Causes = []uint64{3} }, fsm.ErrCause},
		"sealed kind": {func(p *fsm.Proposal) {
			p.Workspace, p.Kind = "system", "governance.deny"
		}, fsm.ErrSealedHere},
		"sealed source": {func(p *fsm.Proposal) {
			p.Workspace, p.Source = "system", "exonode:cluster"
		}, fsm.ErrSealedHere},
		"sealed source of genesis": {func(p *fsm.Proposal) {
			p.Workspace, p.Source = "system", "exonode:genesis"
		}, fsm.ErrSealedHere},
		"sealed source of decisions": {func(p *fsm.Proposal) {
			p.Workspace, p.Source = "system", "exonode:governance"
		}, fsm.ErrSealedHere},
		"redaction of itself": {func(p *fsm.Proposal) {
			p.Workspace, p.Kind, p.Payload = "system", "chain.redact", []byte(`{"target_seq":3}`)
			p.Verdict = r.View().Evaluate(p)
		}, fsm.ErrFold},
		"verdict of another revision": {func(p *fsm.Proposal) {
			p.Kind = "tool.execute"
			p.Verdict = r.View().Evaluate(p)
			p.Verdict.Revision = 7
		}, fsm.ErrRevision},
		"unfoldable": {func(p *fsm.Proposal) {
			p.Workspace, p.Kind, p.Payload = "system", "cluster.peer.add", []byte(`{"node_id":7}`)
		}, fsm.ErrFold},
		"unfoldable by governance": {func(p *fsm.Proposal) {
			p.Workspace, p.Kind, p.Payload = "system", "catalog.retire", []byte(`{"kind":"no.such"}`)
		}, fsm.ErrFold},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := r.store.Meta().Head
			p := h.event("a", "{}")
			test.change(&p)
			got := r.results(h.batch(1, p))[0]
			if got.Status != fsm.Refused || !errors.Is(got.Err, test.want) {
				t.Errorf("%+v, want %v", got, test.want)
			}
			if r.store.Meta().Head != before {
				t.Error("something was sealed")
			}
		})
	}
	p := h.event("a", "{}")
	p.Subject = strings.Repeat("x", 2000)
	var field *chain.FieldError
	if got := r.results(h.batch(1, p))[0]; got.Status != fsm.Refused || !errors.As(got.Err, &field) || field.Field != "subject" {
		t.Errorf("too long: %+v", got)
	}
	p.Kind = "tool.execute"
	p.DeclaredEffect = &chain.Effect{10_000, 10_000, 10_000, 10_000, 10_000}
	p.Verdict = r.View().Evaluate(&p)
	if got := r.results(h.batch(1, p))[0]; got.Status != fsm.Refused || !errors.As(got.Err, &field) || field.Field != "subject" {
		t.Errorf("too long, escalated: %+v", got)
	}
	// The key was never taken.
	if got := r.results(h.batch(1, h.event("a", "{}")))[0]; got.Status != fsm.Appended {
		t.Errorf("then: %+v", got)
	}
	r.verify()
}

func TestAppliedIndexesAreSkipped(t *testing.T) {
	r, h := begun(t, gates.Development)
	l1, l2 := h.batch(1, h.event("a", "{}")), h.batch(1, h.event("b", "{}"))
	h.skip()
	l3 := h.servers("n1", "-n2")
	r.apply(l1, l2)
	before := r.everything()
	for _, got := range r.apply(l1, l2) {
		if s, ok := got.(*fsm.Skipped); !ok || s.Applied != l2.Index {
			t.Errorf("answer %+v", got)
		}
	}
	if r.everything() != before {
		t.Error("what was skipped has changed something")
	}
	responses := r.apply(l1, l2, l3)
	if c, ok := responses[2].(*fsm.ConfigurationResult); !ok || !c.Sealed || c.Sequence != 5 {
		t.Errorf("the one that was new: %+v", responses[2])
	}
}

func TestHalt(t *testing.T) {
	fault := errors.New("disk on fire")
	tests := map[string]struct {
		logs  func(*history) []*raft.Log
		fault ledgertest.Op
		want  error
	}{
		"garbage": {func(h *history) []*raft.Log {
			return []*raft.Log{h.batch(1, h.event("a", "{}")), h.log(raft.LogCommand, []byte("garbage"))}
		}, "", fsm.ErrCommand},
		"unknown version": {func(h *history) []*raft.Log {
			l := h.batch(1, h.event("a", "{}"))
			l.Data[2] = 2 // map, key 0, version
			return []*raft.Log{l}
		}, "", fsm.ErrCommand},
		"empty": {func(h *history) []*raft.Log {
			return []*raft.Log{h.log(raft.LogCommand, nil)}
		}, "", fsm.ErrCommand},
		"bad configuration": {func(h *history) []*raft.Log {
			return []*raft.Log{h.log(raft.LogConfiguration, []byte("x"))}
		}, "", nil},
		"unknown log type": {func(h *history) []*raft.Log {
			return []*raft.Log{h.log(raft.LogNoop, nil)}
		}, "", nil},
		"commit fails": {func(h *history) []*raft.Log {
			return []*raft.Log{h.batch(1, h.event("a", "{}"))}
		}, ledgertest.OpCommit, fault},
		"find fails": {func(h *history) []*raft.Log {
			return []*raft.Log{h.batch(1, h.event("a", "{}"))}
		}, ledgertest.OpFind, fault},
		"record fails": {func(h *history) []*raft.Log {
			p := h.event(testID.String(), "{}")
			p.Workspace, p.Source = "system", "exonode:genesis"
			return []*raft.Log{h.batch(1, p)}
		}, ledgertest.OpRecord, fault},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, h := begun(t, gates.Development)
			before := r.store.Meta()
			if test.fault != "" {
				r.store.FailNext(test.fault, false, fault)
			}
			for _, got := range r.ApplyBatch(test.logs(h)) {
				if halted, ok := got.(*fsm.Halted); !ok || halted.Err == nil {
					t.Errorf("answer %+v", got)
				}
			}
			if r.fatal == nil || test.want != nil && !errors.Is(r.fatal, test.want) {
				t.Fatalf("fatal is %v, want %v", r.fatal, test.want)
			}
			// Nothing was applied, and nothing is, from now on.
			if _, ok := r.ApplyBatch([]*raft.Log{h.batch(1, h.event("b", "{}"))})[0].(*fsm.Halted); !ok {
				t.Error("it goes on")
			}
			if r.store.Meta() != before || r.View().Meta() != before {
				t.Error("something was applied")
			}
			if _, err := r.Snapshot(); err == nil {
				t.Error("it takes a snapshot, upon which raft would drop the log entry")
			}
			if err := r.Restore(receive(nil)); err == nil {
				t.Error("it restores")
			}
		})
	}
}

func TestGenesisOfAnotherChainHalts(t *testing.T) {
	r, h := newReplica(t, ledgertest.NewMemory()), newHistory(t)
	r.apply(h.servers("n1"))
	g := testGenesis(t, gates.Development)
	g.ChainID[0]++
	document, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	l := h.command(fsm.Command{Genesis: &fsm.GenesisCommand{Stamp: 1, Node: "n1", Document: document}})
	if _, ok := r.ApplyBatch([]*raft.Log{l})[0].(*fsm.Halted); !ok || r.fatal == nil {
		t.Error("it goes on")
	}
}

func TestNewRefuses(t *testing.T) {
	r, _ := begun(t, gates.Development)
	config := fsm.Config{
		Store: r.store, Staging: r.store, ChainID: chain.ID{1}, Fatal: func(error) {}, Logger: nil,
	}
	if _, err := fsm.New(config); err == nil {
		t.Error("no logger")
	}
	config.Logger = testLogger()
	if _, err := fsm.New(config); err == nil {
		t.Error("another chain's store")
	}
}
