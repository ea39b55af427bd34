package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/evidence"
	"github.com/exonode/exonode/client/monitor"
)

// firstRetry is how long the monitor waits before it asks a second time, within a round.
const firstRetry = 500 * time.Millisecond

// verifiedView is a verified checkpoint as the monitor prints it.
type verifiedView struct {
	Time     string     `json:"time"`
	Origin   string     `json:"origin"`
	Size     uint64     `json:"size"`
	From     uint64     `json:"from"`
	Root     chain.Hash `json:"root"`
	Headers  bool       `json:"headers"`
	Cosigned []string   `json:"cosigned"`
	Epochs   []uint64   `json:"epochs,omitempty"`
	Dropped  uint64     `json:"dropped,omitempty"`
}

// monitorCodes name what a monitor finds: its errors, and what to do.
var monitorCodes = []struct {
	err  error
	code code
	hint string
}{
	{monitor.ErrUnreachable, codeUnreachable, "want the address under which the log has /checkpoint and /tile/, of a node or of a web server, or a directory with those files"},
	{monitor.ErrCheckpoint, codeNoCheckpoint, "is the address that of a log, with /checkpoint below it?"},
	{monitor.ErrUnsigned, codeUnsigned, "the policy may be another log's: get it with \"exonode trust export\" from whom you trust; what is not signed is not followed"},
	{checkpoint.ErrQuorum, codeNoQuorum, "the policy may be older than the cluster's voters: get a new one with \"exonode trust export\" from whom you trust"},
	{checkpoint.ErrSignature, codeFalseSignature, "somebody on the way, or the log, altered the checkpoint: look at it, and ask again from elsewhere"},
	{monitor.ErrOtherLog, codeOtherLog, "each log has a state directory of its own: choose another one with --state"},
	{monitor.ErrStale, codeStale, "the log, or what stands before it, shows an old copy: ask another node; if it stays so, what was verified since is being withheld"},
	{monitor.ErrTiles, codeTiles, "ask another node or copy of the log; the checkpoint is kept in the state directory, and the log has to show its tree"},
	{monitor.ErrState, codeMonitorState, "make room, or mend its permissions; a damaged directory is to be kept for its evidence, and a new one begun with --state"},
}

func monitorFailure(err error, dir string) error {
	if m := (*monitor.MisbehaviourError)(nil); errors.As(err, &m) {
		if m.File == "" {
			return failf(codeEquivocation, "keep what the log serves now: its origin does not say that it has to keep these rules, so no evidence file can say it alone", "%w", err)
		}
		file := filepath.Join(dir, m.File)
		return failf(codeEquivocation, fmt.Sprintf("keep that file and show it: `exonode evidence verify %s --policy POLICY` checks it by itself", file),
			"%w; the evidence is in %s", err, file)
	}
	for _, c := range monitorCodes {
		if errors.Is(err, c.err) {
			return failf(c.code, c.hint, "%w", err)
		}
	}
	return err
}

func (a *app) monitorCommand() *cobra.Command {
	var policyFile, dir string
	var interval time.Duration
	var once bool
	cmd := &cobra.Command{
		Use:   "monitor URL|DIRECTORY",
		Short: "Follow a log from outside, and catch it where it lies",
		Long: `Follow a log from outside: a cluster, or any other log that serves tiles (C2SP
tlog-tiles), by its address or as a directory of such files. Nothing that the log
says is believed: the monitor checks the signatures of each checkpoint against a
policy, reads every entry that is new, and computes the tree again. Entries of
exonode's logs are read as headers too: their links, times and epochs.

What was verified is kept in the state directory, 32 bytes for each entry, so that a
log can't show another past later, also after a restart. Where it signs one, or goes
to another epoch without declaring it in the chain, the monitor writes an evidence
file there, prints its path and ends with status 1. It goes on through all else that
may pass, which it reports on standard error; with --once, status 1 says so.`,
		Example: `  exonode trust export > policy.txt
  exonode monitor http://127.0.0.1:7482 --policy policy.txt --state monitor
  exonode monitor https://log.example/2026 --policy log.txt --state example --once`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := given("policy", policyFile, "state", dir); err != nil {
				return err
			}
			if interval <= 0 {
				return usagef("--interval is %v: want more than 0", interval)
			}
			policy, err := readTrustPolicy(policyFile)
			if err != nil {
				return err
			}
			source, err := a.logSource(args[0])
			if err != nil {
				return err
			}
			watch := &watch{app: a, dir: dir}
			defer watch.end()
			m, err := monitor.Open(monitor.Config{Source: source, Policy: policy, Dir: dir, Progress: watch.progress})
			if err != nil {
				return monitorFailure(err, dir)
			}
			if found, err := filepath.Glob(filepath.Join(dir, "evidence-*.txt")); err == nil && len(found) > 0 {
				a.note("evidence of an earlier run is in %s", strings.Join(found, ", "))
			}
			if once {
				r, err := m.Round(cmd.Context())
				watch.end()
				if err != nil {
					return monitorFailure(err, dir)
				}
				return watch.verified(r)
			}
			err = m.Run(cmd.Context(), interval, watch.report)
			switch {
			case watch.failed != nil:
				return watch.failed
			case errors.Is(err, context.Canceled) && cmd.Context().Err() != nil:
				return nil // it was told to stop
			}
			watch.end()
			return monitorFailure(err, dir)
		},
	}
	cmd.Flags().StringVar(&policyFile, "policy", "", "policy `file`: the log's keys, the witnesses', and the quorum")
	cmd.Flags().StringVar(&dir, "state", "", "`directory` for what was verified, and for evidence; made where it is not there")
	cmd.Flags().DurationVar(&interval, "interval", 10*time.Second, "how often the log is asked for its checkpoint")
	cmd.Flags().BoolVar(&once, "once", false, "verify what the log has now, and end")
	operands(cmd, "policy", "state", "interval", "once")
	return cmd
}

// given refuses flags that are not set; flags are names and values by turns.
func given(flags ...string) error {
	for i := 0; i < len(flags); i += 2 {
		if flags[i+1] == "" {
			return usagef("--%s is missing", flags[i])
		}
	}
	return nil
}

// logSource is where a log's files are.
func (a *app) logSource(where string) (monitor.Source, error) {
	if strings.HasPrefix(where, "http://") || strings.HasPrefix(where, "https://") {
		config, err := a.clientTLS()
		if err != nil {
			return nil, err
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = config
		return monitor.NewHTTP(where, &http.Client{Transport: transport, Timeout: a.timeout}, firstRetry), nil
	}
	info, err := os.Stat(where)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is a file", where)
	}
	if err != nil {
		return nil, misuse(codeFile, "want an address with http:// or https://, or a directory with the log's files", fmt.Errorf("read the log: %w", err))
	}
	return monitor.Dir(where), nil
}

// watch prints what a monitor finds. It is for one goroutine.
type watch struct {
	*app
	dir    string
	bar    progress
	total  uint64 // of bar; 0 where there is none
	any    bool   // a checkpoint was printed
	last   string // the last problem that was printed
	failed error  // of standard output
}

// progress shows a bar for what takes a while to read.
func (w *watch) progress(done, total uint64) {
	if w.total == 0 && total > 10*chain.TileWidth {
		w.bar, w.total = w.app.progress("entries", int64(total), false), total
	}
	if w.total > 0 {
		w.bar.set(done)
	}
}

func (w *watch) end() {
	if w.total > 0 {
		w.bar.done()
	}
	w.total = 0
}

func (w *watch) report(r *monitor.Result, err error) {
	w.end()
	if err != nil {
		// It is told once, and again where it has changed.
		if text := w.explain(monitorFailure(err, w.dir)); text != w.last {
			w.note("%s", text)
			w.last = text
		}
		return
	}
	w.last = ""
	if w.failed == nil && (!w.any || r.From != r.Note.Checkpoint.Size || len(r.Epochs) > 0) {
		w.failed = w.verified(r)
	}
}

func (w *watch) verified(r *monitor.Result) error {
	w.any = true
	c := &r.Note.Checkpoint
	v := verifiedView{
		Time: time.Now().UTC().Format(time.RFC3339), Origin: c.Origin, Size: c.Size, From: r.From, Root: c.Root,
		Headers: r.Headers, Cosigned: []string{}, Epochs: r.Epochs, Dropped: r.Dropped,
	}
	for _, by := range r.By.Cosigned {
		v.Cosigned = append(v.Cosigned, by.Witness)
	}
	if w.output == "json" {
		return w.emitLine(v)
	}
	what := "opaque leaves"
	if v.Headers {
		what = "headers"
	}
	_, err := fmt.Fprintf(w.stdout, "%s verified %d entries of %s (%d new, %s), root %s, %s\n",
		v.Time, v.Size, v.Origin, v.Size-(v.From-v.Dropped), what, v.Root, plural(len(v.Cosigned), "cosignature"))
	for _, e := range v.Epochs {
		if err == nil {
			_, err = fmt.Fprintf(w.stdout, "  epoch %d began: the cluster was recovered from lost quorum, and declares it\n", e)
		}
	}
	if v.Dropped > 0 && err == nil {
		_, err = fmt.Fprintf(w.stdout, "  the recovery left %d entries behind that had been signed and verified\n", v.Dropped)
	}
	return err
}

func (a *app) evidenceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "evidence",
		Short: "Check what is said to prove that a log lied",
		Args:  noArgs,
	}
	cmd.AddCommand(a.evidenceVerifyCommand())
	return cmd
}

// evidenceView is genuine evidence as it is printed.
type evidenceView struct {
	OK    bool          `json:"ok"`
	Kind  evidence.Kind `json:"kind"`
	What  string        `json:"what"`
	Notes []signedView  `json:"checkpoints"`
}

type signedView struct {
	Origin   string       `json:"origin"`
	Size     uint64       `json:"size"`
	Root     chain.Hash   `json:"root"`
	LogKey   string       `json:"log_key"`
	Cosigned []cosignView `json:"cosigned"`
}

func newSignedView(n *checkpoint.Note, j *checkpoint.Judgement) signedView {
	c := &n.Checkpoint
	v := signedView{Origin: c.Origin, Size: c.Size, Root: c.Root, LogKey: j.Log.Key.String(), Cosigned: []cosignView{}}
	for _, by := range j.Cosigned {
		v.Cosigned = append(v.Cosigned, cosignView{by.Witness, time.Unix(int64(by.Time), 0).UTC().Format(time.RFC3339)})
	}
	return v
}

// evidenceCodes are those of evidence that is not genuine.
var evidenceCodes = []struct {
	err  error
	code code
	hint string
}{
	{evidence.ErrFormat, codeEvidence, "want a file that \"exonode monitor\" wrote"},
	{evidence.ErrNotEvidence, codeFalseEvidence, "what the log signed in it can all be true: believe nobody who shows it"},
	{checkpoint.ErrQuorum, codeUnsigned, "the policy is another log's, or the file does not have that log's signature, and proves nothing against it"},
	{checkpoint.ErrSignature, codeFalseEvidence, "somebody altered the file, or made the signature up: it proves nothing"},
}

func (a *app) evidenceVerifyCommand() *cobra.Command {
	var policyFile string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check an evidence file, offline",
		Long: `Check an evidence file of a monitor by nothing but itself and a policy that has the
log's key: that the log signed what is in it, and that this can't be true. It shows
what was signed, and who cosigned it. The exit status is 0 where the evidence is
genuine, and 1 where it proves nothing.`,
		Example: "  exonode evidence verify monitor/evidence-fork-0123456789abcdef.txt --policy policy.txt",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := given("policy", policyFile); err != nil {
				return err
			}
			policy, err := readTrustPolicy(policyFile)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(args[0])
			if err != nil {
				return misuse(codeFile, "", fmt.Errorf("read the evidence: %w", err))
			}
			v, err := verifyEvidence(b, policy)
			if err != nil {
				for _, c := range evidenceCodes {
					if errors.Is(err, c.err) {
						return failf(c.code, c.hint, "%s is no evidence: %w", args[0], err)
					}
				}
				return err
			}
			return a.emit(v, func(w io.Writer) error { return v.print(w, args[0]) })
		},
	}
	cmd.Flags().StringVar(&policyFile, "policy", "", "policy `file` with the log's key; its quorum is not asked for")
	operands(cmd, "policy")
	return cmd
}

func verifyEvidence(b []byte, policy *checkpoint.Policy) (*evidenceView, error) {
	e, err := evidence.Parse(b)
	if err != nil {
		return nil, err
	}
	f, err := e.Verify(policy)
	if err != nil {
		return nil, err
	}
	v := &evidenceView{OK: true, Kind: f.Kind, What: f.What}
	if e.First != nil {
		v.Notes = append(v.Notes, newSignedView(e.First, f.First))
	}
	v.Notes = append(v.Notes, newSignedView(e.Second, f.Second))
	return v, nil
}

func (v *evidenceView) print(w io.Writer, file string) error {
	_, err := fmt.Fprintf(w, "%s is genuine: the log signed what can't be true (%s)\n  %s\n", file, v.Kind, v.What)
	for _, n := range v.Notes {
		if err == nil {
			_, err = fmt.Fprintf(w, "  checkpoint  %d entries of %s\n    root      %s\n    signed    %s\n", n.Size, n.Origin, n.Root, n.LogKey)
		}
		for _, c := range n.Cosigned {
			if err == nil {
				_, err = fmt.Fprintf(w, "    cosigned  %s at %s\n", c.Witness, c.Time)
			}
		}
	}
	return err
}
