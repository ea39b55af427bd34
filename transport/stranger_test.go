package transport_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/transport"
)

// outcomes are what a stranger and the node that it calls hear.
type outcomes struct{ dialer, acceptor error }

// TestStrangersAreRefused: each stranger tries every class; none reaches a
// handler or raft.
func TestStrangersAreRefused(t *testing.T) {
	notMember := outcomes{transport.ErrNotMember, transport.ErrNotMember}
	for _, tc := range []struct {
		name   string
		setup  func(t *testing.T, w *world, n *node) *node
		member outcomes // in the classes of members
		proven outcomes // in the classes that prove the secret; zero: let in
	}{
		{
			name:   "unknown key",
			setup:  func(t *testing.T, w *world, n *node) *node { return w.start(t, "stranger") },
			member: notMember,
		},
		{
			name: "wrong secret",
			setup: func(t *testing.T, w *world, n *node) *node {
				other := newWorld(t).secret
				return w.start(t, "stranger", func(c *transport.Config) { c.Secret = other })
			},
			member: notMember,
			proven: outcomes{transport.ErrWrongSecret, transport.ErrWrongSecret},
		},
		{
			name: "other genesis",
			setup: func(t *testing.T, w *world, n *node) *node {
				return w.start(t, "stranger", func(c *transport.Config) { c.Genesis[0]++ })
			},
			member: notMember,
			proven: outcomes{transport.ErrForeignCluster, transport.ErrForeignCluster},
		},
		{
			name: "other secret and genesis",
			setup: func(t *testing.T, w *world, n *node) *node {
				other := newWorld(t).secret
				return w.start(t, "stranger", func(c *transport.Config) { c.Genesis[0]++; c.Secret = other })
			},
			member: notMember,
			proven: outcomes{transport.ErrForeignCluster, transport.ErrForeignCluster},
		},
		{
			name: "removed member",
			setup: func(t *testing.T, w *world, n *node) *node {
				s := w.start(t, "stranger")
				n.members.add(s)
				n.members.remove(s.NodeID())
				return s
			},
			member: outcomes{transport.ErrRemoved, transport.ErrRemoved},
			proven: outcomes{transport.ErrRemoved, transport.ErrRemoved},
		},
		{
			name: "member that lost its data",
			setup: func(t *testing.T, w *world, n *node) *node {
				s := w.start(t, "stranger", func(c *transport.Config) { c.Incarnation = "ffffffffffffffff" })
				n.members.set(func(m *members) {
					m.servers[s.NodeID()] = transport.ServerID(s.NodeID(), incarnation)
				})
				return s
			},
			member: outcomes{transport.ErrWrongServer, transport.ErrWrongServer},
		},
		{
			name: "member that takes us for what we were",
			setup: func(t *testing.T, w *world, n *node) *node {
				s := w.start(t, "stranger")
				n.members.add(s)
				s.members.set(func(m *members) {
					m.servers[n.NodeID()] = transport.ServerID(n.NodeID(), "ffffffffffffffff")
				})
				return s
			},
			member: outcomes{transport.ErrWrongServer, transport.ErrWrongServer},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				n := w.start(t, "n")
				n.members.add(n)
				n.members.set(func(m *members) { m.leader = "stranger" })
				session := attach(t, n)
				reached := 0
				classes := []transport.Class{transport.ClassCall, transport.ClassFetch, transport.ClassJoin}
				for _, class := range classes {
					n.Handle(class, "enter", func(context.Context, transport.Peer, []byte) ([]byte, error) {
						reached++
						return nil, nil
					})
				}
				s := tc.setup(t, w, n)
				if _, ok := s.members.Member(n.NodeID()); !ok {
					s.members.add(n) // the stranger's own scruples don't count
				}
				target, _ := s.members.Member(n.NodeID())
				check := func(class transport.Class, got error, want outcomes) {
					t.Helper()
					if !errors.Is(got, want.dialer) || !errors.Is(got, transport.ErrUnreachable) {
						t.Errorf("%s: the stranger hears %v", class, got)
					}
					synctest.Wait() // it is told after the stranger
					refusals := n.refusals()
					if len(refusals) == 0 || !errors.Is(refusals[len(refusals)-1], want.acceptor) {
						t.Errorf("%s: the node hears %v", class, refusals)
					}
				}
				for _, class := range classes {
					want := tc.proven
					if class == transport.ClassCall {
						want = tc.member
					}
					_, err := s.call(n, class, "enter", "")
					if want == (outcomes{}) {
						if err != nil || reached != 1 {
							t.Errorf("%s: %v", class, err)
						}
						reached = 0
						continue
					}
					check(class, err, want)
				}
				err := attach(t, s).RequestVote(target, raft.ServerAddress(n.NodeID()),
					&raft.RequestVoteRequest{RPCHeader: header(s), Term: 7}, new(raft.RequestVoteResponse))
				check(transport.ClassRaft, err, tc.member)
				if reached != 0 {
					t.Errorf("handlers were reached %d times", reached)
				}
				select {
				case rpc := <-session.Consumer():
					t.Errorf("raft was reached: %+v", rpc.Command)
				default:
				}
			})
		})
	}
}

// attach starts a raft session for the test's time.
func attach(tb testing.TB, n *node) *transport.RaftTransport {
	tb.Helper()
	r, err := n.AttachRaft()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = r.Close() })
	return r
}

// The dialer has its own doubts about whom it reaches.
func TestDialerRefuses(t *testing.T) {
	for _, tc := range []struct {
		name string
		try  func(t *testing.T, w *world, a, b *node) error
		want error
	}{
		{"another node at the address", func(t *testing.T, w *world, a, b *node) error {
			_, _, err := a.Call(context.Background(), transport.ClassJoin, transport.PeerRef{NodeID: identity("c").NodeID(), Addr: "b"}, "echo", nil)
			return err
		}, transport.ErrWrongIdentity},
		{"itself by id", func(t *testing.T, w *world, a, b *node) error {
			_, err := a.call(a, transport.ClassJoin, "echo", "")
			return err
		}, transport.ErrSelf},
		{"itself by address", func(t *testing.T, w *world, a, b *node) error {
			_, _, err := a.Call(context.Background(), transport.ClassJoin, transport.PeerRef{Addr: "a"}, "echo", nil)
			return err
		}, transport.ErrSelf},
		{"call to no member", func(t *testing.T, w *world, a, b *node) error {
			a.members.set(func(m *members) { delete(m.servers, b.NodeID()) })
			_, err := a.call(b, transport.ClassCall, "echo", "")
			return err
		}, transport.ErrNotMember},
		{"fetch from a removed node", func(t *testing.T, w *world, a, b *node) error {
			a.members.remove(b.NodeID())
			_, err := a.call(b, transport.ClassFetch, "echo", "")
			return err
		}, transport.ErrNotMember},
		{"join call to a removed node", func(t *testing.T, w *world, a, b *node) error {
			a.members.remove(b.NodeID())
			_, err := a.call(b, transport.ClassJoin, "echo", "")
			return err
		}, transport.ErrNotMember},
		{"join call to whoever is there, who was removed", func(t *testing.T, w *world, a, b *node) error {
			a.members.remove(b.NodeID())
			_, _, err := a.Call(context.Background(), transport.ClassJoin, transport.PeerRef{Addr: "b"}, "echo", nil)
			return err
		}, transport.ErrNotMember},
		{"raft that does not run", func(t *testing.T, w *world, a, b *node) error {
			return attach(t, a).TimeoutNow(b.ServerID(), raft.ServerAddress(b.NodeID()), &raft.TimeoutNowRequest{RPCHeader: header(a)}, new(raft.TimeoutNowResponse))
		}, transport.ErrNotReady},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a, b := w.pair(t)
				b.echo(transport.ClassJoin)
				if err := tc.try(t, w, a, b); !errors.Is(err, tc.want) || !errors.Is(err, transport.ErrUnreachable) || errors.Is(err, transport.ErrRemoved) {
					t.Error(err)
				}
			})
		})
	}
}

// rawTLS dials host beneath the transport's own dialer.
func rawTLS(t *testing.T, w *world, host string, cfg *tls.Config) *tls.Conn {
	t.Helper()
	raw, err := w.net.Dialer("raw")(context.Background(), host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	cfg.InsecureSkipVerify = true
	return tls.Client(raw, cfg)
}

func selfSigned(t *testing.T, seed string) tls.Certificate {
	t.Helper()
	key := ed25519.NewKeyFromSeed([]byte(seed + "00000000000000000000000000000000")[:ed25519.SeedSize])
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestMalformedStrangers(t *testing.T) {
	hello := func(parts ...string) []byte {
		b := []byte{0, 0, 0, 0, 1}
		for _, p := range parts {
			b = append(append(b, byte(len(p))), p...)
		}
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		return b
	}
	for _, tc := range []struct {
		name  string
		cfg   func(t *testing.T) *tls.Config
		hello []byte
		reply byte // a welcome's status; 0: the connection just ends
	}{
		{name: "no certificate", cfg: func(t *testing.T) *tls.Config {
			return &tls.Config{NextProtos: []string{string(transport.ClassJoin)}}
		}, hello: hello("", "", "", "")},
		{name: "no class", cfg: func(t *testing.T) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{selfSigned(t, "raw")}}
		}, hello: hello("", "", "", "")},
		{name: "unknown class", cfg: func(t *testing.T) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{selfSigned(t, "raw")}, NextProtos: []string{"h2"}}
		}},
		{name: "TLS 1.2", cfg: func(t *testing.T) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{selfSigned(t, "raw")}, NextProtos: []string{string(transport.ClassJoin)}, MaxVersion: tls.VersionTLS12}
		}},
		{name: "empty proof", cfg: func(t *testing.T) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{selfSigned(t, "raw")}, NextProtos: []string{string(transport.ClassJoin)}}
		}, hello: hello("", "", "", ""), reply: 1},
		{name: "unknown version", cfg: func(t *testing.T) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{selfSigned(t, "raw")}, NextProtos: []string{string(transport.ClassJoin)}}
		}, hello: []byte{0, 0, 0, 1, 2}, reply: 8},
		{name: "huge hello", cfg: func(t *testing.T) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{selfSigned(t, "raw")}, NextProtos: []string{string(transport.ClassJoin)}}
		}, hello: []byte{255, 255, 255, 255}},
		{name: "silence", cfg: func(t *testing.T) *tls.Config {
			return &tls.Config{Certificates: []tls.Certificate{selfSigned(t, "raw")}, NextProtos: []string{string(transport.ClassJoin)}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				n := w.start(t, "n")
				c := rawTLS(t, w, "n", tc.cfg(t))
				if err := c.Handshake(); err == nil && tc.hello != nil {
					_, _ = c.Write(tc.hello)
				}
				got, err := io.ReadAll(c) // ends at the handshake limit at the latest
				switch {
				case tc.reply == 0 && len(got) != 0:
					t.Errorf("the stranger was told %x", got)
				case tc.reply != 0 && (len(got) != 7 || got[5] != tc.reply):
					t.Errorf("the stranger was told %x (%v), want status %d", got, err, tc.reply)
				}
				synctest.Wait()
				if s := n.Stats(); s.Connections != 0 {
					t.Errorf("%d connections", s.Connections)
				}
			})
		})
	}
}

// A rogue acceptor that has no secret can't pass for a node: it sends the
// dialer's own proof back. Nor can it tell the dialer that it was removed, for
// which a node would give up.
func TestRogueAcceptor(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status byte
		echo   bool
	}{{"welcomes", 0, true}, {"welcomes without a proof", 0, false}, {"removes", 4, true}, {"removes without a proof", 4, false}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.start(t, "a")
				ln, err := w.net.Listen("rogue")
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				go func() {
					raw, err := ln.Accept()
					if err != nil {
						return
					}
					defer raw.Close()
					c := tls.Server(raw, &tls.Config{
						Certificates: []tls.Certificate{selfSigned(t, "rogue")}, ClientAuth: tls.RequireAnyClientCert,
						NextProtos: []string{string(transport.ClassJoin)},
					})
					frame := make([]byte, 512)
					n, err := bufio.NewReader(c).Read(frame)
					if err != nil {
						return
					}
					proof := []byte{0}
					if tc.echo {
						proof = frame[n-33 : n] // with its length
					}
					reply := append([]byte{0, 0, 0, 0, 1, tc.status}, proof...)
					binary.BigEndian.PutUint32(reply, uint32(len(reply)-4))
					_, _ = c.Write(reply)
					_, _ = io.Copy(io.Discard, c)
				}()
				_, _, err = a.Call(context.Background(), transport.ClassJoin, transport.PeerRef{Addr: "rogue"}, "join", []byte("who I am"))
				if !errors.Is(err, transport.ErrWrongSecret) || errors.Is(err, transport.ErrRemoved) {
					t.Error(err)
				}
			})
		})
	}
}

func TestConnectionLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.pair(t, func(c *transport.Config) { c.Limits.Pending, c.Limits.PerPeer = 3, 2 })
		for _, class := range []transport.Class{transport.ClassCall, transport.ClassFetch, transport.ClassJoin} {
			b.echo(class)
		}
		for _, class := range []transport.Class{transport.ClassCall, transport.ClassFetch} {
			if _, err := a.call(b, class, "echo", ""); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.call(b, transport.ClassJoin, "echo", ""); !errors.Is(err, transport.ErrBusy) {
			t.Errorf("third connection: %v", err)
		}
		synctest.Wait() // until its handshake no longer counts
		var silent []net.Conn
		for range 5 {
			c, err := w.net.Dialer("raw")(context.Background(), "b")
			if err != nil {
				t.Fatal(err)
			}
			silent = append(silent, c)
		}
		synctest.Wait()
		if got := b.Stats().Overload; got != 2 {
			t.Errorf("%d of 5 silent connections dropped, want 2", got)
		}
		time.Sleep(10 * time.Second) // in the bubble: past the handshake limit
		for i, c := range silent {
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
				t.Errorf("silent connection %d is still open", i)
			}
			_ = c.Close()
		}
	})
}

func TestRemovalClosesConnections(t *testing.T) {
	for _, tc := range []struct {
		name string
		act  func(b *node, nodeID string)
	}{
		{"recheck", func(b *node, nodeID string) { b.members.remove(nodeID); b.Recheck() }},
		{"drop", func(b *node, nodeID string) { b.members.remove(nodeID); b.Drop(nodeID) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				a, b := w.pair(t)
				c := w.start(t, "c")
				c.members.add(a, b, c)
				a.members.add(c)
				b.members.add(c)
				for _, class := range []transport.Class{transport.ClassCall, transport.ClassFetch} {
					b.Handle(class, "wait", func(ctx context.Context, _ transport.Peer, _ []byte) ([]byte, error) {
						<-ctx.Done()
						return nil, ctx.Err()
					})
				}
				results, kept := make(chan error, 2), make(chan error, 1)
				for _, class := range []transport.Class{transport.ClassCall, transport.ClassFetch} {
					go func() { _, err := a.call(b, class, "wait", ""); results <- err }()
				}
				go func() { _, err := c.call(b, transport.ClassCall, "wait", ""); kept <- err }()
				synctest.Wait()
				tc.act(b, a.NodeID())
				synctest.Wait()
				for range 2 {
					select {
					case err := <-results:
						if !errors.Is(err, transport.ErrInterrupted) {
							t.Errorf("open call: %v", err)
						}
					default:
						t.Error("a connection of the removed member is open")
					}
				}
				if _, err := a.call(b, transport.ClassCall, "wait", ""); !errors.Is(err, transport.ErrRemoved) {
					t.Errorf("new call: %v", err)
				}
				select {
				case err := <-kept:
					t.Errorf("the other member's call ended: %v", err)
				default:
				}
			})
		})
	}
}

// Without Recheck, each call is still asked about.
func TestEachCallIsAuthorized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newWorld(t).pair(t)
		b.echo(transport.ClassCall)
		if _, err := a.call(b, transport.ClassCall, "echo", ""); err != nil {
			t.Fatal(err)
		}
		b.members.remove(a.NodeID())
		if _, err := a.call(b, transport.ClassCall, "echo", ""); !errors.Is(err, transport.ErrInterrupted) {
			t.Errorf("call on the open connection: %v", err)
		}
	})
}

// fickle knows a node once, and then no more: it was removed between the
// admission of its connection and its registration, where Recheck sees it.
type fickle struct {
	*members
	nodeID string
	asked  int
}

func (f *fickle) Member(nodeID string) (raft.ServerID, bool) {
	if nodeID == f.nodeID {
		if f.asked++; f.asked > 1 {
			return "", false
		}
	}
	return f.members.Member(nodeID)
}

func TestRemovalDuringAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.start(t, "a")
		f := &fickle{nodeID: a.NodeID(), members: &members{
			servers: map[string]raft.ServerID{a.NodeID(): a.ServerID()}, removed: map[string]bool{},
		}}
		b := w.start(t, "b", func(c *transport.Config) { c.Members = f })
		a.members.add(b)
		if _, err := a.call(b, transport.ClassCall, "echo", ""); !errors.Is(err, transport.ErrNotMember) {
			t.Error(err)
		}
		synctest.Wait()
		if n := b.Stats().Connections; n != 0 || f.asked != 2 {
			t.Errorf("%d connections, asked %d times", n, f.asked)
		}
	})
}
