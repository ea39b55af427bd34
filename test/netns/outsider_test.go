//go:build linux && netns

package netns_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/test/netns"
	"github.com/exonode/exonode/transport"
)

// outsider speaks the peer protocol without being a member: everything that a
// node can say it says, with whatever credentials it was given.
type outsider struct {
	on          *netns.Host
	identity    *transport.Identity
	incarnation string
	secret      transport.Secret
	genesis     [32]byte
}

// everyone takes everybody for a member: an outsider has no scruples.
type everyone map[string]raft.ServerID

func (e everyone) Member(nodeID string) (raft.ServerID, bool) { id, ok := e[nodeID]; return id, ok }
func (everyone) Leader() string                               { return "" }
func (everyone) Voter(string) bool                            { return true }
func (everyone) Removed(string) bool                          { return false }

// silence is a listener that nobody reaches.
type silence struct{}

func (silence) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (silence) Close() error              { return nil }
func (silence) Addr() net.Addr            { return &net.TCPAddr{} }

// transport is a fresh one each time: one that failed waits before it tries
// again.
func (o outsider) transport(t *testing.T, target membership.Member) *transport.Transport {
	t.Helper()
	tr, err := transport.New(transport.Config{
		Identity: o.identity, Incarnation: o.incarnation, Listener: silence{},
		Members: everyone{target.NodeID: raft.ServerID(target.ServerID)},
		Resolve: func(string) (string, bool) { return target.PeerAddr, true },
		Secret:  o.secret, Genesis: o.genesis, Logger: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, addr string) (net.Conn, error) { return o.on.DialContext(ctx, "tcp", addr) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// attack tries all there is to say to a node, and checks that it is refused:
// as no member, and where it must prove the secret, for the given reason.
func (o outsider) attack(ctx context.Context, t *testing.T, target membership.Member, member, proven error) {
	t.Helper()
	refused := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, transport.ErrUnreachable) || !errors.Is(err, want) {
			t.Errorf("%s at %s: %v, want %v", what, target.PeerAddr, err, want)
		}
	}
	for _, call := range []struct {
		class   transport.Class
		method  string
		payload []byte
		want    error
	}{
		{transport.ClassCall, "append", nil, member},
		{transport.ClassCall, "remove", []byte(`{"node_id":"` + target.NodeID + `"}`), member},
		{transport.ClassCall, "admit", []byte(`{}`), member},
		{transport.ClassFetch, "range", make([]byte, 16), proven},
		{transport.ClassJoin, membership.MethodJoinBegin, []byte(`{}`), proven},
		{transport.ClassJoin, membership.MethodJoinCommit, []byte(`{}`), proven},
	} {
		reply, _, err := o.transport(t, target).Call(ctx, call.class, transport.PeerRef{NodeID: target.NodeID}, call.method, call.payload)
		refused(string(call.class)+" "+call.method, err, call.want)
		if len(reply) > 0 {
			t.Errorf("%s %s was answered with %q", call.class, call.method, reply)
		}
	}
	// A vote in a far term, which any member would follow.
	const term = 1000
	self := []byte(o.identity.NodeID())
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(transport.ServerID(string(self), o.incarnation)), Addr: self}
	id, addr := raft.ServerID(target.ServerID), raft.ServerAddress(target.NodeID)
	for what, send := range map[string]func(*transport.RaftTransport) error{
		"vote": func(r *transport.RaftTransport) error {
			return r.RequestVote(id, addr, &raft.RequestVoteRequest{
				RPCHeader: header, Term: term, LastLogIndex: 1 << 40, LastLogTerm: term, LeadershipTransfer: true,
			}, new(raft.RequestVoteResponse))
		},
		"append": func(r *transport.RaftTransport) error {
			return r.AppendEntries(id, addr, &raft.AppendEntriesRequest{RPCHeader: header, Term: term}, new(raft.AppendEntriesResponse))
		},
		"timeout": func(r *transport.RaftTransport) error {
			return r.TimeoutNow(id, addr, &raft.TimeoutNowRequest{RPCHeader: header}, new(raft.TimeoutNowResponse))
		},
		"install": func(r *transport.RaftTransport) error {
			return r.InstallSnapshot(id, addr, &raft.InstallSnapshotRequest{RPCHeader: header, Term: term, Size: 1},
				new(raft.InstallSnapshotResponse), strings.NewReader("x"))
		},
	} {
		session, err := o.transport(t, target).AttachRaft()
		if err != nil {
			t.Fatal(err)
		}
		refused("raft "+what, send(session), member)
	}
}

// certificate is self-signed, as the nodes' own are, and valid by all that can
// be read on it.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}
}

// knock opens a TLS connection of a class to a node with a certificate that
// bears a member's name, claims to be that member, says what comes after
// without waiting, and returns what the node answered until it hung up.
func knock(ctx context.Context, t *testing.T, on *netns.Host, class transport.Class, target, claim membership.Member, claimed bool) ([]byte, error) {
	t.Helper()
	raw, err := on.DialContext(ctx, "tcp", target.PeerAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = raw.SetDeadline(deadline)
	}
	conn := tls.Client(raw, &tls.Config{
		Certificates: []tls.Certificate{certificate(t, claim.NodeID)}, NextProtos: []string{string(class)},
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if claimed {
		if _, err := conn.Write(frame(hello(claim.ServerID, target.ServerID))); err != nil {
			return nil, err
		}
	}
	// A vote for the claimed member in term 1000; to other classes it is
	// noise.
	vote := []byte{2, byte(raft.ProtocolVersionMax)}
	for _, field := range []string{claim.ServerID, claim.NodeID} {
		vote = append(binary.AppendUvarint(vote, uint64(len(field))), field...)
	}
	_, _ = conn.Write(frame(append(vote, 0xe8, 7))) // the node may have hung up
	answer, err := io.ReadAll(io.LimitReader(bufio.NewReader(conn), 1<<16))
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return answer, err
	}
	return answer, nil // however it hung up
}

// hello is the first message of a connection: version, both server ids, and a
// tag and proof of the right sizes.
func hello(server, target string) []byte {
	b := []byte{1}
	for _, field := range []string{server, target, strings.Repeat("t", 16), strings.Repeat("p", 32)} {
		b = append(binary.AppendUvarint(b, uint64(len(field))), field...)
	}
	return b
}

func frame(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
