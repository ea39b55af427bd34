package server_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"go.uber.org/goleak"

	"github.com/exonode/exonode/api"
	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/api/exonode/v1/exonodev1connect"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server on a loopback port over a ledger in memory.
type rig struct {
	node *servertest.Node
	url  string
	// stop ends Run and returns its error.
	stop func() error
	http *http.Client // HTTP/2 with prior knowledge
}

func start(t testing.TB, change func(*server.Config)) *rig {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{node: servertest.New(), url: "http://" + listener.Addr().String()}
	cfg := server.Config{Node: r.node, Listener: listener}
	if change != nil {
		change(&cfg)
	}
	s, err := server.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	r.stop = func() error {
		ended = true
		cancel()
		return <-done
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	r.http = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		cancel()
		if !ended {
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		}
	})
	return r
}

func (r *rig) ledger(options ...connect.ClientOption) exonodev1connect.LedgerServiceClient {
	return exonodev1connect.NewLedgerServiceClient(r.http, r.url, options...)
}

func (r *rig) cluster(options ...connect.ClientOption) exonodev1connect.ClusterServiceClient {
	return exonodev1connect.NewClusterServiceClient(r.http, r.url, options...)
}

// get returns status and body of a plain HTTP request.
func (r *rig) do(t testing.TB, method, path string, header map[string]string, body io.Reader) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	res, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

// protocols are the ways of calling.
var protocols = map[string][]connect.ClientOption{
	"connect":      nil,
	"connect json": {connect.WithProtoJSON()},
	"grpc":         {connect.WithGRPC()},
	"grpc-web":     {connect.WithGRPCWeb()},
	"gzip":         {connect.WithSendGzip()},
	"http get":     {connect.WithHTTPGet()},
}

func event(i int) *exonodev1.Event {
	return &exonodev1.Event{
		Source: "test", Id: fmt.Sprintf("e%d", i), Kind: "agent.spawn",
		Text: fmt.Sprintf(`{"pid": %d}`, i),
	}
}

// fill appends n events.
func fill(t testing.TB, r *rig, from, n int) {
	t.Helper()
	req := new(exonodev1.AppendBatchRequest)
	for i := range n {
		req.Events = append(req.Events, event(from+i))
	}
	res, err := r.ledger().AppendBatch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range res.GetAcks() {
		if a.GetError() != nil {
			t.Fatalf("event %d: %v", i, a.GetError())
		}
	}
}

// wantCode fails where err does not carry code.
func wantCode(t testing.TB, err error, code api.Code) *api.Error {
	t.Helper()
	e := api.FromConnect(err)
	if e == nil || e.Code != code {
		t.Fatalf("got error %v, want code %s", err, code)
	}
	return e
}

// selfSigned returns a TLS config for 127.0.0.1 and one that trusts it.
func selfSigned(t testing.TB) (forServer, forClient *tls.Config) {
	t.Helper()
	cert, pool := certificate(t)
	return &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: pool}
}
