//go:build linux && netns

package netns_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// process is one run of the binary on a host.
type process struct {
	name string
	cmd  *exec.Cmd
	// lifeline is its standard input: serve is told to stop when it ends,
	// which it does with this program, however that happens.
	lifeline io.Closer
	log      *logBook
	done     chan struct{} // closed once it was waited for
	err      error         // of Wait; valid once done is closed
}

// start runs the binary on a host of the cluster's network until the test ends
// at the latest.
func (c *cluster) start(host, name string, args ...string) *process {
	c.t.Helper()
	cmd, err := c.net.Exec(context.Background(), host, append([]string{program}, args...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	p := &process{name: name, cmd: cmd, log: newLogBook(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if p.lifeline, err = cmd.StdinPipe(); err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() { // ends with the process, which Cleanup ends
		p.err = cmd.Wait()
		p.log.end()
		close(p.done)
	}()
	c.t.Cleanup(func() {
		p.kill()
		if c.t.Failed() {
			c.t.Logf("the last lines of %s:\n%s", p.name, tailOf(p.log.all(), 300))
		}
	})
	return p
}

// kill ends the process at once and waits for that.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// ended waits for the process to end by itself.
func (p *process) ended(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("%s still runs: %w", p.name, ctx.Err())
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// says waits until a line of the log has all the words; lines before the one
// with number after don't count. It returns the line's number.
func (p *process) says(ctx context.Context, t *testing.T, after int, words ...string) int {
	t.Helper()
	n, err := p.log.await(ctx, after, words)
	if err != nil {
		t.Fatalf("%s never said %q: %v", p.name, words, err)
	}
	return n
}

// logBook is the output of a process, by lines.
type logBook struct {
	mu      sync.Mutex // guards the fields below
	partial []byte
	lines   []string
	ended   bool
	// more is closed and replaced when a line comes, or the end.
	more chan struct{}
}

func newLogBook() *logBook { return &logBook{more: make(chan struct{})} }

// Write implements io.Writer.
func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, b...)
	for {
		line, rest, ok := bytes.Cut(l.partial, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.lines = append(l.lines, string(line))
		l.partial = rest
		close(l.more)
		l.more = make(chan struct{})
	}
}

func (l *logBook) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	close(l.more)
	l.more = make(chan struct{})
}

func (l *logBook) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// length is the number of the next line.
func (l *logBook) length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

// find looks for a line with all the words among those written so far.
func (l *logBook) find(after int, words ...string) (int, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := after; i < len(l.lines); i++ {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(l.lines[i], w) }) {
			return i, true
		}
	}
	return 0, false
}

func (l *logBook) await(ctx context.Context, after int, words []string) (int, error) {
	for {
		l.mu.Lock()
		more, ended, next := l.more, l.ended, len(l.lines)
		l.mu.Unlock()
		if i, ok := l.find(after, words...); ok {
			return i, nil
		}
		if ended {
			return 0, errors.New("it ended")
		}
		after = max(after, next)
		select {
		case <-more:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
