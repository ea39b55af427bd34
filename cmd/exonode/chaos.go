package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/exonode/exonode/chaos"
	"github.com/exonode/exonode/chaos/lab"
)

func (a *app) chaosCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Break a cluster on this machine on purpose, and see that it holds",
		Long: `Run a cluster of real node processes on this machine's loopback and break it: cut
its links, kill and pause its nodes, make its disks slow, hung or full and its clocks
wrong. No root and no containers are needed.

By hand: "exonode chaos up" starts a lab in the background, the other commands break
it and mend it, and "exonode chaos status" draws it. Nodes are named n1, n2, ...; also
leader, follower, any, minority, majority and all. "exonode chaos run" plays a
scenario beside a workload of many clients, mends everything, and checks that the
cluster kept its word.`,
		Example: `  exonode chaos up
  exonode chaos partition n1,n2 n3,n4,n5
  exonode chaos status
  exonode chaos heal
  exonode chaos down
  exonode chaos run --duration 2m --seed 7`,
	}
	cmd.PersistentFlags().StringVar(&dir, "dir", defaultLabDir(), "`directory` of the lab")
	cmd.AddCommand(a.chaosUpCommand(&dir), a.chaosSuperviseCommand(&dir), a.chaosStatusCommand(&dir), a.chaosLeadsCommand(&dir), a.chaosDownCommand(&dir), a.chaosRunCommand(), a.chaosScenariosCommand())
	for _, verb := range chaos.Verbs() {
		cmd.AddCommand(a.chaosVerbCommand(verb, &dir))
	}
	return cmd
}

// defaultLabDir is where a user's lab is.
func defaultLabDir() string {
	return filepath.Join(os.TempDir(), "exonode-chaos-"+strconv.Itoa(os.Getuid()))
}

// chaosHelp says what the verbs do.
var chaosHelp = map[string]struct{ short, example string }{
	"partition": {"Cut groups of nodes from each other", "partition n1,n2 n3,n4,n5"},
	"isolate":   {"Cut nodes from all others", "isolate leader"},
	"oneway":    {"Let what some nodes send not reach others", "oneway n1 n2"},
	"slow":      {"Make the links of nodes slower", "slow n1 100ms 20ms"},
	"drop":      {"Let the links of nodes lose packets", "drop n1 10%"},
	"reorder":   {"Let gossip's packets overtake each other", "reorder all 30%"},
	"throttle":  {"Let the links of nodes carry only so many bytes a second", "throttle n1 65536"},
	"kill":      {"Kill nodes (SIGKILL)", "kill leader"},
	"pause":     {"Stop nodes where they stand (SIGSTOP)", "pause leader"},
	"disk":      {"Make the disk of nodes slow, hang or fail", "disk leader hang"},
	"clock":     {"Set the clock of nodes wrong", "clock n1 1h"},
	"crash":     {"Let nodes crash the next time that they come to a named point, or after so many times", "crash leader after-append"},
	"transfer":  {"Hand leadership over", "transfer n2"},
	"join":      {"Add a node", "join"},
	"remove":    {"Take a node out of the cluster for good", "remove n3"},
	"leave":     {"Have a node leave the cluster for good", "leave n3"},
	"replace":   {"Add a node, and once it votes take another out for good", "replace n3"},
	"start":     {"Start nodes again that were killed or paused, or crashed", "start n1"},
	"heal":      {"Mend everything", "heal"},
}

func (a *app) chaosVerbCommand(verb string, dir *string) *cobra.Command {
	help := chaosHelp[verb]
	cmd := &cobra.Command{
		Use:               chaos.Usage(verb),
		Short:             help.short,
		Example:           "  exonode chaos " + help.example,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: a.completeLab(dir),
		RunE: func(cmd *cobra.Command, args []string) error {
			words := []string{verb}
			for _, arg := range args {
				words = append(words, strings.TrimPrefix(arg, offsetMark))
			}
			action, err := chaos.ParseAction(words...)
			if err != nil {
				return usagef("%w", err)
			}
			ctx, cancel := a.request(cmd)
			defer cancel()
			remote := chaos.Attach(*dir)
			text, err := remote.Do(ctx, action)
			if err != nil {
				return a.noLab(err)
			}
			return a.emit(map[string]string{"done": text}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, text)
				return err
			})
		},
	}
	return cmd
}

// offsetMark begins a word that begins with a dash and is no flag. No argument of a
// process has it.
const offsetMark = "\x00"

// offset is a duration below zero: no flag begins with a digit.
var offset = regexp.MustCompile(`^-\.?[0-9]`)

// keepOffsets marks the words of `chaos clock` that the parser of flags would take for
// some: a clock may go back, by -5s. Flags may stand before, between and after them.
func keepOffsets(root *cobra.Command, args []string) []string {
	cmd, _, err := root.Find(args)
	if err != nil || cmd.CommandPath() != "exonode chaos clock" {
		return args
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if offset.MatchString(arg) && (i == 0 || !wantsValue(cmd, args[i-1])) {
			args[i] = offsetMark + arg
		}
	}
	return args
}

// wantsValue reports whether a word is a flag whose value is the next one.
func wantsValue(cmd *cobra.Command, arg string) bool {
	var f *pflag.Flag
	if name, long := strings.CutPrefix(arg, "--"); long {
		f = cmd.Flag(name)
	} else if len(arg) == 2 && arg[0] == '-' {
		f = cmd.InheritedFlags().ShorthandLookup(arg[1:])
	}
	return f != nil && f.NoOptDefVal == ""
}

// completeLab completes the names of the lab's nodes.
func (a *app) completeLab(dir *string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		names := []string{chaos.Leader, chaos.Follower, chaos.Any, chaos.Minority, chaos.Majority, chaos.All}
		ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
		defer cancel()
		if s, err := chaos.Attach(*dir).Status(ctx); err == nil {
			for _, n := range s.Nodes {
				names = append(names, n.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// noLab says what to do where no lab runs.
func (a *app) noLab(err error) error {
	if errors.Is(err, chaos.ErrNoLab) {
		return fmt.Errorf("%w\n  start one with `exonode chaos up`", err)
	}
	if errors.Is(err, chaos.ErrAction) {
		return usagef("%w", err)
	}
	return err
}

func (a *app) chaosUpCommand(dir *string) *cobra.Command {
	var nodes int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a lab in the background",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if nodes < 1 || nodes > lab.MaxNodes {
				return usagef("--nodes is %d: want 1 to %d", nodes, lab.MaxNodes)
			}
			return a.chaosUp(cmd.Context(), *dir, nodes)
		},
	}
	cmd.Flags().IntVarP(&nodes, "nodes", "n", 5, "how many nodes")
	return cmd
}

// labReady is what the supervisor says once all nodes serve.
const labReady = "ready"

func (a *app) chaosUp(ctx context.Context, dir string, nodes int) error {
	remote := chaos.Attach(dir)
	if s, err := remote.Status(ctx); err == nil {
		return usagef("a lab runs in %s already, with %d nodes\n  stop it with `exonode chaos down`", s.Dir, len(s.Nodes))
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("make room for the lab: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the lab's directory: %w", err)
	}
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the exonode binary: %w", err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "supervisor.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the supervisor's log: %w", err)
	}
	defer log.Close()
	fmt.Fprintf(a.stderr, "starting %d nodes in %s\n", nodes, dir)
	supervisor := exec.Command(binary, "chaos", "supervise", "--dir", dir, "--nodes", strconv.Itoa(nodes), "--output", "json")
	supervisor.Stderr = log
	lab.Detach(supervisor)
	out, err := supervisor.StdoutPipe()
	if err != nil {
		return err
	}
	if err := supervisor.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = supervisor.Process.Kill() })()
	text, err := io.ReadAll(io.LimitReader(out, int64(len(labReady))))
	if err != nil || string(text) != labReady {
		_ = supervisor.Wait() // it says why in its log
		why, _ := os.ReadFile(log.Name())
		return notStarted(why)
	}
	s, err := remote.Status(ctx)
	if err != nil {
		return err
	}
	if err := a.printLabStatus(s); err != nil {
		return err
	}
	if a.output == "text" {
		fmt.Fprintf(a.stdout, `
  exonode chaos isolate leader     break it; exonode chaos --help has more ways
  exonode chaos status             look at it
  exonode chaos heal               mend it
  exonode chaos down               stop it
`)
	}
	return nil
}

// notStarted is the error that a supervisor's log ends with, or else all that it says.
func notStarted(log []byte) error {
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	var last struct {
		Error errorView `json:"error"`
	}
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil || last.Error.Code == "" {
		return fmt.Errorf("the lab did not start: %s", bytes.TrimSpace(log))
	}
	return failf(code(last.Error.Code), last.Error.Hint, "the lab did not start: %s", last.Error.Message)
}

func (a *app) chaosSuperviseCommand(dir *string) *cobra.Command {
	var nodes int
	cmd := &cobra.Command{
		Use:    "supervise",
		Short:  "Run a lab in the foreground",
		Hidden: true, // `chaos up` starts it
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.New(cmd.Context(), lab.Config{Nodes: nodes, Dir: *dir, Chaos: true})
			if err != nil {
				return err
			}
			return chaos.Supervise(cmd.Context(), l, func() { fmt.Fprint(a.stdout, labReady) })
		},
	}
	cmd.Flags().IntVarP(&nodes, "nodes", "n", 5, "how many nodes")
	return cmd
}

func (a *app) chaosDownCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Stop the lab; its directory stays until the next one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.request(cmd)
			defer cancel()
			if err := chaos.Attach(*dir).Down(ctx); err != nil {
				return a.noLab(err)
			}
			fmt.Fprintf(a.stderr, "the lab is down; %s has its logs\n", *dir)
			return nil
		},
	}
}

func (a *app) chaosStatusCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show who leads, how far everybody is, and who is cut from whom",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.request(cmd)
			defer cancel()
			s, err := chaos.Attach(*dir).Status(ctx)
			if err != nil {
				return a.noLab(err)
			}
			return a.printLabStatus(s)
		},
	}
}

func (a *app) chaosLeadsCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "leads NODES",
		Short: "Wait until one of some nodes leads, and those of them that run follow it",
		Example: `  exonode chaos leads all
  exonode chaos leads n3,n4,n5`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeLab(dir),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := a.request(cmd)
			defer cancel()
			leader, err := chaos.Attach(*dir).Leads(ctx, strings.Split(args[0], ","))
			if err != nil {
				return a.noLab(err)
			}
			return a.emit(map[string]string{"leader": leader}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, leader, "leads")
				return err
			})
		},
	}
}

func (a *app) printLabStatus(s chaos.LabStatus) error {
	return a.emit(s, func(w io.Writer) error {
		lines := [][]string{{"NODE", "STATE", "LEADER", "TERM", "ENTRIES", "APPLIED", "API"}}
		for i, n := range s.Sample.Nodes {
			state, leader, term, size, applied := "down", "-", "-", "-", "-"
			switch {
			case n.Leads:
				state = "leads"
			case n.Answered && n.Leader != "":
				state = "follows"
			case n.Answered:
				state = "no leader"
			case n.Up:
				state = "no answer"
			case n.Paused:
				state = "paused"
			case slices.Contains(s.Gone, n.Name):
				state = "gone"
			}
			if n.Answered {
				leader, term = n.Leader, strconv.FormatUint(n.Term, 10)
				size, applied = strconv.FormatUint(n.Size, 10), strconv.FormatUint(n.Applied, 10)
			}
			if leader == "" {
				leader = "-"
			}
			lines = append(lines, []string{n.Name, state, leader, term, size, applied, "http://" + s.Nodes[i].API})
		}
		if err := table(w, lines); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "\n%s", linkMatrix(s)); err != nil {
			return err
		}
		if len(s.Active) == 0 {
			_, err := fmt.Fprintln(w, "\nNothing is wrong.")
			return err
		}
		_, err := fmt.Fprintf(w, "\nWrong:\n  %s\n", strings.Join(s.Active, "\n  "))
		return err
	})
}

// linkMatrix draws which node's messages reach which other: rows send, columns hear.
func linkMatrix(s chaos.LabStatus) string {
	var b strings.Builder
	b.WriteString("from \\ to")
	for _, n := range s.Sample.Nodes {
		fmt.Fprintf(&b, " %3s", n.Name)
	}
	b.WriteByte('\n')
	for _, from := range s.Sample.Nodes {
		fmt.Fprintf(&b, "%9s", from.Name)
		cut := make(map[string]bool)
		for _, to := range s.Sample.Cut[from.Name] {
			cut[to] = true
		}
		for _, to := range s.Sample.Nodes {
			mark := "·"
			switch {
			case from.Name == to.Name:
				mark = " "
			case !from.Up || !to.Up:
				mark = "-"
			case cut[to.Name]:
				mark = "x"
			}
			fmt.Fprintf(&b, "   %s", mark)
		}
		b.WriteByte('\n')
	}
	b.WriteString("· reaches   x is cut   - is down or paused\n")
	return b.String()
}

func (a *app) chaosScenariosCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "scenarios",
		Short: "List the built-in scenarios",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			names, err := chaos.Scenarios()
			if err != nil {
				return err
			}
			type row struct {
				Name  string `json:"name"`
				Title string `json:"title"`
				About string `json:"about"`
			}
			var rows []row
			for _, name := range names {
				s, err := chaos.LoadScenario(name)
				if err != nil {
					return err
				}
				rows = append(rows, row{name, s.Title, s.About})
			}
			return a.emit(rows, func(w io.Writer) error {
				lines := [][]string{{"SCENARIO", "WHAT IT TRIES"}}
				for _, r := range rows {
					lines = append(lines, []string{r.Name, r.Title})
				}
				return table(w, lines)
			})
		},
	}
}
