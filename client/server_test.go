package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/tlogtiles"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

// serve runs real servers over one ledger in memory, on loopback ports, and
// returns a client of them.
func serve(t testing.TB, nodes ...*servertest.Node) *client.Client {
	t.Helper()
	var addresses []string
	for _, n := range nodes {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s, err := server.New(server.Config{Node: n, Listener: l})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		addresses = append(addresses, l.Addr().String())
	}
	c, err := client.New(client.Config{Addresses: addresses, Source: "urn:test", VerifyAcks: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestAgainstServer goes through all calls against the real server.
func TestAgainstServer(t *testing.T) {
	ledger := servertest.NewLedger(nil)
	ledger.Decide(func(ev chain.Event) *chain.Verdict {
		switch ev.Kind {
		case "test.denied":
			return &chain.Verdict{Gate: "g", Decision: chain.Deny, Revision: 1, Profile: "thresholds/1", Reasons: []string{"risk>reject"}}
		case "test.gated":
			return &chain.Verdict{Gate: "g", Decision: chain.Permit, Revision: 1, Profile: "thresholds/1", Declared: ev.DeclaredEffect}
		}
		return nil
	})
	c := serve(t, ledger.Node("n1"), ledger.Node("n2"))
	ctx := t.Context()

	ev := chain.Event{
		Workspace: "w", ID: "1", Kind: "test.gated", Subject: "s", Payload: []byte("pay\x00load"), ContentType: "text/plain", DataSchema: "urn:d",
		DeclaredEffect: &chain.Effect{1, 2, 3, 4, 5}, Causes: []uint64{0}, Priority: 1, ClientTime: 77,
		Extensions: []chain.Extension{{Name: "a", Value: "b"}, {Name: "i", Value: int64(-1)}, {Name: "t", Value: true}},
	}
	ack, err := c.Append(ctx, ev)
	if err != nil || ack.Verdict == nil || ack.Verdict.Gate != "g" {
		t.Fatalf("append: %+v, %v", ack, err)
	}
	if again, err := c.Append(ctx, ev); err != nil || !again.Duplicate || again.Sequence != ack.Sequence || again.Hash != ack.Hash {
		t.Errorf("again: %+v, %v", again, err)
	}
	changed := ev
	changed.Subject = "other"
	var e *api.Error
	if _, err := c.Append(ctx, changed); !errors.As(err, &e) || e.Code != api.Conflict || e.Sequence != ack.Sequence {
		t.Errorf("conflict: %v", err)
	}
	denied, err := c.Append(ctx, chain.Event{ID: "2", Kind: "test.denied"})
	if api.CodeOf(err) != api.GateDenied || denied.Verdict == nil || denied.Verdict.Decision != chain.Deny || denied.Sequence != ack.Sequence+1 {
		t.Errorf("denied: %+v, %v", denied, err)
	}

	// Many at once.
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if _, err := c.Append(ctx, testEvent(i)); err != nil {
				t.Errorf("event %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	stats, err := c.Pump(ctx, events(1000), client.PumpOptions{})
	if err != nil || stats.Sealed != 1000 {
		t.Errorf("pump: %+v, %v", stats, err)
	}

	v := c.Verifier(client.Head{})
	h, err := v.VerifyHead(ctx)
	if err != nil || h.Size != uint64(len(ledger.Records())) {
		t.Fatalf("head: %v, %v", h, err)
	}
	if _, err := v.VerifyEntry(ctx, ack.Sequence); err != nil {
		t.Errorf("entry: %v", err)
	}
	if _, err := c.Append(ctx, testEvent(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.VerifyHead(ctx); err != nil {
		t.Errorf("grown head: %v", err)
	}
	h = v.Trusted()

	l, err := c.Lookup(ctx, chain.Key{ID: "2"})
	if err != nil || l.State != client.Denied || l.Entry.Header.Kind != "governance.deny" {
		t.Errorf("lookup of what was denied: %+v, %v", l, err)
	}
	if l, err = c.Lookup(ctx, chain.Key{ID: "never"}); err != nil || l.State != client.Unknown {
		t.Errorf("lookup of nothing: %+v, %v", l, err)
	}

	for _, reverse := range []bool{false, true} {
		var listed []uint64
		for e, err := range c.List(ctx, client.ListQuery{Filter: chain.Filter{Kind: "test.*"}, Reverse: reverse, PageSize: 100}) {
			if err != nil {
				t.Fatal(err)
			}
			listed = append(listed, e.Sequence)
		}
		if reverse {
			slices.Reverse(listed)
		}
		// All but genesis and the denial.
		if len(listed) != int(h.Size)-2 || !slices.IsSorted(listed) {
			t.Errorf("listed %d of %d entries", len(listed), h.Size)
		}
	}
	n := uint64(0)
	for e, err := range c.Watch(ctx, client.WatchQuery{}) {
		if err != nil || e.Sequence != n {
			t.Fatalf("watch: entry %d, want %d: %v", e.Sequence, n, err)
		}
		if n++; n == h.Size {
			break
		}
	}

	s, err := c.Status(ctx)
	if err != nil || s.NodeID != "n1" || s.Head.Size != h.Size {
		t.Errorf("status: %+v, %v", s, err)
	}
	if err := c.Leave(ctx, c.Addresses()[1], "n2"); err != nil {
		t.Errorf("leave: %v", err)
	}
}

// TestServerLoses: a server that commits and then says that it does not know, is
// full, or has no leader, costs no event and doubles none.
func TestServerLoses(t *testing.T) {
	ledger := servertest.NewLedger(nil)
	nodes := []*servertest.Node{ledger.Node("n1"), ledger.Node("n2")}
	var mu sync.Mutex
	calls := 0
	every := func(n, of int, code api.Code) error {
		mu.Lock()
		defer mu.Unlock()
		if calls++; calls%of == n {
			return &api.Error{Code: code, Message: "injected"}
		}
		return nil
	}
	for _, n := range nodes {
		n.SetHooks(servertest.Hooks{
			Submit: func(server.Caller, []chain.Event) error {
				return errors.Join(every(1, 7, api.NoLeader), every(3, 7, api.QueueFull))
			},
			Lost: func([]chain.Event) error { return every(4, 7, api.UnknownOutcome) },
		})
	}
	c := serve(t, nodes...)
	acks := make([]client.Ack, 500)
	var wg sync.WaitGroup
	for i := range acks {
		wg.Go(func() {
			var err error
			if acks[i], err = c.Append(t.Context(), testEvent(i)); err != nil {
				t.Errorf("event %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	records := ledger.Records()
	if len(records) != 1+len(acks) {
		t.Fatalf("%d entries for %d events", len(records)-1, len(acks))
	}
	for i, a := range acks {
		env, err := chain.DecodeEnvelope(records[a.Sequence].Envelope)
		if err != nil || string(env.Payload) != fmt.Sprintf(`{"n":%d}`, i) {
			t.Errorf("event %d was acknowledged as entry %d, which has %s", i, a.Sequence, env.Payload)
		}
	}
}

// TestUnreachableText: the error of a user whose cluster is not running.
func TestUnreachableText(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	c, err := client.New(client.Config{Addresses: []string{address}, RetryFor: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := "no address answered: tried " + address + " (connection refused); is the cluster running? start one with `exonode dev`, or correct the addresses"
	if _, err := c.Head(t.Context()); err == nil || err.Error() != want {
		t.Errorf("head: %v\nwant: %s", err, want)
	}
	_, err = c.Append(t.Context(), chain.Event{Kind: "a", Source: "b"})
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "it was not written") {
		t.Errorf("append: %v", err)
	}
}

func TestTLS(t *testing.T) {
	s, err := server.New(server.Config{Node: servertest.New()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h := httptest.NewUnstartedServer(s.Handler())
	h.EnableHTTP2 = true
	h.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	h.StartTLS()
	t.Cleanup(h.Close) // after the parallel subtests
	address := h.Listener.Addr().String()
	roots := x509.NewCertPool()
	roots.AddCert(h.Certificate())
	for name, tc := range map[string]struct {
		cfg  client.Config
		text string // of the error
	}{
		"by configuration":       {client.Config{Addresses: []string{address}, TLS: &tls.Config{RootCAs: roots}}, ""},
		"by URL":                 {client.Config{Addresses: []string{"https://" + address}, TLS: &tls.Config{RootCAs: roots}}, ""},
		"unknown authority":      {client.Config{Addresses: []string{"https://" + address}}, "unknown authority"},
		"clear text to TLS":      {client.Config{Addresses: []string{address}}, "speaks TLS"},
		"not what it says it is": {client.Config{Addresses: []string{address}, TLS: &tls.Config{RootCAs: roots, ServerName: "other.invalid"}}, "other.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tc.cfg.Source, tc.cfg.RetryFor = "urn:test", 2*time.Second
			c, err := client.New(tc.cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if tc.text != "" {
				if _, err = c.Get(t.Context(), 0); err == nil || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("%v", err)
				}
				return
			}
			if _, err = c.Append(t.Context(), testEvent(0)); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestClearTextToTLS: who speaks clear text to an API with TLS is told at once.
func TestClearTextToTLS(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	c, err := client.New(client.Config{Addresses: []string{s.Listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	begin := time.Now()
	_, err = c.Head(t.Context())
	if err == nil || !strings.Contains(err.Error(), "speaks TLS") || time.Since(begin) > 5*time.Second {
		t.Errorf("head after %v: %v", time.Since(begin), err)
	}
	_, err = c.Append(t.Context(), chain.Event{Kind: "a", Source: "b"})
	var inc *client.IncompleteError
	if !errors.As(err, &inc) || !strings.Contains(err.Error(), "speaks TLS") {
		t.Errorf("append: %v", err)
	}
}

// TestTiles: tiles and bundles come as the server has them, from a node that is far enough.
func TestTiles(t *testing.T) {
	ledger := servertest.NewLedger(nil)
	c := serve(t, ledger.Node("n1"))
	if _, err := c.Pump(t.Context(), events(299), client.PumpOptions{}); err != nil {
		t.Fatal(err)
	}
	records := ledger.Records()
	var leaves, bundle []byte
	for i, r := range records {
		h := chain.LeafHash(r.Header)
		leaves = append(leaves, h[:]...)
		if i >= 256 {
			bundle = tlogtiles.AppendEntry(bundle, r.Header)
		}
	}
	for path, want := range map[string][]byte{
		"tile/0/000": leaves[:256*32], "tile/0/001.p/44": leaves[256*32:], "tile/0/001.p/2": leaves[256*32 : 258*32], "tile/entries/001.p/44": bundle,
	} {
		tile, err := tlogtiles.Parse(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Tile(t.Context(), tile); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", path, len(got), len(want), err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Tile(ctx, tlogtiles.Tile{Index: 1, Width: 45}); api.CodeOf(err) != api.BehindSession {
		t.Errorf("beyond the tree: %v", err)
	}
}

// TestTileAnswers: what is no tile is told as what it is, and another node is asked where
// that may help.
func TestTileAnswers(t *testing.T) {
	tile := tlogtiles.Tile{Index: 1, Width: 2}
	good := bytes.Repeat([]byte{7}, 64)
	for name, c := range map[string]struct {
		first http.HandlerFunc
		code  api.Code // "" is the second node's answer
		bad   bool     // a VerifyError
	}{
		"behind":  {first: http.NotFound},
		"no JSON": {first: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "proxy", http.StatusBadGateway) }},
		"cut off": {first: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "64")
			w.Write(good[:10])
		}},
		"leaving":  {first: func(w http.ResponseWriter, _ *http.Request) { refuse(w, 503, api.NotReady) }},
		"refused":  {first: func(w http.ResponseWriter, _ *http.Request) { refuse(w, 403, api.Unauthorized) }, code: api.Unauthorized},
		"too long": {first: func(w http.ResponseWriter, _ *http.Request) { w.Write(append(good, 1)) }, bad: true},
	} {
		var addresses []string
		for _, h := range []http.HandlerFunc{c.first, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("Accept-Encoding") != "identity" || r.URL.Path != "/tile/0/001.p/2" {
				t.Errorf("%s: %s, %v", name, r.URL, r.Header)
			}
			w.Write(good)
		}} {
			s := httptest.NewUnstartedServer(h)
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.Start()
			t.Cleanup(s.Close)
			addresses = append(addresses, s.Listener.Addr().String())
		}
		cl, err := client.New(client.Config{Addresses: addresses, Token: func(context.Context) (string, error) { return "secret", nil }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cl.Close() })
		b, err := cl.Tile(t.Context(), tile)
		var bad *client.VerifyError
		if c.bad != errors.As(err, &bad) || api.CodeOf(err) != c.code || err == nil && !bytes.Equal(b, good) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
}

func refuse(w http.ResponseWriter, status int, code api.Code) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"code":%q,"message":"no"}`, code)
}
