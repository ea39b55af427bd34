// Package export holds a range of a chain in one file or stream: as a compact
// binary form, or as JSON lines with the exact bytes beside a readable view.
// Either verifies on its own, and the reader of both is a chain.Source.
// docs/FORMAT.md describes both forms.
//
// The package reads and writes what the caller opened; it opens, syncs and
// closes nothing. The command line and nodes call it. It must not verify by
// itself what package chain verifies.
package export

import (
	"context"
	"errors"
	"fmt"

	"github.com/exonode/exonode/chain"
)

// Format is a form of export.
type Format uint8

// The forms.
const (
	Binary Format = iota
	JSONLines
)

// formatName begins every export: as a line of the binary form, as the member
// "format" of the first line of the other.
const formatName = "exonode-export/1"

// MaxFrame is the most bytes that a frame of the binary form may have, and a
// quarter of what a line may have.
const MaxFrame = 64 << 20

// PartView is the part of a JSON-lines export that tells a lie: the readable view
// is not that of the bytes beside it.
const PartView chain.Part = "view"

// Errors of exports.
var (
	// ErrFormat says that the data is not an export, of another version, or
	// damaged outside of its entries.
	ErrFormat = errors.New("export: not an export that this version reads")
	// ErrOrder says that entries are not written or read in order.
	ErrOrder = errors.New("export: entries go in order, once")
	// ErrIncomplete says that an export was closed before its last entry.
	ErrIncomplete = errors.New("export: closed before its last entry")
)

// Info says what an export holds.
type Info struct {
	ChainID chain.ID
	// From and To bound the entries, To exclusive.
	From, To uint64
	// Start is the point of the chain that the entries go on from; nil
	// where From is 0.
	Start *chain.Start
}

func (i *Info) validate() error {
	switch {
	case i.From > i.To:
		return fmt.Errorf("%w: entries %d to %d", ErrFormat, i.From, i.To)
	case i.From == 0:
		return nil
	case i.Start == nil || i.Start.Tree == nil || i.Start.Head.Size != i.From || i.Start.Tree.Size() != i.From:
		return fmt.Errorf("%w: entries from %d without the start at %d", ErrFormat, i.From, i.From)
	}
	return nil
}

// Trailer is what an export says at its end: where the chain then stands.
type Trailer struct {
	Head chain.Head
	Root chain.Hash
}

// Verify verifies an export: that it is whole and what opts ask for, that its
// entries are a chain, that its views are true, and that the chain ends where the
// trailer says.
//
// An export that begins later than entry 0 is verified from opts.Start; without
// one, from its own start, which then stands on the export's word: the caller
// compares r.Info().Start with what it trusts, or tells the user.
func Verify(ctx context.Context, r *Reader, opts chain.VerifyOptions) (chain.VerifyReport, error) {
	info := r.Info()
	if opts.Start == nil {
		opts.Start = info.Start
	}
	if opts.ChainID == nil {
		opts.ChainID = &info.ChainID
	}
	report, err := chain.Verify(ctx, r, opts)
	if err != nil {
		return report, err
	}
	t, err := r.Trailer()
	if err != nil {
		return report, err
	}
	last := max(report.Head.Size, 1) - 1
	if t.Head != report.Head {
		return report, &chain.BadEntryError{Sequence: last, Part: chain.PartHead,
			Err: fmt.Errorf("the export's trailer says %v, the entries %v", t.Head, report.Head)}
	}
	if t.Root != report.Root {
		return report, &chain.BadEntryError{Sequence: last, Part: chain.PartRoot,
			Err: fmt.Errorf("the export's trailer says %v, the entries %v", t.Root, report.Root)}
	}
	return report, nil
}
