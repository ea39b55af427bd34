package monitor_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain/evidence"
	"github.com/exonode/exonode/client/monitor"
)

// TestCrash crashes the monitor before each operation on its disk, with what is not
// synced lost, kept, or kept in part, and starts it again: what was said to be verified still is, the
// rounds that follow verify, and a fork of it is found.
func TestCrash(t *testing.T) {
	old := newLog(300)
	steps := []testLog{newLog(200), old, old.grown(300), old.recovered(250).grown(100), old.recovered(250).grown(800)}
	last := steps[len(steps)-1]
	for crashAt := 1; ; crashAt++ {
		d := newDisk()
		d.crashAt = crashAt
		done := 0
		var m *monitor.Monitor
		run := func(l testLog) error {
			var err error
			if m == nil {
				if m, err = monitor.Open(monitor.Config{Source: l.files(), Policy: policy(base + "/0"), FS: d}); err != nil {
					return err
				}
			}
			f := &follower{tb: t, m: m}
			_, err = f.round(l.files())
			return err
		}
		for _, l := range steps {
			m = nil
			if err := run(l); err != nil {
				if !errors.Is(err, errCrash) || !errors.Is(err, monitor.ErrState) {
					t.Fatalf("operation %d: %v", crashAt, err)
				}
				break
			}
			done++
		}
		if done == len(steps) {
			if crashAt < 40 {
				t.Fatalf("only %d operations: does it sync?", crashAt)
			}
			return
		}
		for _, left := range crashes {
			f := &follower{tb: t, policy: policy(base + "/0"), disk: d.afterCrash(left)}
			f.restart()
			n := f.m.Verified()
			switch {
			case n == nil && done > 0:
				t.Fatalf("operation %d (left %d): all is forgotten after %d rounds", crashAt, left, done)
			case done > 0 && n.Checkpoint.Size != steps[done-1].note().Checkpoint.Size && n.Checkpoint.Size != steps[done].note().Checkpoint.Size:
				t.Fatalf("operation %d (left %d): verified is %d after %d rounds", crashAt, left, n.Checkpoint.Size, done)
			case n != nil:
				// It proves what it had verified by its own hashes.
				had := steps[max(done, 1)-1]
				if n.Checkpoint.Size != uint64(len(had.entries)) {
					had = steps[done]
				}
				f.caught(had.cut(100).with(60, "fork").files(), evidence.Fork)
			}
			for _, l := range steps[done:] {
				if _, err := f.round(l.files()); err != nil && !errors.Is(err, monitor.ErrStale) {
					t.Fatalf("operation %d (left %d): %v", crashAt, left, err)
				}
			}
			f.good(last)
			f.restart()
			f.good(last.grown(1))
			names, err := f.disk.List()
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				if strings.HasPrefix(n, "hashes-0.") {
					t.Errorf("operation %d (left %d): %s is still there", crashAt, left, n)
				}
			}
		}
		// The process ended, and the machine did not: what the next one finds is there
		// after a crash of the machine too.
		d.crashAt = 0
		f := &follower{tb: t, policy: policy(base + "/0"), disk: d}
		f.restart()
		before := f.m.Verified()
		f.disk = d.afterCrash(nothing)
		f.restart()
		if after := f.m.Verified(); (before == nil) != (after == nil) || before != nil && before.Checkpoint.Size != after.Checkpoint.Size {
			t.Fatalf("operation %d: %v was verified, then %v", crashAt, before, after)
		}
	}
}

// TestEvidenceIsSynced: after a crash at any operation, evidence that was told of is there.
func TestEvidenceIsSynced(t *testing.T) {
	seen, fork := newLog(20), newLog(10).with(30, "fork")
	for crashAt := 1; ; crashAt++ {
		f := follow(t, policy(base+"/0"))
		f.good(seen)
		d := f.disk.(*disk)
		d.ops, d.crashAt = 0, crashAt
		_, err := f.round(fork.files())
		var m *monitor.MisbehaviourError
		told := errors.As(err, &m)
		if !told && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		for _, left := range crashes {
			f.disk = d.afterCrash(left)
			f.restart()
			if told {
				b, err := f.disk.ReadFile(m.File)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := evidence.Parse(b); err != nil {
					t.Fatal(err)
				}
			}
			f.caught(fork.files(), evidence.Fork, seen, fork)
		}
		if told {
			if crashAt != 4 {
				t.Errorf("%d operations, want write, rename and sync", crashAt-1)
			}
			return
		}
	}
}

// TestDamagedState: no byte of the state can be changed and then be relied on.
func TestDamagedState(t *testing.T) {
	f := follow(t, policy(base+"/0"))
	f.good(newLog(300))
	names, err := f.disk.List()
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 3 {
		t.Fatalf("files: %v", names)
	}
	open := func(fs monitor.FS) (*monitor.Monitor, error) {
		return monitor.Open(monitor.Config{Source: f, Policy: f.policy, FS: fs})
	}
	good := f.disk.(*disk)
	for _, name := range names {
		b, err := good.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			d := good.afterCrash(all)
			d.names[name].data[i] ^= 0x10
			m, err := open(d)
			switch {
			case errors.Is(err, monitor.ErrState):
				continue
			case err != nil:
				t.Fatalf("%s, byte %d: %v", name, i, err)
			case name != "hashes-0.1":
				t.Fatalf("%s, byte %d may be changed", name, i)
			}
			// Files are read as far as they are needed, and this one is not before it is
			// to prove something.
			f.now = newLog(100).with(190, "fork").files()
			if _, err := m.Round(t.Context()); !errors.Is(err, monitor.ErrState) {
				t.Fatalf("%s, byte %d: %v", name, i, err)
			}
		}
		d := good.afterCrash(all)
		d.names[name].data = b[:len(b)-1]
		if _, err := open(d); !errors.Is(err, monitor.ErrState) && name != "hashes-0.1" {
			t.Errorf("%s, cut: %v", name, err)
		}
		delete(d.names, name)
		if _, err := open(d); !errors.Is(err, monitor.ErrState) && name == "hashes-0.0" {
			t.Errorf("%s, gone: %v", name, err)
		}
	}
}
