package tiledir_test

import (
	"context"
	"fmt"
	"iter"
	"net"
	"path/filepath"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/client/tiledir"
	"github.com/exonode/exonode/server"
)

// node serves a log; what it does not implement of server.Node is not called.
type node struct {
	server.Node
	log *testLog
}

func (n *node) TreeSize(context.Context) (uint64, error) { return n.log.tree.Size(), nil }

func (n *node) ReadTile(_ context.Context, level int, index uint64, width int) ([]byte, error) {
	return n.log.tree.Reader(n.log).ReadTile(level, index, width)
}

func (n *node) Headers(_ context.Context, from, to uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, e := range n.log.entries[from:to] {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// BenchmarkWrite exports a whole log of 65,537 headers to disk: from memory, which is what
// hashing and the disk's syncs cost, and over HTTP from a server on loopback.
func BenchmarkWrite(b *testing.B) {
	const size = 65_537
	l := newLog(origin, 0, 0)
	head := chain.Head{}
	for n := range size {
		s, err := chain.Seal(&chain.SealInput{
			ChainID: chain.ID{0xe0}, Prev: head, Stamp: 1_780_000_000e9, Principal: "local", SealingNode: "node-1",
			Event: &chain.Event{Workspace: "default", Source: "urn:test", ID: fmt.Sprint(n), Kind: "test.event", Payload: []byte("payload")},
		})
		if err != nil {
			b.Fatal(err)
		}
		head = s.Head
		l.append(s.Header)
	}
	note := l.note(b, size)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, err := server.New(server.Config{Node: &node{log: l}, Listener: listener})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	c, err := client.New(client.Config{Addresses: []string{listener.Addr().String()}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	for name, source := range map[string]tiledir.Source{"memory": l, "http": c.Reader} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			var bytes int64
			for i := 0; b.Loop(); i++ {
				r, err := tiledir.Write(b.Context(), tiledir.Config{Dir: filepath.Join(dir, fmt.Sprint(i)), Source: source}, note)
				if err != nil {
					b.Fatal(err)
				}
				bytes = r.Bytes
			}
			b.SetBytes(bytes)
			b.ReportMetric(size*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
