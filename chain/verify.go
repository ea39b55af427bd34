package chain

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// Verify checks a chain from opts.Start to the source's end, as docs/FORMAT.md
// describes step by step: encodings, links, times, epochs, envelopes, redactions
// the tree, and at last what an Indexed source keeps besides. It uses all cores and constant memory: some megabytes for each
// core, and one bit for each entry around those that lack an envelope or must
// keep it.
//
// The first error ends it. A *BadEntryError is about the chain and names the
// first bad entry; which one that is does not depend on the number of workers.
// Where a header does not hash to what its successor names, the entry after the
// successor (or opts.Head) tells which of the two was altered. Any other error
// is about reading, or ctx's. The report is as far as verification came.
func Verify(ctx context.Context, src Source, opts VerifyOptions) (VerifyReport, error) {
	v := newVerifier(&opts)
	from, to := v.head.Size, src.Size()
	if to < from {
		return v.report(), v.bad(to, PartHead, fmt.Errorf("the chain has %d entries, verification starts at %d", to, from))
	}
	v.total = to - from
	workers := opts.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	p := newPipeline(workers, v.total)
	var joined sync.WaitGroup
	joined.Go(func() { p.read(ctx, src, from, to) })
	for range workers {
		joined.Go(p.work)
	}
	err := v.consume(p)
	cancel()
	joined.Wait()
	if err == nil {
		err = v.finish(to)
	}
	if indexed, ok := src.(Indexed); ok && err == nil {
		if err = indexed.CheckIndexes(outer); err != nil {
			err = fmt.Errorf("chain: verify: %w", err)
		}
	}
	return v.report(), err
}

// verifier is the part of verification that goes in order: it takes batches
// whose entries were each checked by themselves, and checks what connects them.
type verifier struct {
	opts    *VerifyOptions
	first   uint64 // where verification began
	total   uint64
	chainID *ID // nil before entry 0
	epoch   uint64
	head    Head
	tree    *Tree
	missing bitmap // entries that lack an envelope, no redaction seen yet
	kept    bitmap // entries that no redaction may name

	bytes, redacted, tiles uint64

	// suspects is set where an entry does not name its predecessor's hash;
	// the entry after it tells whom to blame.
	suspects *suspects
	tileErr  error // of the TileFunc
}

// suspects are an entry whose link is broken, and its predecessor.
type suspects struct {
	sequence    uint64 // of the entry
	hash        Hash   // of the entry
	named, real Hash   // what it names, and what its predecessor has
	predecessor bool   // the predecessor is part of this verification
}

// blame decides with the hash that the successor names (or that the head must
// have): if it vouches for the entry, then the predecessor was altered.
func (s *suspects) blame(vouched bool) error {
	err := fmt.Errorf("names %v as its predecessor's hash, which is %v", s.named, s.real)
	if vouched && s.predecessor {
		return &BadEntryError{Sequence: s.sequence - 1, Part: PartHeader,
			Err: fmt.Errorf("hashes to %v, but its successor, to which the chain links, names %v", s.real, s.named)}
	}
	return &BadEntryError{Sequence: s.sequence, Part: PartLink, Err: err}
}

func newVerifier(opts *VerifyOptions) *verifier {
	v := &verifier{opts: opts, chainID: opts.ChainID, tree: &Tree{}}
	if s := opts.Start; s != nil {
		v.epoch, v.head = s.Epoch, s.Head
		if s.Tree != nil {
			v.tree = s.Tree.Clone()
		}
		if v.chainID == nil && s.Head.Size > 0 {
			v.chainID = &s.ChainID
		}
	}
	v.first = v.head.Size
	return v
}

func (v *verifier) bad(seq uint64, part Part, err error) error {
	return &BadEntryError{Sequence: seq, Part: part, Err: err}
}

func (v *verifier) report() VerifyReport {
	r := VerifyReport{
		Epoch: v.epoch, Head: v.head, Root: v.tree.Root(), Tree: v.tree,
		Entries: v.head.Size - v.first, Bytes: v.bytes, Redacted: v.redacted, Tiles: v.tiles,
	}
	if v.chainID != nil {
		r.ChainID = *v.chainID
	}
	return r
}

// consume takes batches in order until the pipeline ends or something is bad.
func (v *verifier) consume(p *pipeline) error {
	if v.tree.Size() != v.head.Size {
		return fmt.Errorf("chain: verify: starts at entry %d with a tree of %d", v.head.Size, v.tree.Size())
	}
	for b := range p.ordered {
		<-b.done
		if err := v.batch(b); err != nil {
			return err
		}
		p.free <- b
	}
	return nil
}

func (v *verifier) batch(b *batch) error {
	perfect := b.perfect && v.tree.Size()%TileWidth == 0
	for i := range b.entries[:b.n] {
		if err := v.entry(&b.entries[i], b, i); err != nil {
			return err
		}
		if !perfect {
			v.tree.AppendLeaf(b.leaf(i), v.tileDone())
		}
		if v.tileErr != nil {
			return v.tileErr
		}
	}
	if perfect {
		v.tree.appendPerfect(b.leaves, b.root, v.tileDone())
		if v.tileErr != nil {
			return v.tileErr
		}
	}
	v.bytes += uint64(len(b.arena))
	if b.err != nil {
		return v.readError(b.err)
	}
	v.progress()
	return nil
}

func (v *verifier) progress() {
	if v.opts.Progress != nil {
		v.opts.Progress(Progress{Done: v.head.Size - v.first, Total: v.total, Bytes: v.bytes})
	}
}

// readError turns the error that ended the source into one about the chain,
// where it is.
func (v *verifier) readError(err error) error {
	var bad *BadEntryError
	isBad := errors.As(err, &bad)
	switch {
	case !isBad && !errors.Is(err, ErrNotFound):
		return fmt.Errorf("chain: verify: read entry %d: %w", v.head.Size, err)
	case v.suspects != nil:
		return v.suspects.blame(false)
	case isBad:
		return err
	}
	return v.bad(v.head.Size, PartRecord, err)
}

// entry checks an entry against its predecessor and the rules of the chain.
func (v *verifier) entry(e *Entry, b *batch, i int) error {
	h, seq, bad := &e.Header, v.head.Size, b.bad[i]
	if s := v.suspects; s != nil {
		decoded := bad == nil || bad.Part != PartHeader
		return s.blame(decoded && h.Previous == s.hash)
	}
	if e.Record.Sequence != seq {
		return v.bad(seq, PartRecord, fmt.Errorf("the source has entry %d in its place", e.Record.Sequence))
	}
	if bad != nil && bad.Part == PartHeader {
		return bad
	}
	// The link comes first: where it holds, the predecessor is what the chain
	// says it is, and what this header says otherwise is its own fault.
	if seq > 0 && h.Previous != v.head.Hash {
		v.suspects = &suspects{sequence: seq, hash: e.Hash, named: h.Previous, real: v.head.Hash, predecessor: seq > v.first}
		v.head = Head{Size: seq + 1, Hash: e.Hash, Time: h.Time}
		return nil
	}
	if err := v.header(h, seq); err != nil {
		return err
	}
	if seq > 0 && h.Time <= v.head.Time {
		return v.bad(seq, PartTime, fmt.Errorf("%d is not after its predecessor's %d", h.Time, v.head.Time))
	}
	if bad != nil {
		return bad
	}
	if err := v.envelope(e); err != nil {
		return err
	}
	if v.opts.Check != nil {
		if err := v.opts.Check(e); err != nil {
			return v.bad(seq, PartCheck, err)
		}
	}
	v.head, v.epoch = Head{Size: seq + 1, Hash: e.Hash, Time: h.Time}, h.Epoch
	return nil
}

// header checks the fields that say where in which chain the entry stands.
func (v *verifier) header(h *Header, seq uint64) error {
	if v.chainID == nil {
		id := h.ChainID
		v.chainID = &id
	}
	system := h.Workspace == systemWorkspace
	switch {
	case h.ChainID != *v.chainID:
		return v.bad(seq, PartHeader, fmt.Errorf("chain id is %v, want %v", h.ChainID, *v.chainID))
	case h.Sequence != seq:
		return v.bad(seq, PartHeader, fmt.Errorf("sequence is %d", h.Sequence))
	case seq == 0 && (h.Kind != kindGenesis || !system):
		return v.bad(seq, PartHeader, fmt.Errorf("entry 0 is %s in workspace %s, want %s in %s", h.Kind, h.Workspace, kindGenesis, systemWorkspace))
	case seq == 0 && !h.Previous.IsZero():
		return v.bad(seq, PartLink, errors.New("entry 0 names a predecessor"))
	case seq > 0 && h.Kind == kindGenesis && system:
		return v.bad(seq, PartHeader, errors.New("a second genesis"))
	case seq > 0 && (h.Epoch < v.epoch || (h.Epoch > v.epoch) != (h.Kind == kindRecover && system)):
		return v.bad(seq, PartEpoch, fmt.Errorf("epoch goes from %d to %d at kind %s", v.epoch, h.Epoch, h.Kind))
	}
	return nil
}

// envelope notes which entries lack theirs, and which redactions make that
// valid.
func (v *verifier) envelope(e *Entry) error {
	h := &e.Header
	lacks := e.Envelope == nil
	if h.Workspace == systemWorkspace {
		if lacks {
			return v.bad(e.Record.Sequence, PartEnvelope, errors.New("missing; entries of workspace system keep theirs"))
		}
		// Of an escalation, the envelope beside it may be redacted.
		if h.Kind == kindEscalate {
			lacks = e.Beside == nil
		} else {
			v.kept.add(e.Record.Sequence)
		}
		if h.Kind == kindRecover {
			if err := checkRecovery(h, e.Envelope.Payload); err != nil {
				return v.bad(e.Record.Sequence, PartEpoch, err)
			}
		}
		if h.Kind == kindRedact {
			target, err := redactTarget(e.Envelope.Payload)
			if err != nil {
				return v.bad(e.Record.Sequence, PartEnvelope, err)
			}
			if target >= e.Record.Sequence {
				return v.bad(e.Record.Sequence, PartEnvelope, fmt.Errorf("target_seq %d is not an earlier entry", target))
			}
			if v.kept.has(target) {
				return v.bad(e.Record.Sequence, PartEnvelope, fmt.Errorf("target_seq %d is an entry of workspace system, which keeps its envelope", target))
			}
			if v.missing.remove(target) {
				v.redacted++
			}
		}
	}
	if lacks {
		v.missing.add(e.Record.Sequence)
	}
	return nil
}

// tileDone returns the function that compares completed tiles with the stored
// ones; nil where there are none.
func (v *verifier) tileDone() TileFunc {
	if v.opts.Tiles == nil || v.tileErr != nil {
		return nil
	}
	return v.compareTile
}

func (v *verifier) compareTile(level int, index uint64, tile []byte) {
	// Where an entry's link is broken, a header is blamed, not the tiles.
	if v.tileErr != nil || v.suspects != nil {
		return
	}
	shift := TileHeight * level
	first := index * TileWidth << shift
	stored, err := readTile(v.opts.Tiles, level, index, TileWidth)
	if err != nil {
		if errors.Is(err, ErrNotFound) {
			err = v.bad(first, PartTile, err)
		}
		v.tileErr = err
		return
	}
	for i := uint64(0); i < TileWidth; i++ {
		if Hash(tile[i*uint64(hashSize):]) != Hash(stored[i*uint64(hashSize):]) {
			from := first + i<<shift
			v.tileErr = v.bad(from, PartTile, &TileError{Level: level, Index: index, From: from, To: from + 1<<shift})
			return
		}
	}
	v.tiles++
}

// finish checks what only the end of the chain can tell.
func (v *verifier) finish(to uint64) error {
	last := max(v.head.Size, 1) - 1
	want := v.opts.Head
	if s := v.suspects; s != nil {
		return s.blame(want != nil && want.Size == v.head.Size && want.Hash == s.hash)
	}
	if v.head.Size != to {
		return v.bad(v.head.Size, PartRecord, fmt.Errorf("the source ends before its size of %d: %w", to, ErrNotFound))
	}
	if seq, ok := v.missing.first(); ok {
		return v.bad(seq, PartEnvelope, errors.New("missing, and no committed chain.redact names it"))
	}
	if want != nil && *want != v.head {
		return v.bad(last, PartHead, fmt.Errorf("head is (%d, %v, %d), want (%d, %v, %d)",
			v.head.Size, v.head.Hash, v.head.Time, want.Size, want.Hash, want.Time))
	}
	if root := v.tree.Root(); v.opts.Root != nil && *v.opts.Root != root {
		return v.bad(last, PartRoot, fmt.Errorf("root is %v, want %v", root, *v.opts.Root))
	}
	if v.head.Size == v.first {
		v.progress()
	}
	return nil
}
