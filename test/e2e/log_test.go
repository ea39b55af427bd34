package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exonode/exonode/chaos/lab"
)

// TestDamagedLog changes a byte of an event that a killed node has in raft's log alone:
// verification finds it, and the node does not start. The others go on.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{})
	victim := ""
	for _, name := range c.running() {
		if name != c.leader() {
			victim = name
		}
	}
	for k := range 3 {
		_, err := c.client.Append(c.ctx, testEvent("damaged-log", k))
		must(t, err)
	}
	c.await("the events to be in the victim's log", func(context.Context) (bool, error) {
		return c.flipInLog(victim, 0), nil
	})
	c.kill(victim)
	verify := func() (string, error) {
		out, err := exec.Command(exonode, "verify", "--data", c.DataDir(victim)).CombinedOutput()
		return string(out), err
	}
	if out, err := verify(); err != nil {
		t.Fatalf("before any damage: %v\n%s", err, out)
	}
	if !c.flipInLog(victim, 1) {
		t.Fatal("the event is not in the log")
	}
	if out, err := verify(); err == nil || !strings.Contains(out, "damaged") {
		t.Errorf("after a byte was changed: %v\n%s", err, out)
	}
	must(t, c.Start(victim))
	ended := <-c.Ended()
	if ended.Name != victim || !strings.Contains(tail(c.LogFile(victim), 5), "damaged on disk") {
		t.Errorf("%s ended (%v), and says:\n%s", ended.Name, ended.Err, tail(c.LogFile(victim), 5))
	}
	_, err := c.client.Append(c.ctx, testEvent("damaged-log", 3))
	must(t, err)
}

// flipInLog changes a bit of the last event's source in a node's raft log, where bit is
// not 0, and reports whether it is there.
func (c *cluster) flipInLog(name string, bit byte) bool {
	c.t.Helper()
	paths, err := filepath.Glob(filepath.Join(c.DataDir(name), "raft", "wal", "*.wal"))
	must(c.t, err)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		must(c.t, err)
		// Not in the last write: what damage there is to that can't be told from
		// one that a crash tore.
		first := bytes.Index(b, []byte("damaged-log"))
		if first < 0 || bytes.Count(b, []byte("damaged-log")) < 3 {
			continue
		}
		if bit != 0 {
			b[first] ^= bit
			must(c.t, os.WriteFile(path, b, 0o600))
		}
		return true
	}
	return false
}
