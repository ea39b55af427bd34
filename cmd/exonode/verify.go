package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/exonode/exonode/catalog"
	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/export"
	"github.com/exonode/exonode/chain/view"
	"github.com/exonode/exonode/fsm"
	"github.com/exonode/exonode/ledger"
	"github.com/exonode/exonode/node"
)

// targetFlags say which chain is read: a cluster's node, a stopped node's data
// directory, or an export.
type targetFlags struct{ node, data, file string }

func (t *targetFlags) register(cmd *cobra.Command, a *app, file bool) {
	flags := cmd.Flags()
	flags.StringVar(&t.node, "node", "", "the cluster's `node` to read from: id, beginning of one, name or address (default: the first that answers)")
	flags.StringVar(&t.data, "data", "", "data `directory` of a stopped node")
	operands(cmd, "node", "data")
	if file {
		flags.StringVar(&t.file, "file", "", "`file` that exonode export wrote")
		operands(cmd, "file")
	}
	_ = cmd.RegisterFlagCompletionFunc("node", func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return a.completeNodes(cmd, nil, begun)
	})
}

func (t *targetFlags) check() error {
	given := 0
	for _, s := range []string{t.node, t.data, t.file} {
		if s != "" {
			given++
		}
	}
	if given > 1 {
		return usagef("--node, --data and --file name different chains: give one of them")
	}
	return nil
}

func (a *app) verifyCommand() *cobra.Command {
	var t targetFlags
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Verify a chain: a cluster's, a stopped node's, or an export's",
		Long: `Verify a whole chain from entry 0: encodings, links, times, envelopes, the
Merkle tree, and every recorded verdict, which is evaluated again from the policy
that was in force. Nothing is taken on trust but the bytes that are read.

Of a cluster, one node's entries are streamed and everything is recomputed here,
then held against the head and root that the node claims. Of a data directory
(--data), the stored tiles and the index of ids are compared too, and entry 0
with the genesis that the directory was made for; the node must be stopped. Where
raft's log goes on beyond the ledger, as after a crash, that is told: the node
applies it at its next start. Of an export (--file), what it says of itself.

Exit status 1 and the first bad entry where something is wrong.`,
		Example: `  exonode verify
  exonode verify --node n2
  exonode verify --data /var/lib/exonode
  exonode verify --file chain.bin -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := t.check(); err != nil {
				return err
			}
			s, err := a.openTarget(cmd.Context(), &t)
			if err != nil {
				return a.badTarget(&t, err)
			}
			defer s.close()
			v := a.verify(cmd.Context(), s)
			if v.err != nil && !v.isBad() {
				return v.err
			}
			if v.err == nil && v.Size == 0 {
				return noGenesis(s.ahead)
			}
			if err := a.emit(v, v.print); err != nil {
				return err
			}
			if v.isBad() {
				return errSilent
			}
			return nil
		},
	}
	t.register(cmd, a, true)
	return cmd
}

// target is a chain to verify.
type target struct {
	name   string
	source chain.Source
	// head and root are what the chain must end in; nil is unknown.
	head *chain.Head
	root *chain.Hash
	// tiles are stored ones; nil where there are none.
	tiles chain.TileReader
	// lookup is a stored index of keys; nil where there is none.
	lookup func(chain.Key) (chain.Slot, bool, error)
	// ahead is what raft's log has beyond the chain; nil where it is not
	// known.
	ahead *node.LogAhead
	// export is set where the chain is one.
	export *export.Reader
	close  func()
}

func (a *app) openTarget(ctx context.Context, t *targetFlags) (*target, error) {
	switch {
	case t.data != "":
		return openData(t.data)
	case t.file != "":
		f, err := os.Open(t.file)
		if err != nil {
			return nil, misuse(codeFile, "", fmt.Errorf("open --file: %w", err))
		}
		r, err := export.NewReader(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", t.file, err), f.Close())
		}
		return &target{name: t.file, source: r, export: r, close: func() { f.Close() }}, nil
	}
	return a.openNode(ctx, t.node)
}

// openData opens the ledger of a stopped node, after the checks of the directory
// that the node itself makes.
func openData(dir string) (*target, error) {
	const hint = "--data is the directory that the node was started with"
	if _, err := os.Stat(dir); err != nil {
		return nil, failf(codeNoLedger, hint, "no data directory: %w", err)
	}
	genesis, err := node.DataGenesis(dir)
	if err != nil {
		return nil, failf("", hint, "%w", err)
	}
	store, err := ledger.OpenReadOnly(filepath.Join(dir, "ledger"), ledger.Options{})
	switch {
	case errors.Is(err, ledger.ErrLocked):
		return nil, failf("", "stop the node first; or verify it as it runs, with --addr", "%w", err)
	case errors.Is(err, ledger.ErrNotExist):
		return nil, failf("", hint, "%w", err)
	case err != nil:
		return nil, err
	}
	m := store.Meta()
	t := &target{
		name: dir, source: store.Source(), head: &m.Head, root: &m.Root, tiles: store.Source(), lookup: store.Find,
		close: func() { _ = store.Close() }, // it was only read
	}
	ahead, err := node.ReadLogAhead(dir, m.Applied)
	if err == nil {
		t.ahead, err = &ahead, checkGenesis(store.Source(), genesis)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// checkGenesis holds entry 0, where it can be read, against the genesis hash
// that the data directory was made for. What can't be read, or is not what its
// header says, is for the verifier.
func checkGenesis(source chain.Source, want string) error {
	for r, err := range source.Records(context.Background(), 0, min(source.Size(), 1)) {
		if err != nil {
			return nil
		}
		e, err := r.Check()
		if err != nil || e.Envelope == nil {
			return nil
		}
		var genesis catalog.ChainGenesis
		if json.Unmarshal(e.Envelope.Payload, &genesis) != nil {
			return nil
		}
		if got := chain.GenesisHash([]byte(genesis.Document)).String(); got != want {
			return failf(codeGenesis, "the ledger and the directory's FORMAT file are of different clusters: restore the one that was exchanged",
				"entry 0 is genesis %s, and the data directory was made for %s", got, want)
		}
	}
	return nil
}

// errNoGenesis says that there is no chain yet.
var errNoGenesis = failf(codeNoGenesis, "a node that has not formed or joined a cluster yet has no chain", "the chain has no entries, not even its genesis")

// noGenesis is errNoGenesis, with where the entries are.
func noGenesis(ahead *node.LogAhead) error {
	if ahead == nil || ahead.Commands == 0 {
		return errNoGenesis
	}
	return failf(codeNoGenesis, "start the node: it applies what is committed; then verify it again",
		"the ledger has no entries, not even the genesis: %d commands are still in raft's log", ahead.Commands)
}

// badTarget turns damage that is found when the target is opened into a verdict.
func (a *app) badTarget(t *targetFlags, err error) error {
	var c *ledger.CorruptError
	if !errors.As(err, &c) {
		return err
	}
	v := &verification{Source: t.data, err: err, Bad: &badView{Part: c.Part, Problem: err.Error()}}
	if c.HasSequence {
		v.Bad.Sequence = &c.Sequence
	}
	if err := a.emit(v, v.print); err != nil {
		return err
	}
	return errSilent
}

// verification is the outcome of verify.
type verification struct {
	OK       bool       `json:"ok"`
	Source   string     `json:"source"`
	Chain    chain.ID   `json:"chain"`
	Epoch    uint64     `json:"epoch"`
	From     uint64     `json:"from"`
	Entries  uint64     `json:"entries"`
	Bytes    uint64     `json:"bytes"`
	Seconds  float64    `json:"seconds"`
	Size     uint64     `json:"size"`
	Hash     chain.Hash `json:"hash"`
	Root     chain.Hash `json:"root"`
	Time     string     `json:"time,omitempty"`
	Redacted uint64     `json:"redacted"`
	Tiles    uint64     `json:"tiles_compared"`
	// Verdicts were evaluated again, Unknown ones could not be.
	Replayed bool   `json:"governance_replayed"`
	Verdicts uint64 `json:"verdicts_replayed"`
	Unknown  uint64 `json:"verdicts_unknown"`
	// Ahead is what raft's log has beyond the ledger; only of a data
	// directory.
	Ahead *node.LogAhead `json:"raft_log,omitempty"`
	Bad   *badView       `json:"bad,omitempty"`

	err error
}

// badView is the first bad entry.
type badView struct {
	Sequence *uint64 `json:"sequence,omitempty"`
	Part     string  `json:"part"`
	Problem  string  `json:"problem"`
}

func (v *verification) isBad() bool { return v.Bad != nil }

// verify verifies a target from its beginning to its end.
func (a *app) verify(ctx context.Context, t *target) *verification {
	began := time.Now()
	bar := a.progress("verifying "+t.name, int64(t.source.Size()), false)
	replay := fsm.NewReplay()
	replay.Lookup = t.lookup
	options := chain.VerifyOptions{
		Head: t.head, Root: t.root, Tiles: t.tiles,
		Progress: func(p chain.Progress) { bar.set(p.Done) },
	}
	v := &verification{Source: t.name, Replayed: true, Ahead: t.ahead}
	if t.export != nil {
		v.From = t.export.Info().From
	}
	// Governance folds from entry 0.
	if v.Replayed = v.From == 0; v.Replayed {
		options.Check = replay.Check
	}
	var report chain.VerifyReport
	if t.export != nil {
		report, v.err = export.Verify(ctx, t.export, options)
	} else {
		report, v.err = chain.Verify(ctx, t.source, options)
	}
	bar.done()
	v.Chain, v.Epoch, v.Entries, v.Bytes = report.ChainID, report.Epoch, report.Entries, report.Bytes
	v.Size, v.Hash, v.Root = report.Head.Size, report.Head.Hash, report.Root
	v.Redacted, v.Tiles = report.Redacted, report.Tiles
	if v.Size > 0 {
		v.Time = view.Time(report.Head.Time)
	}
	checked := replay.Report()
	v.Verdicts, v.Unknown = checked.Verdicts, checked.Unknown
	v.Seconds = time.Since(began).Seconds()
	v.OK = v.err == nil
	var bad *chain.BadEntryError
	if errors.As(v.err, &bad) {
		v.Bad = &badView{Sequence: &bad.Sequence, Part: string(bad.Part), Problem: bad.Err.Error()}
		// The entry may have been found bad by its successors.
		v.Entries = min(v.Entries, bad.Sequence-min(bad.Sequence, v.From))
	} else if errors.Is(v.err, export.ErrFormat) || errors.Is(v.err, export.ErrOrder) {
		v.Bad = &badView{Part: "export", Problem: v.err.Error()}
	}
	return v
}

func (v *verification) print(w io.Writer) error {
	if v.isBad() {
		at := "the store"
		if v.Bad.Sequence != nil {
			at = fmt.Sprintf("entry %d", *v.Bad.Sequence)
		}
		_, err := fmt.Fprintf(w, "NOT VERIFIED  %s\n  first bad  %s (%s)\n  problem    %s\n  good       %d entries before it\n",
			v.Source, at, v.Bad.Part, v.Bad.Problem, v.Entries)
		return err
	}
	rate := float64(v.Entries) / max(v.Seconds, 1e-6)
	if _, err := fmt.Fprintf(w, `verified   %s
  chain      %s, epoch %d
  entries    %d (%d bytes) in %.2f s: %.0f entries/s
  head       %d entries, %s
  time       %s
  root       %s
  redacted   %d
`, v.Source, v.Chain, v.Epoch, v.Entries, v.Bytes, v.Seconds, rate, v.Size, v.Hash, orDash(v.Time), v.Root, v.Redacted); err != nil {
		return err
	}
	if v.Tiles > 0 {
		if _, err := fmt.Fprintf(w, "  tiles      %d compared\n", v.Tiles); err != nil {
			return err
		}
	}
	if v.Ahead != nil && v.Ahead.Commands > 0 {
		if _, err := fmt.Fprintf(w, "  raft log   %d commands more, up to index %d: the node applies what of them is committed at its next start\n", v.Ahead.Commands, v.Ahead.Last); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%d replayed", v.Verdicts)
	if v.Unknown > 0 {
		text += fmt.Sprintf(", %d by an evaluator that this version does not have", v.Unknown)
	}
	if !v.Replayed {
		text = fmt.Sprintf("not replayed: the export begins at entry %d, which stands on its own word", v.From)
	}
	_, err := fmt.Fprintf(w, "  verdicts   %s\n", text)
	return err
}
