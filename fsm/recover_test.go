package fsm_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

func (r *replica) recover(how fsm.Recovery) {
	r.t.Helper()
	if err := r.Recover(how); err != nil || r.fatal != nil {
		r.t.Fatalf("recover: %v, %v", err, r.fatal)
	}
}

// cluster3 returns a replica of a cluster of three, with node records.
func cluster3(t tb) (*replica, *history) {
	t.Helper()
	r, h := begun(t, gates.Development)
	for _, id := range []string{"n1", "n2", "n3"} {
		r.results(h.batch(r.View().Revision(), h.system(r.View(), "add-"+id, "cluster.peer.add", peer(id))))
	}
	r.apply(h.servers("n1", "n2", "-n3"))
	return r, h
}

func TestRecover(t *testing.T) {
	r, h := cluster3(t)
	// A change that was to come does not, and explains nothing that comes later.
	r.results(h.batch(r.View().Revision(), h.system(r.View(), "p", "cluster.promote", `{"node_id":"n3"}`)))
	before := r.store.Meta()
	how := h.recovery("n2 and n3 burnt")
	r.recover(how)
	meta := r.store.Meta()
	if meta.Head.Size != before.Head.Size+2 || meta.RaftEpoch != 1 || meta.Applied != how.Index || meta.AppliedTerm != how.Term {
		t.Errorf("%+v", meta)
	}
	seq := before.Head.Size
	want := map[string]any{
		"epoch": 1.0, "last_seq": float64(seq - 1), "head_hash": before.Head.Hash.String(),
		"lost_peers": []any{"n2", "n3"}, "reason": "n2 and n3 burnt",
	}
	if diff := cmp.Diff(want, r.payload(seq)); diff != "" {
		t.Error(diff)
	}
	for i, epoch := range []uint64{0, 1, 1} {
		if got := r.header(seq - 1 + uint64(i)).Epoch; got != epoch {
			t.Errorf("entry %d is of epoch %d, want %d", seq-1+uint64(i), got, epoch)
		}
	}
	if c := r.header(seq + 1); !cmp.Equal(c.Causes, []uint64{seq}) || r.payload(seq + 1)["flagged"] != nil {
		t.Errorf("the configuration names %v, flagged: %v", c.Causes, r.payload(seq + 1)["flagged"])
	}
	v := r.View()
	if c := v.Configuration(); v.Epoch() != 1 || len(c.Servers) != 1 || c.Servers[0] != how.Survivor || c.RaftIndex != how.Index {
		t.Errorf("epoch %d, configuration %+v", v.Epoch(), c)
	}
	if _, known := v.Node("n2"); known || v.Removed("n2") {
		t.Error("n2 is on record, or locked out")
	}
	if _, known := v.Node("n1"); !known {
		t.Error("n1 is not on record")
	}
	// Who comes back is added as anybody is.
	r.apply(h.servers("n1", "-n2"))
	if p := r.payload(r.store.Meta().Head.Size - 1); p["flagged"] != true {
		t.Errorf("nothing explains that n2 is here, and it is not flagged: %v", p)
	}
	r.recover(h.recovery("again"))
	if got := r.View().Epoch(); got != 2 {
		t.Errorf("epoch %d", got)
	}
	r.verify()
}

// TestRecoverRefuses: nothing is changed where a node has no business to go on alone.
func TestRecoverRefuses(t *testing.T) {
	empty := newReplica(t, ledgertest.NewMemory())
	empty.apply(newHistory(t).servers("n1"))
	if err := empty.Recover(newHistory(t).recovery("")); !errors.Is(err, fsm.ErrNotRecoverable) {
		t.Errorf("before genesis: %v", err)
	}
	r, h := cluster3(t)
	good := h.recovery("")
	for name, change := range map[string]func(*fsm.Recovery){
		"a stranger":       func(r *fsm.Recovery) { r.Survivor.ID, r.Survivor.Address = "n9.i1", "n9" },
		"the old server":   func(r *fsm.Recovery) { r.Survivor.ID = "n1.i1" },
		"a non-voter":      func(r *fsm.Recovery) { r.Survivor.Voter = false },
		"another address":  func(r *fsm.Recovery) { r.Survivor.Address = "n2" },
		"an index applied": func(how *fsm.Recovery) { how.Index = r.store.Meta().Applied },
	} {
		before := r.everything()
		how := good
		change(&how)
		if err := r.Recover(how); err == nil {
			t.Errorf("%s: no error", name)
		}
		if r.everything() != before {
			t.Fatalf("%s: something changed", name)
		}
	}
	p := h.system(r.View(), "recover-1", "chain.recover", "{}")
	if got := r.results(h.batch(r.View().Revision(), p))[0]; !errors.Is(got.Err, fsm.ErrSealedHere) {
		t.Errorf("a submitted recovery: %+v", got)
	}
}

// TestOlderEpochStandsApart: who has entries that the survivor lacked can't be made to
// follow it, whether by a manifest or by its log.
func TestOlderEpochStandsApart(t *testing.T) {
	survivor, h := cluster3(t)
	lost := newReplica(t, ledgertest.NewMemory())
	lost.fetcher.peer = survivor.store
	if !installed(lost, survivor.snapshot(), h.index) {
		t.Fatal("not installed")
	}
	how := h.recovery("")
	h.index-- // what the lost majority committed meanwhile
	lost.results(h.batch(lost.View().Revision(), h.event("acknowledged", "{}"), h.event("both", "{}"), h.event("three", "{}")))
	survivor.recover(how)
	if decision, err := install(lost, survivor.snapshot(), how.Index); decision != fsm.NotReady || err == nil {
		t.Errorf("decision %v, %v", decision, err)
	}
	if decision, err := install(survivor, lost.snapshot(), h.index); decision != fsm.NotReady || !errors.Is(err, fsm.ErrGoingBack) {
		t.Errorf("decision %v, %v", decision, err)
	}
}

// installed brings a replica to a manifest.
func installed(r *replica, manifest []byte, index uint64) bool {
	for {
		decision, err := install(r, manifest, index)
		if decision == fsm.ReadyToInstall {
			return r.Restore(receive(manifest)) == nil
		}
		if _, _, ok := r.catchup.Progress(); !ok || err == nil {
			return false
		}
		if err := r.catchup.Attempt(testContext); err != nil {
			return false
		}
	}
}

// TestReplayRefusesRecovery: what a recovery must be for a verifier.
func TestReplayRefusesRecovery(t *testing.T) {
	r, h := cluster3(t)
	at := int(r.store.Meta().Head.Size)
	r.recover(h.recovery("because"))
	r.results(h.batch(r.View().Revision(), h.event("a", "{}")))
	r.verify()
	lost := func(peers string) func(*chain.Entry) {
		return func(e *chain.Entry) {
			e.Envelope.Payload = []byte(fmt.Sprintf(`{"epoch":1,"last_seq":%d,"head_hash":"%v","lost_peers":%s,"reason":""}`, at-1, e.Header.Previous, peers))
		}
	}
	configured := func(index uint64, servers string) func(*chain.Entry) {
		return func(e *chain.Entry) {
			e.Header.RaftIndex = index
			e.Envelope.Payload = []byte(fmt.Sprintf(`{"raft_index":%d,%s}`, index, servers))
		}
	}
	index := r.header(uint64(at)).RaftIndex
	for name, test := range map[string]struct {
		seq    int
		change func(*chain.Entry)
	}{
		"submitted": {at, func(e *chain.Entry) { e.Header.SealingNode = "n1" }},
		"late":      {at, func(e *chain.Entry) { e.Header.Time++ }},
		"two epochs": {at, func(e *chain.Entry) {
			e.Header.Epoch, e.Header.ID = 2, "recover-2"
			e.Envelope.Payload = bytes.Replace(e.Envelope.Payload, []byte(`"epoch":1`), []byte(`"epoch":2`), 1)
		}},
		"another epoch than it says": {at, func(e *chain.Entry) { e.Header.Epoch++ }},
		"another id":                 {at, func(e *chain.Entry) { e.Header.ID = "recover-7" }},
		"another predecessor":        {at, func(e *chain.Entry) { e.Header.Previous[0]++ }},
		"nobody lost":                {at, lost(`[]`)},
		"all lost":                   {at, lost(`["n1","n2","n3"]`)},
		"a stranger lost":            {at, lost(`["n2","n3","n4"]`)},
		"the survivor lost":          {at + 1, nil},
		"two voters":                 {at + 1, configured(index, `"voters":[{"id":"n1.i2","address":"n1"},{"id":"n2.i1","address":"n2"}],"nonvoters":[]`)},
		"no voter":                   {at + 1, configured(index, `"voters":[],"nonvoters":[{"id":"n1.i2","address":"n1"}]`)},
		"another survivor":           {at + 1, configured(index, `"voters":[{"id":"n2.i2","address":"n2"}],"nonvoters":[]`)},
		"another raft index":         {at + 1, configured(index+1, `"voters":[{"id":"n1.i2","address":"n1"}],"nonvoters":[]`)},
		"no reason":                  {at + 1, func(e *chain.Entry) { e.Header.Causes = nil }},
		"something in between":       {at + 1, func(e *chain.Entry) { e.Header.Kind = "cluster.leader" }},
	} {
		t.Run(name, func(t *testing.T) {
			list := entries(r)
			if test.change == nil {
				lost(`["n1","n3"]`)(&list[at]) // and the configuration has n1
			} else {
				test.change(&list[test.seq])
			}
			replay := fsm.NewReplay()
			for i := range list {
				err := replay.Check(&list[i])
				if i < test.seq && err != nil {
					t.Fatalf("entry %d: %v", i, err)
				}
				if i == test.seq {
					if !errors.Is(err, fsm.ErrReplay) && !errors.Is(err, fsm.ErrFold) {
						t.Errorf("entry %d: %v", i, err)
					}
					return
				}
			}
		})
	}
}
