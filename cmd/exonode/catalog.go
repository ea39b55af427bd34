package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/client"
)

func (a *app) catalogCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "catalog",
		Short: "Show and change the kinds of events",
	}
	cmd.AddCommand(a.kindsCommand(), a.kindCommand(), a.registerCommand(), a.retireCommand())
	return cmd
}

func (a *app) kindsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list [PREFIX]",
		Short:   "List the kinds that the cluster knows",
		Example: "  exonode catalog list agent.",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				kinds, err := c.Kinds(ctx, strings.TrimSuffix(strings.Join(args, ""), "*"))
				if err != nil {
					return err
				}
				return a.emit(kinds, func(w io.Writer) error {
					rows := [][]string{{"KIND", "GATE", "VERSION", "FROM"}}
					for _, k := range kinds {
						rows = append(rows, []string{k.Name, orDash(k.Gate), fmt.Sprint(k.SchemaVersion), origin(k)})
					}
					return table(w, rows)
				})
			})
		},
	}
}

func origin(k client.Kind) string {
	if k.BuiltIn {
		return "built in"
	}
	return "this chain"
}

func (a *app) kindCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show KIND",
		Short:   "Show a kind: its gate, and what its payload must contain",
		Example: "  exonode catalog show agent.spawn",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return kindNames(begun), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				kinds, err := c.Kinds(ctx, args[0])
				if err != nil {
					return err
				}
				for _, k := range kinds {
					if k.Name == args[0] {
						return a.emit(k, func(w io.Writer) error { return printKind(w, k) })
					}
				}
				return &api.Error{Code: api.UnknownKind, Message: fmt.Sprintf("no kind is called %q", args[0]), Hint: "`exonode catalog list` shows the kinds"}
			})
		},
	}
}

func printKind(w io.Writer, k client.Kind) error {
	if _, err := fmt.Fprintf(w, "kind     %s\nfrom     %s\nversion  %d\ngate     %s\n", k.Name, origin(k), k.SchemaVersion, orDash(k.Gate)); err != nil {
		return err
	}
	if g, ok := catalog.LookupGate(k.Gate); ok {
		if _, err := fmt.Fprintf(w, "         %s; effect %s\n", g.Purpose, orDash(api.FormatEffect(g.Effect))); err != nil {
			return err
		}
	}
	if k.Schema == "" {
		_, err := fmt.Fprintln(w, "payload  any JSON")
		return err
	}
	_, err := fmt.Fprintf(w, "payload  %s\n", k.Schema)
	return err
}

func (a *app) registerCommand() *cobra.Command {
	var schema, gate string
	cmd := &cobra.Command{
		Use:   "register KIND",
		Short: "Add a kind to the chain's catalog",
		Long: `Add a kind of events to the chain's catalog, or a new version of one that was
added before: an entry of the chain. Payloads of the kind are checked against the
JSON Schema from then on.`,
		Example: "  exonode catalog register git.commit --schema commit.schema.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text := ""
			if schema != "" {
				b, err := os.ReadFile(schema)
				if err != nil {
					return misuse(codeFile, "", fmt.Errorf("read --schema: %w", err))
				}
				text = string(b)
			}
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				seq, err := c.RegisterKind(ctx, args[0], gate, text)
				if err != nil {
					return err
				}
				return a.catalogChanged("registered", args[0], seq)
			})
		},
	}
	cmd.Flags().StringVar(&schema, "schema", "", "`file` with the payload's JSON Schema (default: any JSON)")
	cmd.Flags().StringVar(&gate, "gate", "", "`gate` that events of the kind pass (default: none)")
	operands(cmd, "schema", "gate")
	_ = cmd.RegisterFlagCompletionFunc("gate", func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		var names []string
		for _, g := range catalog.Gates() {
			if strings.HasPrefix(g.Name, begun) {
				names = append(names, g.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func (a *app) retireCommand() *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use:     "retire KIND --reason TEXT",
		Short:   "Refuse events of a registered kind from now on",
		Example: "  exonode catalog retire git.commit --reason 'replaced by git.push'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usagef("--reason is missing: it goes on record")
			}
			if err := a.confirm(yes, "Retire kind %s? Its events are refused from then on.", args[0]); err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				seq, err := c.RetireKind(ctx, args[0], reason)
				if err != nil {
					return err
				}
				return a.catalogChanged("retired", args[0], seq)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record; required")
	operands(cmd, "reason")
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) catalogChanged(what, kind string, seq uint64) error {
	return a.emit(map[string]any{"done": what, "kind": kind, "sequence": seq}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s %s by entry %d\n", what, kind, seq)
		return err
	})
}
