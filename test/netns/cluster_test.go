//go:build linux && netns

package netns_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/test/netns"
)

// The ports that every node uses, on its own host.
const (
	peerPort   = 7480
	gossipPort = 7481
	apiPort    = 7482
)

// newNet makes the network of one test. What is started on it later ends before
// it goes.
func newNet(ctx context.Context, t *testing.T) *netns.Net {
	t.Helper()
	n, err := netns.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// cluster is a cluster file and the nodes that run from it.
type cluster struct {
	t    *testing.T
	net  *netns.Net
	dir  string
	file string
}

// newCluster makes a cluster file as a user would.
func newCluster(ctx context.Context, t *testing.T, n *netns.Net) *cluster {
	t.Helper()
	c := &cluster{t: t, net: n, dir: t.TempDir()}
	c.file = filepath.Join(c.dir, "cluster.json")
	out, err := exec.CommandContext(ctx, program, "init", "--out", c.file, "--environment", "development").CombinedOutput()
	if err != nil {
		t.Fatalf("exonode init: %v: %s", err, out)
	}
	return c
}

// read returns what the cluster file says.
func (c *cluster) read() *node.ClusterFile {
	c.t.Helper()
	f, err := node.LoadClusterFile(c.file)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// withFile is the same cluster for nodes that have another file.
func (c *cluster) withFile(f *node.ClusterFile) *cluster {
	c.t.Helper()
	other := &cluster{t: c.t, net: c.net, dir: c.t.TempDir()}
	other.file = filepath.Join(other.dir, "cluster.json")
	if err := node.CreateClusterFile(other.file, f); err != nil {
		c.t.Fatal(err)
	}
	return other
}

// nodeAt is a node on a host, and a client that talks to it alone, from the
// same host: cuts between hosts don't concern it.
type nodeAt struct {
	*client.Client
	*process
	c    *cluster
	host *netns.Host
	data string
	args []string
	http *http.Client
	// id is the node's id, once awaitReady saw it ready.
	id string
}

// host makes a host; number n has address 10.77.0.n.
func (c *cluster) host(ctx context.Context, number int) *netns.Host {
	c.t.Helper()
	h, err := c.net.Host(ctx, "n"+strconv.Itoa(number), "10.77.0."+strconv.Itoa(number))
	if err != nil {
		c.t.Fatal(err)
	}
	return h
}

// node makes and starts a node on a host. args are flags of serve beside those
// that every node here has.
func (c *cluster) node(h *netns.Host, args ...string) *nodeAt {
	c.t.Helper()
	n := &nodeAt{c: c, host: h, data: filepath.Join(c.dir, h.Name()), args: args}
	// One transport for RPCs, which are HTTP/2 without TLS, one for the rest.
	var h2c http.Protocols
	h2c.SetUnencryptedHTTP2(true)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return h.DialContext(ctx, "tcp", "127.0.0.1:"+strconv.Itoa(apiPort))
	}
	rpc, plain := &http.Transport{Protocols: &h2c, DialContext: dial}, &http.Transport{DialContext: dial}
	n.http = &http.Client{Transport: plain}
	var err error
	n.Client, err = client.New(client.Config{Addresses: []string{h.At(apiPort)}, Source: "/test/" + h.Name(), Transport: rpc})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := n.Client.Close(); err != nil {
			c.t.Error(err)
		}
		rpc.CloseIdleConnections()
		plain.CloseIdleConnections()
	})
	n.restart()
	return n
}

// restart starts the node's process, anew where it ran before.
func (n *nodeAt) restart() {
	n.c.t.Helper()
	n.process = n.c.start(n.host.Name(), n.host.Name(), append([]string{
		"serve", "--cluster", n.c.file, "--data", n.data, "--name", n.host.Name(),
		"--log-level", "debug", "--exit-with-stdin",
	}, n.args...)...)
}

// nodes starts nodes on new hosts, which are numbered from first on.
func (c *cluster) nodes(ctx context.Context, first, count int, args ...string) []*nodeAt {
	c.t.Helper()
	var ns []*nodeAt
	for i := range count {
		ns = append(ns, c.node(c.host(ctx, first+i), args...))
	}
	return ns
}

// peer is where other nodes reach a node.
func (n *nodeAt) peer() string { return n.host.At(peerPort) }

// ready returns why the node does not serve yet.
func (n *nodeAt) ready(ctx context.Context) error {
	if !n.running() {
		return fmt.Errorf("%s ended: %w", n.name, n.err)
	}
	_, err := n.get(ctx, "/readyz")
	return err
}

// get asks the API over plain HTTP; every answer but 200 is an error.
func (n *nodeAt) get(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.host.At(apiPort)+path, nil)
	if err != nil {
		return "", err
	}
	res, err := n.http.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", n.name, res.Status, bytes.TrimSpace(body))
	}
	return string(body), err
}

// metric is the value of one of the node's metrics that has no labels.
func (n *nodeAt) metric(ctx context.Context, name string) float64 {
	n.c.t.Helper()
	text, err := n.get(ctx, "/metrics")
	if err != nil {
		n.c.t.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				n.c.t.Fatalf("metric %q: %v", line, err)
			}
			return v
		}
	}
	n.c.t.Fatalf("%s has no metric %s", n.name, name)
	return 0
}

// awaitReady waits until all nodes serve.
func awaitReady(ctx context.Context, t *testing.T, nodes ...*nodeAt) {
	t.Helper()
	for _, n := range nodes {
		eventually(ctx, t, n.name+" is ready", n.ready)
		n.id = n.mustStatus(ctx).NodeID
	}
}

// status is what a node says of itself and of the cluster.
func (n *nodeAt) status(ctx context.Context) (client.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return n.Status(ctx)
}

// mustStatus is status where no error is acceptable.
func (n *nodeAt) mustStatus(ctx context.Context) client.Status {
	n.c.t.Helper()
	s, err := n.status(ctx)
	if err != nil {
		n.c.t.Fatalf("status of %s: %v", n.name, err)
	}
	return s
}

// members counts the servers of a status by suffrage, by node id.
func members(s client.Status) map[string]string {
	out := make(map[string]string)
	for _, m := range s.Members {
		out[m.NodeID] = m.Suffrage
	}
	return out
}

// voters are the node ids of the voters of a status, sorted.
func voters(s client.Status) []string {
	var ids []string
	for _, m := range s.Members {
		if m.Suffrage == "voter" {
			ids = append(ids, m.NodeID)
		}
	}
	slices.Sort(ids)
	return ids
}

// ids are the node ids of nodes, sorted.
func ids(ctx context.Context, nodes []*nodeAt) []string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.mustStatus(ctx).NodeID)
	}
	slices.Sort(out)
	return out
}

// awaitVoters waits until every node says that exactly these nodes are the
// servers of the cluster, and voters.
func awaitVoters(ctx context.Context, t *testing.T, nodes []*nodeAt) {
	t.Helper()
	want := ids(ctx, nodes)
	for _, n := range nodes {
		eventually(ctx, t, "voters as "+n.name+" sees them", func(ctx context.Context) error {
			s, err := n.status(ctx)
			if err != nil {
				return err
			}
			if got := voters(s); !slices.Equal(got, want) || len(s.Members) != len(want) {
				return fmt.Errorf("members %v, want voters %v", members(s), want)
			}
			return nil
		})
	}
}

// leader waits until all of the nodes follow one of them, and returns it and
// the others.
func leader(ctx context.Context, t *testing.T, nodes ...*nodeAt) (lead *nodeAt, followers []*nodeAt) {
	t.Helper()
	eventually(ctx, t, "a leader", func(ctx context.Context) error {
		lead, followers = nil, nil
		said := ""
		for _, n := range nodes {
			s, err := n.status(ctx)
			if err != nil {
				return err
			}
			if s.Leader == "" || said != "" && said != s.Leader {
				return fmt.Errorf("%s follows %q, another node %q", n.name, s.Leader, said)
			}
			said = s.Leader
			if s.NodeID == said {
				lead = n
			} else {
				followers = append(followers, n)
			}
		}
		if lead == nil {
			return fmt.Errorf("%s leads, which is none of these nodes", said)
		}
		return nil
	})
	return lead, followers
}

// event is one that the development policy permits.
func event(id string) chain.Event {
	return chain.Event{
		ID: id, Kind: catalog.KindAgentSpawn, ContentType: "application/json",
		Payload: []byte(`{"agent_id": "a1", "pid": 4711, "parent_pid": 1, "program": "planner"}`),
	}
}

// submit appends an event by a node and returns its sequence.
func (n *nodeAt) submit(ctx context.Context, id string) client.Ack {
	n.c.t.Helper()
	ack, err := n.Append(ctx, event(id))
	if err != nil {
		n.c.t.Fatalf("submit %s to %s: %v", id, n.name, err)
	}
	return ack
}

// key is what an event that was submitted to this node is known by.
func (n *nodeAt) key(id string) chain.Key {
	return chain.Key{Workspace: "default", Source: "/test/" + n.host.Name(), ID: id}
}

// sameChain waits until the nodes have one chain of at least size entries: the
// same head and root, and byte for byte the same entries, which verify.
func sameChain(ctx context.Context, t *testing.T, size uint64, nodes ...*nodeAt) client.Head {
	t.Helper()
	var head client.Head
	eventually(ctx, t, "identical heads", func(ctx context.Context) error {
		for i, n := range nodes {
			h, err := n.At(client.Stale).Head(ctx)
			switch {
			case err != nil:
				return err
			case h.Size < size:
				return fmt.Errorf("%s has %d entries, want %d", n.name, h.Size, size)
			case i == 0:
				head = h
			case h != head:
				return fmt.Errorf("%s has %v, %s has %v", n.name, h, nodes[0].name, head)
			}
		}
		return nil
	})
	var first []client.Entry
	for i, n := range nodes {
		entries := n.entries(ctx, head.Size)
		if i == 0 {
			first = entries
		}
		for j, e := range entries {
			if f := first[j]; !bytes.Equal(e.Record.Header, f.Record.Header) || !bytes.Equal(e.Record.Envelope, f.Record.Envelope) {
				t.Fatalf("entry %d differs between %s and %s", j, n.name, nodes[0].name)
			}
		}
	}
	report, err := chain.Verify(ctx, source(first), chain.VerifyOptions{
		ChainID: &head.Chain, Head: &chain.Head{Size: head.Size, Hash: head.Hash, Time: head.Time}, Root: &head.Root,
	})
	if err != nil || report.Entries != head.Size {
		t.Fatalf("verify %d entries: %v (%d were)", head.Size, err, report.Entries)
	}
	return head
}

// entries are the first entries of the node's chain.
func (n *nodeAt) entries(ctx context.Context, size uint64) []client.Entry {
	n.c.t.Helper()
	var out []client.Entry
	for e, err := range n.At(client.Stale).List(ctx, client.ListQuery{To: size}) {
		if err != nil {
			n.c.t.Fatalf("list the entries of %s: %v", n.name, err)
		}
		out = append(out, e)
	}
	if uint64(len(out)) != size {
		n.c.t.Fatalf("%s lists %d entries of %d", n.name, len(out), size)
	}
	return out
}

// source is a chain.Source of entries in memory.
type source []client.Entry

// Size implements chain.Source.
func (s source) Size() uint64 { return uint64(len(s)) }

// Records implements chain.Source.
func (s source) Records(_ context.Context, from, to uint64) iter.Seq2[chain.Record, error] {
	return func(yield func(chain.Record, error) bool) {
		for _, e := range s[from:to] {
			if !yield(e.Record, nil) {
				return
			}
		}
	}
}

// lookedUp returns the entry that an event became, nil where there is none.
func (n *nodeAt) lookedUp(ctx context.Context, key chain.Key) *client.Entry {
	n.c.t.Helper()
	l, err := n.At(client.Stale).Lookup(ctx, key)
	if err != nil {
		n.c.t.Fatalf("look up %v at %s: %v", key, n.name, err)
	}
	if l.State != client.Sealed {
		return nil
	}
	return l.Entry
}

// copyDir copies a stopped node's data directory, with its permissions.
func copyDir(ctx context.Context, t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", from, err, out)
	}
}
