package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"github.com/exonode/exonode/discovery"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/transport"
)

// nobody is transport.Members of one who belongs to no cluster yet.
type nobody struct{}

func (nobody) Member(string) (raft.ServerID, bool) { return "", false }
func (nobody) Leader() string                      { return "" }
func (nobody) Voter(string) bool                   { return false }
func (nobody) Removed(string) bool                 { return false }

// CheckSeed proves to the node at a seed, and has it prove, the cluster's secret
// and genesis, as a joining node does, under a key that nobody keeps. Nothing is
// asked for. Errors wrap membership.ErrWrongSecret or ErrForeignCluster, or say
// that nobody answered.
func CheckSeed(ctx context.Context, cluster *ClusterFile, seed string) (err error) {
	where, err := discovery.ParseSeed(seed, DefaultPeerPort)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	dir, err := os.MkdirTemp("", "exonode-join-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	identity, err := transport.CreateIdentity(dir)
	if err != nil {
		return err
	}
	incarnation, err := transport.CreateIncarnation(dir)
	if err != nil {
		return err
	}
	// A transport has a listener; this one never accepts.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	t, err := transport.New(transport.Config{
		Identity: identity, Incarnation: incarnation, Listener: listener,
		Members: nobody{}, Resolve: func(string) (string, bool) { return "", false },
		Secret: cluster.Secret, Genesis: cluster.Hash, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	hello, err := json.Marshal(membership.Hello{
		Genesis: cluster.Hash, Self: membership.Member{NodeID: identity.NodeID(), ServerID: string(t.ServerID())}, State: membership.Forming,
	})
	if err != nil {
		return err
	}
	host := where.Name
	if host == "" {
		host = where.Addr.String()
	}
	// The connection proves both sides before anything is asked; what is
	// answered to the greeting tells no more.
	_, _, err = callAt(ctx, t, net.JoinHostPort(host, strconv.Itoa(int(where.Port))), membership.MethodHello, hello)
	return err
}

// CheckFresh reports whether a node may join with a data directory: it does not
// exist, is empty, or was made for the same cluster and holds no state yet.
// Nothing is changed.
func CheckFresh(path, genesis string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return tryCreate(path)
	}
	d := &dataDir{path: path}
	fresh, err := d.inspect(genesis)
	if fresh || err != nil {
		return err
	}
	lock, err := os.Open(d.sub("LOCK"))
	if err == nil {
		defer lock.Close() // and the lock goes with it
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%w: %s: a node runs on it", ErrDataInUse, path)
		}
	}
	ahead, err := ReadLogAhead(path, 0)
	if err != nil {
		return err
	}
	manifests, err := filepath.Glob(filepath.Join(d.sub("raft"), "manifests", "*"))
	if err != nil {
		return err
	}
	if ahead.Last > 0 || len(manifests) > 0 {
		return fmt.Errorf("%w: %s is of a node that is, or was, in the cluster: start it as it is", membership.ErrHasState, path)
	}
	return nil
}

// tryCreate makes a directory that does not exist, and takes it away again with those
// above it that did not exist either.
func tryCreate(path string) error {
	var made []string
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, dir)
	}
	err := os.MkdirAll(path, 0o700)
	for _, dir := range made {
		if rerr := os.Remove(dir); rerr != nil && err == nil {
			err = rerr
		}
	}
	if err != nil {
		return accessError(path, err)
	}
	return nil
}
