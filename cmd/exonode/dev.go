package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/chaos/lab"
)

// devBasePort is the peer port of the first node of `dev`; its API is two
// further, which is where commands look by default.
const devBasePort = 7480

// devRestart is how long dev waits before it starts a node again that ended.
const devRestart = time.Second

func (a *app) devCommand() *cobra.Command {
	var nodes int
	var dir, environment string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole cluster on this machine",
		Long: `Run a cluster of real node processes on this machine's loopback until it is
interrupted. Without flags: three nodes, a development policy, and a temporary
directory that goes when the cluster stops. With --data the cluster is kept, and
the next dev with the same directory goes on with it.

The first node's API is where all other commands look by default, unless its
port is taken; the addresses are printed either way.`,
		Example: `  exonode dev
  exonode dev --nodes 5 --data ./cluster`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if nodes < 1 {
				return usagef("--nodes is %d: want at least 1", nodes)
			}
			return a.dev(cmd.Context(), lab.Config{Nodes: nodes, Dir: dir, Environment: environment, BasePort: devBasePort})
		},
	}
	flags := cmd.Flags()
	flags.IntVarP(&nodes, "nodes", "n", 3, "how many nodes")
	flags.StringVar(&dir, "data", "", "`directory` that keeps the cluster (default: a temporary one)")
	flags.StringVar(&environment, "environment", "development", "built-in policy: production, staging or development")
	return cmd
}

func (a *app) dev(ctx context.Context, cfg lab.Config) (err error) {
	l, err := lab.New(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() {
		fmt.Fprintln(a.stderr, "stopping the cluster")
		if cerr := l.Close(); err == nil {
			err = cerr
		}
	}()
	fmt.Fprintf(a.stderr, "starting %s in %s\n", plural(len(l.Nodes()), "node"), l.Dir())
	start := time.Now()
	wait, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := l.StartAll(wait); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if err := a.printLab(l, time.Since(start)); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-l.Ended():
			fmt.Fprintf(a.stderr, "%s ended (%v), starting it again; its log is %s\n", e.Name, e.Err, e.Log)
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(devRestart):
			}
			if err := l.Start(e.Name); err != nil {
				return err
			}
		}
	}
}

func (a *app) printLab(l *lab.Lab, took time.Duration) error {
	type row struct {
		lab.Node
		Data string `json:"data"`
		Log  string `json:"log"`
	}
	var rows []row
	for _, n := range l.Nodes() {
		rows = append(rows, row{n, l.DataDir(n.Name), l.LogFile(n.Name)})
	}
	return a.emit(rows, func(w io.Writer) error {
		lines := [][]string{{"NODE", "API", "PEERS", "LOG"}}
		for _, r := range rows {
			lines = append(lines, []string{r.Name, "http://" + r.API, r.Peer, r.Log})
		}
		if err := table(w, lines); err != nil {
			return err
		}
		kept := "it is temporary, and goes when the cluster stops"
		if l.Kept() {
			kept = "it is kept"
		}
		_, err := fmt.Fprintf(w, `
The cluster is ready after %v. Its directory is %s; %s.
In another terminal:

  export EXONODE_ADDR=%s
  exonode status
  exonode submit --kind artifact.store --source me --data '{"hash":"abc","size":3,"content_type":"text/plain"}'
  exonode tail

Ctrl-C stops it.
`, took.Round(10*time.Millisecond), l.Dir(), kept, strings.Join(l.Addrs(), ","))
		return err
	})
}
