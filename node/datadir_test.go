package node

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node/raftstore"
)

// tree makes a directory with files, by path.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// names are the files of a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestOpenDataDir opens directories as operators and crashes leave them. One that
// is refused stays as it was, and the text says what to do.
func TestOpenDataDir(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		err   error
		says  string
	}{
		"empty":                  {},
		"crash before the lock":  {files: map[string]string{"FORMAT.tmp": "exonode-da"}},
		"crash before FORMAT":    {files: map[string]string{"LOCK": "", "FORMAT.tmp": ""}},
		"a new file system":      {files: map[string]string{"lost+found/x": ""}},
		"ours":                   {files: map[string]string{"FORMAT": "exonode-data/1\ngen\n", "LOCK": "", "raft/x": ""}},
		"somebody's files":       {files: map[string]string{"notes.txt": "x"}, err: ErrForeignData, says: "notes.txt"},
		"like FORMAT":            {files: map[string]string{"FORMATTED": "x"}, err: ErrForeignData, says: "empty directory"},
		"another program's":      {files: map[string]string{"FORMAT": "other/1\n"}, err: ErrForeignData, says: "another directory"},
		"FORMAT without content": {files: map[string]string{"FORMAT": ""}, err: ErrForeignData},
		"without its end":        {files: map[string]string{"FORMAT": "exonode-data/1"}, err: ErrForeignData},
		"newer":                  {files: map[string]string{"FORMAT": "exonode-data/12\ngen\n"}, err: ErrNewerData, says: "format 12"},
		"of another cluster":     {files: map[string]string{"FORMAT": "exonode-data/1\nother\n"}, err: ErrOtherCluster, says: "genesis other"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, test.files)
			before := names(t, dir)
			d, err := openDataDir(dir, "gen")
			if test.err != nil {
				if !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), dir) {
					t.Errorf("got %v, want %v, %q and the path", err, test.err, test.says)
				}
				if after := names(t, dir); !slices.Equal(before, after) {
					t.Errorf("it held %v, now %v", before, after)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := openDataDir(dir, "gen"); !errors.Is(err, ErrDataInUse) {
				t.Errorf("opened twice: %v", err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if d, err = openDataDir(dir, "gen"); err != nil {
				t.Fatalf("opened again: %v", err)
			}
			defer d.Close()
			if b, err := os.ReadFile(filepath.Join(dir, "FORMAT")); err != nil || string(b) != "exonode-data/1\ngen\n" {
				t.Errorf("FORMAT is %q, %v", b, err)
			}
		})
	}
}

func TestDataDirAccess(t *testing.T) {
	dir := tree(t, map[string]string{"file": ""})
	for _, path := range []string{filepath.Join(dir, "file"), filepath.Join(dir, "file", "below")} {
		if _, err := openDataDir(path, "gen"); !errors.Is(err, ErrDataAccess) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if os.Getuid() == 0 {
		return // nothing is closed to root
	}
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(closed, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(closed, "gen"); !errors.Is(err, ErrDataAccess) {
		t.Errorf("a directory without write permission: %v", err)
	}
}

// TestResetFormation clears a promise, but none that raft may have kept.
func TestResetFormation(t *testing.T) {
	if _, err := ResetFormation(t.TempDir()); !errors.Is(err, ErrForeignData) {
		t.Errorf("an empty directory: %v", err)
	}
	dir := t.TempDir()
	d, err := openDataDir(dir, "gen")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ResetFormation(dir); !errors.Is(err, ErrDataInUse) {
		t.Errorf("a running node's: %v", err)
	}
	promises, err := membership.OpenPromises(d.sub("formation"), nil)
	if err != nil {
		t.Fatal(err)
	}
	proposal := membership.Proposal{Members: []membership.Member{{NodeID: "a", ServerID: "a.1"}, {NodeID: "b", ServerID: "b.1"}}}
	if _, err := promises.Promise(proposal); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if had, err := ResetFormation(dir); had != want || err != nil {
			t.Errorf("reset %d: %v, %v", i, had, err)
		}
	}
	stores, err := raftstore.Open(raftstore.Config{Dir: d.sub("raft"), Backend: raftstore.WAL, WriteTimeout: 1 << 40, Fatal: func(error) {}})
	if err != nil {
		t.Fatal(err)
	}
	if err := stores.Bootstrap(raft.Configuration{Servers: []raft.Server{{ID: "a.1", Address: "a"}}}); err != nil {
		t.Fatal(err)
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ResetFormation(dir); !errors.Is(err, membership.ErrHasState) {
		t.Errorf("with raft state: %v", err)
	}
}
