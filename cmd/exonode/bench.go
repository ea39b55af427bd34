package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/bench"
)

// quickCell is how long a cell takes with --quick.
const quickCell = time.Second

func (a *app) benchCommand() *cobra.Command {
	var cfg bench.Config
	var quick, benchstat bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a cluster on this machine, beside the machine's limits",
		Long: `Start a cluster of node processes on this machine and measure how many events a
second it takes, and how long an event takes, with different numbers of writers
and different clients. Every event is synced to the disks of a quorum before it
is acknowledged; all indexes, the tree and the gates are on. At the end, what was
acknowledged is counted in the chain, sampled and read back, the nodes' heads are
compared, and one chain is verified.

Beside it stand the machine's own limits, measured in the same run: how often
its disk syncs, and what raft alone, with a state machine that does nothing,
reaches on it.

With --addr a cluster that runs is measured instead; the events stay in it, in
workspace bench.`,
		Example: `  exonode bench
  exonode bench --quick
  exonode bench --only client=go/ --writers 64,256 --duration 10s
  exonode bench --only client=go-stream --profile ./profiles`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Nodes < 1 {
				return usagef("--nodes is %d: want at least 1", cfg.Nodes)
			}
			if quick {
				if !cmd.Flags().Changed("duration") {
					cfg.Duration = quickCell
				}
				if !cmd.Flags().Changed("writers") {
					cfg.Writers = []int{1, 256}
				}
			}
			var err error
			if cfg.TLS, err = a.clientTLS(); err != nil {
				return err
			}
			return a.bench(cmd, cfg, benchstat)
		},
	}
	flags := cmd.Flags()
	// Not the shared flag: addresses in the environment, which are there to
	// use a cluster, must not have it filled with a benchmark's events.
	flags.StringSliceVar(&cfg.Addresses, "addr", nil, "API `addresses` of a running cluster to measure instead, separated by commas")
	flags.DurationVar(&cfg.Duration, "duration", 5*time.Second, "how long each cell is measured")
	flags.IntSliceVar(&cfg.Writers, "writers", []int{1, 64, 256, 1024}, "`numbers` of concurrent writers")
	flags.IntVar(&cfg.Payload, "payload", 256, "`bytes` of each event's payload")
	flags.IntVarP(&cfg.Nodes, "nodes", "n", 3, "how many nodes to start")
	flags.StringVar(&cfg.Dir, "dir", "", "`directory` in which the cluster is made and removed again (default: that of temporary files)")
	flags.BoolVar(&quick, "quick", false, "a second for each cell, 1 and 256 writers")
	flags.StringSliceVar(&cfg.Only, "only", nil, "measure only what has one of these `texts` in its name")
	flags.StringVar(&cfg.ProfileDir, "profile", "", "write profiles of all processes to this `directory`")
	flags.BoolVar(&benchstat, "benchstat", false, "print lines that benchstat reads")
	operands(cmd, "addr", "duration", "writers", "payload", "nodes", "dir", "quick", "only", "profile", "benchstat")
	return cmd
}

func (a *app) bench(cmd *cobra.Command, cfg bench.Config, benchstat bool) error {
	if terminal(a.stderr) {
		cfg.Progress = func(done, total int, name string) { fmt.Fprintf(a.stderr, "[%d/%d] %s\n", done+1, total, name) }
		cfg.Row = func(r bench.Row) { fmt.Fprintf(a.stderr, "        %s\n", r.Line()) }
	}
	report, err := bench.Run(cmd.Context(), cfg)
	if report == nil {
		return misuse("", "", err)
	}
	switch {
	case err != nil && len(report.Limits)+len(report.Rows) == 0:
	case benchstat:
		if perr := report.Benchstat(a.stdout); err == nil {
			err = perr
		}
	default:
		if perr := a.emit(report, func(w io.Writer) error { return report.Text(w) }); err == nil {
			err = perr
		}
	}
	return err
}
