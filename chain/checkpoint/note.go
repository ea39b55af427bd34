package checkpoint

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

const (
	// MaxSignatures is how many signatures a note has at most when we publish it: as
	// many as c2sp.org/signed-note asks every verifier to accept.
	MaxSignatures = 16
	// MaxNote is the most bytes that a note may have here: 64 signatures of ML-DSA-44,
	// and the text.
	MaxNote = 256 << 10
)

// ErrSignature is wrapped where a signature of a known key is not genuine. Whoever made
// the note is at fault, or it was changed.
var ErrSignature = errors.New("signature is not genuine")

// Signature is one of a note's signatures.
type Signature struct {
	// Name and KeyID tell the key.
	Name  string
	KeyID uint32
	// Bytes are the signature; of a cosignature its time (8 bytes, big-endian) before it.
	Bytes []byte
}

// Line returns the signature as a line of a note, with its newline.
func (s *Signature) Line() string {
	b := append(binary.BigEndian.AppendUint32(nil, s.KeyID), s.Bytes...)
	return fmt.Sprintf("— %s %s\n", s.Name, base64.StdEncoding.EncodeToString(b))
}

// Note is a checkpoint with signatures, none of which need be genuine.
type Note struct {
	Checkpoint Checkpoint
	Signatures []Signature
}

// Bytes returns the note as a file has it.
func (n *Note) Bytes() []byte {
	b := append([]byte(n.Checkpoint.Text()), '\n')
	for i := range n.Signatures {
		b = append(b, n.Signatures[i].Line()...)
	}
	return b
}

// Add adds a signature. One of the same key is replaced.
func (n *Note) Add(s Signature) {
	n.Signatures = slices.DeleteFunc(n.Signatures, func(o Signature) bool { return o.Name == s.Name && o.KeyID == s.KeyID })
	n.Signatures = append(n.Signatures, s)
}

// ParseNote reads a note. It checks no signature. The error wraps ErrFormat.
func ParseNote(b []byte) (*Note, error) {
	if len(b) > MaxNote {
		return nil, formatError("a note of %d bytes, at most %d", len(b), MaxNote)
	}
	_, err := note.Open(b, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return nil, formatError("%w", err)
	}
	n := new(Note)
	if n.Checkpoint, err = Parse(unverified.Note.Text); err != nil {
		return nil, err
	}
	for _, s := range unverified.Note.UnverifiedSigs {
		signature, err := newSignature(s.Name, s.Base64)
		if err != nil {
			return nil, err
		}
		n.Signatures = append(n.Signatures, signature)
	}
	if string(n.Bytes()) != string(b) {
		return nil, formatError("the note has another form than the one that is written")
	}
	return n, nil
}

// ParseSignatures reads lines of signatures, as a witness answers them. The error wraps
// ErrFormat.
func ParseSignatures(b []byte) ([]Signature, error) {
	if len(b) > MaxNote {
		return nil, formatError("signatures of %d bytes, at most %d", len(b), MaxNote)
	}
	var out []Signature
	for line := range strings.Lines(string(b)) {
		rest, dash := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "— ")
		name, text, space := strings.Cut(rest, " ")
		if !dash || !space || !validName(name) || name == "" || !strings.HasSuffix(line, "\n") {
			return nil, formatError("%q is not a signature's line", line)
		}
		s, err := newSignature(name, text)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func newSignature(name, text string) (Signature, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 5 || strings.ContainsAny(text, "\r\n") {
		return Signature{}, formatError("signature of %q is not base64 of a key id and more", name)
	}
	return Signature{Name: name, KeyID: binary.BigEndian.Uint32(b), Bytes: b[4:]}, nil
}

// Verified is a genuine signature.
type Verified struct {
	Key Key
	// Time is when it was made by its cosigner's clock, in Unix seconds; of several the
	// newest. It is 0 of a log's, and of an ML-DSA-44 cosigner that states that the tree
	// is consistent, but not that it was the largest that it had seen.
	Time uint64
}

// Verify returns the keys of the given ones that signed the note, in their order, each
// once. A signature that is not genuine is an error, which wraps ErrSignature, also
// where the same key has a genuine one; those of other keys are not looked at.
func (n *Note) Verify(keys ...Key) ([]Verified, error) {
	var out []Verified
	text := n.Checkpoint.Text()
	for _, k := range keys {
		if k.Type == Log && k.Name != n.Checkpoint.Origin {
			continue // a log's key speaks for its own origin alone
		}
		id, signed, newest := k.ID(), false, uint64(0)
		for _, s := range n.Signatures {
			if s.Name != k.Name || s.KeyID != id {
				continue
			}
			time, ok := k.verify(text, &n.Checkpoint, s.Bytes)
			if !ok {
				return nil, fmt.Errorf("checkpoint: %w: that of %s, key %08x", ErrSignature, k.Name, id)
			}
			signed, newest = true, max(newest, time)
		}
		if signed {
			out = append(out, Verified{Key: k, Time: newest})
		}
	}
	return out, nil
}
