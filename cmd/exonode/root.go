package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// app is one run of the program: its streams, and the flags that every command
// shares.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	configFile string
	output     string // "text" or "json"
	addrs      []string
	tlsCA      string
	timeout    time.Duration

	// started is whether the command line was understood: errors before
	// that are about it.
	started bool
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "exonode",
		Short: "A tamper-evident audit ledger that runs as a cluster",
		Long: `Exonode is a tamper-evident audit ledger that runs as a Raft cluster.

Start a cluster of three nodes on this machine with "exonode dev", submit an
event to any of them with "exonode submit", and check the chain with
"exonode verify".

A flag that is a setting can also be set by the environment (EXONODE_ and its
name in upper case, dashes as underscores) and by a YAML config file with the
flags' names as keys. Flags win over the environment, the environment over the
file. Flags that say what one command is about, such as the --kind of submit,
are taken from the command line alone.

Exit status: 0 success; 1 the command failed, or what it checked is wrong; 2 the
command line or the configuration is wrong; 3 a node's store failed.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := settle(cmd, a.configFile); err != nil {
				return err
			}
			if a.output != "text" && a.output != "json" {
				return usagef("--output is %q: choose text or json", a.output)
			}
			if a.timeout <= 0 {
				return usagef("--timeout is %v: want more than 0", a.timeout)
			}
			a.started = true
			return nil
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var bad *pflag.InvalidValueError
		if errors.As(err, &bad) {
			err = badValue("--"+bad.GetFlag().Name, bad.GetFlag(), bad.GetValue(), err)
		}
		return misuse(codeUsage, fmt.Sprintf("see `%s --help`", cmd.CommandPath()), err)
	})
	root.Version = version()
	root.SetVersionTemplate(versionText() + "\n")
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", "", "YAML `file` with the flags' names as keys")
	flags.StringVarP(&a.output, "output", "o", "text", "`format` of the output: text or json")
	flags.StringSliceVar(&a.addrs, "addr", []string{"127.0.0.1:7482"}, "API `addresses` of the cluster's nodes, separated by commas")
	flags.StringVar(&a.tlsCA, "tls-ca", "", "`file` with the certificates (PEM) that vouch for the API; turns TLS on")
	flags.DurationVar(&a.timeout, "timeout", 30*time.Second, "how long a request may take, with its retries")
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"nodes", "Nodes:", []*cobra.Command{a.initCommand(), a.serveCommand(), a.devCommand(), a.chaosCommand(), a.resetCommand()}},
		{"events", "Events and entries:", []*cobra.Command{
			a.submitCommand(), a.getCommand(), a.listCommand(), a.tailCommand(), a.headCommand(), a.lookupCommand(), a.catalogCommand(),
		}},
		{"audit", "Audit:", []*cobra.Command{a.verifyCommand(), a.exportCommand(), a.checkpointCommand(), a.receiptCommand(), a.trustCommand(), a.monitorCommand(), a.evidenceCommand(), a.benchCommand()}},
		{"cluster", "Cluster:", []*cobra.Command{a.statusCommand(), a.clusterCommand()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.AddCommand(a.versionCommand())
	root.InitDefaultCompletionCmd()
	refuseUnknown(root)
	return root
}

// badValue says what a flag wants in place of a value, where the parser of
// numbers says it in Go's words.
func badValue(name string, f *pflag.Flag, value string, err error) error {
	want := map[string]string{
		"int": "a whole number", "int64": "a whole number", "uint": "a whole number from 0", "uint64": "a whole number from 0",
		"uintSlice": "whole numbers from 0, separated by commas", "intSlice": "whole numbers, separated by commas",
		"duration": "a duration, such as 30s or 2m", "bool": "true or false",
	}[f.Value.Type()]
	if want == "" {
		return err
	}
	return fmt.Errorf("%s is %q: want %s", name, value, want)
}

// noArgs refuses arguments of a command that has none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return misuse(codeUsage, fmt.Sprintf("see `%s --help`", cmd.CommandPath()), fmt.Errorf("%s takes no arguments, but %q is given", cmd.CommandPath(), args[0]))
	}
	return nil
}

// refuseUnknown makes a command that only holds others refuse what is none
// of them; cobra would print its help and succeed.
func refuseUnknown(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args = cobra.ArbitraryArgs
			c.RunE = func(c *cobra.Command, args []string) error {
				if len(args) == 0 {
					return c.Help()
				}
				return misuse(codeUsage, fmt.Sprintf("see `%s --help`", c.CommandPath()), fmt.Errorf("%s has no command %q", c.CommandPath(), args[0]))
			}
		}
		refuseUnknown(c)
	}
}
