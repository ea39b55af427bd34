package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Source is where the log's files are: a path below it, such as "checkpoint" or
// "tile/0/000", names a file.
type Source interface {
	// Fetch returns a file, of at most limit bytes. The error wraps fs.ErrNotExist
	// where there is none. It is called by several goroutines at once.
	Fetch(ctx context.Context, path string, limit int64) ([]byte, error)
}

// Dir is a directory with the files of a log, such as `exonode export --tiles` writes.
type Dir string

// Fetch implements Source.
func (d Dir) Fetch(_ context.Context, path string, limit int64) ([]byte, error) {
	f, err := os.Open(filepath.Join(string(d), filepath.FromSlash(path)))
	if err != nil {
		return nil, err
	}
	b, err := readLimited(f, limit)
	return b, errors.Join(err, f.Close())
}

// HTTP fetches a log's files below a URL.
type HTTP struct {
	url    string
	client *http.Client
	wait   time.Duration
}

// attempts is how often a request is made that fails in a way that may pass.
const attempts = 4

// NewHTTP returns the source below a URL, without a slash at its end. client has the
// time limit of one request. wait is how long is waited before the second attempt, twice
// as long before each one after it.
func NewHTTP(url string, client *http.Client, wait time.Duration) *HTTP {
	return &HTTP{url: strings.TrimRight(url, "/"), client: client, wait: wait}
}

// Fetch implements Source.
func (h *HTTP) Fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	for i := 0; ; i++ {
		b, again, err := h.get(ctx, h.url+"/"+path, limit)
		if err == nil || !again || i+1 == attempts || ctx.Err() != nil {
			return b, err
		}
		timer := time.NewTimer(h.wait << i)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

func (h *HTTP) get(ctx context.Context, url string, limit int64) (b []byte, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, false, err
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, true, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusGone:
		return nil, false, fmt.Errorf("GET %s: %s: %w", url, resp.Status, fs.ErrNotExist)
	case resp.StatusCode != http.StatusOK:
		again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
		return nil, again, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	if b, err = readLimited(resp.Body, limit); err != nil {
		return nil, !errors.Is(err, errTooLarge), fmt.Errorf("GET %s: %w", url, err)
	}
	return b, false, nil
}

var errTooLarge = errors.New("larger than any such file is")

func readLimited(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	return b, err
}
