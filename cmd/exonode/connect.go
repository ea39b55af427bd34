package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/client"
)

// dialFor bounds how long an address may take to accept a connection before the
// command begins.
const dialFor = 2 * time.Second

// connect returns a client of the cluster at --addr. Where every address refuses
// the connection it says so at once, instead of trying until --timeout: at the
// start of a command that is a wrong address or a cluster that does not run.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	return a.connectTo(ctx, a.addrs, client.Config{})
}

// connectTo is connect to other addresses, with a configuration whose remaining
// fields the shared flags fill.
func (a *app) connectTo(ctx context.Context, addrs []string, cfg client.Config) (*client.Client, error) {
	if len(addrs) == 0 {
		return nil, usagef("--addr is empty: give at least one node's API address, such as 127.0.0.1:7482")
	}
	cfg.Addresses, cfg.RetryFor = addrs, a.timeout
	var err error
	if cfg.TLS, err = a.clientTLS(); err != nil {
		return nil, err
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, misuse("", "", err)
	}
	if err := refused(ctx, c.Addresses()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// clientTLS is the configuration of --tls-ca; nil leaves TLS to https addresses
// and the system's authorities.
func (a *app) clientTLS() (*tls.Config, error) {
	if a.tlsCA == "" {
		return nil, nil
	}
	b, err := os.ReadFile(a.tlsCA)
	if err != nil {
		return nil, misuse(codeTLS, "", fmt.Errorf("read --tls-ca: %w", err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, misuse(codeTLS, "", fmt.Errorf("--tls-ca %s holds no certificate in PEM form", a.tlsCA))
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// withScheme gives the API address that a member announces the scheme that the
// configured addresses have.
func (a *app) withScheme(addr string) string {
	if a.tlsCA == "" && len(a.addrs) > 0 && strings.HasPrefix(a.addrs[0], "https://") {
		return "https://" + addr
	}
	return addr
}

// request bounds a command that makes only a few calls.
func (a *app) request(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmd.Context(), a.timeout)
}

// withClient does what a command does with a client, within --timeout.
func (a *app) withClient(cmd *cobra.Command, do func(ctx context.Context, c *client.Client) error) error {
	ctx, cancel := a.request(cmd)
	defer cancel()
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(ctx, c)
}

// refused returns an error where no address can be connected to because each
// answers that nobody listens there.
func refused(ctx context.Context, addrs []string) error {
	ctx, cancel := context.WithTimeout(ctx, dialFor)
	defer cancel()
	tried := make([]client.Attempt, len(addrs))
	var dials sync.WaitGroup
	for i, addr := range addrs {
		dials.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			tried[i] = client.Attempt{Address: addr, Err: err}
			if err == nil {
				_ = conn.Close() // nothing was written
				cancel()         // one is enough
			}
		})
	}
	dials.Wait()
	for _, t := range tried {
		var dns *net.DNSError
		if noHost := errors.As(t.Err, &dns) && dns.IsNotFound; !noHost && !errors.Is(t.Err, syscall.ECONNREFUSED) {
			return nil
		}
	}
	return &client.UnreachableError{Tried: tried}
}

// reach connects to the node that a person names by its full id, the beginning of it,
// its name, or its address. Who answers at the address that the node announces may be
// another one: the loopback's is each host's own. So it is asked who it is.
func (a *app) reach(ctx context.Context, c *client.Client, node string) (*client.Client, client.Status, error) {
	m, err := findMember(ctx, c, node)
	if err != nil {
		return nil, client.Status{}, err
	}
	return a.reachMember(ctx, c, m)
}

func (a *app) reachMember(ctx context.Context, c *client.Client, m client.Member) (*client.Client, client.Status, error) {
	none := client.Status{}
	// Where the node is at one of --addr, that is how it is reached from here.
	for _, addr := range append(c.Addresses(), a.withScheme(m.APIAddr)) {
		of, s, err := a.connectNode(ctx, addr)
		if err != nil {
			continue
		}
		if s.NodeID == m.NodeID {
			return of, s, nil
		}
		if err := of.Close(); err != nil {
			return nil, none, err
		}
	}
	where := "where clients reach it is not known"
	if m.APIAddr != "" {
		where = "it does not answer at " + m.APIAddr + ", where it says that clients reach it"
	}
	return nil, none, failf(codeUnreachable, "run the command on that node's host, or give an address of it with --addr; a node that listens on a loopback address is reached from its own host alone",
		"node %s can't be reached from here: %s", title(m), where)
}

// askFor bounds how long one node may take to say which it is.
const askFor = 2 * time.Second

// connectNode connects to one address, and asks which node is there.
func (a *app) connectNode(ctx context.Context, addr string) (*client.Client, client.Status, error) {
	c, err := a.connectTo(ctx, []string{addr}, client.Config{})
	if err != nil {
		return nil, client.Status{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	s, err := c.Status(ctx)
	if err != nil {
		return nil, s, errors.Join(err, c.Close())
	}
	return c, s, nil
}

// findMember returns the member that a person names.
func findMember(ctx context.Context, c *client.Client, node string) (client.Member, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return client.Member{}, err
	}
	return pickMember(members, node)
}

func pickMember(members []client.Member, node string) (client.Member, error) {
	// An id may begin with what is another node's name.
	found := called(members, func(m client.Member) bool {
		return m.NodeID == node || m.Name == node || m.APIAddr == node || m.PeerAddr == node
	})
	if len(found) == 0 {
		found = called(members, func(m client.Member) bool { return strings.HasPrefix(m.NodeID, node) })
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return client.Member{}, failf(codeUnknownNode, "`exonode cluster members` lists them; give an id, the beginning of one, or a name", "no node is called %q", node)
	}
	titles := make([]string, len(found))
	for i, m := range found {
		titles[i] = title(m)
	}
	return client.Member{}, failf(codeUnknownNode, "give more of the id", "%q may be any of %s", node, strings.Join(titles, ", "))
}

// called returns the members that a name is said to fit.
func called(members []client.Member, fits func(client.Member) bool) (found []client.Member) {
	for _, m := range members {
		if fits(m) {
			found = append(found, m)
		}
	}
	return found
}

// title names a member for people.
func title(m client.Member) string {
	if m.Name == "" {
		return m.NodeID
	}
	return fmt.Sprintf("%s (%s)", m.NodeID, m.Name)
}
