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

// grow appends n entries, some of which change the state.
func grow(r *replica, h *history, n int) {
	r.t.Helper()
	for range n {
		size := r.store.Meta().Head.Size
		p := h.event(fmt.Sprint("e", size), fmt.Sprintf(`{"n":%d}`, size))
		if size%7 == 0 {
			p = h.system(r.View(), fmt.Sprint("s", size), "cluster.peer.add", peer(fmt.Sprint("n", size)))
		}
		if got := r.results(h.batch(r.View().Revision(), p))[0]; got.Status != fsm.Appended {
			r.t.Fatalf("%+v", got)
		}
	}
}

// catchUp runs attempts of catch-up until one has nothing left to do.
func catchUp(r *replica) {
	r.t.Helper()
	if err := r.catchup.Attempt(testContext); err != nil {
		r.t.Fatalf("catch-up: %v", err)
	}
}

func install(r *replica, manifest []byte, index uint64) (fsm.Decision, error) {
	return r.Admit(fsm.Install{LastLogIndex: index, LastLogTerm: 1, Manifest: manifest})
}

func TestSnapshotIsFlushedFirst(t *testing.T) {
	r, h := begun(t, gates.Development)
	grow(r, h, 20)
	manifest := r.snapshot()
	if n := r.store.Unsynced(); n != 0 {
		t.Errorf("%d steps are not durable", n)
	}
	m, err := fsm.DecodeManifest(manifest)
	if err != nil {
		t.Fatal(err)
	}
	meta := r.store.Meta()
	if m.Head != meta.Head || m.Root != meta.Root || m.Applied != meta.Applied || m.AppliedTerm != meta.AppliedTerm || m.ChainID != testID {
		t.Errorf("manifest %+v, the store has %+v", m, meta)
	}
	s, err := r.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	fault := errors.New("disk on fire")
	r.store.FailNext(ledgertest.OpFlush, false, fault)
	if out := new(sink); !errors.Is(s.Persist(out), fault) || out.Len() > 0 || out.closed {
		t.Error("persisted without a flush")
	}
}

func TestSnapshotIsOfItsMoment(t *testing.T) {
	r, h := begun(t, gates.Development)
	s, err := r.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	size := r.store.Meta().Head.Size
	grow(r, h, 10)
	out := new(sink)
	if err := s.Persist(out); err != nil {
		t.Fatal(err)
	}
	m, err := fsm.DecodeManifest(out.Bytes())
	if err != nil || m.Head.Size != size {
		t.Errorf("manifest of %d entries (%v), there were %d", m.Head.Size, err, size)
	}
}

func TestRestoreOfWhatIsThere(t *testing.T) {
	r, h := begun(t, gates.Development)
	grow(r, h, 20)
	manifest := r.snapshot()
	before := r.everything()
	rc := receive(manifest)
	if err := r.Restore(wrapped{wrapped{rc}}); err != nil {
		t.Fatal(err)
	}
	if rc.confirmed != 1 || r.store.Unsynced() != 0 {
		t.Errorf("confirmed %d times, %d steps not durable", rc.confirmed, r.store.Unsynced())
	}
	if r.everything() != before {
		t.Error("it has changed something")
	}
}

// Raft's numbering begins anew with an epoch: an index that is applied says
// nothing about the same one of a later epoch.
func TestInstallOfALaterRaftEpoch(t *testing.T) {
	r, h := begun(t, gates.Development)
	leader := r.crash(r.store.Unsynced())
	grow(leader, h, 5)
	m, err := fsm.DecodeManifest(leader.snapshot())
	if err != nil {
		t.Fatal(err)
	}
	m.RaftEpoch, m.Applied = 1, 1
	manifest, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.fetcher.peer = leader.store
	var catching *fsm.CatchingUp
	if got, err := install(r, manifest, 1); got != fsm.NotReady || !errors.As(err, &catching) {
		t.Fatalf("admit: %v %v", got, err)
	}
	catchUp(r)
	if got, err := install(r, manifest, 1); got != fsm.ReadyToInstall {
		t.Fatalf("admit: %v %v", got, err)
	}
	if err := r.Restore(receive(manifest)); err != nil || r.store.Meta().RaftEpoch != 1 {
		t.Errorf("%v, raft epoch %d", err, r.store.Meta().RaftEpoch)
	}
}

func TestRestoreNeverGoesBack(t *testing.T) {
	r, h := begun(t, gates.Development)
	manifest := r.snapshot()
	index := h.index
	grow(r, h, 5)
	before := r.everything()
	rc := receive(manifest)
	if err := r.Restore(rc); !errors.Is(err, fsm.ErrGoingBack) || rc.confirmed != 0 {
		t.Errorf("%v, confirmed %d times", err, rc.confirmed)
	}
	// The transport does not let it come to that.
	if got, err := install(r, manifest, index); got != fsm.AlreadyApplied || err != nil {
		t.Errorf("admit: %v %v", got, err)
	}
	if r.everything() != before || r.fatal != nil {
		t.Error("something has changed")
	}
}

func TestRestoreWhileNothingIsStaged(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 20)
	manifest := leader.snapshot()
	r := newReplica(t, ledgertest.NewMemory())
	r.fetcher.peer = leader.store
	rc := receive(manifest)
	err := r.Restore(rc)
	var catching *fsm.CatchingUp
	if !errors.As(err, &catching) || catching.Have != 0 || catching.Want != 23 || rc.confirmed != 0 {
		t.Fatalf("%v, confirmed %d times", err, rc.confirmed)
	}
	if have, want, ok := r.catchup.Progress(); !ok || have != 0 || want != 23 {
		t.Errorf("progress %d of %d, %v", have, want, ok)
	}
	// It asked for them.
	catchUp(r)
	if _, _, ok := r.catchup.Progress(); ok {
		t.Error("it is still at it")
	}
	if got, err := install(r, manifest, h.index); got != fsm.ReadyToInstall || err != nil {
		t.Fatalf("admit: %v %v", got, err)
	}
	rc = receive(manifest)
	if err := r.Restore(rc); err != nil || rc.confirmed != 1 {
		t.Fatalf("%v, confirmed %d times", err, rc.confirmed)
	}
	if r.everything() != leader.everything() {
		t.Error("it differs from the leader")
	}
	r.verify()
}

func TestAdmit(t *testing.T) {
	leader, h := begun(t, gates.Development)
	var logs []*raft.Log
	for i := range 6 {
		logs = append(logs, h.batch(1, h.event(fmt.Sprint(i), "{}")))
	}
	leader.apply(logs[:3]...)
	manifest, index := leader.snapshot(), logs[2].Index
	leader.apply(logs[3:]...)

	behind := func(n int) *replica {
		r, g := begun(t, gates.Development)
		if g.index+1 != logs[0].Index {
			t.Fatal("another history")
		}
		r.apply(logs[:n]...)
		r.fetcher.peer = leader.store
		return r
	}
	holds := func(uint64, uint64) bool { return true }
	tests := map[string]struct {
		applied int
		install fsm.Install
		want    fsm.Decision
		started bool
	}{
		"far behind":        {0, fsm.Install{LastLogIndex: index}, fsm.NotReady, true},
		"in the log":        {0, fsm.Install{LastLogIndex: index, Holds: holds}, fsm.AlreadyApplied, false},
		"exactly there":     {3, fsm.Install{LastLogIndex: index}, fsm.AlreadyApplied, false},
		"only no-ops lack":  {3, fsm.Install{LastLogIndex: index + 2}, fsm.ReadyToInstall, false},
		"beyond":            {5, fsm.Install{LastLogIndex: index}, fsm.AlreadyApplied, false},
		"beyond, confused":  {5, fsm.Install{LastLogIndex: index + 9}, fsm.NotReady, false},
		"damaged":           {0, fsm.Install{LastLogIndex: index, Manifest: manifest[:50]}, fsm.NotReady, false},
		"damaged and there": {3, fsm.Install{LastLogIndex: index, Manifest: []byte{}}, fsm.NotReady, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := behind(test.applied)
			if test.install.Manifest == nil {
				test.install.Manifest = manifest
			}
			before := r.everything()
			got, err := r.Admit(test.install)
			if got != test.want || (err != nil) != (test.want == fsm.NotReady) {
				t.Errorf("%v, %v", got, err)
			}
			if _, _, ok := r.catchup.Progress(); ok != test.started {
				t.Errorf("catch-up is at it: %v", ok)
			}
			if r.everything() != before || r.fatal != nil {
				t.Error("something has changed")
			}
		})
	}
}

// Log entries may add nothing to the chain; the manifest then differs in the
// applied index alone.
func TestRestoreWithoutNewEntries(t *testing.T) {
	leader, h := begun(t, gates.Development)
	again := h.event("a", "{}")
	first, second := h.batch(1, again), h.batch(1, again)
	leader.apply(first)
	r, _ := begun(t, gates.Development)
	r.apply(first)
	leader.apply(second)
	if got, err := install(r, leader.snapshot(), h.index); got != fsm.ReadyToInstall || err != nil {
		t.Fatalf("admit: %v %v", got, err)
	}
	if err := r.Restore(receive(leader.snapshot())); err != nil {
		t.Fatal(err)
	}
	if r.everything() != leader.everything() {
		t.Error("it differs from the leader")
	}
}

// Before genesis, the state holds what no entry tells.
func TestRestoreBeforeGenesis(t *testing.T) {
	leader, h := newReplica(t, ledgertest.NewMemory()), newHistory(t)
	leader.apply(h.servers("n1"), h.servers("n1", "-n2"))
	manifest := leader.snapshot()
	r := newReplica(t, ledgertest.NewMemory())
	if got, err := install(r, manifest, h.index); got != fsm.ReadyToInstall || err != nil {
		t.Fatalf("admit: %v %v", got, err)
	}
	if err := r.Restore(receive(manifest)); err != nil {
		t.Fatal(err)
	}
	genesis := h.genesis(gates.Development)
	leader.apply(genesis)
	r.apply(genesis)
	if r.everything() != leader.everything() {
		t.Error("it differs from the leader")
	}
	r.verify()
}

func TestRestoreOfAnotherChain(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 3)
	// The same index, other entries.
	r, g := begun(t, gates.Development)
	r.apply(g.batch(1, g.event("other", "{}")), g.servers("n1"), g.servers("n1"))
	manifest := leader.snapshot()
	if err := r.Restore(receive(manifest)); !errors.Is(err, fsm.ErrDiverged) {
		t.Errorf("restore: %v", err)
	}
	m, err := fsm.DecodeManifest(manifest)
	if err != nil {
		t.Fatal(err)
	}
	m.ChainID[0]++
	forged, err := m.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Restore(receive(forged)); !errors.Is(err, fsm.ErrManifest) {
		t.Errorf("restore of another chain's: %v", err)
	}
}

func TestPromoteThatFailsHalts(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 3)
	r := newReplica(t, ledgertest.NewMemory())
	r.fetcher.peer = leader.store
	manifest := leader.snapshot()
	_ = r.Restore(receive(manifest)) // asks for the entries
	catchUp(r)
	fault := errors.New("disk on fire")
	r.store.FailNext(ledgertest.OpPromote, false, fault)
	rc := receive(manifest)
	if err := r.Restore(rc); !errors.Is(err, fault) || !errors.Is(r.fatal, fault) || rc.confirmed != 0 {
		t.Errorf("%v, fatal %v, confirmed %d times", err, r.fatal, rc.confirmed)
	}
}

func TestManifestRefusesWhatDoesNotFit(t *testing.T) {
	r, h := begun(t, gates.Development)
	grow(r, h, 3)
	good, err := fsm.DecodeManifest(r.snapshot())
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*fsm.Manifest){
		"state of another size": func(m *fsm.Manifest) { m.Head = chain.Head{} },
		"another chain":         func(m *fsm.Manifest) { m.ChainID = chain.ID{1} },
		"another epoch":         func(m *fsm.Manifest) { m.Epoch = 3 },
		"no state":              func(m *fsm.Manifest) { m.State = nil },
		"not a state":           func(m *fsm.Manifest) { m.State = []byte{0xa0} },
	} {
		m := *good
		change(&m)
		data, err := m.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fsm.DecodeManifest(data); !errors.Is(err, fsm.ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
