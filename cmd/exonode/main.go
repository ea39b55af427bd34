// Command exonode runs, uses and checks an Exonode cluster: one binary for
// nodes, operators and auditors. It turns flags, environment and a config file
// into the configuration of other packages, and their results into text or
// JSON; it holds no logic of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// Exit statuses.
const (
	exitOK      = 0
	exitFailure = 1 // the command failed, or what it checked is wrong
	exitUsage   = 2 // the command line or the configuration is wrong
	exitFatal   = 3 // a node's store failed: the process ended at once
)

// run executes one command line and returns the exit status.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.command()
	root.SetArgs(keepOffsets(root, args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if !a.started && wantsJSON(args) {
		a.output = "json"
	}
	if own := (*failure)(nil); !a.started && !errors.As(err, &own) {
		err = misuse(codeUsage, "see `exonode --help`", err)
	}
	if text := a.explain(err); text != "" {
		fmt.Fprintln(stderr, text)
	}
	return exitStatus(err)
}

// wantsJSON reports whether a command line that was not understood asks for JSON:
// the program that gave it reads its errors so.
func wantsJSON(args []string) bool {
	if os.Getenv(envName("output")) == "json" {
		return true
	}
	for i, a := range args {
		switch {
		case a == "--output=json", a == "-ojson", a == "-o=json":
			return true
		case (a == "-o" || a == "--output") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}
