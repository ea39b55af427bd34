package monitor_test

import (
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/exonode/exonode/chain/evidence"
	"github.com/exonode/exonode/client/monitor"
)

// webLog is a log on the web.
type webLog struct {
	mu    sync.Mutex // guards what follows
	now   files
	fails map[string]int // how often a path is answered with 503
}

func (l *webLog) publish(log testLog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = log.files()
}

func (l *webLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, "/log/")
	if l.fails[path] > 0 {
		l.fails[path]--
		http.Error(w, "later", http.StatusServiceUnavailable)
		return
	}
	b, ok := l.now[path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if strings.Contains(path, "entries") && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(b)
		_ = z.Close()
		return
	}
	_, _ = w.Write(b)
}

// TestHTTP follows a log by HTTP, whose answers fail now and then, with the state in a
// directory of the operating system.
func TestHTTP(t *testing.T) {
	l := newLog(300)
	web := &webLog{fails: map[string]int{"checkpoint": 2, "tile/entries/001.p/44": 3, "tile/0/001": 1}}
	web.publish(l)
	server := httptest.NewServer(web)
	defer server.Close()
	dir := filepath.Join(t.TempDir(), "a", "b")
	var done []uint64
	open := func() *monitor.Monitor {
		t.Helper()
		m, err := monitor.Open(monitor.Config{
			Source: monitor.NewHTTP(server.URL+"/log/", server.Client(), time.Nanosecond), Policy: policy(base + "/0"), Dir: dir,
			Progress: func(n, _ uint64) { done = append(done, n) },
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if r, err := open().Round(t.Context()); err != nil || r.Note.Checkpoint.Size != 300 {
		t.Fatalf("%+v, %v", r, err)
	}
	if len(done) != 3 || done[2] != 300 {
		t.Errorf("progress: %v", done)
	}
	l = l.grown(400)
	web.publish(l)
	if r, err := open().Round(t.Context()); err != nil || r.Note.Checkpoint.Size != 700 || r.From != 300 {
		t.Fatalf("%+v, %v", r, err)
	}
	web.fails["checkpoint"] = 4
	m := open()
	if _, err := m.Round(t.Context()); !errors.Is(err, monitor.ErrUnreachable) || !strings.Contains(err.Error(), "503") {
		t.Fatal(err)
	}
	web.publish(newLog(100).with(300, "fork"))
	_, err := m.Round(t.Context())
	var bad *monitor.MisbehaviourError
	if !errors.As(err, &bad) || bad.Finding.Kind != evidence.Fork {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, bad.File)); err != nil {
		t.Fatal(err)
	} else if _, err := evidence.Parse(b); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := m.Round(t.Context()); !errors.Is(err, monitor.ErrUnreachable) {
		t.Fatal(err)
	}
}

// TestLimits: a source does not take more than it asked for, nor what is not there.
func TestLimits(t *testing.T) {
	web := &webLog{now: files{"a": make([]byte, 100)}}
	server := httptest.NewServer(web)
	defer server.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]monitor.Source{
		"http": monitor.NewHTTP(server.URL+"/log", server.Client(), time.Nanosecond), "directory": monitor.Dir(dir),
	} {
		if b, err := s.Fetch(t.Context(), "a", 100); err != nil || len(b) != 100 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
		if b, err := s.Fetch(t.Context(), "a", 99); err == nil {
			t.Errorf("%s: %d bytes of 99", name, len(b))
		}
		if _, err := s.Fetch(t.Context(), "b", 99); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDir follows a directory of static files.
func TestDir(t *testing.T) {
	dir := t.TempDir()
	l := newLog(300)
	for name, b := range l.files() {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := monitor.Open(monitor.Config{Source: monitor.Dir(dir), Policy: policy(base + "/0"), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := m.Round(t.Context()); err != nil || r.Note.Checkpoint.Size != 300 {
		t.Fatalf("%+v, %v", r, err)
	}
}

// turns gives a source's checkpoints one after the other.
type turns struct {
	files
	notes [][]byte
}

func (s *turns) Fetch(ctx context.Context, path string, limit int64) ([]byte, error) {
	if path != "checkpoint" {
		return s.files.Fetch(ctx, path, limit)
	}
	b := s.notes[0]
	s.notes = s.notes[1:]
	if b == nil {
		return nil, errors.New("unplugged")
	}
	return b, nil
}

// TestRun: rounds come at their interval, go on after what may pass, and end with what
// does not.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, fork := newLog(300), newLog(100).with(100, "fork")
		s := &turns{l.files(), [][]byte{l.note().Bytes(), nil, l.cut(200).note().Bytes(), l.note().Bytes(), fork.note().Bytes()}}
		m, err := monitor.Open(monitor.Config{Source: s, Policy: policy(base + "/0"), FS: newDisk()})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var outcomes []error
		err = m.Run(t.Context(), 10*time.Second, func(r *monitor.Result, err error) {
			if (r == nil) == (err == nil) {
				t.Errorf("%+v, %v", r, err)
			}
			outcomes = append(outcomes, err)
		})
		var bad *monitor.MisbehaviourError
		if !errors.As(err, &bad) {
			t.Fatal(err)
		}
		if len(outcomes) != 4 || outcomes[0] != nil || !errors.Is(outcomes[1], monitor.ErrUnreachable) || !errors.Is(outcomes[2], monitor.ErrStale) || outcomes[3] != nil {
			t.Fatal(outcomes)
		}
		if d := time.Since(start); d != 40*time.Second {
			t.Errorf("five rounds took %v", d)
		}
	})
}

// TestRunStops when it is told to.
func TestRunStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, err := monitor.Open(monitor.Config{Source: newLog(3).files(), Policy: policy(base + "/0"), FS: newDisk()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := m.Run(ctx, time.Hour, func(*monitor.Result, error) { cancel() }); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}
