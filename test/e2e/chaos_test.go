package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/lab"
)

// TestChaosWalk runs the commands of docs/CHAOS.md, "By hand", as they stand there.
func TestChaosWalk(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/CHAOS.md")
	must(t, err)
	_, section, ok := strings.Cut(string(doc), "\n## By hand\n")
	section, _, ended := strings.Cut(section, "\n## ")
	if !ok || !ended {
		t.Fatal("docs/CHAOS.md has no section By hand")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	run := func(words ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, exonode, words...)
		// The lab is in the directory of temporary files.
		cmd.Env = append(os.Environ(), "TMPDIR="+dir, "EXONODE_TIMEOUT=1m")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("exonode %s: %v\n%s", strings.Join(words, " "), err, out)
		}
		return string(out)
	}
	t.Cleanup(func() { // where the walk ended half way
		stop, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(stop, exonode, "chaos", "down")
		cmd.Env = append(os.Environ(), "TMPDIR="+dir)
		_ = cmd.Run() // it is down already
	})
	ran := 0
	for i, block := range strings.Split(section, "```") {
		if i%2 == 0 {
			continue
		}
		for _, line := range strings.Split(strings.TrimPrefix(block, "sh\n"), "\n") {
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			if words[0] != "exonode" {
				t.Fatalf("%q is no command of ours", line)
			}
			out := run(words[1:]...)
			ran++
			if strings.HasSuffix(line, "chaos status") && !strings.Contains(out, "x") {
				t.Errorf("after the partition, no link is drawn as cut:\n%s", out)
			}
		}
	}
	if ran < 10 {
		t.Errorf("the walk has %d commands", ran)
	}
	if _, err := os.Stat(filepath.Join(dir, "exonode-chaos-0")); os.Getuid() == 0 && err != nil {
		t.Error(err)
	}
}

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
