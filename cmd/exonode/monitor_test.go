package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogtiles"
)

// publish writes a log of opaque leaves to a directory, and returns its policy.
func publish(t *testing.T, dir string, leaves ...string) string {
	t.Helper()
	signer, err := checkpoint.NewLogSigner("log.example", ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	var tree chain.Tree
	var bundle []byte
	for _, l := range leaves {
		tree.Append([]byte(l), nil)
		bundle = tlogtiles.AppendEntry(bundle, []byte(l))
	}
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: "log.example", Size: tree.Size(), Root: tree.Root()}}
	s, err := signer.Sign(&n.Checkpoint, 0)
	if err != nil {
		t.Fatal(err)
	}
	n.Add(s)
	_, hashes := tree.Partial(0)
	for path, b := range map[string][]byte{
		tlogtiles.CheckpointPath:                                 n.Bytes(),
		tlogtiles.Tile{Width: len(leaves)}.Path():                hashes,
		tlogtiles.Tile{Entries: true, Width: len(leaves)}.Path(): bundle,
	} {
		path = filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	k := signer.Key()
	return "log " + k.String() + "\nquorum none\n"
}

// TestMonitorCatches: the program ends with status 1 and the evidence's path where a log
// forks, others check the file by itself, and what proves nothing is refused.
func TestMonitorCatches(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	log, state, policy := filepath.Join(dir, "log"), filepath.Join(dir, "state"), filepath.Join(dir, "policy.txt")
	if err := os.WriteFile(policy, []byte(publish(t, log, "a", "b", "c")), 0o644); err != nil {
		t.Fatal(err)
	}
	do := func(status int, wants string, args ...string) string {
		t.Helper()
		var out, complaints bytes.Buffer
		got := run(t.Context(), append(args, "--policy", policy), nil, &out, &complaints)
		text := out.String() + complaints.String()
		if got != status || !strings.Contains(text, wants) {
			t.Fatalf("%v: status %d, want %d and %q:\n%s", args, got, status, wants, text)
		}
		return text
	}
	do(0, "verified 3 entries of log.example (3 new, opaque leaves)", "monitor", log, "--state", state, "--once")
	publish(t, log, "a", "b")
	do(1, "(checkpoint_stale)", "monitor", log, "--state", state, "--once")
	publish(t, log, "a", "b", "c", "d")
	bundle := filepath.Join(log, "tile", "entries", "000.p", "4")
	good, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bundle, bytes.Replace(good, []byte("d"), []byte("D"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	do(1, "(tiles_mismatch)", "monitor", log, "--state", state, "--once")
	if kept, err := filepath.Glob(filepath.Join(state, "unmatched-*.txt")); err != nil || len(kept) != 1 {
		t.Fatal(kept, err)
	}

	publish(t, log, "a", "B", "c", "d", "e")
	do(1, "(equivocation)", "monitor", log, "--state", state, "--once", "-o", "text")
	text := do(1, "(equivocation)", "monitor", log, "--state", state)
	if !strings.Contains(text, "evidence of an earlier run") {
		t.Errorf("the evidence is not told of:\n%s", text)
	}
	files, err := filepath.Glob(filepath.Join(state, "evidence-fork-*.txt"))
	if err != nil || len(files) != 1 || !strings.Contains(text, "the evidence is in "+files[0]) {
		t.Fatalf("%v, %v:\n%s", files, err, text)
	}
	do(0, "is genuine", "evidence", "verify", files[0])
	do(0, `"kind": "fork"`, "evidence", "verify", files[0], "-o", "json")

	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		text, want string
	}{
		"altered root": {strings.Replace(string(b), "\n5\n", "\n6\n", 1), "(evidence_false)"},
		"other size":   {strings.Replace(string(b), "size 3", "size 2", 1), "(evidence_false)"},
		"no evidence":  {"hello\n", "(evidence_format)"},
		"unsigned":     {strings.ReplaceAll(string(b), "— log.example", "— log.exampla"), "(unsigned)"},
	} {
		file := filepath.Join(dir, "false.txt")
		if err := os.WriteFile(file, []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Log(name)
		do(1, test.want, "evidence", "verify", file)
	}
	do(2, "(file_access)", "evidence", "verify", filepath.Join(dir, "missing.txt"))
}

// TestMonitorFollows: it prints each checkpoint once, goes on where a round fails, and
// ends well when it is told to.
func TestMonitorFollows(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	log, policy := filepath.Join(dir, "log"), filepath.Join(dir, "policy.txt")
	if err := os.WriteFile(policy, []byte(publish(t, log, "a")), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	out, in := io.Pipe()
	complaints, told := io.Pipe()
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, []string{"monitor", log, "--policy", policy, "--state", filepath.Join(dir, "state"), "--interval", "1ms"}, nil, in, told)
	}()
	expect := func(r io.Reader, want string) {
		t.Helper()
		var line []byte
		for b := make([]byte, 1); ; {
			if _, err := r.Read(b); err != nil {
				t.Fatal(err)
			}
			if b[0] == '\n' {
				break
			}
			line = append(line, b[0])
		}
		if !strings.Contains(string(line), want) {
			t.Fatalf("%s, want %q", line, want)
		}
	}
	expect(out, "verified 1 entries")
	for i := 2; i < 5; i++ {
		leaves := strings.Split("a b c d e"[:2*i-1], " ")
		// The checkpoint is written last: publish writes in any order, and the monitor
		// must not see half of it.
		whole := filepath.Join(dir, fmt.Sprint(i))
		publish(t, whole, leaves...)
		if err := os.RemoveAll(filepath.Join(log, "tile")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(whole, "tile"), filepath.Join(log, "tile")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(whole, "checkpoint"), filepath.Join(log, "checkpoint")); err != nil {
			t.Fatal(err)
		}
		expect(out, fmt.Sprintf("verified %d entries of log.example (1 new", i))
	}
	if err := os.Remove(filepath.Join(log, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	expect(complaints, "(unreachable)")
	expect(complaints, "  want the address") // the hint, and then nothing more of the same
	interrupt()
	if s := <-status; s != 0 {
		t.Errorf("status %d", s)
	}
}
