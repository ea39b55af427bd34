package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
	"github.com/exonode/exonode/client/tiledir"
)

// TestTilesFailures: what goes wrong has a code of its own, and says what to do.
func TestTilesFailures(t *testing.T) {
	file := &fs.PathError{Op: "open", Path: "x", Err: syscall.EACCES}
	for _, c := range []struct {
		err  error
		code code
		hint bool
	}{
		{tilesFailed("d", fmt.Errorf("%w: x", tiledir.ErrOther)), codeOtherLog, true},
		{tilesFailed("d", fmt.Errorf("%w: %w", tiledir.ErrDamaged, file)), codeCorrupt, true},
		{tilesFailed("d", tiledir.ErrBehind), codeOlderNote, true},
		{tilesFailed("d", tiledir.ErrSource), codeNotVerified, true},
		{tilesFailed("d", tiledir.ErrBusy), codeDataInUse, true},
		{tilesFailed("d", file), codeFile, false},
		{tilesFailed("d", &os.LinkError{Op: "rename", Err: syscall.EROFS}), codeFile, false},
		{untrusted(fmt.Errorf("x: %w", checkpoint.ErrQuorum)), codeNoQuorum, true},
		{untrusted(fmt.Errorf("x: %w", checkpoint.ErrSignature)), codeNotVerified, true},
	} {
		if _, hint := problem(c.err); codeOf(c.err) != string(c.code) || (hint != "") != c.hint {
			t.Errorf("%v: code %s, want %s, hint %q", c.err, codeOf(c.err), c.code, hint)
		}
	}
}

// TestForkIsKept: the note that was refused is a file, or at least in the message.
func TestForkIsKept(t *testing.T) {
	note := func(b byte) *checkpoint.Note {
		return &checkpoint.Note{
			Checkpoint: checkpoint.Checkpoint{Origin: "o", Size: 1, Root: chain.Hash{b}},
			Signatures: []checkpoint.Signature{{Name: "o", KeyID: 1, Bytes: []byte{b}}},
		}
	}
	fork := &tiledir.ForkError{Published: note(1), Offered: note(2)}
	dir := filepath.Join(t.TempDir(), "log")
	err := tilesFailed(dir+"/", fork)
	b, readErr := os.ReadFile(dir + ".fork")
	if readErr != nil || string(b) != string(fork.Offered.Bytes()) || codeOf(err) != string(codeFork) || !errors.Is(err, error(fork)) {
		t.Errorf("%v; kept %q, %v", err, b, readErr)
	}
	if _, hint := problem(err); !strings.Contains(hint, dir+".fork") || !strings.Contains(hint, filepath.Join(dir, "checkpoint")) {
		t.Errorf("hint %q", hint)
	}
	err = tilesFailed(filepath.Join(dir, "missing", "log"), fork)
	if codeOf(err) != string(codeFork) || !strings.Contains(err.Error(), string(fork.Offered.Bytes())) {
		t.Errorf("%v", err)
	}
}
