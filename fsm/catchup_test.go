package fsm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/ledger/ledgertest"
)

// follower returns an empty replica that fetches from the leader, and what it is
// to catch up with.
func follower(t *testing.T, leader *replica, h *history) (*replica, []byte) {
	t.Helper()
	r := newReplica(t, ledgertest.NewMemory())
	r.fetcher.peer = leader.store
	manifest := leader.snapshot()
	if got, err := install(r, manifest, h.index); got != fsm.NotReady || err == nil {
		t.Fatalf("admit: %v %v", got, err)
	}
	return r, manifest
}

func restore(t *testing.T, r, leader *replica, manifest []byte) {
	t.Helper()
	if err := r.Restore(receive(manifest)); err != nil {
		t.Fatal(err)
	}
	if r.everything() != leader.everything() {
		t.Error("it differs from the leader")
	}
}

func TestCatchUpFetchesOnlyWhatIsMissing(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 700)
	r, manifest := follower(t, leader, h)
	catchUp(r)
	if got := r.catchup.Fetched(); got != 703 {
		t.Errorf("fetched %d", got)
	}
	restore(t, r, leader, manifest)
	// Next time, it is 40 entries.
	grow(leader, h, 40)
	manifest = leader.snapshot()
	if got, err := install(r, manifest, h.index); got != fsm.NotReady {
		t.Fatalf("admit: %v %v", got, err)
	}
	catchUp(r)
	if got := r.catchup.Fetched(); got != 743 {
		t.Errorf("fetched %d", got)
	}
	if got, want := r.fetcher.calls, [][2]uint64{{0, 703}, {703, 743}}; !cmp.Equal(got, want) {
		t.Errorf("asked for %v", got)
	}
	restore(t, r, leader, manifest)
	r.verify()
}

func TestCatchUpGoesOnWhereAPeerDied(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 100)
	r, manifest := follower(t, leader, h)
	r.fetcher.dieAfter = 60
	if err := r.catchup.Attempt(testContext); !errors.Is(err, errPeerDied) {
		t.Fatalf("%v", err)
	}
	if have, want, ok := r.catchup.Progress(); have != 59 || want != 103 || !ok {
		t.Errorf("progress %d of %d, %v", have, want, ok)
	}
	catchUp(r)
	if got, want := r.fetcher.calls, [][2]uint64{{0, 103}, {59, 103}}; !cmp.Equal(got, want) {
		t.Errorf("asked for %v", got)
	}
	if got := r.catchup.Fetched(); got != 103 {
		t.Errorf("fetched %d", got)
	}
	restore(t, r, leader, manifest)
}

func TestCatchUpGoesOnAfterARestart(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 100)
	r, manifest := follower(t, leader, h)
	r.fetcher.dieAfter = 60
	_ = r.catchup.Attempt(testContext)
	r = r.crash(0)
	if got, err := install(r, manifest, h.index); got != fsm.NotReady {
		t.Fatalf("admit: %v %v", got, err)
	}
	catchUp(r)
	if got, want := r.fetcher.calls, [][2]uint64{{59, 103}}; !cmp.Equal(got, want) {
		t.Errorf("asked for %v", got)
	}
	// And what is all staged survives another one.
	r = r.crash(0)
	if got, err := install(r, manifest, h.index); got != fsm.ReadyToInstall {
		t.Fatalf("admit: %v %v", got, err)
	}
	restore(t, r, leader, manifest)
}

func TestCatchUpWithAGrowingLeader(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 50)
	r, _ := follower(t, leader, h)
	r.fetcher.dieAfter = 30
	_ = r.catchup.Attempt(testContext)
	grow(leader, h, 50)
	manifest := leader.snapshot()
	if got, err := install(r, manifest, h.index); got != fsm.NotReady {
		t.Fatalf("admit: %v %v", got, err)
	}
	catchUp(r)
	restore(t, r, leader, manifest)
	if got := r.catchup.Fetched(); got != 103 {
		t.Errorf("fetched %d", got)
	}
}

// A new leader's newest manifest may be older than the one that entries were
// staged for.
func TestCatchUpWithAShorterManifest(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 20)
	short, index := leader.snapshot(), h.index
	before := leader.store.Crash(0)
	grow(leader, h, 20)
	r, _ := follower(t, leader, h)
	catchUp(r)
	if got, err := install(r, short, index); got != fsm.NotReady {
		t.Fatalf("admit: %v %v", got, err)
	}
	catchUp(r)
	restore(t, r, newReplica(t, before), short)
}

// The log may bring what was being fetched.
func TestLogEntriesOverrideStaging(t *testing.T) {
	leader, h := begun(t, gates.Development)
	l := h.batch(1, h.event("a", "{}"))
	leader.apply(l)
	grow(leader, h, 30)
	r, _ := begun(t, gates.Development)
	r.fetcher.peer = leader.store
	manifest := leader.snapshot()
	if got, err := install(r, manifest, h.index); got != fsm.NotReady {
		t.Fatalf("admit: %v %v", got, err)
	}
	r.fetcher.dieAfter = 10
	_ = r.catchup.Attempt(testContext)
	if r.store.Staged().Size != 12 {
		t.Fatalf("%d staged", r.store.Staged().Size)
	}
	r.apply(l)
	if r.store.Staged() != r.store.Meta().Head || r.store.Meta().Head.Size != 4 {
		t.Fatalf("%d staged", r.store.Staged().Size)
	}
	catchUp(r)
	if got, want := r.fetcher.calls[len(r.fetcher.calls)-1], [2]uint64{4, 34}; got != want {
		t.Errorf("asked for %v", got)
	}
	restore(t, r, leader, manifest)
}

// forge returns a record whose header was changed, and hashes again.
func forge(rec *chain.Record, change func(*chain.Header)) {
	h, err := chain.DecodeHeader(rec.Header)
	if err != nil {
		panic(err)
	}
	change(&h)
	if rec.Header, err = h.MarshalBinary(); err != nil {
		panic(err)
	}
}

func TestCatchUpRefusesForgeries(t *testing.T) {
	tests := map[string]struct {
		seq    uint64
		change func(*chain.Record)
	}{
		"another entry":         {5, func(r *chain.Record) { r.Sequence++ }},
		"garbage":               {5, func(r *chain.Record) { r.Header = []byte("garbage") }},
		"trailing byte":         {5, func(r *chain.Record) { r.Header = append(r.Header, 0) }},
		"no header":             {5, func(r *chain.Record) { r.Header = nil }},
		"another chain":         {5, func(r *chain.Record) { forge(r, func(h *chain.Header) { h.ChainID[0]++ }) }},
		"another sequence":      {5, func(r *chain.Record) { forge(r, func(h *chain.Header) { h.Sequence++ }) }},
		"another predecessor":   {5, func(r *chain.Record) { forge(r, func(h *chain.Header) { h.Previous[0]++ }) }},
		"a time that goes back": {5, func(r *chain.Record) { forge(r, func(h *chain.Header) { h.Time = 5 }) }},
		"a time that stands": {5, func(r *chain.Record) {
			forge(r, func(h *chain.Header) { h.Time -= 1000 }) // which is its predecessor's
		}},
		"another epoch": {5, func(r *chain.Record) { forge(r, func(h *chain.Header) { h.Epoch++ }) }},
		"a second genesis": {5, func(r *chain.Record) {
			forge(r, func(h *chain.Header) { h.Workspace, h.Kind = "system", "chain.genesis" })
		}},
		"no genesis":                 {0, func(r *chain.Record) { forge(r, func(h *chain.Header) { h.Kind = "chain.verify" }) }},
		"another envelope":           {5, func(r *chain.Record) { r.Envelope[len(r.Envelope)-1]++ }},
		"an empty envelope":          {5, func(r *chain.Record) { r.Envelope = []byte{} }},
		"system without an envelope": {2, func(r *chain.Record) { r.Envelope = nil }},
		"something beside":           {5, func(r *chain.Record) { r.Beside = r.Envelope }},
		"something beside nothing":   {5, func(r *chain.Record) { r.Beside, r.Envelope = r.Envelope, nil }},
		"another one beside":         {7, func(r *chain.Record) { r.Beside[len(r.Beside)-1]++ }},
		"a state that can't be folded": {2, func(r *chain.Record) {
			e, err := chain.DecodeEnvelope(r.Envelope)
			if err != nil {
				panic(err)
			}
			e.Payload = []byte(strings.Replace(string(e.Payload), "production", "productive", 1))
			if r.Envelope, err = e.MarshalBinary(); err != nil {
				panic(err)
			}
			forge(r, func(h *chain.Header) {
				h.Envelope = chain.EnvelopeRef{
					Hash: chain.EnvelopeHash(r.Envelope), Size: uint64(len(e.Payload)), ContentType: h.Envelope.ContentType,
				}
			})
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			leader, h := begun(t, gates.Production)
			for i := range 8 {
				p := h.event(fmt.Sprint(i), "{}")
				if i == 4 {
					p = h.gated(leader.View(), "escalated", 6_000)
				}
				leader.results(h.batch(1, p))
			}
			r, manifest := follower(t, leader, h)
			r.fetcher.change = func(rec *chain.Record) {
				if rec.Sequence == test.seq {
					test.change(rec)
				}
			}
			if err := r.catchup.Attempt(testContext); err == nil {
				t.Fatal("it was taken")
			}
			if got := r.store.Staged().Size; got != test.seq {
				t.Errorf("%d staged", got)
			}
			if r.fatal != nil || r.store.Meta().Head.Size != 0 {
				t.Errorf("fatal %v, %d entries", r.fatal, r.store.Meta().Head.Size)
			}
			// Another peer has the right one.
			r.fetcher.change = nil
			catchUp(r)
			restore(t, r, leader, manifest)
		})
	}
}

// Somebody made a whole chain of his own, which links well.
func TestCatchUpWithAnotherChainIsDropped(t *testing.T) {
	leader, h := begun(t, gates.Development)
	evil, g := begun(t, gates.Development)
	grow(leader, h, 10)
	for i := range 10 {
		evil.results(g.batch(1, g.event(fmt.Sprint("evil", i), "{}")))
	}
	r, manifest := follower(t, leader, h)
	r.fetcher.peer = evil.store
	if err := r.catchup.Attempt(testContext); !errors.Is(err, fsm.ErrDiverged) {
		t.Fatalf("%v", err)
	}
	if r.store.Staged().Size != 0 || r.fatal != nil {
		t.Errorf("%d staged, fatal %v", r.store.Staged().Size, r.fatal)
	}
	r.fetcher.peer = leader.store
	catchUp(r)
	restore(t, r, leader, manifest)
}

// forked returns a joiner that staged a chain which a recovery then ended, and the
// survivor, whose chain is another and longer one.
func forked(t *testing.T) (joiner, survivor *replica, h *history) {
	t.Helper()
	survivor, h = cluster3(t)
	lost := newReplica(t, ledgertest.NewMemory())
	lost.fetcher.peer = survivor.store
	if !installed(lost, survivor.snapshot(), h.index) {
		t.Fatal("not installed")
	}
	how := h.recovery("")
	h.index-- // what the lost majority committed meanwhile
	lost.results(h.batch(lost.View().Revision(), h.event("acknowledged", "{}"), h.event("both", "{}"), h.event("three", "{}")))
	joiner, _ = follower(t, lost, h)
	catchUp(joiner)
	survivor.recover(how)
	h.index = how.Index
	grow(survivor, h, 20)
	joiner.fetcher.peer = survivor.store
	return joiner, survivor, h
}

// TestCatchUpDropsWhatARecoveryEnded: a node that was still joining gets in.
func TestCatchUpDropsWhatARecoveryEnded(t *testing.T) {
	for name, aim := range map[string]func(t *testing.T, joiner, survivor *replica, index uint64){
		"manifest": func(t *testing.T, joiner, survivor *replica, index uint64) {
			if got, err := install(joiner, survivor.snapshot(), index); got != fsm.NotReady || err == nil {
				t.Fatalf("admit: %v %v", got, err)
			}
		},
		"prefetch": func(t *testing.T, joiner, survivor *replica, _ uint64) {
			ctx, cancel := context.WithCancel(testContext)
			go joiner.catchup.Prefetch(ctx, survivor.store.Meta().Head)
			t.Cleanup(cancel)
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				joiner, survivor, h := forked(t)
				aim(t, joiner, survivor, h.index)
				staged := joiner.store.Staged().Size
				for i, left := range []uint64{staged, 0} {
					if err := joiner.catchup.Attempt(testContext); err == nil || joiner.fatal != nil {
						t.Fatalf("attempt %d: %v, fatal %v", i, err, joiner.fatal)
					}
					if got := joiner.store.Staged().Size; got != left {
						t.Fatalf("attempt %d: %d entries are staged, want %d", i, got, left)
					}
				}
				catchUp(joiner)
				manifest := survivor.snapshot()
				if got, err := install(joiner, manifest, h.index); got != fsm.ReadyToInstall {
					t.Fatalf("admit: %v %v", got, err)
				}
				restore(t, joiner, survivor, manifest)
			})
		})
	}
}

// TestCatchUpKeepsWhatOnePeerDenies: a peer that lies, between others that do not, takes
// nothing away.
func TestCatchUpKeepsWhatOnePeerDenies(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 30)
	r, manifest := follower(t, leader, h)
	for size := uint64(5); size < 30; size += 5 {
		r.fetcher.change = func(rec *chain.Record) {
			if rec.Sequence == size {
				rec.Header = []byte("garbage")
			}
		}
		if err := r.catchup.Attempt(testContext); err == nil || r.store.Staged().Size != size {
			t.Fatalf("%d entries are staged, want %d: %v", r.store.Staged().Size, size, err)
		}
		r.fetcher.change = func(rec *chain.Record) { forge(rec, func(h *chain.Header) { h.Previous[0]++ }) }
		if err := r.catchup.Attempt(testContext); err == nil || r.store.Staged().Size != size {
			t.Fatalf("after a lie %d entries are staged, want %d: %v", r.store.Staged().Size, size, err)
		}
	}
	r.fetcher.change = nil
	catchUp(r)
	restore(t, r, leader, manifest)
}

// A manifest whose root or state is not that of its head.
func TestCatchUpWithAForgedManifest(t *testing.T) {
	for name, change := range map[string]func(m *fsm.Manifest, earlier []byte){
		"root":  func(m *fsm.Manifest, _ []byte) { m.Root[0]++ },
		"time":  func(m *fsm.Manifest, _ []byte) { m.Head.Time++ },
		"state": func(m *fsm.Manifest, earlier []byte) { m.State = earlier },
	} {
		t.Run(name, func(t *testing.T) {
			leader, h := begun(t, gates.Development)
			earlier, err := leader.View().EncodeState()
			if err != nil {
				t.Fatal(err)
			}
			grow(leader, h, 10)
			m, err := fsm.DecodeManifest(leader.snapshot())
			if err != nil {
				t.Fatal(err)
			}
			change(m, earlier)
			forged, err := m.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			r := newReplica(t, ledgertest.NewMemory())
			r.fetcher.peer = leader.store
			if got, err := install(r, forged, h.index); got != fsm.NotReady {
				t.Fatalf("admit: %v %v", got, err)
			}
			if err := r.catchup.Attempt(testContext); !errors.Is(err, fsm.ErrDiverged) {
				t.Errorf("%v", err)
			}
			if r.store.Staged().Size != 0 {
				t.Errorf("%d staged", r.store.Staged().Size)
			}
		})
	}
}

// An envelope may be missing only where an entry redacts it. That entry may be
// beyond the manifest, since the others go on committing.
func TestCatchUpOverRedactions(t *testing.T) {
	leader, h := begun(t, gates.Development)
	grow(leader, h, 20)
	early := leader.snapshot()
	earlyIndex := h.index
	redact := h.batch(leader.View().Revision(), h.system(leader.View(), "redact", "chain.redact",
		`{"target_seq":5,"payload_hash":"","reason":"r","method":"m"}`))
	if got := leader.results(redact)[0]; got.Status != fsm.Appended {
		t.Fatalf("%+v", got)
	}
	if rec, _ := leader.store.Record(5); rec.Envelope != nil {
		t.Fatal("entry 5 is not redacted")
	}
	for name, m := range map[string]manifestAt{
		"before": {data: early, index: earlyIndex},
		"after":  {data: leader.snapshot(), index: h.index},
	} {
		r := newReplica(t, ledgertest.NewMemory())
		r.fetcher.peer = leader.store
		if got, err := install(r, m.data, m.index); got != fsm.NotReady {
			t.Fatalf("%s: admit: %v %v", name, got, err)
		}
		r.fetcher.dieAfter = 15
		_ = r.catchup.Attempt(testContext)
		r = r.crash(0)
		if got, err := install(r, m.data, m.index); got != fsm.NotReady {
			t.Fatalf("%s: admit: %v %v", name, got, err)
		}
		catchUp(r)
		r = r.crash(0)
		if err := r.Restore(receive(m.data)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r.apply(redact)
		if r.everything() != leader.everything() {
			t.Errorf("%s: it differs from the leader", name)
		}
		r.verify()
		// What was redacted can't be compared.
		if got := r.results(h.batch(1, h.event("e5", `{"n":5}`)))[0]; got.Status != fsm.NotComparable || got.Sequence != 5 {
			t.Errorf("%s: %+v", name, got)
		}
		h.index--
	}
}

// A peer may withhold envelopes. What it gave is dropped in the end.
func TestCatchUpWithWithheldEnvelopes(t *testing.T) {
	leader, h := begun(t, gates.Production)
	grow(leader, h, 5)
	leader.results(h.batch(1, h.gated(leader.View(), "escalated", 6_000)))
	r, manifest := follower(t, leader, h)
	r.fetcher.change = func(rec *chain.Record) {
		if rec.Sequence == 5 {
			rec.Envelope = nil
		}
		rec.Beside = nil
	}
	for i := range 3 {
		err := r.catchup.Attempt(testContext)
		if err == nil || !strings.Contains(err.Error(), "entry 5 and 1 more") {
			t.Fatalf("attempt %d: %v", i, err)
		}
		if dropped := r.store.Staged().Size == 0; dropped != (i == 2) || dropped != errors.Is(err, fsm.ErrDiverged) {
			t.Errorf("attempt %d: %d staged, %v", i, r.store.Staged().Size, err)
		}
		if r.Restore(receive(manifest)) == nil {
			t.Fatal("it was restored")
		}
	}
	r.fetcher.change = nil
	catchUp(r)
	restore(t, r, leader, manifest)
}

func TestPrefetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader, h := begun(t, gates.Development)
		grow(leader, h, 50)
		r := newReplica(t, ledgertest.NewMemory())
		r.fetcher.peer = leader.store
		ctx, cancel := context.WithCancel(testContext)
		ran := make(chan error, 1)
		go func() { ran <- r.catchup.Run(ctx) }()
		if err := r.catchup.Prefetch(ctx, leader.store.Meta().Head); err != nil {
			t.Fatal(err)
		}
		if r.store.Staged() != leader.store.Meta().Head {
			t.Errorf("%d staged", r.store.Staged().Size)
		}
		// What a member told may be wrong.
		head := leader.store.Meta().Head
		head.Hash[0]++
		if err := r.catchup.Prefetch(ctx, head); !errors.Is(err, fsm.ErrDiverged) {
			t.Errorf("another head: %v", err)
		}
		if r.store.Staged().Size != 0 {
			t.Errorf("%d staged", r.store.Staged().Size)
		}
		// Then the node is added, and raft installs what was prefetched.
		if err := r.catchup.Prefetch(ctx, leader.store.Meta().Head); err != nil {
			t.Fatal(err)
		}
		fetched := r.catchup.Fetched()
		manifest := leader.snapshot()
		if got, err := install(r, manifest, h.index); got != fsm.ReadyToInstall {
			t.Fatalf("admit: %v %v", got, err)
		}
		restore(t, r, leader, manifest)
		if r.catchup.Fetched() != fetched {
			t.Error("it fetched again")
		}
		short, stop := context.WithCancel(ctx)
		stop()
		if err := r.catchup.Prefetch(short, chain.Head{Size: 1000}); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		cancel()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

func TestRunTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader, h := begun(t, gates.Development)
		grow(leader, h, 50)
		r, manifest := follower(t, leader, h)
		r.fetcher.dieAfter = 20
		ctx, cancel := context.WithCancel(testContext)
		ran := make(chan error, 1)
		go func() { ran <- r.catchup.Run(ctx) }()
		synctest.Wait()
		if err := r.catchup.Err(); !errors.Is(err, errPeerDied) {
			t.Errorf("err %v", err)
		}
		if have, want, ok := r.catchup.Progress(); have != 19 || want != 53 || !ok {
			t.Errorf("progress %d of %d, %v", have, want, ok)
		}
		// The bubble's clock goes on while all wait.
		for {
			got, _ := install(r, manifest, h.index)
			if got == fsm.ReadyToInstall {
				break
			}
			bubbleSecond()
		}
		if err := r.catchup.Err(); err != nil {
			t.Errorf("err %v", err)
		}
		restore(t, r, leader, manifest)
		cancel()
		<-ran
	})
}

func TestStageThatFailsHalts(t *testing.T) {
	for _, op := range []ledgertest.Op{ledgertest.OpStage, ledgertest.OpFlushStaging} {
		leader, h := begun(t, gates.Development)
		grow(leader, h, 5)
		r, _ := follower(t, leader, h)
		fault := errors.New("disk on fire")
		r.store.FailNext(op, false, fault)
		if err := r.catchup.Run(testContext); !errors.Is(err, fault) || !errors.Is(r.fatal, fault) {
			t.Errorf("%s: %v, fatal %v", op, err, r.fatal)
		}
	}
}

// A leader's request waits for what is being fetched, as long as it may.
func TestAdmitWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader, h := begun(t, gates.Development)
		grow(leader, h, 50)
		r := newReplica(t, ledgertest.NewMemory())
		r.fetcher.peer = leader.store
		r.fetcher.dieAfter = 20
		request := fsm.Install{LastLogIndex: h.index, LastLogTerm: 1, Manifest: leader.snapshot()}
		short, stop := context.WithTimeout(testContext, time.Second)
		defer stop()
		var catching *fsm.CatchingUp
		if got, err := r.AdmitWithin(short, request); got != fsm.NotReady || !errors.As(err, &catching) || short.Err() == nil {
			t.Fatalf("nobody fetches: %v, %v, %v", got, err, short.Err())
		}
		ctx, cancel := context.WithCancel(testContext)
		ran := make(chan error, 1)
		go func() { ran <- r.catchup.Run(ctx) }()
		if got, err := r.AdmitWithin(ctx, request); got != fsm.ReadyToInstall {
			t.Fatalf("%v, %v", got, err)
		}
		restore(t, r, leader, request.Manifest)
		// Another leader's manifest in between ends the wait.
		grow(leader, h, 50)
		request = fsm.Install{LastLogIndex: h.index, LastLogTerm: 1, Manifest: leader.snapshot()}
		cancel()
		<-ran
		first := make(chan error, 1)
		go func() {
			_, err := r.AdmitWithin(testContext, request)
			first <- err
		}()
		synctest.Wait()
		grow(leader, h, 5)
		if got, err := install(r, leader.snapshot(), h.index); got != fsm.NotReady {
			t.Fatalf("%v, %v", got, err)
		}
		if err := <-first; !errors.As(err, &catching) {
			t.Fatalf("replaced: %v", err)
		}
	})
}
