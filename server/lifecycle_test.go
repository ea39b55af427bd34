package server_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

// TestAnswerBeforeDeadline: what a node knows when time is over reaches the caller.
func TestAnswerBeforeDeadline(t *testing.T) {
	r := start(t, nil)
	r.node.SetHooks(servertest.Hooks{Await: func(ctx context.Context, _ server.Consistency) error {
		<-ctx.Done()
		return &api.Error{Code: api.NoLeader, Message: "no leader answered"}
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := r.ledger().Head(ctx, &exonodev1.HeadRequest{})
	wantCode(t, err, api.NoLeader)
}

// A call without a deadline gets the server's.
func TestRequestTimeout(t *testing.T) {
	r := start(t, func(c *server.Config) { c.RequestTimeout = time.Millisecond })
	hold := make(chan struct{})
	defer close(hold)
	r.node.SetHooks(servertest.Hooks{Hold: hold})
	_, err := r.ledger().Append(t.Context(), &exonodev1.AppendRequest{Event: event(1)})
	wantCode(t, err, api.DeadlineExceeded)
	res, a := r.post(t, "/v1/events", structured, nil, `{"specversion":"1.0","type":"k.k","source":"s","id":"1"}`)
	if res.StatusCode != 504 || a.Code != "deadline_exceeded" {
		t.Errorf("%s %+v", res.Status, a)
	}
}

// With TLS, HTTP/1.1 and HTTP/2 both work, and streams do.
func TestTLS(t *testing.T) {
	forServer, forClient := selfSigned(t)
	r := start(t, func(c *server.Config) { c.TLS = forServer })
	r.url = strings.Replace(r.url, "http:", "https:", 1)
	for _, h2 := range []bool{false, true} {
		transport := &http.Transport{TLSClientConfig: forClient.Clone(), Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(!h2)
		transport.Protocols.SetHTTP2(h2)
		r.http = &http.Client{Transport: transport}
		if _, err := r.ledger().Append(t.Context(), &exonodev1.AppendRequest{Event: event(1)}); err != nil {
			t.Errorf("HTTP/2 %v: %v", h2, err)
		}
		if h2 {
			s := openStream(t, r, connect.WithGRPC())
			if err := s.Send(&exonodev1.AppendStreamRequest{Events: []*exonodev1.Event{event(2)}}); err != nil {
				t.Fatal(err)
			}
			if err := s.CloseRequest(); err != nil {
				t.Fatal(err)
			}
			if acks, err := collect(s); err != nil || len(acks) != 1 {
				t.Errorf("stream: %v, %v", acks, err)
			}
		}
		transport.CloseIdleConnections()
	}
}

func TestCheckListen(t *testing.T) {
	for _, test := range []struct {
		addr      string
		tls, risk bool
		code      api.Code
	}{
		{"127.0.0.1:7480", false, false, ""},
		{"127.9.9.9:7480", false, false, ""},
		{"[::1]:7480", false, false, ""},
		{"localhost:0", false, false, ""},
		{"0.0.0.0:7480", false, false, api.Precondition},
		{":7480", false, false, api.Precondition},
		{"[::]:7480", false, false, api.Precondition},
		{"10.0.0.1:7480", false, false, api.Precondition},
		{"node1.example:7480", false, false, api.Precondition},
		{"10.0.0.1:7480", true, false, ""},
		{"10.0.0.1:7480", false, true, ""},
		{"nonsense", true, true, api.BadField},
	} {
		if got := api.CodeOf(server.CheckListen(test.addr, test.tls, test.risk)); got != test.code {
			t.Errorf("CheckListen(%q, %v, %v) = %q, want %q", test.addr, test.tls, test.risk, got, test.code)
		}
	}
}

func TestCloseWithoutRun(t *testing.T) {
	s, err := server.New(server.Config{Node: servertest.New()})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := server.New(server.Config{}); err == nil {
		t.Error("a server without a node")
	}
}

// Drain: a call under way when the server stops is answered.
func TestCallsAreDrained(t *testing.T) {
	r := start(t, nil)
	hold, submitted := make(chan struct{}), make(chan struct{})
	r.node.SetHooks(servertest.Hooks{Hold: hold, Submit: func(server.Caller, []chain.Event) error {
		close(submitted)
		return nil
	}})
	answered := make(chan error, 1)
	go func() {
		_, err := r.ledger().Append(t.Context(), &exonodev1.AppendRequest{Event: event(1)})
		answered <- err
	}()
	<-submitted
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	close(hold)
	if err := <-answered; err != nil {
		t.Errorf("the call: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
}
