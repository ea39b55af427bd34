package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/export"
)

func (a *app) exportCommand() *cobra.Command {
	var t targetFlags
	var tiles tilesFlags
	var out, format string
	var from, to uint64
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write a chain to a file, or its log to a directory that a web server serves",
		Long: `Write a chain to a file that verifies on its own: the exact bytes of every
entry, as JSON lines with a readable view beside them, or in a compact binary
form. The chain is verified while it is written, from entry 0 even where the
export begins later, and a file that is not whole never appears under --out.

With --tiles, write the log of a running cluster as static files, as tlog-tiles
names them: the newest final checkpoint, the tiles of hashes and the bundles of
headers. Envelopes are not among them. Any web server or object store can serve
the directory, and anybody's tool for such logs reads and verifies it. Run it
again, by a timer, and only what is new is fetched and written. What comes is held
against the checkpoint's root before it is written, and the checkpoint is replaced
last: however a run ends, the directory has a whole tree. It refuses a directory
of another log, and a checkpoint that contradicts the published one: that one it
keeps as DIR.fork, for both together are evidence. With --policy, the checkpoint's
signatures are verified; without, the cluster's word is taken. Of tiles that became
full the partial ones are removed; readers take the full one.`,
		Example: `  exonode export --out chain.jsonl
  exonode export --format binary --out chain.bin --data /var/lib/exonode
  exonode export --from 1000 --to 2000 --out part.jsonl
  exonode export --tiles /srv/www/log --policy policy.txt`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := tiles.check(cmd); err != nil {
				return err
			}
			if tiles.dir != "" {
				return a.exportTiles(cmd.Context(), t.node, &tiles)
			}
			forms := map[string]export.Format{"jsonl": export.JSONLines, "binary": export.Binary}
			form, ok := forms[format]
			switch {
			case !ok:
				return usagef("--format is %q: choose jsonl or binary", format)
			case out == "":
				return usagef("--out is missing: name the file to write, or with --tiles a directory")
			case out == "-":
				return usagef("--out is -: an export is a file, which is not there before it is whole; write one, and copy it from there")
			case to != 0 && from > to:
				return usagef("--from %d is after --to %d", from, to)
			}
			if err := t.check(); err != nil {
				return err
			}
			s, err := a.openTarget(cmd.Context(), &t)
			if err != nil {
				return a.badTarget(&t, err)
			}
			defer s.close()
			x := exporting{target: s, from: from, to: to, form: form}
			if err := x.bounds(); err != nil {
				return err
			}
			began := time.Now()
			x.bar = a.progress("exporting "+s.name, int64(x.to), false)
			err = replaceFile(out, func(f *os.File) error { return x.write(cmd.Context(), f) })
			x.bar.done()
			if err != nil {
				return exportFailed(err)
			}
			result := struct {
				File    string     `json:"file"`
				Format  string     `json:"format"`
				From    uint64     `json:"from"`
				To      uint64     `json:"to"`
				Hash    chain.Hash `json:"hash"`
				Root    chain.Hash `json:"root"`
				Seconds float64    `json:"seconds"`
			}{out, format, x.from, x.to, x.report.Head.Hash, x.report.Root, time.Since(began).Seconds()}
			return a.emit(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "wrote %s: entries %d to %d, verified\n  head  %s\n  root  %s\n",
					out, x.from, max(x.to, 1)-1, result.Hash, result.Root)
				return err
			})
		},
	}
	t.register(cmd, a, false)
	flags := cmd.Flags()
	flags.StringVar(&out, "out", "", "the `file` to write; one that exists is replaced once the new one is whole")
	flags.StringVar(&format, "format", "jsonl", "`form` of the export: jsonl or binary")
	flags.Uint64Var(&from, "from", 0, "first `sequence`, inclusive")
	flags.Uint64Var(&to, "to", 0, "last `sequence`, exclusive; 0 is the head")
	flags.StringVar(&tiles.dir, "tiles", "", "the `directory` to write the log to as static files (C2SP tlog-tiles)")
	flags.StringVar(&tiles.policy, "policy", "", "with --tiles: policy `file` that the checkpoint must satisfy")
	operands(cmd, "out", "format", "from", "to", "tiles", "policy")
	return cmd
}

// exporting is one export under way.
type exporting struct {
	target   *target
	from, to uint64
	form     export.Format
	bar      progress

	report chain.VerifyReport
}

// bounds settles where the export ends.
func (x *exporting) bounds() error {
	size := x.target.source.Size()
	if size == 0 {
		return noGenesis(x.target.ahead)
	}
	if x.to == 0 {
		x.to = size
	}
	if x.to > size || x.from > x.to {
		return usagef("the chain has %d entries: entries %d to %d are not all there", size, x.from, x.to)
	}
	return nil
}

// write verifies the chain and writes the range that is asked for.
func (x *exporting) write(ctx context.Context, w io.Writer) error {
	var start *chain.Start
	if x.from > 0 {
		// The tree before the range is part of the export.
		report, err := chain.Verify(ctx, prefix{x.target.source, x.from}, chain.VerifyOptions{
			Tiles: x.target.tiles, Progress: func(p chain.Progress) { x.bar.set(p.Done) },
		})
		if err != nil {
			return err
		}
		start = report.Start()
	}
	var out *export.Writer
	options := chain.VerifyOptions{
		Start: start, Tiles: x.target.tiles,
		Progress: func(p chain.Progress) { x.bar.set(x.from + p.Done) },
		Check: func(e *chain.Entry) (err error) {
			if out == nil {
				out, err = export.NewWriter(w, x.form, x.info(e.Header.ChainID, start))
			}
			if err == nil {
				err = out.Write(&e.Record)
			}
			if err != nil {
				return writeError{err}
			}
			return nil
		},
	}
	if x.to == x.target.source.Size() {
		options.Head, options.Root = x.target.head, x.target.root
	}
	var err error
	if x.report, err = chain.Verify(ctx, prefix{x.target.source, x.to}, options); err != nil {
		// That the disk is full says nothing about the entry.
		var failed writeError
		if errors.As(err, &failed) {
			return failed.error
		}
		return err
	}
	if out == nil { // an empty range
		if out, err = export.NewWriter(w, x.form, x.info(x.report.ChainID, start)); err != nil {
			return err
		}
	}
	return out.Close()
}

func (x *exporting) info(id chain.ID, start *chain.Start) export.Info {
	return export.Info{ChainID: id, From: x.from, To: x.to, Start: start}
}

// exportFailed says that there is no file, and why.
func exportFailed(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return failf(codeFile, "", "nothing was exported: %w", err)
	}
	return fmt.Errorf("nothing was exported: %w", err)
}

// writeError marks an error of writing among those of verification.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }
