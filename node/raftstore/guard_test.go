package raftstore_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node/raftstore"
)

// slowLog is a log store whose writes hang, or fail.
type slowLog struct {
	*raft.InmemStore
	hang chan struct{} // nil does not hang
	fail error
}

func (s *slowLog) StoreLogs(logs []*raft.Log) error {
	if s.hang != nil {
		<-s.hang
	}
	if s.fail != nil {
		return s.fail
	}
	return s.InmemStore.StoreLogs(logs)
}

func TestGuardHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := make(chan error, 8)
		guard, err := raftstore.NewGuard(3*time.Second, func(err error) { failures <- err })
		if err != nil {
			t.Fatal(err)
		}
		under := &slowLog{InmemStore: raft.NewInmemStore(), hang: make(chan struct{})}
		log := raftstore.NewLog(under, guard, raftstore.Key{})
		late := make(chan error, 1)
		go func() { late <- log.StoreLog(&raft.Log{Index: 1}) }()
		time.Sleep(3*time.Second + 300*time.Millisecond - 1) // the bubble's time
		synctest.Wait()
		if len(failures) != 0 {
			t.Fatalf("told before the deadline: %v", <-failures)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if len(failures) != 1 {
			t.Fatalf("told of %d failures at the deadline, want one", len(failures))
		}
		if err := <-failures; !errors.Is(err, raftstore.ErrFailed) {
			t.Fatalf("told of %v", err)
		}
		// While the write hangs, and once it has landed late, nothing more is
		// written, and nothing is read as if it had been in time.
		if err := log.StoreLog(&raft.Log{Index: 2}); !errors.Is(err, raftstore.ErrFailed) {
			t.Errorf("second write: %v", err)
		}
		close(under.hang)
		if err := <-late; !errors.Is(err, raftstore.ErrFailed) {
			t.Errorf("the write that landed late: %v", err)
		}
		if _, err := log.LastIndex(); !errors.Is(err, raftstore.ErrFailed) {
			t.Errorf("last index: %v", err)
		}
		if err := log.GetLog(1, new(raft.Log)); !errors.Is(err, raftstore.ErrFailed) {
			t.Errorf("get: %v", err)
		}
		if len(failures) != 0 {
			t.Errorf("told again: %v", <-failures)
		}
	})
}

func TestGuardFirstErrorLatches(t *testing.T) {
	var told int
	guard, err := raftstore.NewGuard(time.Minute, func(error) { told++ })
	if err != nil {
		t.Fatal(err)
	}
	under := &slowLog{InmemStore: raft.NewInmemStore(), fail: errors.New("no space left on device")}
	log := raftstore.NewLog(under, guard, raftstore.Key{})
	if err := log.StoreLog(&raft.Log{Index: 1}); !errors.Is(err, under.fail) {
		t.Fatalf("got %v", err)
	}
	under.fail = nil
	if err := log.StoreLog(&raft.Log{Index: 1}); !errors.Is(err, raftstore.ErrFailed) {
		t.Errorf("a failed store wrote again: %v", err)
	}
	if told != 1 {
		t.Errorf("told %d times, want once", told)
	}
}

func TestLogForwardsExactErrors(t *testing.T) {
	guard, err := raftstore.NewGuard(time.Minute, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	log := raftstore.NewLog(raft.NewInmemStore(), guard, raftstore.Key{})
	if err := log.GetLog(7, new(raft.Log)); err != raft.ErrLogNotFound {
		t.Errorf("missing entry: %v, want raft.ErrLogNotFound itself", err)
	}
	if log.IsMonotonic() {
		t.Error("an in-memory store is not monotonic")
	}
}
