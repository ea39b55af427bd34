package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/node"
)

// maxReason is the most bytes of a recovery's reason: a sentence or two.
const maxReason = 1000

func (a *app) recoverCommand() *cobra.Command {
	var cfg node.RecoverConfig
	var yes bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Go on alone with a stopped node, after the quorum was lost for good",
		Long: `Make a stopped node all that is left of its cluster, after more than half of the
voters were lost for good. Without --yes it says what it would do, and changes nothing
but what a start of the node would mend.

Of several survivors take the one whose log ends with the greatest term, and among
those with the greatest index: it has all that any of them has. Run the command
without --yes on each to see. What was acknowledged and is on none of the survivors
is lost.

The node applies all that its log holds, gives up all others and begins the chain's
next epoch, which its entries chain.recover and cluster.config put on record. Then
start it as usual; it serves alone, and others join it with empty data directories.
The nodes that were given up, the other survivors too, can't come back with what is
on their disks. See to it that they do not run: as long as a quorum of the old cluster
does, it goes on as well, and the chain has two ends.

If it is interrupted, run it again: until it is done, no node starts on the directory.`,
		Example: "  exonode cluster recover --data exonode-data\n  exonode cluster recover --data exonode-data --reason \"site B burnt\" --yes",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			if cfg.DataDir == "" {
				return usagef("--data is missing: name the survivor's data directory")
			}
			if n := len(cfg.Reason); n > maxReason || !utf8.ValidString(cfg.Reason) {
				return usagef("--reason: want text of at most %d bytes", maxReason)
			}
			do := node.PlanRecovery
			if yes {
				do = node.Recover
			}
			plan, err := do(cfg)
			if err != nil {
				return err
			}
			v := recoveryView{RecoveryPlan: plan, Done: yes}
			return a.emit(v, func(w io.Writer) error { return v.print(w, cfg.DataDir) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.DataDir, "data", "", "the survivor's data `directory`")
	flags.StringVar(&cfg.Reason, "reason", "quorum lost", "what happened, for the record in the chain")
	flags.BoolVar(&yes, "yes", false, "do it")
	operands(cmd, "data", "reason", "yes")
	return cmd
}

// recoveryView is what a recovery would do, or has done.
type recoveryView struct {
	node.RecoveryPlan
	Done bool `json:"done"`
}

func (v *recoveryView) print(w io.Writer, data string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "node      %s\nledger    %d entries, head hash %s\nlog       ends at term %d, index %d\n",
		v.NodeID, v.Entries, v.Hash, v.LastTerm, v.LastIndex)
	fmt.Fprintf(&b, "to apply  %d of the log behind index %d, of which %d carry events that may or may not have been acknowledged\n",
		v.Replay, v.Applied, v.Commands)
	if v.Staged > 0 {
		fmt.Fprintf(&b, "not kept  %d entries that it had fetched from others, and not made its own, when it stopped\n", v.Staged)
	}
	lost := make([]string, len(v.Lost))
	for i, n := range v.Lost {
		lost[i] = strings.TrimSpace(n.Name + " " + n.NodeID)
	}
	fmt.Fprintf(&b, "given up  %s\nepoch     %d\n", orDash(strings.Join(lost, ", ")), v.Epoch)
	if v.Resumed {
		b.WriteString("\nAn earlier attempt was interrupted; this ends it, with the reason given then.\n")
	}
	if len(v.Lost) == 0 && !v.Resumed && !v.Done {
		b.WriteString("\nNothing is given up; the cluster can serve as it is: start the node. Another recovery\nonly begins another epoch.\n")
	}
	if v.Staged > 0 && !v.Done {
		b.WriteString("\nThis node was catching up, and others acknowledged what it would not keep. Prefer a\nsurvivor whose ledger has those entries. If any of the others can still run, start\nthis one with them once more, so that it catches up.\n")
	}
	if v.Done {
		b.WriteString("\nDone. Start the node as usual; it serves alone. Others join it with empty data\ndirectories. The nodes that were given up must not run with their old ones.\n")
	} else {
		fmt.Fprintf(&b, `
Nothing was done. If the quorum is lost for good, and no survivor's log ends with a
greater (term, index), see to it that the others do not run, and then:

  exonode cluster recover --data %s --yes
`, data)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
