package main

import (
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"
)

// progress is a bar on a terminal; elsewhere its methods do nothing.
type progress struct{ bar *progressbar.ProgressBar }

// progress begins a bar on standard error, if that is a terminal. A total below
// 0 is unknown.
func (a *app) progress(what string, total int64, inBytes bool) progress {
	if !terminal(a.stderr) || os.Getenv("TERM") == "dumb" {
		return progress{}
	}
	options := []progressbar.Option{
		progressbar.OptionSetWriter(a.stderr),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(inBytes),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100 * time.Millisecond),
		progressbar.OptionSetWidth(30),
		progressbar.OptionClearOnFinish(),
	}
	if !inBytes { // else bytes a second are shown already
		options = append(options, progressbar.OptionShowIts(), progressbar.OptionSetItsString("entries"))
	}
	return progress{progressbar.NewOptions64(total, options...)}
}

// set moves the bar. That the terminal can't be written to is not the command's
// failure.
func (p progress) set(n uint64) {
	if p.bar != nil {
		_ = p.bar.Set64(int64(n))
	}
}

// aside prints something above the bar.
func (p progress) aside(print func()) {
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	print()
}

// done removes the bar.
func (p progress) done() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

// terminal reports whether a stream is one.
func terminal(stream any) bool {
	f, ok := stream.(interface{ Fd() uintptr })
	return ok && isatty.IsTerminal(f.Fd())
}

// countingReader counts what is read. It is for one goroutine.
type countingReader struct {
	r io.Reader
	n uint64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += uint64(n)
	return n, err
}
