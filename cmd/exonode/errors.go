package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"syscall"

	"github.com/exonode/exonode/api"
	"github.com/exonode/exonode/chain/export"
	"github.com/exonode/exonode/client"
	"github.com/exonode/exonode/client/tiledir"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/membership"
	"github.com/exonode/exonode/node"
	"github.com/exonode/exonode/node/raftstore"
)

// failure is an error of the command itself. It wraps what it is about.
type failure struct {
	// code is "" where what it wraps has one.
	code code
	// hint says what to do; "" where the text does.
	hint string
	// usage: the command line or the configuration is wrong, exit status 2.
	usage bool
	err   error
}

func (e *failure) Error() string { return e.err.Error() }
func (e *failure) Unwrap() error { return e.err }

// failf is a failure with a code and a hint.
func failf(c code, hint, format string, args ...any) error {
	return &failure{code: c, hint: hint, err: fmt.Errorf(format, args...)}
}

// usagef says what is wrong with the command line.
func usagef(format string, args ...any) error {
	return misuse(codeUsage, "", fmt.Errorf(format, args...))
}

// misuse is an error of the command line or the configuration with a code and a
// hint of its own. A code of "" leaves the error's.
func misuse(c code, hint string, err error) error {
	return &failure{code: c, hint: hint, usage: true, err: err}
}

// errSilent is an error whose text the command has printed already.
var errSilent = errors.New("failed")

// code names an error for programs, beside the API's own codes.
type code string

const (
	codeAddressInUse   code = "address_in_use"
	codeBadReceipt     code = "receipt_false"
	codeClusterFile    code = "cluster_file"
	codeConfiguration  code = "configuration"
	codeCorrupt        code = "corrupt"
	codeDataAccess     code = "data_access"
	codeDataInUse      code = "data_in_use"
	codeDataMissing    code = "data_missing"
	codeDiskFull       code = "disk_full"
	codeEquivocation   code = "equivocation"
	codeEvidence       code = "evidence_format"
	codeExport         code = "export_format"
	codeFailed         code = "failed"
	codeFalseEvidence  code = "evidence_false"
	codeFalseSignature code = "signature_false"
	codeFile           code = "file_access"
	codeForeignData    code = "foreign_data"
	codeFork           code = "fork"
	codeGenesis        code = "genesis_mismatch"
	codeHasState       code = "has_state"
	codeInput          code = "other_input"
	codeInterrupted    code = "interrupted"
	codeMonitorState   code = "monitor_state"
	codeNewerData      code = "newer_data"
	codeNoCheckpoint   code = "checkpoint_format"
	codeNoGenesis      code = "no_genesis"
	codeNoLedger       code = "no_ledger"
	codeNoQuorum       code = "no_quorum"
	codeNoRecovery     code = "not_recoverable"
	codeNotVerified    code = "not_verified"
	codeOlderEpoch     code = "older_epoch"
	codeOlderNote      code = "older_checkpoint"
	codeOtherCluster   code = "other_cluster"
	codeOtherLog       code = "other_log"
	codePolicy         code = "policy_format"
	codeRaftBackend    code = "raft_log_backend"
	codeReceipt        code = "receipt_format"
	codeRecovering     code = "recovery_interrupted"
	codeRemoved        code = "removed"
	codeStale          code = "checkpoint_stale"
	codeTLS            code = "tls_files"
	codeTiles          code = "tiles_mismatch"
	codeTimeout        code = "timeout"
	codeUnknownNode    code = "unknown_node"
	codeUnreachable    code = "unreachable"
	codeUnsigned       code = "unsigned"
	codeUsage          code = "usage"
	codeWrongSecret    code = "wrong_secret"
)

// meanings documents the codes: docs/CLI.md is written from it.
var meanings = map[code]string{
	codeAddressInUse:   "another process listens at an address of the node",
	codeBadReceipt:     "a receipt is not genuine: somebody altered or forged it",
	codeClusterFile:    "the cluster file is missing or not valid",
	codeConfiguration:  "a node's configuration is not valid",
	codeCorrupt:        "the disk changed what was written",
	codeDataAccess:     "the data directory can't be read or written",
	codeDataInUse:      "another process has the data directory open, or writes the same directory",
	codeDataMissing:    "parts of the data directory are missing, or do not belong together",
	codeDiskFull:       "there is no room on the disk",
	codeEquivocation:   "a log signed what can't be true, and the evidence is kept",
	codeEvidence:       "the file is not evidence",
	codeExport:         "the file is not an export",
	codeFailed:         "anything else; the message says what",
	codeFalseEvidence:  "a file that is said to be evidence proves nothing",
	codeFalseSignature: "a checkpoint has a signature that is not genuine",
	codeFile:           "a file that the command line names can't be read or written",
	codeForeignData:    "the directory is not a data directory of exonode",
	codeFork:           "two checkpoints of one log contradict each other",
	codeGenesis:        "entry 0 is not the genesis that the data directory was made for",
	codeHasState:       "the node was part of a cluster already",
	codeInput:          "the input is not the one that the run was begun with",
	codeInterrupted:    "the command was stopped before it was done",
	codeMonitorState:   "a monitor's state directory is damaged, or can't be written",
	codeNewerData:      "a newer exonode wrote the data",
	codeNoCheckpoint:   "what a log has as its checkpoint is none",
	codeNoGenesis:      "the chain has no entries: there is nothing to verify or to export",
	codeNoLedger:       "the directory holds no ledger",
	codeNoQuorum:       "a checkpoint lacks signatures that the policy asks for",
	codeNoRecovery:     "the cluster can't be recovered from this node",
	codeNotVerified:    "an answer of a node contradicts itself, or an earlier one",
	codeOlderEpoch:     "the cluster was recovered from lost quorum without the node",
	codeOlderNote:      "the newest final checkpoint that was told is older than the one that is published",
	codeOtherCluster:   "the data directory, or the peer, is of another cluster",
	codeOtherLog:       "the directory holds another log, or files where a log's go",
	codePolicy:         "the file is not a policy",
	codeRaftBackend:    "the data directory's raft log is of the other --raft-log",
	codeReceipt:        "the file is not a receipt",
	codeRecovering:     "a recovery from lost quorum was begun on the data directory and did not end",
	codeRemoved:        "the node was removed from the cluster",
	codeStale:          "a log shows an older checkpoint than before",
	codeTLS:            "a certificate or key can't be loaded",
	codeTiles:          "a log's tiles or entries are missing, or are not those of the tree that it signed",
	codeTimeout:        "--timeout was over, and nothing more is known",
	codeUnknownNode:    "no member, or more than one, is called so",
	codeUnreachable:    "no address answered",
	codeUnsigned:       "no log that the policy knows signed a checkpoint",
	codeUsage:          "the command line is wrong",
	codeWrongSecret:    "the cluster file's secret is not the cluster's",
}

// known gives codes to errors of other packages; the first that fits counts.
// hint, where not "", says what to do; other texts say so themselves.
var known = []struct {
	err  error
	code code
	hint string
}{
	{client.ErrAddress, codeUsage, ""},
	{syscall.ENOSPC, codeDiskFull, "make room on the disk, some 100 MB for a start, and start again: nothing that was acknowledged is lost"},
	{node.ErrForeignData, codeForeignData, ""},
	{node.ErrNewerData, codeNewerData, "run the exonode that wrote it, or a newer one: data is never taken back to an older format"},
	{node.ErrOtherCluster, codeOtherCluster, "give that cluster's file with --cluster, or another directory with --data"},
	{node.ErrDataInUse, codeDataInUse, ""},
	{node.ErrDataAccess, codeDataAccess, "correct its permissions or owner, make room on its disk, or choose another directory with --data"},
	{node.ErrDataMissing, codeDataMissing, ""},
	{node.ErrClusterFile, codeClusterFile, ""},
	{membership.ErrWrongSecret, codeWrongSecret, "the cluster file is of this cluster, but its secret is not: copy the file again from a node that is in the cluster"},
	{membership.ErrForeignCluster, codeOtherCluster, "the seeds belong to another cluster: correct --seeds, or use that cluster's file"},
	{membership.ErrRemoved, codeRemoved, "a removed node does not come back: to use the machine again, empty its data directory and join as a new node"},
	{membership.ErrHasState, codeHasState, ""},
	{node.ErrRecovering, codeRecovering, ""},
	{node.ErrOlderEpoch, codeOlderEpoch, ""},
	{fsm.ErrNotRecoverable, codeNoRecovery, "`exonode cluster recover` is for a stopped node that is a member by its own account"},
	{raftstore.ErrBackend, codeRaftBackend, "leave --raft-log out: the directory's own is taken then"},
	{raftstore.ErrDamaged, codeCorrupt, "where the others go on, take this node out (`exonode cluster remove`), empty its data directory, and let it join again"},
	{ledger.ErrNotExist, codeNoLedger, ""},
	{ledger.ErrForeign, codeForeignData, ""},
	{ledger.ErrNewer, codeNewerData, ""},
	{ledger.ErrLocked, codeDataInUse, ""},
	{tiledir.ErrOther, codeOtherLog, "choose another directory; a chain that was recovered from lost quorum is another log from there on, with its epoch in its name"},
	{tiledir.ErrDamaged, codeCorrupt, "move the directory away and export again: all of it is written anew"},
	{tiledir.ErrBehind, codeOlderNote, "the node that answered is behind: try again, or another one with --node"},
	{tiledir.ErrSource, codeNotVerified, "the node that answered is damaged or lies: check it with `exonode verify --node`, and take another one"},
	{tiledir.ErrBusy, codeDataInUse, "let one process at a time write it"},
	{export.ErrFormat, codeExport, ""},
	{export.ErrOrder, codeExport, ""},
	{syscall.EADDRINUSE, codeAddressInUse, "another process listens there: stop it, or choose another address (--peer-listen, --gossip-listen, --api-listen)"},
	{node.ErrConfig, codeConfiguration, ""},
	{context.DeadlineExceeded, codeTimeout, "give more time with --timeout; `exonode status` shows how the cluster is"},
}

// codeOf names an error for programs.
func codeOf(err error) string {
	var incomplete *client.IncompleteError
	var unreachable *client.UnreachableError
	var verify *client.VerifyError
	var inconsistent *client.InconsistentError
	var corrupt *ledger.CorruptError
	var mismatch *ledger.RaftMismatchError
	var own *failure
	isOwn := errors.As(err, &own)
	switch {
	case isOwn && own.code != "" && own.code != codeUsage:
		return string(own.code)
	case errors.Is(err, context.Canceled):
		return string(codeInterrupted)
	case errors.As(err, &incomplete):
		return incompleteCode(incomplete)
	case api.CodeOf(err) != "":
		return string(api.CodeOf(err))
	case errors.As(err, &unreachable):
		return string(codeUnreachable)
	case errors.As(err, &verify), errors.As(err, &inconsistent):
		return string(codeNotVerified)
	case errors.As(err, &corrupt):
		return string(codeCorrupt)
	case errors.As(err, &mismatch):
		return string(codeDataMissing)
	}
	for _, k := range known {
		if errors.Is(err, k.err) {
			return string(k.code)
		}
	}
	if isOwn && own.code != "" {
		return string(own.code)
	}
	return string(codeFailed)
}

// incompleteCode names why an event was not acknowledged: its fate is open where
// a node may have got it, else what kept it from being sent.
func incompleteCode(e *client.IncompleteError) string {
	var unreachable *client.UnreachableError
	switch {
	case e.Sent:
		return string(api.UnknownOutcome)
	case api.CodeOf(e.Last) != "":
		return string(api.CodeOf(e.Last))
	case errors.As(e.Last, &unreachable):
		return string(codeUnreachable)
	}
	return string(codeTimeout)
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
	text = fmt.Sprintf("exonode: %s (%s)", text, codeOf(err))
	if hint != "" {
		text += "\n  " + hint
	}
	return text
}

// problem splits an error into what is wrong and what to do about it.
func problem(err error) (text, hint string) {
	var line *client.LineError
	if errors.As(err, &line) {
		text, hint = problem(line.Err)
		return fmt.Sprintf("line %d: %s", line.Line, text), hint
	}
	var own *failure
	if errors.As(err, &own) && own.hint != "" {
		return plainly(err), own.hint
	}
	var incomplete *client.IncompleteError
	isIncomplete := errors.As(err, &incomplete)
	if isIncomplete && !incomplete.Sent {
		// What kept it from being written is all there is to say.
		if e, ok := errors.AsType[*api.Error](incomplete.Last); ok {
			return e.Message, e.Hint
		}
	}
	if errors.Is(err, context.Canceled) && !isIncomplete {
		return "stopped before it was done", ""
	}
	if e, ok := errors.AsType[*api.Error](err); ok && !isIncomplete {
		return e.Message, e.Hint
	}
	if !isIncomplete {
		hint = hintOf(err)
	}
	return plainly(err), hint
}

// plainly is the text of an error without the names of packages.
func plainly(err error) string {
	return packageNames.ReplaceAllString(strings.TrimSpace(err.Error()), "$1")
}

// packageNames are what the packages' errors begin with: right in a program, and
// noise to a person. They stand where an error begins: at the start, or after another's
// colon.
var packageNames = regexp.MustCompile(`(^|: )(?:(?:chain|checkpoint|checkpoints|client|discovery|export|fsm|gates|ledger|membership|node|raftstore|receipt|server|signing|transport): )+`)

// hintOf says what to do about an error of another package.
func hintOf(err error) string {
	for _, k := range known {
		if errors.Is(err, k.err) {
			return k.hint
		}
	}
	return ""
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
	var own *failure
	if errors.As(err, &own) && own.usage || errors.Is(err, node.ErrConfig) || errors.Is(err, node.ErrClusterFile) {
		return exitUsage
	}
	return exitFailure
}
