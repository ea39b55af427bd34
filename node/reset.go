package node

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/raftstore"
)

// ResetFormation removes what the stopped node of a data directory promised
// while a cluster formed, for an operator who knows that the proposer is gone for
// good. It reports whether there was a promise. Where raft has state the promise
// may have been kept: it refuses with membership.ErrHasState.
func ResetFormation(path string) (had bool, err error) {
	genesis, err := DataGenesis(path)
	if err != nil {
		return false, err
	}
	d, err := openDataDir(path, genesis)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	state, err := hasRaftState(d.sub("raft"))
	if err != nil {
		return false, err
	}
	return membership.ResetPromise(d.sub("formation"), nil, state)
}

// hasRaftState looks into a stopped node's raft stores. A directory that they
// were never opened in has none.
func hasRaftState(dir string) (_ bool, err error) {
	backend, err := os.ReadFile(filepath.Join(dir, "backend"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, accessError(dir, err)
	}
	stores, err := raftstore.Open(raftstore.Config{
		Dir: dir, Backend: raftstore.Backend(backend), WriteTimeout: 10 * time.Second, Fatal: func(error) {},
	})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, stores.Close()) }()
	state, err := stores.State()
	return state.Exists(), err
}
