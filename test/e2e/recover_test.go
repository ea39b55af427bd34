package e2e

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// TestRecover loses two of three nodes for good, under load. The third is recovered and
// serves alone; two new ones join it; the writers, a client that checks heads and one
// that watches go on as if nothing had been. One of the lost comes back with its old
// disk, and gets in nowhere.
func TestRecover(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{})
	l, o := c.startLoad("recover", 3), c.observe()
	l.progress(60)
	// Who leads has all that is acknowledged: nothing may be missing in the end.
	c.lead("n3")
	l.progress(30)
	c.kill("n1")
	c.kill("n2")
	c.recovers("n3", 1, "--data", c.DataDir("n3"))
	c.kill("n3")
	plan := c.recovers("n3", 0, "--data", c.DataDir("n3"))
	if !strings.Contains(plan, c.ids["n1"]) || !strings.Contains(plan, c.ids["n2"]) {
		t.Errorf("who is given up is not told:\n%s", plan)
	}
	t.Log(c.recovers("n3", 0, "--data", c.DataDir("n3"), "--reason", "two discs died", "--yes"))
	c.start("n3")
	l.progress(30)
	if head, err := c.on("n3").Head(c.ctx); err != nil || head.Epoch != 1 {
		t.Errorf("epoch %d, %v", head.Epoch, err)
	}

	late := []*outsider{c.join("n4"), c.join("n5")}
	for _, node := range late {
		id := node.memberID(node.name)
		c.await(node.name+" to be a voter", func(ctx context.Context) (bool, error) {
			m, err := c.member(ctx, id)
			return m.Suffrage == "voter", err
		})
	}
	l.progress(30)

	must(t, c.Start("n1"))
	select {
	case e := <-c.Ended():
		if last := tail(c.LogFile("n1"), 2); e.Name != "n1" || e.Err == nil || !strings.Contains(last, "(older_epoch)") || !strings.Contains(last, "empty data directory") {
			t.Errorf("%s ended with %v: %s", e.Name, e.Err, last)
		}
	case <-c.ctx.Done():
		t.Fatal("n1 came back, and did not end")
	}
	l.progress(30)
	l.stop()
	o.check()
	l.check()
	// All three are at the head before they stop.
	head, err := c.client.Head(c.ctx)
	must(t, err)
	for _, node := range late {
		reader, err := client.New(client.Config{Addresses: []string{node.api}})
		must(t, err)
		defer reader.Close()
		c.await(node.name+" to have all", func(ctx context.Context) (bool, error) {
			h, err := reader.At(client.Stale).Head(ctx)
			return h.Size >= head.Size, err
		})
		node.stop()
	}
	c.stop("n3")
	want := c.verifyDisk("n3")
	if want.Epoch != 1 || want.Head.Size < head.Size {
		t.Errorf("n3 has %d entries in epoch %d", want.Head.Size, want.Epoch)
	}
	for _, node := range late {
		if r, err := verifyLedger(c.ctx, node.data+"/ledger"); err != nil || r.Epoch != 1 || r.Head.Size < head.Size {
			t.Errorf("%s has %d entries in epoch %d, %v", node.name, r.Head.Size, r.Epoch, err)
		}
	}
}

// recovers runs `exonode cluster recover` and returns what it says.
func (c *cluster) recovers(name string, status int, args ...string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.ctx, exonode, append([]string{"cluster", "recover"}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		c.t.Fatalf("recover %s: %v\n%s", name, err, out)
	}
	return string(out)
}

// TestTwoSurvivors: two nodes of a cluster that lost its quorum are recovered, each by
// itself. That is two chains, which no program can make one again: both say so.
func TestTwoSurvivors(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{})
	c.appendOne("before")
	for _, name := range []string{"n1", "n2", "n3"} {
		c.stop(name)
	}
	for _, name := range []string{"n1", "n2"} {
		c.recovers(name, 0, "--data", c.DataDir(name), "--yes")
	}
	c.start("n1", "n2")
	warned := func(text string) {
		t.Helper()
		for name, other := range map[string]string{"n1": "n2", "n2": "n1"} {
			c.await(name+" to warn", func(ctx context.Context) (bool, error) {
				s, err := c.on(name).Status(ctx)
				return strings.Contains(s.Warning, text) && strings.Contains(s.Warning, c.ids[other]), err
			})
		}
	}
	warned("two chains of epoch 1")
	// One of them loses its quorum again.
	c.stop("n1")
	c.recovers("n1", 0, "--data", c.DataDir("n1"), "--yes")
	c.start("n1")
	warned("two chains, of epochs")
}
