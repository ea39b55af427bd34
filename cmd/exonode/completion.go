package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/catalog"
)

// completeKinds completes --kind with the built-in kinds: no cluster is asked,
// so that it is quick.
func completeKinds(cmd *cobra.Command) {
	// Fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("kind", func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return kindNames(begun), cobra.ShellCompDirectiveNoFileComp
	})
}

func kindNames(begun string) []string {
	var names []string
	for _, k := range catalog.Kinds() {
		if strings.HasPrefix(k.Name, begun) {
			names = append(names, k.Name)
		}
	}
	return names
}

// completeNodes completes a node's id or name from the members that the cluster
// knows; without a cluster there is nothing to offer.
func (a *app) completeNodes(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || settle(cmd, a.configFile) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer c.Close()
	members, err := c.Members(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, m := range members {
		for _, s := range []string{m.Name, m.NodeID} {
			if s != "" && strings.HasPrefix(s, begun) {
				out = append(out, s)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
