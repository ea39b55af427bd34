package evidence

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/checkpoint"
)

// MaxSize is the most bytes that an evidence file may have: two notes, two entries in
// base64 and the hashes.
const MaxSize = 1 << 20

const (
	magic = "exonode/evidence/v1"
	// maxHashes is the most hashes that a proof has: sizes are below 2^63, and the
	// older root may stand before a consistency proof.
	maxHashes = 64
	// maxEntry is the most bytes of an entry: bundles have its length in 16 bits.
	maxEntry = 65_535
)

var (
	// ErrFormat is wrapped by Parse's errors: the input is no evidence file.
	ErrFormat = errors.New("not an evidence file")
	// ErrNotEvidence is wrapped by Verify's errors where the file proves nothing
	// against the log. Where a log did not sign, they wrap checkpoint.ErrQuorum or
	// checkpoint.ErrSignature instead.
	ErrNotEvidence = errors.New("it proves nothing against the log")
)

// Evidence is what is said to be proof against a log. Nothing of it is to be believed
// before Verify.
type Evidence struct {
	// First is a checkpoint that Second contradicts; nil where Second alone is the
	// proof. Of two epochs it is the lower one's.
	First, Second *checkpoint.Note
	// Size is how many entries the two trees should have in common, and have not:
	// 1 to the smaller one's size. 0 without First.
	Size uint64
	// FirstProof and SecondProof lead to the roots at Size, as
	// chain.ConsistencyRoots takes them. Each is empty where its tree has that size.
	FirstProof, SecondProof []chain.Hash
	// Leaves are entries of Second's tree, at most two.
	Leaves []Leaf
}

// Leaf is an entry of a tree, with its proof.
type Leaf struct {
	Index uint64
	Entry []byte
	// Path is the RFC 6962 audit path, nearest sibling first.
	Path []chain.Hash
}

// Kind says what an evidence file proves.
type Kind string

// The kinds.
const (
	// Fork: two checkpoints that can't be of one append-only log.
	Fork Kind = "fork"
	// Epoch: a checkpoint of an epoch that its tree does not declare.
	Epoch Kind = "epoch"
	// Entry: a signed tree has an entry that breaks the rules of a chain.
	Entry Kind = "entry"
)

// Finding is what an evidence file proves.
type Finding struct {
	Kind Kind
	// What says it in a sentence.
	What string
	// First and Second are who signed the notes; First is nil where there is none.
	First, Second *checkpoint.Judgement
}

// Bytes returns the evidence as a file has it.
func (e *Evidence) Bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, magic)
	hashes := func(name string, list []chain.Hash) {
		for _, h := range list {
			fmt.Fprintln(&b, name, base64.StdEncoding.EncodeToString(h[:]))
		}
	}
	if e.First != nil {
		fmt.Fprintln(&b, "size", e.Size)
		hashes("first", e.FirstProof)
		hashes("second", e.SecondProof)
	}
	for _, l := range e.Leaves {
		fmt.Fprintln(&b, "leaf", l.Index, base64.StdEncoding.EncodeToString(l.Entry))
		hashes("path", l.Path)
	}
	for _, n := range []*checkpoint.Note{e.First, e.Second} {
		if n != nil {
			fmt.Fprintln(&b)
			b.Write(n.Bytes())
		}
	}
	return b.Bytes()
}

func formatError(format string, args ...any) error {
	return fmt.Errorf("evidence: %w: "+format, append([]any{ErrFormat}, args...)...)
}

// Parse reads an evidence file, and nothing that Bytes would not write.
func Parse(b []byte) (*Evidence, error) {
	if len(b) > MaxSize {
		return nil, formatError("%d bytes, at most %d", len(b), MaxSize)
	}
	// A note has one empty line, and one stands before each note.
	parts := strings.Split(string(b), "\n\n")
	if len(parts) != 3 && len(parts) != 5 {
		return nil, formatError("%d parts, want 3 or 5 with an empty line between them", len(parts))
	}
	e := new(Evidence)
	var err error
	if e.Second, err = checkpoint.ParseNote([]byte(strings.Join(parts[len(parts)-2:], "\n\n"))); err != nil {
		return nil, formatError("%w", err)
	}
	if len(parts) == 5 {
		if e.First, err = checkpoint.ParseNote([]byte(parts[1] + "\n\n" + parts[2] + "\n")); err != nil {
			return nil, formatError("%w", err)
		}
	}
	lines := strings.Split(parts[0], "\n")
	if lines[0] != magic {
		return nil, formatError("it begins with %.40q, want %q", lines[0], magic)
	}
	for _, line := range lines[1:] {
		if err := e.line(line); err != nil {
			return nil, formatError("line %.40q: %w", line, err)
		}
	}
	// The order of the lines, and that none is there that has no place.
	if string(e.Bytes()) != string(b) {
		return nil, formatError("it has another form than the one that is written")
	}
	return e, nil
}

func (e *Evidence) line(line string) (err error) {
	name, value, _ := strings.Cut(line, " ")
	switch name {
	case "size":
		e.Size, err = decimal(value)
	case "first":
		err = appendHash(&e.FirstProof, value)
	case "second":
		err = appendHash(&e.SecondProof, value)
	case "leaf":
		if len(e.Leaves) == 2 {
			return errors.New("more than two leaves")
		}
		index, entry, _ := strings.Cut(value, " ")
		var l Leaf
		if l.Index, err = decimal(index); err != nil {
			return err
		}
		if l.Entry, err = decode(entry); err == nil && len(l.Entry) > maxEntry {
			err = fmt.Errorf("an entry of %d bytes, at most %d", len(l.Entry), maxEntry)
		}
		e.Leaves = append(e.Leaves, l)
	case "path":
		if len(e.Leaves) == 0 {
			return errors.New("no leaf stands before it")
		}
		err = appendHash(&e.Leaves[len(e.Leaves)-1].Path, value)
	default:
		err = errors.New("want size, first, second, leaf or path")
	}
	return err
}

func appendHash(list *[]chain.Hash, text string) error {
	b, err := decode(text)
	switch {
	case err != nil:
		return err
	case len(b) != len(chain.Hash{}):
		return fmt.Errorf("a hash of %d bytes", len(b))
	case len(*list) == maxHashes:
		return fmt.Errorf("more than %d hashes", maxHashes)
	}
	*list = append(*list, chain.Hash(b))
	return nil
}

func decode(text string) ([]byte, error) {
	if strings.ContainsRune(text, '\r') {
		return nil, errors.New("not base64")
	}
	return base64.StdEncoding.Strict().DecodeString(text)
}

func decimal(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != text {
		return 0, errors.New("want a decimal number below 2^63 without leading zeroes")
	}
	return n, nil
}

// Verify checks that the file proves something against a log that the policy knows, by
// nothing but itself: that the log signed, and that what it signed can't be true. Nobody
// but the log's key can have made that. Who cosigned is told, and not asked for: the
// policy's quorum is not held against a fork.
func (e *Evidence) Verify(policy *checkpoint.Policy) (*Finding, error) {
	f := new(Finding)
	var err error
	if f.Second, err = signers(policy, e.Second); err != nil {
		return nil, err
	}
	if e.First != nil {
		if f.First, err = signers(policy, e.First); err != nil {
			return nil, err
		}
	}
	for i := range e.Leaves {
		l, c := &e.Leaves[i], &e.Second.Checkpoint
		if err := chain.VerifyInclusion(chain.LeafHash(l.Entry), l.Index, c.Size, c.Root, l.Path); err != nil {
			return nil, notEvidence("%w", err)
		}
	}
	if e.First == nil {
		f.Kind, f.What, err = e.alone()
	} else {
		f.Kind = Fork
		f.What, err = e.fork()
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

func notEvidence(format string, args ...any) error {
	return fmt.Errorf("evidence: %w: "+format, append([]any{ErrNotEvidence}, args...)...)
}

// signers returns who signed a note, among them the log.
func signers(policy *checkpoint.Policy, n *checkpoint.Note) (*checkpoint.Judgement, error) {
	p := *ForOrigin(policy, n.Checkpoint.Origin)
	p.Quorum = checkpoint.NoQuorum
	j, err := p.Verify(n)
	if err != nil {
		return nil, fmt.Errorf("evidence: %w", err)
	}
	return &j, nil
}

// alone says what Second proves without another checkpoint.
func (e *Evidence) alone() (Kind, string, error) {
	c := &e.Second.Checkpoint
	_, epoch, named := SplitOrigin(c.Origin)
	if len(e.Leaves) == 1 && named && e.Leaves[0].Index == c.Size-1 {
		if tip, err := At(c.Size-1, e.Leaves[0].Entry); err == nil && tip.Epoch != epoch {
			return Epoch, fmt.Sprintf("the checkpoint is of epoch %d, and its last entry, %d, of epoch %d", epoch, c.Size-1, tip.Epoch), nil
		}
	}
	id, own := ChainID(c.Origin)
	if !own {
		return "", "", notEvidence("what the leaves of %q are is not known", c.Origin)
	}
	tip := Tip{ChainID: id}
	switch {
	case len(e.Leaves) == 1 && e.Leaves[0].Index == 0:
	case len(e.Leaves) == 2 && e.Leaves[0].Index+1 == e.Leaves[1].Index:
		var err error
		if tip, err = At(e.Leaves[0].Index, e.Leaves[0].Entry); err != nil {
			return Entry, err.Error(), nil
		}
		if tip.ChainID != id {
			return Entry, fmt.Sprintf("%v: entry %d is of chain %v, not of %v", ErrRule, e.Leaves[0].Index, tip.ChainID, id), nil
		}
	default:
		return "", "", notEvidence("want entry 0, or an entry behind its predecessor, or the last one of another epoch")
	}
	if _, err := tip.Next(e.Leaves[len(e.Leaves)-1].Entry); err != nil {
		return Entry, err.Error(), nil
	}
	return "", "", notEvidence("the entries keep the rules")
}

// fork says what First and Second prove.
func (e *Evidence) fork() (string, error) {
	a, b := &e.First.Checkpoint, &e.Second.Checkpoint
	if a.Origin != b.Origin {
		if err := e.epochs(); err != nil {
			return "", err
		}
	} else if len(e.Leaves) > 0 {
		return "", notEvidence("a fork of one log needs no entries")
	}
	first, err := rootAt(e.Size, a, e.FirstProof)
	if err != nil {
		return "", err
	}
	second, err := rootAt(e.Size, b, e.SecondProof)
	if err != nil {
		return "", err
	}
	if first == second {
		return "", notEvidence("both trees begin with the same %d entries", e.Size)
	}
	return fmt.Sprintf("of their first %d entries, the tree of %d entries has root %v, and the tree of %d has %v",
		e.Size, a.Size, first, b.Size, second), nil
}

// epochs checks what two checkpoints of different epochs need besides different roots:
// that the later tree declares no later epoch among the entries that are compared, or
// begins in one, which nothing can declare.
func (e *Evidence) epochs() error {
	base, first, ok := SplitOrigin(e.First.Checkpoint.Origin)
	other, second, ok2 := SplitOrigin(e.Second.Checkpoint.Origin)
	if !ok || !ok2 || base != other || first >= second {
		return notEvidence("%q and %q are two logs, not one in two epochs, lower one first", e.First.Checkpoint.Origin, e.Second.Checkpoint.Origin)
	}
	if len(e.Leaves) != 1 {
		return notEvidence("%d entries, want one that shows the later tree's epoch", len(e.Leaves))
	}
	l := &e.Leaves[0]
	tip, err := At(l.Index, l.Entry)
	if err != nil {
		return notEvidence("%w", err)
	}
	begins := l.Index == 0 && tip.Epoch > first
	if !begins && (tip.Epoch > first || l.Index+1 < e.Size) {
		return notEvidence("entry %d, of epoch %d, does not show that the first %d entries are of epoch %d", l.Index, tip.Epoch, e.Size, first)
	}
	return nil
}

// rootAt returns the root at a size in a checkpoint's tree, to which the proof leads.
func rootAt(size uint64, c *checkpoint.Checkpoint, proof []chain.Hash) (chain.Hash, error) {
	switch {
	case size == 0 || size > c.Size:
		return chain.Hash{}, notEvidence("size %d, want 1 to %d", size, c.Size)
	case size == c.Size && len(proof) > 0:
		return chain.Hash{}, notEvidence("a proof for the tree itself")
	case size == c.Size:
		return c.Root, nil
	}
	old, root, err := chain.ConsistencyRoots(size, c.Size, proof)
	if err != nil {
		return chain.Hash{}, notEvidence("%w", err)
	}
	if root != c.Root {
		return chain.Hash{}, notEvidence("the proof does not lead to the signed root of %d entries", c.Size)
	}
	return old, nil
}

// Prefix returns the root of the first size entries of a tree, at least 1 and at most
// treeSize, and the proof that Evidence has of it. Its errors are those of tiles.
func Prefix(size, treeSize uint64, tiles chain.TileReader) (chain.Hash, []chain.Hash, error) {
	old, err := chain.RootAt(size, tiles)
	if err != nil {
		return chain.Hash{}, nil, fmt.Errorf("evidence: %w", err)
	}
	proof, err := chain.ConsistencyProof(size, treeSize, tiles)
	if err != nil {
		return chain.Hash{}, nil, fmt.Errorf("evidence: %w", err)
	}
	if size < treeSize && size&(size-1) == 0 {
		proof = append([]chain.Hash{old}, proof...)
	}
	return old, proof, nil
}
