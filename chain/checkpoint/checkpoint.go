package checkpoint

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/exonode/exonode/chain"
)

// MaxText is the most bytes that the text of a checkpoint may have here. The
// specification has no limit; ours have some hundred bytes.
const MaxText = 16 << 10

// ErrFormat is wrapped by the errors of what reads checkpoints, notes, keys and
// policies: the input is not one.
var ErrFormat = errors.New("format")

func formatError(format string, args ...any) error {
	return fmt.Errorf("checkpoint: %w: "+format, append([]any{ErrFormat}, args...)...)
}

// Checkpoint is a log's statement about its tree, without signatures.
type Checkpoint struct {
	// Origin names the log, 1 to 255 bytes.
	Origin string
	// Size is the number of leaves, below 2^63, Root the RFC 6962 root over them.
	Size uint64
	Root chain.Hash
	// Extensions are further lines, each of at least one byte. Ours have none.
	Extensions []string
}

// Text returns the text that is signed: lines of origin, size, root in base64, and
// extensions. What Validate refuses has a text too, which Parse then refuses.
func (c *Checkpoint) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	for _, e := range c.Extensions {
		b.WriteString(e)
		b.WriteByte('\n')
	}
	return b.String()
}

// Validate returns an error, which wraps ErrFormat, where c has no text that Parse
// reads as c.
func (c *Checkpoint) Validate() error {
	// cosigned_message bounds the origin's length.
	if len(c.Origin) == 0 || len(c.Origin) > 255 {
		return formatError("origin of %d bytes, want 1 to 255", len(c.Origin))
	}
	for i, line := range append([]string{c.Origin}, c.Extensions...) {
		switch {
		case line == "":
			return formatError("extension line %d is empty", i)
		case strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }), !utf8.ValidString(line):
			return formatError("line %q has control characters, or is not UTF-8", line)
		}
	}
	if c.Size >= 1<<63 {
		return formatError("size %d, want less than 2^63", c.Size)
	}
	if c.Size == 0 && c.Root != chain.EmptyRoot() {
		return formatError("the empty tree has root %v", c.Root)
	}
	if n := len(c.Text()); n > MaxText {
		return formatError("a text of %d bytes, at most %d", n, MaxText)
	}
	return nil
}

// Parse reads the text of a checkpoint, and nothing that Text would not write. The
// error wraps ErrFormat.
func Parse(text string) (Checkpoint, error) {
	if len(text) > MaxText {
		return Checkpoint{}, formatError("a text of %d bytes, at most %d", len(text), MaxText)
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" {
		return Checkpoint{}, formatError("want lines of origin, size and root, each with its newline")
	}
	c := Checkpoint{Origin: lines[0]}
	var err error
	if c.Size, err = parseDecimal(lines[1]); err != nil {
		return Checkpoint{}, formatError("size %q: %w", lines[1], err)
	}
	if err := decodeHash(&c.Root, lines[2]); err != nil {
		return Checkpoint{}, formatError("root: %w", err)
	}
	if rest := lines[3 : len(lines)-1]; len(rest) > 0 {
		c.Extensions = rest
	}
	if err := c.Validate(); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

// parseDecimal reads a decimal number without leading zeroes, below 2^63 as the
// specifications' signed readers have it.
func parseDecimal(s string) (uint64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != s {
		return 0, errors.New("want a decimal number below 2^63 without leading zeroes")
	}
	return uint64(n), nil
}

func decodeHash(h *chain.Hash, s string) error {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(h) || strings.ContainsAny(s, "\r\n") {
		return fmt.Errorf("%q is not %d bytes in base64", s, len(h))
	}
	copy(h[:], b)
	return nil
}
