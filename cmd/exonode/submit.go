package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/view"
	"github.com/exonode/exonode/client"
)

// submitFlags are the flags of submit, as they come.
type submitFlags struct {
	workspace, source string

	// Of one event.
	kind, id, subject, data, contentType string
	effect                               string
	causes                               []uint
	priority                             uint
	extensions                           []string

	// Of many.
	file, run, resume string
	acks              bool

	// wait is what to wait for: committed or final.
	wait string
}

func (a *app) submitCommand() *cobra.Command {
	var f submitFlags
	cmd := &cobra.Command{
		Use:   "submit",
		Short: "Submit one event by flags, or many as JSON lines",
		Long: `Submit events. With --kind, one event described by the flags. Otherwise JSON
lines from standard input or --file, one event a line: CloudEvents 1.0 (a line
with "specversion") or plain events, such as

  {"kind":"agent.spawn","source":"urn:x","id":"1","subject":"a1","data":{…},
   "effect":{"risk":0.2},"causes":[12],"extensions":{"region":"eu"}}

The kinds are those of "exonode catalog list"; a production cluster takes no
others.

An acknowledged event is on the disks of a quorum. Submitting it again with the
same id is answered as a duplicate and never doubles it. Lines without an id get
one that follows from the run's name, the line's number and its text: the same
input under the same --run never doubles an event either.

With --resume FILE the run's name and how far it got are kept in FILE: after an
interruption, of whatever kind, the same command goes on where it was.

A line that is refused is reported with its number and does not stop the others;
the exit status is then 1. With --acks each acknowledged line is reported too, with
the sequence of its entry.`,
		Example: `  exonode submit --kind agent.exit --data '{"agent_id":"a1","pid":71,"exit_code":0}'
  exonode submit --kind agent.spawn --effect risk=0.3,privacy=0.1 --data @spawn.json
  exonode submit --file events.jsonl --resume events.state
  producer | exonode submit --file - --kind agent.exit`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.wait != waitCommitted && f.wait != waitFinal {
				return usagef("--wait is %q: want %s or %s", f.wait, waitCommitted, waitFinal)
			}
			if f.source == "" {
				f.source = defaultSource()
			}
			if lines, err := f.manyLines(cmd, a.stdin); err != nil {
				return err
			} else if lines {
				return a.submitLines(cmd.Context(), &f)
			}
			if cmd.Flags().Changed("id") && f.id == "" {
				// A variable that is not set, say: each retry would be another event.
				return usagef("--id is empty: give an id, or leave the flag out for a fresh one")
			}
			ev, err := f.event(a.stdin)
			if err != nil {
				return err
			}
			return a.submitOne(cmd, ev, f.wait == waitFinal)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.workspace, "workspace", api.DefaultWorkspace, "`workspace` of events that name none")
	flags.StringVar(&f.source, "source", "", "`source` of events that name none (default \"exonode-cli:\" and the host's name)")
	flags.StringVar(&f.kind, "kind", "", "the event's `kind`; with --file, that of plain lines that name none")
	flags.StringVar(&f.id, "id", "", "the event's `id`, unique within workspace and source for ever (default: a fresh one)")
	flags.StringVar(&f.subject, "subject", "", "what the event is about")
	flags.StringVar(&f.data, "data", "", "the payload: `JSON` text, @file, or - for standard input")
	flags.StringVar(&f.contentType, "content-type", "", "the payload's media `type` (default application/json)")
	flags.StringVar(&f.effect, "effect", "", "declared `effect`, as in risk=0.3,fairness=0,privacy=0.1,novelty=0,security=0.2")
	flags.UintSliceVar(&f.causes, "cause", nil, "`sequences` of the entries that led to this event")
	flags.UintVar(&f.priority, "priority", 0, "0 normal, 1 elevated")
	flags.StringArrayVar(&f.extensions, "extension", nil, "CloudEvents extension `name=text`; may be given again")
	flags.StringVar(&f.file, "file", "", "`file` of JSON lines, - for standard input")
	flags.StringVar(&f.run, "run", "", "`name` of this run, from which ids of lines without one follow (default: a fresh one)")
	flags.StringVar(&f.resume, "resume", "", "state `file`: go on where the run that is in it was, or begin one")
	flags.BoolVar(&f.acks, "acks", false, "of many: print each acknowledged line, with the sequence of its entry")
	flags.StringVar(&f.wait, "wait", waitCommitted, "`until` when to wait: committed, or final (a quorum cosigned a checkpoint that covers it)")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.FixedCompletions([]string{waitCommitted, waitFinal}, cobra.ShellCompDirectiveNoFileComp))
	operands(cmd, "acks", "wait", "kind", "id", "subject", "data", "content-type", "effect", "cause", "priority", "extension", "file", "run", "resume")
	completeKinds(cmd)
	return cmd
}

// defaultSource names this machine as the reporter.
func defaultSource() string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "unknown"
	}
	return "exonode-cli:" + host
}

// ofOneEvent are the flags that describe a single event.
var ofOneEvent = []string{"id", "subject", "data", "content-type", "effect", "cause", "priority", "extension"}

// manyLines decides between lines and one event.
func (f *submitFlags) manyLines(cmd *cobra.Command, stdin io.Reader) (bool, error) {
	var single []string
	for _, name := range ofOneEvent {
		if cmd.Flags().Changed(name) {
			single = append(single, "--"+name)
		}
	}
	many := f.file != "" || f.run != "" || f.resume != "" || f.acks
	switch {
	case many && len(single) > 0:
		return false, usagef("%s describes one event, and --file, --run, --resume and --acks are for many: give one or the other", strings.Join(single, ", "))
	case many:
		return true, nil
	case len(single) > 0 && f.kind == "":
		return false, usagef("--kind is missing: it says what kind of event this is; `exonode catalog list` shows the kinds")
	case f.kind != "":
		// Also where standard input is a pipe: programs leave one open.
		return false, nil
	case terminal(stdin):
		return false, usagef("nothing to submit: describe an event with --kind and --data, or give JSON lines with --file or on standard input")
	}
	return true, nil
}

// event builds the event that the flags describe.
func (f *submitFlags) event(stdin io.Reader) (chain.Event, error) {
	ev := chain.Event{
		Workspace: f.workspace, Source: f.source, ID: f.id, Kind: f.kind, Subject: f.subject,
		ContentType: f.contentType, Priority: uint64(f.priority),
	}
	var err error
	if ev.Payload, err = readData(f.data, stdin); err != nil {
		return ev, err
	}
	if len(ev.Payload) > 0 && catalog.IsJSON(ev.ContentType) && !json.Valid(ev.Payload) {
		return ev, misuse("", "", &api.Error{
			Code: api.PayloadInvalid, Field: "data", Message: "--data is not JSON", Hint: "for other data say what it is: --content-type text/plain",
		})
	}
	if f.effect != "" {
		effect, err := api.ParseEffect(f.effect)
		if err != nil {
			return ev, misuse("", "", err)
		}
		ev.DeclaredEffect = &effect
	}
	for _, c := range f.causes {
		ev.Causes = append(ev.Causes, uint64(c))
	}
	slices.Sort(ev.Causes)
	ev.Causes = slices.Compact(ev.Causes)
	for _, x := range f.extensions {
		name, value, ok := strings.Cut(x, "=")
		if !ok || name == "" {
			return ev, usagef("--extension %q: want name=text", x)
		}
		ev.Extensions = append(ev.Extensions, chain.Extension{Name: name, Value: value})
	}
	slices.SortStableFunc(ev.Extensions, func(x, y chain.Extension) int { return strings.Compare(x.Name, y.Name) })
	return ev, nil
}

// readData reads the payload that --data names.
func readData(data string, stdin io.Reader) ([]byte, error) {
	path, isFile := strings.CutPrefix(data, "@")
	switch {
	case data == "":
		return nil, nil
	case data == "-":
		b, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("read the payload from standard input: %w", err)
		}
		return b, nil
	case isFile:
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, misuse(codeFile, "", fmt.Errorf("read the payload: %w", err))
		}
		return b, nil
	}
	return []byte(data), nil
}

// ackView is an acknowledgement as it is printed.
type ackView struct {
	// Outcome is "sealed" or "duplicate".
	Outcome   string     `json:"outcome"`
	Sequence  uint64     `json:"sequence"`
	Hash      chain.Hash `json:"hash"`
	Time      string     `json:"time"`
	Workspace string     `json:"workspace"`
	Source    string     `json:"source"`
	ID        string     `json:"id"`
	Verdict   any        `json:"verdict,omitempty"`
	// Final is the size of a final checkpoint's tree that has the entry.
	Final *uint64 `json:"final,omitempty"`
}

func newAckView(ack client.Ack) ackView {
	v := ackView{
		Outcome: "sealed", Sequence: ack.Sequence, Hash: ack.Hash, Time: view.Time(ack.Time),
		Workspace: ack.Key.Workspace, Source: ack.Key.Source, ID: ack.Key.ID,
	}
	if ack.Duplicate {
		v.Outcome = "duplicate"
	}
	if ack.Verdict != nil {
		v.Verdict = view.NewVerdict(ack.Verdict)
	}
	return v
}

// What submit waits for.
const (
	waitCommitted = "committed"
	waitFinal     = "final"
)

func (a *app) submitOne(cmd *cobra.Command, ev chain.Event, final bool) error {
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	ack, err := c.Append(ctx, ev)
	if err != nil {
		return err
	}
	v := newAckView(ack)
	if final {
		n, err := c.Checkpoint(ctx, ack.Sequence+1)
		if err != nil {
			// It is sealed all the same: say so, and where.
			a.note("sealed as entry %d, and not final yet", ack.Sequence)
			return err
		}
		v.Final = &n.Checkpoint.Size
	}
	return a.emit(v, func(w io.Writer) error {
		what := "sealed as entry"
		if ack.Duplicate {
			what = "a duplicate of entry"
		}
		if _, err := fmt.Fprintf(w, "%s %d\n  id       %s\n  hash     %s\n  time     %s\n", what, v.Sequence, v.ID, v.Hash, v.Time); err != nil {
			return err
		}
		if v.Final != nil {
			if _, err := fmt.Fprintf(w, "  final    in the checkpoint of %d entries\n", *v.Final); err != nil {
				return err
			}
		}
		if ack.Verdict == nil {
			return nil
		}
		_, err := fmt.Fprintf(w, "  verdict  %s\n", verdictText(ack.Verdict.Decision.String(), ack.Verdict.Gate, ack.Verdict.Reasons))
		return err
	})
}
