package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"google.golang.org/protobuf/types/known/emptypb"

	exonodev1 "github.com/exonode/exonode/api/exonode/v1"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/server"
	"github.com/exonode/exonode/server/servertest"
)

// servertestHooks refuses submits with err; with nil it does nothing.
func servertestHooks(err error) servertest.Hooks {
	if err == nil {
		return servertest.Hooks{}
	}
	return servertest.Hooks{Submit: func(server.Caller, []chain.Event) error { return err }}
}

func asConnect(err error) *connect.Error {
	var ce *connect.Error
	errors.As(err, &ce)
	return ce
}

func cloneEvent(e *exonodev1.Event) *exonodev1.Event { return proto.Clone(e).(*exonodev1.Event) }

func hashes(list [][]byte) []chain.Hash {
	out := make([]chain.Hash, len(list))
	for i, b := range list {
		out[i] = chain.Hash(b)
	}
	return out
}

// certificate returns a self-signed certificate for 127.0.0.1.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// The reflection service's messages are not exported; an empty message keeps
// what it does not know, which is all of them.
type (
	reflectionRequest  = emptypb.Empty
	reflectionResponse = emptypb.Empty
)

// listServices is a ServerReflectionRequest with list_services (field 7) "*".
func listServices() *reflectionRequest {
	m := new(reflectionRequest)
	m.ProtoReflect().SetUnknown([]byte{7<<3 | 2, 1, '*'})
	return m
}
