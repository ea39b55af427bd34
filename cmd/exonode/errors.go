package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/node/raftstore"
)

// usageError is an error of the command line: exit status 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// errSilent is an error whose text the command has printed already.
var errSilent = errors.New("failed")

// codes name errors for programs, beside the API's own codes; the first that
// fits counts. hint, where not "", says what to do; other texts say so themselves.
var codes = []struct {
	err        error
	code, hint string
}{
	{node.ErrForeignData, "foreign_data", ""},
	{node.ErrNewerData, "newer_data", ""},
	{node.ErrOtherCluster, "other_cluster", ""},
	{node.ErrDataInUse, "data_in_use", ""},
	{node.ErrDataAccess, "data_access", ""},
	{node.ErrClusterFile, "cluster_file", ""},
	{membership.ErrWrongSecret, "wrong_secret", "the cluster file is of this cluster, but its secret is not: copy the file again from a node that is in the cluster"},
	{membership.ErrForeignCluster, "other_cluster", "the seeds belong to another cluster: correct --seeds, or use that cluster's file"},
	{membership.ErrRemoved, "removed", "a removed node does not come back: to use the machine again, empty its data directory and join as a new node"},
	{membership.ErrHasState, "has_state", ""},
	{raftstore.ErrBackend, "raft_log_backend", ""},
	{ledger.ErrNotExist, "no_ledger", ""},
	{ledger.ErrForeign, "foreign_data", ""},
	{ledger.ErrNewer, "newer_data", ""},
	{ledger.ErrLocked, "data_in_use", ""},
	{syscall.EADDRINUSE, "address_in_use", "another process listens there: stop it, or choose another address (--peer-listen, --gossip-listen, --api-listen)"},
	{node.ErrConfig, "configuration", ""},
	{context.DeadlineExceeded, "timeout", ""},
}

// codeOf names an error for programs.
func codeOf(err error) string {
	var incomplete *client.IncompleteError
	var unreachable *client.UnreachableError
	var verify *client.VerifyError
	var inconsistent *client.InconsistentError
	var usage *usageError
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.As(err, &incomplete):
		return string(api.UnknownOutcome)
	case api.CodeOf(err) != "":
		return string(api.CodeOf(err))
	case errors.As(err, &unreachable):
		return "unreachable"
	case errors.As(err, &verify), errors.As(err, &inconsistent):
		return "not_verified"
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	if errors.As(err, &usage) {
		return "usage"
	}
	return "failed"
}

// explain is what the user reads of an error: what is wrong, its code, and what
// to do.
func (a *app) explain(err error) string {
	if errors.Is(err, errSilent) {
		return ""
	}
	if a.output == "json" {
		return errorJSON(err)
	}
	text, hint := problem(err)
	text = "exonode: " + text
	if code := codeOf(err); code != "failed" && code != "usage" {
		first, rest, more := strings.Cut(text, "\n")
		text = fmt.Sprintf("%s (%s)", first, code)
		if more {
			text += "\n" + rest
		}
	}
	if hint != "" {
		text += "\n  " + hint
	}
	return text
}

// problem splits an error into what is wrong and what to do about it.
func problem(err error) (text, hint string) {
	var usage *usageError
	if errors.As(err, &usage) && err == error(usage) {
		err = usage.err
	}
	var line *client.LineError
	if errors.As(err, &line) {
		text, hint = problem(line.Err)
		return fmt.Sprintf("line %d: %s", line.Line, text), hint
	}
	var incomplete *client.IncompleteError
	if errors.Is(err, context.Canceled) && !errors.As(err, &incomplete) {
		return "stopped before it was done", ""
	}
	e, ok := errors.AsType[*api.Error](err)
	if !ok || errors.As(err, &incomplete) {
		for _, c := range codes {
			if errors.Is(err, c.err) {
				hint = c.hint
				break
			}
		}
		return strings.TrimSpace(err.Error()), hint
	}
	return e.Message, e.Hint
}

// errorView is an error with -o json.
type errorView struct {
	Code     string  `json:"code"`
	Message  string  `json:"message"`
	Hint     string  `json:"hint,omitempty"`
	Field    string  `json:"field,omitempty"`
	Sequence *uint64 `json:"sequence,omitempty"`
}

func newErrorView(err error) errorView {
	v := errorView{Code: codeOf(err)}
	v.Message, v.Hint = problem(err)
	if e, ok := errors.AsType[*api.Error](err); ok {
		v.Field = e.Field
		if e.HasSequence {
			v.Sequence = &e.Sequence
		}
	}
	return v
}

func errorJSON(err error) string {
	b, merr := json.Marshal(map[string]errorView{"error": newErrorView(err)})
	if merr != nil {
		return err.Error()
	}
	return string(b)
}

func exitStatus(err error) int {
	var usage *usageError
	if errors.As(err, &usage) || errors.Is(err, node.ErrConfig) || errors.Is(err, node.ErrClusterFile) {
		return exitUsage
	}
	return exitFailure
}
