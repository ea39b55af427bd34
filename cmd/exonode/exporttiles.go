package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/client/tiledir"
)

// tilesFlags say what export --tiles does.
type tilesFlags struct{ dir, policy string }

// check refuses what is about an export to a file.
func (f *tilesFlags) check(cmd *cobra.Command) error {
	if f.dir == "" {
		if f.policy != "" {
			return usagef("--policy is for --tiles: an export to a file has no checkpoint")
		}
		return nil
	}
	for _, name := range []string{"out", "format", "from", "to"} {
		if cmd.Flags().Changed(name) {
			return usagef("--%s is for an export to a file: --tiles writes the whole log, in its own form", name)
		}
	}
	if cmd.Flags().Changed("data") {
		return usagef("a data directory has no final checkpoint: --tiles reads from a running cluster")
	}
	return nil
}

// tilesView is what export --tiles did.
type tilesView struct {
	Directory string     `json:"directory"`
	Origin    string     `json:"origin"`
	From      uint64     `json:"from"`
	To        uint64     `json:"to"`
	Root      chain.Hash `json:"root"`
	Files     int        `json:"files"`
	Bytes     int64      `json:"bytes"`
	Removed   int        `json:"removed"`
	// Verified is whether a policy was satisfied.
	Verified bool    `json:"verified"`
	Seconds  float64 `json:"seconds"`
	Rate     float64 `json:"entries_per_second"`
}

// exportTiles makes a directory publish the newest final checkpoint of the cluster.
func (a *app) exportTiles(ctx context.Context, node string, f *tilesFlags) error {
	var policy *checkpoint.Policy
	if f.policy != "" {
		var err error
		if policy, err = readTrustPolicy(f.policy); err != nil {
			return err
		}
	}
	c, err := a.nodeClient(ctx, node)
	if err != nil {
		return err
	}
	defer c.Close()
	began := time.Now()
	note, err := c.Checkpoint(ctx, 0)
	if err != nil {
		return fmt.Errorf("get the newest final checkpoint: %w", err)
	}
	if policy != nil {
		if _, err := policy.Verify(note); err != nil {
			return untrusted(err)
		}
	} else {
		a.note("no --policy: that the checkpoint is the log's, and final, is taken from the cluster's word")
	}
	p := &note.Checkpoint
	bar := a.progress("exporting "+p.Origin, int64(p.Size), false)
	report, err := tiledir.Write(ctx, tiledir.Config{Dir: f.dir, Source: c.Reader, Progress: bar.set}, note)
	bar.done()
	if err != nil {
		return tilesFailed(f.dir, err)
	}
	v := tilesView{
		Directory: f.dir, Origin: p.Origin, From: report.From, To: report.Size, Root: report.Root, Files: report.Files, Bytes: report.Bytes,
		Removed: report.Removed, Verified: policy != nil, Seconds: time.Since(began).Seconds(),
	}
	v.Rate = float64(v.To-v.From) / max(v.Seconds, 1e-6)
	return a.emit(v, v.print)
}

func (v *tilesView) print(w io.Writer) error {
	if v.From == v.To {
		_, err := fmt.Fprintf(w, "%s is up to date: %d entries\n  log   %s\n  root  %s\n", v.Directory, v.To, v.Origin, v.Root)
		return err
	}
	_, err := fmt.Fprintf(w, "wrote %s: entries %d to %d, %d files, %d bytes\n  log   %s\n  root  %s\n  rate  %.0f entries/s in %.2f s\n",
		v.Directory, v.From, v.To-1, v.Files, v.Bytes, v.Origin, v.Root, v.Rate, v.Seconds)
	return err
}

// untrusted says what a policy finds missing in a checkpoint.
func untrusted(err error) error {
	switch {
	case errors.Is(err, checkpoint.ErrQuorum):
		return failf(codeNoQuorum, "the policy may be another cluster's, or older than its voters: get a new one with \"exonode trust export\" from whom you trust",
			"nothing was exported: %w", err)
	case errors.Is(err, checkpoint.ErrSignature):
		return failf(codeNotVerified, "the node that answered made or passed on a false signature: ask another one with --node", "nothing was exported: %w", err)
	}
	return err
}

// tilesFailed says that the directory publishes what it did, and why.
func tilesFailed(dir string, err error) error {
	var fork *tiledir.ForkError
	if errors.As(err, &fork) {
		evidence, pathErr := filepath.Abs(dir)
		evidence += ".fork"
		if pathErr == nil {
			pathErr = os.WriteFile(evidence, fork.Offered.Bytes(), 0o644)
		}
		if pathErr != nil {
			return failf(codeFork, "", "nothing was exported: %w; the new checkpoint can't be kept: %w; it is\n%s", err, pathErr, fork.Offered.Bytes())
		}
		return failf(codeFork, fmt.Sprintf("keep %s and %s: with the log's signature on both, they prove it to anybody; `exonode verify --node` shows which nodes have which chain",
			filepath.Join(dir, "checkpoint"), evidence), "nothing was exported: %w", err)
	}
	var path *fs.PathError
	var link *os.LinkError
	if (errors.As(err, &path) || errors.As(err, &link)) && !errors.Is(err, tiledir.ErrDamaged) {
		return failf(codeFile, "", "%s publishes what it did before: %w", dir, err)
	}
	return fmt.Errorf("%s publishes what it did before: %w", dir, err)
}
