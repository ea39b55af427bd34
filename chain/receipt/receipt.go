// Package receipt has the one file that proves, offline, that an entry is in the chain:
// a C2SP tlog-proof (c2sp.org/tlog-proof) whose extra data are the entry itself.
package receipt

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/exonode/exonode/chain"
	"github.com/exonode/exonode/chain/cbor"
	"github.com/exonode/exonode/chain/checkpoint"
)

// Suffix is the file name's, as the specification recommends it.
const Suffix = ".tlog-proof"

// MaxSize is the most bytes that a receipt may have: the largest header and envelope in
// base64, a proof and a note.
const MaxSize = 4 << 20

const (
	magic = "c2sp.org/tlog-proof@v1"
	// maxProof is the most hashes that a proof has: sizes are below 2^63.
	maxProof = 63
)

var (
	// ErrFormat is wrapped by Parse's errors: the input is no receipt.
	ErrFormat = errors.New("not a receipt")
	// ErrEntry is wrapped where the receipt is sound, and its header or envelope is not
	// what it proves.
	ErrEntry = errors.New("entry is not the one that is proved")
)

// Receipt is a proof that has not been verified. Nothing in it is to be believed
// before Verify.
type Receipt struct {
	// Index is the entry's sequence.
	Index uint64
	// Header is the encoded header, nil in a proof that another tool made.
	Header []byte
	// Envelope is the encoded envelope; nil where the receipt was made without, or
	// it is redacted.
	Envelope []byte
	// Proof is the RFC 6962 audit path, nearest sibling first.
	Proof []chain.Hash
	// Note is the checkpoint with its signatures.
	Note *checkpoint.Note
}

// Bytes returns the receipt as a file has it.
func (r *Receipt) Bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, magic)
	if r.Header != nil {
		fmt.Fprintln(&b, "extra", base64.StdEncoding.EncodeToString(r.extra()))
	}
	fmt.Fprintln(&b, "index", r.Index)
	for _, h := range r.Proof {
		fmt.Fprintln(&b, base64.StdEncoding.EncodeToString(h[:]))
	}
	fmt.Fprintln(&b)
	b.Write(r.Note.Bytes())
	return b.Bytes()
}

// extra is the entry: a map of 0, the header, and where it is there 1, the envelope;
// both byte strings.
func (r *Receipt) extra() []byte {
	n := 1
	if r.Envelope != nil {
		n = 2
	}
	b := cbor.AppendBytes(append(cbor.AppendMap(nil, n), 0), r.Header)
	if r.Envelope != nil {
		b = cbor.AppendBytes(append(b, 1), r.Envelope)
	}
	return b
}

func (r *Receipt) parseExtra(data []byte) error {
	c := cbor.NewReader(data)
	fields := c.Map()
	for fields.Next() {
		switch fields.Key() {
		case 0:
			r.Header = c.Bytes()
		case 1:
			r.Envelope = c.Bytes()
		default:
			fields.Unknown()
		}
	}
	if err := c.Done(); err != nil {
		return err
	}
	if r.Header == nil {
		return errors.New("it has no header")
	}
	return nil
}

func formatError(format string, args ...any) error {
	return fmt.Errorf("receipt: %w: "+format, append([]any{ErrFormat}, args...)...)
}

// Parse reads a receipt, and nothing that Bytes would not write. A proof of another
// log, without extra data, is one too.
func Parse(b []byte) (*Receipt, error) {
	if len(b) > MaxSize {
		return nil, formatError("%d bytes, at most %d", len(b), MaxSize)
	}
	head, note, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		return nil, formatError("no empty line before the checkpoint")
	}
	lines := strings.Split(head, "\n")
	if lines[0] != magic {
		return nil, formatError("it begins with %.40q, want %q", lines[0], magic)
	}
	r, lines := new(Receipt), lines[1:]
	if len(lines) > 0 && strings.HasPrefix(lines[0], "extra ") {
		data, err := decode(strings.TrimPrefix(lines[0], "extra "))
		if err != nil {
			return nil, formatError("extra: %w", err)
		}
		if err := r.parseExtra(data); err != nil {
			return nil, formatError("extra: %w", err)
		}
		lines = lines[1:]
	}
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "index ") {
		return nil, formatError("no line says the index")
	}
	text := strings.TrimPrefix(lines[0], "index ")
	index, err := strconv.ParseUint(text, 10, 63)
	if err != nil || strconv.FormatUint(index, 10) != text {
		return nil, formatError("index %q", text)
	}
	r.Index = index
	if len(lines)-1 > maxProof {
		return nil, formatError("%d hashes, at most %d", len(lines)-1, maxProof)
	}
	for _, line := range lines[1:] {
		hash, err := decode(line)
		if err != nil || len(hash) != len(chain.Hash{}) {
			return nil, formatError("%q is not a hash", line)
		}
		r.Proof = append(r.Proof, chain.Hash(hash))
	}
	if r.Note, err = checkpoint.ParseNote([]byte(note)); err != nil {
		return nil, formatError("%w", err)
	}
	return r, nil
}

func decode(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("a line break in base64")
	}
	return base64.StdEncoding.Strict().DecodeString(s)
}

// Proved is what a receipt proves.
type Proved struct {
	// Header is the entry's, Hash its header hash.
	Header chain.Header
	Hash   chain.Hash
	// Envelope is nil where the receipt has none.
	Envelope *chain.Envelope
	// By is what the policy found in the checkpoint.
	By checkpoint.Judgement
}

// Verify holds a receipt against a policy. The errors wrap checkpoint.ErrSignature or
// checkpoint.ErrQuorum where the checkpoint does not satisfy the policy,
// chain.ErrProof where the proof leads elsewhere, and ErrEntry where header or envelope
// are not what is proved.
func (r *Receipt) Verify(policy *checkpoint.Policy) (*Proved, error) {
	if r.Header == nil {
		return nil, fmt.Errorf("receipt: %w: it has no header: give the proof's leaf to VerifyLeaf", ErrEntry)
	}
	by, err := r.VerifyLeaf(policy, chain.LeafHash(r.Header))
	if err != nil {
		return nil, err
	}
	p, err := r.entry()
	if err != nil {
		return nil, err
	}
	p.By = by
	return p, nil
}

// entry decodes header and envelope, and holds them against the index and each other.
func (r *Receipt) entry() (*Proved, error) {
	p := &Proved{Hash: chain.HeaderHash(r.Header)}
	var err error
	if p.Header, err = chain.DecodeHeader(r.Header); err != nil {
		return nil, fmt.Errorf("receipt: %w: %w", ErrEntry, err)
	}
	if p.Header.Sequence != r.Index {
		return nil, fmt.Errorf("receipt: %w: the header of entry %d at index %d", ErrEntry, p.Header.Sequence, r.Index)
	}
	if r.Envelope == nil {
		return p, nil
	}
	if got := chain.EnvelopeHash(r.Envelope); got != p.Header.Envelope.Hash {
		return nil, fmt.Errorf("receipt: %w: the envelope hashes to %v, the header names %v", ErrEntry, got, p.Header.Envelope.Hash)
	}
	envelope, err := chain.DecodeEnvelope(r.Envelope)
	if err != nil {
		return nil, fmt.Errorf("receipt: %w: %w", ErrEntry, err)
	}
	if n := uint64(len(envelope.Payload)); n != p.Header.Envelope.Size {
		return nil, fmt.Errorf("receipt: %w: a payload of %d bytes, the header says %d", ErrEntry, n, p.Header.Envelope.Size)
	}
	p.Envelope = &envelope
	return p, nil
}

// VerifyLeaf is Verify for a proof of any log: that a leaf hash is in the tree.
func (r *Receipt) VerifyLeaf(policy *checkpoint.Policy, leaf chain.Hash) (checkpoint.Judgement, error) {
	by, err := policy.Verify(r.Note)
	if err != nil {
		return by, fmt.Errorf("receipt: %w", err)
	}
	c := &r.Note.Checkpoint
	if err := chain.VerifyInclusion(leaf, r.Index, c.Size, c.Root, r.Proof); err != nil {
		return by, fmt.Errorf("receipt: %w", err)
	}
	return by, nil
}
