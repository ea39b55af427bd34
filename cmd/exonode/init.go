package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/gates"
	"github.com/exonode/exonode/gates/policyfile"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/transport"
)

func (a *app) initCommand() *cobra.Command {
	var name, environment, policyPath, out string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the cluster file of a new cluster",
		Long: `Make the cluster file of a new cluster: its secret, and the genesis document
with its policy. Every node needs this one file and nothing else; whoever has it
can join, so treat it as a secret.`,
		Example: `  exonode init --name audit --out cluster.json
  exonode serve --cluster cluster.json --data /var/lib/exonode --bootstrap-expect 3 --mdns`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := newClusterFile(name, environment, policyPath)
			if err != nil {
				return err
			}
			if err := node.CreateClusterFile(out, c); err != nil {
				if errors.Is(err, fs.ErrExist) {
					return failf(codeFile, "choose another file with --out, since a cluster file is never replaced", "%s exists already", out)
				}
				return err
			}
			result := struct {
				File        string `json:"file"`
				Chain       string `json:"chain"`
				Genesis     string `json:"genesis"`
				Environment string `json:"environment"`
			}{out, c.Genesis.ChainID.String(), c.Hash.String(), c.Genesis.Environment}
			return a.emit(result, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, `wrote %s
  chain    %s
  genesis  %s
  policy   %s

Copy the file to every node (it holds the cluster's secret), and start each with
  exonode serve --cluster %s --data DIR --bootstrap-expect 3 --seeds HOST:PORT,…
`, out, result.Chain, result.Genesis, result.Environment, out)
				return err
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&name, "name", "exonode", "the cluster's `name`, for people")
	flags.StringVar(&environment, "environment", string(gates.Production), "built-in policy: production, staging or development")
	flags.StringVar(&policyPath, "policy", "", "policy `file` (YAML) in place of a built-in one")
	flags.StringVar(&out, "out", "cluster.json", "the `file` to write")
	return cmd
}

// newClusterFile draws a secret and a chain id.
func newClusterFile(name, environment, policyPath string) (*node.ClusterFile, error) {
	policy, err := readPolicy(environment, policyPath)
	if err != nil {
		return nil, err
	}
	secret, err := transport.NewSecret()
	if err != nil {
		return nil, err
	}
	var id chain.ID
	rand.Read(id[:]) // never fails: crypto/rand ends the program instead
	genesis := fsm.Genesis{
		Format: fsm.GenesisFormat, ChainID: id, ClusterName: name, Created: time.Now().UTC().Truncate(time.Second),
		Environment: string(policy.Environment), Policy: json.RawMessage(policy.Encode()),
	}
	document, err := genesis.Encode()
	if err != nil {
		return nil, misuse("", "", err)
	}
	return node.NewClusterFile(secret, document)
}

func readPolicy(environment, path string) (*gates.Policy, error) {
	if path == "" {
		p, err := gates.BuiltIn(gates.Environment(environment))
		if err != nil {
			return nil, misuse("", "", err)
		}
		return &p, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, misuse(codeFile, "", fmt.Errorf("read the policy: %w", err))
	}
	p, err := policyfile.Parse(b)
	if err != nil {
		return nil, usagef("policy %s: %w", path, err)
	}
	return &p, nil
}
