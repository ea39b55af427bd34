package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node"
)

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Show and change who is in the cluster",
	}
	cmd.AddCommand(a.membersCommand(), a.joinCommand(), a.leaveCommand(), a.removeCommand(), a.transferCommand(), a.rotateCommand(), a.recoverCommand())
	return cmd
}

func (a *app) membersCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "members",
		Short: "List the members",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, err := a.clusterStatus(cmd)
			if err != nil {
				return err
			}
			return a.emit(v.Members, func(w io.Writer) error { return printMembers(w, v.Members) })
		},
	}
}

func (a *app) joinCommand() *cobra.Command {
	var file, data string
	var seeds []string
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Check that this machine can join, and print the command that does",
		Long: `A node joins by being started with the cluster's file and the address of a
member: it fetches the chain, follows as a non-voter, and is made a voter once it
has caught up. This command checks, on the machine that is to join, that the
cluster file is valid, that --data can be used, and that the seeds answer and prove
the cluster's secret as this machine does, and prints the command to run.
Without --seeds, the members that the cluster at --addr knows are used.`,
		Example: "  exonode cluster join --seeds 10.0.0.1:7480,10.0.0.2:7480",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.request(cmd)
			defer cancel()
			return a.join(ctx, file, data, seeds)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&file, "cluster", "cluster.json", "cluster `file`, copied from another node")
	flags.StringVar(&data, "data", "exonode-data", "data `directory` of the new node")
	flags.StringSliceVar(&seeds, "seeds", nil, "peer `addresses` or DNS names of members, separated by commas")
	return cmd
}

// seedCheck is what came of asking a seed.
type seedCheck struct {
	Seed string `json:"seed"`
	// Proven: somebody is there who knows the cluster's secret, and takes
	// ours for it.
	Proven  bool   `json:"proven"`
	Problem string `json:"problem,omitempty"`

	err error
}

func (a *app) join(ctx context.Context, file, data string, seeds []string) error {
	cluster, err := node.LoadClusterFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return misuse(codeClusterFile, "copy the cluster's file from another node to this machine, and name it with --cluster", err)
	}
	if err != nil {
		return err
	}
	if err := node.CheckFresh(data, cluster.Hash.String()); err != nil {
		return err
	}
	if len(seeds) == 0 {
		if seeds, err = a.seedsOf(ctx); err != nil {
			return failf("", "name members with --seeds", "%w", err)
		}
	}
	checks := make([]seedCheck, len(seeds))
	var asked sync.WaitGroup
	for i, s := range seeds {
		asked.Go(func() { checks[i] = checkSeed(ctx, cluster, s) })
	}
	asked.Wait()
	command := fmt.Sprintf("exonode serve --cluster %s --data %s --seeds %s", file, data, strings.Join(seeds, ","))
	result := struct {
		Cluster string      `json:"cluster"`
		Chain   string      `json:"chain"`
		Seeds   []seedCheck `json:"seeds"`
		Command string      `json:"command"`
	}{cluster.Genesis.ClusterName, cluster.Genesis.ChainID.String(), checks, command}
	failed := noneProven(checks)
	err = a.emit(result, func(w io.Writer) error {
		rows := [][]string{{"SEED", "OF THE CLUSTER"}}
		for _, c := range checks {
			state := "yes, proven"
			if !c.Proven {
				state = "no: " + c.Problem
			}
			rows = append(rows, []string{c.Seed, state})
		}
		if _, err := fmt.Fprintf(w, "cluster  %s\nchain    %s\n\n", result.Cluster, result.Chain); err != nil {
			return err
		}
		if err := table(w, rows); err != nil {
			return err
		}
		if failed != nil {
			return nil
		}
		_, err := fmt.Fprintf(w, "\nTo join, run on this machine:\n\n  %s\n\n`exonode status` on any node shows how far it is.\n", command)
		return err
	})
	if err != nil {
		return err
	}
	return failed
}

// noneProven is why no seed will do; nil where one does.
func noneProven(checks []seedCheck) error {
	worst := error(failf(codeUnreachable, "check addresses, firewalls, and that the members listen beyond loopback (--peer-listen)", "no seed can be reached from here"))
	for _, c := range checks {
		if c.Proven {
			return nil
		}
		if errors.Is(c.err, membership.ErrWrongSecret) || errors.Is(c.err, membership.ErrForeignCluster) || errors.Is(c.err, node.ErrConfig) {
			worst = &failure{err: fmt.Errorf("no seed is of this cluster: %s: %s", c.Seed, c.Problem), code: code(codeOf(c.err)), hint: hintOf(c.err), usage: exitStatus(c.err) == exitUsage}
		}
	}
	return worst
}

// seedsOf asks the cluster for its members' peer addresses.
func (a *app) seedsOf(ctx context.Context) ([]string, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	members, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range members {
		if m.PeerAddr != "" && m.Suffrage != "none" {
			out = append(out, m.PeerAddr)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the cluster knows no peer address of a member")
	}
	return out, nil
}

// checkSeed greets whoever is at a seed as a joining node does.
func checkSeed(ctx context.Context, cluster *node.ClusterFile, seed string) seedCheck {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	err := node.CheckSeed(ctx, cluster, seed)
	c := seedCheck{Seed: seed, Proven: err == nil, err: err}
	if err != nil {
		c.Problem = seedProblem(err)
	}
	return c
}

// seedProblem is the part of a seed's error that a person needs.
func seedProblem(err error) string {
	var errno syscall.Errno
	switch {
	case errors.Is(err, membership.ErrForeignCluster):
		return "it is of another cluster"
	case errors.Is(err, membership.ErrWrongSecret):
		return "it does not accept the secret of this cluster file"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

func (a *app) leaveCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "leave [NODE]",
		Short: "Take a running node out of the cluster, and stop it",
		Long: `Take a node out of the cluster in good order and stop it: the one named, or the
one at --addr. It is out for good: to come back it joins as a new node, with an
empty data directory.`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				of, s, err := a.leaving(ctx, c, args)
				if err != nil {
					return err
				}
				defer of.Close()
				if err := a.confirm(yes, "Take node %s at %s out of the cluster for good, and stop it?", s.NodeID, s.Address); err != nil {
					return err
				}
				if err := of.Leave(ctx, s.Address, s.NodeID); err != nil {
					return err
				}
				return a.changed("left", s.NodeID)
			})
		},
	}
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) removeCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Remove a node from the cluster for good",
		Long: `Remove a node from the cluster for good: one that is lost, or not to be trusted.
It is locked out at once and can't come back under its identity. A node that runs
had better be asked to leave.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				m, err := findMember(ctx, c, args[0])
				if err != nil {
					return err
				}
				if m.Suffrage == "none" {
					return &api.Error{Code: api.Precondition, Message: fmt.Sprintf("node %s is not in the cluster", title(m)), Hint: "`exonode cluster members` shows who is"}
				}
				if err := a.confirm(yes, "Remove node %s from the cluster for good?", title(m)); err != nil {
					return err
				}
				if err := c.Remove(ctx, m.NodeID); err != nil {
					return err
				}
				return a.changed("removed", m.NodeID)
			})
		},
	}
	yesFlag(cmd, &yes)
	return cmd
}

func (a *app) transferCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "transfer [NODE]",
		Short:             "Hand leadership to a node, or to the best one",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeNodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				to := ""
				if len(args) > 0 {
					m, err := findMember(ctx, c, args[0])
					if err != nil {
						return err
					}
					to = m.NodeID
				}
				s, err := c.Status(ctx)
				if err != nil {
					return err
				}
				if s.Leader == "" {
					return &api.Error{Code: api.NoLeader, Message: "no leader is known", Hint: "try again once one is elected"}
				}
				if s.Leader == to {
					return &api.Error{Code: api.Precondition, Message: "node " + to + " leads already"}
				}
				// Only the leader can hand over.
				leader, _, err := a.reach(ctx, c, s.Leader)
				if err != nil {
					return err
				}
				defer leader.Close()
				if err := leader.Transfer(ctx, to); err != nil {
					return err
				}
				return a.changed("handed over to", to)
			})
		},
	}
}

// leaving connects to the node that is to leave: the one named, or the one at --addr.
func (a *app) leaving(ctx context.Context, c *client.Client, args []string) (*client.Client, client.Status, error) {
	if len(args) > 0 {
		return a.reach(ctx, c, args[0])
	}
	if len(a.addrs) > 1 {
		return nil, client.Status{}, usagef("which of the nodes at --addr is to leave? name it: exonode cluster leave NODE")
	}
	return a.connectNode(ctx, a.addrs[0])
}

func (a *app) rotateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "rotate-log-key",
		Short: "Have another key sign the log's checkpoints",
		Long: `Have another key sign the log's checkpoints. The leader draws it, a quorum of the
voters keeps it, and an entry that both the old and the new key sign makes it the
log's. Who verifies receipts with a policy that has the old key goes on by
"exonode trust follow", or takes a new policy.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.request(cmd)
			defer cancel()
			leader, err := a.connectLeader(ctx)
			if err != nil {
				return err
			}
			defer leader.Close()
			key, err := leader.RotateLogKey(ctx)
			if err != nil {
				return err
			}
			return a.emit(map[string]string{"log_key": hex.EncodeToString(key)}, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "the log's key is %x now\n", []byte(key))
				return err
			})
		},
	}
}

// connectLeader connects to the node that leads.
func (a *app) connectLeader(ctx context.Context) (*client.Client, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	if s.Leader == "" {
		return nil, &api.Error{Code: api.NoLeader, Message: "no leader is known", Hint: "try again once one is elected"}
	}
	leader, _, err := a.reach(ctx, c, s.Leader)
	return leader, err
}

// changed reports a change of the cluster.
func (a *app) changed(what, nodeID string) error {
	return a.emit(map[string]string{"done": what, "node": nodeID}, func(w io.Writer) error {
		if nodeID == "" {
			nodeID = "the best node"
		}
		_, err := fmt.Fprintln(w, what, nodeID)
		return err
	})
}
