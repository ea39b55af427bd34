package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/chaos"
	"github.com/exonode/exonode/chaos/check"
	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/report"
)

type chaosRunFlags struct {
	duration    time.Duration
	nodes       int
	seed        uint64
	faults      []string
	report      string
	environment string
	against     bool
}

func (a *app) chaosRunCommand() *cobra.Command {
	var f chaosRunFlags
	cmd := &cobra.Command{
		Use:   "run [SCENARIO]",
		Short: "Play a scenario beside a workload, and check that the cluster held",
		Long: `Start a cluster, have many clients append, stream, read and watch on all of its
nodes, break it as a scenario says, mend everything, and check what clients were told
against what all nodes hold. The scenario is the name of a built-in one ("exonode chaos
scenarios" lists them) or a file; without one, faults of all kinds come as the seed
chooses.

With --against, workload and checks alone run against the cluster at --addr; its events
stay there, in workspace chaos. The scenario is then one without faults; without one, it
is calm.

Exit status 1: a check failed, or the run could not be made; 2: it was not begun, such as
where nothing answers at --addr.`,
		Example: `  exonode chaos run
  exonode chaos run partitions --seed 7
  exonode chaos run --duration 3m --nodes 5 --faults partition,kill,pause
  exonode chaos run calm --against --addr n1.example:7482,n2.example:7482`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for flag, bad := range map[string]error{
				"duration": outside(f.duration <= 0, "--duration is %v: want more than 0, such as 2m", f.duration),
				"nodes":    outside(f.nodes < 1 || f.nodes > chaos.MaxNodes, "--nodes is %d: want 1 to %d", f.nodes, chaos.MaxNodes),
			} {
				if bad != nil && cmd.Flags().Changed(flag) {
					return bad
				}
			}
			return a.chaosRun(cmd.Context(), &f, args)
		},
	}
	flags := cmd.Flags()
	flags.DurationVar(&f.duration, "duration", 0, "how long faults come (default: as the scenario says)")
	flags.IntVarP(&f.nodes, "nodes", "n", 0, "how many nodes (default: as the scenario says)")
	flags.Uint64Var(&f.seed, "seed", 0, "what the faults are drawn from; 0 draws one")
	flags.StringSliceVar(&f.faults, "faults", nil, "`kinds` of faults that come by chance, separated by commas: "+strings.Join(chaos.FaultKinds(), ", "))
	flags.StringVar(&f.report, "report", "chaos-report.html", "`file` for the report; what ends in .json is written as JSON")
	flags.StringVar(&f.environment, "environment", "development", "built-in policy: production, staging or development")
	flags.BoolVar(&f.against, "against", false, "run workload and checks against the cluster at --addr, without faults")
	return cmd
}

// outside is an error of the command line where a flag's value is not what it can be.
func outside(bad bool, format string, args ...any) error {
	if !bad {
		return nil
	}
	return usagef(format, args...)
}

// scenario is what the flags make of a scenario, and its name.
func (a *app) chaosScenario(f *chaosRunFlags, args []string, seed uint64) (string, *chaos.Scenario, error) {
	name := "mix"
	if f.against {
		name = "calm"
	}
	if len(args) > 0 {
		name = args[0]
	}
	s, err := chaos.LoadScenario(name)
	if err != nil {
		return "", nil, usagef("%w", err)
	}
	switch {
	case f.against && len(f.faults) > 0:
		return "", nil, usagef("--against breaks nothing in the cluster at --addr: leave out --faults; or leave out --against, and a cluster is started to be broken")
	case f.against && s.Breaks():
		return "", nil, usagef("scenario %s has faults, and --against breaks nothing in the cluster at --addr: give a scenario without steps and random, such as calm", name)
	}
	if f.nodes > 0 {
		s.Nodes = f.nodes
	}
	if len(f.faults) > 0 {
		s.SetFaults(f.faults)
	}
	breaks := s.Breaks()
	if f.duration > 0 {
		if dropped := s.SetLength(f.duration); dropped > 0 {
			fmt.Fprintf(a.stderr, "%d of the scenario's steps begin after --duration %v, and are left out\n", dropped, f.duration)
		}
	}
	if err := s.Validate(); err != nil {
		return "", nil, usagef("%w", err)
	}
	if n, err := s.Faults(seed); err != nil || breaks && n == 0 {
		return "", nil, usagef("no fault comes within %v with seed %d: give a longer --duration, or calm for a run without faults", s.Length, seed)
	}
	return name, s, nil
}

func (a *app) chaosRun(ctx context.Context, f *chaosRunFlags, args []string) error {
	seed := f.seed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano()) % 1_000_000
	}
	name, s, err := a.chaosScenario(f, args, seed)
	if err != nil {
		return err
	}
	if err := writable(f.report); err != nil {
		return misuse(codeFile, "choose another file with --report", fmt.Errorf("write the report: %w", err))
	}
	if f.against {
		if err := a.answers(ctx); err != nil {
			return err
		}
	}
	cfg := chaos.RunConfig{
		Scenario: s, Seed: seed, Environment: f.environment, Version: version(),
		Progress: func(at time.Duration, text string) {
			fmt.Fprintf(a.stderr, "%7.1fs  %s\n", at.Seconds(), text)
		},
	}
	if f.against {
		cfg.Addrs = a.addrs
	}
	fmt.Fprintf(a.stderr, "%s; seed %d\n", cmp.Or(s.Title, name), seed)
	result, err := chaos.Run(ctx, cfg)
	if err != nil {
		return err
	}
	result.Command = fmt.Sprintf("exonode chaos run %s --seed %d --duration %v --nodes %d", name, seed, s.Length, s.Nodes)
	if len(f.faults) > 0 {
		result.Command += " --faults " + strings.Join(f.faults, ",")
	}
	if f.against {
		result.Command = fmt.Sprintf("exonode chaos run %s --against --addr %s --seed %d --duration %v", name, strings.Join(a.addrs, ","), seed, s.Length)
	}
	limits := s.Limits
	limits.Replicas = max(limits.Replicas, len(result.Final.Replicas))
	var pictures map[string][]byte
	result.Verdicts, pictures = check.Judge(result.History, result.Final, limits)
	result.Pictures = pictures
	if err := writeReport(f.report, result); err != nil {
		return err
	}
	if err := a.emit(result.Verdicts, func(w io.Writer) error { return printVerdicts(w, result, f.report) }); err != nil {
		return err
	}
	if !result.Held() {
		return fmt.Errorf("the cluster did not keep its word\n  %s has the evidence; repeat it with `%s`", f.report, result.Command)
	}
	return nil
}

// answers returns an error, at once or after --timeout, where no node answers at --addr.
func (a *app) answers(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	c, err := a.connect(ctx)
	if err == nil {
		_, err = c.Status(ctx)
		err = errors.Join(err, c.Close())
	}
	var own *failure
	if err == nil || errors.As(err, &own) || errors.Is(err, context.Canceled) {
		return err
	}
	return misuse("", "nothing was run: give API addresses of a cluster that runs with --addr, or leave out --against to have one started", err)
}

// writable returns an error where a file can't be written. It leaves what is there.
func writable(path string) error {
	_, missing := os.Lstat(path)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	err = file.Close()
	if errors.Is(missing, os.ErrNotExist) {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// writeReport writes a report whole, or leaves what was there.
func writeReport(path string, result *history.Result) (err error) {
	var b bytes.Buffer
	write := report.HTML
	if strings.HasSuffix(path, ".json") {
		write = report.JSON
	}
	if err := write(&b, result); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// printVerdicts prints a line for each checker, and one for all.
func printVerdicts(w io.Writer, result *history.Result, path string) error {
	lines := [][]string{{"CHECK", "VERDICT", "CHECKED", "WHAT IT HOLDS THE CLUSTER TO"}}
	for _, v := range result.Verdicts {
		verdict := "held"
		if !v.OK {
			verdict = "FAILED"
		}
		lines = append(lines, []string{v.Name, verdict, strconv.Itoa(v.Checked), v.Claim})
	}
	if err := table(w, lines); err != nil {
		return err
	}
	for _, v := range result.Verdicts {
		for i, e := range v.Evidence {
			if i == 3 {
				fmt.Fprintf(w, "%s: ... and %d more\n", v.Name, len(v.Evidence)-i)
				break
			}
			fmt.Fprintf(w, "%s: %s\n", v.Name, e)
		}
	}
	_, err := fmt.Fprintf(w, "\n%s · %s\n", report.Line(result), path)
	return err
}
