package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// tlsConfig is the part of the TLS configuration that both ends share. expect
// is the node id that the peer must prove; "" takes any.
func (t *Transport) tlsConfig(expect string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{t.cert},
		MinVersion:   tls.VersionTLS13,
		// Ids are pinned below; names, dates and issuers mean nothing.
		InsecureSkipVerify: true,
		ClientAuth:         tls.RequireAnyClientCert,
		// VerifyConnection, unlike VerifyPeerCertificate, also runs on a
		// resumed session; and there are none to resume.
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, nodeID, err := peerKey(cs)
			switch {
			case err != nil:
				return err
			case nodeID == t.NodeID():
				return ErrSelf
			case expect != "" && nodeID != expect:
				return fmt.Errorf("%w: %s, not %s", ErrWrongIdentity, nodeID, expect)
			}
			return nil
		},
	}
}

// peerKey returns the key of the peer's leaf certificate, whose possession the
// handshake proved, and the node id that is its hash.
func peerKey(cs tls.ConnectionState) (ed25519.PublicKey, string, error) {
	if !Class(cs.NegotiatedProtocol).valid() {
		return nil, "", fmt.Errorf("%w: no class agreed", ErrProtocol)
	}
	if len(cs.PeerCertificates) == 0 {
		return nil, "", fmt.Errorf("%w: no certificate", ErrProtocol)
	}
	key, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, "", fmt.Errorf("%w: not an Ed25519 certificate", ErrProtocol)
	}
	return key, NodeIDOf(key), nil
}

// secure runs the TLS handshake over raw and wraps the outcome: from here on
// both ends are known. Raw carries a deadline until the welcome has passed.
func (t *Transport) secure(ctx context.Context, raw net.Conn, inbound bool, class Class, expect string) (*conn, *session, error) {
	if err := raw.SetDeadline(time.Now().Add(t.cfg.Limits.Handshake)); err != nil {
		return nil, nil, err
	}
	cfg := t.tlsConfig(expect)
	var tc *tls.Conn
	if inbound {
		cfg.NextProtos = []string{string(ClassRaft), string(ClassCall), string(ClassFetch), string(ClassJoin)}
		tc = tls.Server(raw, cfg)
	} else {
		cfg.NextProtos = []string{string(class)}
		tc = tls.Client(raw, cfg)
	}
	if err := tc.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	cs := tc.ConnectionState()
	key, nodeID, err := peerKey(cs)
	if err != nil {
		return nil, nil, err
	}
	exporter, err := cs.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
	if err != nil {
		return nil, nil, err
	}
	class = Class(cs.NegotiatedProtocol)
	s := &session{exporter: exporter, class: class, dialer: t.NodeID(), acceptor: nodeID, genesis: t.cfg.Genesis}
	if inbound {
		s.dialer, s.acceptor = s.acceptor, s.dialer
	}
	wrapped := net.Conn(tc)
	if t.cfg.Conn != nil {
		wrapped = t.cfg.Conn(class, t.NodeID(), nodeID, tc)
	}
	peer := Peer{NodeID: nodeID, PublicKey: key, Class: class, Addr: raw.RemoteAddr().String()}
	c := newConn(wrapped, raw, peer, inbound, &t.cfg.Limits, t.counters.class(class))
	// Beneath the wrapper's eyes the deadline still stands; it needs its
	// own, since it may hold back what passes it.
	_ = c.SetDeadline(time.Now().Add(t.cfg.Limits.Handshake))
	return c, s, nil
}

// introduce is the dialer's side of hello and welcome.
func (t *Transport) introduce(c *conn, s *session, target raft.ServerID) error {
	h := hello{server: t.ServerID(), target: target}
	if s.class.proven() {
		h.target = "" // nodes find each other here before ids are settled
		h.tag, h.proof = s.tag(), s.proof(t.joinKey, roleDialer)
	} else {
		c.peer.ServerID = target
	}
	if _, err := c.Conn.Write(endFrame(h.append(beginFrame(nil)), 0)); err != nil {
		return err
	}
	frame, err := readFrame(c.br, helloLimit)
	if err != nil {
		return err
	}
	w, err := decodeWelcome(frame)
	if err != nil {
		return fmt.Errorf("%w: welcome: %w", ErrProtocol, err)
	}
	err = w.status.err()
	proven := !s.class.proven() || hmac.Equal(w.proof, s.proof(t.joinKey, roleAcceptor))
	switch {
	case !proven && (err == nil || errors.Is(err, ErrRemoved)):
		// It took our proof and has none: it does not have the secret. That
		// we were removed, which is for ever, only a member may say.
		return ErrWrongSecret
	case err != nil:
		return err
	}
	return c.settle()
}

// receive is the acceptor's side: it reads the hello, registers the connection
// and answers. A refusal is answered too and then returned.
func (t *Transport) receive(c *conn, s *session) error {
	frame, err := readFrame(c.br, helloLimit)
	if err != nil {
		return err
	}
	h, err := decodeHello(frame)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: hello: %w", ErrProtocol, err), t.welcome(c, welcome{status: statusBadHello}))
	}
	w := welcome{status: statusOK}
	if err = t.admit(c, s, h); err != nil {
		w.status = statusOf(err)
	}
	if s.class.proven() && (err == nil || errors.Is(err, ErrRemoved)) {
		w.proof = s.proof(t.joinKey, roleAcceptor) // to one that has proven it
	}
	if err != nil {
		_ = t.welcome(c, w) // the refusal is the error to report
		return err
	}
	if err := t.welcome(c, w); err != nil {
		return err
	}
	return c.settle()
}

func (t *Transport) welcome(c *conn, w welcome) error {
	_, err := c.Conn.Write(endFrame(w.append(beginFrame(nil)), 0))
	return err
}

// admit decides over a hello, and registers the connection where it is let in.
// The order matters: until a stranger has proven the secret it learns nothing
// about the cluster but its own standing.
func (t *Transport) admit(c *conn, s *session, h hello) error {
	if s.class.proven() {
		if !hmac.Equal(h.tag, s.tag()) {
			return ErrForeignCluster
		}
		if !hmac.Equal(h.proof, s.proof(t.joinKey, roleDialer)) {
			return ErrWrongSecret
		}
	} else {
		c.peer.ServerID = h.server
	}
	if err := t.allowed(c.peer); err != nil {
		return err
	}
	if !s.class.proven() && h.target != t.ServerID() {
		return ErrWrongServer
	}
	if s.class == ClassRaft && t.attached() == nil {
		return ErrNotReady
	}
	return t.register(c)
}

// allowed says whether the peer of a connection may (still) use it. It is the
// one place that asks Members who is who.
func (t *Transport) allowed(p Peer) error {
	if p.Class.proven() {
		if t.cfg.Members.Removed(p.NodeID) {
			return ErrRemoved
		}
		return nil
	}
	id, ok := t.cfg.Members.Member(p.NodeID)
	switch {
	case ok && id == p.ServerID:
		return nil
	case ok:
		return ErrWrongServer
	case t.cfg.Members.Removed(p.NodeID):
		return ErrRemoved
	default:
		return ErrNotMember
	}
}
