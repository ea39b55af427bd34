package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
)

// linesRun is one run of submit over lines.
type linesRun struct {
	a     *app
	state *runState
	bar   progress
	input *countingReader
	acks  bool // print them
	// size is the least tree that has all entries that were acknowledged; one goroutine
	// uses it.
	size uint64

	// mu guards lines: the numbers of the lines that were handed to the pump
	// and are not answered yet, with their ids.
	mu    sync.Mutex
	lines []handed
}

// handed is a line on its way.
type handed struct {
	line uint64
	id   string
}

// ackedLine is a line that is in the chain, as it is printed.
type ackedLine struct {
	Line uint64 `json:"line"`
	ackView
}

// refusedLine is a line that is not in the chain, as it is printed.
type refusedLine struct {
	Line  uint64    `json:"line"`
	Error errorView `json:"error"`
}

// linesResult is the summary of a run.
type linesResult struct {
	Run        string  `json:"run"`
	Sealed     uint64  `json:"sealed"`
	Duplicates uint64  `json:"duplicates"`
	Refused    uint64  `json:"refused"`
	Resumed    uint64  `json:"resumed_after,omitempty"`
	Seconds    float64 `json:"seconds"`
	// Final is the size of a final checkpoint's tree that has all of them.
	Final uint64 `json:"final,omitempty"`
}

// awaitFinal waits, for --timeout, until a final checkpoint has a tree of at least a size.
func (a *app) awaitFinal(ctx context.Context, c *client.Client, size uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	n, err := c.Checkpoint(ctx, size)
	if err != nil {
		return 0, err
	}
	return n.Checkpoint.Size, nil
}

func (a *app) submitLines(ctx context.Context, f *submitFlags) (err error) {
	state, err := openRun(f)
	if err != nil {
		return err
	}
	in, size, err := a.openInput(ctx, f.file)
	if err != nil {
		return err
	}
	defer in.Close()
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	r := &linesRun{a: a, state: state, acks: f.acks, input: &countingReader{r: in}, bar: a.progress("submitting", size, true)}
	began := time.Now()
	result := linesResult{Run: state.Run, Resumed: state.Done}
	if state.Done > 0 {
		a.note("going on after %d events of run %s", state.Done, state.Run)
	}
	_, err = c.Pump(ctx, r.events(f), client.PumpOptions{Acked: r.acked, Checkpoint: r.checkpoint})
	r.bar.done()
	result.Sealed, result.Duplicates, result.Refused = state.Sealed, state.Duplicates, state.Refused
	result.Seconds = time.Since(began).Seconds()
	if err != nil {
		if state.Done > result.Resumed || ctx.Err() != nil {
			r.sayHowToGoOn(f)
		}
		return err
	}
	if f.wait == waitFinal && r.size > 0 {
		if result.Final, err = a.awaitFinal(ctx, c, r.size); err != nil {
			a.note("%d events are sealed, and not all final yet", result.Sealed)
			return err
		}
	}
	if err := r.summary(result); err != nil {
		return err
	}
	if result.Refused > 0 {
		return errSilent
	}
	return nil
}

func (r *linesRun) summary(s linesResult) error {
	if r.a.output == "json" {
		return r.a.emitLine(s)
	}
	total := s.Sealed + s.Duplicates + s.Refused
	took := "nothing was left to do"
	if done := total - s.Resumed; done > 0 {
		took = fmt.Sprintf("in %.1f s (%.0f events/s)", s.Seconds, float64(done)/max(s.Seconds, 1e-6))
	}
	if s.Final > 0 {
		took += fmt.Sprintf("; all final in the checkpoint of %d entries", s.Final)
	}
	_, err := fmt.Fprintf(r.a.stdout, "%d events: %d sealed, %d duplicates, %d refused, %s\n", total, s.Sealed, s.Duplicates, s.Refused, took)
	return err
}

func (r *linesRun) sayHowToGoOn(f *submitFlags) {
	if f.resume != "" {
		r.a.note("%d events are answered: the same command goes on from there", r.state.Done)
		return
	}
	r.a.note("%d events are answered: the same command and input with --run %s goes on without doubling one", r.state.Done, r.state.Run)
}

// openInput opens the lines, and returns their size; -1 where it is not known.
func (a *app) openInput(ctx context.Context, path string) (io.ReadCloser, int64, error) {
	if path == "" || path == "-" {
		return until(ctx, a.stdin), -1, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, misuse(codeFile, "", fmt.Errorf("open --file: %w", err))
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		return f, -1, nil
	}
	return f, info.Size(), nil
}

// until returns a reader of r that also ends when ctx does: a terminal or an idle
// pipe would hold up an interruption.
func until(ctx context.Context, r io.Reader) io.ReadCloser {
	out, in := io.Pipe()
	context.AfterFunc(ctx, func() { in.CloseWithError(context.Cause(ctx)) })
	go func() { // ends with r, or with the process
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	return out
}

// events yields what is left of the input, and notes each line's number.
func (r *linesRun) events(f *submitFlags) iter.Seq2[chain.Event, error] {
	line := uint64(0)
	options := client.LineOptions{
		Workspace: f.workspace, Source: f.source, Kind: f.kind, Stream: r.state.Run,
		At: func(n uint64) { line = n },
	}
	skip, lastID := r.state.Done, r.state.LastID
	return func(yield func(chain.Event, error) bool) {
		skipped := uint64(0)
		for ev, err := range client.EventLines(r.input, options) {
			if skipped < skip {
				if skipped++; skipped == skip && ev.ID != lastID {
					yield(ev, failf(codeInput, "this is another input, or it was changed", "line %d is not the one that run %s had got to", line, r.state.Run))
					return
				}
				continue
			}
			r.mu.Lock()
			r.lines = append(r.lines, handed{line, ev.ID})
			r.mu.Unlock()
			r.bar.set(r.input.n)
			if !yield(ev, err) {
				return
			}
		}
		if skipped < skip {
			yield(chain.Event{}, failf(codeInput, "this is another input, or it was cut", "the input has %d events, but run %s had got to %d", skipped, r.state.Run, skip))
		}
	}
}

// acked takes one answer. What the cluster refused is reported and passed over;
// what is left open stops the run.
func (r *linesRun) acked(_ uint64, ack client.Ack, err error) error {
	r.mu.Lock()
	var h handed
	if len(r.lines) > 0 {
		h, r.lines = r.lines[0], r.lines[1:]
	}
	r.mu.Unlock()
	var incomplete *client.IncompleteError
	if err != nil && (errors.As(err, &incomplete) || api.CodeOf(err) == "") {
		return err
	}
	// Told before it counts: what could not be told is told by the next run.
	if err == nil && r.acks {
		if err := r.accept(h.line, ack); err != nil {
			return err
		}
	}
	if err == nil {
		r.size = max(r.size, ack.Sequence+1)
	}
	switch {
	case err != nil:
		r.state.Refused++
		r.refuse(h.line, err)
	case ack.Duplicate:
		r.state.Duplicates++
	default:
		r.state.Sealed++
	}
	r.state.Done++
	r.state.LastID = h.id
	return nil
}

// accept reports a line that is in the chain.
func (r *linesRun) accept(line uint64, ack client.Ack) (err error) {
	v := newAckView(ack)
	r.bar.aside(func() {
		if r.a.output == "json" {
			err = r.a.emitLine(ackedLine{line, v})
			return
		}
		_, err = fmt.Fprintf(r.a.stdout, "line %d: %s %d %s\n", line, v.Outcome, v.Sequence, v.ID)
	})
	return err
}

// refuse reports a line that is not in the chain.
func (r *linesRun) refuse(line uint64, err error) {
	var inLine *client.LineError
	if errors.As(err, &inLine) {
		err = inLine.Err
	}
	r.bar.aside(func() {
		if r.a.output == "json" {
			// A failure to print shows at the summary.
			_ = r.a.emitLine(refusedLine{line, newErrorView(err)})
			return
		}
		text, hint := problem(err)
		var e *api.Error
		if errors.As(err, &e) && !strings.HasPrefix(text, e.Field) {
			text = e.Field + ": " + text
		}
		r.a.note("line %d: %s (%s)", line, text, codeOf(err))
		if hint != "" {
			r.a.note("  %s", hint)
		}
	})
}

func (r *linesRun) checkpoint(uint64) error { return r.state.save() }

// newRunName draws the name of a run.
func newRunName() string { return ulid.Make().String() }
