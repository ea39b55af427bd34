package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/exonode/exonode/chaos/history"
	"github.com/exonode/exonode/chaos/lab"
)

// A lab that people break by hand is run by a process of its own, the supervisor, which
// takes actions over a socket in the lab's directory: whoever may write there may break
// it.

const socketName = "control.sock"

// LabStatus is a lab as its supervisor tells of it.
type LabStatus struct {
	Dir    string         `json:"dir"`
	Nodes  []lab.Node     `json:"nodes"`
	Sample history.Sample `json:"sample"`
	// Active says what is wrong, in the order in which it was broken.
	Active []string `json:"active"`
	// Gone are nodes that were taken out of the cluster for good.
	Gone []string `json:"gone,omitempty"`
}

// ErrNoLab says that no lab runs in a directory: start one.
var ErrNoLab = errors.New("no chaos lab runs here")

// Supervise runs a lab until ctx ends or it is told to stop, and closes it: it carries
// out what comes over the socket, and starts nodes again that end by themselves. ready is
// called once all nodes serve. The socket goes last: who finds it gone knows that the
// nodes have stopped.
func Supervise(ctx context.Context, l *lab.Lab, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	start, cancelStart := context.WithTimeout(ctx, startLimit)
	defer cancelStart()
	if err := l.StartAll(start); err != nil {
		return errors.Join(err, l.Close())
	}
	defer l.Close() // again, where what follows fails
	c, err := NewController(l, uint64(time.Now().UnixNano()))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // the process is about to end
	path := filepath.Join(l.Dir(), socketName)
	_ = os.Remove(path) // of a supervisor that was killed
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for actions: %w", err)
	}
	s := &http.Server{Handler: controlHandler(l, c, cancel), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- s.Serve(listener) }() // joined below
	ready()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
			_, _ = c.Revive(ctx) // tried again in a second
		}
	}
	cerr := l.Close()
	stop, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancelStop()
	err = errors.Join(cerr, s.Shutdown(stop))
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

func controlHandler(l *lab.Lab, c *Controller, stop func()) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /do", func(w http.ResponseWriter, r *http.Request) {
		words, err := io.ReadAll(io.LimitReader(r.Body, 4096))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a, err := ParseAction(string(words))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, text, err := c.Do(r.Context(), a)
		switch {
		case errors.Is(err, ErrAction):
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		case err != nil:
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		fmt.Fprintln(w, text)
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s := LabStatus{Dir: l.Dir(), Nodes: l.Nodes(), Sample: c.Sample(r.Context()), Active: []string{}, Gone: c.Gone()}
		for _, a := range c.Active() {
			s.Active = append(s.Active, a.Text)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s) // the client is gone
	})
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		stop()
	})
	return mux
}

// Remote talks to the supervisor of the lab in a directory.
type Remote struct {
	dir  string
	http *http.Client
}

// Attach returns a Remote. Whether a lab runs there is seen when it is used.
func Attach(dir string) *Remote {
	var d net.Dialer
	return &Remote{dir: dir, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", filepath.Join(dir, socketName))
		},
		DisableKeepAlives: true,
	}}}
}

// Do carries an action out and returns what it did, for people. Its error wraps
// ErrAction where the supervisor does not take it for one.
func (r *Remote) Do(ctx context.Context, a Action) (string, error) {
	text, err := r.call(ctx, http.MethodPost, "/do", a.String())
	return strings.TrimSpace(string(text)), err
}

// Status tells how the lab is.
func (r *Remote) Status(ctx context.Context) (s LabStatus, err error) {
	text, err := r.call(ctx, http.MethodGet, "/status", "")
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read the supervisor's answer: %w", err)
	}
	return s, nil
}

// Leads waits until one of some nodes leads, and all of them that run follow it, and
// returns its name.
func (r *Remote) Leads(ctx context.Context, names []string) (string, error) {
	for {
		s, err := r.Status(ctx)
		if err != nil {
			return "", err
		}
		leader, agree := "", true
		known := slices.Contains(names, All)
		for _, n := range s.Sample.Nodes {
			if !slices.Contains(names, n.Name) && !slices.Contains(names, All) {
				continue
			}
			known = true
			switch {
			case !n.Up:
			case n.Leader == "" || leader != "" && n.Leader != leader:
				agree = false
			default:
				leader = n.Leader
			}
		}
		if !known {
			return "", fmt.Errorf("%w: the lab has no node %s", ErrAction, strings.Join(names, ", "))
		}
		// Those that have not noticed yet name one that is dead.
		agree = agree && slices.ContainsFunc(s.Sample.Nodes, func(n history.NodeSample) bool { return n.Up && n.Name == leader })
		if agree && (slices.Contains(names, leader) || leader != "" && slices.Contains(names, All)) {
			return leader, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("none of %s leads: %w", strings.Join(names, ", "), ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Down stops the lab and waits until its supervisor has ended.
func (r *Remote) Down(ctx context.Context) error {
	if _, err := r.call(ctx, http.MethodPost, "/down", ""); err != nil {
		return err
	}
	for {
		_, err := r.call(ctx, http.MethodGet, "/status", "")
		if errors.Is(err, ErrNoLab) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the lab does not stop: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (r *Remote) call(ctx context.Context, method, path, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return nil, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %s", ErrNoLab, r.dir)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the supervisor's answer: %w", err)
	case resp.StatusCode == http.StatusBadRequest:
		return nil, fmt.Errorf("%w: %s", ErrAction, strings.TrimPrefix(strings.TrimSpace(string(text)), ErrAction.Error()+": "))
	case resp.StatusCode >= 300:
		return nil, errors.New(strings.TrimSpace(string(text)))
	}
	return text, nil
}
