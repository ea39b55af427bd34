package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dataFormat is the first line of a data directory's FORMAT file. The second
// is the genesis hash of the cluster that the directory belongs to.
const dataFormat = "exonode-data/1"

// Errors of a data directory; each says what the operator does.
var (
	// ErrForeignData: the directory is not ours; choose another.
	ErrForeignData = errors.New("not an exonode data directory")
	// ErrNewerData: a newer exonode wrote it; run that one.
	ErrNewerData = errors.New("data directory was written by a newer exonode")
	// ErrOtherCluster: the directory belongs to another cluster; use that
	// cluster's file, or another directory.
	ErrOtherCluster = errors.New("data directory belongs to another cluster")
	// ErrDataInUse: another process has it; stop that one.
	ErrDataInUse = errors.New("data directory is in use by another process")
	// ErrDataMissing: a part of it is gone; restore it, or let the node
	// join again.
	ErrDataMissing = errors.New("data directory is not whole")
	// ErrDataAccess: it can't be written; fix its permissions.
	ErrDataAccess = errors.New("data directory can't be written")
)

// dataDir is an open, locked data directory:
//
//	FORMAT      format and genesis hash
//	recovery.json  what a recovery from lost quorum has decided, while it lasts
//	LOCK        held while a process runs
//	identity/   the node's TLS key
//	keys/       the keys that sign checkpoints: the node's own, and the log's once it has it
//	signed/     what was signed with them last; never part of a backup
//	formation/  what the node promised while the cluster formed
//	raft/       raft's log, vote and manifests, and the incarnation
//	ledger/     the chain
//	outbox/     what the node has yet to witness of itself
//
// Only ledger/ derives from raft/; everything in the others is synced before
// it counts.
type dataDir struct {
	path string
	lock *os.File
}

func (d *dataDir) sub(name string) string { return filepath.Join(d.path, name) }

// openDataDir opens or creates the directory for the cluster with the given
// genesis hash, and locks it.
func openDataDir(path, genesis string) (_ *dataDir, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := makeSynced(path); err != nil {
			return nil, accessError(path, err)
		}
	}
	d := &dataDir{path: path}
	// Before anything is written: a directory that is not ours stays as it is.
	if _, err := d.inspect(genesis); err != nil {
		return nil, err
	}
	if d.lock, err = os.OpenFile(d.sub("LOCK"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, accessError(path, err)
	}
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s: stop the other node, or choose another directory", ErrDataInUse, path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// Again: another process may have had it in between.
	fresh, err := d.inspect(genesis)
	if err == nil && fresh {
		if werr := writeFileSynced(d.sub("FORMAT"), []byte(dataFormat+"\n"+genesis+"\n"), 0o600); werr != nil {
			err = accessError(path, werr)
		}
	}
	if err == nil {
		err = d.makeParts()
	}
	if err != nil {
		return nil, errors.Join(err, d.lock.Close())
	}
	return d, nil
}

// makeParts makes the directories whose own packages do not: what is synced in
// them must not go with them.
func (d *dataDir) makeParts() error {
	for _, part := range []string{"identity", "keys", "signed", "formation", "raft"} {
		if err := os.MkdirAll(d.sub(part), 0o700); err != nil {
			return accessError(d.sub(part), err)
		}
	}
	if err := syncDir(d.path); err != nil {
		return accessError(d.path, err)
	}
	return nil
}

// inspect reports whether the directory is new, and refuses one that is not for
// us.
func (d *dataDir) inspect(genesis string) (fresh bool, err error) {
	format, err := os.ReadFile(d.sub("FORMAT"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return true, mustBeEmpty(d.path)
	case err != nil:
		return false, accessError(d.path, err)
	}
	return false, checkFormat(d.path, string(format), genesis)
}

func (d *dataDir) Close() error { return d.lock.Close() }

func accessError(path string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrDataAccess, path, err)
}

// mustBeEmpty refuses a directory that holds anything but what a crash of
// openDataDir leaves, or a new file system has at its root.
func mustBeEmpty(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return accessError(path, err)
	}
	for _, e := range entries {
		if n := e.Name(); n != "LOCK" && n != "FORMAT.tmp" && n != "lost+found" {
			return fmt.Errorf("%w: %s holds %q and no FORMAT file: choose an empty directory", ErrForeignData, path, n)
		}
	}
	return nil
}

func checkFormat(path, format, genesis string) error {
	lines := strings.Split(format, "\n")
	name, version, ok := strings.Cut(lines[0], "/")
	switch {
	case !ok || name != "exonode-data" || len(lines) < 2:
		return fmt.Errorf("%w: %s: choose another directory", ErrForeignData, path)
	case lines[0] != dataFormat:
		return fmt.Errorf("%w: %s has format %s, this exonode reads %s", ErrNewerData, path, version, dataFormat)
	case lines[1] != genesis:
		return fmt.Errorf("%w: %s was made for genesis %s, the cluster file has %s", ErrOtherCluster, path, lines[1], genesis)
	}
	return nil
}

// writeFileSynced writes a file under a temporary name, syncs and renames it,
// and syncs the directory, which is the commit point.
func writeFileSynced(path string, b []byte, perm fs.FileMode) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// makeSynced makes a directory, whose name is on disk then.
func makeSynced(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if cerr := dir.Close(); err == nil {
		err = cerr
	}
	return err
}
