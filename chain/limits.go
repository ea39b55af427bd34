package chain

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"
)

// The limits of an event's fields, in bytes unless they say otherwise. A header
// whose fields keep them is never larger than MaxHeaderSize.
const (
	MaxWorkspace     = 64
	MaxSource        = 512
	MaxID            = 256
	MaxKind          = 128
	MaxSubject       = 1024
	MaxPrincipal     = 256 // also of Header.OnBehalfOf
	MaxCredential    = 32
	MaxContentType   = 256
	MaxDataSchema    = 1024
	MaxCauses        = 64 // elements
	MaxPriority      = 1
	MaxEffect        = 10_000
	MaxExtensions    = 64 // elements
	MaxExtensionName = 20
	// MaxExtensionValue bounds one extension's text, MaxExtensionsSize the
	// names and texts of all of them together.
	MaxExtensionValue = 4096
	MaxExtensionsSize = 16 << 10
	MaxKeyID          = 128
	MaxSealingNode    = 128
	MaxAttestation    = 4096
	SignatureSize     = 64

	// MaxStamp is the latest clock that is believed, in Unix nanoseconds, of
	// the year 2116. An entry's time is at most MaxStamp plus its sequence, so
	// that no clock can use up the times that its successors need.
	MaxStamp = 1 << 62

	// MaxVerdictItems bounds each of a verdict's lists, MaxVerdictName the
	// names in them.
	MaxVerdictItems = 64
	MaxVerdictName  = 128

	// DefaultMaxPayload is the most bytes a payload may have unless a
	// cluster is configured otherwise.
	DefaultMaxPayload = 1 << 20
)

// Reason says what is wrong with a field; programs match on it.
type Reason string

// The reasons of a FieldError.
const (
	Missing     Reason = "missing"      // required, and empty
	TooLong     Reason = "too_long"     // more bytes than Limit
	TooMany     Reason = "too_many"     // more elements than Limit
	OutOfRange  Reason = "out_of_range" // a number beyond Limit, or below zero
	BadSyntax   Reason = "bad_syntax"   // not of the field's form, see Detail
	BadOrder    Reason = "bad_order"    // elements are not ascending, or repeat
	BadType     Reason = "bad_type"     // a value of a type that is not allowed
	BadSize     Reason = "bad_size"     // not exactly Limit bytes
	Unsupported Reason = "unsupported"  // a version that this code does not know
)

// FieldError says which field of an event, header or envelope breaks which
// rule. The submitter fixes Field.
type FieldError struct {
	// Field is the field's name as in the format ("source", "causes",
	// "verdict.gate").
	Field  string
	Reason Reason
	// Got is the size, count or number that was found, Limit what it is
	// held against; both zero where the reason has none.
	Got, Limit uint64
	// Detail describes the form that a BadSyntax field should have.
	Detail string
}

// Error implements error.
func (e *FieldError) Error() string {
	switch e.Reason {
	case Missing:
		return e.Field + ": is required"
	case TooLong:
		return fmt.Sprintf("%s: %d bytes, limit %d", e.Field, e.Got, e.Limit)
	case TooMany:
		return fmt.Sprintf("%s: %d elements, limit %d", e.Field, e.Got, e.Limit)
	case OutOfRange:
		if e.Limit == 0 {
			return e.Field + ": out of range" + detail(e.Detail)
		}
		return fmt.Sprintf("%s: %d is out of range, limit %d", e.Field, e.Got, e.Limit)
	case BadSize:
		return fmt.Sprintf("%s: %d bytes, want %d", e.Field, e.Got, e.Limit)
	case BadOrder:
		return e.Field + ": elements must ascend without repetition"
	case Unsupported:
		return fmt.Sprintf("%s: %d is not supported, want %d", e.Field, e.Got, e.Limit)
	}
	return fmt.Sprintf("%s: %s%s", e.Field, strings.ReplaceAll(string(e.Reason), "_", " "), detail(e.Detail))
}

func detail(s string) string {
	if s == "" {
		return ""
	}
	return ", want " + s
}

// checker collects the first FieldError of a value; later checks are skipped.
type checker struct{ err *FieldError }

func (c *checker) result() error {
	if c.err == nil {
		return nil
	}
	return c.err
}

func (c *checker) fail(e FieldError) {
	if c.err == nil {
		c.err = &e
	}
}

// length checks that a field has at most limit bytes, and that a required one
// is not empty. It returns whether the content remains to be checked.
func (c *checker) length(field string, n, limit int, required bool) bool {
	switch {
	case n == 0:
		if required {
			c.fail(FieldError{Field: field, Reason: Missing})
		}
		return false
	case n > limit:
		c.fail(FieldError{Field: field, Reason: TooLong, Got: uint64(n), Limit: uint64(limit)})
		return false
	}
	return true
}

// text checks a field of printable text.
func (c *checker) text(field, s string, limit int, required bool) {
	if len(s) == 0 && !required || len(s) > 0 && len(s) <= limit && printable(s) {
		return
	}
	if c.length(field, len(s), limit, required) {
		c.fail(FieldError{Field: field, Reason: BadSyntax, Detail: "UTF-8 text without control characters"})
	}
}

func (c *checker) workspace(s string) {
	if c.length("workspace", len(s), MaxWorkspace, true) && !isWorkspace(s) {
		c.fail(FieldError{Field: "workspace", Reason: BadSyntax, Detail: "[a-z0-9][a-z0-9._-]*"})
	}
}

// kind checks a dotted name: of a kind, or of a gate.
func (c *checker) kind(field, s string) {
	if c.length(field, len(s), MaxKind, true) && !isKind(s) {
		c.fail(FieldError{Field: field, Reason: BadSyntax, Detail: "lower-case words of [a-z0-9_-] joined by dots"})
	}
}

func (c *checker) contentType(s string) {
	if !c.length("content_type", len(s), MaxContentType, false) {
		return
	}
	if slash := strings.IndexByte(s, '/'); slash < 1 || slash == len(s)-1 || !asciiOnly(s) {
		c.fail(FieldError{Field: "content_type", Reason: BadSyntax, Detail: "a media type such as application/json"})
	}
}

func (c *checker) traceparent(s string) {
	if s != "" && !isTraceparent(s) {
		c.fail(FieldError{Field: "traceparent", Reason: BadSyntax, Detail: "W3C trace context, 2-32-16-2 lower-case hex digits"})
	}
}

func (c *checker) number(field string, v, limit uint64) {
	if v > limit {
		c.fail(FieldError{Field: field, Reason: OutOfRange, Got: v, Limit: limit})
	}
}

func (c *checker) time(t int64, seq uint64) {
	if t <= 0 {
		c.fail(FieldError{Field: "time", Reason: OutOfRange, Detail: "Unix nanoseconds, positive"})
	} else if t > MaxStamp && uint64(t-MaxStamp) > seq {
		c.fail(FieldError{Field: "time", Reason: OutOfRange, Got: uint64(t), Limit: MaxStamp + seq})
	}
}

func (c *checker) clientTime(t int64) {
	if t < 0 {
		c.fail(FieldError{Field: "client_time", Reason: OutOfRange, Detail: "Unix nanoseconds, not negative"})
	}
}

func (c *checker) count(field string, n, limit int) {
	if n > limit {
		c.fail(FieldError{Field: field, Reason: TooMany, Got: uint64(n), Limit: uint64(limit)})
	}
}

func (c *checker) effect(field string, e *Effect) {
	for i := range e {
		if e[i] > MaxEffect {
			c.fail(FieldError{Field: field, Reason: OutOfRange, Got: uint64(e[i]), Limit: MaxEffect})
		}
	}
}

func (c *checker) causes(causes []uint64) {
	c.count("causes", len(causes), MaxCauses)
	for i := 1; i < len(causes); i++ {
		if causes[i-1] >= causes[i] {
			c.fail(FieldError{Field: "causes", Reason: BadOrder})
		}
	}
}

func (c *checker) extensions(exts []Extension) {
	if len(exts) == 0 {
		return
	}
	c.count("extensions", len(exts), MaxExtensions)
	size := 0
	for i := range exts {
		name := exts[i].Name
		if c.length("extensions", len(name), MaxExtensionName, true) && !isExtensionName(name) {
			c.fail(FieldError{Field: "extensions", Reason: BadSyntax, Detail: "names of [a-z0-9]"})
		}
		if i > 0 && exts[i-1].Name >= name {
			c.fail(FieldError{Field: "extensions", Reason: BadOrder})
		}
		size += len(name)
		switch v := exts[i].Value.(type) {
		case string:
			c.text("extensions."+name, v, MaxExtensionValue, false)
			size += len(v)
		case int64:
			if v < math.MinInt32 || v > math.MaxInt32 {
				c.fail(FieldError{Field: "extensions." + name, Reason: OutOfRange, Detail: "an integer of 32 bits"})
			}
		case bool:
		default:
			c.fail(FieldError{Field: "extensions." + name, Reason: BadType, Detail: "a string, an int64 or a bool"})
		}
	}
	if size > MaxExtensionsSize {
		c.fail(FieldError{Field: "extensions", Reason: TooLong, Got: uint64(size), Limit: MaxExtensionsSize})
	}
}

func (c *checker) signature(sig []byte) {
	if len(sig) != 0 && len(sig) != SignatureSize {
		c.fail(FieldError{Field: "client_signature", Reason: BadSize, Got: uint64(len(sig)), Limit: SignatureSize})
	}
}

// printable reports whether s is UTF-8 without characters that change how the
// text around them is shown: C0 and C1 controls, DEL, line and paragraph
// separators, and the controls of bidirectional text. The set is fixed here, so
// that it does not move with a version of Unicode.
func printable(s string) bool { return asciiOnly(s) || printableUnicode(s) }

// asciiOnly reports whether all bytes are in 0x20..0x7e, eight at a time: of
// such a byte neither itself, nor less 0x20, nor plus 1 has its upper bit set,
// and nothing carries to its neighbour.
func asciiOnly(s string) bool {
	const each = 0x0101010101010101
	for ; len(s) >= 8; s = s[8:] {
		w := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		if (w|(w-0x20*each)|(w+each))&(0x80*each) != 0 {
			return false
		}
	}
	for i := range len(s) {
		if s[i]-0x20 > 0x7e-0x20 {
			return false
		}
	}
	return true
}

func printableUnicode(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		switch {
		case r < 0x20, r >= 0x7f && r <= 0x9f,
			r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069:
			return false
		}
	}
	return true
}

func isLowerOrDigit(c byte) bool { return c-'a' < 26 || c-'0' < 10 }

func isWorkspace(s string) bool {
	if !isLowerOrDigit(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isLowerOrDigit(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func isKind(s string) bool {
	start := true // of a word
	for i := range len(s) {
		switch c := s[i]; {
		case isLowerOrDigit(c):
			start = false
		case start:
			return false
		case c == '.':
			start = true
		case c != '_' && c != '-':
			return false
		}
	}
	return !start
}

func isExtensionName(s string) bool {
	for i := range len(s) {
		if !isLowerOrDigit(s[i]) {
			return false
		}
	}
	return true
}

// isTraceparent checks the form of W3C trace context, section 3.2: version,
// trace id, parent id, flags; ids are not all zero, the version is not ff.
func isTraceparent(s string) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c-'0' >= 10 && c-'a' >= 6 && i != 2 && i != 35 && i != 52 {
			return false
		}
	}
	return strings.Trim(s[3:35], "0") != "" && strings.Trim(s[36:52], "0") != ""
}
