package e2e

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/exonode/exonode/chaos/lab"
)

var needed = flag.Bool("must", false, "fail where a program is missing that a test needs, rather than skip")

// TestJavaScript: what is for browsers verifies a receipt of a cluster, and follows its
// log from one node to the next.
func TestJavaScript(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil && *needed {
		t.Fatalf("%v: apt-get install nodejs", err)
	}
	if err != nil {
		t.Skipf("%v: apt-get install nodejs", err)
	}
	t.Parallel()
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "../../scripts/web.sh", filepath.Join(dir, "web")).CombinedOutput()
	if err != nil {
		t.Fatalf("scripts/web.sh: %v\n%s", err, out)
	}
	c := startCluster(t, lab.Config{Nodes: 3, NodeArgs: func(n lab.Node) []string {
		if n.Name == "n2" {
			return []string{"--ml-dsa"}
		}
		return nil
	}})
	var before uint64
	for _, name := range []string{"n1", "n2", "n3"} {
		ack := c.appendOne("before " + name)
		note := c.final(name, ack.Sequence+1)
		r, err := c.on(name).Receipt(c.ctx, ack.Sequence, true)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "policy"), []byte(c.policy("n1", "n2", "n3").String()), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "receipt"), r.Bytes(), 0o600))
		cmd := exec.CommandContext(t.Context(), node, "testdata/follow.mjs", filepath.Join(dir, "web"), "http://"+c.Nodes()[c.index(name)].API,
			filepath.Join(dir, "policy"), filepath.Join(dir, "receipt"), filepath.Join(dir, "state"))
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		must(t, err)
		var got struct {
			Receipt struct {
				OK       bool
				Sequence uint64
				Hash     string
			}
			Followed struct {
				OK, Grown bool
				Size      uint64
			}
		}
		must(t, json.Unmarshal(out, &got))
		if !got.Receipt.OK || got.Receipt.Sequence != ack.Sequence || got.Receipt.Hash != ack.Hash.String() {
			t.Errorf("%s: the receipt of entry %d, %v:\n%s", name, ack.Sequence, ack.Hash, out)
		}
		if f := got.Followed; !f.OK || !f.Grown || f.Size < note.Checkpoint.Size || f.Size <= before {
			t.Errorf("%s: a checkpoint of %d entries, after one of %d:\n%s", name, note.Checkpoint.Size, before, out)
		}
		before = got.Followed.Size
	}
}
