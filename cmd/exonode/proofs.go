package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/receipt"
	"github.com/exonode/exonode/chain/view"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/node/checkpoints"
)

// checkpointView is a checkpoint as it is printed for programs.
type checkpointView struct {
	Origin string     `json:"origin"`
	Size   uint64     `json:"size"`
	Root   chain.Hash `json:"root"`
	Note   string     `json:"note"`
}

func (a *app) checkpointCommand() *cobra.Command {
	var size uint64
	cmd := &cobra.Command{
		Use:   "checkpoint",
		Short: "Print the newest final checkpoint",
		Long: `Print the newest final checkpoint: the log's signed note about its tree, with the
cosignatures of a quorum of the voters (C2SP tlog-checkpoint and tlog-cosignature).
With --size, wait for one that covers so many entries.`,
		Example: "  exonode checkpoint\n  exonode checkpoint --size 1000 > checkpoint.txt",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				n, err := c.Checkpoint(ctx, size)
				if err != nil {
					return err
				}
				p := &n.Checkpoint
				return a.emit(checkpointView{p.Origin, p.Size, p.Root, string(n.Bytes())}, func(w io.Writer) error {
					_, err := w.Write(n.Bytes())
					return err
				})
			})
		},
	}
	cmd.Flags().Uint64Var(&size, "size", 0, "wait for a checkpoint of at least so many `entries`")
	operands(cmd, "size")
	return cmd
}

func (a *app) receiptCommand() *cobra.Command {
	var file string
	var envelope bool
	cmd := &cobra.Command{
		Use:   "receipt SEQUENCE",
		Short: "Make the file that proves an entry, offline and for ever",
		Long: `Make a receipt: a file that proves, to anybody and without a network, that an
entry is in the chain (C2SP tlog-proof). It has the entry's header, the Merkle
proof, and a checkpoint that a quorum of the voters cosigned; with --envelope the
payload too. Where no checkpoint covers the entry yet, the command waits for one.

Who gets a receipt checks it with "exonode receipt verify", or any tool that reads
tlog-proof, and a policy that "exonode trust export" wrote.`,
		Example: "  exonode receipt 42\n  exonode receipt 42 --envelope --file payment.tlog-proof",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := sequence(args[0])
			if err != nil {
				return err
			}
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				r, err := c.Receipt(ctx, seq, envelope)
				if err != nil {
					return err
				}
				if envelope && r.Envelope == nil {
					a.note("entry %d is redacted: the receipt has no envelope", seq)
				}
				if file == "-" {
					_, err := a.stdout.Write(r.Bytes())
					return err
				}
				if file == "" {
					file = strconv.FormatUint(seq, 10) + receipt.Suffix
				}
				if err := os.WriteFile(file, r.Bytes(), 0o644); err != nil {
					return misuse(codeFile, "", fmt.Errorf("write the receipt: %w", err))
				}
				out := map[string]any{"file": file, "bytes": len(r.Bytes()), "sequence": seq, "size": r.Note.Checkpoint.Size}
				return a.emit(out, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s proves entry %d in the tree of %d entries (%d bytes)\n", file, seq, r.Note.Checkpoint.Size, len(r.Bytes()))
					return err
				})
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "`file` to write, - for standard output (default: SEQUENCE"+receipt.Suffix+")")
	cmd.Flags().BoolVar(&envelope, "envelope", false, "put the payload's envelope into it")
	operands(cmd, "file", "envelope")
	cmd.AddCommand(a.receiptVerifyCommand())
	return cmd
}

// provedView is a verified receipt as it is printed.
type provedView struct {
	OK       bool         `json:"ok"`
	Origin   string       `json:"origin"`
	Size     uint64       `json:"size"`
	Sequence uint64       `json:"sequence"`
	Hash     chain.Hash   `json:"hash"`
	Time     string       `json:"time"`
	Source   string       `json:"source"`
	ID       string       `json:"id"`
	Kind     string       `json:"kind"`
	Envelope bool         `json:"envelope"`
	Cosigned []cosignView `json:"cosigned"`
}

type cosignView struct {
	Witness string `json:"witness"`
	Time    string `json:"time"`
}

// Codes of receipts that do not verify: what the policy asks for is missing, or the file
// is not what it says.
var receiptCodes = []struct {
	err  error
	code code
	hint string
}{
	{receipt.ErrFormat, codeReceipt, "want a file that \"exonode receipt\" wrote, or another C2SP tlog-proof"},
	{checkpoint.ErrQuorum, codeNoQuorum, "the policy may be another cluster's, or older than its voters: get a new one with \"exonode trust export\" from whom you trust"},
	{checkpoint.ErrSignature, codeBadReceipt, "somebody made or altered a signature: keep the file, it is evidence"},
	{chain.ErrProof, codeBadReceipt, "the entry is not in the tree that was signed: the file was altered, or never true"},
	{receipt.ErrEntry, codeBadReceipt, "header or envelope is not the one that is proved: the file was altered"},
}

func (a *app) receiptVerifyCommand() *cobra.Command {
	var policyFile string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a receipt, offline",
		Long: `Check a receipt against a policy (C2SP tlog-policy), without any network: the log
signed the checkpoint, a quorum of the policy's witnesses cosigned it, the proof
leads from the entry to the checkpoint's root, and header and envelope are the
ones that are proved. The exit status is 1 where anything of that does not hold.`,
		Example: "  exonode trust export > policy.txt\n  exonode receipt verify 42.tlog-proof --policy policy.txt",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			policy, err := readTrustPolicy(policyFile)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(args[0])
			if err != nil {
				return misuse(codeFile, "", fmt.Errorf("read the receipt: %w", err))
			}
			v, err := verifyReceipt(b, policy)
			if err != nil {
				for _, c := range receiptCodes {
					if errors.Is(err, c.err) {
						return failf(c.code, c.hint, "%s does not verify: %w", args[0], err)
					}
				}
				return err
			}
			return a.emit(v, func(w io.Writer) error { return v.print(w, args[0]) })
		},
	}
	cmd.Flags().StringVar(&policyFile, "policy", "", "policy `file`: the log's keys, the witnesses', and the quorum")
	operands(cmd, "policy")
	return cmd
}

func readTrustPolicy(file string) (*checkpoint.Policy, error) {
	if file == "" {
		return nil, usagef("--policy is missing: name the policy file; \"exonode trust export\" writes one")
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, misuse(codeFile, "\"exonode trust export\" writes one", fmt.Errorf("read the policy: %w", err))
	}
	p, err := checkpoint.ParsePolicy(b)
	if err != nil {
		return nil, misuse(codePolicy, "want a C2SP tlog-policy file, such as \"exonode trust export\" writes", fmt.Errorf("policy %s: %w", file, err))
	}
	return p, nil
}

func verifyReceipt(b []byte, policy *checkpoint.Policy) (*provedView, error) {
	r, err := receipt.Parse(b)
	if err != nil {
		return nil, err
	}
	p, err := r.Verify(policy)
	if err != nil {
		return nil, err
	}
	h, c := &p.Header, &r.Note.Checkpoint
	v := &provedView{
		OK: true, Origin: c.Origin, Size: c.Size, Sequence: h.Sequence, Hash: p.Hash, Time: view.Time(h.Time),
		Source: h.Source, ID: h.ID, Kind: h.Kind, Envelope: p.Envelope != nil, Cosigned: []cosignView{},
	}
	for _, by := range p.By.Cosigned {
		v.Cosigned = append(v.Cosigned, cosignView{by.Witness, time.Unix(int64(by.Time), 0).UTC().Format(time.RFC3339)})
	}
	return v, nil
}

func (v *provedView) print(w io.Writer, file string) error {
	envelope := "is in the receipt, and is the one that was sealed"
	if !v.Envelope {
		envelope = "is not in the receipt; the header has its hash"
	}
	_, err := fmt.Fprintf(w, `%s is genuine
  log       %s
  entry     %d of %d
  hash      %s
  time      %s
  event     %s %s of %s
  payload   %s
`, file, v.Origin, v.Sequence, v.Size, v.Hash, v.Time, v.Kind, v.ID, v.Source, envelope)
	for _, c := range v.Cosigned {
		if err == nil {
			_, err = fmt.Fprintf(w, "  cosigned  %s at %s\n", c.Witness, c.Time)
		}
	}
	return err
}

func (a *app) trustCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "trust",
		Short: "Write down whom to trust",
		Args:  noArgs,
	}
	var file string
	export := &cobra.Command{
		Use:   "export",
		Short: "Write the policy by which this cluster's checkpoints are final",
		Long: `Write the policy by which this cluster's checkpoints are final (C2SP tlog-policy):
the log's key, the cosigning keys of its voters, each voter a group so that its two
keys count once, and a quorum of them. Whoever verifies receipts keeps this file.
Take it once, from a node that you trust, over a connection that you trust: all
that is verified later rests on it.`,
		Example: "  exonode trust export > policy.txt",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withClient(cmd, func(ctx context.Context, c *client.Client) error {
				p, err := c.TrustPolicy(ctx)
				if err != nil {
					return err
				}
				if file != "" {
					if err := os.WriteFile(file, []byte(p.String()), 0o644); err != nil {
						return misuse(codeFile, "", fmt.Errorf("write the policy: %w", err))
					}
					return nil
				}
				return a.emit(map[string]string{"policy": p.String()}, func(w io.Writer) error {
					_, err := io.WriteString(w, p.String())
					return err
				})
			})
		},
	}
	export.Flags().StringVar(&file, "file", "", "`file` to write (default: standard output)")
	operands(export, "file")
	cmd.AddCommand(export, a.trustFollowCommand())
	return cmd
}

// followView is where trust follow came to.
type followView struct {
	OK      bool   `json:"ok"`
	Origin  string `json:"origin"`
	Entries uint64 `json:"entries"`
	Anchor  uint64 `json:"anchor"`
	Last    uint64 `json:"last"`
	Steps   int    `json:"steps"`
	Policy  string `json:"policy"`
}

func (a *app) trustFollowCommand() *cobra.Command {
	var t targetFlags
	var policyFile, out string
	cmd := &cobra.Command{
		Use:   "follow",
		Short: "Go from a policy that you trust to the cluster's newest, by its chain",
		Long: `Go from a policy that you trust to the newest that the chain names: voters come and
go, and each change is confirmed by a checkpoint that a quorum of the voters before
it signed and that stands in the chain. The whole chain is verified on the way. With
--file, all of it is offline.

A cluster that lost its quorum and was recovered is another log: nobody whom the old
policy names vouches for it, and a new one must come from somebody you trust.`,
		Example: "  exonode trust follow --policy policy.txt --file chain.bin --out newer.txt",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.check(); err != nil {
				return err
			}
			policy, err := readTrustPolicy(policyFile)
			if err != nil {
				return err
			}
			bar := a.progress("following", 0, false)
			f, err := checkpoints.Follow(cmd.Context(), func() (chain.Source, func(), error) {
				s, err := a.openTarget(cmd.Context(), &t)
				if err != nil {
					return nil, nil, err
				}
				return s.source, s.close, nil
			}, policy, func(p chain.Progress) { bar.set(p.Done) })
			bar.done()
			if err != nil {
				for _, c := range followCodes {
					if errors.Is(err, c.err) {
						return failf(c.code, c.hint, "%w", err)
					}
				}
				var bad *chain.BadEntryError
				if errors.As(err, &bad) {
					return failf(codeNotVerified, "`exonode verify` says more; whoever gave you this chain owes you another one", "%w", err)
				}
				return err
			}
			v := followView{OK: true, Origin: f.Origin, Entries: f.Entries, Anchor: f.Anchor, Last: f.Last, Steps: f.Steps, Policy: f.Policy.String()}
			if out != "" {
				if err := os.WriteFile(out, []byte(v.Policy), 0o644); err != nil {
					return misuse(codeFile, "", fmt.Errorf("write the policy: %w", err))
				}
			}
			a.note("followed %s from entry %d to entry %d: %s of voters or keys", v.Origin, v.Anchor, v.Last, plural(v.Steps, "change"))
			return a.emit(v, func(w io.Writer) error {
				if out != "" {
					return nil
				}
				_, err := io.WriteString(w, v.Policy)
				return err
			})
		},
	}
	t.register(cmd, a, true)
	cmd.Flags().StringVar(&policyFile, "policy", "", "policy `file` that you trust")
	cmd.Flags().StringVar(&out, "out", "", "`file` to write the newest policy to (default: standard output)")
	operands(cmd, "policy", "out")
	return cmd
}

// followCodes are those of a chain that does not lead on from a policy.
var followCodes = []struct {
	err  error
	code code
	hint string
}{
	{checkpoints.ErrNoAnchor, codeNoQuorum, "the policy is another cluster's, or newer than this chain: take one from \"exonode trust export\" of a node that you trust"},
	{checkpoints.ErrBroken, codeNotVerified, "somebody sealed voters that those before did not confirm: keep the chain and the policy, they are evidence"},
	{checkpoints.ErrNewEpoch, codeOlderEpoch, "ask the cluster's operators for the recovery's report, and for a new policy"},
}
