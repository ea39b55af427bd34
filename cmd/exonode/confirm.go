package main

import (
	"bufio"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVar(yes, "yes", false, "do not ask")
	operands(cmd, "yes")
}

// confirm asks before something that can't be taken back. Without a terminal to
// ask on, --yes must have been given.
func (a *app) confirm(yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	if !terminal(a.stdin) {
		return misuse(codeUsage, "there is no terminal to ask on: confirm with --yes", fmt.Errorf(format, args...))
	}
	fmt.Fprintf(a.stderr, format+" [y/N] ", args...)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && answer == "" {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	a.note("nothing was done")
	return errSilent
}
