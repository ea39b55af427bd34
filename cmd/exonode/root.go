package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/node"
)

// app is one run of the program: its streams, and the flags that every command
// shares.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	configFile string
	output     string // "text" or "json"
	addrs      []string
	timeout    time.Duration
}

// usageError is an error of the command line: exit status 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// errSilent is an error whose text the command has printed already.
var errSilent = errors.New("failed")

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "exonode",
		Short: "A tamper-evident audit ledger that runs as a cluster",
		Long: `Exonode is a tamper-evident audit ledger that runs as a Raft cluster.

Start a cluster of three nodes on this machine with "exonode dev", submit an
event to any of them with "exonode submit", and check the chain with
"exonode verify".

Every flag can also be set by the environment (EXONODE_ and the flag's name in
upper case, dashes as underscores) and by a YAML config file with the flags'
names as keys. Flags win over the environment, the environment over the file.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := settle(cmd, a.configFile); err != nil {
				return err
			}
			if a.output != "text" && a.output != "json" {
				return usagef("--output is %q: choose text or json", a.output)
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w\nsee `%s --help`", err, cmd.CommandPath())
	})
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", "", "YAML `file` with the flags' names as keys")
	flags.StringVarP(&a.output, "output", "o", "text", "`format` of the output: text or json")
	flags.StringSliceVar(&a.addrs, "addr", []string{"127.0.0.1:7482"}, "API `addresses` of the cluster's nodes, separated by commas")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long a request may take")
	root.AddCommand(a.initCommand(), a.serveCommand(), a.devCommand(), a.versionCommand())
	return root
}

// explain is what the user reads of an error: what is wrong, and what to do.
func (a *app) explain(err error) string {
	if errors.Is(err, errSilent) {
		return ""
	}
	if a.output == "json" {
		return errorJSON(err)
	}
	var e *api.Error
	if errors.As(err, &e) {
		text := fmt.Sprintf("exonode: %s (%s)", e.Message, e.Code)
		if e.Hint != "" {
			text += "\n  " + e.Hint
		}
		return text
	}
	return "exonode: " + strings.TrimSpace(err.Error())
}

func exitStatus(err error) int {
	var usage *usageError
	switch {
	case errors.As(err, &usage), errors.Is(err, node.ErrConfig), errors.Is(err, node.ErrClusterFile):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitFailure
	}
	return exitFailure
}
