package main

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

func TestPickMember(t *testing.T) {
	members := []client.Member{
		{NodeID: "n2abc", Name: "n1", APIAddr: "h1:7482", PeerAddr: "h1:7480"},
		{NodeID: "nzzzz", Name: "n2", APIAddr: "h2:7482", PeerAddr: "h2:7480"},
		{NodeID: "nzyyy", Name: "twin", APIAddr: "h3:7482", PeerAddr: "h3:7480"},
		{NodeID: "nqqqq", Name: "twin", APIAddr: "h4:7482", PeerAddr: "h4:7480"},
	}
	for name, want := range map[string]string{
		"n2":      "nzzzz", // a name, though an id begins with it
		"n2a":     "n2abc",
		"nzzzz":   "nzzzz",
		"h3:7482": "nzyyy",
		"h4:7480": "nqqqq",
		"nz":      "",
		"twin":    "",
		"n9":      "",
		"":        "",
	} {
		got, err := pickMember(members, name)
		if got.NodeID != want || (err != nil) != (want == "") || want == "" && codeOf(err) != string(codeUnknownNode) {
			t.Errorf("%q: %s, %v", name, got.NodeID, err)
		}
	}
}

// onLoopback is a node whose API listens on its host's loopback, as by default; so does
// that of another member, on a host of its own, at the same address.
type onLoopback struct {
	*servertest.Node
	addr string
	left chan struct{}
}

func (n *onLoopback) Status(ctx context.Context) (server.Status, error) {
	s, err := n.Node.Status(ctx)
	s.NodeID, s.Leader = "nhere", "nthere"
	s.Members = []server.Member{
		{NodeID: "nhere", Name: "here", APIAddr: n.addr, Suffrage: "voter"},
		{NodeID: "nthere", Name: "there", APIAddr: n.addr, Suffrage: "voter", Leader: true},
	}
	return s, err
}

func (n *onLoopback) Leave(context.Context) error { close(n.left); return nil }

// TestNamedNode: a command about a node that is named reaches that one, or fails: never
// the one that happens to answer where the other says that it is.
func TestNamedNode(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &onLoopback{Node: servertest.New(), addr: l.Addr().String(), left: make(chan struct{})}
	s, err := server.New(server.Config{Node: n, Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	command := func(args ...string) (int, string) {
		var stderr strings.Builder
		code := run(ctx, append(args, "--addr", n.addr, "--timeout", "10s"), strings.NewReader(""), io.Discard, &stderr)
		return code, stderr.String()
	}
	for _, args := range [][]string{
		{"cluster", "leave", "there", "--yes"},
		{"cluster", "leave", "nthere", "--yes"},
		{"cluster", "transfer"},
		{"cluster", "rotate-log-key"},
		{"verify", "--node", "there"},
		{"export", "--node", "there", "--out", t.TempDir() + "/x"},
	} {
		code, text := command(args...)
		if code != exitFailure || !strings.Contains(text, string(codeUnreachable)) || !strings.Contains(text, "host") {
			t.Errorf("%q: exit status %d: %s", args, code, text)
		}
	}
	select {
	case <-n.left:
		t.Fatal("the node that answered left in the place of the one that was named")
	default:
	}
	if code, text := command("cluster", "leave", "here", "--yes"); code != exitOK {
		t.Errorf("leave here: exit status %d: %s", code, text)
	}
	select {
	case <-n.left:
	case <-time.After(10 * time.Second):
		t.Error("the node that was named did not leave")
	}
}

// TestPackageNames: what packages put before their errors is left out, and nothing else.
func TestPackageNames(t *testing.T) {
	for in, want := range map[string]string{
		"ledger: open database: no":                    "open database: no",
		"close: node: raftstore: no":                   "close: no",
		"it may be in the chain: submit it again":      "it may be in the chain: submit it again",
		"ledger tm/d/ledger: open database: node: no":  "ledger tm/d/ledger: open database: no",
		"the client: it is gone":                       "the client: it is gone",
		"signing: contradicts what was signed before":  "contradicts what was signed before",
		"checkpoint of a node: not signed by the node": "checkpoint of a node: not signed by the node",
	} {
		if got := plainly(errors.New(in)); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
