package limits

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a limit came to.
type Result struct {
	PerSecond     float64
	P50, P99, Max time.Duration
}

func result(h *hdrhistogram.Histogram, n int64, took time.Duration) Result {
	at := func(q float64) time.Duration { return time.Duration(h.ValueAtQuantile(q)) * time.Microsecond }
	return Result{PerSecond: float64(n) / took.Seconds(), P50: at(50), P99: at(99), Max: at(100)}
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Microseconds(), 3)
}

// segment is how much of a file is written before it begins anew; its space is
// set aside first, as a write-ahead log does, so that a sync writes data alone.
const segment = 64 << 20

// Sync appends blocks of a size to a file in dir and syncs each one
// (fdatasync), for a while.
func Sync(ctx context.Context, dir string, block int, d time.Duration) (r Result, err error) {
	path := filepath.Join(dir, "sync-limit")
	f, err := os.Create(path)
	if err != nil {
		return r, fmt.Errorf("measure the disk: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	b := make([]byte, block)
	for i := range b {
		b[i] = byte(i * 131)
	}
	for at := 0; at < segment; at += len(b) {
		if _, err := f.WriteAt(b, int64(at)); err != nil {
			return r, fmt.Errorf("measure the disk: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return r, fmt.Errorf("measure the disk: %w", err)
	}
	h := newHistogram()
	started, n, at := time.Now(), int64(0), int64(0)
	for time.Since(started) < d && ctx.Err() == nil {
		if at+int64(len(b)) > segment {
			at = 0
		}
		begin := time.Now()
		if _, err := f.WriteAt(b, at); err != nil {
			return r, fmt.Errorf("measure the disk: %w", err)
		}
		if err := dataSync(f); err != nil {
			return r, fmt.Errorf("measure the disk: %w", err)
		}
		_ = h.RecordValue(max(1, time.Since(begin).Microseconds())) // beyond a minute: then the disk is the result
		n++
		at += int64(len(b))
	}
	return result(h, n, time.Since(started)), ctx.Err()
}
