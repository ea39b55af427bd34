package fsm_test

import (
	"errors"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
)

func TestReplayCounts(t *testing.T) {
	r, h := begun(t, gates.Production)
	v := r.View()
	r.results(h.batch(1, h.event("a", "{}"), h.gated(v, "b", 0), h.gated(v, "c", 6_000), h.gated(v, "d", 9_000)))
	unknown := h.gated(v, "e", 0)
	unknown.Verdict.Profile = "cel/9"
	r.results(h.batch(1, unknown))
	if got, want := r.verify(), (fsm.ReplayReport{Entries: 8, Verdicts: 3, Unknown: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// entries decodes a replica's chain.
func entries(r *replica) []chain.Entry {
	r.t.Helper()
	var list []chain.Entry
	for seq := range r.store.Meta().Head.Size {
		rec, err := r.store.Record(seq)
		if err != nil {
			r.t.Fatalf("entry %d: %v", seq, err)
		}
		e, err := chain.DecodeEnvelope(rec.Envelope)
		if err != nil {
			r.t.Fatalf("entry %d: %v", seq, err)
		}
		list = append(list, chain.Entry{Record: rec, Header: r.header(seq), Envelope: &e})
	}
	return list
}

// What a leader may have sealed that does not follow. Links are not what Replay
// looks at.
func TestReplayRefuses(t *testing.T) {
	const permitted, denied, escalated, config, plain = 3, 4, 5, 6, 7
	tests := map[string]struct {
		seq    int
		change func(*chain.Entry)
		lookup bool
		want   error
	}{
		"another decision":       {permitted, func(e *chain.Entry) { e.Header.Verdict.Decision = chain.Warn }, false, fsm.ErrReplay},
		"a lower effect":         {permitted, func(e *chain.Entry) { e.Header.Verdict.Effective[0]-- }, false, fsm.ErrReplay},
		"another effect":         {permitted, func(e *chain.Entry) { e.Header.Verdict.Declared = &chain.Effect{9_000} }, false, fsm.ErrReplay},
		"another policy":         {permitted, func(e *chain.Entry) { e.Header.Verdict.PolicyHash[0]++ }, false, fsm.ErrReplay},
		"another revision":       {permitted, func(e *chain.Entry) { e.Header.Verdict.Revision++ }, false, fsm.ErrReplay},
		"another gate":           {permitted, func(e *chain.Entry) { e.Header.Verdict.Gate = "tool.sign" }, false, fsm.ErrReplay},
		"other reasons":          {permitted, func(e *chain.Entry) { e.Header.Verdict.Reasons = []string{"because"} }, false, fsm.ErrReplay},
		"no verdict":             {permitted, func(e *chain.Entry) { e.Header.Verdict = nil }, false, fsm.ErrReplay},
		"a denied event's entry": {permitted, func(e *chain.Entry) { e.Header.Verdict.Decision = chain.Deny }, false, fsm.ErrReplay},
		"a denial of what is permitted": {denied, func(e *chain.Entry) {
			e.Header.Verdict.Declared, e.Header.Verdict.Effective = nil, chain.Effect{3000, 0, 1000}
			e.Header.Verdict.Reasons = nil
		}, false, fsm.ErrReplay},
		"a denial that permits":      {denied, func(e *chain.Entry) { e.Header.Verdict.Decision = chain.Permit }, false, fsm.ErrReplay},
		"a denial without a verdict": {denied, func(e *chain.Entry) { e.Header.Verdict = nil }, false, fsm.ErrReplay},
		"a request that denies":      {escalated, func(e *chain.Entry) { e.Header.Verdict.Decision = chain.Deny }, false, fsm.ErrReplay},
		"a verdict of no gate": {plain, func(e *chain.Entry) {
			e.Header.Verdict = &chain.Verdict{Decision: chain.Permit, Profile: gates.Profile}
		}, false, fsm.ErrReplay},
		"a cause in the future":     {plain, func(e *chain.Entry) { e.Header.Causes = []uint64{plain} }, false, fsm.ErrReplay},
		"a submitted configuration": {config, func(e *chain.Entry) { e.Header.SealingNode = "n1" }, false, fsm.ErrReplay},
		"a late configuration":      {config, func(e *chain.Entry) { e.Header.Time++ }, false, fsm.ErrReplay},
		"another reason":            {config, func(e *chain.Entry) { e.Header.Causes = []uint64{3} }, false, fsm.ErrReplay},
		"another raft index":        {config, func(e *chain.Entry) { e.Header.RaftIndex++ }, false, fsm.ErrFold},
		"another first entry":       {1, func(e *chain.Entry) { e.Header.Kind = "cluster.leader" }, false, fsm.ErrReplay},
		"no genesis":                {0, func(e *chain.Entry) { e.Header.Workspace = "app" }, false, fsm.ErrReplay},
		"an id used twice":          {plain, func(e *chain.Entry) { e.Header.ID = "permitted" }, true, fsm.ErrReplay},
		"an entry of a denied id":   {plain, func(e *chain.Entry) { e.Header.ID = "denied" }, true, fsm.ErrReplay},
		"an unknown id":             {plain, func(e *chain.Entry) { e.Header.ID = "z" }, true, fsm.ErrReplay},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, h := begun(t, gates.Production)
			v := r.View()
			p := h.event("plain", "{}")
			p.Source = "test:source"
			r.results(h.batch(1, h.gated(v, "permitted", 0), h.gated(v, "denied", 9_000), h.gated(v, "escalated", 6_000)))
			r.apply(h.servers("n1", "-n2"))
			r.results(h.batch(1, p))
			list := entries(r)
			test.change(&list[test.seq])
			replay := fsm.NewReplay()
			if test.lookup {
				replay.Lookup = r.store.Find
			}
			for i := range list {
				err := replay.Check(&list[i])
				if i < test.seq && err != nil {
					t.Fatalf("entry %d: %v", i, err)
				}
				if i == test.seq {
					if !errors.Is(err, test.want) {
						t.Errorf("entry %d: %v, want %v", i, err, test.want)
					}
					return
				}
			}
		})
	}
}
