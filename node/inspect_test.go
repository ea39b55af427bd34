package node_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/node/raftstore"
)

// TestReadLogAhead reads the log of a stopped node as a crash leaves it, whole, before
// its first segment was made, torn at the end, and damaged.
func TestReadLogAhead(t *testing.T) {
	dir := t.TempDir()
	stores, err := raftstore.Open(raftstore.Config{
		Dir: filepath.Join(dir, "raft"), Backend: raftstore.WAL, WriteTimeout: time.Minute, Fatal: func(error) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "raft", "wal", "*.wal"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	for i := uint64(1); i <= 4; i++ {
		if err := stores.Log.StoreLog(&raft.Log{Index: i, Term: 1, Data: []byte("a command")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stores.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	whole = whole[:4096]
	torn, damaged := len(bytes.TrimRight(whole, "\x00"))-20, 32+8+20
	for _, test := range []struct {
		name  string
		flip  int // 0 for none
		none  bool
		ahead node.LogAhead
		want  error
	}{
		{name: "whole", ahead: node.LogAhead{Applied: 1, Last: 4, Commands: 3}},
		{name: "torn", flip: torn, ahead: node.LogAhead{Applied: 1, Last: 3, Commands: 2}},
		{name: "damaged", flip: damaged, want: raftstore.ErrDamaged},
		{name: "no file", none: true, ahead: node.LogAhead{Applied: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := append([]byte(nil), whole...)
			if test.flip > 0 {
				b[test.flip] ^= 4
			}
			if err := os.WriteFile(names[0], b, 0o600); err != nil {
				t.Fatal(err)
			}
			if test.none {
				if err := os.Remove(names[0]); err != nil {
					t.Fatal(err)
				}
			}
			ahead, err := node.ReadLogAhead(dir, 1)
			if !errors.Is(err, test.want) || err == nil && ahead != test.ahead {
				t.Errorf("%+v, %v; want %+v, %v", ahead, err, test.ahead, test.want)
			}
		})
	}
}
