package e2e

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client"
)

// TestMembers has a node join a cluster whose log is truncated: it fetches the
// chain before it is added, and becomes a voter. Then it is removed, ends, and
// can't come back; and another one leaves.
func TestMembers(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{Args: shortLogs})
	c.pump("bulk", 18*(1<<20)/bulkSize, bulkSize)
	c.snapshots()
	l := c.startLoad("members", 3)

	late := c.join("n4")
	id := late.memberID("n4")
	c.await("n4 to be a voter", func(ctx context.Context) (bool, error) {
		m, err := c.member(ctx, id)
		return m.Suffrage == "voter", err
	})
	fetched, err := c.metricAt(c.ctx, late.api, fetchedMetric)
	must(t, err)
	installs := installed(t, late.log())
	if len(installs) == 0 {
		t.Fatal("n4 came in without a manifest")
	}
	// Prefetched, or fetched for the manifest: none of them twice.
	if last := installs[len(installs)-1]; fetched == 0 || fetched > float64(last) {
		t.Errorf("n4 fetched %v entries for manifests of %v", fetched, installs)
	}
	t.Logf("n4 fetched %v entries for manifests of %v, and is a voter", fetched, installs)
	l.progress(30)

	must(t, c.client.Remove(c.ctx, id))
	c.gone("n4", id)
	late.ended("removed")
	late.start()
	late.ended("removed")
	l.progress(30)

	// A node that leaves is gone from the configuration, and the others go on.
	next := c.join("n5")
	id = next.memberID("n5")
	leaving, err := client.New(client.Config{Addresses: []string{next.api}})
	must(t, err)
	defer leaving.Close()
	must(t, leaving.Leave(c.ctx, next.api, id))
	next.ended("")
	c.gone("n5", id)
	l.progress(30)
	l.stop()
	l.check()
	c.checkIdentical()
	c.checkDisks()
	for _, o := range []*outsider{late, next} {
		if _, err := verifyLedger(c.ctx, filepath.Join(o.data, "ledger")); err != nil {
			t.Errorf("the disk of %s: %v", o.name, err)
		}
	}
}

var errNoMember = errors.New("not a member")

// gone waits until every node knows that another one is no member any more.
func (c *cluster) gone(name, id string) {
	c.t.Helper()
	c.await(name+" to be gone", func(ctx context.Context) (bool, error) {
		for _, node := range c.running() {
			members, err := c.on(node).Members(ctx)
			if err != nil || slices.ContainsFunc(members, func(m client.Member) bool { return m.NodeID == id && m.Suffrage != "none" }) {
				return false, err
			}
		}
		return true, nil
	})
}

// member is how a node sees a node.
func (c *cluster) member(ctx context.Context, id string) (client.Member, error) {
	members, err := c.client.Members(ctx)
	if err != nil {
		return client.Member{}, err
	}
	i := slices.IndexFunc(members, func(m client.Member) bool { return m.NodeID == id && m.Suffrage != "none" })
	if i < 0 {
		return client.Member{}, errNoMember
	}
	return members[i], nil
}

// outsider is a node that is not of the lab: it joins later.
type outsider struct {
	c               *cluster
	name, data, api string
	args            []string
	lifeline        io.Closer // the node ends with it
	done            chan error
}

// join starts a node that joins the running cluster.
func (c *cluster) join(name string) *outsider {
	c.t.Helper()
	o := &outsider{c: c, name: name, data: c.DataDir(name), api: freeAddr(c.t)}
	var seeds []string
	for _, n := range c.Nodes() {
		seeds = append(seeds, n.Peer)
	}
	o.args = append([]string{
		"serve", "--cluster", c.ClusterFile(), "--data", o.data, "--name", name, "--seeds", strings.Join(seeds, ","),
		"--peer-listen", freeAddr(c.t), "--gossip-listen", freeAddr(c.t), "--api-listen", o.api,
		"--timing", "loopback", "--exit-with-stdin",
	}, shortLogs...)
	o.start()
	return o
}

func (o *outsider) start() {
	t := o.c.t
	t.Helper()
	log, err := os.OpenFile(o.c.LogFile(o.name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer log.Close()
	cmd := exec.Command(exonode, o.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	lifeline, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	done, waited := make(chan error, 1), make(chan struct{})
	go func() {
		done <- cmd.Wait()
		close(waited)
	}()
	o.done, o.lifeline = done, lifeline
	t.Cleanup(func() {
		_ = lifeline.Close() // the node ends with it, or has ended
		<-waited
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", o.name, tail(o.c.LogFile(o.name), 60))
		}
	})
}

// stop ends the node in good order.
func (o *outsider) stop() {
	o.c.t.Helper()
	must(o.c.t, o.lifeline.Close())
	o.ended("")
}

// memberID waits until the node is known to the cluster.
func (o *outsider) memberID(name string) (id string) {
	o.c.t.Helper()
	o.c.await(name+" to be a member", func(ctx context.Context) (bool, error) {
		members, err := o.c.client.Members(ctx)
		for _, m := range members {
			if m.Name == name && m.Suffrage != "none" {
				id = m.NodeID
			}
		}
		return id != "", err
	})
	return id
}

// ended waits for the node's end; where why is not "", it failed and said so.
func (o *outsider) ended(why string) {
	o.c.t.Helper()
	select {
	case err := <-o.done:
		last := tail(o.c.LogFile(o.name), 3)
		if (err != nil) != (why != "") || !strings.Contains(last, why) {
			o.c.t.Errorf("%s ended with %v: %s", o.name, err, last)
		}
	case <-o.c.ctx.Done():
		o.c.t.Fatalf("%s did not end", o.name)
	}
}

func (o *outsider) log() string {
	o.c.t.Helper()
	b, err := os.ReadFile(o.c.LogFile(o.name))
	must(o.c.t, err)
	return string(b)
}
