package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// runFormat names the form of a --resume file.
const runFormat = "exonode-run/1"

// runState is how far a run of submit got. In its file it is always some state
// that the run had: events after it may be in the chain already, and sending
// them again with the same ids is harmless.
type runState struct {
	Format string `json:"format"`
	// Run names the run; ids of lines without one follow from it.
	Run string `json:"run"`
	// Workspace, Source and Kind are the defaults of lines that name none:
	// other ones would make other events.
	Workspace string `json:"workspace"`
	Source    string `json:"source"`
	Kind      string `json:"kind,omitempty"`
	// Done events were answered, the last of them with id LastID ("" where
	// it was malformed).
	Done   uint64 `json:"done"`
	LastID string `json:"last_id"`

	Sealed     uint64 `json:"sealed"`
	Duplicates uint64 `json:"duplicates"`
	Refused    uint64 `json:"refused"`

	path string // "" keeps nothing
}

// openRun begins a run, or takes up the one that --resume holds.
func openRun(f *submitFlags) (*runState, error) {
	fresh := &runState{Format: runFormat, Run: f.run, Workspace: f.workspace, Source: f.source, Kind: f.kind, path: f.resume}
	if fresh.Run == "" {
		fresh.Run = newRunName()
	}
	if f.resume == "" {
		return fresh, nil
	}
	b, err := os.ReadFile(f.resume)
	if errors.Is(err, fs.ErrNotExist) {
		// Before the first event: its id must follow from a name that is
		// on disk.
		if err := fresh.save(); err != nil {
			return nil, misuse(codeFile, "", err)
		}
		return fresh, nil
	}
	if err != nil {
		return nil, misuse(codeFile, "", fmt.Errorf("read --resume: %w", err))
	}
	s := &runState{path: f.resume}
	if err := json.Unmarshal(b, s); err != nil || s.Format != runFormat || s.Run == "" {
		return nil, usagef("--resume %s does not hold the state of a run: give the file that an earlier run wrote, or a new name", f.resume)
	}
	if f.run != "" && f.run != s.Run {
		return nil, usagef("--resume %s holds run %s, not %s", f.resume, s.Run, f.run)
	}
	if s.Workspace != f.workspace || s.Source != f.source || s.Kind != f.kind {
		return nil, usagef("--resume %s was begun with --workspace %q --source %q --kind %q: give the same, since others make other events", f.resume, s.Workspace, s.Source, s.Kind)
	}
	return s, nil
}

// save replaces the file. The commit point is the rename, once the directory is
// synced.
func (s *runState) save() error {
	if s.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(s.path, func(f *os.File) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
}

// replaceFile writes a file beside the one at path, syncs it and puts it in its
// place: after a crash either is there, whole.
func replaceFile(path string, write func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // the file is in its place; a directory that can't be read can't be synced
	}
	return errors.Join(d.Sync(), d.Close())
}
