package fsm_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

func (h *history) redact(v *fsm.View, target uint64) fsm.Proposal {
	return h.system(v, fmt.Sprint("redact-", target), "chain.redact", fmt.Sprintf(`{"target_seq":%d}`, target))
}

// Entries of workspace system keep their envelopes: a redaction of one is refused,
// in the entry's own batch too, and nothing is sealed.
func TestSystemIsNotRedacted(t *testing.T) {
	r, h := begun(t, gates.Production)
	v := r.View()
	r.results(h.batch(1, h.gated(v, "denied", 9_000), h.redact(v, 3)))
	for target := range uint64(4) {
		before := r.everything()
		got := r.results(h.batch(1, h.redact(v, target)))[0]
		if got.Status != fsm.Refused || !errors.Is(got.Err, fsm.ErrNotRedactable) {
			t.Errorf("redaction of entry %d: %+v", target, got)
		}
		if r.store.Meta().Head.Size != 4 {
			t.Errorf("redaction of entry %d was sealed", target)
		}
		if rec, err := r.store.Record(target); err != nil || rec.Envelope == nil {
			t.Errorf("entry %d lost its envelope (%v); it was\n%s", target, err, before)
		}
	}
	// A redaction keeps its own envelope: it is of workspace system.
	r.results(h.batch(1, h.event("a", "{}"), h.redact(v, 4)))
	if got := r.results(h.batch(1, h.redact(v, 5)))[0]; got.Status != fsm.Refused || !errors.Is(got.Err, fsm.ErrNotRedactable) {
		t.Errorf("redaction of a redaction: %+v", got)
	}
	r.verify()
}

// What a client submitted is redacted beside the escalation that waits for
// approval; the escalation's own envelope stays.
func TestEscalationIsRedacted(t *testing.T) {
	for _, together := range []bool{false, true} {
		r, h := begun(t, gates.Production)
		v := r.View()
		p := h.gated(v, "a", 6_000)
		if together { // in the escalation's own batch
			rs := r.results(h.batch(1, p, h.redact(v, 3), p))
			if rs[0].Status != fsm.Escalated || rs[1].Status != fsm.Appended || rs[2].Status != fsm.NotComparable {
				t.Fatalf("%+v", rs)
			}
		} else {
			r.results(h.batch(1, p))
			if got := r.results(h.batch(1, h.redact(v, 3)))[0]; got.Status != fsm.Appended {
				t.Fatalf("%+v", got)
			}
		}
		rec, err := r.store.Record(3)
		if err != nil || rec.Envelope == nil || rec.Beside != nil {
			t.Errorf("together: %t: %v, envelope of %d bytes, %d beside", together, err, len(rec.Envelope), len(rec.Beside))
		}
		if got := r.results(h.batch(1, p))[0]; got.Status != fsm.NotComparable || got.Sequence != 3 {
			t.Errorf("the event again: %+v", got)
		}
		r.verify()
	}
}

// In one update, what an entry before it redacts is gone for those that follow,
// however raft splits the log, and what it does not redact is not.
func TestRedactedInTheSameUpdate(t *testing.T) {
	answers := func(apart bool) []fsm.Status {
		r, h := begun(t, gates.Development)
		v := r.View()
		l1 := h.batch(1, h.event("a", "{}"), h.event("b", "{}"))
		l2 := h.batch(1, h.redact(v, 3))
		l3 := h.batch(1, h.event("a", "{}"), h.event("b", "{}"))
		var responses []any
		if apart {
			responses = append(append(r.apply(l1), r.apply(l2)...), r.apply(l3)...)
		} else {
			responses = r.apply(l1, l2, l3)
		}
		var got []fsm.Status
		for _, result := range responses[2].(*fsm.BatchResult).Results {
			got = append(got, result.Status)
		}
		r.verify()
		return got
	}
	want := []fsm.Status{fsm.NotComparable, fsm.Duplicate}
	for _, apart := range []bool{false, true} {
		if got := answers(apart); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("apart: %t: statuses %v, want %v", apart, got, want)
		}
	}
}

// A store that can't tell what a redaction names halts the node: to refuse would
// be to diverge.
func TestRedactionWithAFailingStoreHalts(t *testing.T) {
	r, h := begun(t, gates.Development)
	r.results(h.batch(1, h.event("a", "{}")))
	fault := errors.New("disk on fire")
	r.store.FailNext(ledgertest.OpRecord, false, fault)
	r.ApplyBatch([]*raft.Log{h.batch(1, h.redact(r.View(), 3))})
	if !errors.Is(r.fatal, fault) {
		t.Errorf("fatal is %v", r.fatal)
	}
}

// A node that catches up redacts as the others do: what it fetched just now, what
// it staged before, and what it had.
func TestCatchUpRedactsTheSame(t *testing.T) {
	leader, h := begun(t, gates.Production)
	v := leader.View()
	leader.results(h.batch(1, h.gated(v, "early", 6_000), h.event("early too", "{}")))
	r, manifest := follower(t, leader, h)
	catchUp(r)
	restore(t, r, leader, manifest)

	leader.results(h.batch(1, h.gated(v, "staged", 6_000), h.event("staged too", "{}")))
	grow(leader, h, 40)
	for _, target := range []uint64{3, 4, 5, 6} { // two that it has, two of the first chunk
		leader.results(h.batch(1, h.redact(v, target)))
	}
	manifest = leader.snapshot()
	if got, err := install(r, manifest, h.index); got != fsm.NotReady {
		t.Fatalf("admit: %v %v", got, err)
	}
	r.fetcher.dieAfter = 20 // what came is staged
	_ = r.catchup.Attempt(testContext)
	catchUp(r)
	restore(t, r, leader, manifest)
	r.verify()
}

// A peer that redacts what may not be redacted has made up the chain.
func TestCatchUpRefusesRedactionOfSystem(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 5)
	leader.results(h.batch(1, h.redact(leader.View(), 4)))
	for _, died := range []int{0, 8} { // in one chunk, and with the target staged
		r, _ := follower(t, leader, h)
		r.fetcher.change = func(rec *chain.Record) {
			if rec.Sequence != 8 {
				return
			}
			e, err := chain.DecodeEnvelope(rec.Envelope)
			if err != nil {
				t.Fatal(err)
			}
			e.Payload = []byte(`{"target_seq":1}`)
			if rec.Envelope, err = e.MarshalBinary(); err != nil {
				t.Fatal(err)
			}
			forge(rec, func(h *chain.Header) { h.Envelope.Hash = chain.EnvelopeHash(rec.Envelope) })
		}
		if died > 0 {
			r.fetcher.dieAfter = died
			_ = r.catchup.Attempt(testContext)
		}
		if err := r.catchup.Attempt(testContext); !errors.Is(err, fsm.ErrNotRedactable) {
			t.Errorf("%v", err)
		}
		if r.store.Staged().Size != 8 || r.fatal != nil {
			t.Errorf("%d staged, fatal %v", r.store.Staged().Size, r.fatal)
		}
	}
}
