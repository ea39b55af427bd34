package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/node"
)

func (a *app) resetCommand() *cobra.Command {
	var data string
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Withdraw a stopped node's promise to form a cluster",
		Long: `Withdraw what a stopped node promised while a cluster formed. A node promises to
at most one proposer; where that one is gone for good before the cluster was
formed, the promise keeps the node from forming another. Nothing else is touched,
and a node that has been part of a cluster is refused.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if data == "" {
				return usagef("--data is missing: name the node's data directory")
			}
			if err := a.confirm(yes, "Withdraw the promise in %s? Only if its proposer is gone for good.", data); err != nil {
				return err
			}
			had, err := node.ResetFormation(data)
			if err != nil {
				return err
			}
			return a.emit(map[string]any{"data": data, "withdrawn": had}, func(w io.Writer) error {
				text := "withdrawn: the node is free to form or join a cluster"
				if !had {
					text = "there was no promise"
				}
				_, err := fmt.Fprintln(w, text)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&data, "data", "", "the node's data `directory`")
	yesFlag(cmd, &yes)
	operands(cmd, "data")
	return cmd
}
