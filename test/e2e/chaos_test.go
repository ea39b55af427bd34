package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/lab"
)

// TestChaosAgainst has the lab's workload and checks run against a cluster that it did not
// start, and that has a past.
func TestChaosAgainst(t *testing.T) {
	t.Parallel()
	c := startCluster(t, lab.Config{})
	c.pump("past", 100, 100)
	cmd := exec.CommandContext(c.ctx, exonode, "chaos", "run", "calm", "--against", "--addr", strings.Join(c.Addrs(), ","), "--duration", "1s", "-o", "json")
	cmd.Dir = t.TempDir()
	var progress strings.Builder
	cmd.Stderr = &progress
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, progress.String(), out)
	}
	var verdicts []history.Verdict
	must(t, json.Unmarshal(out, &verdicts))
	if len(verdicts) == 0 {
		t.Error("nothing was checked")
	}
	for _, v := range verdicts {
		if v.Name == "replicas" && v.Checked != 3 {
			t.Errorf("%d nodes were compared", v.Checked)
		}
	}
	if _, err := os.Stat(filepath.Join(cmd.Dir, "chaos-report.html")); err != nil {
		t.Error(err)
	}
}
