// Package tlogwitness has the request of the protocol by which a log asks a witness for a
// cosignature (c2sp.org/tlog-witness). It is pure: who sends and who answers are elsewhere.
package tlogwitness

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

// Path is the request's, below a witness's submission prefix.
const Path = "add-checkpoint"

// SizeType is the media type of a 409 Conflict whose body is the size that the witness
// cosigned last, in decimal, with a newline.
const SizeType = "text/x.tlog.size"

// MaxProof is the most hashes that a proof has: sizes are below 2^63.
const MaxProof = 63

// MaxSize is the most bytes that a request may have here: its lines and the largest note.
const MaxSize = checkpoint.MaxNote + 64*64

// ErrFormat is wrapped by Parse's errors: the input is no request.
var ErrFormat = errors.New("not an add-checkpoint request")

func formatError(format string, args ...any) error {
	return fmt.Errorf("tlogwitness: %w: "+format, append([]any{ErrFormat}, args...)...)
}

// Request asks a witness to cosign a checkpoint.
type Request struct {
	// Old is the size of the tree that the witness cosigned last, 0 where none.
	Old uint64
	// Proof is the RFC 6962 consistency proof from that tree to the checkpoint's; empty
	// where Old is 0 or the checkpoint's size.
	Proof []chain.Hash
	// Note is the checkpoint, signed by the log.
	Note *checkpoint.Note
}

// Bytes returns the request as it is sent.
func (r *Request) Bytes() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, "old", r.Old)
	for _, h := range r.Proof {
		fmt.Fprintln(&b, base64.StdEncoding.EncodeToString(h[:]))
	}
	fmt.Fprintln(&b)
	b.Write(r.Note.Bytes())
	return b.Bytes()
}

// Parse reads a request. It checks no signature and no proof. The error wraps ErrFormat.
func Parse(b []byte) (*Request, error) {
	if len(b) > MaxSize {
		return nil, formatError("%d bytes, at most %d", len(b), MaxSize)
	}
	head, note, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		return nil, formatError("no empty line before the checkpoint")
	}
	lines := strings.Split(head, "\n")
	text, ok := strings.CutPrefix(lines[0], "old ")
	old, err := ParseSize(text)
	if !ok || err != nil {
		return nil, formatError("it begins with %.40q, want old and a size", lines[0])
	}
	r := &Request{Old: old}
	if len(lines)-1 > MaxProof {
		return nil, formatError("%d hashes, at most %d", len(lines)-1, MaxProof)
	}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != len(chain.Hash{}) || strings.Contains(line, "\r") {
			return nil, formatError("%q is not a hash", line)
		}
		r.Proof = append(r.Proof, chain.Hash(h))
	}
	if r.Note, err = checkpoint.ParseNote([]byte(note)); err != nil {
		return nil, formatError("%w", err)
	}
	return r, nil
}

// ParseSize reads a tree's size in decimal, without leading zeroes, below 2^63. The error
// wraps ErrFormat.
func ParseSize(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, formatError("size %.40q", s)
	}
	return n, nil
}
