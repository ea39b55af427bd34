package chaos_test

import (
	"errors"
	"testing"

	"github.com/exonode/exonode/chaos"
)

func TestActionsReadAndWritten(t *testing.T) {
	for _, text := range []string{
		"partition n1,n2 n3,n4,n5", "partition n1 n2 n3", "isolate leader", "oneway n1 n2", "oneway leader follower",
		"slow n1 100ms", "slow n1,n2 100ms 20ms", "drop any 12.5%", "reorder all 30%", "throttle n1 65536",
		"kill leader", "pause minority", "disk n1 slow 50ms", "disk n1 slow 50ms raft-log", "disk leader hang",
		"disk n2 eio ledger", "disk n2 enospc", "clock n1 1h0m0s", "clock n1 -5s", "crash n1 before-append", "crash leader after-vote 3",
		"partition any any", "partition follower follower", "oneway all all", "oneway any any", "slow n1 0s 20ms",
		"transfer follower", "transfer n2", "join", "remove n3", "leave n3", "replace any", "start n1", "heal",
	} {
		a, err := chaos.ParseAction(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := a.String(); got != text {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

func TestNoActions(t *testing.T) {
	for _, text := range []string{
		"", "break everything", "partition n1", "isolate", "isolate n1 n2", "isolate n1,,n2", "oneway n1", "slow n1", "slow n1 fast", "slow n1 -1s",
		"drop n1 0", "drop n1 101%", "drop n1 x", "throttle n1", "throttle n1 -5", "disk n1", "disk n1 melt", "disk n1 slow", "disk n1 hang outbox",
		"throttle n1 0", "partition n1,n2 n2,n3", "partition leader n1 leader", "partition all n1", "partition minority minority",
		"oneway n1 n1", "oneway leader leader", "isolate all", "isolate n1,all", "slow n1 0s", "slow n1 0s 0s", "disk n1 slow 0s", "disk n1 slow -1s",
		"clock n1", "clock n1 noon", "crash n1", "crash n1 nowhere", "crash n1 after-vote -1", "join n4", "heal n1",
	} {
		if a, err := chaos.ParseAction(text); !errors.Is(err, chaos.ErrAction) {
			t.Errorf("%q is %+v, %v", text, a, err)
		}
	}
}

func FuzzParseAction(f *testing.F) {
	f.Add("partition n1,n2 n3")
	f.Add("disk n1 slow 50ms raft-log")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := chaos.ParseAction(text)
		if err != nil {
			return
		}
		b, err := chaos.ParseAction(a.String())
		if err != nil || a.String() != b.String() {
			t.Errorf("%q becomes %q, and that %q, %v", text, a, b, err)
		}
	})
}
