package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/chain/tlogtiles"
	"github.com/exonode/exonode/chaos/lab"
	"github.com/exonode/exonode/client/tiledir"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/server"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"exonode": main})
}

// TestScripts runs the program as people do, against real nodes that run in the
// test's own process.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, "xdg"))
			nodes := &scriptNodes{running: map[string]*scriptNode{}}
			env.Values[nodesKey{}] = nodes
			env.Defer(func() { nodes.stopAll() })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"node":      startNode,
			"pair":      startPair,
			"halt":      stopNode,
			"listen":    listen,
			"lines":     writeLines,
			"big":       writeBig,
			"secret":    swapSecret,
			"authority": makeAuthority,
			"damage":    damage,
			"flip":      flip,
			"forget":    forget,
			"forge":     forge,
			"status":    wantStatus,
			"tail":      tail,
			"interrupt": interruptSubmit,
		},
	})
}

type nodesKey struct{}

// scriptNodes are the nodes of one script.
type scriptNodes struct {
	mu      sync.Mutex // guards running
	running map[string]*scriptNode
}

type scriptNode struct {
	cancel context.CancelFunc
	done   chan error
}

func (n *scriptNode) stop() error {
	n.cancel()
	return <-n.done
}

func (s *scriptNodes) stopAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.running {
		_ = n.stop() // the script has ended
	}
	s.running = nil
}

// startNode is `node NAME CLUSTER [SEED | tls CERT KEY]`: it starts a node with data directory
// NAME and returns once it serves, with EXONODE_ADDR set to its API (the first
// node's) and NAME_api and NAME_peer to its addresses. Without a seed it forms a
// cluster alone.
func startNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: node NAME CLUSTER [SEED | tls CERT KEY]")
	}
	cfg := scriptConfig(ts, args[0], args[1])
	switch len(args) {
	case 3:
		cfg.Discovery = node.Discovery{Seeds: args[2:]}
	case 5:
		pair, err := tls.LoadX509KeyPair(ts.MkAbs(args[3]), ts.MkAbs(args[4]))
		ts.Check(err)
		cfg.API.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	await(ts, begin(ts, cfg))
}

// startPair is `pair NAME NAME CLUSTER`: node for two that form a cluster of two
// voters: without either there is no quorum.
func startPair(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: pair NAME NAME CLUSTER")
	}
	first, second := scriptConfig(ts, args[0], args[2]), scriptConfig(ts, args[1], args[2])
	discovery := node.Discovery{Seeds: []string{first.Listen.Peer}, Expect: 2}
	first.Discovery, second.Discovery = discovery, discovery
	a, b := begin(ts, first), begin(ts, second)
	await(ts, a)
	await(ts, b)
}

// scriptConfig is of a node that forms a cluster alone.
func scriptConfig(ts *testscript.TestScript, name, file string) node.Config {
	cluster, err := node.LoadClusterFile(ts.MkAbs(file))
	ts.Check(err)
	return node.Config{
		DataDir: ts.MkAbs(name), Cluster: cluster, Name: name, Version: "test",
		Listen:    node.Listen{Peer: freeAddr(ts), Gossip: "127.0.0.1:0"},
		Discovery: node.Discovery{Expect: 1},
		API:       node.API{Listen: "127.0.0.1:0"},
		Timing:    node.Loopback(),
		Logger:    slog.New(slog.NewTextHandler(nodeLog(), nil)),
		Fatal:     func(err error) { panic(err) },
	}
}

// begin runs a node until the script ends or stops it.
func begin(ts *testscript.TestScript, cfg node.Config) *node.Node {
	n, err := node.New(cfg)
	ts.Check(err)
	ctx, cancel := context.WithCancel(context.Background())
	run := &scriptNode{cancel: cancel, done: make(chan error, 1)}
	go func() { run.done <- n.Run(ctx) }()
	nodes := ts.Value(nodesKey{}).(*scriptNodes)
	nodes.mu.Lock()
	nodes.running[cfg.Name] = run
	nodes.mu.Unlock()
	ts.Setenv(cfg.Name+"_api", n.APIAddr())
	ts.Setenv(cfg.Name+"_peer", cfg.Listen.Peer)
	ts.Setenv(cfg.Name+"_id", n.NodeID())
	return n
}

// await returns once a node serves.
func await(ts *testscript.TestScript, n *node.Node) {
	ready, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	_, err := n.Await(ready, server.Consistency{Level: server.Linearizable})
	ts.Check(err)
	if ts.Getenv("EXONODE_ADDR") == "" {
		ts.Setenv("EXONODE_ADDR", n.APIAddr())
	}
}

func nodeLog() io.Writer {
	if testing.Verbose() {
		return os.Stderr
	}
	return io.Discard
}

func freeAddr(ts *testscript.TestScript) string {
	addr, err := lab.FreeAddr()
	ts.Check(err)
	return addr
}

// stopNode is `halt NAME`; it returns once the node is down. (The package's
// own stop ends the script.)
func stopNode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: halt NAME")
	}
	nodes := ts.Value(nodesKey{}).(*scriptNodes)
	nodes.mu.Lock()
	n := nodes.running[args[0]]
	delete(nodes.running, args[0])
	nodes.mu.Unlock()
	if n == nil {
		ts.Fatalf("no node %s runs", args[0])
	}
	ts.Check(n.stop())
}

// listen is `listen NAME`: it occupies a TCP port for the rest of the script and
// sets NAME to its address.
func listen(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], l.Addr().String())
}

// writeLines is `lines FILE N`: events without ids, as JSON lines.
func writeLines(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"kind":"agent.exit","data":{"agent_id":"a%d","pid":%d,"exit_code":0}}`+"\n", i, i+1)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(b.String()), 0o600))
}

// writeBig is `big FILE N`: a JSON object of N bytes.
func writeBig(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	text := `{"x":"` + strings.Repeat("x", n-len(`{"x":""}`)) + `"}`
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// swapSecret is `secret OUT OF WITH`: cluster file OF with the secret of WITH.
func swapSecret(ts *testscript.TestScript, _ bool, args []string) {
	of, err := node.LoadClusterFile(ts.MkAbs(args[1]))
	ts.Check(err)
	with, err := node.LoadClusterFile(ts.MkAbs(args[2]))
	ts.Check(err)
	out, err := node.NewClusterFile(with.Secret, of.Document)
	ts.Check(err)
	ts.Check(node.CreateClusterFile(ts.MkAbs(args[0]), out))
}

// forgery is a log of three entries.
type forgery struct{ tree chain.Tree }

func (f *forgery) Tile(_ context.Context, tile tlogtiles.Tile) ([]byte, error) {
	if tile.Entries {
		var b []byte
		for _, e := range []string{"a", "b", "c"} {
			b = tlogtiles.AppendEntry(b, []byte(e))
		}
		return b, nil
	}
	_, hashes := f.tree.Partial(tile.Level)
	return hashes, nil
}

// forge is `forge DIR CHECKPOINT`: it writes another log of the checkpoint's name.
func forge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: forge DIR CHECKPOINT")
	}
	origin, _, _ := strings.Cut(ts.ReadFile(args[1]), "\n")
	var f forgery
	for _, e := range []string{"a", "b", "c"} {
		f.tree.Append([]byte(e), nil)
	}
	signer, err := checkpoint.NewLogSigner(origin, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	ts.Check(err)
	n := &checkpoint.Note{Checkpoint: checkpoint.Checkpoint{Origin: origin, Size: f.tree.Size(), Root: f.tree.Root()}}
	signature, err := signer.Sign(&n.Checkpoint, 0)
	ts.Check(err)
	n.Add(signature)
	_, err = tiledir.Write(context.Background(), tiledir.Config{Dir: ts.MkAbs(args[0]), Source: &f}, n)
	ts.Check(err)
}

// makeAuthority is `authority CA CERT KEY`: a self-signed certificate for
// 127.0.0.1, which is its own authority.
func makeAuthority(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	for i, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: cert}, {Type: "CERTIFICATE", Bytes: cert}, {Type: "PRIVATE KEY", Bytes: private}} {
		ts.Check(os.WriteFile(ts.MkAbs(args[i]), pem.EncodeToMemory(block), 0o600))
	}
}

// damage is `damage DIR TABLE NUMBER [FIELD]`: it flips a bit of a row of a stopped
// node's ledger, behind the back of the store's checksums. TABLE is header, envelope or
// tile (of level 0); NUMBER is the sequence or index. The bit is in the middle of the
// row, or of a header's FIELD: node or previous.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.ParseUint(args[2], 10, 64)
	ts.Check(err)
	// The layout of keys stands in package ledger's documentation.
	prefix := map[string]string{"header": "h", "envelope": "e", "tile": "t\x00"}[args[1]]
	key := []byte(prefix)
	for shift := 56; shift >= 0; shift -= 8 {
		key = append(key, byte(n>>shift))
	}
	db, err := pebble.Open(filepath.Join(ts.MkAbs(args[0]), "ledger", "db"), &pebble.Options{FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{}})
	ts.Check(err)
	value, closer, err := db.Get(key)
	ts.Check(err)
	changed := append([]byte(nil), value...)
	ts.Check(closer.Close())
	at := len(changed) / 2
	if len(args) > 3 {
		h, err := chain.DecodeHeader(changed)
		ts.Check(err)
		field := map[string]string{"node": h.SealingNode, "previous": string(h.Previous[:])}[args[3]]
		at = bytes.Index(changed, []byte(field)) + len(field)/2
		// Of a text, to another letter: as a text it stays good.
		for args[3] == "node" && (changed[at] < 'b' || changed[at] >= 'z') {
			at++
		}
	}
	changed[at] ^= 1
	ts.Check(db.Set(key, changed, pebble.Sync))
	ts.Check(db.Close())
}

// flip is `flip DIR`: it flips a bit in the middle of the largest table file of a
// stopped node's ledger.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	files, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "ledger", "db", "*.sst"))
	ts.Check(err)
	var largest string
	var content []byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		ts.Check(err)
		if len(b) > len(content) {
			largest, content = f, b
		}
	}
	if largest == "" {
		ts.Fatalf("no tables in %s", args[0])
	}
	content[len(content)/2] ^= 1
	ts.Check(os.WriteFile(largest, content, 0o600))
}

// forget is `forget DIR`: the ledger of a stopped node is empty again, as it is
// after a crash before its first flush.
func forget(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(ts.MkAbs(args[0]), "ledger")
	ts.Check(os.RemoveAll(dir))
	store, err := ledger.Create(dir, ledger.Options{})
	ts.Check(err)
	ts.Check(store.Close())
}

// wantStatus is `status N COMMAND…`: the command must exit with status N.
func wantStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

// tail is `tail FLAGS…`: it follows in this process, submits an event once the
// newest entry was printed, interrupts once the new one is, and wants success.
func tail(ts *testscript.TestScript, _ bool, args []string) {
	addr := "--addr=" + ts.Getenv("EXONODE_ADDR")
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	out, in := io.Pipe()
	var complaints bytes.Buffer
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, append([]string{"tail", addr, "-n", "1", "-o", "json"}, args...), nil, in, &complaints)
		in.Close()
	}()
	const id = "after-tail-began"
	printed := bufio.NewScanner(out)
	for n := 0; printed.Scan(); n++ {
		if n == 0 {
			if code := run(ctx, []string{"submit", addr, "--kind", "app.note", "--id", id}, nil, io.Discard, &complaints); code != 0 {
				ts.Fatalf("submit: status %d: %s", code, complaints.String())
			}
		}
		if strings.Contains(printed.Text(), id) {
			interrupt()
			break
		}
	}
	_, _ = io.Copy(io.Discard, out) // until tail has ended
	if code := <-status; code != 0 || ctx.Err() == nil {
		ts.Fatalf("status %d: %s", code, complaints.String())
	}
}

// interruptSubmit is `interrupt FILE N FLAGS…`: it submits in this process, gives
// the first N lines of the file on standard input, and interrupts while the input
// is still open.
func interruptSubmit(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	text := ts.ReadFile(args[0])
	ctx, interrupt := context.WithCancel(context.Background())
	defer interrupt()
	in, lines := io.Pipe()
	var complaints bytes.Buffer
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, append([]string{"submit", "--addr=" + ts.Getenv("EXONODE_ADDR")}, args[2:]...), in, io.Discard, &complaints)
	}()
	for line := range strings.Lines(text) {
		if n--; n < 0 {
			break
		}
		_, err := io.WriteString(lines, line)
		ts.Check(err)
	}
	interrupt()
	if code := <-status; code != exitFailure || !strings.Contains(complaints.String(), "(interrupted)") || !strings.Contains(complaints.String(), "goes on") {
		ts.Fatalf("status %d: %s", code, complaints.String())
	}
}

// quiet drops what Pebble logs.
type quiet struct{}

func (quiet) Infof(string, ...any)           {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }
